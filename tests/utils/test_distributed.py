"""Which card each of several processes takes."""

import pytest
import torch
import torch.distributed as dist
from fake_device import FakeDevice

from auheat.errors import RequestError
from auheat.utils.distributed import World

THIRD = World(rank=2, size=4, local_rank=2, local_size=4)


@pytest.mark.parametrize(("cards", "number"), [(4, 2), (8, 2), (1, 0)])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_its_card_or_the_one_that_it_is_shown(name, cards, number):
    with FakeDevice(cards) as fake:
        assert THIRD.device(name) == torch.device("cuda", number)
        assert fake.current == number


def test_more_processes_than_cards_are_refused():
    with FakeDevice(2), pytest.raises(RequestError, match="4 processes and 2 CUDA devices"):
        THIRD.device("cuda")


@pytest.mark.parametrize(("cards", "refused"), [("abcd", False), ("abbd", True), ("aaaa", True)])
def test_processes_that_are_shown_the_same_card_are_refused(monkeypatch, cards, refused):
    def gather(into, own):
        assert own[0] == cards[2]
        into[:] = [(card, own[1]) for card in cards]

    class Properties:
        uuid = cards[2]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    with FakeDevice(1):
        if refused:
            with pytest.raises(RequestError, match="4 processes and 1 CUDA devices"):
                THIRD.device("auto")
        else:
            assert THIRD.device("auto") == torch.device("cuda", 0)


def test_a_card_that_was_asked_for_is_the_current_one():
    """Pinned memory would open a context on the first card, else."""
    with FakeDevice(3) as fake:
        assert World().device("cuda:2") == torch.device("cuda", 2)
        assert fake.current == 2
