"""Methods, data sets and detectors of another package: by entry point, and by a call."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import auheat
from auheat.datasets.registry import DATASETS
from auheat.errors import RequestError
from auheat.landmarks.registry import DETECTORS
from auheat.models.names import METHOD_NAMES, TABLE
from auheat.models.registry import METHODS
from auheat.utils.registry import Registry

MODULE = """
import numpy as np

from auheat import Landmarks, Status, load_codebook
from auheat.datasets import Layout
from auheat.models import Method, cnn
from auheat.models.heads import GapHead

METHOD = Method("Mine", "nobody, 2026", cnn(GapHead))


def detect(source):
    return "mine.txt" if (source / "mine.txt").is_file() else ""


def read(folder):
    for line in (folder.source / "mine.txt").read_text().splitlines():
        path, label, split = line.split()
        folder.add(path, path, label, split)


LAYOUT = Layout("mine.txt and photos", detect, read)


class Points:
    name, digest, device, engine = "mine-points", "1" * 64, "cpu", "none"
    batch_size, lanes = 4, 1

    def __call__(self, images):
        mean = load_codebook("martinez").frame.mean
        sizes = np.array([image.shape[1::-1] for image in images])
        points = 0.45 * sizes[:, :1, None] * mean + (sizes * (0.5, 0.4))[:, None]
        n = len(images)
        status = np.full(n, Status.OK, np.uint8)
        return Landmarks(points.astype(np.float32), np.full(n, 0.9, np.float32), status)


def load(device, landmark_map, model, engine):
    return Points()
"""

POINTS = """
[auheat.methods]
mine-cam = mine:METHOD
cam = mine:METHOD
[auheat.datasets]
mine-set = mine:LAYOUT
broken = mine_gone:LAYOUT
wrong = mine:METHOD
[auheat.detectors]
mine-points = mine:load
"""


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder of installed packages that holds one called "mine"."""
    folder = tmp_path / "site"
    about = folder / "mine-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "mine.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Sixteen photos, and a list of them in a form that auheat does not know."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for i in range(16):
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.full((40, 40, 3), 12 * i, np.uint8))
        split = "test" if i % 4 == 3 else "train"
        lines.append(f"{i:02d}.png {('Happiness', 'Anger')[i // 2 % 2]} {split}")
    (folder / "mine.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def own_rows(monkeypatch):
    """What a test registers is gone after it."""
    for table in (METHODS, DATASETS, DETECTORS):
        monkeypatch.setattr(table, "_rows", dict(table._rows))


@pytest.fixture
def run(site, tmp_path):
    """Run Python with the package "mine" installed; return stdout, stderr."""

    def run(*arguments: str) -> tuple[str, str]:
        environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def test_names_of_a_package_are_listed_last_without_torch_and_without_loading_it(run):
    code = (
        "import sys, auheat\n"
        "print(auheat.list_methods()[-2:], auheat.list_datasets()[-4:])\n"
        "print(auheat.list_detectors()[-2:], {'torch', 'mine'} & {*sys.modules})"
    )
    out, err = run("-c", code)
    assert out.splitlines() == [
        "['apvit', 'mine-cam'] ['photos', 'mine-set', 'broken', 'wrong']",
        "['mesh-accurate', 'mine-points'] set()",
    ]
    assert "mine: left out: method: 'cam' is taken (choose another name)" in err


@pytest.mark.slow
def test_the_command_line_takes_a_packages_data_set_detector_and_method(run, photos):
    cli = ("-m", "auheat.cli")
    for command, name in (
        ("train", "mine-cam"),
        ("extract", "mine-set"),
        ("extract", "mine-points"),
    ):
        assert name in "".join(run(*cli, command, "--help")[0].split())  # it is wrapped
    chosen = ("--dataset", "mine-set", "--detector", "mine-points")
    workers = ("--backend", "loky", "--workers", "2", "--shard-size", "8")
    out, _ = run(*cli, "extract", str(photos), *chosen, *workers)
    assert "total                16" in out
    run(*cli, "render")
    small = ("--preset", "demo", "--image-size", "32", "--epochs", "1", "--batch-size", "4")
    run(*cli, "train", "--method", "mine-cam", *small)
    assert "mine-cam-thin-au4-seed0" in run(*cli, "evaluate")[0]


@pytest.mark.slow
def test_broken_rows_are_a_warning_and_auto_reads_a_packages_set_last(run, photos, tmp_path):
    code = (
        "import sys, auheat, pathlib\n"
        "source = pathlib.Path(sys.argv[1])\n"
        "print(auheat.read_samples(source)[0].label == '')\n"  # "photos" stands before it
        "for photo in source.iterdir():\n"
        "    photo.rename(source.parent / photo.name)\n"
        "(source / 'mine.txt').write_text('../00.png Anger train')\n"
        "try:\n"
        "    auheat.read_samples(source)\n"
        "except auheat.StoreError as error:\n"
        "    print('leaves' in str(error), auheat.list_datasets()[-1])"
    )
    out, err = run("-c", code, str(photos))
    assert out.split() == ["True", "True", "mine-set"]
    assert "mine: left out: dataset 'broken' cannot be loaded: ModuleNotFoundError" in err
    assert "mine: left out: dataset 'wrong' cannot be loaded: RequestError" in err
    assert "a Method (expected a Layout)" in err


@pytest.mark.slow
def test_what_a_program_registers_is_used_in_it(photos, tmp_path, one_thread):
    mine: dict = {}
    exec(MODULE, mine)
    auheat.register_dataset("mine-set", mine["LAYOUT"])
    auheat.register_detector("mine-points", mine["load"])
    auheat.register_method("mine-cam", mine["METHOD"])
    assert auheat.list_datasets()[-1] == "mine-set"
    assert auheat.list_detectors()[-2:] == ["mesh-accurate", "mine-points"]
    assert auheat.list_methods() == [*METHOD_NAMES, "mine-cam"]
    assert auheat.load_detector("mine-points").name == "mine-points"
    store = tmp_path / "store"
    auheat.extract(photos, store, dataset="mine-set", detector="mine-points")
    auheat.render(store)
    small = {"image_size": 32, "epochs": 1, "batch_size": 4}
    auheat.train(store, auheat.make_config("demo", method="mine-cam", **small))
    assert auheat.evaluate(store=store).run == "mine-cam-thin-au4-seed0"


def test_the_methods_known_without_torch_are_those_with_rows():
    assert METHODS is TABLE
    assert tuple(METHODS)[: len(METHOD_NAMES)] == METHOD_NAMES
    assert len(METHODS.items()) == len(METHODS)


@pytest.mark.parametrize("table", [METHODS, DATASETS, DETECTORS], ids=lambda t: t.kind)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no name"),
        ("a b", "'a b' is no name"),
        ("../up", "'../up' is no name"),
        ("a,b", "'a,b' is no name"),
        (7, "7 is no name"),
    ],
)
def test_a_name_that_a_path_or_a_list_would_break_is_refused(table, name, message):
    with pytest.raises(RequestError, match=message):
        table.register(name, next(iter(table.values())))


@pytest.mark.parametrize("table", [METHODS, DATASETS, DETECTORS], ids=lambda t: t.kind)
def test_a_taken_name_and_another_type_are_refused(table):
    row = next(iter(table.values()))
    with pytest.raises(RequestError, match=f"{table.kind}: '{next(iter(table))}' is taken"):
        table.register(next(iter(table)), row)
    with pytest.raises(RequestError, match=f"{table.kind}: mine: a str \\(expected a "):
        table.register("mine", "no row")
    assert "mine" not in table


def test_the_words_that_mean_something_else_are_taken():
    with pytest.raises(RequestError, match="'auto' is taken"):
        DATASETS.register("auto", DATASETS["csv"])
    with pytest.raises(RequestError, match="'dataset' is taken"):
        DETECTORS.register("dataset", DETECTORS["mesh"])


def test_a_table_is_a_mapping_and_a_row_that_fails_is_gone(monkeypatch, caplog):
    from importlib.metadata import EntryPoint

    def points(group):
        assert group == "auheat.things"
        return [EntryPoint("good", "math:pi", group), EntryPoint("bad", "math:no", group)]

    monkeypatch.setattr("auheat.utils.registry.entry_points", points)
    table: Registry[float] = Registry("thing", ("own",))
    table.fill({"own": 1.5}, float)
    assert (list(table), len(table), "bad" in table) == (["own", "good", "bad"], 3, True)
    with caplog.at_level(logging.WARNING):
        assert dict(table.items()) == {"own": 1.5, "good": np.pi}
    assert [r.message for r in caplog.records] == [
        "math: left out: thing 'bad' cannot be loaded: AttributeError: module 'math' has no "
        "attribute 'no'"
    ]
    assert (list(table), table.get("bad")) == (["own", "good"], None)
