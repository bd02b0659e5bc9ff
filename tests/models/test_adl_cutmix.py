"""ADL's dropping and CutMix's mixing against loops over their papers' formulas."""

import copy
import math

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from hypothesis import given
from hypothesis import strategies as st

from auheat.data import cutmix
from auheat.data.cutmix import Batch, draw_box
from auheat.losses import au_alignment_loss
from auheat.models import adl
from auheat.models.adl import draw_drop
from auheat.models.registry import build_classifier


def dropped_by_loops(features, drop, threshold):
    out = np.zeros(features.shape)
    for b in range(len(features)):
        attention = sum(features[b, c] for c in range(features.shape[1])) / features.shape[1]
        for i, j in np.ndindex(attention.shape):
            hidden = attention[i, j] > threshold * attention.max()
            importance = 1 / (1 + math.exp(-attention[i, j]))
            out[b, :, i, j] = features[b, :, i, j] * ((0 if hidden else 1) if drop else importance)
    return out


def assert_dropping_equals_loops():
    features = np.random.default_rng(0).uniform(0, 2, (2, 5, 4, 3))
    for drop in (True, False):
        for threshold in (0.8, 0.95):
            got = adl.drop_attended(torch.from_numpy(features), torch.tensor(drop), threshold)
            expected = dropped_by_loops(features, drop, threshold)
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)
            assert not drop or (expected == 0).any()


def test_the_most_attended_places_are_hidden_or_all_are_weighted_by_importance():
    assert_dropping_equals_loops()


def test_the_drop_mask_is_drawn_at_the_papers_rate():
    torch.manual_seed(0)
    rate = np.mean([bool(draw_drop()) for _ in range(2000)])
    assert rate == pytest.approx(0.75, abs=0.03)
    assert (adl.DROP_RATE, adl.DROP_THRESHOLD) == (0.75, 0.8)


def assert_adl_drops_between_the_last_three_layers(monkeypatch):
    torch.manual_seed(0)
    model = build_classifier("adl", "thin", 3).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.double)
    drawn = [False, True, True]
    draws = iter(torch.tensor(value) for value in drawn)
    monkeypatch.setattr(adl, "draw_drop", lambda: next(draws))
    output = model.train()(images)
    trunk = model.backbone
    by_hand = [trunk.relu(trunk.bn1(trunk.conv1((images - model.image_mean) / model.image_std)))]
    by_hand.append(trunk.layer1(trunk.maxpool(by_hand[0])))
    by_hand.append(trunk.layer2(by_hand[1]))
    for stage, drop in ((trunk.layer3, False), (trunk.layer4, True)):
        seen = torch.from_numpy(dropped_by_loops(by_hand[-1].detach().numpy(), drop, 0.8))
        # without its hook, which would drop once more
        by_hand.append(torch.nn.Sequential(*stage)(seen))
    for layer, expected in zip(output.features, by_hand, strict=True):
        np.testing.assert_allclose(layer.detach().numpy(), expected.detach().numpy(), atol=1e-9)
    top = dropped_by_loops(by_hand[-1].detach().numpy(), True, 0.8)
    expected = model.head.fc(torch.from_numpy(top).mean((2, 3)))
    np.testing.assert_allclose(output.logits.detach().numpy(), expected.detach().numpy(), atol=1e-9)


def test_adl_drops_what_goes_on_and_leaves_the_features_the_au_loss_sees(monkeypatch):
    assert_adl_drops_between_the_last_three_layers(monkeypatch)


def test_adl_has_cams_parameters_and_in_evaluation_its_output():
    torch.manual_seed(0)
    plain, model = (build_classifier(m, "thin", 3).eval() for m in ("cam", "adl"))
    model.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    a, b = plain(images), copy.deepcopy(model)(images)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.maps, b.maps)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.floats(0, 1))
def test_a_box_is_the_papers_clipped_to_the_image(kept, y, x):
    height, width = 40, 64
    top, bottom, left, right = draw_box(height, width, kept, y, x)
    tall, wide = height * math.sqrt(1 - kept), width * math.sqrt(1 - kept)
    assert top == round(min(max(y * height - tall / 2, 0), height))
    assert bottom == round(min(max(y * height + tall / 2, 0), height))
    assert left == round(min(max(x * width - wide / 2, 0), width))
    assert right == round(min(max(x * width + wide / 2, 0), width))


def make_batch(n=4, side=12, cells=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    heatmaps = torch.from_numpy(rng.uniform(size=(n, cells, cells)).astype(np.float32))
    valid = torch.tensor([True, False, True, True][:n])
    heatmaps[~valid] = torch.nan  # what is not valid must not be read
    images = torch.from_numpy(rng.uniform(size=(n, 3, side, side)).astype(np.float32))
    maps = torch.from_numpy(rng.uniform(size=(n, classes, cells, cells)).astype(np.float32))
    faces = torch.tensor([True, True, False, True][:n])
    measures = torch.from_numpy(rng.normal(size=(n, 5)).astype(np.float32))
    return Batch(images, heatmaps, torch.arange(n) % classes, valid, maps, faces, measures)


def mixed_by_loops(batch, classes, generator):
    """CutMix pixel by pixel; a heatmap is mixed on the image's grid and averaged over its cells."""
    kept, x, y = torch.rand(3, generator=generator).tolist()
    order = torch.randperm(len(batch.images), generator=generator).tolist()
    n, _, height, width = batch.images.shape
    cells = batch.heatmaps.shape[1]
    per = height // cells
    half = math.sqrt(1 - kept) / 2
    rows = [
        i for i in range(height) if round(height * (y - half)) <= i < round(height * (y + half))
    ]
    cols = [j for j in range(width) if round(width * (x - half)) <= j < round(width * (x + half))]
    images, labels = batch.images.numpy().copy(), np.zeros((n, classes))
    heatmaps, known = np.zeros((n, cells, cells)), np.zeros((n, cells, cells))
    maps, faces = np.zeros((n, classes, cells, cells)), np.zeros((n, cells, cells))
    measures = np.zeros((n, 5))
    for b in range(n):
        for i, j in np.ndindex(height, width):
            source = order[b] if i in rows and j in cols else b
            images[b, :, i, j] = batch.images[source, :, i, j]
            labels[b, batch.labels[source]] += 1 / (height * width)
            measures[b] += batch.measures[source].numpy() / (height * width)
            seen = batch.class_maps[source, :, i // per, j // per].numpy()
            maps[b, :, i // per, j // per] += seen / per**2
            cell = (b, i // per, j // per)
            faces[cell] += batch.faces[source].item() / per**2
            if batch.valid[source]:
                heatmaps[cell] += batch.heatmaps[source, i // per, j // per].item() / per**2
                known[cell] += 1 / per**2
    return images, heatmaps, labels, known, maps, faces, measures


def assert_cutmix_equals_loops():
    batch = make_batch()
    for seed in range(6):
        got = cutmix.cutmix(batch, 3, torch.Generator().manual_seed(seed))
        expected = mixed_by_loops(batch, 3, torch.Generator().manual_seed(seed))
        for value, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(value.numpy(), wanted, atol=1e-5)


def test_cutmix_pastes_photo_heatmap_label_and_validity_by_one_box():
    assert_cutmix_equals_loops()


def test_cutmix_leaves_its_batch_alone_and_a_seed_decides():
    batch = make_batch()
    before = batch.images.clone()
    a, b = (cutmix.cutmix(batch, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(batch.images, before)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_pasted_part_of_a_face_that_is_not_valid_neither_draws_nor_repels_attention():
    batch = make_batch(n=2)
    for seed in range(20):
        mixed = cutmix.cutmix(batch, 3, torch.Generator().manual_seed(seed))
        unknown = mixed.valid[0] == 0
        if unknown.any() and (mixed.valid[0] > 0).any():
            break
    assert unknown.any()
    features = torch.rand(2, 5, 4, 4)
    elsewhere = features + 7 * unknown * torch.tensor([1.0, 0.0])[:, None, None, None]
    losses = [au_alignment_loss(f, mixed.heatmaps, mixed.valid) for f in (features, elsewhere)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("check", "owner", "name", "old", "new"),
    [
        ("drop", adl, "drop_attended", "attention.sigmoid()", "torch.ones_like(mask)"),
        ("drop", adl, "drop_attended", "attention <= bound", "attention > bound"),
        ("drop", adl, "drop_attended", "threshold * ", ""),
        ("adl", adl.AdlNetwork, "forward", "if self.training else", "if False else"),
        ("adl", adl, "_drop_in_training", "if stage.training", "if False"),
        (
            "adl",
            adl.AdlNetwork,
            "forward",
            "features=tuple(features)",
            "features=(*features[:-1], top)",
        ),
        ("mix", cutmix, "draw_box", "max(middle * side - half, 0)", "middle * side - half"),
        ("mix", cutmix, "draw_box", "math.sqrt(1 - kept)", "(1 - kept)"),
        ("mix", cutmix, "cutmix", "(1 - area) * shares + area", "kept * shares + (1 - kept)"),
        ("mix", cutmix, "cutmix", "(1 - part) * values[order]", "(1 - part) * values"),
        ("mix", cutmix, "cutmix", "mix_known(batch.valid)", "batch.valid[:, None, None] * part"),
        ("mix", cutmix, "cutmix", "else mix_known(batch.faces)", "else mix_known(batch.valid)"),
    ],
)
def test_a_regularizer_that_is_off_is_noticed(check, owner, name, old, new, monkeypatch):
    checks = {
        "drop": assert_dropping_equals_loops,
        "adl": lambda: assert_adl_drops_between_the_last_three_layers(monkeypatch),
        "mix": assert_cutmix_equals_loops,
    }
    mutate(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        checks[check]()
