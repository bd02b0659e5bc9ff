"""TS-CAM (Gao et al., ICCV 2021): a vision transformer whose patch tokens classify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from auheat.errors import RequestError
from auheat.models.output import Output
from auheat.models.pretrained import Found, find_parts, load_named, read_named
from auheat.models.vit import VITS, VisionTransformer, VitShape, fit_positions, to_map


class TsCam(VisionTransformer):
    """TS-CAM (Gao et al., ICCV 2021): a DeiT whose patch tokens, not its class token, classify.

    Semantic re-allocation: the patch tokens t of the last layer, back on their grid, go through
    a 3 x 3 convolution k (`head`) to semantic maps S_c = sum over channels d of t_d * k_cd;
    logits are the means of S_c, and cross-entropy is the loss. Semantic-agnostic attention: in
    every layer the class token's row of softmax(Q K^T / sqrt(d)), averaged over heads, without
    its own entry; A is the sum over layers. Coupling: maps M_c = A x S_c, elementwise. The paper's
    loss has no gradient along them; that of the class maps has.

    The sum over layers is that of the authors' released code, and of the code that the AU paper
    was computed with; a mean differs by the number of layers, which no scaled map or cosine
    shows. What that code calls layer 1, and aligns, is layer 5 here.

    `features` are patch tokens on the grid (B, D, h, w): as embedded, after a quarter, a half
    and three quarters of the blocks, and after the last block's norm. They have either sign.
    Attention (eq. 1) is their plain channel mean, no absolute value; the AU loss wants it to
    point the heatmap's way, so that what is below zero where the heatmap is not counts against.
    """

    def __init__(self, shape: VitShape, classes: int) -> None:
        super().__init__(shape)
        self.head = nn.Conv2d(shape.width, classes, 3, padding=1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:  # noqa: ARG002 (a model's common signature)
        """Classify normalised images (B, 3, H, W), sides multiples of the patch."""
        stages, rows, patches = self.forward_features(images)
        grid = (patches.shape[2], patches.shape[3])
        last = len(stages) - 1
        features = tuple(to_map(stages[last * i // 4][:, 1:], grid) for i in range(5))
        semantic = self.head(features[-1])
        maps = couple(semantic, sum_attention(rows, grid))
        return Output(semantic.mean((2, 3)), maps, (), features)


def sum_attention(rows: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Return the semantic-agnostic attention A (B, h, w) of the layers' class token scores.

    `rows` are scores (B, heads, 1 + h * w) before the softmax, the class token's own first.
    """
    layers = [scores.softmax(-1).mean(1)[:, 1:] for scores in rows]
    return torch.stack(layers).sum(0).reshape(-1, *grid)


def couple(semantic: Tensor, attention: Tensor) -> Tensor:
    """Return maps (B, K, h, w): semantic maps (B, K, h, w) times attention (B, h, w)."""
    return semantic * attention[:, None]


def build_ts_cam(backbone: str, classes: int) -> TsCam:
    """Return a TS-CAM with fresh weights; raises `AuheatError` for an unknown name."""
    if backbone not in VITS:
        raise RequestError(f"--backbone: {backbone!r} is not known (one of {', '.join(VITS)})")
    return TsCam(VITS[backbone], classes)


def find_ts_cam_weights(backbone: str) -> Found:
    """Look for the published weights of a transformer of `VITS`."""
    return find_parts((VITS[backbone].weights,))


def load_ts_cam_weights(model: nn.Module, file: Path) -> list[str]:
    """Load a DeiT or TS-CAM checkpoint by parameter name; return what did not match.

    Position embeddings of another grid are interpolated, with a message. "head.*" is left out,
    with a message, where it is a classifier of another shape, as DeiT's is. Raises `AuheatError`
    as `auheat.models.pretrained.load_weights` does.
    """
    assert isinstance(model, TsCam)
    given, messages = read_named(file, [model.state_dict()])
    messages += fit_positions(given, model.pos_embed, file)
    return messages + load_named(model, given, file, "head", model.head)
