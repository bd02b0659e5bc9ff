"""A convolutional backbone with a head on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from auheat.models.output import Output
from auheat.models.resnet import build_trunk

Classifier: TypeAlias = nn.Module
"""A method's network: called with images (B, 3, H, W) and labels (B,) or None, gives `Output`."""


Head: TypeAlias = Callable[[Sequence[int], int], nn.Module]
"""Makes a head of the channels of the backbone's five layers and the number of classes."""


class Network(nn.Module):
    """A convolutional backbone and a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Classify images (B, 3, H, W); labels (B,) are for heads that use them in training."""
        features = self.backbone(images)
        output: Output = self.head(features, labels)
        return output._replace(features=tuple(features))


def cnn(head: Head, network: type[Network] = Network) -> Callable[[str, int], nn.Module]:
    """Return what builds a network of a backbone's name and a number of classes with this head."""

    def build(backbone: str, classes: int) -> nn.Module:
        trunk, channels = build_trunk(backbone)
        return network(trunk, head(channels, classes))

    return build
