"""Float32 is float32 while anybody needs it; batches shrink where memory is short."""

import logging
import threading

import pytest
import torch

from auheat.errors import AuheatError
from auheat.utils.cuda import BatchLimit, exact_float32


@pytest.fixture
def rounded():
    """Both flags on, as a user may have set them, and a container's environment does."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32
    cudnn.allow_tf32 = products.allow_tf32 = True
    yield
    cudnn.allow_tf32, products.allow_tf32 = before


def flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_off_inside_and_as_it_was_afterwards(rounded):
    with exact_float32():
        assert flags() == (False, False)
    assert flags() == (True, True)
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert flags() == (True, True)


def test_tf32_stays_off_until_the_last_of_several_threads_has_left(rounded):
    inside, leave, seen = threading.Event(), threading.Event(), []

    def work():
        with exact_float32():
            inside.set()
            leave.wait(10)
            seen.append(flags())

    thread = threading.Thread(target=work)
    with exact_float32():
        thread.start()
        assert inside.wait(10)
    seen.append(flags())
    leave.set()
    thread.join()
    assert seen == [(False, False)] * 2
    assert flags() == (True, True)


def fill_above(most, sizes):
    """Return work that fails as CUDA does on more than `most` items."""

    def work(items):
        sizes.append(len(items))
        if len(items) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return list(items)

    return work


def test_a_batch_that_does_not_fit_is_done_in_halves_and_told_once(caplog):
    limit, sizes = BatchLimit(16, "cuda:0"), []
    with caplog.at_level(logging.WARNING, "auheat"):
        done = limit.run(fill_above(5, sizes), range(20))
        again = limit.run(fill_above(5, sizes), range(9))
    assert [x for part in done for x in part] == list(range(20))
    assert [x for part in again for x in part] == list(range(9))
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 4, 4, 1]
    assert limit.size == 4
    (message,) = caplog.messages
    assert "cuda:0: memory was not enough for 16 at once; 4 at once" in message


def test_a_short_last_batch_that_does_not_fit_is_halved_itself():
    limit = BatchLimit(16, "cuda:0")
    assert limit.run(fill_above(3, []), range(6)) == [[0, 1, 2], [3, 4, 5]]


def test_what_can_be_done_without_is_given_back_before_a_batch_is_halved():
    released = []
    limit = BatchLimit(4, "cuda:0", lambda: released.append(limit.size))
    limit.run(fill_above(2, []), range(4))
    assert released == [4]


def test_one_item_that_does_not_fit_is_an_error_with_advice():
    with pytest.raises(AuheatError, match=r"^cuda:0: for one item at once memory is not enough"):
        BatchLimit(4, "cuda:0").run(fill_above(0, []), range(4))


def test_other_errors_are_not_tried_again():
    def work(items):
        sizes.append(len(items))
        raise RuntimeError("shapes differ")

    sizes = []
    with pytest.raises(RuntimeError, match="shapes differ"):
        BatchLimit(4, "cuda:0").run(work, range(4))
    assert sizes == [4]
