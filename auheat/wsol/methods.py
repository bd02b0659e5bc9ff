"""The classifier methods: one row each of a plain dict, and the model they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from auheat.records import AuheatError
from auheat.wsol.backbones import build_backbone
from auheat.wsol.heads import GapHead, Output

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Method:
    """What sets one method apart: its title, where it was published, and what builds its head.

    `head` takes the channels of the backbone's five layers and the number of classes.
    """

    title: str
    source: str
    head: Callable[[Sequence[int], int], nn.Module]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "cam": Method(
            "CAM",
            "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
            GapHead,
        ),
    }
)
"""Name -> method; whatever can be trained and evaluated stands here."""


class Classifier(nn.Module):
    """A backbone and a method's head; it normalises its images itself."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Classify RGB images (B, 3, H, W) in [0, 1]; labels (B,) are for heads that use them."""
        features = self.backbone((images - self.mean) / self.std)
        output: Output = self.head(features, labels)
        return output._replace(features=tuple(features))


def build_classifier(
    method: str,
    backbone: str,
    classes: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Classifier:
    """Return a classifier with fresh weights; raises `AuheatError` for an unknown name."""
    if method not in METHODS:
        raise AuheatError(f"--method: {method!r} is not known (one of {', '.join(METHODS)})")
    trunk = build_backbone(backbone)
    return Classifier(trunk, METHODS[method].head(trunk.channels, classes), mean, std)
