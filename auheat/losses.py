"""The training loss: cross-entropy, and alignment of attention and class maps with AU heatmaps.

`au_alignment_loss` and `contrastive_alignment_loss` work on the feature maps of any model,
`class_map_alignment_loss` on its class maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.errors import RequestError
from auheat.models.output import Output
from auheat.utils.checks import check_one_of
from auheat.utils.maps import RESAMPLINGS, resize_heatmap

_EPS = 1e-8


LAYOUTS = ("NCHW", "NHWC")
"""How features may lie: channels before the places, or after them."""


CONTRAST_SCALE = 10.0
"""What correlations are multiplied by before the softmax of `contrastive_alignment_loss`."""


class Loss(NamedTuple):
    """The loss to minimise and its parts before weighting, all scalars."""

    total: Tensor
    classes: Tensor
    alignment: Tensor
    contrast: Tensor
    class_maps: Tensor


def au_alignment_loss(
    features: Tensor,
    heatmap: Tensor,
    valid: Tensor,
    align: str = "area",
    layout: str | None = None,
) -> Tensor:
    """Compute the action-unit alignment loss: 1 - cosine similarity of attention and AU heatmap.

    Belharbi et al., Guided Interpretable Facial Expression Recognition via Spatial Action Unit
    Cues, FG 2024, eq. 2 and 3: the mean over valid rows of 1 - R(T, A), with the attention T the
    channel mean of the features. Features may have either sign: their mean is compared as it is,
    so a place of negative attention counts against the heatmap there. A is shrunk to T's size by
    area (enlarged bilinearly for a layer finer than the heatmap).

    Args:
        features: (B, C, h, w) feature maps of any layer of any model; `tokens_to_map` makes them of
            a transformer's tokens.
        heatmap: (B, H, W) AU heatmaps, of any non-negative scale.
        valid: (B,) bool, which rows have a heatmap: what stands in that of another, NaN included,
            has no effect. Or (B, H, W), the share in [0, 1] of each heatmap cell that is known,
            where the heatmap holds that share of the cell alone: T is then multiplied by it, so
            that what is not known neither draws nor repels attention, and a row counts by its
            known area.
        align: How A is brought to T's size: "area", or "reference" as the paper's published code
            does (`F.interpolate` with align_corners and antialias).
        layout: "NCHW", or "NHWC" for features (B, h, w, C); None is "NCHW", and refuses what by its
            shape can only be the other.

    Returns:
        A scalar in [0, 2]. With no valid row it is exactly 0, and gradients are zeros.

    Raises:
        RequestError: For shapes that do not go together, with what would.

    Example:
        >>> import torch
        >>> from auheat import au_alignment_loss
        >>> heatmaps = torch.rand(8, 28, 28)
        >>> features = heatmaps[:, None].expand(8, 16, 28, 28)  # attention as the heatmap has it
        >>> loss = au_alignment_loss(features, heatmaps, torch.ones(8, dtype=torch.bool))
        >>> abs(round(loss.item(), 3))
        0.0
    """
    _check_rows("heatmap", heatmap, 3, "(B, H, W)", len(features))
    features = _as_maps(features, layout, heatmap)
    _check_known("valid", valid, len(features))
    if valid.ndim == 3 and valid.shape != heatmap.shape:
        shape = tuple(heatmap.shape)
        raise RequestError(f"valid: {tuple(valid.shape)} (expected {shape}, as heatmap has it)")
    check_one_of("align", align, RESAMPLINGS)
    size = (features.shape[2], features.shape[3])
    area = valid.float() if valid.ndim == 3 else valid[:, None, None].float().expand_as(heatmap)
    target = resize_heatmap(torch.where(area > 0, heatmap.float(), 0), size, align)
    # summed in float32 as they are read: a copy of half-precision features would double the traffic
    seen = features.mean(1, dtype=torch.float32) * resize_heatmap(area, size, align)
    seen = F.normalize(seen.flatten(1), dim=1, eps=_EPS)
    wanted = F.normalize(target.flatten(1), dim=1, eps=_EPS)
    weight = area.mean((1, 2))
    apart = torch.where(weight > 0, weight * (1 - (seen * wanted).sum(1)), 0)
    return apart.sum() / torch.where(weight.sum() > 0, weight.sum(), 1)


def contrastive_alignment_loss(
    features: Tensor,
    class_maps: Tensor,
    labels: Tensor,
    valid: Tensor,
    class_weights: Tensor | None = None,
    scale: float = CONTRAST_SCALE,
    layout: str | None = None,
) -> Tensor:
    """Compute the contrastive alignment loss: attention against all classes' heatmaps on a face.

    With T the attention, A_k the heatmap that class k would have on the same face and r their
    centred cosine (Pearson's), it is the mean over valid rows of -log softmax_k(scale r(T, A_k))
    at the own class: the InfoNCE loss (van den Oord et al., Representation Learning with
    Contrastive Predictive Coding, 2018, eq. 4) of a map among maps. It is small where r is higher
    for the own class than for every other, however alike the maps are; `au_alignment_loss` cannot
    ask that, since one map near the mean of all is near each.

    Args:
        features: (B, C, h, w) feature maps, as for `au_alignment_loss`.
        class_maps: (B, K, H, W) each class's heatmap on the row's face, all zero for a class that
            has none.
        labels: (B,) classes, or (B, K) shares, of which the classes without a map have no part.
        valid: As for `au_alignment_loss`; T and A_k are compared where it is known.
        class_weights: (K,) how much a row of each class counts, None for 1.
        scale: What correlations are multiplied by before the softmax.
        layout: As for `au_alignment_loss`.

    Returns:
        A scalar, 0 or more. With no valid row it is exactly 0, and gradients are zeros.

    Raises:
        RequestError: For shapes that do not go together, with what would.

    Example:
        >>> import torch
        >>> from auheat import contrastive_alignment_loss
        >>> maps = torch.eye(4).view(1, 4, 2, 2)  # four classes, each with a pixel of its own
        >>> label, valid = torch.tensor([2]), torch.tensor([True])
        >>> right = contrastive_alignment_loss(maps[:, 2:3], maps, label, valid)
        >>> wrong = contrastive_alignment_loss(maps[:, 1:2], maps, label, valid)
        >>> bool(right < 0.01), bool(wrong > 9)
        (True, True)
    """
    _check_rows("class_maps", class_maps, 4, "(B, K, H, W)", len(features))
    features = _as_maps(features, layout, class_maps)
    _check_known("valid", valid, len(features))
    kinds = (len(features),), (len(features), class_maps.shape[1])
    if tuple(labels.shape) not in kinds:
        raise RequestError(
            f"labels: {tuple(labels.shape)} (expected {kinds[0]} classes, or {kinds[1]} shares)"
        )
    size = (features.shape[2], features.shape[3])
    area, weight, class_maps = _keep_known(class_maps, valid, size)
    has_map = class_maps.flatten(2).amax(2) > 0
    if labels.ndim == 1:
        labels = F.one_hot(labels, class_maps.shape[1])
    wanted = torch.where(has_map, labels.float(), 0)
    weight = torch.where(wanted.sum(1) > 0, weight, 0)
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=_EPS)
    maps = F.adaptive_avg_pool2d(class_maps, size)
    r = _correlate(features.mean(1, dtype=torch.float32), maps, resize_heatmap(area, size))
    log_probs = torch.where(has_map, scale * r, -torch.inf)
    log_probs = torch.where((weight > 0)[:, None], log_probs, 0).log_softmax(1)
    if class_weights is not None:
        wanted = wanted * class_weights
    rows = -torch.where(wanted > 0, wanted * log_probs, 0).sum(1)
    return (weight * rows).sum() / torch.where(weight.sum() > 0, weight.sum(), 1)


def class_map_alignment_loss(
    maps: Tensor, class_maps: Tensor, faces: Tensor, align: str = "area"
) -> Tensor:
    """Compute the class map loss: every class's map against its own heatmap on the same face.

    With M_k the class activation map of class k and A_k the heatmap that class k would have on the
    face, it is the mean over rows of the mean over k of 1 - cos(ReLU(M_k), A_k), whatever the
    row's label: "why Anger?" and "why not Fear?" are each asked where their own action units are.
    The cosine is eq. 2 of Belharbi et al. (FG 2024); what is compared is the map of a class, which
    no single attention map can be for all classes at once. What is below zero in a map speaks
    against its class, and may lie anywhere.

    Args:
        maps: (B, K, h, w) class maps of any model, of either sign.
        class_maps: (B, K, H, W) each class's heatmap on the row's face, of any non-negative scale;
            all zero for a class that has none, which then has no part.
        faces: (B,) bool, which rows have a face: what stands in the maps of another has no effect.
            Or (B, H, W), the share in [0, 1] of each cell that is known, as `au_alignment_loss`
            takes it.
        align: As for `au_alignment_loss`.

    Returns:
        A scalar in [0, 1]. With no row that has a face it is exactly 0, and gradients are zeros.

    Raises:
        RequestError: For shapes that do not go together, with what would.

    Example:
        >>> import torch
        >>> from auheat import class_map_alignment_loss
        >>> heatmaps = torch.eye(4).view(1, 4, 2, 2)  # four classes, each with a pixel of its own
        >>> face = torch.tensor([True])
        >>> right = class_map_alignment_loss(heatmaps, heatmaps, face)
        >>> wrong = class_map_alignment_loss(heatmaps.flip(1), heatmaps, face)
        >>> abs(round(right.item(), 3)), round(wrong.item(), 3)
        (0.0, 1.0)
    """
    _check_class_maps(maps, class_maps)
    _check_known("faces", faces, len(maps))
    check_one_of("align", align, RESAMPLINGS)
    size = (maps.shape[2], maps.shape[3])
    area, weight, class_maps = _keep_known(class_maps, faces, size)
    has_map = (class_maps.flatten(2).amax(2) > 0).float()
    target = resize_heatmap(class_maps.flatten(0, 1), size, align).view(maps.shape)
    seen = maps.float().relu() * resize_heatmap(area, size, align)[:, None]
    seen = F.normalize(seen.flatten(2), dim=2, eps=_EPS)
    wanted = F.normalize(target.flatten(2), dim=2, eps=_EPS)
    apart = has_map * (1 - (seen * wanted).sum(2))
    rows = torch.where(weight > 0, weight * apart.sum(1) / has_map.sum(1).clamp(min=1), 0)
    return rows.sum() / torch.where(weight.sum() > 0, weight.sum(), 1)


def _as_maps(features: Tensor, layout: str | None, heatmaps: Tensor) -> Tensor:
    """Return features as maps (B, C, h, w); raises `AuheatError` for what is none."""
    shape = tuple(features.shape)
    check_one_of("layout", layout or "NCHW", LAYOUTS)
    if features.ndim == 3:
        raise RequestError(
            f"features: {shape} (expected (B, C, h, w): auheat.tokens_to_map(tokens, prefix=1) "
            "makes a map of tokens (B, N, C))"
        )
    if features.ndim != 4:
        raise RequestError(f"features: {shape} (expected (B, C, h, w))")
    first, last = shape[2:], shape[1:3]
    own, other = (last, first) if layout == "NHWC" else (first, last)
    if layout != "NCHW" and not _has_shape_of(own, heatmaps) and _has_shape_of(other, heatmaps):
        read, found = ("(B, h, w, C)", "NCHW") if layout else ("(B, C, h, w)", "NHWC")
        raise RequestError(
            f"features: {shape} of heatmaps {tuple(heatmaps.shape)} (expected {read}: "
            f'layout="{found}" reads them the other way)'
        )
    return features.permute(0, 3, 1, 2) if layout == "NHWC" else features


def _has_shape_of(size: tuple[int, ...], heatmaps: Tensor) -> bool:
    """Whether a map (h, w) may be of the photos of heatmaps (..., H, W), but for rounding."""
    height, width = heatmaps.shape[-2:]
    return abs(size[1] * height - size[0] * width) < max(height, width)


def _check_rows(name: str, values: Tensor, ndim: int, expected: str, rows: int) -> None:
    if values.ndim != ndim or len(values) != rows:
        raise RequestError(f"{name}: {tuple(values.shape)} (expected {expected} with B = {rows})")


def _check_known(name: str, known: Tensor, rows: int) -> None:
    if known.ndim not in (1, 3) or len(known) != rows:
        raise RequestError(
            f"{name}: {tuple(known.shape)} (expected (B,) or (B, H, W) with B = {rows})"
        )


def _check_class_maps(maps: Tensor, class_maps: Tensor) -> None:
    """Raise `AuheatError` unless maps (B, K, h, w) and heatmaps (B, K, H, W) go together."""
    shape, wanted = tuple(maps.shape), tuple(class_maps.shape)
    if len(shape) == 3:
        raise RequestError(
            f"maps: {shape} (expected (B, K, h, w): auheat.tokens_to_map(tokens, prefix=1) makes "
            "maps of scores (B, N, K) of tokens)"
        )
    if len(shape) != 4 or len(wanted) != 4 or shape[:2] != wanted[:2]:
        last = len(shape) == len(wanted) == 4 and (shape[0], shape[3]) == wanted[:2]
        hint = "; maps.permute(0, 3, 1, 2) puts the classes first" if last else ""
        raise RequestError(
            f"maps: {shape} and class_maps: {wanted} (expected (B, K, h, w) and (B, K, H, W), with "
            f"the same B and K{hint})"
        )


def _keep_known(
    class_maps: Tensor, valid: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which area of rows is known, (B, h, w), its share (B,), and class maps, zero without.

    What is not known may be NaN, whose product with a gradient of zero would be NaN again.
    """
    area = valid.float() if valid.ndim == 3 else valid[:, None, None].expand(-1, *size).float()
    share = area.mean((1, 2))
    return area, share, torch.where((share > 0)[:, None, None, None], class_maps.float(), 0)


def _correlate(one: Tensor, maps: Tensor, area: Tensor) -> Tensor:
    """Return Pearson's r of maps (B, h, w) with maps (B, K, h, w), (B, K), weighted by `area`."""
    share = (area / area.sum((1, 2), keepdim=True).clamp(min=_EPS))[:, None].flatten(2)
    a, b = one[:, None].flatten(2), maps.flatten(2)
    a = (a - (share * a).sum(2, keepdim=True)) * share.sqrt()
    b = (b - (share * b).sum(2, keepdim=True)) * share.sqrt()
    return (F.normalize(a, dim=2, eps=_EPS) * F.normalize(b, dim=2, eps=_EPS)).sum(2)


def known_share(valid: Tensor) -> Tensor:
    """Return by how much each row counts in `au_alignment_loss`, (B,): its known share."""
    return valid.float() if valid.ndim == 1 else valid.float().mean((1, 2))


def total_loss(
    output: Output,
    labels: Tensor,
    heatmap: Tensor,
    valid: Tensor,
    au_weight: float,
    layers: Sequence[int] = (5,),
    contrast_weight: float = 0.0,
    class_maps: Tensor | None = None,
    class_weights: Tensor | None = None,
    align: str = "area",
    class_map_weight: float = 0.0,
    faces: Tensor | None = None,
) -> Loss:
    """Return eq. 3, cross-entropy + `au_weight` x alignment, + weighted contrast and class maps.

    Cross-entropy is summed over the logits and every set of auxiliary logits, alignment and
    contrast over the `layers`, which count from 1, shallow to deep, or back from the top, -1.
    Labels are (B,) classes, or (B, K) shares that sum to one; heatmap and valid are
    `au_alignment_loss`'s, `class_maps` (for a contrast or the class maps' loss) and
    `class_weights` `contrastive_alignment_loss`'s, `faces` `class_map_alignment_loss`'s; `align`
    is how heatmaps are brought to a layer's size. With all weights 0 it is the plain classifier.
    """
    classes = sum(
        (F.cross_entropy(logits, labels) for logits in output.aux_logits),
        F.cross_entropy(output.logits, labels),
    )
    alignment = contrast = own = torch.zeros_like(classes)
    aligned = [output.features[n - 1 if n > 0 else n] for n in layers]
    if au_weight:
        terms = [au_alignment_loss(f, heatmap, valid, align, "NCHW") for f in aligned]
        alignment = torch.stack(terms).sum()
    if contrast_weight:
        assert class_maps is not None
        inputs = class_maps, labels, valid, class_weights
        terms = [contrastive_alignment_loss(f, *inputs, layout="NCHW") for f in aligned]
        contrast = torch.stack(terms).sum()
    if class_map_weight:
        assert class_maps is not None
        assert faces is not None
        own = class_map_alignment_loss(output.maps, class_maps, faces, align)
    parts = classes, alignment, contrast, own
    return Loss(add_up(parts, (au_weight, contrast_weight, class_map_weight)), *parts)


def add_up(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the loss of its parts: cross-entropy, and the others times their weights.

    A part of weight 0 has no gradient, and may be anything.
    """
    total, *weighted = parts
    for weight, part in zip(weights, weighted, strict=True):
        if weight:
            total = total + weight * part
    return total
