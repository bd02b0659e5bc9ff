"""What attention is told apart from: every class's heatmap, wherever the photo goes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import BOOK, NAMES, make_store

from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.shards import reader
from auheat.store.votes import write_votes
from auheat.training import runner, training_data
from auheat.training.class_targets import Targets
from auheat.training.config import make_config
from auheat.utils.distributed import World

SIDE = 40
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def faces(n=3, side=90):
    rng = np.random.default_rng(0)
    eye = rng.uniform(0.4, 0.5, n) * side
    middle = np.array([side / 2, side * 0.42]) + rng.uniform(-4, 4, (n, 2))
    return (eye[:, None, None] * BOOK.frame.mean + middle[:, None]).astype(np.float32)


def test_every_class_is_drawn_as_its_label_would_be():
    plan, points = plan_heatmaps(BOOK, NAMES), faces()
    points[1] = np.nan
    targets = Targets(plan, np.arange(len(NAMES)), CPU)
    drawn = targets.draw(torch.from_numpy(points), 90, (SIDE, SIDE))
    assert drawn.shape == (3, len(NAMES), SIDE, SIDE)
    for k, blobs in enumerate(plan.classes):
        expected, valid = render_heatmaps(points, np.full(3, k), plan, (90, 90), (SIDE, SIDE))
        np.testing.assert_allclose(drawn[:, k].numpy(), expected, atol=1e-5)
        assert valid.tolist() == [blobs is not None, False, blobs is not None]


def test_classes_with_heatmaps_count_alike_and_a_row_counts_one_on_average():
    plan = plan_heatmaps(load_codebook("martinez"), ("Happiness", "Neutral", "Anger", "Sadness"))
    labels = np.array([0] * 6 + [1] * 9 + [2] * 2)
    weights = Targets(plan, labels, CPU).class_weights
    # 8 rows of two classes that are there: each class gets 4
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 0, 4 / 2, 0]))
    balanced = Targets(plan, labels, CPU, balanced=True).class_weights
    assert balanced.tolist() == [1, 0, 1, 1]


def test_fewer_than_two_heatmaps_cannot_be_told_apart():
    plan = plan_heatmaps(load_codebook("martinez"), ("Happiness", "Neutral"))
    with pytest.raises(AuheatError, match="--contrast-weight: 1 of the .*2 or more are needed"):
        Targets(plan, np.zeros(4, np.int64), CPU)
    Targets(plan, np.zeros(4, np.int64), CPU, contrast=False)  # its map has a heatmap to be like
    plan = plan_heatmaps(load_codebook("martinez"), ("Neutral", "Contempt"))
    with pytest.raises(AuheatError, match="--class-map-weight: 0 of the .*1 or more is needed"):
        Targets(plan, np.zeros(4, np.int64), CPU, contrast=False)


def test_heatmaps_that_are_not_of_expressions_have_none_to_be_told_from(tmp_path, monkeypatch):
    store = make_store(tmp_path)
    config = make_config("demo", image_size=32, contrast_weight=1.0)
    made = reader.read_attributes(store / "shards" / "martinez" / "00000.h5")
    monkeypatch.setattr(training_data, "read_attributes", lambda file: made | {"mode": "generic"})
    with pytest.raises(AuheatError, match="heatmaps of mode generic, geometry face"):
        training_data.load_training_data(store, config)


@pytest.mark.slow
def test_the_heatmaps_of_all_classes_move_with_the_photo(tmp_path):
    store = make_store(tmp_path, side=(60, 60), size=SIDE)
    config = make_config(
        backbone="thin",
        weights="none",
        image_size=32,
        resize=48,
        contrast_weight=1.0,
        batch_size=8,
    )
    material = training_data.load_training_data(store, config)
    engine, _ = runner._prepare(config, material, CPU, World())
    for batch in engine.feed:
        seen, labels = engine._vary(batch, len(batch["label"]), torch.Generator().manual_seed(1))
        assert seen.class_maps.shape == (len(labels), len(NAMES), SIDE, SIDE)
        rows = seen.valid.nonzero()[:, 0]
        own = seen.class_maps[rows, labels[rows]]
        torch.testing.assert_close(own, seen.heatmaps[rows], atol=0.02, rtol=0)
        assert seen.heatmaps[rows].amax((1, 2)).min() > 0.5


def test_heatmaps_kept_in_memory_are_those_drawn_but_for_their_last_digit(tmp_path):
    files = make_store(tmp_path) / "shards" / "martinez"
    plan, drawn = plan_heatmaps(BOOK, NAMES), []
    for kept in (False, True):
        dataset = ShardDataset(files, "train", image_size=32)
        assert dataset.cache()
        batch = dataset.take([3, 0, 5])
        if not kept:
            dataset._cache = None
        targets = Targets(plan, dataset.labels, CPU)
        targets.open(dataset)
        assert bool(targets._kept) is kept
        drawn.append(targets.of_batch(dataset, batch))
    (one, faces), (two, same) = drawn
    assert one.amax() > 0.9
    torch.testing.assert_close(two, one, atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(faces, same)


def test_a_neutral_photo_with_a_face_has_class_maps_and_a_doubtful_face_none(tmp_path):
    """Whether the shard says that the heatmap is not valid for its class or for its face."""
    dataset = ShardDataset(make_store(tmp_path) / "shards" / "martinez", "train", image_size=32)
    assert dataset.cache()
    plan = plan_heatmaps(BOOK, dataset.class_names)
    drawn = [blobs is not None for blobs in plan.classes]
    neutral = [i for i, k in enumerate(dataset.labels) if not drawn[k]][:3]
    happy = [i for i, k in enumerate(dataset.labels) if drawn[k]][:2]
    dataset._cache["face"][neutral[1:]] = torch.nan  # the first is doubtful, the other is not there
    dataset._cache["landmarks"][neutral[2]] = torch.nan
    dataset._cache["valid"][happy] = torch.tensor([True, False])  # the second for its face
    targets = Targets(plan, dataset.labels, CPU)
    targets.open(dataset)
    dataset._cache["heatmap"][happy[0]] = 51  # as measured action units may have it
    maps, faces = targets.of_batch(dataset, dataset.take(neutral + happy))
    own = maps[3, dataset.labels[happy[0]]]
    torch.testing.assert_close(own, torch.full_like(own, 0.2))
    assert faces.tolist() == [True, False, False, True, False]
    assert (maps.flatten(1).amax(1) > 0).tolist() == faces.tolist()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("target", ["mean", "wrong"])
def test_a_control_has_the_heatmaps_of_no_class_or_of_another_on_the_same_face(
    tmp_path, target, kept
):
    names = ("Neutral", "Happiness", "Surprise", "Sadness")
    files = make_store(tmp_path, counts=(("train", 2),)) / "shards" / "martinez"
    dataset = ShardDataset(files, "train", image_size=32)
    assert dataset.cache()
    assert dataset.class_names == names
    targets = Targets(plan_heatmaps(BOOK, names), dataset.labels, CPU, target=target)
    if kept:
        targets.open(dataset)
    rows = [int(np.flatnonzero(dataset.labels == k)[0]) for k in range(4)]
    batch = dataset.take(rows)
    maps, _ = targets.of_batch(dataset, batch)
    points = batch["landmarks"].numpy()
    size = batch["heatmap"].shape[1:]
    drawn = [
        render_heatmaps(points, np.full(4, k), plan_heatmaps(BOOK, names), (32, 32), size)[0]
        for k in (1, 2, 3)
    ]
    # Happiness -> Surprise -> Sadness -> Happiness
    expected = [np.mean(drawn, 0)] * 3 if target == "mean" else [drawn[1], drawn[2], drawn[0]]
    wanted = torch.from_numpy(np.stack([np.zeros_like(drawn[0]), *expected], 1))
    torch.testing.assert_close(maps, wanted.float(), atol=0.01, rtol=0)


@pytest.mark.parametrize("target", ["own", "mean", "wrong"])
def test_the_trainer_draws_attention_to_the_controls_heatmap(tmp_path, target):
    """In training and in validation, whatever came with the photo; all else stays as it was."""
    store = make_store(tmp_path)
    config = make_config("demo", image_size=32, batch_size=8, augment="none", au_target=target)
    material = training_data.load_training_data(store, config)
    engine, _ = runner._prepare(config, material, CPU, World())
    assert (engine._targets is None) is (target == "own")
    batch = next(iter(engine.feed))
    n = len(batch["label"])
    seen, _ = engine._vary(batch, n, torch.Generator().manual_seed(1))
    assert seen.class_maps is None
    assert torch.equal(seen.valid, batch["valid"])
    stored = batch["heatmap"].float() / 255
    if target == "own":
        torch.testing.assert_close(seen.heatmaps, stored, atol=1e-5, rtol=0)
        return
    maps, _ = engine._targets.of_batch(material.dataset, batch)
    own = maps[torch.arange(n), batch["label"]]
    torch.testing.assert_close(seen.heatmaps, own, atol=1e-5, rtol=0)
    valid = batch["valid"]
    assert (seen.heatmaps - stored)[valid].abs().amax((1, 2)).min() > 0.05
    losses = []
    for chosen in (target, "own"):
        engine._targets.target = chosen
        losses.append(engine._validate()["val_au"])
    assert losses[0] != losses[1]


def test_a_control_of_no_loss_or_of_a_single_class_is_refused():
    with pytest.raises(AuheatError, match="--au-target: 'mean' of what"):
        make_config("demo", au_weight=0.0, au_target="mean")
    with pytest.raises(AuheatError, match="--au-target: 'both'"):
        make_config("demo", au_target="both")
    plan = plan_heatmaps(load_codebook("martinez"), ("Happiness", "Neutral"))
    with pytest.raises(AuheatError, match="--au-target: 1 of the .*one to stand for another"):
        Targets(plan, np.zeros(4, np.int64), CPU, contrast=False, target="wrong")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 3), st.data())
def test_a_part_of_the_photos_has_every_class_in_proportion_and_lies_in_a_larger_part(
    labels, seed, data
):
    labels = np.array(labels)
    n = data.draw(st.integers(1, len(labels)))
    less = data.draw(st.integers(1, n))
    rows = training_data.draw_part(labels, n, seed)
    assert len(set(rows.tolist())) == n
    assert rows.tolist() == sorted(rows.tolist())
    for k in set(labels.tolist()):
        share = np.mean(labels == k)  # each class's count is rounded, which moves where all are cut
        off = abs((labels[rows] == k).sum() - n * share)
        assert off <= 0.5 + 0.5 * len(set(labels.tolist())) * share + 1e-9
    assert set(training_data.draw_part(labels, less, seed).tolist()) <= set(rows.tolist())


def test_a_run_learns_from_so_many_photos_notes_it_and_validates_on_the_same(tmp_path):
    store = make_store(tmp_path)
    few, everything = (
        training_data.load_training_data(store, make_config("demo", train_photos=n))
        for n in (12, 0)
    )
    assert few.about["train_rows"] == len(few.train) == 12
    assert set(few.train.tolist()) < set(everything.train.tolist())
    assert few.val.tolist() == everything.val.tolist()
    assert few.about["train_per_class"] == [3, 3, 3, 3]
    (note,) = (line for line in training_data.note_left_out(few) if "--train-photos" in line)
    assert note.startswith(f"12 of {len(everything.train)} training photos")
    assert "train_rows_available" not in everything.about
    for n, wrong in ((900, "--train-photos: 900 .* has 28 to learn"), (2, "no training photo of")):
        with pytest.raises(AuheatError, match=wrong):
            training_data.load_training_data(store, make_config("demo", train_photos=n))
    with pytest.raises(AuheatError, match="--train-photos: -1 .expected 1 or more, 0 for all"):
        make_config("demo", train_photos=-1)


@pytest.fixture
def voted(tmp_path):
    """A store whose training photos have ten votes each, but for one that has none."""
    store = make_store(tmp_path)
    (store / "landmarks").mkdir(exist_ok=True)
    dataset = ShardDataset(store / "shards" / "martinez", "train", image_size=32)
    votes = {
        key: {**dict.fromkeys(NAMES, 0), NAMES[k]: 6, NAMES[(k + 1) % 4]: 2, "unknown": 2}
        for key, k in zip(dataset.ids[1:], dataset.labels[1:].tolist(), strict=True)
    }
    write_votes(store, votes)
    return store


@pytest.mark.parametrize("method", ["cam", "cutmix"])
def test_votes_are_learnt_in_the_place_of_labels_and_validation_keeps_these(voted, method):
    """The loss is the cross-entropy with six eighths of the votes, and two."""
    config = make_config(
        "demo", method=method, image_size=32, batch_size=8, au_weight=0.0, soft_labels=True
    )
    material = training_data.load_training_data(voted, config)
    learnt = material.train.tolist()
    missing = int(0 in learnt)
    assert material.about["train_rows_without_votes"] == missing
    notes = [note for note in training_data.note_left_out(material) if "no votes" in note]
    assert len(notes) == missing
    engine, _ = runner._prepare(config, material, CPU, World())
    batch = next(iter(engine.feed))
    labels = batch["label"]
    wanted = torch.zeros(len(labels), 4)
    for row, (k, index) in enumerate(zip(labels.tolist(), batch["index"].tolist(), strict=True)):
        wanted[row, k] = 1.0 if index == 0 else 0.75
        wanted[row, (k + 1) % 4] += 0.0 if index == 0 else 0.25
    seen, hard = engine._vary(batch, len(labels), torch.Generator().manual_seed(1))
    assert torch.equal(hard, labels)
    torch.testing.assert_close(seen.labels.sum(1), torch.ones(len(labels)))
    if method == "cutmix":  # a photo's shares and its partner's, in some proportion
        assert not torch.equal(seen.labels, wanted)
        torch.testing.assert_close(seen.labels.sum(0), wanted.sum(0))
        return
    torch.testing.assert_close(seen.labels, wanted)
    engine.model.eval()
    loss = engine._loss(engine.model(seen.images), seen).total
    log_p = engine.model(seen.images).logits.log_softmax(1)
    torch.testing.assert_close(loss, -(wanted * log_p).sum(1).mean())
    hits = len(material.val) * engine._validate()["val_accuracy"]
    assert hits == pytest.approx(round(hits), abs=1e-4)  # of labels, not shares of votes


def test_votes_that_are_not_there_cannot_be_learnt(tmp_path, voted):
    config = make_config("demo", image_size=32, soft_labels=True)
    assert len(training_data.load_training_data(voted, config).about["votes_sha256"]) == 64
    write_votes(voted, {"other": {"Fear": 1}})
    with pytest.raises(AuheatError, match="no votes for these photos"):
        training_data.load_training_data(voted, config)
    write_votes(voted, {})
    with pytest.raises(AuheatError, match="no votes .--soft-labels needs those of FER"):
        training_data.load_training_data(voted, config)
