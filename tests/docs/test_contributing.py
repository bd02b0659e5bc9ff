"""The examples of CONTRIBUTING.md run, and what they say of a new method is true."""

import re
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from training_helpers import make_store

from auheat.evaluation.evaluator import evaluate
from auheat.models import registry
from auheat.training.config import make_config
from auheat.training.runner import train

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
HEAD, ROW, TEST, OWN = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_twelfth_method_is_one_head_one_row_one_test(tmp_path, monkeypatch):
    made: dict = {}
    exec(HEAD + ROW + TEST, made)
    made["test_lse_is_the_papers_sum_place_by_place"]()
    table = MappingProxyType({**registry.METHODS, **made["ROW"]})
    monkeypatch.setattr(registry, "METHODS", table)
    config = make_config("demo", method="lse", image_size=32, epochs=1, batch_size=8)
    store = make_store(tmp_path)
    summary = train(store, config)
    assert summary.run.name == "lse-thin-au4-seed0"
    assert evaluate(store=store).run == "lse-thin-au4-seed0"


def test_a_model_that_knows_nothing_of_auheat_learns_from_heatmaps_by_one_hook():
    made: dict = {}
    exec(OWN, made)
    assert len(OWN.partition("seen = []")[2].strip().splitlines()) + 1 == 5
    plain = torch.nn.functional.cross_entropy(made["model"](made["images"]), made["labels"])
    assert made["loss"].item() > plain.item()
    assert all(p.grad.abs().sum() > 0 for p in made["model"].parameters())


def test_it_links_to_files_that_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).is_file(), target
