"""How maps change with the network and with the photo: randomised weights, and small moves."""

from __future__ import annotations

import copy
import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auheat.evaluation.metrics import centre_vectors, compare
from auheat.utils.cuda import exact_float32
from auheat.utils.maps import divide

STAGES = 5
"""Up to how many times more of the network is randomised."""

ALL = "all"
"""The name of the stage that has no trained weight left."""

PIXELS = 2
"""How far a photo is shifted, and how far a turn moves the middle of its edges, in pixels."""

_WINDOW, _SIGMA = 11, 1.5

_C1, _C2 = 0.01**2, 0.03**2


@exact_float32()
def correlate_ranks(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation (N,) of maps a and b (N, H, W), 0 where one is constant.

    Equal values share the mean of their ranks.
    """
    first, second = (centre_vectors(_mean_ranks(maps.flatten(1))[:, None, None]) for maps in (a, b))
    _, r = compare(first, second, first.values @ second.values.mT)
    return r[:, 0, 0]


def _mean_ranks(values: Tensor) -> Tensor:
    ordered = values.sort(1).values.contiguous()
    ends = [
        torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True)
    ]
    return (ends[0] + ends[1] - 1).double() / 2


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return SSIM (N,) of maps a and b (N, H, W) in [0, 1].

    Wang et al., IEEE TIP 13(4), 2004: Gaussian windows of 11 pixels and sigma 1.5 that lie wholly
    on the map, constants .01 and .03.
    """
    at = torch.arange(_WINDOW, device=a.device, dtype=torch.float64) - _WINDOW // 2
    line = torch.exp(-(at**2) / (2 * _SIGMA**2))
    line = line / line.sum()

    def mean(maps: Tensor) -> Tensor:
        tall = F.conv2d(maps[:, None], line[None, None, :, None])
        return F.conv2d(tall, line[None, None, None])[:, 0]

    a, b = a.double(), b.double()
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    above = (2 * ma * mb + _C1) * (2 * both + _C2)
    return (above / ((ma * ma + mb * mb + _C1) * (va + vb + _C2))).mean((1, 2))


def randomise(model: nn.Module, fresh: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a network with more and more of its weights from `fresh`, from its head down to all.

    Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3. Both networks are
    built alike. Each copy comes with the name of the part that was randomised last,
    "all" where nothing is left.
    """
    out: list[tuple[str, nn.Module]] = []
    names = _name_parts(model)
    parts = list(dict.fromkeys(names.values()))[::-1]
    stages = min(STAGES, len(parts))
    ends = {round(1 + i * (len(parts) - 1) / max(stages - 1, 1)) for i in range(stages)}
    with torch.inference_mode(False):  # maps that take a gradient need weights from outside it
        changed = copy.deepcopy(model)
        state, weights = changed.state_dict(), fresh.state_dict()
        for number, part in enumerate(parts, 1):
            for key in [key for key, name in names.items() if name == part]:
                state[key].copy_(weights[key])
            if number in ends:
                out.append((ALL if number == len(parts) else part, copy.deepcopy(changed)))
    return out


def _name_parts(model: nn.Module) -> dict[str, str]:
    """Return the part of the network that each of its tensors belongs to, in their order.

    Parts are what the network consists of; one of more than a quarter of the tensors is divided.
    """
    keys = list(model.state_dict())
    sizes = Counter(key.split(".")[0] for key in keys)
    out = {}
    for key in keys:
        first, *rest = key.split(".")
        large = sizes[first] > len(keys) / 4 and len(rest) > 1
        out[key] = f"{first}.{rest[0]}" if large else first
    return out


def list_moves(size: tuple[int, int]) -> list[tuple[float, float, float]]:
    """Return moves as (right px, down px, turn in radians): four shifts and two turns."""
    turn = PIXELS / (max(size) / 2)
    shifts = [(PIXELS, 0), (-PIXELS, 0), (0, PIXELS), (0, -PIXELS)]
    return [*((float(x), float(y), 0.0) for x, y in shifts), (0.0, 0.0, turn), (0.0, 0.0, -turn)]


def move_images(images: Tensor, by: tuple[float, float, float], back: bool = False) -> Tensor:
    """Return images (N, C, H, W) shifted or turned about their middle, or moved back again.

    Read bilinearly; what comes from outside is what lies nearest on the edge.
    """
    height, width = images.shape[-2:]
    right, down, turn = (-v if back else v for v in by)
    cos, sin = math.cos(turn), math.sin(turn)
    # where an output pixel is read: the move backwards, in halves of each side
    matrix = torch.tensor(
        [
            [cos, sin * height / width, -2 * right / width],
            [-sin * width / height, cos, -2 * down / height],
        ],
        dtype=images.dtype,
    ).to(images.device, non_blocking=True)
    grid = F.affine_grid(
        matrix.expand(len(images), -1, -1), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def change_after_move(maps: Tensor, moved: Tensor, by: tuple[float, float, float]) -> Tensor:
    """Return how much maps (N, H, W) changed (N,) with the photo's move, moved back: |a - b| / |b|.

    `moved` are the maps of the moved photo. Two moves' width along the edges is left out, where
    something came in.
    """
    back = move_images(moved[:, None], by, back=True)[:, 0]
    inner = slice(2 * PIXELS, -2 * PIXELS)
    a, b = (values[:, inner, inner].flatten(1) for values in (back, maps))
    norms = [torch.linalg.vector_norm(values, dim=1) for values in (a - b, b)]
    return divide(norms[0], norms[1])
