"""The dataset: which rows it has, what an item is, and how validation rows are chosen."""

import multiprocessing
import pickle

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wsol_helpers import NAMES, make_store

from auheat.records import AuheatError
from auheat.shards import read_columns
from auheat.wsol.data import ShardDataset, fit_square, make_loader, split_validation


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    store = make_store(tmp_path_factory.mktemp("data"), unreadable=2, unlabelled=1)
    return store / "shards" / "martinez"


def test_rows_that_cannot_teach_are_left_out_and_counted(shards):
    dataset = ShardDataset(shards, "train")
    assert len(dataset) == 8 * len(NAMES)
    assert dict(dataset.left_out) == {"unreadable": 2, "unlabelled": 1}
    assert np.bincount(dataset.labels).tolist() == [8, 8, 8, 8]
    assert len(ShardDataset(shards, "test")) == 3 * len(NAMES)
    assert not set(dataset.ids) & set(ShardDataset(shards, "test").ids)


def test_an_item_is_the_stored_row_at_the_asked_size(shards):
    dataset = ShardDataset(shards, "test", image_size=32)
    files = sorted(shards.glob("*.h5"))
    rows = [read_columns(f) for f in files]
    stored = {key: (r, i) for r in rows for i, key in enumerate(r["id"])}
    for index in (0, 5, 11):
        item = dataset[index]
        r, i = stored[dataset.ids[index]]
        pixels = cv2.imdecode(np.frombuffer(r["image"][i], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        expected = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), expected)
        np.testing.assert_array_equal(item["heatmap"].numpy(), r["heatmap"][i])
        assert item["label"] == r["label"][i]
        assert item["valid"].item() == r["valid"][i]
        assert item["index"] == index
        # (H, W) = (44, 40): a point's share of the side does not change
        share = (r["landmarks"][i] + 0.5) / [40, 44]
        np.testing.assert_allclose((item["landmarks"].numpy() + 0.5) / 32, share, rtol=1e-5)


def test_cached_items_equal_those_read_one_by_one(shards):
    plain, cached = (ShardDataset(shards, "train", image_size=24) for _ in range(2))
    assert cached.cache()
    assert cached.cached
    assert not plain.cached
    for index in (0, 7, 31):
        for key, value in plain[index].items():
            assert torch.equal(torch.as_tensor(cached[index][key]), torch.as_tensor(value))


def test_a_set_larger_than_the_limit_is_not_cached(shards):
    dataset = ShardDataset(shards, "train", image_size=24)
    assert not dataset.cache(limit=1000)
    assert not dataset.cached


def test_classes_can_be_chosen_and_ordered(shards):
    dataset = ShardDataset(shards, "train", classes=["Sadness", "Happiness"])
    assert dataset.class_names == ("Sadness", "Happiness")
    assert np.bincount(dataset.labels).tolist() == [8, 8]
    assert dataset.left_out["other class"] == 16
    with pytest.raises(AuheatError, match="'Joy' is not in the shards \\(there: Neutral"):
        ShardDataset(shards, classes=["Joy"])


def test_rows_without_a_split_are_for_training(tmp_path):
    store = make_store(tmp_path, counts=(("", 2), ("train", 1), ("test", 1)))
    assert len(ShardDataset(store / "shards" / "martinez", "train")) == 3 * len(NAMES)


def first_pixels(dataset, queue):
    queue.put(int(dataset[3]["image"].sum()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataset_works_in_another_process_though_opened_here(shards, method):
    dataset = ShardDataset(shards, "train", image_size=24)
    expected = int(dataset[3]["image"].sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=first_pixels, args=(dataset, queue))
    worker.start()
    assert queue.get(timeout=60) == expected
    worker.join()


def test_dataset_pickles_without_its_open_files(shards):
    dataset = ShardDataset(shards, "train", image_size=24)
    dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["image"], dataset[1]["image"])


def test_loader_workers_return_the_same_batches(shards):
    dataset = ShardDataset(shards, "test", image_size=24)
    alone, helped = (list(make_loader(dataset, 5, workers)) for workers in (0, 1))
    assert [len(b["label"]) for b in alone] == [5, 5, 2]
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_shuffled_loader_has_full_batches_in_an_order_its_seed_decides(shards):
    dataset = ShardDataset(shards, "train", image_size=8)
    generator = torch.Generator()
    loader = make_loader(dataset, 10, generator=generator)
    orders = []
    for seed in (1, 1, 2):
        generator.manual_seed(seed)
        orders.append(torch.cat([batch["index"] for batch in loader]).tolist())
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) == len(orders[0]) == 30


def test_damaged_photo_bytes_name_the_shard(tmp_path):
    shards = make_store(tmp_path) / "shards" / "martinez"
    with h5py.File(shards / "00000.h5", "r+") as file:
        file["image"][0] = np.zeros(4, np.uint8)
    with pytest.raises(AuheatError, match="00000.h5: photo train000"):
        ShardDataset(shards, "train")[0]


def test_shards_of_different_classes_do_not_mix(tmp_path):
    a = make_store(tmp_path / "a", names=NAMES) / "shards" / "martinez" / "00000.h5"
    b = make_store(tmp_path / "b", names=NAMES[:3]) / "shards" / "martinez" / "00000.h5"
    with pytest.raises(AuheatError, match="classes Neutral, Happiness, Surprise \\(others"):
        ShardDataset([a, b])
    with pytest.raises(AuheatError, match="no shards"):
        ShardDataset([])


def test_whole_photo_is_squeezed_into_the_square():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 200
    out = fit_square(image, 10)
    assert out.shape == (10, 10, 3)
    assert (out[:, :5] == 0).all()
    assert (out[:, 5:] == 200).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.floats(0.05, 0.5),
    st.integers(0, 99),
)
def test_validation_takes_its_share_of_every_class(labels, fraction, seed):
    labels = np.array(labels)
    chosen = split_validation(labels, [""] * len(labels), fraction, seed)
    for k in set(labels.tolist()):
        n, took = (labels == k).sum(), chosen[labels == k].sum()
        assert took == (0 if n == 1 else max(1, round(fraction * n)))
        assert took < n
    again = split_validation(labels, [""] * len(labels), fraction, seed)
    assert np.array_equal(chosen, again)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 6))
def test_a_known_person_is_never_on_both_sides(seed, per_person):
    rng = np.random.default_rng(seed)
    persons = [f"p{i // per_person}" if i < 60 else "" for i in range(80)]
    labels = rng.integers(0, 4, 80)
    chosen = split_validation(labels, persons, 0.2, seed)
    for person in set(persons) - {""}:
        rows = [chosen[i] for i, p in enumerate(persons) if p == person]
        assert len(set(rows)) == 1
    assert 0.1 < chosen.mean() < 0.3
    assert set(labels[~chosen]) == set(labels)
