"""Vision transformers on plain torch whose parameter names are timm's, and TS-CAM on top.

So a published DeiT checkpoint loads as it is. Pictures of another size than the checkpoint's
are taken too: position embeddings are then interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auheat.errors import RequestError, StoreError

_EPS = 1e-6  # of every layer norm, as in timm's vision transformers

INIT_STD = 0.02  # of fresh weights, cut at two standard deviations


class Attention(nn.Module):
    """Multi-head self-attention (Dosovitskiy et al. 2021, appendix A) that also tells its scores.

    `bias` is that of the projection to queries, keys and values.
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, D) to (B, N, D), and return the class token's scores (B, heads, N).

        Scores are the first row of Q K^T / sqrt(D / heads), before the softmax over N.
        """
        b, n, width = tokens.shape
        shape = (b, n, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
        scores = q[:, :, 0, None] @ k.mT / math.sqrt(q.shape[-1])
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, width))
        return out, scores[:, :, 0]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on each token alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """A transformer block with the norms first (Dosovitskiy et al. 2021, eq. 2 and 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _EPS)
        self.attn = Attention(width, heads, bias)
        self.norm2 = nn.LayerNorm(width, _EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def attention_residual(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return eq. 2 of tokens (B, N, D), and the class token's scores (B, heads, N)."""
        mixed, scores = self.attn(self.norm1(tokens))
        return tokens + mixed, scores

    def mlp_residual(self, tokens: Tensor) -> Tensor:
        """Return eq. 3 of tokens (B, N, D)."""
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, D) to (B, N, D), with the class token's scores (B, heads, N)."""
        tokens, scores = self.attention_residual(tokens)
        return self.mlp_residual(tokens), scores


def start_weights(module: nn.Module) -> None:
    """Set fresh weights of a linear layer as DeiT does; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def start_wider(module: nn.Module) -> None:
    """Set fresh weights of a linear layer by its two widths (Glorot and Bengio 2010, eq. 16).

    DeiT's deviation is made for its hundreds of channels; through a few dozen, blocks that start
    with it pass on next to nothing.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def make_positions(tokens: int, width: int) -> nn.Parameter:
    """Return fresh embeddings (1, tokens, D), of positions or of the class token."""
    start = torch.empty(1, tokens, width)
    return nn.Parameter(nn.init.trunc_normal_(start, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD))


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return position embeddings (1, 1 + N, D) of a square grid for another one (h, w).

    The class token's is kept; the others are interpolated bicubically, with a wider filter where
    the grid shrinks. For the same grid they are returned untouched.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if (side, side) == grid:
        return positions
    own = to_map(positions[:, 1:].float(), (side, side))
    own = F.interpolate(own, grid, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([positions[:, :1], to_tokens(own).to(positions.dtype)], 1)


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return tokens (B, h * w, D) as a map (B, D, h, w); tokens go along the rows."""
    return tokens.mT.reshape(tokens.shape[0], -1, *grid)


def to_tokens(features: Tensor) -> Tensor:
    """Return a map (B, D, h, w) as tokens (B, h * w, D), along the rows."""
    return features.flatten(2).mT


class PatchEmbed(nn.Module):
    """Patches of an image, each mapped to a token.

    Non-overlapping and by one linear map (Dosovitskiy et al., eq. 1), or, with a `stem`, by
    `make_stem`: then a token has seen its patch's neighbourhood.
    """

    def __init__(self, width: int, patch: int, stem: Sequence[int] = ()) -> None:
        super().__init__()
        self.patch = patch
        plain = nn.Conv2d(3, width, patch, patch)
        self.proj: nn.Module = make_stem(stem, width) if stem else plain

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to (B, D, H / patch, W / patch).

        Raises `AuheatError` where a side is no multiple: its last pixels would be cut off.
        """
        if images.shape[2] % self.patch or images.shape[3] % self.patch:
            size = " x ".join(map(str, images.shape[2:]))
            raise RequestError(
                f"--image-size: {size} (this backbone takes multiples of {self.patch})"
            )
        out: Tensor = self.proj(images)
        return out


def make_stem(channels: Sequence[int], width: int) -> nn.Sequential:
    """Return convolutions from images (B, 3, H, W) to tokens (B, width, H / 2^n, W / 2^n).

    For each of the n `channels` two 3 x 3 convolutions, the first of stride 2, each with batch
    norm and ReLU; then a 1 x 1 convolution. After Xiao et al., Early Convolutions Help
    Transformers See Better, NeurIPS 2021, section 4, who have one convolution where there are
    two here.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in channels:
        for stride in (2, 1):
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, width, 1))


@dataclass(frozen=True, slots=True)
class VitShape:
    """The shape of a named vision transformer, and the file names its weights go by.

    `image` is the side in pixels that its position embeddings were made for. `stem` has the
    channels of `make_stem`, log2(`patch`) of them; empty for the plain patch embedding.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    image: int = 224
    mlp_ratio: float = 4.0
    stem: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()


VITS: Mapping[str, VitShape] = MappingProxyType(
    {
        "deit-small": VitShape(384, 12, 6, weights=("deit_small_patch16_224-cd65a155.pth",)),
        "deit-tiny": VitShape(192, 12, 3, weights=("deit_tiny_patch16_224-a1311bcf.pth",)),
        "thin-vit": VitShape(64, 4, 4, patch=8, image=96, stem=(16, 32, 64)),
    }
)
"""Name -> shape (Touvron et al. 2021, table 1); "thin-vit" is for small sets and CPUs.

A plain patch embedding learns next to nothing of a few hundred photos from scratch: a few
overlapping convolutions with batch norm before the transformer do.
"""


class VisionTransformer(nn.Module):
    """A vision transformer without its classifier, named as timm's `deit_small_patch16_224`."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        width, side = shape.width, shape.image // shape.patch
        self.patch_embed = PatchEmbed(width, shape.patch, shape.stem)
        self.cls_token = make_positions(1, width)
        self.pos_embed = make_positions(1 + side**2, width)
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, shape.mlp_ratio) for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(width, _EPS)
        self.apply(start_weights)
        # A norm whose weights are all one makes the channel mean of every token zero, and the
        # attention of eq. 1 nothing but rounding. Trained weights replace these.
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward_features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Run normalised images (B, 3, H, W) through all blocks.

        Returns what each stage made of the tokens (B, 1 + N, D): the embedding, then each block,
        the last one normalised; the class token's scores (B, heads, 1 + N) of each block; and
        for its size the map of the patches (B, D, h, w) as they were embedded.
        """
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        first = self.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, to_tokens(patches)], 1)
        stages = [tokens + resize_positions(self.pos_embed, grid)]
        rows = []
        for block in self.blocks:
            tokens, scores = block(stages[-1])
            stages.append(tokens)
            rows.append(scores)
        stages[-1] = self.norm(stages[-1])
        return stages, rows, patches


def fit_positions(given: dict[str, Tensor], own: Tensor, file: Path) -> list[str]:
    """Resize a checkpoint's "pos_embed" in place to fit one's own (1, 1 + N, D); tell of it."""
    theirs = given.get("pos_embed")
    if theirs is None or theirs.ndim != 3 or theirs.shape[1] == own.shape[1]:
        return []
    side, old = (math.isqrt(t.shape[1] - 1) for t in (own, theirs))
    if old < 1 or old**2 + 1 != theirs.shape[1]:
        raise StoreError(
            f"{file}: pos_embed has {theirs.shape[1]} positions (a class token's and a square "
            "grid's are expected)"
        )
    given["pos_embed"] = resize_positions(theirs, (side, side))
    return [f"{file.name}: position embeddings of {old} x {old} made {side} x {side}"]
