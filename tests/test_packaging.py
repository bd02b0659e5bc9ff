"""The wheel: only auheat, with its models and codebooks, working away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from auheat.landmarks.mesh.model_files import MODELS

ROOT = Path(__file__).parent.parent
SOURCES = ("auheat", "cli", "codebooks")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree; the models in it need no network."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tree / "out"), str(tree)]
    subprocess.run(command, check=True)
    (built,) = (tree / "out").glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_auheat_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert all(n.startswith("auheat/") or ".dist-info/" in n for n in names), names
    assert {f"auheat/landmarks/mesh/models/{model}" for model in MODELS} <= set(names)
    for needed in ("cli/__init__.py", "codebooks/facs.yaml", "codebooks/martinez.yaml"):
        assert f"auheat/{needed}" in names
    assert {"auheat/py.typed", "auheat/reporting/templates/report.html"} <= set(names)
    assert "auheat/deployment/templates/model_card.md" in names
    modules = {str(f.relative_to(ROOT)) for f in ROOT.glob("auheat/**/*.py")}
    assert modules <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import auheat.cli;"
        "assert sys.argv[0] == '-c' and 'site' in auheat.__file__; auheat.cli.main()"
    )

    def run(*arguments: str) -> str:
        command = [sys.executable, "-I", "-c", program, str(site), *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    assert "extract" in run("--help")
    assert "AU12" in run("codebooks", "martinez")
    assert str(site) in run("detectors")


@pytest.fixture
def in_checkout(wheel, tmp_path):
    """A function that runs Python at the root of a checkout; no editable install is seen."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    for name in (*SOURCES, "tests", "tools"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.tflite", "data")
        shutil.copytree(ROOT / name, checkout / name, ignore=unwanted)
    shutil.copy(ROOT / "setup.py", checkout)
    zipfile.ZipFile(wheel).extractall(site)
    others = [entry for entry in sys.path if entry.endswith("site-packages")]

    def run(*arguments: str, installed: bool = True) -> str:
        path = [str(site), *others] if installed else others
        environment = {k: v for k, v in os.environ.items() if k != "AUHEAT_MODELS"}
        environment |= {"PYTHONPATH": os.pathsep.join(path), "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-S", *arguments]  # -S: files that end with .pth are not read
        done = subprocess.run(
            command, cwd=checkout, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_python_in_a_checkout_finds_the_command_line_and_the_codebooks(in_checkout, installed):
    code = (
        "import auheat, auheat.cli, os\n"
        "assert auheat.__file__.startswith(os.getcwd() + os.sep)\n"
        "print(auheat.cli.__name__, auheat.load_codebook('martinez').name)"
    )
    assert in_checkout("-c", code, installed=installed).split() == ["auheat.cli", "martinez"]
    said = in_checkout("-m", "auheat.cli", "codebooks", "martinez", installed=installed)
    assert "AU12" in said


@pytest.mark.slow
def test_nothing_else_of_a_checkout_becomes_a_part_of_auheat(in_checkout):
    code = (
        "import auheat, importlib.util as u\n"
        "names = 'tests', 'tools', 'setup', 'cli', 'codebooks', 'auheat', 'docs'\n"
        "print(*[n for n in names if u.find_spec(f'auheat.{n}')])"
    )
    assert in_checkout("-c", code).split() == ["cli", "codebooks"]


def test_python_in_a_checkout_finds_the_models_of_the_installed_package(in_checkout):
    code = "from auheat.landmarks.mesh.model_files import *; [print(find_model(n)) for n in MODELS]"
    files = in_checkout("-c", code).split()
    assert len(files) == len(MODELS)
    assert all("site/auheat/landmarks/mesh/models" in file for file in files)


def test_importing_auheat_loads_none_of_the_large_libraries():
    code = "import sys, auheat; print({'torch', 'h5py', 'cv2', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_the_second_environments_packages_are_pinned_and_no_index_is_named():
    lines = (ROOT / "constraints-timm.txt").read_text().splitlines()[1:]
    pins = dict(line.split("==") for line in lines)
    assert lines == sorted(lines, key=str.lower)
    assert {key: pins[key] for key in ("torch", "torchvision")} == {
        "torch": "2.14.1",
        "torchvision": "0.29.1",
    }
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^TIMM_PACKAGES := (.*)$", makefile, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *listed.split(), "grad-cam"]
    asked += [one for kind in ("dev", "demo") for one in project["optional-dependencies"][kind]]
    for one in asked:
        assert re.split(r"[^\w.-]", one)[0].replace("_", "-").lower() in names, one
