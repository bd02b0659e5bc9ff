"""Residual networks on plain torch whose parameter names are torchvision's.

So a published checkpoint loads as it is. The last two stages keep stride 1, which the paper's
runs do too: the last maps are an eighth of the image, 28 x 28 at 224 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from auheat.errors import RequestError

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of each RGB channel in [0, 1], as torchvision's weights were trained."""


N_LAYERS = 5
"""Feature maps that a backbone of auheat's own gives, shallow to deep."""


STRIDES = (2, 2, 1, 2, 1, 1)
"""Strides of conv1, maxpool and layer1 to layer4."""


TIMM = "timm:"
"""What the name of a network of timm begins with."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, fig. 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, planes, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which has the stride), 1 x 1 and a shortcut (He et al. 2016, fig. 5 right)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4 planes, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A residual network without its classifier; `channels` has those of its five layers.

    Layer 1 is conv1 + bn1 + relu, layer 2 maxpool + layer1, layers 3 to 5 layer2 to layer4
    (the counting of the paper's table 3). `width` is the number of channels of layer 1.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        width: int = 64,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        planes = [width * 2**i for i in range(4)]
        self.channels = (width, *(p * block.expansion for p in planes))
        self.conv1 = nn.Conv2d(3, width, 7, strides[0], 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, strides[1], 1)
        stages = [
            _stage(block, inputs, p, depth, stride)
            for inputs, p, depth, stride in zip(
                self.channels[:4], planes, depths, strides[2:], strict=True
            )
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to five feature maps, shallow to deep, all >= 0."""
        features = [self.relu(self.bn1(self.conv1(images)))]
        features.append(self.layer1(self.maxpool(features[0])))
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    rest = [block(planes * block.expansion, planes, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, planes, stride), *rest)


@dataclass(frozen=True, slots=True)
class Backbone:
    """How a named network is built, and the file names its published weights go by."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    width: int = 64
    strides: tuple[int, int, int, int, int, int] = STRIDES
    weights: tuple[str, ...] = ()

    def build(self) -> ResNet:
        """Return a network with fresh weights."""
        return ResNet(self.block, self.depths, self.width, self.strides)


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "resnet18": Backbone(BasicBlock, (2, 2, 2, 2), weights=("resnet18-f37072fd.pth",)),
        "resnet34": Backbone(BasicBlock, (3, 4, 6, 3), weights=("resnet34-b627a593.pth",)),
        "resnet50": Backbone(
            Bottleneck,
            (3, 4, 6, 3),
            weights=("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
        ),
        "resnet101": Backbone(Bottleneck, (3, 4, 23, 3), weights=("resnet101-63fe2227.pth",)),
        "thin": Backbone(BasicBlock, (1, 1, 1, 1), width=16, strides=(2, 2, 1, 1, 1, 1)),
    }
)
"""Name -> network. "thin" is for small sets and CPUs: maps are a quarter of the image."""


def build_backbone(name: str) -> ResNet:
    """Return a backbone with fresh weights; raises `AuheatError` for an unknown name."""
    if name not in BACKBONES:
        raise RequestError(f"--backbone: {name!r} is not known (one of {', '.join(BACKBONES)})")
    return BACKBONES[name].build()
