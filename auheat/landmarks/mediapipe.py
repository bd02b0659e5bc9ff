"""The detector `mediapipe`: Google's own FaceLandmarker, with a task file that the user supplies.

It is there to compare with, and for those who must use Google's current model: the runtime takes
one photo at a time, on the CPU. The package is an extra (`pip install "auheat[mediapipe]"`), and
nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from auheat.errors import MissingExtraError, RequestError, StoreError
from auheat.landmarks.mesh.blazeface import MANY_SIDE, MAX_FACES, DetectedFaces, choose_face
from auheat.landmarks.mesh.crops import check_images
from auheat.landmarks.mesh.landmark_map import DEFAULT_MAP, load_map
from auheat.landmarks.mesh.model_files import read_model
from auheat.records import N_POINTS, Array, Landmarks, Status

VERSION = "mediapipe 1"
"""Raised whenever the code changes the points, so that the digest changes too."""


VARIABLE = "AUHEAT_TASK"
"""The environment variable that may name the task file."""


N_VERTICES = 478


class Result(Protocol):
    """What this module reads of a FaceLandmarkerResult: per face, points with `x` and `y`.

    Both are shares of the image's width and height.
    """

    face_landmarks: Sequence[Sequence[Any]]


def read_vertices(result: Result, size: tuple[int, int]) -> Array:
    """Return the vertices (K, 478, 2) f32 px of all faces in an image of `size` (H, W).

    MediaPipe samples its crops with pixel indices as coordinates and divides by the image's size:
    so x * W is a pixel with its centre at integers, and no half pixel is due. Raises `AuheatError`
    where the model gives another number of points.
    """
    counts = {len(face) for face in result.face_landmarks} - {N_VERTICES}
    if counts:
        raise StoreError(
            f"mediapipe: the task file's model gives {min(counts)} points per face "
            f"({N_VERTICES} are needed: Google's face_landmarker.task)"
        )
    shares = [[(point.x, point.y) for point in face] for face in result.face_landmarks]
    vertices = np.array(shares, np.float64).reshape(-1, N_VERTICES, 2)
    return (vertices * [size[1], size[0]]).astype(np.float32)


def choose_vertices(vertices: Array, size: tuple[int, int]) -> tuple[Array, bool]:
    """Return the vertices (478, 2) of the face to keep among (K, 478, 2), K > 0, and "many".

    The rule is `choose_face`'s; a face's box is that of its vertices, and all count alike, as the
    runtime gives no score.
    """
    corners = np.stack([vertices.min(1), vertices.max(1)], 1)[None]
    score = torch.ones(1, len(vertices))
    faces = DetectedFaces(score, torch.from_numpy(corners), torch.zeros(1, len(vertices), 6, 2))
    slot, many = choose_face(faces, torch.tensor([size]))
    chosen: Array = vertices[int(slot)]
    return chosen, bool(many)


def find_task(model: Path | None = None) -> Path:
    """Return the task file: `model`, else AUHEAT_TASK's; an absent one is an `AuheatError`."""
    named = model or os.environ.get(VARIABLE)
    if not named:
        raise RequestError(
            "mediapipe: no task file is named (give Google's face_landmarker.task with "
            f"--detector-model or {VARIABLE})"
        )
    path = Path(named)
    if not path.is_file():
        raise StoreError(f"{path}: not there (Google's face_landmarker.task is needed)")
    return path


def open_runtime(path: Path, task: bytes) -> tuple[str, Callable[[Array], Result]]:
    """Return the package's version, and a function from an image to what FaceLandmarker finds.

    `task` are the bytes of `path`. Raises `AuheatError` where the package is missing, lacks the
    tasks, or refuses the file.
    """
    try:
        package = importlib.import_module("mediapipe")
        tasks = importlib.import_module("mediapipe.tasks.python")
        make, options_of = tasks.vision.FaceLandmarker, tasks.vision.FaceLandmarkerOptions
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f'mediapipe: cannot be used, {error} (pip install "auheat[mediapipe]")'
        ) from error
    options = options_of(
        base_options=tasks.BaseOptions(model_asset_buffer=task),
        running_mode=tasks.vision.RunningMode.IMAGE,
        num_faces=MAX_FACES,
    )
    try:
        landmarker = make.create_from_options(options)
    except (ValueError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        raise StoreError(f"{path}: {text} (Google's face_landmarker.task is needed)") from error

    def detect(image: Array) -> Result:
        data = np.ascontiguousarray(image)
        found: Result = landmarker.detect(
            package.Image(image_format=package.ImageFormat.SRGB, data=data)
        )
        return found

    # Left to the interpreter's end, it would find its own library gone, and complain.
    weakref.finalize(detect, landmarker.close)
    return str(package.__version__), detect


class MediapipeDetector:
    """68 points of one face per image, by Google's FaceLandmarker; see the module's text.

    `model` is the task file (see `find_task`), `landmark_map` names the map to 68 points. A face
    that is found has score 1: the runtime keeps its scores, and leaves the `presence` of points
    unset. So no row is LOW_CONFIDENCE.
    """

    name = "mediapipe"
    device = "cpu"
    batch_size = 32
    lanes = 1

    def __init__(self, model: Path | None = None, landmark_map: str = DEFAULT_MAP) -> None:
        self._map = load_map(landmark_map)
        path = find_task(model)
        task = read_model(path)
        version, self._detect = open_runtime(path, task)
        settings = (VERSION, version, MAX_FACES, MANY_SIDE, self._map.name)
        digest = hashlib.sha256(repr(settings).encode())
        for part in (task, self._map.index.tobytes(), self._map.weight.tobytes()):
            digest.update(hashlib.sha256(part).digest())
        self.engine = f"mediapipe {version}"
        self.digest = digest.hexdigest()

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        vertices = np.full((len(images), N_VERTICES, 2), np.nan, np.float32)
        status = np.full(len(images), Status.NO_FACE, np.uint8)
        for i, image in enumerate(check_images(images)):
            if not images[i].size:  # nothing to look at
                continue
            size = (image.shape[0], image.shape[1])
            faces = read_vertices(self._detect(image), size)
            if len(faces):
                vertices[i], many = choose_vertices(faces, size)
                status[i] = Status.MANY_FACES if many else Status.OK
        points = self._map(vertices).reshape(-1, N_POINTS, 2)
        return Landmarks(points, (status != Status.NO_FACE).astype(np.float32), status)
