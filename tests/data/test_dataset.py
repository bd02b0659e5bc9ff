"""The dataset: which rows it has, what an item is, and how validation rows are chosen."""

import hashlib
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from training_helpers import NAMES, make_store

from auheat.data.dataset import WORKER_START, ShardDataset, fit_square, split_validation
from auheat.errors import AuheatError
from auheat.images.decoding import decode, decode_stored
from auheat.images.headers import UnreadableImageError
from auheat.shards.reader import read_columns


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


def digest_items(dataset, queue=None):
    """A digest of every value of every item."""
    digest = hashlib.sha256()
    for i in range(len(dataset)):
        for key, value in sorted(dataset[i].items()):
            digest.update(key.encode() + np.asarray(value).tobytes())
    if queue is not None:
        queue.put(digest.hexdigest())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_item_is_the_same_in_another_process_though_opened_here(shards, method):
    dataset = ShardDataset(shards, "train", image_size=24)
    expected = digest_items(dataset)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [
        context.Process(target=digest_items, args=(dataset, queue))
        for _ in range(2 if method == "fork" else 1)
    ]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [expected] * len(workers)
    for worker in workers:
        worker.join()


def test_every_item_is_the_same_in_threads_while_files_are_closed_and_opened(shards, monkeypatch):
    files = sorted(shards.glob("*.h5"))
    assert len(files) > 2
    monkeypatch.setattr("auheat.shards.row_reader.OPEN_FILES", 1)
    dataset = ShardDataset(shards, "train", image_size=24)
    expected = digest_items(ShardDataset(shards, "train", image_size=24))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(digest_items, [dataset] * 16)) == {expected}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to see open files in")
def test_a_forked_process_opens_files_of_its_own_and_closes_those_it_inherited(shards):
    dataset = ShardDataset(shards, "train", image_size=24)
    dataset[0], dataset[31]
    own = {file.resolve() for file in dataset.files}

    def list_open():
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sorted(str(link) for link in links if link in own)  # others' are not closed yet

    before = list_open()

    def look(queue):
        dataset[0]
        queue.put((list_open(), len(dataset._reader._state.open)))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=look, args=(queue,))
    worker.start()
    opened, known = queue.get(timeout=60)
    worker.join()
    assert len(before) == 2
    assert opened == before[:1]
    assert known == 1
    assert list_open() == before


def test_dataset_pickles_without_its_open_files(shards):
    dataset = ShardDataset(shards, "train", image_size=24)
    dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["image"], dataset[1]["image"])


@pytest.mark.slow
def test_loader_workers_return_the_same_batches(shards):
    dataset = ShardDataset(shards, "test", image_size=24)
    alone = list(DataLoader(dataset, 5))
    helped = list(DataLoader(dataset, 5, num_workers=1, multiprocessing_context=WORKER_START))
    assert [len(b["label"]) for b in alone] == [5, 5, 2]
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def damage(shards, name, row):
    """Overwrite the first bytes of a row where they lie in the file."""
    file = shards / "00000.h5"
    with h5py.File(file) as shard:
        if name == "image":
            at = shard["image"].id.get_offset() + int(shard["image_start"][row])
        else:
            at = shard[name].id.get_chunk_info(row).byte_offset
    with file.open("r+b") as handle:
        handle.seek(at)
        handle.write(bytes(4))


def test_a_damaged_photo_names_file_photo_and_row(tmp_path):
    shards = make_store(tmp_path, unreadable=1) / "shards" / "martinez"
    damage(shards, "image", 3)
    dataset = ShardDataset(shards)
    with pytest.raises(AuheatError, match="00000.h5: photo train003 \\(row 3\\)"):
        dataset[2]
    assert dataset[1]["image"].any()
    assert dataset[3]["image"].any()


@pytest.mark.parametrize("end", [False, True])
def test_a_damaged_heatmap_names_file_and_row(tmp_path, end):
    shards = make_store(tmp_path) / "shards" / "martinez"
    if end:  # the checksum, which comes after all values
        with h5py.File(shards / "00000.h5") as shard:
            chunk = shard["heatmap"].id.get_chunk_info(5)
        with (shards / "00000.h5").open("r+b") as handle:
            handle.seek(chunk.byte_offset + chunk.size - 1)
            last = handle.read(1)[0]
            handle.seek(chunk.byte_offset + chunk.size - 1)
            handle.write(bytes([last ^ 1]))
    else:
        damage(shards, "heatmap", 5)
    dataset = ShardDataset(shards)
    for read in (dataset.__getitem__, dataset.read_heatmap):
        with pytest.raises(AuheatError, match="00000.h5: row 5 cannot be read"):
            read(5)
    assert dataset[4]["image"].any()


def test_shards_without_photos_are_one_clear_error(tmp_path):
    shards = make_store(tmp_path) / "shards" / "martinez"
    for file in shards.glob("*.h5"):
        with h5py.File(file, "r+") as shard:
            for name in ("image", "image_start", "image_length"):
                del shard[name]
    with pytest.raises(AuheatError, match="00000.h5: no photos to learn from .*--no-images"):
        ShardDataset(shards)


def test_landmark_shards_and_labels_without_a_name_are_refused(tmp_path):
    shards = make_store(tmp_path) / "shards" / "martinez"
    with h5py.File(shards / "00001.h5", "r+") as shard:
        shard["label"][7] = len(NAMES)
    with pytest.raises(AuheatError, match="00001.h5: label: row 7: 4 \\(expected -1 to 3\\)"):
        ShardDataset(shards)
    with h5py.File(shards / "00000.h5", "r+") as shard:
        shard.attrs["format"] = "auheat-landmarks"
    with pytest.raises(AuheatError, match="00000.h5: format 'auheat-landmarks'"):
        ShardDataset(shards)


def test_a_shard_that_is_replaced_meanwhile_is_an_error_and_never_another_row(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("auheat.shards.row_reader.OPEN_FILES", 1)
    shards = make_store(tmp_path / "a") / "shards" / "martinez"
    other = make_store(tmp_path / "b", seed=1) / "shards" / "martinez"
    dataset = ShardDataset(shards)
    dataset[0], dataset[20]
    (other / "00000.h5").replace(shards / "00000.h5")
    with pytest.raises(AuheatError, match="00000.h5: was replaced while it was read"):
        dataset[0]


def test_a_batch_asked_for_at_once_is_its_items_one_by_one(shards):
    for dataset in (ShardDataset(shards, image_size=24) for _ in range(2)):
        batch = dataset.__getitems__([7, 0, 30, 7])
        for item, index in zip(batch, (7, 0, 30, 7), strict=True):
            one = dataset[index]
            assert item.keys() == one.keys()
            assert all(torch.equal(torch.as_tensor(item[k]), torch.as_tensor(one[k])) for k in one)
        dataset.cache()


def test_a_photo_that_ends_too_early_is_no_photo_whatever_opencv_makes_of_it():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    with pytest.raises(UnreadableImageError, match="cut short"):
        decode_stored(data[:-40])
    np.testing.assert_array_equal(decode_stored(data)[..., ::-1], decode(data))


def test_a_person_of_many_photos_is_one_name_in_memory(tmp_path):
    store = make_store(tmp_path, person=lambda split, i: f"person {i % 3}")
    persons = ShardDataset(store / "shards" / "martinez").persons
    assert persons[:4] == ["person 0", "person 1", "person 2", "person 0"]
    assert len({id(name) for name in persons}) == 3


def test_shards_of_different_classes_do_not_mix(tmp_path):
    a = make_store(tmp_path / "a", names=NAMES) / "shards" / "martinez" / "00000.h5"
    b = make_store(tmp_path / "b", names=NAMES[:3]) / "shards" / "martinez" / "00000.h5"
    with pytest.raises(AuheatError, match="classes Neutral, Happiness, Surprise \\(others"):
        ShardDataset([a, b])
    with pytest.raises(AuheatError, match="no shards"):
        ShardDataset([])


def test_heatmaps_of_different_sizes_do_not_mix(tmp_path):
    a = make_store(tmp_path / "a", size=28) / "shards" / "martinez" / "00000.h5"
    b = make_store(tmp_path / "b", size=14) / "shards" / "martinez" / "00000.h5"
    with pytest.raises(AuheatError, match="heatmaps of \\(14, 14\\) \\(others: \\(28, 28\\)"):
        ShardDataset([a, b])


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


@pytest.mark.parametrize("cached", [False, True])
def test_items_count_from_the_end_as_in_a_list_and_say_where_they_lie(tmp_path, cached):
    store = make_store(tmp_path, counts=(("train", 3),))
    dataset = ShardDataset(store / "shards" / "martinez", image_size=32)
    assert not cached or dataset.cache()
    n = len(dataset)
    places = list(range(n))
    for index in (-1, -n, -2, np.int64(-1), n - 1, np.uint8(2), torch.tensor(-3)):
        item = dataset[index]
        assert item["index"] == places[index]
        assert item["label"] == dataset.labels[places[index]]
        assert torch.equal(item["image"], dataset[places[index]]["image"])
    for index in (n, -n - 1, 10**9):
        with pytest.raises(IndexError):
            dataset[index]
    assert [item["index"] for item in dataset.__getitems__([0, -1])] == [0, n - 1]
    assert [item["index"] for item in dataset] == places
    if cached:
        assert dataset.take([-1, 0])["index"].tolist() == [n - 1, 0]


def test_labels_that_stand_for_classes_of_another_set_are_read_as_these(tmp_path):
    names = ("happy", "Neutral", "bored")
    store = make_store(tmp_path, counts=(("train", 2),), names=names)
    classes = ("Neutral", "Fear", "Happiness")
    meant = {"happy": "Happiness", "Neutral": "Neutral"}
    dataset = ShardDataset(store / "shards" / "martinez", None, 32, classes, meant)
    assert dataset.class_names == classes
    assert dataset.shard_classes == names
    assert dataset.labels.tolist() == [2, 0, 2, 0]
    assert dataset.ids == ["train000", "train001", "train003", "train004"]
    assert dataset.left_out == {"other class": 2}
