"""The detector `mediapipe`: what it makes of a FaceLandmarkerResult, and its errors.

The runtime is no part of the tests' environment: recorded results, of the runtime's own structure,
stand in for it, and the last test runs the real one where package and task file are at hand.
"""

import importlib.util
import os
import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.landmarks import mediapipe
from auheat.landmarks.mesh import landmark_map
from auheat.landmarks.mesh.landmark_map import IBUG
from auheat.records import Status

HERE = Path(__file__).parents[1] / "data"


@dataclass
class NormalizedLandmark:
    """One point, as 0.10 gives it; 1.x leaves visibility and presence None."""

    x: float
    y: float
    z: float = 0.0
    visibility: float | None = 0.0
    presence: float | None = 0.0


@dataclass
class FaceLandmarkerResult:
    face_landmarks: list[list[NormalizedLandmark]]
    face_blendshapes: list = field(default_factory=list)
    facial_transformation_matrixes: list = field(default_factory=list)


@pytest.fixture(scope="module")
def golden():
    """What mediapipe itself found on views of a portrait: sizes (K, 2), points (K, 478, 2) px."""
    file = np.load(HERE / "mesh_golden.npz", allow_pickle=False)
    return file["size"], file["points"]


def record(size, *faces):
    """The result for an image of `size` (H, W) whose faces have points (478, 2) px."""
    scale = np.array([size[1], size[0]])
    lists = [[NormalizedLandmark(*(point / scale).tolist()) for point in face] for face in faces]
    return FaceLandmarkerResult(lists)


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"a task file")
    return path


@pytest.fixture
def detector_of(task, monkeypatch):
    """A function from recorded results, one per call of the runtime, to a detector."""

    def make(*results, version="0.10.21", **options):
        waiting = iter(results)
        runtime = version, lambda image: next(waiting)
        monkeypatch.setattr(mediapipe, "open_runtime", lambda path, data: runtime)
        return mediapipe.MediapipeDetector(task, **({"landmark_map": "index"} | options))

    return make


def blank(size):
    return np.zeros((*size, 3), np.uint8)


def test_points_are_shares_of_width_and_height_in_pixels_of_each_image(golden, detector_of):
    sizes, points = golden
    assert len({tuple(size) for size in sizes.tolist()}) > 5
    detector = detector_of(*map(record, sizes, points))
    found = detector([blank(size) for size in sizes])
    # mediapipe's own pixels, as recorded: no half pixel between theirs and these.
    np.testing.assert_allclose(found.points, points[:, list(IBUG)], atol=1e-3)
    assert (found.status == Status.OK).all()
    assert (found.score == 1).all()
    types = found.points.dtype, found.score.dtype, found.status.dtype
    assert types == (np.float32, np.float32, np.uint8)


def test_rows_without_a_face_are_nan_and_keep_their_place(golden, detector_of):
    (size, *_), (face, *_) = golden
    detector = detector_of(record(size), record(size, face), record(size))
    found = detector([blank(size), blank((0, 5)), blank(size), blank(size)])
    none = Status.NO_FACE
    assert found.status.tolist() == [none, none, Status.OK, none]
    assert found.score.tolist() == [0, 0, 1, 0]
    assert np.isnan(found.points[[0, 1, 3]]).all()
    np.testing.assert_allclose(found.points[2], face[list(IBUG)], atol=1e-3)


def test_no_photo_gives_no_row(detector_of):
    nothing = detector_of()([])
    assert (nothing.points.shape, nothing.score.shape) == ((0, 68, 2), (0,))
    assert nothing.status.shape == (0,)


def place(face, side, x, y):
    """The face moved and scaled: the long side of its box, and the box's middle."""
    low, high = face.min(0), face.max(0)
    return (face - (low + high) / 2) * (side / (high - low).max()) + [x, y]


@pytest.mark.parametrize(
    ("faces", "chosen", "status"),
    [
        ([(20, 50, 50), (60, 55, 50)], 1, Status.OK),  # far larger: the portrait
        ([(30, 18, 50), (30, 50, 50)], 1, Status.MANY_FACES),  # equal: the central one
        ([(40, 50, 50), (17, 85, 50)], 0, Status.MANY_FACES),
        ([(40, 50, 50), (15, 85, 50)], 0, Status.OK),  # a passer-by
        ([(15, 85, 50), (16, 9, 9), (40, 50, 50)], 2, Status.MANY_FACES),
    ],
)
def test_the_largest_central_face_is_kept_and_rivals_are_named(
    golden, detector_of, faces, chosen, status
):
    placed = [place(golden[1][0], *face) for face in faces]
    found = detector_of(record((100, 100), *placed))([blank((100, 100))])
    assert found.status.tolist() == [status]
    np.testing.assert_allclose(found.points[0], placed[chosen][list(IBUG)], atol=1e-3)


def test_another_number_of_points_is_an_error(golden, detector_of):
    size, face = golden[0][0], golden[1][0]
    with pytest.raises(AuheatError, match=r"gives 468 points per face .*478 .*face_landmarker"):
        detector_of(record(size, face, face[:468]))([blank(size)])


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
)
def test_images_of_another_kind_are_an_error_naming_them(golden, detector_of, bad):
    size, face = golden[0][0], golden[1][0]
    with pytest.raises(AuheatError, match=r"image 1: .*uint8 of shape \(H, W, 3\)"):
        detector_of(record(size, face))([blank(size), bad])


def test_an_unknown_map_is_an_error(detector_of):
    with pytest.raises(AuheatError, match=r"landmark-map: 'no-such-map'"):
        detector_of(landmark_map="no-such-map")


def test_digest_changes_with_the_task_the_version_and_the_map(detector_of, task, monkeypatch):
    first = detector_of()
    assert (first.name, first.device) == ("mediapipe", "cpu")
    assert len(bytes.fromhex(first.digest)) == 32
    assert detector_of().digest == first.digest
    digests = [first.digest, detector_of(version="1.2.2").digest]
    load_map = landmark_map.load_map

    def load_other(name):
        found = load_map(name)
        found.weight[3] = 0.5
        return found

    with monkeypatch.context() as patch:
        patch.setattr(mediapipe, "load_map", load_other)
        digests.append(detector_of().digest)
    task.write_bytes(b"another task file")
    digests.append(detector_of().digest)
    assert len(set(digests)) == 4


def test_the_path_comes_before_the_variable(task, tmp_path, monkeypatch):
    named = tmp_path / "named.task"
    named.write_bytes(b"x")
    monkeypatch.setenv("AUHEAT_TASK", str(named))
    assert mediapipe.find_task() == named
    assert mediapipe.find_task(task) == task


def test_no_task_file_is_an_error_that_says_how_to_name_one(monkeypatch, tmp_path):
    monkeypatch.delenv("AUHEAT_TASK", raising=False)
    with pytest.raises(AuheatError, match=r"--detector-model or AUHEAT_TASK"):
        mediapipe.MediapipeDetector()
    with pytest.raises(AuheatError, match=r"gone\.task: not there"):
        mediapipe.find_task(tmp_path / "gone.task")
    monkeypatch.setenv("AUHEAT_TASK", str(tmp_path))  # a folder
    with pytest.raises(AuheatError, match="not there"):
        mediapipe.find_task()


@pytest.fixture
def runtime(monkeypatch):
    """A stand-in for the package, with the names of both 0.10 and 1.x, that keeps what it is told.

    It refuses the task file b"junk", as the real one does.
    """
    told = SimpleNamespace(images=[], closed=False)

    class FaceLandmarker:
        @classmethod
        def create_from_options(cls, options):
            if options.base_options.model_asset_buffer == b"junk":
                raise RuntimeError("Unable to open zip archive.\nand more")
            told.options = options
            return cls()

        def detect(self, image):
            told.images.append(image)
            return FaceLandmarkerResult([])

        def close(self):
            told.closed = True

    package, tasks = ModuleType("mediapipe"), ModuleType("mediapipe.tasks.python")
    package.__version__ = "7.8.9"
    package.Image = SimpleNamespace
    package.ImageFormat = SimpleNamespace(SRGB="srgb")
    tasks.BaseOptions = SimpleNamespace
    tasks.vision = SimpleNamespace(
        FaceLandmarker=FaceLandmarker,
        FaceLandmarkerOptions=SimpleNamespace,
        RunningMode=SimpleNamespace(IMAGE="image"),
    )
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setitem(sys.modules, "mediapipe.tasks", ModuleType("mediapipe.tasks"))
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python", tasks)
    told.tasks = tasks
    return told


def test_the_runtime_gets_the_files_bytes_and_contiguous_rgb_images(runtime, task):
    version, detect = mediapipe.open_runtime(task, task.read_bytes())
    assert version == "7.8.9"
    assert runtime.options.base_options.model_asset_buffer == b"a task file"
    assert runtime.options.running_mode == "image"
    assert runtime.options.num_faces > 1
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[:, ::-1]
    assert detect(image).face_landmarks == []
    (told,) = runtime.images
    assert told.image_format == "srgb"
    assert told.data.flags.c_contiguous
    np.testing.assert_array_equal(told.data, image)
    assert not runtime.closed
    del detect
    assert runtime.closed


def test_a_file_that_the_runtime_refuses_is_an_error_in_one_line(runtime, task):
    task.write_bytes(b"junk")
    with pytest.raises(AuheatError, match=r"task: Unable to open zip archive\. \(") as caught:
        mediapipe.MediapipeDetector(task)
    assert str(task) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_or_one_without_the_task_names_the_extra(runtime, task, monkeypatch):
    del runtime.tasks.vision.FaceLandmarker
    with pytest.raises(AuheatError, match=r'FaceLandmarker.*pip install "auheat\[mediapipe\]"'):
        mediapipe.MediapipeDetector(task)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(AuheatError, match=r'pip install "auheat\[mediapipe\]"'):
        mediapipe.MediapipeDetector(task)


def test_the_real_runtime_finds_the_portrait_where_mediapipes_older_mesh_does(golden):
    task = os.environ.get("AUHEAT_TASK")
    if not task:
        pytest.skip("AUHEAT_TASK names no face_landmarker.task")
    if importlib.util.find_spec("mediapipe") is None:
        pytest.skip("mediapipe (the [mediapipe] extra) is missing")
    data = pytest.importorskip("skimage.data", reason="scikit-image (the [demo] extra) missing")
    file = np.load(HERE / "mesh_golden.npz", allow_pickle=False)
    render_view = runpy.run_path(str(HERE / "make_mesh_golden.py"))["render_view"]
    pairs = zip(file["matrix"], file["size"], strict=True)
    views = [render_view(data.astronaut(), matrix, size) for matrix, size in pairs]
    found = mediapipe.MediapipeDetector(landmark_map="index")([*views, blank((90, 90))])
    assert (found.status[:-1] == Status.OK).all()
    assert found.status[-1] == Status.NO_FACE
    theirs = golden[1][:, list(IBUG)]
    width = np.linalg.norm(theirs[:, 36] - theirs[:, 45], axis=-1)
    apart = np.linalg.norm(found.points[:-1] - theirs, axis=-1).mean(1) / width
    assert apart.max() < 0.06
