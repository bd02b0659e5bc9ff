"""Every module that takes a `device` is run under CUDA's rules by a test that says so."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

HANDED_ON = {
    "auheat/landmarks/registry": "landmarks/test_registry.py",
    "auheat/pipeline/extraction": "pipeline/test_extraction.py",
    "auheat/pipeline/workers": "pipeline/test_workers.py",
    "auheat/sweeps/elsewhere": "sweeps/test_study.py",
}
"""Modules that pass a device's name on and have no tensors, and where that is tested."""

PARTS = (ast.FunctionDef, ast.AsyncFunctionDef)


def find_modules(folder: Path) -> set[str]:
    """The modules with a function that has a parameter called `device`."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, PARTS):
                given = node.args
                names = {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
                if "device" in names:
                    found.add(file.relative_to(ROOT).with_suffix("").as_posix())
    return found


def find_covered() -> dict[str, str]:
    """Module -> the test file whose `COVERS` has it."""
    covered = {}
    for file in (ROOT / "tests").glob("*/test_cuda_rules.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COVERS":
                covered |= dict.fromkeys(ast.literal_eval(node.value), file.parent.name)
    return covered


def test_every_module_that_takes_a_device_is_covered_and_no_other():
    covered, modules = find_covered() | HANDED_ON, find_modules(ROOT / "auheat")
    assert all((ROOT / "tests" / file).is_file() for file in HANDED_ON.values())
    for name in HANDED_ON:
        assert "import torch\n" not in (ROOT / f"{name}.py").read_text(encoding="utf-8")
    assert len(modules) > 15
    assert sorted(modules - covered.keys()) == []
    assert sorted(covered.keys() - modules) == []


def test_a_module_without_such_a_test_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "auheat").mkdir()
    (tmp_path / "auheat" / "new.py").write_text("def place(values, *, device): ...\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert find_modules(tmp_path / "auheat") == {"auheat/new"}
    assert "auheat/new" not in find_covered()
