"""The kinds of errors: builtins too, their text alone, and never caught by what they are."""

import ast
import pickle
from pathlib import Path

import joblib
import pytest
from click.testing import CliRunner

from auheat import AuheatError, MissingExtraError, RequestError, StoreError, load_codebook
from auheat.cli import main
from auheat.data.dataset import ShardDataset
from auheat.shards.manifest import DamagedManifestError, read_copy

ROOT = Path(__file__).parents[1]
KINDS = {RequestError: ValueError, StoreError: OSError, MissingExtraError: ImportError}
OURS = {"AuheatError", "RequestError", "StoreError", "MissingExtraError", "DamagedManifestError"}
CAUGHT = {"OSError", "ValueError", "ImportError", "Exception"}


def raise_one(kind):
    raise kind("store: damaged (verify it)")


@pytest.mark.parametrize("kind", [AuheatError, *KINDS, DamagedManifestError])
def test_a_kind_is_a_builtin_with_the_message_alone(kind):
    error = kind("store: damaged (verify it)")
    assert isinstance(error, (AuheatError, KINDS.get(kind, Exception)))
    assert str(error) == "store: damaged (verify it)"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert again.args == error.args == (str(again),)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_worker_process_arrives_as_it_was(kind):
    with pytest.raises(kind) as caught:
        joblib.Parallel(n_jobs=2)([joblib.delayed(raise_one)(kind)] * 2)
    assert str(caught.value) == "store: damaged (verify it)"


def test_a_request_a_store_and_an_extra_have_their_kind(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^codebook 'none': unknown"):
        load_codebook("none")
    with pytest.raises(OSError, match="no finished stage here") as caught:
        ShardDataset(tmp_path)
    assert caught.value.errno is None
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="not a manifest"):
        read_copy(tmp_path / "manifest.json")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    from auheat.models.registry import build_classifier

    with pytest.raises(ImportError, match="pip install timm"):
        build_classifier("cam", "timm:resnet18", 7)


def test_the_command_line_prints_a_store_error_as_its_text(tmp_path):
    result = CliRunner().invoke(main, ["render", "--store", str(tmp_path / "none")])
    assert result.exit_code == 1
    text = f"Error: {tmp_path / 'none'}: no store (run `auheat extract` first)"
    assert result.output.strip() == text


def names(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else CAUGHT


@pytest.mark.parametrize("file", sorted(ROOT.glob("auheat/**/*.py")), ids=lambda f: f.name)
def test_no_handler_of_a_builtin_swallows_an_error_of_ours(file):
    for block in ast.walk(ast.parse(file.read_text())):
        if not isinstance(block, ast.Try):
            continue
        raised = {
            name
            for statement in block.body
            for node in ast.walk(statement)
            if isinstance(node, ast.Raise)
            for name in names(node.exc) & OURS
        }
        if raised:
            first = next((h for h in block.handlers if names(h.type) & (CAUGHT | OURS)), None)
            line = f"{file.name}:{block.lineno}"
            assert first is None or names(first.type) & OURS, f"{line} catches its own {raised}"


@pytest.mark.parametrize("kind", [AuheatError, *KINDS])
def test_a_message_is_one_line_whatever_a_file_is_called(kind):
    assert str(kind("maps/a\nb.png: no map (a\r\nb)")) == r"maps/a\nb.png: no map (a\nb)"
