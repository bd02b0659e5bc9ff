"""The order of a stream: a permutation, computed and not stored, of neighbours read together."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.data.shuffle import EpochOrder, Permutation, ShuffleConfig, mix

SHUFFLES = st.builds(ShuffleConfig, st.integers(1, 9), st.integers(1, 5))


def whole(order: EpochOrder) -> list[int]:
    return [row for w in range(order.windows) for row in order.window(w).tolist()]


@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_a_permutation_visits_everything_once_and_can_be_undone(n, key):
    permute = Permutation(n, key)
    sent = permute(np.arange(n))
    assert sorted(sent.tolist()) == list(range(n))
    np.testing.assert_array_equal(permute.invert(sent), np.arange(n))


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 16])
def test_every_place_of_a_permutation_is_equally_likely(n):
    keys = 2000
    hits = np.zeros((n, n))
    for key in range(keys):
        hits[np.arange(n), Permutation(n, key)(np.arange(n))] += 1
    expected = keys / n
    # chi-square of n * n cells with (n - 1)**2 degrees of freedom, at six standard deviations
    chi, free = ((hits - expected) ** 2 / expected).sum(), (n - 1) ** 2
    assert chi < free + 6 * np.sqrt(2 * free)


def test_the_mixing_function_is_splitmix64():
    # the first outputs of the published generator seeded with 0: state k * golden ratio
    state = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(state, 0).tolist() == expected


@pytest.mark.slow
@given(st.integers(1, 400), SHUFFLES, st.integers(0, 9), st.integers(0, 3))
def test_an_epoch_has_every_row_once(rows, shuffle, seed, epoch):
    assert sorted(whole(EpochOrder(rows, shuffle, seed, epoch, True))) == list(range(rows))
    assert whole(EpochOrder(rows, shuffle, seed, epoch, False)) == list(range(rows))


@given(st.integers(1, 400), SHUFFLES, st.integers(0, 9), st.booleans())
def test_windows_follow_one_another_and_hold_whole_blocks(rows, shuffle, seed, mixed):
    order = EpochOrder(rows, shuffle, seed, 0, mixed)
    at = 0
    for w in range(order.windows):
        found = order.window(w)
        assert order.start(w) == at
        assert order.find(at) == order.find(at + len(found) - 1) == w
        at += len(found)
        blocks = np.unique(found // shuffle.block)
        assert len(blocks) <= shuffle.window
        size = [min(shuffle.block, rows - b * shuffle.block) for b in blocks.tolist()]
        assert len(found) == sum(size)
    assert at == order.start(order.windows) == rows


def test_seed_and_epoch_decide_the_order():
    shuffle = ShuffleConfig(4, 3)
    orders = [
        whole(EpochOrder(200, shuffle, s, e, True)) for s, e in [(0, 0), (0, 0), (1, 0), (0, 1)]
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def slow_key(*parts) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "little")


def slow_mix(x: int, key: int) -> int:
    x ^= key
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def slow_order(rows: int, block: int, window: int, seed: int, epoch: int) -> list[int]:
    """The order in plain integers, a row at a time: what no library's version can change."""
    cut = [list(range(i, min(i + block, rows))) for i in range(0, rows, block)]
    half = 1
    while 4**half < len(cut):
        half += 1
    key = slow_key(seed, epoch, "blocks")
    mixed = []
    for i in range(len(cut)):
        while True:
            left, right = divmod(i, 2**half)
            for k in range(6):
                left, right = right, left ^ slow_mix(right, slow_key(key, k)) % 2**half
            i = left * 2**half + right
            if i < len(cut):
                break
        mixed.append(cut[i])
    order = []
    for w, start in enumerate(range(0, len(mixed), window)):
        key = slow_key(seed, epoch, "window", w)
        together = [row for part in mixed[start : start + window] for row in part]
        order += sorted(together, key=lambda row: slow_mix(row, key))
    return order


@pytest.mark.slow
@given(st.integers(1, 200), SHUFFLES, st.integers(0, 2**40), st.integers(0, 99))
def test_the_order_is_the_one_computed_row_by_row_in_plain_integers(rows, shuffle, seed, epoch):
    expected = slow_order(rows, shuffle.block, shuffle.window, seed, epoch)
    assert whole(EpochOrder(rows, shuffle, seed, epoch, True)) == expected


def test_neighbours_are_spread_over_the_epoch():
    shuffle, rows = ShuffleConfig(32, 16), 32 * 16 * 40
    order = whole(EpochOrder(rows, shuffle, 0, 0, True))
    place = np.argsort(order)
    # a row's block says nothing of where in the epoch it comes: uncorrelated, and within a
    # window the rows of a block are not neighbours any more
    assert abs(np.corrcoef(np.arange(rows), place)[0, 1]) < 0.1
    together = np.mean(np.diff(order) == 1)
    assert together < 0.01


def test_a_hundred_million_rows_need_the_memory_of_one_window():
    tracemalloc.start()
    order = EpochOrder(10**8, ShuffleConfig(256, 16), 0, 0, True)
    rows = order.window(order.find(77_777_777))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 4096
    assert len(np.unique(rows // 256)) == 16
    assert peak < 2**20
