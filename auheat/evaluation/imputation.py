"""Noisy linear imputation: pixels that were taken away become weighted means of their neighbours.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD), ICML
2022, section 5: a pixel next to an edge counts 1/6, one across a corner 1/12, outside of the photo
none; the linear system of all removed pixels is solved, and noise is added, so that the shape of
what was removed can hardly be seen. The authors solve one photo at a time with a sparse direct
solver on the CPU; here all photos of a batch are solved at once, on their device, by conjugate
gradients with a multilevel preconditioner (Bramble, Pasciak and Xu, Mathematics of Computation
55, 1990).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.utils.cuda import exact_float32
from auheat.utils.maps import divide, enlarge

NOISE = 0.01
"""Standard deviation of the added noise, in the photos' [0, 1]."""

ITERATIONS = 20
"""They leave errors well under the noise; a fixed number, so that a photo's imputation does not
depend on the others of its batch."""

_COARSEST = 3


@exact_float32()
def impute(images: Tensor, gone: Tensor, noise: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Return images (N, C, H, W) with the pixels `gone` (N, H, W) imputed from the others.

    noise (N, C, H, W) is of unit variance, and is added to these pixels `NOISE` times.
    """
    gone = gone[:, None].to(images.dtype)
    total = _add_neighbours(torch.ones_like(gone[:1]))
    levels = [
        (rows, columns, (rows.mT @ (1 - gone) @ columns <= 0).to(images.dtype))
        for rows, columns in _levels(*images.shape[-2:], images.dtype, images.device)
    ]

    def precondition(rest: Tensor) -> Tensor:
        step = rest / total
        for rows, columns, inside in levels:  # functions that are zero on all known pixels
            step = step + rows @ (inside * (rows.mT @ rest @ columns)) @ columns.mT
        return step

    rest = gone * _add_neighbours(images * (1 - gone))
    solved = torch.zeros_like(images)
    step = towards = precondition(rest) * gone
    length = _dot(rest, step)
    for _ in range(iterations):
        bent = gone * (total * towards - _add_neighbours(towards))
        share = divide(length, _dot(towards, bent))
        solved = solved + share * towards
        rest = rest - share * bent
        step = precondition(rest) * gone
        before, length = length, _dot(rest, step)
        towards = step + divide(length, before) * towards
    return images * (1 - gone) + gone * (solved + NOISE * noise)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _add_neighbours(values: Tensor) -> Tensor:
    """Return the weighted sums of the eight neighbours that lie on the photo."""
    wide = F.pad(values, (1, 1, 1, 1))
    lines = wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]
    return (lines[..., :-2, :] + 2 * lines[..., 1:-1, :] + lines[..., 2:, :] - 4 * values) / 12


@lru_cache(maxsize=16)
def _levels(
    height: int, width: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the weights (H, h) and (W, w) that bring coarser and coarser grids to the photo's."""
    sizes = [(height, width)]
    while min(sizes[-1]) > _COARSEST:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        return [
            (_weights(height, h, dtype, device), _weights(width, w, dtype, device))
            for h, w in sizes[1:]
        ]


def _weights(size: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return enlarge(torch.eye(n, dtype=dtype, device=device)[None], (size, n))[0]
