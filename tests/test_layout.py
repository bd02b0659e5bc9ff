"""The house rules that a machine can see: who imports whom, file sizes, packages."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    ("errors", "records", "expressions"),
    ("utils",),
    ("images", "facs"),
    ("datasets", "landmarks", "heatmaps", "shards"),
    ("store", "data", "action_units"),
    ("pipeline", "models", "visualization", "exporters", "demo"),
    ("losses", "runs"),
    ("training", "evaluation"),
    ("explanation", "reporting"),
    ("sweeps", "deployment"),
    ("cli",),
    ("__main__",),
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
SOURCES = sorted([*ROOT.glob("auheat/**/*.py"), *ROOT.glob("cli/*.py")])


def module_name(file: Path) -> str:
    """The name a file is imported by, without the leading "auheat."."""
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removeprefix("auheat.").removesuffix(".__init__")


MODULES = {module_name(file) for file in SOURCES}


def imported(file: Path) -> set[str]:
    """Names of auheat's own modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("auheat.") in MODULES
                found.add(inner if is_module else node.module)
    return {name.removeprefix("auheat.") for name in found if name.startswith("auheat.")}


def code_lines(file: Path) -> list[int]:
    """Numbers of the lines that hold code: no docstring, comment or blank line."""
    text = file.read_text()
    documentation = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    return [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in documentation
    ]


def part(file: Path) -> str:
    """The top-level part a file belongs to: "records", "landmarks", ..., "cli"."""
    relative = file.relative_to(ROOT)
    return "cli" if relative.parts[0] == "cli" else relative.parts[1].removesuffix(".py")


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file):
    here = part(file)
    if here == "__init__":
        assert not imported(file)
        return
    assert here in RANK, f"{here} has no place in the layout"
    for name in imported(file):
        other = name.split(".")[0]
        if other in RANK and other != here:
            assert RANK[other] < RANK[here], f"{here} imports {other}"


@pytest.mark.slow
def test_no_module_cycle():
    graph = {module_name(file): imported(file) for file in SOURCES}
    state = {}

    def visit(name):
        assert state.get(name) != "open", f"cycle through {name}"
        if name in graph and name not in state:
            state[name] = "open"
            for other in graph[name]:
                visit(other)
            state[name] = "done"

    for name in graph:
        visit(name)
    assert len(state) > 10


@pytest.mark.slow
@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_stay_small(file):
    tree = ast.parse(file.read_text())
    lines = code_lines(file)
    assert len(lines) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = [n for n in lines if node.lineno <= n <= node.end_lineno]
            assert len(own) <= 60, f"{node.name} has {len(own)} lines of code"


def test_no_package_is_a_house_of_its_own():
    lines: dict[str, int] = {}
    for file in SOURCES:
        lines[part(file)] = lines.get(part(file), 0) + len(code_lines(file))
    assert max(lines.values()) < 0.15 * sum(lines.values())


def test_public_functions_say_what_they_do():
    for file in SOURCES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file.name}: {node.name} has no docstring"


@pytest.mark.parametrize("module", ["auheat", "auheat.landmarks", "auheat.cli", "auheat.heatmaps"])
def test_torch_is_not_loaded_before_it_is_needed(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_loads():
    import auheat

    for name in auheat.__all__:
        assert getattr(auheat, name) is not None
    assert set(auheat.__all__) <= set(dir(auheat))
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = auheat.nothing


def test_the_wheel_lists_every_package_and_no_other():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {f.parent.relative_to(ROOT) for f in SOURCES if f.name == "__init__.py"}
    folders |= {f.parent.relative_to(ROOT) for f in ROOT.glob("codebooks/__init__.py")}
    mapped = {"cli": "auheat.cli", "codebooks": "auheat.codebooks"}
    expected = {mapped.get(str(f), ".".join(f.parts)) for f in folders}
    assert set(settings["packages"]) == expected


def test_versions_agree():
    import auheat

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert auheat.__version__ == project["version"]
