"""ADL (Choe and Shim, CVPR 2019): attended places are dropped or weighted in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from auheat.models.network import Network
from auheat.models.output import Output
from auheat.models.resnet import ResNet
from auheat.models.timm_backbones import change_map, find_followers


class AdlNetwork(Network):
    """ADL: in training, attended places of the last three layers are dropped or weighted.

    Choe and Shim 2019 put their layer behind pool3, pool4 and conv5-3 of VGG; behind layer2, layer3
    and layer4 are the same depths of a residual network; of a network of timm it is the last three
    layers, too. What is dropped goes on to the next layer and to the head, while `features` hold
    the layers as they are: where the AU loss wants attention nothing may be taken away. Nothing is
    dropped in evaluation, and the maps are CAM's, of the last block.
    """

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__(backbone, head)
        drops: list[tuple[nn.Module, Callable[[Tensor], Tensor]]]
        if isinstance(backbone, ResNet):
            drops = [(backbone.layer3, _drop), (backbone.layer4, _drop)]
        else:
            drops = [
                (stage, partial(change_map, backbone.timm_shape, place, _drop))
                for place, stage in find_followers(backbone)
            ]
        for stage, drop in drops:
            stage.register_forward_pre_hook(partial(_drop_in_training, drop))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Classify images (B, 3, H, W); labels are not needed."""
        features = self.backbone(images)
        top = _drop(features[-1]) if self.training else features[-1]
        output: Output = self.head([*features[:-1], top], labels)
        return output._replace(features=tuple(features))


def _drop(features: Tensor) -> Tensor:
    return drop_attended(features, draw_drop())


def _drop_in_training(
    drop: Callable[[Tensor], Tensor], stage: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (drop(inputs[0]), *inputs[1:]) if stage.training else inputs


DROP_RATE, DROP_THRESHOLD = 0.75, 0.8
"""How often the drop mask is drawn, and the share of the highest attention it begins at."""


def drop_attended(features: Tensor, drop: Tensor, threshold: float = DROP_THRESHOLD) -> Tensor:
    """Apply ADL's drop mask or importance map to features (B, C, h, w).

    Choe and Shim, Attention-based Dropout Layer, CVPR 2019, section 3: attention is the channel
    mean; the drop mask is 0 where it exceeds `threshold` x its highest value and else 1, the
    importance map is its sigmoid. `drop`, a bool scalar, says which one the features are
    multiplied by. Signed features are taken as they are; where no attention is above zero the
    mask drops the places above a negative bound.
    """
    attention = features.mean(1, keepdim=True)
    bound = threshold * attention.amax((2, 3), keepdim=True)
    mask = (attention <= bound).to(features.dtype)
    drop = drop.to(features.device, non_blocking=True)
    return features * torch.where(drop, mask, attention.sigmoid())


def draw_drop(rate: float = DROP_RATE) -> Tensor:
    """Draw whether it is the drop mask's turn, on the CPU, so that a seed means the same anywhere.

    The rate is the paper's for VGG-GAP, as is the threshold; Belharbi et al. use 0.4 and 0.1.
    """
    return torch.rand((), device="cpu") < rate
