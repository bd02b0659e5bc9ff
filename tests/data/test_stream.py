"""Streams of batches: one global order, whatever the number of ranks, workers and stops."""

import functools
import json
from itertools import chain

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_helpers import NAMES, make_store

from auheat import ShardDataset, ShardStream, StreamLoader
from auheat.errors import AuheatError

SIDE = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of 1, 5, 12 and 30 rows, to be put together to sets of any size."""
    root = tmp_path_factory.mktemp("stream")
    found = []
    for i, n in enumerate((1, 5, 12, 30)):
        counts = (("train", n), ("test", 2))
        store = make_store(root / str(n), counts, names=NAMES[:1], shard_rows=n, seed=i, size=6)
        found.append(store / "shards" / "martinez" / "00000.h5")
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    return make_store(root, unreadable=2, unlabelled=1, shard_rows=9) / "shards" / "martinez"


@pytest.fixture
def quick():
    """Streams of indices alone, which read each shard's labels once: many orders in little time."""
    from auheat.data import row_selection, stream

    def read(_, rows):
        return iter(rows.tolist())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "read_row_table", functools.cache(row_selection.read_row_table))
        patch.setattr(ShardStream, "_read", read)
        patch.setattr(ShardStream, "_collate", lambda _, rows: {"index": torch.tensor(rows)})
        yield


SETS = st.lists(st.integers(0, 3), min_size=1, max_size=4)
SHUFFLES = st.fixed_dictionaries(
    {"block": st.integers(1, 12), "window": st.integers(1, 5), "shuffle": st.booleans()}
)


def rank_batches(shards, world, workers, position=0, epoch=0, **options):
    """Each rank's batches of indices, taken in turn from its workers as torch's loader does."""
    ranks = []
    for rank in range(world):
        stream = ShardStream(shards, image_size=SIDE, rank=rank, world=world, **options)
        parts = [stream._batches(epoch, position, w, workers) for w in range(workers)]
        batches, k = [], 0
        while (batch := next(parts[k % workers], None)) is not None:
            batches.append(batch["index"].tolist())
            k += 1
        assert all(next(part, None) is None for part in parts)
        assert len(batches) == stream.count_batches(position)
        ranks.append(batches)
    return ranks


def expected_batches(order, position, world, size, drop_last):
    """The batches of each rank, from the list of rows in global order, by counting them off."""
    mine = [
        [o for p, o in enumerate(order) if p >= position and p % world == r] for r in range(world)
    ]
    cut = [[rows[i : i + size] for i in range(0, len(rows), size)] for rows in mine]
    if drop_last:
        full = (len(order) - position) // (world * size)
        return [batches[:full] for batches in cut]
    fewest = min(len(batches) for batches in cut)
    return [[*b[: fewest - 1], [*chain(*b[fewest - 1 :])]] if b else [] for b in cut]


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), SETS, SHUFFLES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_every_rank_and_worker_gets_its_share_of_one_global_order(
    quick, files, data, chosen, shuffle, world, workers, size
):
    shards = [files[i] for i in chosen]
    drop_last, epoch = data.draw(st.booleans()), data.draw(st.integers(0, 2))
    ((alone,),) = rank_batches(
        shards, 1, 1, epoch=epoch, batch_size=999, drop_last=False, **shuffle
    )
    assert sorted(alone) == list(range(len(ShardDataset(shards))))
    position = data.draw(st.integers(0, len(alone)))
    left = len(alone) - position
    options = {"batch_size": size, "drop_last": drop_last, **shuffle}
    if left < world * size if drop_last and not position else 0 < left < world and not drop_last:
        with pytest.raises(AuheatError, match="(more than the|at most a rank)"):
            rank_batches(shards, world, workers, position, epoch, **options)
        return
    ranks = rank_batches(shards, world, workers, position, epoch, **options)
    assert ranks == expected_batches(alone, position, world, size, drop_last)
    assert len({len(batches) for batches in ranks}) == 1
    if not drop_last:
        rows = [row for batches in ranks for batch in batches for row in batch]
        assert sorted(rows) == sorted(alone[position:])
        assert all(1 <= len(batch) <= size + 1 for batches in ranks for batch in batches)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SETS,
    SHUFFLES,
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.data(),
)
def test_a_stopped_epoch_goes_on_with_other_ranks_and_batches(
    quick, files, chosen, shuffle, before, after, data
):
    shards = [files[i] for i in chosen]

    def build(world, size, rank=0):
        about = {"batch_size": size, "rank": rank, "world": world, "drop_last": False}
        return ShardStream(shards, image_size=SIDE, seed=3, **about, **shuffle)

    first = build(*before)
    if first.rows < max(before[0], after[0]):
        return
    first.set_epoch(2)
    stop = data.draw(st.integers(0, len(first)))
    seen = []
    for rank in range(before[0]):
        stream = build(*before, rank)
        stream.set_epoch(2)
        seen += [batch["index"].tolist() for batch, _ in zip(stream, range(stop), strict=False)]
    state = json.loads(json.dumps(first.state_dict(stop)))
    if 0 < first.rows - state["position"] < after[0]:
        return
    rest = []
    for rank in range(after[0]):
        stream = build(*after, rank)
        stream.load_state_dict(state)
        assert stream.epoch == 2
        rest += [batch["index"].tolist() for batch in stream]
    assert sorted(chain(*seen, *rest)) == list(range(first.rows))


def test_a_batch_is_the_rows_of_the_dataset(shards):
    dataset = ShardDataset(shards, "train", image_size=SIDE, classes=["Sadness", "Happiness"])
    stream = ShardStream(
        shards, "train", SIDE, ["Sadness", "Happiness"], batch_size=5, drop_last=False, block=3
    )
    assert (stream.rows, stream.class_names) == (len(dataset), dataset.class_names)
    assert stream.left_out == dataset.left_out
    for batch in stream:
        expected = torch.utils.data.default_collate([dataset[i] for i in batch["index"].tolist()])
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in batch)


@pytest.fixture(scope="module")
def helped(shards):
    """A loader with two worker processes that live on from test to test."""
    return StreamLoader(ShardStream(shards, image_size=SIDE, batch_size=4, block=3, window=4), 2)


def indices(loader, stop=None):
    found = []
    for batch in loader:
        found.append(batch["index"].tolist())
        if stop == len(found):
            break
    return found


@pytest.mark.slow
def test_worker_processes_change_nothing_over_epochs_stops_and_states(shards, helped):
    alone = StreamLoader(ShardStream(shards, image_size=SIDE, batch_size=4, block=3, window=4))
    epochs = []
    for loader in (alone, helped):
        found = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            found.append(indices(loader))
            assert len(found[-1]) == len(loader)
        epochs.append(found)
    assert epochs[0] == epochs[1]
    assert epochs[0][0] != epochs[0][1]
    for one, other in ((alone, helped), (helped, alone)):
        one.set_epoch(0)
        assert indices(one, stop=3) == epochs[0][0][:3]
        state = one.state_dict()
        assert state["position"] == 12
        assert indices(one, stop=2) == epochs[0][0][:2]  # without a state: from the start
        other.load_state_dict(state)
        other.set_epoch(state["epoch"])  # as a training loop does
        assert indices(other) == epochs[0][0][3:]
        assert other.state_dict()["position"] == other.stream.rows  # a tail left out is over
        other.set_epoch(1)
        assert other.state_dict()["position"] == 0
        assert indices(other) == epochs[0][1]


def test_a_finished_epoch_has_nothing_left(shards):
    loader = StreamLoader(ShardStream(shards, image_size=SIDE, batch_size=5))
    indices(loader)
    state = loader.state_dict()
    smaller = StreamLoader(ShardStream(shards, image_size=SIDE, batch_size=1))
    smaller.load_state_dict(state)
    assert indices(smaller) == []
    assert len(indices(smaller)) == smaller.stream.rows


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed 0, this stream has 1"),
        ({"block": 7}, "block 256"),
        ({"window": 7}, "window 16"),
        ({"shuffle": False}, "shuffle True"),
        ({"split": "train"}, "data"),
        ({"classes": NAMES[::-1]}, "data"),
    ],
)
def test_a_state_of_other_rows_or_another_order_is_refused(shards, change, named):
    state = ShardStream(shards).state_dict()
    with pytest.raises(AuheatError, match=f"state: {named}"):
        ShardStream(shards, **change).load_state_dict(state)


def test_a_state_of_another_set_or_no_state_at_all_is_refused(shards, tmp_path):
    stream = ShardStream(shards)
    again = make_store(tmp_path / "a", unreadable=2, unlabelled=1, shard_rows=9)
    stream.load_state_dict(ShardStream(again / "shards" / "martinez").state_dict())
    other = make_store(tmp_path / "b", unreadable=1, unlabelled=2, shard_rows=9)
    with pytest.raises(AuheatError, match="state: data"):
        stream.load_state_dict(ShardStream(other / "shards" / "martinez").state_dict())
    for broken in (
        {},
        stream.state_dict() | {"epoch": 1.5},
        stream.state_dict() | {"position": -1},
    ):
        with pytest.raises(AuheatError):
            stream.load_state_dict(broken)


def test_ranks_come_from_torch_distributed_where_it_runs(shards, monkeypatch):
    stream = ShardStream(shards)
    assert stream.find_place() == (0, 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert stream.find_place() == (1, 3)
    sent = stream.__getstate__()
    assert (sent["_rank"], sent["_world"]) == (1, 3)
    assert ShardStream(shards, rank=2, world=4).find_place() == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank: 0 of None"),
        ({"rank": 2, "world": 2}, "rank: 2 of 2"),
        ({"batch_size": 0}, "batch_size: 0 \\(expected 1 to"),
        ({"block": 0}, "block: 0"),
        ({"split": "val"}, "no photo to learn from in split 'val'"),
        ({"classes": ["Joy"]}, "'Joy' is not in the shards"),
    ],
)
def test_bad_requests_say_what_is_wrong(shards, options, message):
    with pytest.raises(AuheatError, match=message):
        ShardStream(shards, **options)


def test_rows_are_read_from_front_to_back_within_a_window(shards, monkeypatch):
    stream = ShardStream(shards, image_size=SIDE, batch_size=4, block=6, window=100)
    asked = []
    read_many = type(stream._reader).read_many

    def note(reader, shard, rows, names):
        asked.append((shard, list(rows)))
        return read_many(reader, shard, rows, names)

    monkeypatch.setattr(type(stream._reader), "read_many", note)
    order = [i for batch in stream for i in batch["index"].tolist()]
    assert order != sorted(order)
    assert [shard for shard, _ in asked] == list(range(len(stream.files)))
    assert all(rows == sorted(rows) for _, rows in asked)
    assert sum(len(rows) for _, rows in asked) == len(order)


def test_memory_of_choices_is_bounded_and_read_again(shards, monkeypatch):
    expected = [batch["index"].tolist() for batch in ShardStream(shards, image_size=SIDE)]
    monkeypatch.setattr("auheat.data.stream.PLANNED_ROWS", 10)
    stream = ShardStream(shards, image_size=SIDE)
    assert stream._known.rows <= 10
    assert [batch["index"].tolist() for batch in stream] == expected


@pytest.mark.parametrize("batch_size", [7, 32, 1000])
def test_rows_that_come_as_they_are_stored_all_come(shards, batch_size):
    n = len(ShardDataset(shards))
    assert n % 7
    seen = [
        row
        for batch in ShardStream(shards, shuffle=False, image_size=16, batch_size=batch_size)
        for row in batch["index"].tolist()
    ]
    assert seen == list(range(n))
    mixed = ShardStream(shards, image_size=16, batch_size=7)
    assert mixed.drop_last
    assert sum(len(batch["index"]) for batch in mixed) == n - n % 7
    asked = ShardStream(shards, shuffle=False, image_size=16, batch_size=7, drop_last=True)
    assert len(asked) == n // 7
