"""The detector `fan`: the Face Alignment Network on the faces that `mesh` finds, in batches.

`mesh` gives 68 points, score and status; their box gives a square crop; FAN gives a heatmap for
each point, whose peak is the point. Crop, decoding and the way back follow face-alignment 1.5.0,
whose package gives the network's class (`pip install "auheat[fan]"`); the weights are the user's.
Rows without a face stay so. `score` and `status` are those of `mesh`: FAN itself, made to be
given a face, has no number for "there is none".
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from auheat.errors import AuheatError, MissingExtraError, RequestError, StoreError
from auheat.landmarks.mesh.crops import Pixels, pack
from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.model_files import read_model
from auheat.records import MIRROR, Array, Landmarks
from auheat.utils.cuda import BatchLimit, exact_float32
from auheat.utils.devices import pick_device

VERSION = "fan 1"
"""Raised whenever the code changes the points, so that the digest changes too."""


WEIGHTS = "2DFAN4-11f355bf06.pth.tar"
"""The name under which face-alignment keeps the weights in torch's hub cache."""


VARIABLE = "AUHEAT_FAN"
"""The environment variable that may name the weights file."""


CROP = 256
"""The network's input is CROP x CROP pixels."""


CHUNK, CPU_CHUNK = 64, 4
"""Faces that go through the network at once; more are taken in turns, to bound the memory.

On a CPU eight at once took longer per face than one.
"""


RAISE = 0.12

SPAN = 200 / 195
"""A crop's middle lies RAISE box heights above the box's, its side is SPAN x (width + height)."""


_ONE = 2048
"""OpenCV's bilinear weights are multiples of 1 / _ONE."""


_BEYOND = 2**30
"""A coordinate outside of every image."""


def box_points(points: Array) -> Array:
    """Return the boxes (M, 2, 2), corners (x, y), of points (M, P, 2)."""
    return np.stack([points.min(1), points.max(1)], 1)


def place_crops(boxes: Array) -> tuple[Array, Array]:
    """Return centre (M, 2) and side (M,) f64 px of the crops for boxes (M, 2, 2) of landmarks.

    The rule by which FAN was trained, as face-alignment applies it. Raises `AuheatError` for a
    box without area or with a number that is not finite.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
    size = boxes[:, 1] - boxes[:, 0]
    good = np.isfinite(boxes).all((1, 2)) & (size > 0).all(1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise RequestError(f"box {row}: {boxes[row].tolist()} (finite, high corner above low)")
    centre = boxes.mean(1)
    centre[:, 1] -= RAISE * size[:, 1]
    return centre, size.sum(1) * SPAN


def _taps(centre: Array, side: Array) -> tuple[Tensor, Tensor]:
    """Return the image pixels that a crop's pixels lie between, and their weights.

    Both (M, 2, 2, CROP) int32: axis (x, y), one neighbour and the other, place in the crop; the
    weights are integers that sum to _ONE. The library cuts whole pixels, from the crop's first
    pixel (counted from one) to its end, both truncated, and resizes this patch by half-pixel rules.
    """
    half = (side / 2)[:, None]
    start = np.trunc(centre - half + side[:, None] / CROP)
    size = np.maximum(np.trunc(centre + half) - start, 1)
    at = (np.arange(CROP) + 0.5) * (size[..., None] / CROP) - 0.5
    low = np.floor(at)
    high_weight = (at - low).astype(np.float32)
    weight = np.rint(np.stack([1 - high_weight, high_weight], 2) * _ONE)
    inside = np.clip(np.stack([low, low + 1], 2), 0, size[..., None, None] - 1)
    index = np.clip(inside + start[..., None, None], -1, _BEYOND)
    return torch.from_numpy(index.astype(np.int32)), torch.from_numpy(weight.astype(np.int32))


def cut_crops(pixels: Pixels, image: Tensor, centre: Array, side: Array) -> Tensor:
    """Cut M upright crops, image (M,), centre (M, 2) and side (M,) px: (M, 3, CROP, CROP) in 0..1.

    Outside the image is black. The integer arithmetic is that of OpenCV's vectorised
    `resize(INTER_LINEAR)`, which FAN's authors use: so every device gives the same bits.
    """
    device, flat = pixels.atlas.device, pixels.atlas.flatten()
    index, weight = torch.stack(_taps(centre, side)).to(device, non_blocking=True)
    last = pixels.size[image].int().flip(1).view(-1, 2, 1, 1) - 1
    weight = weight * ((index >= 0) & (index <= last))
    corner = pixels.corner[image].int().flip(1).view(-1, 2, 1, 1)
    index = torch.minimum(index.clamp(min=0), last) + corner
    columns, column_weight = index[:, 0, :, None, :], weight[:, 0, :, None, None, :]
    rows, row_weight = index[:, 1, :, :, None], weight[:, 1, :, None, :, None]
    shift = torch.arange(0, 24, 8, dtype=torch.int32, device=device).view(3, 1, 1)
    shape = (len(image), 3, CROP, CROP)
    crops = torch.full(shape, 2, dtype=torch.int32, device=device)
    for i in range(2):
        line = torch.zeros_like(crops)
        for k in range(2):
            at = rows[:, i] * pixels.atlas.shape[1] + columns[:, k]
            found = flat.index_select(0, at.flatten()).view(at.shape).unsqueeze(1)
            line += ((found >> shift) & 255) * column_weight[:, k]
        crops += ((line >> 4) * row_weight[:, i]) >> 16
    return (crops >> 2).float() / 255


def predict_heatmaps(network: nn.Module, crops: Tensor, flip: bool) -> Tensor:
    """Return f32 heatmaps (M, 68, h, w) of crops (M, 3, CROP, CROP) in 0..1.

    With `flip`, those of the mirrored crops, mirrored back, are added.
    """
    crops = crops.to(next(network.parameters()).dtype)
    heatmaps: Tensor = network(crops)[-1].float()
    if flip:
        mirrored: Tensor = network(crops.flip(-1))[-1].float()
        heatmaps = heatmaps + mirrored.flip(-1)[:, _mirror(crops.device)]
    return heatmaps


@cache
def _mirror(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        return torch.from_numpy(MIRROR).to(device, non_blocking=True)


def decode_heatmaps(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return peaks (M, P, 2) in heatmap pixels, with edges at integers, and heights (M, P).

    A peak is the middle of the highest pixel, and a quarter pixel towards the higher neighbour
    along x and along y; not so in the outermost pixels, which lack one.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    peak, best = flat.max(2)
    x, y = best % width, best // width
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)

    def slope(step: int) -> Tensor:
        ahead, behind = (
            flat.gather(2, (best + s).clamp(0, height * width - 1).unsqueeze(2)).squeeze(2)
            for s in (step, -step)
        )
        return torch.sign(ahead - behind) * inside

    quarter = torch.stack([slope(1), slope(width)], -1) / 4
    return torch.stack([x, y], -1) + 0.5 + quarter, peak


def chunk_size(device: torch.device) -> int:
    """Return how many faces go through the network at once on a device."""
    return CPU_CHUNK if device.type == "cpu" else CHUNK


def locate(
    network: nn.Module, pixels: Pixels, image: Tensor, boxes: Array, *, flip: bool = True
) -> Array:
    """Return the points (M, 68, 2) f32 px of M faces: image (M,), boxes (M, 2, 2) of landmarks.

    The library maps a peak into its crop's square and drops the fraction, which moves a point
    half a pixel up and left on average; here the fraction stays and the half is subtracted, as
    pixel centres lie at integers. Raises `AuheatError` for a bad box, and for heatmaps that are
    not finite.
    """
    centre, side = place_crops(boxes)
    chunk = chunk_size(image.device)
    peaks = [
        _find_peaks(network, pixels, image[part], centre[part], side[part], flip)
        for part in (slice(i, i + chunk) for i in range(0, len(side), chunk))
    ]
    return _to_photo(peaks, centre, side)


def _find_peaks(
    network: nn.Module, pixels: Pixels, image: Tensor, centre: Array, side: Array, flip: bool
) -> Tensor:
    """Return where the heatmaps peak, as shares of the crop, and how high: (M, 68, 3) f64."""
    with torch.inference_mode(), exact_float32():
        crops = cut_crops(pixels, image, centre, side)
        heatmaps = predict_heatmaps(network, crops, flip)
        place, peak = decode_heatmaps(heatmaps)
        share = place.double() / heatmaps.shape[-1] - 0.5
        return torch.cat([share, peak.double().unsqueeze(2)], 2)


def _to_photo(peaks: Sequence[Tensor], centre: Array, side: Array) -> Array:
    """Return points (M, 68, 2) f32 px of the peaks of M crops, by one copy from the device."""
    if not peaks:
        return np.zeros((0, len(MIRROR), 2), np.float32)
    found = torch.cat(list(peaks)).cpu().numpy()
    if not np.isfinite(found[..., 2]).all():
        raise AuheatError(
            "fan: the network's heatmaps are not finite (other weights, or --engine float32 "
            "where half precision overflows)"
        )
    points: Array = found[..., :2] * side[:, None, None] + centre[:, None] - 0.5
    return points.astype(np.float32)


def _load_class() -> Callable[[int], nn.Module]:
    try:
        network: Callable[[int], nn.Module] = importlib.import_module("face_alignment.models").FAN
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f'fan: face-alignment cannot be used, {error} (pip install "auheat[fan]")'
        ) from error
    return network


def find_fan_weights(model: Path | None = None) -> Path:
    """Return the weights file: `model`, else AUHEAT_FAN's, else the one in torch's hub cache.

    Raises `AuheatError` where it is absent; nothing is ever downloaded.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    named = model or os.environ.get(VARIABLE)
    path = Path(named) if named else cache
    if path.is_file():
        return path
    raise StoreError(
        f"{path}: FAN's weights are not there (name a file with --detector-model or {VARIABLE}, "
        f"or put face-alignment's {WEIGHTS} at {cache})"
    )


def _read_state(path: Path, data: bytes) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and its unpickler raise whatever the bytes provoke
        text = str(error).partition("\n")[0]
        raise StoreError(f"{path}: not readable as weights, {text} (a plain state dict)") from error
    named = isinstance(state, Mapping) and all(
        isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()
    )
    if not named:
        raise StoreError(f"{path}: holds no tensors by name (a plain state dict is needed)")
    tensors: Mapping[str, Tensor] = state
    return tensors


def load_network(path: Path, data: bytes) -> nn.Module:
    """Build FAN with the weights in `data`, the bytes of `path`; as many stacks as they fill.

    The bytes are a safetensors file or one of torch.save, by the suffix. Raises `AuheatError` for
    a missing package, unreadable bytes, and keys or shapes that are not FAN's.
    """
    make = _load_class()
    state = _read_state(path, data)
    stacks = len({found[0] for key in state if (found := re.match(r"m\d+\.", key))})
    # On the meta device nothing is drawn, so that the caller's random numbers stay as they are.
    with torch.device("meta"):
        network = make(max(stacks, 1))
    try:
        missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        text = str(error).splitlines()[-1].strip()
        raise StoreError(f"{path}: {text} (the weights of a FAN are needed)") from error
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            some = ", ".join(keys[:3])
            raise StoreError(f"{path}: {len(keys)} {kind} keys: {some} (a FAN's are needed)")
    return network.requires_grad_(False).eval()


def place_network(network: nn.Module, device: torch.device, half: bool) -> nn.Module:
    """Move a FAN to a device, in float16 or float32, channels last: a sixth faster on a CPU."""
    network = network.to(device, torch.float16 if half else torch.float32)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class FanDetector:
    """68 points of one face per image: found by `mesh`, placed by FAN.

    `model` is the weights file (`find_fan_weights`). `flip` adds the mirrored crop's heatmaps, as
    the library does unless told otherwise; it doubles the network's time. `half` runs the network
    in float16: by default on CUDA only, as CPUs are slower at it.
    """

    name = "fan"

    def __init__(
        self,
        device: str = "auto",
        model: Path | None = None,
        *,
        flip: bool = True,
        half: bool | None = None,
    ) -> None:
        self._device = pick_device(device)
        self._flip = flip
        half = self._device.type == "cuda" if half is None else half
        path = find_fan_weights(model)
        data = read_model(path)
        self._network = place_network(load_network(path, data), self._device, half)
        self._mesh = MeshDetector(device)
        self.device = str(self._device)
        self.engine = "torch, float16" if half else "torch, float32"
        # On a CPU a face takes half a second: a larger batch would only be slow to stop.
        on_card = self._device.type == "cuda"
        self.batch_size = self._mesh.batch_size if on_card else 2 * CPU_CHUNK
        self.lanes = 2 if on_card else 1  # beside the network of one batch, the mesh of another
        self._limit = BatchLimit(chunk_size(self._device), self.device)
        settings = repr((VERSION, CROP, RAISE, SPAN, flip, half, self._mesh.digest)).encode()
        self.digest = hashlib.sha256(settings + hashlib.sha256(data).digest()).hexdigest()

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        faces = self._mesh(images)
        points = np.full_like(faces.points, np.nan)
        rows = np.flatnonzero(np.isfinite(faces.points).all((1, 2)))
        centre, side = place_crops(box_points(faces.points[rows]))

        def place(some: Sequence[int]) -> Tensor:
            pixels = pack([images[rows[k]] for k in some], self._device)
            image = torch.arange(len(some), device=self._device)
            return _find_peaks(self._network, pixels, image, centre[some], side[some], self._flip)

        # While the device is at one chunk, the next is packed: nothing is read before the last.
        peaks = self._limit.run(place, range(len(rows)))
        points[rows] = _to_photo(peaks, centre, side)
        return Landmarks(points, faces.score, faces.status)
