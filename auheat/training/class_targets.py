"""Targets of the losses that know all classes: the heatmap of every class on each training face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auheat.data.dataset import CACHE_BYTES, Item, ShardDataset
from auheat.errors import RequestError
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import Plan
from auheat.records import Array

KEPT_BYTES = 2**29
"""Class heatmaps of photos in memory are kept there, too, where they take no more than this."""

AU_TARGETS = ("own", "mean", "wrong")
"""What attention is drawn to: the class's own heatmap, or what a control puts in its place."""

_PART = 256  # photos drawn at once


def replace_targets(maps: Tensor, drawn: Sequence[int], target: str) -> Tensor:
    """Return the heatmaps of all classes with those of a control in their place.

    Args:
        maps: (B, K, h, w) heatmap of every class on each face.
        drawn: The classes that have one, in order; the others are left alone.
        target: "own" changes nothing; "mean" gives every class the mean of all on that face, which
            knows no class; "wrong" gives each class the heatmap of the next one, the last that of
            the first.

    Returns:
        (B, K, h, w), a copy where anything is changed.

    Example:
        >>> import torch
        >>> from auheat.training.class_targets import replace_targets
        >>> maps = torch.tensor([0.0, 1.0, 5.0]).reshape(1, 3, 1, 1)
        >>> replace_targets(maps, [0, 2], "wrong").flatten().tolist()
        [5.0, 1.0, 0.0]
        >>> replace_targets(maps, [0, 2], "mean").flatten().tolist()
        [2.5, 1.0, 2.5]
    """
    if target == "own":
        return maps
    chosen = list(drawn)
    out = maps.clone()
    if target == "mean":
        out[:, chosen] = maps[:, chosen].mean(1, keepdim=True)
    else:
        out[:, chosen] = maps[:, [*chosen[1:], *chosen[:1]]]
    return out


class Targets:
    """Class heatmaps and class weights of the losses against all classes, on one device.

    `class_weights` (K,) f32 of `contrastive_alignment_loss` let the classes that have heatmaps
    count alike, and a training row 1 on average: few photos of an expression say as much as many of
    another.
    """

    def __init__(
        self,
        plan: Plan,
        labels: Array,
        device: torch.device,
        balanced: bool = False,
        contrast: bool = True,
        target: str = "own",
    ) -> None:
        """Weigh classes by the training rows' labels (N,), alike where those are `balanced`.

        `target` is one of `AU_TARGETS`. Raises `AuheatError` where no class has a heatmap, or,
        with `contrast` or another target than the class's own, fewer than two.
        """
        self.plan, self.device, self.target = plan, device, target
        drawn = np.array([blobs is not None for blobs in plan.classes])
        option, needed = "--class-map-weight", "1 or more is needed"
        if target != "own":
            option, needed = "--au-target", "2 or more are needed, one to stand for another"
        if contrast:
            option, needed = "--contrast-weight", "2 or more are needed to be told apart"
        if drawn.sum() < 1 + (contrast or target != "own"):
            raise RequestError(
                f"{option}: {drawn.sum()} of the classes {', '.join(plan.names)} have "
                f"heatmaps ({needed})"
            )
        self._drawn_classes, self._drawn = drawn, torch.from_numpy(drawn).to(device)
        count = np.bincount(labels, minlength=len(drawn)) * drawn
        weights = count.sum() / (np.count_nonzero(count) * np.maximum(count, 1)) * (count > 0)
        plain = drawn.astype(np.float32)
        self.class_weights = torch.from_numpy(plain if balanced else weights.astype(np.float32))
        self.class_weights = self.class_weights.to(device)
        self._kept: dict[int, Tensor] = {}
        self._renderer: ClassMapRenderer | None = None

    def open(self, dataset: ShardDataset) -> None:
        """Prepare for batches of a dataset: once for all epochs where its photos are in memory.

        Heatmaps that are kept are rounded to 1/255, as those of shards are.
        """
        # Not more by a larger memory: a run must not depend on the machine that it was made on.
        known = id(dataset) in self._kept or not len(dataset)
        if known or not dataset.cached or dataset.pixel_bytes > CACHE_BYTES:
            return
        height, width = dataset.take([0])["heatmap"].shape[1:]
        shape = len(dataset), len(self.plan.names), height, width
        if np.prod(shape) > KEPT_BYTES:
            return
        kept = torch.empty(shape, dtype=torch.uint8)
        for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // _PART)):
            points = dataset.take(rows.tolist())["landmarks"].to(self.device)
            drawn = self.draw(points, dataset.image_size, (height, width))
            kept[rows] = (255 * drawn).round().to(torch.uint8).cpu()
        self._kept[id(dataset)] = kept.to(self.device)

    def of_batch(self, dataset: ShardDataset, batch: Item) -> tuple[Tensor, Tensor]:
        """Return each class's heatmap on a batch's photos as they were read, and where there are.

        The first are (B, K, h, w) in [0, 1], of the photo's own class the heatmap that came with
        it (which may be of measured action units), the second is (B,) bool: a photo has heatmaps
        where its own is valid, or its class has none and its points can be relied on. Of a
        control, its heatmaps are in the place of all of these, that which came with the photo too.
        """
        kept = self._kept.get(id(dataset))
        if kept is None:
            size = batch["heatmap"].shape[1:]
            maps = self.draw(batch["landmarks"], batch["image"].shape[-1], (size[0], size[1]))
        else:
            maps = kept[batch["index"].to(kept.device)].float() / 255
        rows = torch.arange(len(maps), device=maps.device)
        maps = replace_targets(maps, np.flatnonzero(self._drawn_classes).tolist(), self.target)
        own = batch["heatmap"].float() / 255
        if self.target != "own":
            own = maps[rows, batch["label"]]
        maps[rows, batch["label"]] = torch.where(batch["valid"][:, None, None], own, 0)
        sure = batch["face"].isfinite().all(-1).all(-1)
        faces = batch["valid"] | (sure & ~self._drawn[batch["label"]])
        faces = faces & (maps.flatten(1).amax(1) > 0)
        return torch.where(faces[:, None, None, None], maps, 0), faces

    def draw(self, landmarks: Tensor, image_side: int, size: tuple[int, int]) -> Tensor:
        """Draw each class's heatmap on each photo: (N, K, h, w) in [0, 1], zero without one.

        `landmarks` (N, 68, 2) are in pixels of square photos of `image_side`, NaN where not known;
        `size` is (h, w), that of the heatmaps that came with the photos.
        """
        if self._renderer is None or self._renderer.size != size:
            self._renderer = ClassMapRenderer(self.plan, size)
        drawn = self._renderer.draw(landmarks, within=(image_side, image_side)).heatmaps
        maps = drawn.new_zeros((len(drawn), len(self.plan.names), *size))
        for place, k in enumerate(self._renderer.drawn):  # a mask would wait for the device
            maps[:, k] = drawn[:, place]
        return maps
