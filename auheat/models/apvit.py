"""APViT (Xue et al., IEEE TAFFC 2022): a face network's first stages, and a ViT that drops tokens.

Formulas are of "Vision Transformer with Attentive Pooling for Robust Facial Expression
Recognition", in the variant that its authors' code runs on RAF-DB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from auheat.errors import RequestError
from auheat.models.output import Output
from auheat.models.pretrained import Found, find_parts, load_named, read_named
from auheat.models.vit import (
    Block,
    fit_positions,
    make_positions,
    resize_positions,
    start_weights,
    start_wider,
    to_tokens,
)

_EPS = 1e-6


class ImprovedUnit(nn.Module):
    """An improved residual unit of face networks: BN, conv, PReLU, conv (with stride), BN.

    After ArcFace's (Deng et al., CVPR 2019), without its norm in the middle: the unit of
    face.evoLVe's IR-50, whose module names these are. Where the number of channels stays, the
    shortcut takes every `stride`-th pixel as it is.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), of either sign."""
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IrStem(nn.Module):
    """The first three stages of IR-50: an eighth of the image, 14 x 14 x 256 at 112 px.

    `units` has the number of units of each stage, of which the first one halves the map; the
    third stage has at least two. `body` numbers units through, as published checkpoints do.
    """

    def __init__(self, units: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels = (width, width, 2 * width, 4 * width)
        self.channels = channels[-1]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        self.body = nn.ModuleList(
            ImprovedUnit(channels[stage] if i == 0 else channels[stage + 1], outputs, 1 + (i == 0))
            for stage, outputs in enumerate(channels[1:])
            for i in range(units[stage])
        )
        self.stage_ends = (units[0], units[0] + units[1], sum(units))
        half = self.stage_ends[1] + units[2] // 2
        self._shown = {*self.stage_ends, half}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to five maps, shallow to deep, of either sign.

        They are of the input layer, the first and the second stage, half of the third one's
        units, and all of them.
        """
        x = self.input_layer(images)
        features = [x]
        for done, unit in enumerate(self.body, 1):
            x = unit(x)
            if done in self._shown:
                features.append(x)
        return features


def score_patches(patches: Tensor) -> Tensor:
    """Return APP's attention (B, h, w) of a map (B, D, h, w): the channels' sum of |x|."""
    return patches.float().abs().sum(1)


def score_tokens(scores: Tensor) -> Tensor:
    """Return ATP's weight (B, N) of the patch tokens: the class token's scores, summed over heads.

    `scores` (B, heads, 1 + N) are those before the softmax, the class token's own first.
    """
    return scores.float().sum(1)[:, 1:]


def pick_top(weights: Tensor, count: int) -> Tensor:
    """Return the indices (B, count) of the highest weights (B, N) of each row, ascending."""
    return weights.topk(count, 1).indices.sort(1).values


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens (B, count, D) that stand at `indices` (B, count) of (B, N, D)."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


class PoolingBlock(Block):
    """A transformer block that drops patch tokens after its attention (ATP).

    A share `kept` of them, rounded down and at least one, goes on, in their order, with the
    class token.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, kept: float) -> None:
        super().__init__(width, heads, mlp_ratio, bias=False)
        self.kept = kept

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, 1 + N, D) to (B, 1 + n, D), with the class token's scores of all N."""
        tokens, scores = self.attention_residual(tokens)
        count = max(1, int((tokens.shape[1] - 1) * self.kept))
        if count < tokens.shape[1] - 1:
            best = pick_top(score_tokens(scores), count)
            tokens = torch.cat([tokens[:, :1], take(tokens[:, 1:], best)], 1)
        return self.mlp_residual(tokens), scores


@dataclass(frozen=True, slots=True)
class ApvitShape:
    """The shape of a named APViT, and the file names its two parts' weights go by.

    `kept_patches` is APP's share, `kept_tokens` ATP's of each block; `image` is the side in
    pixels that its position embeddings were made for; `start` sets the fresh weights of the
    transformer's linear layers.
    """

    units: tuple[int, int, int]
    stem_width: int
    width: int
    heads: int
    kept_tokens: tuple[float, ...]
    kept_patches: float = 160 / 196
    mlp_ratio: float = 3.0
    image: int = 112
    start: Callable[[nn.Module], None] = start_weights
    weights: tuple[tuple[str, ...], ...] = ()


APVITS: Mapping[str, ApvitShape] = MappingProxyType(
    {
        "apvit": ApvitShape(
            (3, 4, 14),
            64,
            768,
            8,
            (1.0,) * 4 + (0.9,) * 4,
            weights=(("backbone_ir50_ms1m_epoch120.pth",), ("vit_small_p16_224-15ec54c9.pth",)),
        ),
        "thin-apvit": ApvitShape((1, 2, 6), 16, 64, 4, (1.0, 0.9), image=96, start=start_wider),
    }
)
"""Name -> shape; "thin-apvit" is for small sets and CPUs."""


class PoolingVit(nn.Module):
    """The transformer of APViT: patches of a feature map are scored, dropped, and attended to.

    Modules are named as in timm's ViT-small of that time (no bias on queries, keys and values),
    but for `proj`, the 1 x 1 convolution in the place of its patch embedding.
    """

    def __init__(self, shape: ApvitShape, channels: int) -> None:
        super().__init__()
        self.kept = shape.kept_patches
        self.proj = nn.Conv2d(channels, shape.width, 1)
        self.cls_token = make_positions(1, shape.width)
        self.pos_embed = make_positions(1 + (shape.image // 8) ** 2, shape.width)
        self.blocks = nn.ModuleList(
            PoolingBlock(shape.width, shape.heads, shape.mlp_ratio, kept)
            for kept in shape.kept_tokens
        )
        self.norm = nn.LayerNorm(shape.width, _EPS)
        self.apply(shape.start)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map a feature map (B, C, h, w) to the class token (B, D), with APP's scores (B, h, w)."""
        patches = self.proj(features)
        grid = (patches.shape[2], patches.shape[3])
        places = resize_positions(self.pos_embed, grid)
        attention = score_patches(patches)
        # which patches go on is decided before positions are added
        best = pick_top(attention.flatten(1), max(1, round(self.kept * int(math.prod(grid)))))
        kept = take(to_tokens(patches) + places[:, 1:], best)
        first = (self.cls_token + places[:, :1]).expand(features.shape[0], -1, -1)
        tokens = torch.cat([first, kept], 1)
        for block in self.blocks:
            tokens, _ = block(tokens)
        return self.norm(tokens)[:, 0], attention


class ApVit(nn.Module):
    """APViT: IR-50's first three stages, attentive patch and token pooling, a linear classifier.

    APP keeps the 160 of 196 patches whose 1 x 1-projected features have the highest sum of
    absolute values; ATP keeps, in each of the last four blocks, nine tenths of the tokens by
    the class token's scores. Both only choose: no gradient goes through the choice.

    The method has no map of a class. `maps` (B, K, h, w) are APP's attention, the same for
    every class, which is what the AU paper's code stores in their place; that paper's table of
    class maps leaves APViT out. A score made of them says nothing of classes.

    `features` are the stem's five maps. They have either sign; attention (eq. 1) is their plain
    channel mean, so the AU loss wants it above zero where the heatmap is. Layer 5 is what the
    AU paper's code aligns: the stem's output, not APP's attention.

    Differences from the authors' code: the classifier starts with small random weights, not
    zeros, so that the first step trains all of the network; positions of another image size are
    interpolated bicubically, not bilinearly.
    """

    def __init__(self, shape: ApvitShape, classes: int) -> None:
        super().__init__()
        self.extractor = IrStem(shape.units, shape.stem_width)
        self.vit = PoolingVit(shape, self.extractor.channels)
        self.head = nn.Linear(shape.width, classes)
        start_weights(self.head)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:  # noqa: ARG002 (a model's common signature)
        """Classify normalised images (B, 3, H, W)."""
        features = tuple(self.extractor(images))
        token, attention = self.vit(features[-1])
        logits = self.head(token)
        maps = attention.detach()[:, None].expand(-1, logits.shape[1], -1, -1)
        return Output(logits, maps, (), features)


def build_apvit(backbone: str, classes: int) -> ApVit:
    """Return an APViT with fresh weights; raises `AuheatError` for an unknown name."""
    if backbone not in APVITS:
        raise RequestError(f"--backbone: {backbone!r} is not known (one of {', '.join(APVITS)})")
    return ApVit(APVITS[backbone], classes)


def find_apvit_weights(backbone: str) -> Found:
    """Look for the published weights of the two parts of an APViT of `APVITS`."""
    return find_parts(APVITS[backbone].weights)


def load_apvit_weights(model: nn.Module, file: Path) -> list[str]:
    """Load a checkpoint of one part, or of all, by parameter name; return what did not match.

    An IR-50 ("input_layer.*") goes to the stem, a vision transformer ("cls_token", ...) to the
    transformer, a whole APViT of the authors' or one's own to both and the classifier. Position
    embeddings of another grid are interpolated, with a message. Raises `AuheatError` as
    `auheat.models.pretrained.load_weights` does.
    """
    assert isinstance(model, ApVit)
    parts = (model, model.extractor, model.vit)
    given, notes = read_named(file, [part.state_dict() for part in parts])
    if any(key.startswith("extractor.") for key in given):
        given = _own_names(given, model)
        vit = {k.removeprefix("vit."): v for k, v in given.items() if k.startswith("vit.")}
        messages = notes + fit_positions(vit, model.vit.pos_embed, file)
        given |= {f"vit.{k}": v for k, v in vit.items()}
        return messages + load_named(model, given, file, "head", model.head)
    if "input_layer.0.weight" in given:
        return notes + load_named(model.extractor, given, file, "head")
    messages = notes + fit_positions(given, model.vit.pos_embed, file)
    return messages + load_named(model.vit, given, file, "head")


def _own_names(given: Mapping[str, Tensor], model: ApVit) -> dict[str, Tensor]:
    """Return an authors' checkpoint under one's own names; one's own names stay as they are."""
    starts = (0, *model.extractor.stage_ends[:2])
    out = {}
    for key, value in given.items():
        parts = key.split(".")
        if key.startswith("extractor.body.") and parts[3].isdigit():
            unit = starts[int(parts[2])] + int(parts[3])
            key = ".".join(["extractor.body", str(unit), *parts[4:]])
        key = key.replace("vit.projs.0.", "vit.proj.").replace("head.fc.", "head.")
        out[key] = value
    if {"vit.cls_pos_embed", "vit.patch_pos_embed"} <= set(out):
        places = [out.pop(f"vit.{k}_pos_embed") for k in ("cls", "patch")]
        out["vit.pos_embed"] = torch.cat(places, 1)
    return out
