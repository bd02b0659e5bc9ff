"""A photo made ready for a run's network: the face framed as in training, resized, in [0, 1]."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auheat.data.dataset import fit_square
from auheat.errors import RequestError, StoreError
from auheat.explanation.inputs import match_detector
from auheat.facs.records import Frame
from auheat.images.decoding import decode, make_portable, read_bytes
from auheat.images.headers import UnreadableImageError
from auheat.images.pillow_formats import read_pixels
from auheat.landmarks.face_shape import find_faults
from auheat.pipeline.framing import move_points
from auheat.pipeline.landmark_sources import DetectorSource
from auheat.pipeline.photo_loading import load_view, wrap_pixels
from auheat.pipeline.reframing import JPEG, PhotoFraming, apply_framing, frame_photo
from auheat.records import Array, Status

_LOG = logging.getLogger(__name__)

Photo: TypeAlias = "str | Path | Image.Image | Array | Tensor"
"""A file, an image of Pillow's, RGB pixels (H, W, 3) or gray ones (H, W) u8, or (3, H, W) u8."""

_EXPECTED = "a file, an image of Pillow's, RGB (H, W, 3) or gray (H, W) uint8, a tensor (3, H, W)"


_WHOLE = {
    "NO_FACE": "no face was found",
    "LOW_CONFIDENCE": "the face is doubtful",
    "MISSHAPEN": "the points are no face's",
}


class FramedPhoto(NamedTuple):
    """A photo as the network is given it.

    `image` (3, S, S) f32 is RGB in [0, 1]; `landmarks` (68, 2) f32 are px of the framed photo
    before it was resized, NaN where no face is sure; `framing` says how the photo was cut.
    """

    image: Tensor
    landmarks: Tensor
    status: Status
    framing: PhotoFraming


class PhotoTransform:
    """A transform in torchvision's sense: a photo -> (3, S, S) f32 in [0, 1], as `evaluate` has it.

    The face is found by the run's detector and framed as the training photos' faces were; a photo
    in which no face is found, or none that is sure, is taken whole, as `evaluate` does. How many
    photos were of which kind stands in `statuses`: by the status of the face, or MISSHAPEN where
    that is sure and its points are not a face's. The detector is loaded with the first photo, in
    each process.
    """

    def __init__(
        self, config: Mapping[str, Any], frame: Frame, device: str = "cpu", run: str = "run"
    ) -> None:
        """Prepare for a run's config.json; `frame` is its codebook's, `run` what notes call it."""
        self.image_size = int(config["settings"]["image_size"])
        self.statuses: Counter[str] = Counter()
        self._config, self._frame, self._device, self._run = config, frame, device, run
        self._finding: DetectorSource | None = None

    def __call__(self, photo: Photo) -> Tensor:
        """Return a photo (3, S, S); raises `AuheatError` for what is none, or cannot be read."""
        return self.frame(photo).image

    def frame(self, photo: Photo) -> FramedPhoto:
        """Return a photo with its landmarks, which a run with a geometry branch is asked about.

        Raises `AuheatError` for what is no photo, or cannot be read.
        """
        pixels, kind = _read(photo)
        size = (pixels.shape[0], pixels.shape[1])
        if isinstance(photo, str | Path):
            seen = load_view((Path(photo), None))
        else:
            seen = wrap_pixels(pixels)
        marks = self._load().locate([seen]).found
        points, status = marks.points[0], Status(int(marks.status[0]))
        sure = status < Status.LOW_CONFIDENCE
        # `render` frames no photo by points that may lie elsewhere
        reliable = sure and not find_faults(points[None])[0]
        shown = points if reliable else np.full_like(points, np.nan)
        view = frame_photo(self._config.get("framing"), shown, size, self._frame)
        framed = fit_square(apply_framing(pixels, view, kind), self.image_size)
        at = move_points(points[None].astype(np.float64), view.transform[None])[0]
        landmarks = np.where(sure, at, np.nan).astype(np.float32)
        self._count("MISSHAPEN" if sure and not reliable else status.name, photo)
        image = torch.from_numpy(framed).permute(2, 0, 1).float() / 255
        return FramedPhoto(image.contiguous(), torch.from_numpy(landmarks), status, view)

    def _load(self) -> DetectorSource:
        if self._finding is None:
            detector, notes = match_detector(self._config, self._device, None, None)
            for note in notes:
                _LOG.warning("%s: %s", self._run, note)
            self._finding = DetectorSource(detector, None, 0)
        return self._finding

    def _count(self, kind: str, photo: Photo) -> None:
        """Count a photo, and log the first one of each kind that is taken whole."""
        self.statuses[kind] += 1
        if kind in _WHOLE and self.statuses[kind] == 1:
            name = photo if isinstance(photo, str | Path) else "a photo"
            _LOG.warning(
                "%s: %s: the whole photo is taken, as `evaluate` does (further ones are counted in "
                "`transform.statuses` alone)",
                name,
                _WHOLE[kind],
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the detector behind: another process loads its own."""
        return self.__dict__ | {"_finding": None}


def _read(photo: Photo) -> tuple[Array, bytes]:
    """Return a photo's upright RGB pixels (H, W, 3) u8, and the first bytes of its file, if any."""
    if isinstance(photo, str | Path):
        try:
            data = read_bytes(Path(photo))
            return decode(make_portable(data)), data[: len(JPEG)]
        except UnreadableImageError as error:
            raise StoreError(f"{photo}: {error} (expected a photo)") from error
    if isinstance(photo, Image.Image) and photo.mode != "F":
        try:
            return read_pixels(photo), JPEG if photo.format == "JPEG" else b""
        except OSError as error:
            raise StoreError(f"{photo}: cannot be decoded: {error} (expected a photo)") from error
    pixels = photo
    if isinstance(photo, Tensor):
        pixels = photo.cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and len(pixels) <= 4 else pixels
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = getattr(pixels, "dtype", getattr(photo, "mode", type(photo).__name__))
        raise RequestError(f"photo: {kind} (expected {_EXPECTED})")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise RequestError(f"photo: shape {pixels.shape} (expected {_EXPECTED})")
    colours = np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], 3))
    return np.ascontiguousarray(colours if pixels.shape[2] == 1 else pixels[..., :3]), b""
