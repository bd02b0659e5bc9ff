"""The wheel: only auheat, with its models and codebooks, working away from the checkout."""

import shutil
import subprocess
import sys
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


def test_the_wheel_holds_auheat_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert all(n.startswith("auheat/") or ".dist-info/" in n for n in names), names
    assert {f"auheat/landmarks/mesh/models/{model}" for model in MODELS} <= set(names)
    for needed in ("cli/__init__.py", "codebooks/facs.yaml", "codebooks/martinez.yaml"):
        assert f"auheat/{needed}" in names
    assert {"auheat/py.typed", "auheat/reporting/templates/report.html"} <= set(names)
    modules = {str(f.relative_to(ROOT)) for f in ROOT.glob("auheat/**/*.py")}
    assert modules <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


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
