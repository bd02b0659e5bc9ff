"""Peaks of class response maps, and the walk back from them (Zhou et al., PRM, CVPR 2018).

The walk (section "Peak Back-propagation") gives every unit U the probability that it is reached
from above: P(U) is the sum over the units V above of P(U | V) P(V), and V chooses among its inputs
in proportion to activation x ReLU of the weight. So shares never grow on their way down, and sum
up to one as long as every unit that is reached has an input it can choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from auheat.errors import RequestError
from auheat.models.network import Network
from auheat.models.output import Output, is_traced, wants_logits_alone

WINDOW = 3
"""Side of the window a peak is the highest of, as in the paper."""


def find_peaks(maps: Tensor, window: int = WINDOW) -> Tensor:
    """Mark the places of maps (B, K, h, w) that no other in the window around them exceeds.

    Returns bool (B, K, h, w); equal neighbours are peaks together, and every map has one.
    """
    return maps == F.max_pool2d(maps, window, 1, window // 2)


def stimulate(maps: Tensor, window: int = WINDOW) -> Tensor:
    """Return scores (B, K): the mean of each map's peaks (section "Peak Stimulation").

    So gradients reach the peaks alone, an equal part each.
    """
    peaks = find_peaks(maps.detach(), window)
    return torch.where(peaks, maps, 0).sum((2, 3)) / peaks.sum((2, 3))


def share_peaks(maps: Tensor, window: int = WINDOW) -> Tensor:
    """Return what the walk starts with, (B, K, h, w): shares of the peaks that sum to one.

    The paper keeps a map for every peak. Here one map stands for a class, so its peaks are
    weighted by how far they rise above the class's lowest response (equally where none does).
    """
    peaks = find_peaks(maps, window).to(maps.dtype)
    height = peaks * (maps - maps.amin((2, 3), keepdim=True))
    flat = height.sum((2, 3), keepdim=True) <= 0
    height = torch.where(flat, peaks, height)
    return height / height.sum((2, 3), keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Units that a layer chooses from: activations (B, C, h, w), and the way to them.

    `weight` is ReLU of a convolution's weight; None is a plain connection, as a shortcut has.
    """

    units: Tensor
    weight: Tensor | None = None
    stride: int = 1
    padding: int = 0

    def forward_activation(self) -> Tensor:
        """Return what reaches each unit of the layer above."""
        if self.weight is None:
            return self.units
        return F.conv2d(self.units, self.weight, None, self.stride, self.padding)

    def backward_share(self, share: Tensor) -> Tensor:
        """Return these units' part of shares (B, C', h', w') already divided by the excitement."""
        if self.weight is not None:
            share = self._go_back(share, self.weight)
        return self.units * share

    def _go_back(self, share: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the convolution's inputs for that of its outputs."""
        place, stride = (self.stride, self.padding), self.stride
        if not is_traced():
            size = list(self.units.shape)
            back: Tensor = conv2d_input(size, weight, share, *place)  # type: ignore[no-untyped-call]
            return back
        # the same sums by a layer that graphs can hold
        lengths = [(int(share.shape[i]), int(self.units.shape[i]), weight.shape[i]) for i in (2, 3)]
        more = [own - (n - 1) * stride + 2 * self.padding - k for n, own, k in lengths]
        return F.conv_transpose2d(share, weight, None, *place, more)


def split_share(share: Tensor, excitement: Tensor) -> Tensor:
    """Return share / excitement, 0 where there is no excitement to split it among."""
    reached = excitement > 0
    return torch.where(reached, share / torch.where(reached, excitement, 1), 0)


class Walk:
    """The way back through one residual block, prepared once for a batch and used for all classes.

    The block adds its last convolution and its shortcut, so a unit of its output chooses among
    the inputs of both. Batch normalisation, a fixed scale in evaluation, is part of the
    convolution before it. `inputs` (B, C, h, w) of the block must not be negative.
    """

    def __init__(self, block: nn.Module, inputs: Tensor) -> None:
        names = [n for n in ("1", "2", "3") if hasattr(block, f"conv{n}")]
        pairs: list[tuple[Any, Any]] = [
            (block.get_submodule(f"conv{n}"), block.get_submodule(f"bn{n}")) for n in names
        ]
        units = inputs
        self.layers: list[tuple[Source, Tensor]] = []
        for i, (conv, norm) in enumerate(pairs):
            source = _source(units, conv, norm)
            self.layers.append((source, source.forward_activation()))
            if i + 1 < len(pairs):
                units = norm(conv(units)).relu()
        self.shortcut = Source(inputs)
        if isinstance(block.downsample, nn.Sequential):
            self.shortcut = _source(inputs, *block.downsample)
        last, excitement = self.layers[-1]
        self.layers[-1] = (last, excitement + self.shortcut.forward_activation())

    def go_back(self, share: Tensor) -> Tensor:
        """Return the shares (B, C, h, w) of the block's inputs for shares of its outputs."""
        split = split_share(share, self.layers[-1][1])
        across = self.shortcut.backward_share(split)
        share = self.layers[-1][0].backward_share(split)
        for source, excitement in reversed(self.layers[:-1]):
            share = source.backward_share(split_share(share, excitement))
        return across + share


def _source(units: Tensor, conv: nn.Module, norm: nn.Module) -> Source:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)  # SyncBatchNorm is no BatchNorm2d
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = (conv.weight * scale.view(-1, 1, 1, 1)).relu()
    return Source(units, weight, conv.stride[0], int(conv.padding[0]))


def peak_response_maps(
    maps: Tensor,
    top: Tensor,
    weight: Tensor,
    walks: Sequence[Walk] = (),
    window: int = WINDOW,
) -> Tensor:
    """Return the peak response map (B, K, h, w) of every class.

    maps (B, K, h', w') are the class responses that `weight` (K, C, 1, 1) makes of `top` features
    (B, C, h', w'), which are not negative; `walks` lead on from there, the topmost block first.
    Each map is the sum over channels of the units where the walk ends.
    """
    start, positive = share_peaks(maps, window), weight.relu()
    responses = []
    for k in range(maps.shape[1]):
        source = Source(top, positive[k : k + 1])
        share = source.backward_share(split_share(start[:, k : k + 1], source.forward_activation()))
        for walk in walks:
            share = walk.go_back(share)
        responses.append(share.sum(1))
    return torch.stack(responses, 1)


class PeakHead(nn.Module):
    """A 1 x 1 convolution to class response maps, whose peaks' mean is the logit.

    Zhou et al., PRM, CVPR 2018, section "Peak Stimulation". The maps of this head are the class
    responses; the peak response maps need the block below too
    (`auheat.models.prm.PeakNetwork`).
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.respond = nn.Conv2d(channels[-1], classes, 1)

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:  # noqa: ARG002
        """Return logits (B, K) and class response maps (B, K, h, w); labels are not needed."""
        maps = self.respond(features[-1])
        return Output(stimulate(maps), maps)


class PeakNetwork(Network):
    """PRM: in evaluation mode, the class responses' peaks are traced back through the last block.

    The paper goes on to the pixels, a whole walk back through the network for each class. Here
    it ends at the inputs of the last residual block: on the grid of the top features like
    every other method's maps, for about a sixth of a ResNet-50's cost a class. The shares of a
    walk are defined for plain convolutions, so other networks of timm than plain ResNets are
    refused.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__(backbone, head)
        find_last_block(backbone)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Classify images (B, 3, H, W); labels are not needed."""
        if self.training or wants_logits_alone():
            return super().forward(images, labels)
        entered: list[Tensor] = []
        block = find_last_block(self.backbone)
        hook = block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            output = super().forward(images, labels)
        finally:
            hook.remove()
        weight: Any = self.head.respond.weight  # type: ignore[union-attr]
        with torch.no_grad():
            walk = Walk(block, entered[0])
            maps = peak_response_maps(output.maps, output.features[-1], weight, [walk])
        return output._replace(maps=maps)


def find_last_block(backbone: nn.Module) -> nn.Module:
    """Return the last residual block of a ResNet, auheat's or timm's, that can be walked through.

    Raises `AuheatError` where there is none: a block with anything but convolutions, their batch
    norms and ReLU has no shares by the paper's formula.
    """
    stage = getattr(backbone, "layer4", None)
    block = stage[-1] if isinstance(stage, nn.Sequential) else None
    if block is None or not _is_plain(block):
        name = getattr(getattr(backbone, "timm_shape", None), "name", "this backbone")
        raise RequestError(
            f"--method: prm traces peaks back through a residual block of convolutions and ReLU, "
            f"and {name} does not end in one (a ResNet does; cam or acol take any)"
        )
    return block


def _is_plain(block: nn.Module) -> bool:
    """Whether a block is made of plain convolutions, batch norms and ReLU, with a shortcut."""
    kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.Identity, nn.Sequential)
    parts = [*block.modules()][1:]
    convs = [part for part in parts if isinstance(part, nn.Conv2d)]
    shortcut = getattr(block, "downsample", None)
    joined = len(shortcut) if isinstance(shortcut, nn.Sequential) else 0
    return (
        all(isinstance(part, kinds) for part in parts)
        and all(conv.groups == 1 and conv.dilation == (1, 1) for conv in convs)
        and all(hasattr(block, name) for name in ("conv1", "bn1", "conv2", "bn2"))
        and len(convs) == 2 + hasattr(block, "conv3") + (joined == 2)
    )
