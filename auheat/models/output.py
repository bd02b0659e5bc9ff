"""The output of every classifier, and the attention of a layer."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from auheat.errors import RequestError


class Output(NamedTuple):
    """A classifier's output: logits (B, K), maps (B, K, h, w), and what else is trained.

    In evaluation mode `maps` are the method's own. In training, where no loss reads them, those
    that take a walk back (the gradient CAMs, PRM) are not made: the head's plain class maps stand
    there; so they do inside of `logits_alone`. `aux_logits` are further (B, K) logits that take
    part in the loss alone; `features` are the backbone's maps, shallow to deep. `logit_maps` (B, K,
    h, w) are maps whose mean is the logit but for a constant of the class; None where no map adds
    up to it.
    """

    logits: Tensor
    maps: Tensor
    aux_logits: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    logit_maps: Tensor | None = None


def attention(features: Tensor) -> Tensor:
    """Return the attention T (B, h, w) of features (B, C, h, w): their channel mean (eq. 1)."""
    return features.mean(1)


def tokens_to_map(
    tokens: Tensor, grid: tuple[int, int] | None = None, prefix: int | None = None
) -> Tensor:
    """Return a transformer's tokens as a feature map, without its class and register tokens.

    Args:
        tokens: (B, N, C): `prefix` tokens that have no place, then those of the patches, row by
            row.
        grid: (h, w), how many patches an image has; None: as many in a row as there are rows.
        prefix: How many tokens come first that are left out, such as 1 for a class token, 5 for
            one and four registers; None: what is more than `grid` has places, 0 without a grid.

    Returns:
        (B, C, h, w), as the AU losses take it.

    Raises:
        RequestError: Where so many tokens are no such grid.

    Example:
        >>> import torch
        >>> from auheat import tokens_to_map
        >>> tokens_to_map(torch.zeros(8, 197, 192), prefix=1).shape
        torch.Size([8, 192, 14, 14])
    """
    if tokens.ndim != 3:
        raise RequestError(f"tokens: {tuple(tokens.shape)} (expected (B, N, C))")
    count, left = tokens.shape[1], prefix or 0
    if grid is None:
        side = math.isqrt(max(0, count - left))
        if side**2 != count - left or not side:
            raise RequestError(
                f"tokens: {count}, less prefix={left}, are no square grid (prefix="
                f"{count - side**2} leaves {side} x {side}; grid=(h, w) has another shape)"
            )
        grid = side, side
    elif prefix is None:
        left = count - grid[0] * grid[1]
    if left < 0 or left + grid[0] * grid[1] != count:
        raise RequestError(
            f"tokens: {count}, less prefix={max(left, 0)}, are no grid of {grid[0]} x {grid[1]} "
            f"(expected {grid[0] * grid[1]} more than the prefix)"
        )
    return tokens[:, left:].mT.reshape(tokens.shape[0], -1, *grid)


_logits_alone: ContextVar[bool] = ContextVar("logits_alone", default=False)


@contextmanager
def logits_alone() -> Generator[None, None, None]:
    """Let networks leave out, inside, the maps that take a walk back: their logits are the same.

    Example:
        >>> import torch
        >>> from auheat import build_classifier
        >>> from auheat.models.output import logits_alone
        >>> model = build_classifier("gradcam", "thin", classes=2).eval()
        >>> with torch.no_grad(), logits_alone():
        ...     fast = model(torch.zeros(1, 3, 32, 32)).logits
        >>> torch.equal(fast, model(torch.zeros(1, 3, 32, 32)).logits)
        True
    """
    token = _logits_alone.set(True)
    try:
        yield
    finally:
        _logits_alone.reset(token)


def wants_logits_alone() -> bool:
    """Return whether a network is called inside of `logits_alone`."""
    return _logits_alone.get()


def is_traced() -> bool:
    """Return whether a network is called to make a graph of it: for ONNX, or for TorchScript."""
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traced or torch.compiler.is_compiling()
