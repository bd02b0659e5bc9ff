"""Residual networks on plain torch whose parameter names are torchvision's.

So a published checkpoint loads as it is. The last two stages keep stride 1, which the paper's
runs do too: the last maps are an eighth of the image, 28 x 28 at 224 px. Any network of the timm
package that gives five feature maps stands in as "timm:NAME".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled here
from types import MappingProxyType
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from auheat.records import AuheatError

N_LAYERS = 5
"""Feature maps that a backbone gives, shallow to deep."""

STRIDES = (2, 2, 1, 2, 1, 1)
"""Strides of conv1, maxpool and layer1 to layer4."""

TIMM = "timm:"
"""What the name of a network of timm begins with."""

WEIGHTS_HINT = "--weights takes auto, none, a .pth or a .safetensors file"


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
        raise AuheatError(f"--backbone: {name!r} is not known (one of {', '.join(BACKBONES)})")
    return BACKBONES[name].build()


def build_trunk(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a backbone of `BACKBONES` or of timm ("timm:NAME"), and its five layers' channels.

    Raises `AuheatError` for an unknown name, where timm is missing, or for a network of it that
    does not give five maps (B, C, h, w). timm's own parameter names are kept, and its maps may be
    of either sign.
    """
    if not name.startswith(TIMM):
        backbone = build_backbone(name)
        return backbone, backbone.channels
    try:
        create = import_module("timm").create_model
    except ImportError as error:
        raise AuheatError(f"--backbone: {name} needs timm: {error} (pip install timm)") from error
    try:
        network: nn.Module = create(name.removeprefix(TIMM), features_only=True)
    except Exception as error:  # timm raises whatever its networks do
        raise AuheatError(f"--backbone: {name}: timm cannot build it ({error})") from error
    about: Any = network.feature_info
    channels = tuple(about.channels())
    if len(channels) != N_LAYERS:
        raise AuheatError(
            f"--backbone: {name} gives {len(channels)} feature maps (expected {N_LAYERS})"
        )
    return network, channels


class Found(NamedTuple):
    """The files of a backbone's published weights: those at hand, and the names of the others."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]


def find_weights(name: str) -> Found:
    """Look for the published weights of a backbone of `BACKBONES`, by torchvision's file names.

    Nothing is published here for a network of timm.
    """
    return find_parts((BACKBONES[name].weights,) if name in BACKBONES else ())


def find_parts(parts: Sequence[Sequence[str]]) -> Found:
    """Look for the weight files of a network's parts, each with the names it goes by.

    A part without names has nothing published; of one that is not at hand the first name is
    told. Where `find_file` looks.
    """
    files = [(names[0], find_file(names)) for names in parts if names]
    return Found(
        tuple(file for _, file in files if file is not None),
        tuple(name for name, file in files if file is None),
    )


def find_file(names: Sequence[str]) -> Path | None:
    """Return the first of these weight files that is at hand, None where none is.

    Looks in the folder AUHEAT_WEIGHTS, then in torch's hub cache, for each name and the same
    with .safetensors.
    """
    own = os.environ.get("AUHEAT_WEIGHTS")
    folders = ([Path(own)] if own else []) + [Path(torch.hub.get_dir()) / "checkpoints"]
    for folder in folders:
        for file in names:
            for candidate in (folder / file, (folder / file).with_suffix(".safetensors")):
                if candidate.is_file():
                    return candidate
    return None


def load_weights(backbone: nn.Module, file: Path, fc: nn.Linear | None = None) -> list[str]:
    """Load a .pth or .safetensors checkpoint by parameter name; return what did not match.

    "fc.*" goes to `fc` where it fits and is else left out, with a message. Missing and unexpected
    names are messages too; batch counters, which old files lack, are not worth one. Raises
    `AuheatError` for a file that cannot be read, a shape that differs, or where no name matches.
    """
    return load_named(backbone, read_tensors(file), file, "fc", fc)


def load_named(
    backbone: nn.Module,
    given: Mapping[str, Tensor],
    file: Path,
    classifier: str,
    head: nn.Module | None = None,
) -> list[str]:
    """Load the tensors read from a file as `load_weights` does, whatever the classifier's name.

    "`classifier`.weight" and ".bias" go to `head` where they fit; `backbone` may contain it.
    """
    ours = {k: v for k, v in backbone.state_dict().items() if not k.startswith(f"{classifier}.")}
    theirs = {k: v for k, v in given.items() if k not in _classifier_names(classifier)}
    own_head = {k.rpartition(".")[2]: given[k] for k in _classifier_names(classifier) if k in given}
    matching = {k: v for k, v in theirs.items() if k in ours}
    if not matching:
        raise AuheatError(
            f"{file}: no parameter of this backbone in it (starts with {_few(theirs)})"
        )
    for key, value in matching.items():
        if value.shape != ours[key].shape:
            raise AuheatError(
                f"{file}: {key} is {tuple(value.shape)} (this backbone has "
                f"{tuple(ours[key].shape)})"
            )
    backbone.load_state_dict(matching, strict=False)
    messages = []
    missing = [k for k in ours if k not in theirs and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in theirs if k not in ours]
    if missing:
        messages.append(f"{file.name}: {len(missing)} parameters missing ({_few(missing)})")
    if unexpected:
        messages.append(f"{file.name}: {len(unexpected)} not used ({_few(unexpected)})")
    if own_head and not _load_head(head, own_head):
        classes = len(next(iter(own_head.values())))
        messages.append(
            f"{file.name}: its classifier ({classifier}, {classes} classes) is left out"
        )
    return messages


def _classifier_names(classifier: str) -> tuple[str, str]:
    return f"{classifier}.weight", f"{classifier}.bias"


def _load_head(head: nn.Module | None, given: dict[str, Tensor]) -> bool:
    if head is None or {k: v.shape for k, v in given.items()} != {
        k: v.shape for k, v in head.state_dict().items()
    }:
        return False
    head.load_state_dict(given)
    return True


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth or .safetensors file by name; code in it is never run.

    Some published files keep them under "model" or "state_dict". Raises `AuheatError` for a file
    that is none or cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix != ".pth":
            raise AuheatError(f"{file}: a kind of file not read here ({WEIGHTS_HINT})")
        # weights_only is torch's restricted reader: tensors and plain containers, no code
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise AuheatError(f"{file}: cannot be read ({WEIGHTS_HINT})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise AuheatError(f"{file}: no checkpoint of plain tensors ({WEIGHTS_HINT})") from error
    for key in ("model", "state_dict"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict) or not all(isinstance(v, Tensor) for v in raw.values()):
        raise AuheatError(f"{file}: no checkpoint of plain tensors ({WEIGHTS_HINT})")
    return dict(raw)


def _few(names: Sequence[str] | Mapping[str, Tensor]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
