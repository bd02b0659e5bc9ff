"""A stand-in for timm, which needs a torchvision that does not load beside a CPU torch.

It has timm's one call, `create_model`, and small networks with each form of output that timm's
networks have: maps with channels first and last, five, four or three layers, tokens.
"""

import sys
import types

import torch
from torch import nn

WIDTHS = (4, 8, 12, 16, 20)


class FakeStages(nn.ModuleDict):
    """Stages one after the other, as timm's `features_only=True` gives them."""

    def __init__(self, widths, stride=2, kernel=3, last=False, output_stride=32):
        super().__init__()
        kernels = {
            "kernel_size": kernel,
            "stride": stride,
            "padding": kernel // 2 if kernel == 3 else 0,
        }
        ends = zip((3, *widths[:-1]), widths, strict=True)
        for number, (inputs, outputs) in enumerate(ends):
            if stride ** (number + 1) > output_stride:
                kernels["stride"] = 1
            self[f"stages_{number}"] = nn.Conv2d(inputs, outputs, **kernels)
        self.last = last
        self.output_fmt = "NHWC" if last else "NCHW"
        self.feature_info = types.SimpleNamespace(
            channels=lambda: list(widths),
            reduction=lambda: [min(stride ** (n + 1), output_stride) for n in range(len(widths))],
            module_name=lambda: [f"stages.{n}" for n in range(len(widths))],
        )

    def forward(self, images):
        maps = []
        for stage in self.values():
            images = torch.tanh(stage(images))
            maps.append(images.permute(0, 2, 3, 1) if self.last else images)
        return maps


class FakeBlock(nn.Module):
    """Every token gets something of the mean of all."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, tokens):
        return tokens + torch.tanh(self.mix(tokens + tokens.mean(1, keepdim=True)))


class FakeVit(nn.Module):
    """A plain transformer with `prefix` tokens that have no place, made for one size of images.

    As timm's are, without intermediate layers where it is not asked for features alone.
    """

    def __init__(self, side, prefix, depth=3, width=8, patch=16):
        super().__init__()
        self.side, self.num_prefix_tokens, self.num_features = side, prefix, width
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, prefix, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(FakeBlock(width) for _ in range(depth)))

    def embed(self, images):
        assert tuple(images.shape[2:]) == (self.side, self.side), "Input size does not match"
        tokens = self.patch_embed(images).flatten(2).mT + self.pos_embed
        return torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1)

    def forward_features(self, images):
        return self.blocks(self.embed(images))


class FakeGetter(nn.ModuleDict):
    """timm's wrapper around a transformer: the maps of its last three blocks."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        depth, width = len(model.blocks), model.num_features
        self.feature_info = types.SimpleNamespace(
            channels=lambda: [width] * 3,
            reduction=lambda: [model.patch_embed.stride[0]] * 3,
            module_name=lambda: [f"blocks.{n}" for n in range(depth - 3, depth)],
        )

    def forward(self, images):
        tokens, maps = self.model.embed(images), []
        side = self.model.side // self.model.patch_embed.stride[0]
        for block in self.model.blocks:
            tokens = block(tokens)
            patches = tokens[:, self.model.num_prefix_tokens :]
            maps.append(patches.mT.reshape(len(images), -1, side, side))
        return maps[-3:]


def create_model(name, features_only=False, num_classes=1000, **size):
    """Make a network by name, as timm does; those of stages have no `img_size`."""
    stages = {
        "five": {"widths": WIDTHS},
        "four": {"widths": WIDTHS[1:]},
        "last": {"widths": WIDTHS[1:], "last": True},
        "square": {"widths": (16, 16, 8), "last": True},  # of 32 px: as many places as channels
        "cut": {"widths": WIDTHS[1:3], "kernel": 4, "stride": 4},
    }
    if name in stages:
        if "img_size" in size:
            raise TypeError("FakeStages.__init__() got an unexpected keyword argument 'img_size'")
        network = FakeStages(**stages[name], **size)
        network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}
        return network
    if name not in ("vit", "vit_reg", "old_vit"):
        raise RuntimeError(f"Unknown model ({name})")
    if "output_stride" in size:
        raise TypeError("FakeVit.__init__() got an unexpected keyword argument 'output_stride'")
    vit = FakeVit(size.get("img_size", 224), 5 if name == "vit_reg" else 1)
    if not features_only:
        return vit
    if name == "old_vit":
        raise RuntimeError("features_only not implemented for Vision Transformer models.")
    return FakeGetter(vit)


def install_fake_timm(monkeypatch):
    """Let `import timm` give the stand-in."""
    module = types.ModuleType("timm")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
