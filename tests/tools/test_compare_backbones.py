"""The comparison of backbones: it trains what it says, and the page has its figures."""

import importlib.util
import json
import types
from pathlib import Path

import pytest
from fake_timm import install_fake_timm
from training_helpers import make_store

from auheat.runs.run_folder import read_metadata

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def compare():
    spec = importlib.util.spec_from_file_location("compared", ROOT / "tools/compare_backbones.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_tables(page):
    return page.partition("<!-- measured -->\n")[2].partition("\n<!-- /measured -->")[0]


def test_the_pages_tables_are_those_of_its_figures(compare):
    page = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs" / "backbones.json").read_text())
    assert [one["key"] for one in record["networks"]] == list(compare.NETWORKS)
    assert read_tables(page) == compare.lay_out(record)
    assert compare.put_in(page, read_tables(page)) == page


def test_aus_moved_the_attention_of_every_network_that_was_measured():
    record = json.loads((ROOT / "docs" / "backbones.json").read_text())
    for one in record["networks"]:
        without, with_aus = (r["att_cos"] for r in one["runs"] if r["method"] == "cam")
        assert with_aus > without, one["family"]


@pytest.mark.slow
def test_every_network_is_trained_with_every_method_that_takes_it(
    compare, tmp_path, monkeypatch, capsys
):
    install_fake_timm(monkeypatch)
    explained = types.SimpleNamespace(photos=[(types.SimpleNamespace(expression="Sadness"), None)])
    monkeypatch.setattr(compare, "explain_to", lambda run, photos, store: explained)
    monkeypatch.setattr(compare, "version", lambda name: "1.0")
    monkeypatch.setattr(compare, "NETWORKS", {"four": ("Four", "timm:four", 32)})
    monkeypatch.setattr(compare, "METHODS", ["cam", "prm", "ts-cam"])
    monkeypatch.setattr(compare, "BATCH", 8)
    monkeypatch.setattr("auheat.training.runner._is_better", lambda line, best: False)
    store = make_store(tmp_path / "store", counts=(("train", 4), ("test", 2)))
    (tmp_path / "backbones.md").write_text(
        "# B\n\n<!-- measured -->\nold\n<!-- /measured -->\nend\n"
    )
    compare.main([str(store), "photo.jpg", "--epochs", "2", "--out", str(tmp_path)])
    (one,) = json.loads((tmp_path / "backbones.json").read_text())["networks"]
    assert [(r["method"], r["au_weight"], r["epochs"]) for r in one["runs"]] == [
        ("cam", 0.0, 2),
        ("cam", 4.0, 2),
    ]
    assert one["grids"] == [[16, 16], [8, 8], [4, 4], [2, 2]]
    assert one["explained"] == "Sadness"
    assert "does not end in one" in one["refused"]["prm"]
    assert "its own transformers" in one["refused"]["ts-cam"]
    for run in one["runs"]:
        scores = json.loads((store / "runs" / run["run"] / "evaluation.json").read_text())
        assert scores["att_cos"] == run["att_cos"]
        assert read_metadata(store / "runs" / run["run"] / "best.safetensors")["epoch"] == 2
    page = (tmp_path / "backbones.md").read_text()
    assert page.startswith("# B\n")
    assert page.endswith("<!-- /measured -->\nend\n")
    shown = " → ".join(f"{r['att_cos']:.3f}" for r in one["runs"][:2])
    assert f"| Four | `timm:four` | 32 | 4: 16, 8, 4, 2 | {shown} |" in page
    assert (store / "report.html").is_file()
