"""Heads: five feature maps in, logits and one map per class out.

Every head is a module built from (channels of the five layers, number of classes) and called
with (features shallow to deep, labels (B,) or None); it returns an `Output`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auheat.models.cams import Formula, gradient_maps
from auheat.models.output import Output, is_traced, wants_logits_alone
from auheat.utils.maps import min_max


class GapHead(nn.Module):
    """Global average pooling and a linear classifier, named `fc` as in published checkpoints.

    Its maps are class activation maps (Zhou et al. 2016, eq. 2): top features weighted by the
    class's row of `fc`, without bias or ReLU, so that logit = mean of the map + bias.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels[-1], classes)

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:  # noqa: ARG002 (a head's common signature)
        """Return logits (B, K) and maps (B, K, h, w); labels are not needed."""
        top = features[-1]
        maps = torch.einsum("bchw,kc->bkhw", top, self.fc.weight)
        return Output(self.score(top), maps, logit_maps=maps)

    def score(self, top: Tensor) -> Tensor:
        """Return the logits (B, K) of top features (B, C, h, w)."""
        logits: Tensor = self.fc(top.mean((2, 3)))
        return logits


class GradientHead(GapHead):
    """The classifier of `GapHead` with maps by a gradient formula of `auheat.models.cams`.

    `aligned` tells that a loss reads the maps in training. They are then made with a history: the
    gradient of a class's logit, its row of `fc` over the number of places, needs no walk back.
    """

    def __init__(self, channels: Sequence[int], classes: int, formula: Formula) -> None:
        super().__init__(channels, classes)
        self.formula, self.aligned = formula, False

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:
        """Return logits (B, K), and where they are read the formula's maps (B, K, h, w)."""
        top = features[-1]
        if self.training or wants_logits_alone():
            output = super().forward(features, labels)
            aligned = self.training and self.aligned
            return output._replace(maps=self._make_maps(top)) if aligned else output
        if is_traced():  # a graph walks back no gradient; this head's is known
            return Output(self.score(top), self._make_maps(top))
        return Output(self.score(top), gradient_maps(self.formula, self.score, top))

    def _make_maps(self, top: Tensor) -> Tensor:
        """Return the maps (B, K, h, w) that a loss can be taken of."""
        places = top.shape[2] * top.shape[3]
        rows = self.fc.weight[:, None, :, None, None] / places
        return torch.stack([self.formula(top, row.expand_as(top)) for row in rows], 1)


class WildcatHead(nn.Module):
    """Several maps per class, their mean, and its highest and lowest places as the score.

    Durand et al., WILDCAT, CVPR 2017: a 1 x 1 convolution makes `modalities` maps per class, eq. 1
    averages them to the class's map, and eq. 2 gives the logit: the mean of the k highest places
    + `alpha` x the mean of the k lowest, k being a `share` of all places, at least one. The
    defaults are the authors' for VOC 2007. modalities 5, share 0.5 and alpha 0 are what the
    code of Belharbi et al. computes, which loses the second term.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        modalities: int = 8,
        share: float = 0.2,
        alpha: float = 0.7,
    ) -> None:
        super().__init__()
        self.classes, self.share, self.alpha = classes, share, alpha
        self.transfer = nn.Conv2d(channels[-1], modalities * classes, 1)

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:  # noqa: ARG002
        """Return logits (B, K) and class maps (B, K, h, w); labels are not needed."""
        maps = self.transfer(features[-1]).unflatten(1, (self.classes, -1)).mean(2)
        return Output(pool_extremes(maps, self.share, self.alpha), maps)


def pool_extremes(maps: Tensor, share: float, alpha: float) -> Tensor:
    """Return the mean of each map's k highest places + alpha x that of its k lowest.

    maps (..., h, w) give (...); k is the nearest number to `share` of the places, at least 1.
    """
    places = maps.flatten(-2)
    k = max(1, round(share * int(places.shape[-1])))  # a tensor where the network is traced
    high = places.topk(k, -1).values.mean(-1)
    low = places.topk(k, -1, largest=False).values.mean(-1)
    return high + alpha * low


class AcolHead(nn.Module):
    """Two branches, the second of which sees features erased where the first is surest.

    Zhang et al., ACoL, CVPR 2018: each branch is two 3 x 3 convolutions, a 1 x 1 convolution to
    the class maps, and their mean as the logits. Branch B sees zeros where A's map of the true
    class, min-max scaled, exceeds `threshold`; in evaluation, or without labels, of the class
    that A predicts. A classifies, B's logits are auxiliary, and a class's map is the higher of
    the two branches' scaled ones. 0.6 is the paper's best threshold (Belharbi et al. use 0.1);
    the width of half the channels is its 1024 on a ResNet-50. Its layers begin by He's rule over
    their outputs, biases zero, as those of the ResNet under them do: torch's default shrinks what
    goes through a layer by about the root of 6, three times over, and the branches learn nothing.
    """

    def __init__(self, channels: Sequence[int], classes: int, threshold: float = 0.6) -> None:
        super().__init__()
        self.threshold = threshold
        self.branch_a = _branch(channels[-1], classes)
        self.branch_b = _branch(channels[-1], classes)

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:
        """Return A's logits (B, K), fused maps (B, K, h, w) in [0, 1], and B's logits.

        The logit maps are A's maps without the bias.
        """
        top = features[-1]
        maps_a = self.branch_a(top)
        logits = maps_a.mean((2, 3))
        chosen = logits.argmax(1) if labels is None or not self.training else labels
        surest = maps_a[torch.arange(top.shape[0], device=top.device), chosen]
        maps_b = self.branch_b(erase_surest(top, surest, self.threshold))
        fused = torch.maximum(min_max(maps_a), min_max(maps_b))
        bias = self.branch_a[-1].bias
        assert isinstance(bias, Tensor)
        logit_maps = maps_a.detach() - bias.detach().view(-1, 1, 1)
        return Output(logits, fused, (maps_b.mean((2, 3)),), logit_maps=logit_maps)


def _branch(channels: int, classes: int) -> nn.Sequential:
    width = max(1, channels // 2)
    layers = [
        nn.Conv2d(channels, width, 3, padding=1),
        nn.Conv2d(width, width, 3, padding=1),
        nn.Conv2d(width, classes, 1),
    ]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    first, second, last = layers
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), last)


def erase_surest(features: Tensor, surest: Tensor, threshold: float) -> Tensor:
    """Zero features (B, C, h, w) where the scaled map `surest` (B, h, w) exceeds the threshold."""
    keep = min_max(surest.detach()) <= threshold
    return features * keep[:, None]
