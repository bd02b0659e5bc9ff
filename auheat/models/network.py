"""A backbone with a head on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from auheat.models.output import Output
from auheat.models.resnet import TIMM, build_backbone
from auheat.models.timm_backbones import build_timm

Classifier: TypeAlias = nn.Module
"""A method's network: called with images (B, 3, H, W) and labels (B,) or None, gives `Output`."""


Head: TypeAlias = Callable[[Sequence[int], int], nn.Module]
"""Makes a head of the channels of the backbone's layers and the number of classes."""


class Network(nn.Module):
    """A backbone that gives feature maps, and a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Classify images (B, 3, H, W); labels (B,) are for heads that use them in training."""
        features = self.backbone(images)
        output: Output = self.head(features, labels)
        return output._replace(features=tuple(features))


@dataclass(frozen=True, slots=True)
class NetworkBuilder:
    """Builds networks of any backbone with one kind of head."""

    head: Head
    network: type[Network] = Network

    def __call__(self, backbone: str, classes: int, image_size: int = 224) -> nn.Module:
        """Return a network of a backbone's name and a number of classes, with fresh weights.

        `image_size` is the side in px that a network of timm ("timm:NAME") is made for; others take
        any. Raises `AuheatError` for an unknown name, where timm is missing, and for a size that
        the network does not take.
        """
        if backbone.startswith(TIMM):
            trunk, channels = build_timm(backbone, image_size)
        else:
            own = build_backbone(backbone)
            trunk, channels = own, own.channels
        return self.network(trunk, self.head(channels, classes))


def cnn(head: Head, network: type[Network] = Network) -> NetworkBuilder:
    """Return what builds a network of a backbone's name and a number of classes with this head."""
    return NetworkBuilder(head, network)
