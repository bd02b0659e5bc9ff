"""Faithfulness of a map to the network: what a class's score does when pixels are taken away.

A map ranks the pixels, and the network is asked about copies of the photo in which the first or the
last of them are replaced. All copies are made from ranks by comparison, in batches, on the photos'
device; nothing is read back from it. docs/metrics.md has the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from auheat.evaluation.imputation import impute
from auheat.utils.cuda import exact_float32

Score = Callable[[Tensor], Tensor]
"""A network as a function: images (B, 3, H, W) in [0, 1] to logits (B, K)."""

BLUR = 0.05
"""Sigma of the blurred fill, as a share of the photo's side."""

ROAD_SHARES = tuple(percent / 100 for percent in range(10, 100, 10))
"""Shares of the pixels that ROAD takes away."""

PROBABILITY, LOGIT, RECOGNISED = range(3)
"""Places in a probe's answers: the class's probability, its logit, and 1 where the network's
answer is the photo's label."""


@exact_float32()
def blur(images: Tensor, share: float = BLUR) -> Tensor:
    """Return images (N, C, H, W) blurred by a Gaussian whose sigma is a share of each side.

    Near an edge the weights of the pixels that are there are scaled to 1.
    """
    rows, columns = (_blur_matrix(n, share, images) for n in images.shape[-2:])
    return rows @ images @ columns.mT


def _blur_matrix(n: int, share: float, like: Tensor) -> Tensor:
    at = torch.arange(n, device=like.device, dtype=torch.float64)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * (share * n) ** 2))
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def rank_pixels(maps: Tensor, ties: Tensor) -> Tensor:
    """Return the rank (N, P) of every pixel of maps (N, H, W), 0 where a map is highest.

    Pixels of equal value come in the order of `ties` (N, P), drawn at random: in reading order a
    flat part of a map would always be taken away from its top.
    """
    order = ties.argsort(dim=1, stable=True)
    values = maps.flatten(1).gather(1, order)
    order = order.gather(1, values.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


class Probe:
    """A network that is asked about altered copies of N photos, about one class of each.

    Answers are (N, T, 3) for T copies of each photo: `PROBABILITY`, `LOGIT`, `RECOGNISED`.
    `whole` (N, 3) are those of the photos themselves, `classes` (N,) the classes asked about:
    those that the network gives the whole photos.
    """

    def __init__(
        self,
        score: Score,
        images: Tensor,
        labels: Tensor,
        size: int,
        added: Tensor | None = None,
    ) -> None:
        """Ask about images (N, 3, H, W) of labels (N,), at most `size` copies at once.

        `added` (N, K), where given, is added to the logits of every copy of a photo.
        """
        self.score, self.images, self.labels, self.size = score, images, labels, size
        logits = score(images)
        self.added = torch.zeros_like(logits) if added is None else added
        self._logits = logits + self.added
        self.classes = self._logits.argmax(1)
        self.whole = self._read(self._logits[:, None])[:, 0]

    def about(self, classes: Tensor) -> Probe:
        """Return a probe of the same photos that asks about other classes (N,)."""
        other = copy(self)
        other.classes = classes
        other.whole = other._read(self._logits[:, None])[:, 0]
        return other

    def _read(self, logits: Tensor) -> Tensor:
        """Return the answers (N, T, 3) in logits (N, T, K)."""
        own = self.classes[:, None, None].expand(-1, logits.shape[1], 1)
        recognised = (logits.argmax(2) == self.labels[:, None]).to(logits.dtype)
        chosen = [values.gather(2, own)[..., 0] for values in (logits.softmax(2), logits)]
        return torch.stack([*chosen, recognised], 2)

    def _ask(self, ranks: Tensor, first: Tensor, last: Tensor, alter: _Alter) -> Tensor:
        """Ask about copies whose pixels of a rank below `first` or from `last` (N, T) on go."""
        n, copies = first.shape
        photos = torch.arange(n, device=ranks.device).repeat_interleave(copies)
        first, last = first.reshape(-1, 1), last.reshape(-1, 1)
        logits = []
        for start in range(0, len(photos), self.size):
            part = slice(start, start + self.size)
            rank = ranks[photos[part]]
            gone = (rank < first[part]) | (rank >= last[part])
            gone = gone.view(-1, *self.images.shape[-2:])
            logits.append(self.score(alter(photos[part], gone)) + self.added[photos[part]])
        return self._read(torch.cat(logits).view(n, copies, -1))

    def replace(self, fill: Tensor, ranks: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Ask about copies whose pixels of a rank below `first` or from `last` on are the fill's.

        fill (N, 3, H, W), ranks (N, P), first and last (N, T) or what broadcasts to it.
        """

        def alter(photos: Tensor, gone: Tensor) -> Tensor:
            return torch.where(gone[:, None], fill[photos], self.images[photos])

        shape = (len(self.images), max(first.shape[-1], last.shape[-1]))
        return self._ask(ranks, first.expand(shape), last.expand(shape), alter)

    def impute(self, ranks: Tensor, counts: Tensor, noise: Tensor) -> Tensor:
        """Ask about copies whose `counts` (T,) first pixels go and are imputed.

        noise (N, 3, H, W) is what `impute` adds."""

        def alter(photos: Tensor, gone: Tensor) -> Tensor:
            return impute(self.images[photos], gone, noise[photos])

        first = counts.expand(len(self.images), -1)
        return self._ask(ranks, first, torch.full_like(first, ranks.shape[1]), alter)


_Alter = Callable[[Tensor, Tensor], Tensor]


def share_counts(shares: Sequence[float], pixels: Tensor) -> Tensor:
    """Return how many pixels shares (T,) of `pixels` (...) are, (..., T), to the nearest."""
    at = torch.tensor(shares, dtype=torch.float64).to(pixels.device, non_blocking=True)
    return (pixels[..., None] * at).round().long()


def trace_curves(
    probe: Probe, fill: Tensor, blank: Tensor, ranks: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the deletion and the insertion curve of maps, (N, steps + 1, 3) each.

    Deletion replaces the highest-ranked 0, 1/steps, ..., 1 of the pixels by the fill's; insertion
    keeps them and replaces the others. Petsiuk et al., RISE, BMVC 2018, section 3.2. `blank` (N, 3)
    are the answers to the fill itself.
    """
    pixels = torch.full((), ranks.shape[1], device=ranks.device)
    counts = share_counts([i / steps for i in range(1, steps)], pixels)
    none, every = torch.zeros_like(counts), torch.full_like(counts, ranks.shape[1])
    first, last = torch.cat([counts, none]), torch.cat([every, counts])
    inner = probe.replace(fill, ranks, first, last)
    deleted, inserted = inner[:, : steps - 1], inner[:, steps - 1 :]
    ends = probe.whole[:, None], blank[:, None]
    return torch.cat([ends[0], deleted, ends[1]], 1), torch.cat([ends[1], inserted, ends[0]], 1)


def trace_flips(
    probe: Probe, fill: Tensor, faceless: Tensor, ranks: Tensor, pixels: Tensor, steps: int
) -> Tensor:
    """Return the deletion curve (N, steps + 1, 3) over the pixels of the face alone.

    `ranks` have the `pixels` (N,) of the face before all others, `faceless` (N, 3) are the answers
    where the whole face is the fill's. After the pixel flipping of Bach et al., PLoS ONE 2015.
    """
    counts = share_counts([i / steps for i in range(1, steps)], pixels)
    every = torch.full_like(counts, ranks.shape[1])
    inner = probe.replace(fill, ranks, counts, every)
    return torch.cat([probe.whole[:, None], inner, faceless[:, None]], 1)


def trace_road(probe: Probe, ranks: Tensor, noise: Tensor) -> Tensor:
    """Return the answers (N, 9, 3) with 10, 20, ..., 90 % of the pixels imputed, highest first.

    Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022.
    """
    pixels = torch.full((), ranks.shape[1], device=ranks.device)
    return probe.impute(ranks, share_counts(ROAD_SHARES, pixels), noise)


def comprehensiveness_and_sufficiency(
    probe: Probe, fill: Tensor, ranks: Tensor, pixels: Tensor
) -> Tensor:
    """Return how far a class's probability falls (N, 2) without a region, and with it alone.

    The region is the `pixels` (N,) of the lowest ranks. DeYoung et al., ERASER, ACL 2020, eq. 1
    and 2: p(x) - p(x without r), high where the region is needed, and p(x) - p(r), low where it is
    enough.
    """
    none, every = torch.zeros_like(pixels), torch.full_like(pixels, ranks.shape[1])
    first, last = torch.stack([pixels, none], 1), torch.stack([every, pixels], 1)
    left = probe.replace(fill, ranks, first, last)[..., PROBABILITY]
    return probe.whole[:, None, PROBABILITY] - left


def area_under(curves: Tensor) -> Tensor:
    """Return the area under curves (..., T + 1) over [0, 1], by trapezoids."""
    return (curves[..., :-1] + curves[..., 1:]).mean(-1) / 2


def value_at(curves: Tensor, share: float) -> Tensor:
    """Return the value of curves (..., T + 1) over [0, 1] at a share, between points linearly."""
    at = share * (curves.shape[-1] - 1)
    low = min(int(at), curves.shape[-1] - 2)
    return curves[..., low] + (at - low) * (curves[..., low + 1] - curves[..., low])
