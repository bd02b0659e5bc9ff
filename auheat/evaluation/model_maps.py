"""Attention and class maps of a batch, a classifier's or another tool's, resampled to one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from auheat.models.geometry import GeometryNetwork, group_points
from auheat.models.network import Classifier
from auheat.models.output import attention
from auheat.models.resnet import N_LAYERS
from auheat.utils.maps import enlarge, locate_maximum, min_max, on_reference_grid

CAM, CAM_PREDICTED, GIVEN = "CAM", "CAM predicted", "map"


class Maps(NamedTuple):
    """Logits (N, K) and maps of a classifier for N images, at their own sizes.

    `attention` has (N, h, w) of each layer, shallow to deep; `cams` (N, K, h, w). Of a network with
    a geometry branch `evidence` (N, 1 + 68, K) has what the logits are the sum of: the image's
    logits, and those of every landmark. `logit_maps` is that of `auheat.models.Output`: of the
    image's logits.
    """

    logits: Tensor
    attention: tuple[Tensor, ...]
    cams: Tensor
    evidence: Tensor | None = None
    logit_maps: Tensor | None = None


class MapSet(NamedTuple):
    """One map of each kind for N photos, kind -> (N, h, w), and what was predicted.

    The kinds are "layer 1" to "layer 5" (of another number of layers "layer -1" at the top, "layer
    -2", ...), "CAM" of the true class and "CAM predicted", or "map" of
    another tool, whose maps (h, w) may differ in size. `predicted` is (N,), -1 where nothing is
    known; `probabilities` (N, K), NaN there and where a network says so. `cams` (N, K, h, w) are
    the maps of every class, None where maps know no class, `evidence` (N, 1 + G, K) is that of
    `Maps` by `auheat.models.geometry.GROUPS`.
    """

    maps: Mapping[str, Tensor | Sequence[Tensor]]
    predicted: Tensor
    probabilities: Tensor
    cams: Tensor | None = None
    evidence: Tensor | None = None


class ResampledMaps(NamedTuple):
    """Maps as they are compared, (N, M, S, S) f32; where each is highest, (N, M, 2) px; sound.

    `plain` are min-max scaled, `reference` as the paper's code has them but for a factor. `sound`
    (N, M) tells maps of finite numbers from others, which count as constant.
    """

    plain: Tensor
    reference: Tensor
    highest: Tensor
    sound: Tensor


def predict_maps(model: Classifier, images: Tensor, points: Tensor | None = None) -> Maps:
    """Return logits, attention and class maps of images (N, 3, S, S) in [0, 1].

    `points` (N, 68, 2) px, NaN where not known, are what a geometry branch is asked about; without
    them, as where they are NaN, the image alone decides. Other networks do not look at them.
    """
    output, evidence = model(images), None
    logits: Tensor = output.logits
    if points is not None and isinstance(model, GeometryNetwork):
        measures = model.geometry.encode(points)
        evidence = torch.cat([logits[:, None].float(), model.geometry.by_point(measures)], 1)
        logits = logits + model.geometry(measures)
    attended = tuple(attention(f) for f in output.features)
    return Maps(logits, attended, output.maps, evidence, output.logit_maps)


def view_maps(maps: Maps, labels: Tensor) -> MapSet:
    """Choose the maps that are scored: every layer, and the CAMs of true and predicted class."""
    rows = torch.arange(len(labels), device=labels.device)
    predicted = maps.logits.argmax(1)
    count = len(maps.attention)
    first = 1 if count == N_LAYERS else -count  # as `--layers` counts them
    layers = {f"layer {i}": layer for i, layer in enumerate(maps.attention, first)}
    chosen = {CAM: maps.cams[rows, labels], CAM_PREDICTED: maps.cams[rows, predicted]}
    evidence = maps.evidence
    if evidence is not None:
        evidence = torch.cat([evidence[:, :1], group_points(evidence[:, 1:])], 1)
    probabilities = maps.logits.float().softmax(1)
    return MapSet(layers | chosen, predicted, probabilities, maps.cams, evidence)


def bring_to_grid(
    maps: Mapping[str, Tensor | Sequence[Tensor]], rows: Tensor, size: tuple[int, int]
) -> ResampledMaps:
    """Resample the maps of rows (n,) to an (S, S) grid, kind by kind."""
    n, device = len(rows), rows.device
    plain = torch.empty((n, len(maps), *size), device=device)
    reference = torch.empty_like(plain)
    highest = torch.empty((n, len(maps), 2), device=device)
    sound = torch.empty((n, len(maps)), dtype=torch.bool, device=device)
    for i, (kind, values) in enumerate(maps.items()):
        start = 0
        for part in _pick(values, rows):
            here = slice(start, start + len(part))
            clean, sound[here, i] = zero_nonfinite(part.float())
            plain[here, i] = enlarge(min_max(clean), size)
            scaled_first = kind in (CAM, CAM_PREDICTED)  # by the published code, too
            alike = plain[here, i] if scaled_first else on_reference_grid(clean, size)
            reference[here, i] = alike
            highest[here, i] = locate_maximum(clean, size)
            start += len(part)
    return ResampledMaps(plain, reference, highest, sound)


def _pick(values: Tensor | Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    """Return the maps of rows: as one tensor, or one each where they may differ in size."""
    if isinstance(values, Tensor):
        return [values[rows]]
    return [values[row][None].to(rows.device, non_blocking=True) for row in rows.tolist()]


def bring_class_maps_to_grid(cams: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resample maps (N, K, h, w) of every class as `bring_to_grid` does: `plain`, and `sound`."""
    clean, sound = zero_nonfinite(cams.flatten(0, 1).float())
    shape = cams.shape[:2]
    return enlarge(min_max(clean), size).view(*shape, *size), sound.view(shape)


def zero_nonfinite(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (N, h, w) scaled by their largest value, zero where not finite; and sound (N,).

    No score depends on a map's scale, and squares of scaled values neither overflow nor vanish.
    """
    largest = maps.abs().amax((-2, -1), keepdim=True)  # NaN where a value is NaN
    sound = largest.isfinite()
    scaled = maps / torch.where(largest > 0, largest, 1)
    return torch.where(sound, scaled, 0), sound[:, 0, 0]
