"""The loss against NumPy written from equations 1 to 3."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from auheat import losses
from auheat.errors import RequestError
from auheat.losses import (
    au_alignment_loss,
    class_map_alignment_loss,
    contrastive_alignment_loss,
    total_loss,
)
from auheat.models.output import Output, attention, tokens_to_map
from auheat.utils.maps import resize_heatmap

RNG = np.random.default_rng(0)


def cosine_by_hand(t, a):
    product = sum(x * y for x, y in zip(t.ravel(), a.ravel(), strict=True))
    return product / (np.sqrt((t**2).sum()) * np.sqrt((a**2).sum()))


def shrink_by_hand(a, factor):
    h, w = a.shape[0] // factor, a.shape[1] // factor
    return a.reshape(h, factor, w, factor).mean((1, 3))


def test_attention_is_the_channel_mean():
    features = RNG.normal(size=(2, 5, 3, 4))
    by_hand = sum(features[:, j] for j in range(5)) / 5
    np.testing.assert_allclose(attention(torch.tensor(features)), by_hand)


def test_alignment_equals_one_minus_cosine_by_hand_over_valid_rows():
    features, heatmap = RNG.normal(size=(3, 6, 7, 7)), RNG.uniform(size=(3, 28, 28))
    valid = torch.tensor([True, False, True])
    expected = np.mean(
        [1 - cosine_by_hand(features[i].mean(0), shrink_by_hand(heatmap[i], 4)) for i in (0, 2)]
    )
    got = au_alignment_loss(torch.tensor(features), torch.tensor(heatmap), valid)
    assert got.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float32, (2, 3, 4, 4), elements=st.floats(-9, 9, width=32)),
    arrays(np.float32, (2, 8, 8), elements=st.floats(0, 1, width=32)),
)
def test_alignment_lies_in_0_2_and_its_gradient_is_finite(features, heatmap):
    inputs = torch.tensor(features, requires_grad=True)
    loss = au_alignment_loss(inputs, torch.tensor(heatmap), torch.tensor([True, True]))
    loss.backward()
    assert -1e-5 <= loss.item() <= 2 + 1e-5
    assert torch.isfinite(inputs.grad).all()


def test_alignment_ignores_scale_and_the_heatmap_of_rows_that_are_not_valid():
    features, heatmap = torch.rand(2, 3, 6, 6), torch.rand(2, 12, 12)
    valid = torch.tensor([True, False])
    loss = au_alignment_loss(features, heatmap, valid)
    heatmap[1] = torch.nan
    torch.testing.assert_close(au_alignment_loss(7 * features, 255 * heatmap, valid), loss)


def test_without_a_valid_row_alignment_is_exactly_zero_and_still_differentiable():
    features = torch.rand(2, 3, 6, 6, requires_grad=True)
    loss = au_alignment_loss(features, torch.full((2, 6, 6), torch.nan), torch.zeros(2).bool())
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_attention_that_equals_the_heatmap_has_no_loss():
    heatmap = torch.rand(2, 14, 14)
    features = heatmap[:, None].expand(-1, 8, -1, -1)
    assert au_alignment_loss(features, heatmap, torch.ones(2).bool()).item() < 1e-6


@pytest.mark.parametrize("side", [7, 14, 28, 40])
def test_the_published_codes_target_is_torchs_interpolation_with_its_flags(side):
    features, heatmap = torch.randn(3, 6, side, side), torch.rand(3, 28, 28)
    flags = {"mode": "bilinear", "align_corners": True, "antialias": True}
    target = torch.nn.functional.interpolate(heatmap[:, None], (side, side), **flags)[:, 0]
    expected = np.mean(
        [
            1 - cosine_by_hand(t.mean(0).numpy(), a.numpy())
            for t, a in zip(features, target, strict=True)
        ]
    )
    got = au_alignment_loss(features, heatmap, torch.ones(3).bool(), "reference")
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_heatmap_is_enlarged_bilinearly_for_a_finer_layer():
    ramp = torch.arange(4.0).expand(1, 4, 4)
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert resize_heatmap(ramp, (8, 8))[0, 3].tolist() == pytest.approx(expected)


def make_output(n=4, classes=3):
    features = tuple(torch.rand(n, 5, 8 // 2**i, 8 // 2**i) for i in (0, 0, 1, 1, 1))
    return Output(torch.randn(n, classes), torch.rand(n, classes, 4, 4), (), features)


def cross_entropy_by_hand(logits, labels):
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), labels]).mean()


def test_total_is_equation_3_with_one_term_per_layer_and_auxiliary_logits():
    output, labels = make_output(), torch.tensor([0, 1, 2, 0])
    output = output._replace(aux_logits=(torch.randn(4, 3),))
    heatmap, valid = torch.rand(4, 8, 8), torch.tensor([True, True, False, True])
    loss = total_loss(output, labels, heatmap, valid, 4.0, (3, 5))
    logits = [output.logits, *output.aux_logits]
    classes = sum(cross_entropy_by_hand(v.numpy(), labels.numpy()) for v in logits)
    terms = [au_alignment_loss(output.features[n], heatmap, valid).item() for n in (2, 4)]
    assert loss.total.item() == pytest.approx(classes + 4 * sum(terms), rel=1e-5)
    assert loss.classes.item() == pytest.approx(classes, rel=1e-5)
    assert loss.alignment.item() == pytest.approx(sum(terms), rel=1e-5)


@pytest.mark.parametrize("au_weight", [0.0, 4.0])
def test_without_a_valid_row_the_total_is_exactly_cross_entropy(au_weight):
    output, labels = make_output(), torch.tensor([0, 1, 2, 0])
    loss = total_loss(output, labels, torch.rand(4, 8, 8), torch.zeros(4).bool(), au_weight)
    assert torch.equal(loss.total, torch.nn.functional.cross_entropy(output.logits, labels))


def test_soft_labels_weigh_the_log_probabilities_by_hand():
    output = make_output()
    shares = torch.tensor([[0.2, 0.8, 0], [1, 0, 0], [0, 0.5, 0.5], [0.1, 0.2, 0.7]])
    loss = total_loss(output, shares, torch.rand(4, 8, 8), torch.zeros(4).bool(), 4.0)
    e = np.exp(output.logits.numpy())
    log_p = np.log(e / e.sum(1, keepdims=True))
    assert loss.total.item() == pytest.approx(-(shares.numpy() * log_p).sum(1).mean(), rel=1e-5)


def assert_known_shares_by_hand():
    features, whole = RNG.normal(size=(3, 4, 4, 4)), RNG.uniform(size=(3, 8, 8))
    known = RNG.uniform(size=(3, 8, 8))
    known[0, :3] = 0
    known[1] = 0
    heatmap = known * whole
    heatmap[known == 0] = np.nan
    rows = []
    for i in (0, 2):
        seen = features[i].mean(0) * shrink_by_hand(known[i], 2)
        wanted = shrink_by_hand(known[i] * whole[i], 2)
        rows.append((known[i].mean(), 1 - cosine_by_hand(seen, wanted)))
    expected = sum(a * b for a, b in rows) / sum(a for a, _ in rows)
    got = au_alignment_loss(*(torch.tensor(v) for v in (features, heatmap, known)))
    assert got.item() == pytest.approx(expected, abs=1e-6)


def test_known_shares_limit_the_comparison_and_weigh_the_row():
    assert_known_shares_by_hand()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" * resize_heatmap(area, size, align)", ""),
        ("weight * (1 - ", "(1 - "),
        ("1 - (seen", "(seen"),
    ],
)
def test_a_loss_that_is_off_is_noticed(old, new, monkeypatch):
    mutate(monkeypatch, losses, "au_alignment_loss", old, new)
    monkeypatch.setitem(globals(), "au_alignment_loss", losses.au_alignment_loss)
    with pytest.raises(AssertionError):
        assert_known_shares_by_hand()


def test_everything_known_is_the_same_as_valid():
    features, heatmap = torch.randn(2, 3, 6, 6), torch.rand(2, 12, 12)
    valid = torch.tensor([True, False])
    everywhere = valid[:, None, None].expand(-1, 12, 12).float()
    for size in (6, 24):
        shown = torch.nn.functional.interpolate(features, (size, size))
        torch.testing.assert_close(
            au_alignment_loss(shown, heatmap, everywhere), au_alignment_loss(shown, heatmap, valid)
        )


def pearson_by_hand(t, a, known):
    """The weighted correlation, of loops over cells."""
    total = known.sum()
    mean_t, mean_a = (known * t).sum() / total, (known * a).sum() / total
    up = (known * (t - mean_t) * (a - mean_a)).sum()
    down = (known * (t - mean_t) ** 2).sum() * (known * (a - mean_a) ** 2).sum()
    return up / np.sqrt(down)


def assert_contrast_by_hand():
    """Four classes, the third without a map; row 1 is not known, row 2 in part and mixed."""
    class_weights = np.array([0.5, 3.0, 1.0, 2.0])
    features, maps = RNG.normal(size=(3, 5, 4, 4)), RNG.uniform(size=(3, 4, 8, 8))
    maps[:, 2] = 0
    known = np.ones((3, 8, 8))
    known[1] = 0
    known[2, :, :6] = RNG.uniform(size=(8, 6))
    shares = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.3, 0.2, 0.4, 0.1]])
    rows = []
    for i in (0, 2):
        there = shrink_by_hand(known[i], 2)
        t = features[i].mean(0)
        e = [
            np.exp(10 * pearson_by_hand(t, shrink_by_hand(maps[i, k], 2), there)) for k in (0, 1, 3)
        ]
        p = np.array(e) / sum(e)
        wanted = shares[i, [0, 1, 3]] / shares[i, [0, 1, 3]].sum()
        heard = wanted * class_weights[[0, 1, 3]]
        rows.append((known[i].mean(), -(heard * np.log(p)).sum()))
    expected = sum(a * b for a, b in rows) / sum(a for a, _ in rows)
    given = features, maps, shares, known, class_weights
    got = contrastive_alignment_loss(*(torch.tensor(v) for v in given))
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_contrast_is_the_cross_entropy_of_correlations_with_the_classes_heatmaps():
    assert_contrast_by_hand()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale * r", "r"),
        ("weight * rows", "rows"),
        ("wanted * class_weights", "wanted"),
        ("torch.where(has_map, scale * r, -torch.inf)", "scale * r"),
        (", resize_heatmap(area, size))", ", torch.ones_like(resize_heatmap(area, size)))"),
    ],
)
def test_a_contrast_that_is_off_is_noticed(old, new, monkeypatch):
    mutate(monkeypatch, losses, "contrastive_alignment_loss", old, new)
    monkeypatch.setitem(globals(), "contrastive_alignment_loss", losses.contrastive_alignment_loss)
    with pytest.raises(AssertionError):
        assert_contrast_by_hand()


def test_a_heatmap_that_is_zero_in_places_has_its_part_in_the_contrast():
    """As every heatmap of a face has: nothing in the corners."""
    features, labels = torch.rand(2, 4, 6, 6), torch.tensor([0, 1])
    maps = torch.rand(2, 3, 12, 12)
    faint = maps.clone()
    maps[:, :, 0, 0], faint[:, :, 0, 0] = 0, 1e-7
    losses_of = [
        contrastive_alignment_loss(features, m, labels, torch.ones(2).bool()) for m in (maps, faint)
    ]
    assert losses_of[0].item() == pytest.approx(losses_of[1].item(), abs=1e-5)
    assert losses_of[0] > 0


def test_contrast_knows_no_scale_nor_shift_and_is_least_at_the_own_classes_map():
    maps = torch.rand(2, 3, 6, 6)
    labels, valid = torch.tensor([0, 2]), torch.tensor([True, True])
    own = maps[torch.arange(2), labels][:, None]
    loss = contrastive_alignment_loss(own, maps, labels, valid)
    torch.testing.assert_close(contrastive_alignment_loss(3 * own - 7, maps, labels, valid), loss)
    other = maps[torch.arange(2), (labels + 1) % 3][:, None]
    assert loss < contrastive_alignment_loss(other, maps, labels, valid)


def test_contrast_has_no_part_in_rows_without_a_heatmap_of_their_class():
    features = torch.rand(3, 4, 5, 5, requires_grad=True)
    maps = torch.rand(3, 3, 10, 10)
    maps[:, 2] = 0
    maps[1] = torch.nan  # nothing is known of this face
    valid = torch.tensor([True, False, True])
    loss = contrastive_alignment_loss(features, maps, torch.tensor([0, 1, 2]), valid)
    loss.backward()
    alone = contrastive_alignment_loss(features[:1], maps[:1], torch.tensor([0]), valid[:1])
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    assert torch.isfinite(features.grad).all()
    assert not features.grad[1:].any()
    nothing = contrastive_alignment_loss(features, maps, torch.tensor([0, 1, 2]), valid & False)
    assert nothing.item() == 0


def test_the_total_adds_the_weighted_contrast_of_each_layer():
    output, labels = make_output(), torch.tensor([0, 1, 2, 0])
    heatmap, maps, valid = torch.rand(4, 8, 8), torch.rand(4, 3, 8, 8), torch.ones(4).bool()
    loss = total_loss(output, labels, heatmap, valid, 4.0, (3, 5), 0.5, maps)
    plain = total_loss(output, labels, heatmap, valid, 4.0, (3, 5))
    terms = [contrastive_alignment_loss(output.features[n], maps, labels, valid) for n in (2, 4)]
    assert loss.contrast.item() == pytest.approx(sum(terms).item(), rel=1e-5)
    assert loss.total.item() == pytest.approx((plain.total + 0.5 * sum(terms)).item(), rel=1e-5)


def assert_class_maps_by_hand():
    """Four classes, the third without a map; row 1 has no face, row 2 is known in part."""
    maps, targets = RNG.normal(size=(3, 4, 4, 4)), RNG.uniform(size=(3, 4, 8, 8))
    targets[:, 2] = 0
    targets[0, 3] = 0  # a side turned away: this class has nothing on this face
    known = np.ones((3, 8, 8))
    known[1] = 0
    known[2, :, :6] = RNG.uniform(size=(8, 6))
    targets = targets * known[:, None]  # as CutMix mixes them
    rows = []
    for i, classes in ((0, (0, 1)), (2, (0, 1, 3))):
        there, apart = shrink_by_hand(known[i], 2), []
        for k in classes:
            seen = np.maximum(maps[i, k], 0) * there
            wanted = shrink_by_hand(targets[i, k], 2)
            norms = np.sqrt((seen**2).sum()) * np.sqrt((wanted**2).sum())
            apart.append(1 - (seen * wanted).sum() / norms)
        rows.append((known[i].mean(), np.mean(apart)))
    expected = sum(a * b for a, b in rows) / sum(a for a, _ in rows)
    given = (torch.tensor(v) for v in (maps, targets, known))
    assert class_map_alignment_loss(*given).item() == pytest.approx(expected, rel=1e-4)


def test_the_class_map_loss_is_the_mean_of_each_classes_distance_from_its_own_heatmap():
    assert_class_maps_by_hand()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".relu()", ""),
        ("weight * apart.sum(1)", "apart.sum(1)"),
        (" * resize_heatmap(area, size, align)[:, None]", ""),
        ("has_map.sum(1).clamp(min=1)", "has_map.shape[1]"),
        ("has_map * (1 -", "(1 -"),
        ("(seen * wanted).sum(2)", "(seen * wanted.flip(1)).sum(2)"),
    ],
)
def test_a_class_map_loss_that_is_off_is_noticed(old, new, monkeypatch):
    mutate(monkeypatch, losses, "class_map_alignment_loss", old, new)
    monkeypatch.setitem(globals(), "class_map_alignment_loss", losses.class_map_alignment_loss)
    with pytest.raises(AssertionError):
        assert_class_maps_by_hand()


def test_class_maps_of_rows_without_a_face_have_no_gradient_whatever_stands_there():
    maps, targets = torch.randn(3, 2, 5, 5, requires_grad=True), torch.rand(3, 2, 10, 10)
    targets[1] = torch.nan
    faces = torch.tensor([True, False, True])
    class_map_alignment_loss(maps, targets, faces).backward()
    assert torch.isfinite(maps.grad).all()
    assert not maps.grad[1].any()
    assert maps.grad[0].any()
    assert class_map_alignment_loss(maps, targets, faces & False).item() == 0


def test_the_total_adds_the_weighted_class_maps_and_weight_0_leaves_no_trace():
    output, labels = make_output(), torch.tensor([0, 1, 2, 0])
    heatmap, maps, valid = torch.rand(4, 8, 8), torch.rand(4, 3, 8, 8), torch.ones(4).bool()
    plain = total_loss(output, labels, heatmap, valid, 4.0)
    own = class_map_alignment_loss(output.maps, maps, valid)
    loss = total_loss(
        output, labels, heatmap, valid, 4.0, class_maps=maps, class_map_weight=0.5, faces=valid
    )
    assert loss.class_maps.item() == own.item() > 0
    assert loss.total.item() == pytest.approx((plain.total + 0.5 * own).item(), rel=1e-6)
    none = total_loss(output, labels, heatmap, valid, 4.0, class_maps=maps, faces=valid)
    assert (none.total.item(), none.class_maps.item()) == (plain.total.item(), 0)


def make_case(h=7, w=7, channels=6, rows=3):
    """Features (B, C, h, w), heatmaps of four times their size, and which rows are valid."""
    torch.manual_seed(2)
    features = torch.randn(rows, channels, h, w)
    return features, torch.rand(rows, 4 * h, 4 * w), torch.tensor([True, False, True])[:rows]


@pytest.mark.parametrize("size", [(7, 7), (5, 8)])
def test_channels_last_and_tokens_have_the_loss_of_the_map_that_they_are(size):
    features, heatmap, valid = make_case(*size)
    expected = au_alignment_loss(features, heatmap, valid)
    last = features.permute(0, 2, 3, 1)
    assert torch.equal(au_alignment_loss(last, heatmap, valid, layout="NHWC"), expected)
    tokens = torch.cat([torch.full((3, 5, 6), 9.0), last.reshape(3, -1, 6)], 1)
    maps = tokens_to_map(tokens, size)
    assert torch.equal(maps, features)
    torch.testing.assert_close(au_alignment_loss(maps, heatmap, valid), expected)
    class_maps, labels = torch.rand(3, 4, 28, 28 * size[1] // size[0]), torch.tensor([0, 3, 1])
    contrast = contrastive_alignment_loss(features, class_maps, labels, valid)
    read = contrastive_alignment_loss(last, class_maps, labels, valid, layout="NHWC")
    torch.testing.assert_close(read, contrast)


def test_tokens_lie_row_by_row_behind_those_that_have_no_place():
    tokens = torch.arange(2 * 14 * 3.0).view(2, 14, 3)
    for maps in (
        tokens_to_map(tokens, (3, 4)),
        tokens_to_map(tokens, prefix=2, grid=(3, 4)),
    ):
        assert maps.shape == (2, 3, 3, 4)
        for y, x in np.ndindex(3, 4):
            assert torch.equal(maps[:, :, y, x], tokens[:, 2 + 4 * y + x])
    square = tokens_to_map(tokens, prefix=5)
    assert torch.equal(square[:, :, 2, 1], tokens[:, 5 + 3 * 2 + 1])
    assert torch.equal(tokens_to_map(tokens[:, 5:]), square)


@pytest.mark.parametrize(
    ("shape", "asked", "words"),
    [
        (
            (2, 197, 8),
            {},
            r"tokens: 197, less prefix=0, are no square grid \(prefix=1 leaves 14 x 1",
        ),
        ((2, 261, 8), {"prefix": 1}, r"261, less prefix=1, .*\(prefix=5 leaves 16 x 16"),
        (
            (2, 197, 8),
            {"grid": (16, 16)},
            r"197, less prefix=0, are no grid of 16 x 16 \(expected 256",
        ),
        (
            (2, 197, 8),
            {"grid": (14, 14), "prefix": 2},
            "197, less prefix=2, are no grid of 14 x 14",
        ),
        ((2, 8, 14, 14), {}, r"tokens: \(2, 8, 14, 14\) \(expected \(B, N, C\)\)"),
        ((2, 0, 8), {}, "tokens: 0, less prefix=0, are no square grid"),
    ],
)
def test_tokens_that_are_no_grid_are_refused_with_what_would_be(shape, asked, words):
    with pytest.raises(RequestError, match=words):
        tokens_to_map(torch.zeros(shape), **asked)


FEATURES, HEATMAPS, CLASS_MAPS = (3, 16, 7, 7), (3, 28, 28), (3, 4, 28, 28)


@pytest.mark.parametrize(
    ("features", "heatmap", "valid", "asked", "words"),
    [
        (
            (3, 50, 16),
            HEATMAPS,
            (3,),
            {},
            r"features: \(3, 50, 16\) .*auheat\.tokens_to_map\(tokens",
        ),
        ((3, 16), HEATMAPS, (3,), {}, r"features: \(3, 16\) \(expected \(B, C, h, w\)\)"),
        ((3, 7, 7, 16), HEATMAPS, (3,), {}, 'features: .* layout="NHWC" reads them the other way'),
        ((3, 5, 8, 16), (3, 20, 32), (3,), {}, 'layout="NHWC" reads them the other way'),
        (FEATURES, HEATMAPS, (3,), {"layout": "NHWC"}, 'layout="NCHW" reads them the other way'),
        (
            FEATURES,
            HEATMAPS,
            (3,),
            {"layout": "HWC"},
            "layout: 'HWC' is not known .one of NCHW, NHWC",
        ),
        (FEATURES, (3, 1, 28, 28), (3,), {}, r"heatmap: \(3, 1, 28, 28\) \(expected \(B, H, W\)"),
        (
            FEATURES,
            (1, 28, 28),
            (3,),
            {},
            r"heatmap: \(1, 28, 28\) \(expected \(B, H, W\) with B = 3",
        ),
        (
            FEATURES,
            HEATMAPS,
            (2,),
            {},
            r"valid: \(2,\) \(expected \(B,\) or \(B, H, W\) with B = 3",
        ),
        (FEATURES, (3,), (3,), {}, r"heatmap: \(3,\) \(expected \(B, H, W\)"),
        (FEATURES, HEATMAPS, (3, 1), {}, r"valid: \(3, 1\) \(expected"),
        (
            FEATURES,
            HEATMAPS,
            (3, 7, 7),
            {},
            r"valid: \(3, 7, 7\) \(expected \(3, 28, 28\), as heat",
        ),
        (FEATURES, HEATMAPS, (3,), {"align": "nearest"}, "align: 'nearest' is not known"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(features, heatmap, valid, asked, words):
    known = torch.ones(valid) > 0 if len(valid) < 3 else torch.ones(valid)
    with pytest.raises(RequestError, match=words):
        au_alignment_loss(torch.rand(features), torch.rand(heatmap), known, **asked)


@pytest.mark.parametrize(
    ("features", "class_maps", "labels", "words"),
    [
        ((3, 50, 16), CLASS_MAPS, (3,), r"auheat\.tokens_to_map"),
        ((3, 7, 7, 16), CLASS_MAPS, (3,), 'layout="NHWC"'),
        (FEATURES, HEATMAPS, (3,), r"class_maps: \(3, 28, 28\) \(expected \(B, K, H, W\)"),
        (FEATURES, (3,), (3,), r"class_maps: \(3,\) \(expected \(B, K, H, W\)"),
        (
            FEATURES,
            CLASS_MAPS,
            (2,),
            r"labels: \(2,\) \(expected \(3,\) classes, or \(3, 4\) shares",
        ),
        (FEATURES, CLASS_MAPS, (3, 5), r"labels: \(3, 5\)"),
    ],
)
def test_shapes_of_a_contrast_are_checked(features, class_maps, labels, words):
    with pytest.raises(RequestError, match=words):
        contrastive_alignment_loss(
            torch.rand(features),
            torch.rand(class_maps),
            torch.zeros(labels, dtype=torch.long),
            torch.ones(3).bool(),
        )


@pytest.mark.parametrize(
    ("maps", "class_maps", "faces", "words"),
    [
        ((3, 49, 4), CLASS_MAPS, (3,), r"maps: \(3, 49, 4\) .*auheat\.tokens_to_map\(tokens"),
        ((3, 7, 7, 4), CLASS_MAPS, (3,), r"maps\.permute\(0, 3, 1, 2\) puts the classes first"),
        ((3, 5, 7, 7), CLASS_MAPS, (3,), r"maps: \(3, 5, 7, 7\) and class_maps: \(3, 4, 28, 28\)"),
        ((2, 4, 7, 7), CLASS_MAPS, (2,), "with the same B and K"),
        ((3, 4, 7, 7), HEATMAPS, (3,), r"class_maps: \(3, 28, 28\) \(expected"),
        (
            (3, 4, 7, 7),
            CLASS_MAPS,
            (4,),
            r"faces: \(4,\) \(expected \(B,\) or \(B, H, W\) with B = 3",
        ),
    ],
)
def test_shapes_of_class_maps_are_checked(maps, class_maps, faces, words):
    with pytest.raises(RequestError, match=words):
        class_map_alignment_loss(torch.rand(maps), torch.rand(class_maps), torch.ones(faces).bool())


def test_maps_whose_layout_cannot_be_seen_are_taken_as_they_are_said_to_be():
    heatmap, valid = torch.rand(3, 28, 28), torch.ones(3).bool()
    both = torch.rand(3, 7, 7, 7)  # as many channels as rows and columns
    first = au_alignment_loss(both, heatmap, valid)
    last = au_alignment_loss(both, heatmap, valid, layout="NHWC")
    assert torch.equal(au_alignment_loss(both.permute(0, 3, 1, 2), heatmap, valid), last)
    assert not torch.equal(first, last)
    odd = torch.rand(3, 7, 7, 16)  # seven channels of a wide map, by its owner's word
    assert torch.isfinite(au_alignment_loss(odd, heatmap, valid, layout="NCHW"))
