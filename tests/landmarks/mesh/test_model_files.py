"""Where the models are searched, and what a missing or corrupt one says."""

import ast
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from auheat.errors import AuheatError
from auheat.landmarks.mesh import model_files, tflite
from auheat.landmarks.registry import DETECTORS, load_detector

FAKE = {name: name.encode() * 100 for name in model_files.MODELS}
SHORT = "face_detection_short_range.tflite"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty search places and models whose bytes are known: nothing of this machine is seen."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FAKE.items()}
    monkeypatch.setattr(model_files, "MODELS", digests)
    monkeypatch.setattr(model_files, "package_dir", lambda: tmp_path / "package")
    monkeypatch.setattr(model_files, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(model_files.importlib.metadata, "distributions", lambda **_: [])
    monkeypatch.setattr(model_files, "_from_mediapipe", lambda name: tmp_path / "mediapipe" / name)
    monkeypatch.delenv("AUHEAT_MODELS", raising=False)
    return tmp_path


def fill(folder):
    folder.mkdir(parents=True)
    for name, data in FAKE.items():
        (folder / name).write_bytes(data)
    return folder


def make_wheel(path, **changed):
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in model_files._MEMBERS.items():
            archive.writestr(str(member), changed.get(name.split(".")[0], FAKE[name]))
        archive.writestr("../escaped.tflite", b"evil")
    return path


def test_the_environment_comes_before_the_package_the_cache_and_mediapipe(places, monkeypatch):
    for folder in ("mediapipe", "cache", "package"):
        expected = fill(places / folder) / SHORT
        assert model_files.find_model(SHORT) == expected
    monkeypatch.setenv("AUHEAT_MODELS", str(fill(places / "mine")))
    assert model_files.find_model(SHORT) == places / "mine" / SHORT


def test_a_missing_model_names_the_command_that_mends_it(places):
    with pytest.raises(AuheatError, match=r"auheat detectors --from WHEEL\|DIR") as caught:
        model_files.find_model(SHORT)
    assert SHORT in str(caught.value)
    assert str(places / "cache") in str(caught.value)


def test_a_corrupt_model_is_an_error_with_both_digests_even_if_a_good_one_follows(places):
    fill(places / "cache")
    bad = fill(places / "package") / SHORT
    bad.write_bytes(b"corrupt")
    with pytest.raises(AuheatError) as caught:
        model_files.find_model(SHORT)
    text = str(caught.value)
    assert str(bad) in text
    assert hashlib.sha256(b"corrupt").hexdigest()[:12] in text
    assert model_files.MODELS[SHORT][:12] in text


@pytest.mark.parametrize(
    "read",
    [
        lambda home: model_files.find_model(SHORT),
        lambda home: model_files.install_models(home / "package"),
        lambda home: model_files.install_models(make_wheel(home / "mp.whl")),
        lambda home: tflite.load(home / "package" / SHORT),
    ],
    ids=["search", "folder", "wheel", "graph"],
)
def test_a_model_of_any_length_is_not_read(places, monkeypatch, read):
    fill(places / "package")
    monkeypatch.setattr(model_files, "MAX_MODEL", 1000)
    with pytest.raises(AuheatError, match="more than 1000 bytes"):
        read(places)


def test_a_device_is_no_model(tmp_path):
    with pytest.raises(AuheatError, match="/dev/zero: cannot be read: no regular file"):
        model_files.read_model(Path("/dev/zero"))


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(AuheatError, match=f"'x'.*{SHORT}"):
        model_files.find_model("x")


@pytest.mark.parametrize("kind", ["wheel", "folder", "unpacked wheel"])
def test_models_are_installed_from_a_wheel_or_a_folder_and_then_found(places, kind):
    if kind == "wheel":
        source = make_wheel(places / "mp.whl")
    elif kind == "folder":
        source = fill(places / "source")
    else:
        source = places / "unpacked"
        for name, member in model_files._MEMBERS.items():
            (source / member).parent.mkdir(parents=True, exist_ok=True)
            (source / member).write_bytes(FAKE[name])
    paths = model_files.install_models(source)
    assert sorted(paths) == sorted(places / "package" / name for name in FAKE)
    assert sorted(p.name for p in (places / "package").iterdir()) == sorted(FAKE)
    assert model_files.find_model(SHORT).read_bytes() == FAKE[SHORT]
    assert not list(places.rglob("escaped.tflite"))


def test_models_go_to_the_cache_where_the_package_cannot_be_written(places):
    (places / "package").write_text("a file where the folder should be")
    paths = model_files.install_models(fill(places / "source"))
    assert {p.parent for p in paths} == {places / "cache"}
    assert model_files.find_model(SHORT) == places / "cache" / SHORT
    (places / "cache").rename(places / "elsewhere")
    (places / "cache").write_text("no folder either")
    with pytest.raises(AuheatError, match=r"cannot be written.*AUHEAT_MODELS"):
        model_files.install_models(places / "source")


def test_a_bad_source_is_an_error_and_nothing_is_installed(places):
    wrong = make_wheel(places / "wrong.whl", face_landmark=b"other bytes")
    text = places / "text.whl"
    text.write_text("no zip")
    with zipfile.ZipFile(places / "empty.whl", "w"):
        pass
    (places / "void").mkdir()
    for source, what in [
        (wrong, "face_landmark.tflite: not the expected file"),
        (text, "not a zip file"),
        (places / "empty.whl", "face_detection_short_range"),
        (places / "void", "no face_detection_short_range"),
        (places / "nowhere", "not found"),
    ]:
        with pytest.raises(AuheatError, match=what) as caught:
            model_files.install_models(source)
        assert str(source) in str(caught.value)
    assert not (places / "package").exists()


@pytest.mark.parametrize(("version", "found"), [("0.10.21", True), ("0.10.35", False)])
def test_an_installed_mediapipe_counts_only_in_the_right_version(
    tmp_path, monkeypatch, version, found
):
    info = tmp_path / f"mediapipe-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mediapipe\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = model_files._from_mediapipe(SHORT)
    expected = tmp_path / "mediapipe" / "modules" / "face_detection" / SHORT
    assert path == (expected if found else None)
    assert "mediapipe" not in sys.modules


def test_the_build_step_fetches_the_files_that_are_looked_for():
    setup = Path(__file__).parents[3] / "setup.py"
    if not setup.is_file():
        pytest.skip("no setup.py beside the tests: not a checkout")
    constants = {}
    for node in ast.parse(setup.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Dict)):
            constants[node.targets[0].id] = ast.literal_eval(node.value)
    assert constants["WHEEL"] == f"mediapipe=={model_files._VERSION}"
    fetched = {PurePosixPath(k): v for k, v in constants["MODELS"].items()}
    assert fetched == {model_files._MEMBERS[k]: v for k, v in model_files.MODELS.items()}


def test_naming_the_detectors_loads_no_torch():
    code = "import sys, auheat.landmarks as m; print(sorted(m.DETECTORS), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sorted(DETECTORS)} False"


def test_an_unknown_detector_or_device_lists_the_known_ones():
    with pytest.raises(AuheatError, match=r"'mash'.*mesh"):
        load_detector("mash")
    with pytest.raises(AuheatError, match=r"'gpu'.*auto, cpu, cuda"):
        load_detector("mesh", "gpu")


@pytest.mark.slow
def test_cuda_where_there_is_none_is_an_error():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(AuheatError, match=r"'cuda'.*'auto'"):
        load_detector("mesh", "cuda")
    assert load_detector("mesh", "auto").device == "cpu"
