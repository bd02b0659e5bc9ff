"""Networks of the timm package as backbones: every family that gives maps, in whatever layout.

timm's own parameter names are kept, so what is done here is done in hooks. The layers are those
that timm's `features_only` gives: the stages of a hierarchical network, the last three blocks of a
plain transformer. Class and register tokens are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from auheat.errors import MissingExtraError, RequestError
from auheat.models.output import tokens_to_map
from auheat.models.resnet import IMAGENET_MEAN, IMAGENET_STD, TIMM

CELLS = ("8", "16", "32")
"""Sides in px of a cell of the top map that can be asked for."""


_MOST_PREFIX = 8  # class and register tokens have position embeddings of their own, a few


_NO_SUCH = ("Unknown model", "Invalid pretrained tag")  # how timm refuses a name


_OURS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@dataclass(frozen=True, slots=True)
class TimmShape:
    """The shape of a network of timm, made for images of `side` px.

    `channels` are those of its layers, shallow to deep, and `places` the names of the modules that
    they leave, where timm gives them. `step` is what a side must be a multiple of; of a network
    that is `fixed` it must be `side`. The `layouts` ("NCHW", "NHWC", or "NLC" for tokens) and
    `grids` (h, w) of its layers are known once it has been run. `mean` and `std`, of RGB in [0, 1],
    are what its published weights were trained with.
    """

    name: str
    side: int
    channels: tuple[int, ...]
    places: tuple[str, ...]
    step: int
    fixed: bool
    layouts: tuple[str, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class TopFeatures(nn.Module):
    """A network of timm that gives no intermediate layers: its last features are the only one."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last features of normalised images (B, 3, H, W)."""
        return [self.network.forward_features(images)]


def describe_timm(name: str, side: int) -> TimmShape:
    """Return the shape of a network of timm ("timm:NAME"), without memory for its weights.

    "timm:NAME@16" has strides taken out until a cell of its top map is 16 px (8, 16 or 32), as the
    paper has it of its networks. Raises `AuheatError` for an unknown name, where timm is missing,
    and for a side in px whose last pixels the network would cut off.
    """
    shape = _describe(_find_create(name), name, side)
    _check_side(shape, (side, side))
    return shape


@lru_cache(maxsize=64)
def _describe(create: Callable[..., Any], name: str, side: int) -> TimmShape:
    with torch.device("meta"):
        return _read_shape(name, side, *_create(create, name, side))


def build_timm(name: str, side: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network of timm ("timm:NAME") with fresh weights, and its layers' channels.

    Called with normalised images (B, 3, H, W) it gives a list of maps (B, C, h, w), of either sign;
    its `timm_shape` is a `TimmShape`. Raises `AuheatError` as `describe_timm` does, and where it
    cannot be run on images of that side.
    """
    network, fixed = _create(_find_create(name), name, side)
    shape = _read_shape(name, side, network, fixed)
    _check_side(shape, (side, side))
    training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(1, 3, side, side))
    except Exception as error:  # timm raises whatever its networks do
        raise RequestError(
            f"--image-size: {side} ({name} cannot be run at this size: {_one_line(error)})"
        ) from error
    network.train(training)
    shape = _measure_layers(shape, network, outputs)
    network.timm_shape = shape  # type: ignore[assignment]
    network.register_forward_pre_hook(partial(_check_images, shape))
    network.register_forward_hook(partial(_give_maps, shape))
    return network, shape.channels


def note_grid(network: Any) -> tuple[str, ...]:
    """Return what a person should know of the maps of a network that `build_timm` made."""
    shape: TimmShape = network.timm_shape
    rows, columns = shape.grids[-1]
    size = f"{shape.name} at {shape.side} px: its top map is {rows} x {columns}"
    if rows * columns == 1:
        return (f"warning: {size}: one cell says nothing of where (a larger --image-size does)",)
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    cell = (*_reductions(network), 1)[len(shape.channels) - 1]
    left = shape.side - rows * cell
    if left > 0 and cell % shape.step == 0 and all(map(_cuts_patches, strided)):
        whole = shape.side - left
        return (
            f"warning: {size}, of cells of {cell} px: it leaves out the last {left} px "
            f"(--image-size {whole} or {whole + cell} is seen whole)",
        )
    return ()


def fit_timm_weights(shape: TimmShape, network: nn.Module, given: dict[str, Tensor]) -> list[str]:
    """Bring weights made for images of another side to a network's, in place; say what was resized.

    Position embeddings and tables of relative positions are interpolated, as timm does it; what
    else differs is left for the loader to refuse.
    """
    layers, ours, tables, messages = import_module("timm.layers"), network.state_dict(), 0, []
    for key, value in given.items():
        own = ours.get(key)
        if own is None or own.shape == value.shape or own.ndim != value.ndim:
            continue
        parent, _, last = key.rpartition(".")
        if last == "pos_embed" and own.ndim == 3:
            places = own.shape[1]
            grid = next((g for g in shape.grids if 0 <= places - g[0] * g[1] <= _MOST_PREFIX), None)
            extra = places - grid[0] * grid[1] if grid else 0
            side = math.isqrt(max(0, value.shape[1] - extra))
            if grid and side**2 + extra == value.shape[1]:
                given[key] = layers.resample_abs_pos_embed(
                    value, new_size=list(grid), num_prefix_tokens=extra
                )
                was, now = f"{side} x {side}", f"{grid[0]} x {grid[1]}"
                messages.append(f"position embeddings of {was} made {now}")
        if last == "relative_position_bias_table":
            window: Any = network.get_submodule(parent).window_size
            with warnings.catch_warnings():  # timm indexes with lists, which newer torch warns of
                warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers")
                given[key] = layers.resize_rel_pos_bias_table(value, window, tuple(own.shape))
            tables += 1
    if tables:
        messages.append(f"{tables} tables of relative positions made for {shape.side} px")
    return messages


def find_followers(network: Any) -> list[tuple[int, nn.Module]]:
    """Return the modules that go on from the two layers below the top, and these layers' places.

    A layer's follower is the module after the one that it leaves, in the same container. Raises
    `AuheatError` where a network has no such row of modules.
    """
    shape: TimmShape = network.timm_shape
    followers = []
    for place in range(max(0, len(shape.channels) - 3), len(shape.channels) - 1):
        name = shape.places[place] if shape.places else ""
        path = next((p for p in _spell(name) if _has_module(network, p)), "")
        parent, _, last = path.rpartition(".")
        row = dict(network.get_submodule(parent).named_children())
        after = [*row][[*row].index(last) + 1 :] if last in row else []
        if not after:
            raise RequestError(
                f"--method: adl drops features between a network's stages, and those of "
                f"{shape.name} do not lie in a row (cam, acol or cutmix take it)"
            )
        followers.append((place, row[after[0]]))
    return followers


def change_map(
    shape: TimmShape, place: int, change: Callable[[Tensor], Tensor], values: Tensor
) -> Tensor:
    """Return features as they lie inside of a network, changed as a map (B, C, h, w).

    They are those of the layer at `place`: maps with channels first or last, or tokens, of which
    the first, where there are more than places, are kept as they are.
    """
    channels, (rows, columns) = shape.channels[place], shape.grids[place]
    if values.ndim == 3:
        extra = values.shape[1] - rows * columns
        own = change(values[:, extra:].mT[..., None])[..., 0].mT
        return torch.cat([values[:, :extra], own], 1)
    last = values.shape[3] == channels
    if values.shape[1] == channels and not (last and shape.layouts[place] == "NHWC"):
        return change(values)
    return change(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _spell(name: str) -> tuple[str, str, str]:
    """Return the names by which timm may hold a module: wrapped, its parent's name joined to it."""
    return name, f"model.{name}", name.replace(".", "_", 1)


def _has_module(network: nn.Module, path: str) -> bool:
    try:
        return bool(path) and network.get_submodule(path) is not None
    except AttributeError:
        return False


def _find_create(name: str) -> Callable[..., Any]:
    """Return timm's function that makes a network."""
    try:
        create: Callable[..., Any] = import_module("timm").create_model
    except ImportError as error:
        raise MissingExtraError(
            f"--backbone: {name} needs timm: {error} (pip install timm)"
        ) from error
    return create


def _create(create: Callable[..., Any], name: str, side: int) -> tuple[nn.Module, bool]:
    """Return a network with fresh weights, and whether it was made for images of that side alone.

    Those that take images of any size have no such argument.
    """
    asked, at, cell = name.removeprefix(TIMM).partition("@")
    if at and cell not in CELLS:
        raise RequestError(
            f"--backbone: {name}: @{cell} (expected one of @{', @'.join(CELLS)}: the side in px "
            "of a cell of its top map)"
        )
    dilated = {"output_stride": int(cell)} if at else {}
    ways: list[dict[str, Any]] = [{"features_only": True, **dilated}, {"num_classes": 0, **dilated}]
    refused = ""
    for way in ways:
        for size in ({"img_size": side}, {}):
            try:
                network: nn.Module = create(asked, **way, **size)
            except Exception as error:  # timm raises whatever its networks do
                if size and isinstance(error, TypeError) and "img_size" in str(error):
                    continue
                refused = refused or _one_line(error)
                break
            whole = "features_only" not in way
            return (TopFeatures(network) if whole else network), bool(size)
        if "features_only" not in refused:
            break
    hint = f"; strides can be taken out of only some networks: {TIMM}{asked} has its own"
    if not at or refused.startswith(_NO_SUCH):
        hint = ""
    raise RequestError(f"--backbone: {name}: timm cannot build it ({refused}{hint})")


def _read_shape(name: str, side: int, network: Any, fixed: bool) -> TimmShape:
    """Return the shape of a network that was made for images of a side, but for its layers."""
    about = getattr(network, "feature_info", None)
    if about is None:
        channels: tuple[int, ...] = (int(network.network.num_features),)
    else:
        channels = tuple(about.channels())
    places = tuple(getattr(about, "module_name", tuple)())
    published = getattr(getattr(network, "network", network), "pretrained_cfg", None) or {}
    mean, std = (tuple(published.get(key, ours)) for key, ours in _OURS.items())
    return TimmShape(name, side, channels, places, _find_step(network), fixed, mean=mean, std=std)


def _measure_layers(shape: TimmShape, network: Any, outputs: Sequence[Tensor]) -> TimmShape:
    """Return a shape with what is seen of its layers; raises `AuheatError` for what is no map."""
    inner = getattr(network, "network", network)
    prefix = int(getattr(inner, "num_prefix_tokens", 0))
    layouts, grids = [], []
    for place, (values, channels) in enumerate(zip(outputs, shape.channels, strict=True), 1):
        size = tuple(values.shape)
        said = getattr(inner, "output_fmt", "NCHW")  # an enumeration of texts, in timm
        if values.ndim == 3 and size[2] == channels:
            layouts.append("NLC")
            size = tuple(tokens_to_map(values, prefix=prefix).shape)
        elif values.ndim == 4 and size[3] == channels and (said == "NHWC" or size[1] != channels):
            layouts.append("NHWC")
            size = (size[0], channels, size[1], size[2])
        elif values.ndim == 4 and size[1] == channels:
            layouts.append("NCHW")
        else:
            raise RequestError(
                f"--backbone: {shape.name}: its layer {place} is {size} (expected a map or tokens "
                f"of {channels} channels)"
            )
        grids.append((size[2], size[3]))
    return replace(shape, layouts=tuple(layouts), grids=tuple(grids))


def _find_step(network: nn.Module) -> int:
    """Return the number that a side must be a multiple of, for all its pixels to be seen.

    It is the side of the patches that the first convolution cuts, or, where all layers are of one
    size, of the part of an image that a cell of them stands for.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    patch = 1 if first is None or not _cuts_patches(first) else first.stride[0]
    cells = set(_reductions(network))
    return math.lcm(patch, *cells) if len(cells) == 1 else patch


def _cuts_patches(conv: nn.Conv2d) -> bool:
    """Whether a convolution's windows lie side by side, so that what is left over is cut off."""
    return conv.kernel_size == conv.stride and conv.padding in ((0, 0), "valid")


def _reductions(network: Any) -> tuple[int, ...]:
    """Return how many pixels a side of each layer's cell has, by timm's word; () without one."""
    about = getattr(network, "feature_info", None)
    return tuple(int(n) for n in getattr(about, "reduction", tuple)())


def _check_side(shape: TimmShape, size: Sequence[int]) -> None:
    if any(side % shape.step for side in size):
        raise RequestError(
            f"--image-size: {' x '.join(map(str, dict.fromkeys(size)))} ({shape.name} takes "
            f"multiples of {shape.step})"
        )


def _check_images(shape: TimmShape, network: nn.Module, inputs: tuple[Tensor]) -> None:  # noqa: ARG001 (a hook's signature)
    """Raise `AuheatError` for images (B, 3, H, W) that a network was not made for."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # sizes are no numbers there
    size = tuple(inputs[0].shape[2:])
    _check_side(shape, size)
    if shape.fixed and size != (shape.side, shape.side):
        raise RequestError(
            f"images: {size[0]} x {size[1]} ({shape.name} was built for {shape.side} x "
            f"{shape.side}: build_classifier(..., image_size={size[0]}))"
        )


def _give_maps(
    shape: TimmShape,
    network: nn.Module,  # noqa: ARG001 (a hook's signature)
    inputs: tuple[Tensor],  # noqa: ARG001
    outputs: Sequence[Tensor],
) -> list[Tensor]:
    """Return a network's outputs as maps (B, C, h, w)."""
    maps = []
    for values, layout, grid in zip(outputs, shape.layouts, shape.grids, strict=True):
        if layout == "NLC":
            maps.append(tokens_to_map(values, grid))
        else:
            maps.append(values.permute(0, 3, 1, 2) if layout == "NHWC" else values)
    return maps


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__  # a bare `assert` has no text
