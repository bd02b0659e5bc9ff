"""The two networks behind `mesh`, on crops taken from photos of mixed sizes.

Two engines run them. On a device of torch, photos are uploaded as bytes and cropped there by one
batched operation (`TorchNetworks`). On a CPU, OpenVINO runs the same rebuilt graphs three times as
fast, fed by OpenCV's crops (`CpuNetworks` in `cpu.py`). What comes before and after is shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from auheat.landmarks.mesh import tflite
from auheat.landmarks.mesh.attention_ops import RegionMatrix
from auheat.landmarks.mesh.blazeface import (
    CANDIDATES,
    MIN_SCORE,
    SIDE,
    DetectedFaces,
    anchors,
    decode_anchors,
    weighted_merge,
)
from auheat.landmarks.mesh.crops import Pixels, pack, sample_crops, transform_points
from auheat.landmarks.mesh.model_files import find_model
from auheat.landmarks.mesh.roi import roi_matrix
from auheat.records import Array
from auheat.utils.cuda_graphs import GraphedFunction

FILES = ("face_detection_short_range.tflite", "face_landmark_with_attention.tflite")

CROP = 192
"""The mesh network's input is CROP x CROP pixels, and its points are measured in them."""


class Photos(Protocol):
    """Photos made ready for an engine; `size` (N, 2) int64 is their (H, W)."""

    @property
    def size(self) -> Tensor: ...

    def __len__(self) -> int: ...


def load_graphs() -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the face detector and the attention mesh, rebuilt in float32.

    The mesh gives its points, the lips, both eyes and the face flag. Its irises are cut off with
    all that is computed for them alone: none of the 68 points may follow the gaze.
    """
    detector, attention = (tflite.load(find_model(name)) for name in FILES)
    (last,) = (node for node in attention.graph.nodes if node.op == "output")
    mesh, lips, left, right, _, _, flag = last.args[0]
    last.args = ((mesh, lips, left, right, flag),)
    attention.graph.eliminate_dead_code()
    attention.delete_all_unused_submodules()
    attention.recompile()
    return detector, attention


def refine(base: Tensor, parts: list[Tensor], regions: list[Tensor]) -> Tensor:
    """Replace what the refined regions cover: (M, 468, 2) crop pixels.

    `base` (M, 1404, 1, 1) holds 468 points (x, y, z); `parts` are lips, left eye and right eye,
    each (M, 2P, 1, 1); `regions` say which points each of them replaces.
    """
    points = base.reshape(len(base), -1, 3)[..., :2].clone()
    for index, part in zip(regions, parts, strict=True):
        points[:, index] = part.reshape(len(part), -1, 2)
    return points


class MeshNetworks(ABC):
    """The short-range face detector and the attention mesh; an engine says how they are run."""

    engine: str

    def __init__(self, device: torch.device, attention: fx.GraphModule) -> None:
        self.device = device
        self._anchors = anchors().to(device)
        self._graphed: list[GraphedFunction] = []
        self._merge: Callable[..., Sequence[Tensor]] = self._merge_candidates
        # The graph crops each region by the very points that its refined output replaces.
        modules = attention.modules()
        self._regions = [m.subset.to(device) for m in modules if isinstance(m, RegionMatrix)]

    @abstractmethod
    def load(self, images: Sequence[Array]) -> Any:
        """Return `Photos` of images (H, W, 3) uint8 RGB; raises `AuheatError` for another kind."""

    @abstractmethod
    def run_detector(self, photos: Any, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Return the raw outputs for M crops of SIDE pixels, zero outside the photo."""

    @abstractmethod
    def run_attention(self, photos: Any, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Return the raw outputs for M crops of CROP pixels, the border repeated outside."""

    def detect(
        self, photos: Any, image: Tensor, matrix: Tensor, least: float = MIN_SCORE
    ) -> DetectedFaces:
        """Find faces in M crops: image (M,), matrix (M, 2, 3) crop -> image px; image pixels."""
        raw, logit = self.run_detector(photos, image, matrix)
        floor = torch.full((len(raw), 1), least, device=raw.device)
        return DetectedFaces(*self._merge(raw, logit, floor)).moved(matrix)

    def _merge_candidates(self, raw: Tensor, logit: Tensor, least: Tensor) -> Sequence[Tensor]:
        """Return what a `DetectedFaces` holds, by raw outputs and the least score (M, 1)."""
        best, index = logit.squeeze(-1).topk(CANDIDATES)
        score = torch.sigmoid(best.clamp(-100, 100))
        chosen = raw.gather(1, index.unsqueeze(-1).expand(-1, -1, raw.shape[-1]))
        faces = weighted_merge(score, decode_anchors(chosen, self._anchors[index]), least)
        return faces.score, faces.box, faces.keypoints

    def release(self) -> None:
        """Give back what CUDA graphs hold of the device's memory, and go on without them."""
        for function in self._graphed:
            function.release()

    def mesh(self, photos: Any, image: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
        """Return points (M, 468, 2) in image pixels and face flags (M,) of regions roi (M, 4)."""
        matrix = roi_matrix(roi, CROP)
        outputs = self.run_attention(photos, image, matrix)
        base, *parts, flag = (output.float() for output in outputs)
        points = refine(base, parts, self._regions)
        return transform_points(matrix, points), torch.sigmoid(flag.flatten())

    def depth(self, photos: Any, roi: Tensor) -> Tensor:
        """Return the depth (N, 468) of the vertices in each photo's region roi (N, 4), image px."""
        present = roi.isfinite().all(1)
        matrix = roi_matrix(torch.where(present[:, None], roi, torch.ones_like(roi)), CROP)
        outputs = self.run_attention(photos, torch.arange(len(roi), device=roi.device), matrix)
        depth = outputs[0].float().reshape(len(roi), -1, 3)[..., 2]
        scale = torch.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
        return (depth * scale[:, None]).masked_fill(~present[:, None], float("nan"))


class _Exact(nn.Module):
    """A layer that stays in float32 among others that do not."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.float())
        return found


def halve(graph: fx.GraphModule, side: int) -> fx.GraphModule:
    """Turn a graph for images of `side` pixels to float16, but for what speaks in pixels.

    Float16 counts from 128 to 256 in eighths, so the layers that give coordinates (those whose
    output has one cell) and all that is computed from them stay in float32. The rest errs by some
    hundredths of a pixel; in bfloat16 it would be fifths.
    """
    ShapeProp(graph).propagate(torch.zeros(1, 3, side, side))
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d) and node.meta["tensor_meta"].shape[2:] == (1, 1):
            graph.set_submodule(str(node.target), _Exact(module))
        elif isinstance(module, nn.Conv2d | nn.PReLU):
            module.half()
    return graph


class TorchNetworks(MeshNetworks):
    """The networks on a device of torch, in float32 or, with `half`, the mesh in float16.

    The detector stays in float32: its region decides what the mesh sees, and it costs little.
    """

    def __init__(self, device: torch.device, half: bool = False) -> None:
        detector, attention = load_graphs()
        super().__init__(device, attention)
        self.engine = "torch, float16" if half else "torch, float32"
        self._dtype = torch.float16 if half else torch.float32
        self._detector = self._place(detector)
        self._attention = self._place(halve(attention, CROP) if half else attention)
        self._graphed = [
            GraphedFunction(function, device)
            for function in (self._detector, self._attention, self._merge_candidates)
        ]
        self._run_detector, self._run_attention, self._merge = self._graphed

    def _place(self, graph: fx.GraphModule) -> fx.GraphModule:
        moved = graph.to(self.device)
        return moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def load(self, images: Sequence[Array]) -> Pixels:
        """Lay the photos end to end on the device, as bytes."""
        return pack(images, self.device)

    def run_detector(self, photos: Pixels, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Crop and run on the device."""
        crops = sample_crops(photos, image, matrix, SIDE, replicate=False)
        return self._run_detector(crops.div_(127.5).sub_(1))

    def run_attention(self, photos: Pixels, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Crop and run on the device."""
        crops = sample_crops(photos, image, matrix, CROP, replicate=True)
        return self._run_attention(crops.div_(255).to(self._dtype))
