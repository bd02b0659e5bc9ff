"""Fixtures that several test modules share."""

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from stubs import StubDetector

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch

from auheat.facs.codebooks import load_codebook
from auheat.facs.records import Codebook
from auheat.landmarks.registry import load_detector

# No test is timed: on a busy machine a first call into a library takes what it takes. And what
# lands does not hang on luck: where CI is set, the examples are the same every time.
hypothesis.settings.register_profile(
    "auheat", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("auheat")


_LONG = [
    *("test_workers.py", "test_faults.py", "test_gpu_check.py", "test_registry.py"),
    *("test_detector.py", "test_landmark_sources.py", "test_exporter.py", "test_distributed.py"),
    *("test_compare_targets.py", "test_trainer.py", "test_anatomy.py", "test_fuzz_stores.py"),
]


def pytest_configure(config):
    """Keep xdist to the order below; by default it begins with the files of the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Begin with the longest files, as one that came last would keep a single process busy.

    What needs timm is skipped where it is not installed.
    """
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if importlib.util.find_spec("timm") is None:
        for item in items:
            if item.get_closest_marker("timm"):
                item.add_marker(pytest.mark.skip(reason="timm is not installed (make test-timm)"))


def compile_once():
    """Compile the networks of `mesh` once a process, however many tests load the detector.

    Only one set of models passes for `mesh` (their bytes are checked at every load), so what is
    compiled hangs on the side of the crops and the number of cores. It takes seconds each time.
    """
    module = sys.modules.get("auheat.landmarks.mesh.openvino")  # not loaded for tests without it
    if module is None or hasattr(module.compile_graph, "__wrapped__"):
        return
    compile_graph, compiled = module.compile_graph, {}

    @functools.wraps(compile_graph)
    def compile_known(graph, *settings):
        key = (*settings, module.count_cores())
        if key not in compiled:
            compiled[key] = compile_graph(graph, *settings)
        return compiled[key]

    module.compile_graph = compile_known


def pytest_runtest_setup():
    compile_once()


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk():
    """No test pulls the plug: what this process writes is not waited for (milliseconds a file).

    Commands in processes of their own do sync, those of tests/store/test_faults.py among them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture(scope="session")
def outside_data() -> Path:
    """Real photos that are no part of the project."""
    folder = os.environ.get("AUHEAT_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("AUHEAT_TEST_DATA names no folder of photos")
    return Path(folder)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models gain nothing from threads, and lose much to them on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def martinez() -> Codebook:
    return load_codebook("martinez")


@pytest.fixture(scope="session")
def detector():
    with contextlib.suppress(ImportError):  # without OpenVINO torch takes its place
        importlib.import_module("auheat.landmarks.mesh.openvino")
    compile_once()
    return load_detector("mesh", "cpu")


@pytest.fixture(scope="session")
def portrait():
    """The astronaut's portrait (H, W, 3) and its landmarks (68, 2)."""
    pytest.importorskip("skimage", reason="scikit-image carries the portrait")
    from auheat.demo import load_portrait

    return load_portrait()


@pytest.fixture
def face_at(martinez):
    """A function that places the mean face: (eye distance px, middle of the eyes, roll deg)."""

    def place(eye: float = 50.0, middle=(50.0, 40.0), roll: float = 0.0) -> np.ndarray:
        turn = np.deg2rad(roll)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return eye * martinez.frame.mean @ rotation.T + np.array(middle)

    return place


@pytest.fixture
def random_faces(martinez):
    """A function (n, seed) -> landmarks (n, 68, 2) of varied, tilted, distorted faces at 100 px."""

    def make(n: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        turn = rng.uniform(-0.5, 0.5, n)
        rotation = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1)
        noise = rng.normal(0, 0.02, (n, 68, 2))
        faces = (martinez.frame.mean + noise) @ rotation.reshape(n, 2, 2).transpose(0, 2, 1)
        eye, middle = rng.uniform(35, 60, (n, 1, 1)), rng.uniform(35, 60, (n, 1, 2))
        return faces * eye + middle

    return make


@pytest.fixture
def stub_detector(monkeypatch, martinez):
    """Make the pipeline use `StubDetector`, so that its own promises are tested quickly."""
    stub = StubDetector(martinez.frame.mean)
    monkeypatch.setattr("auheat.pipeline.extraction.load_detector", lambda *_: stub)
    return stub


@pytest.fixture
def finder(monkeypatch):
    """Extraction and `explain` use a detector that knows a face by the size of its photo."""
    from run_helpers import Finder

    stub = Finder()
    monkeypatch.setattr("auheat.explanation.inputs.load_detector", lambda *_: stub)
    monkeypatch.setattr("auheat.pipeline.extraction.load_detector", lambda *_: stub)
    return stub


@pytest.fixture
def rafdb(tmp_path) -> Path:
    """Twelve small photos in RAF-DB layout, two of them Neutral."""
    root = tmp_path / "rafdb"
    (root / "Image" / "aligned").mkdir(parents=True)
    (root / "EmoLabel").mkdir()
    lines = []
    for i in range(12):
        name = f"train_{i:05d}" if i < 8 else f"test_{i:04d}"
        key = [4, 1, 7, 6, 5, 2][i % 6]
        image = np.full((40, 40, 3), 20 * i, np.uint8)
        cv2.imwrite(str(root / "Image" / "aligned" / f"{name}_aligned.jpg"), image)
        lines.append(f"{name}.jpg {key}\n")
    (root / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root
