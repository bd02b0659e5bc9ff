"""The public face: stubs that say what is there, types that mypy sees, documentation that runs."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_helpers import make_store

import auheat
from auheat.datasets.registry import DATASETS
from auheat.landmarks.registry import DETECTORS
from auheat.models.registry import METHODS

ROOT = Path(__file__).parents[1]
STUBS = sorted(ROOT.glob("auheat/**/__init__.pyi"))
CONSTANTS = {"EXPRESSIONS", "METHODS"}
OBJECTS = sorted({*auheat.__all__} - CONSTANTS)
NEVER_RAISE = {
    "list_codebooks", "list_datasets", "list_detectors", "list_methods",
}  # fmt: skip

SCRIPT = """
from pathlib import Path

import auheat

book = auheat.load_codebook("martinez")
reveal_type(auheat.extract(Path("photos"), Path("store")))
reveal_type(auheat.render(Path("store")))
reveal_type(auheat.train(Path("store"), auheat.make_config("demo")))
reveal_type(auheat.evaluate(store=Path("store")))
reveal_type(book)
reveal_type(auheat.load_detector("mesh"))
reveal_type(auheat.read_samples("photos"))
reveal_type(auheat.render_heatmaps(book.frame.mean, [0], auheat.plan_heatmaps(book, []), (9, 9)))
reveal_type(auheat.ShardDataset("shards"))
reveal_type(auheat.METHODS["cam"])
auheat.extract(Path("photos"), Path("store"), shard_sizes=4)
auheat.extract(Path("photos"), Path("store"), shard_size="4")
auheat.train(Path("store"), 4)
auheat.ShardDataset("shards", spit="train")
auheat.ShardDataset("shards", image_size="64")
auheat.register_method("mine", "no method")
auheat.nothing
"""

REVEALED = [
    "auheat.store.summary.Summary",
    "auheat.store.summary.Summary",
    "auheat.training.runner.RunSummary",
    "auheat.evaluation.results.Evaluation",
    "auheat.facs.codebooks.NotedCodebook",
    "auheat.landmarks.base.Detector",
    "list[auheat.records.Sample]",
    "tuple[numpy.ndarray[",
    "auheat.data.dataset.ShardDataset",
    "auheat.models.registry.Method",
]
REFUSED = [
    'Unexpected keyword argument "shard_sizes" for "extract"',
    'Argument "shard_size" to "extract" has incompatible type "str"',
    'to "train" has incompatible type "int"',
    'Unexpected keyword argument "spit" for "ShardDataset"',
    'Argument "image_size" to "ShardDataset" has incompatible type "str"',
    'Argument 2 to "register_method" has incompatible type "str"',
    'Module has no attribute "nothing"',
]


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="types of the torch that is pinned"
)
def test_a_users_script_is_checked_by_mypy(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", ROOT / "pyproject.toml"]
    command += ["--cache-dir", ROOT / ".mypy_cache", "--no-error-summary", "script.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    revealed = [line.partition('type is "')[2] for line in lines if "Revealed type" in line]
    assert len(revealed) == len(REVEALED), done.stdout + done.stderr
    for found, wanted in zip(revealed, REVEALED, strict=True):
        assert found.startswith(wanted)
    refused = [line for line in lines if ": error: " in line]
    assert len(refused) == len(REFUSED), done.stdout
    for found, wanted in zip(refused, REFUSED, strict=True):
        assert wanted in found


def module_of(stub: Path) -> str:
    return ".".join(stub.relative_to(ROOT).parts[:-1])


@pytest.mark.parametrize("stub", STUBS, ids=module_of)
def test_a_stub_says_what_its_package_has(stub):
    module = importlib.import_module(module_of(stub))
    tree = ast.parse(stub.read_text())
    names = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module("." * node.level + node.module, module.__name__)
            names |= {alias.name: getattr(home, alias.name) for alias in node.names}
            assert all(alias.asname == alias.name for alias in node.names)
    (listed,) = (
        [element.value for element in node.value.elts]
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    assert len(listed) == len({*listed})
    assert {*listed} == {*names} == {*module.__all__}
    for name, value in names.items():
        assert getattr(module, name) is value


@pytest.mark.slow
def test_no_public_name_is_defined_twice():
    homes = defaultdict(set)
    for file in ROOT.glob("auheat/**/*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def sections(value) -> dict[str, str]:
    """The sections of a docstring, such as Args and Example; "" is what comes before them."""
    text = inspect.getdoc(value) or ""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Example):\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> list[str]:
    """The names that a section explains, one at a line's beginning."""
    return re.findall(r"^    (\w+): ", section, re.MULTILINE)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_is_documented(name):
    value = getattr(auheat, name)
    found = sections(value)
    assert re.match(r"[A-Z].*[.:]", found[""].partition("\n\n")[0], re.DOTALL)
    assert ">>> " in found["Example"]
    assert "Raises `" not in found[""]
    if dataclasses.is_dataclass(value):
        assert entries(found["Attributes"]) == [field.name for field in dataclasses.fields(value)]
        return
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    if name == "Status":
        assert entries(found["Attributes"]) == list(value.__members__)
        return
    signature = inspect.signature(value)
    if signature.parameters:
        assert entries(found["Args"]) == list(signature.parameters)
    if inspect.isfunction(value):
        if not name.startswith("register"):
            assert found["Returns"].strip()
        raised = entries(found.get("Raises", ""))
        assert bool(raised) == (name not in NEVER_RAISE)
        for error in raised:
            if error != "KeyboardInterrupt":
                assert issubclass(getattr(auheat, error), auheat.AuheatError)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """What examples may name: `store` with shards, and a folder of `photos`."""
    root = tmp_path_factory.mktemp("examples")
    for expression in ("happy", "sad"):
        (root / "photos" / expression).mkdir(parents=True)
        for i in range(2):
            image = np.full((32, 32, 3), 40 * i, np.uint8)
            cv2.imwrite(str(root / "photos" / expression / f"{i}.png"), image)
    return {"store": make_store(root / "store"), "photos": root / "photos"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*auheat.__all__} - CONSTANTS))
def test_the_examples_run(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for table in (METHODS, DATASETS, DETECTORS):
        monkeypatch.setattr(table, "_rows", dict(table._rows))
    text = inspect.getdoc(getattr(auheat, name))
    test = doctest.DocTestParser().get_doctest(text, dict(made), name, None, None)
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not outcome.failed, "".join(said)
