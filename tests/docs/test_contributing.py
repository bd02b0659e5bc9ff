"""The examples of CONTRIBUTING.md run, and what they say of a new row is true."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from training_helpers import make_store

import auheat
from auheat.datasets.registry import DATASETS
from auheat.landmarks.registry import DETECTORS
from auheat.models.registry import METHODS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
TABLES = (METHODS, DATASETS, DETECTORS)

pytestmark = pytest.mark.usefixtures("one_thread", "own_rows")


@pytest.fixture
def own_rows(monkeypatch):
    """What an example registers is gone after it."""
    for table in TABLES:
        monkeypatch.setattr(table, "_rows", dict(table._rows))


def blocks(heading: str, kind: str = "python") -> list[str]:
    """The code blocks of a section."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)


def run(heading: str) -> dict:
    """What the Python blocks of a section define."""
    made: dict = {}
    exec("".join(blocks(heading)), made)
    return made


def test_a_method_is_one_head_one_row_one_test(tmp_path):
    made = run("A method")
    made["test_lse_is_the_papers_sum_place_by_place"]()
    config = auheat.make_config("demo", method="lse", image_size=32, epochs=1, batch_size=8)
    store = make_store(tmp_path)
    summary = auheat.train(store, config)
    assert summary.run.name == "lse-thin-au4-seed0"
    assert auheat.evaluate(store=store).run == "lse-thin-au4-seed0"


def test_a_data_set_is_read_by_its_name(tmp_path):
    made = run("A data set")
    made["test_smiles"](tmp_path)
    assert auheat.list_datasets()[-1] == "smiles"
    (tmp_path / "smiles.txt").write_text("a.jpg 4 ann\nb.jpg 7 bob\n")
    with pytest.raises(auheat.StoreError, match=r"smiles\.txt: line 2: 'b\.jpg 7 bob' .expected"):
        auheat.read_samples(tmp_path, "smiles")


@pytest.mark.slow
def test_a_detector_is_loaded_by_its_name(portrait):
    made = run("A detector")
    made["test_mirrored"](portrait[0])
    with pytest.raises(auheat.RequestError, match="mirrored takes no file"):
        auheat.load_detector("mirrored", "cpu", model=Path("x"))


def test_a_codebook_is_a_file(tmp_path):
    (text,) = blocks("A codebook", "yaml")
    file = tmp_path / "duchenne.yaml"
    file.write_text(text)
    (code,) = blocks("A codebook")
    made: dict = {"auheat": auheat}
    exec(code, made)
    made["test_duchenne"](file)


def test_a_score_is_a_function_of_maps_and_heatmaps(tmp_path):
    made = run("A score")
    made["test_overlap_is_counted_pixel_by_pixel"]()
    store = make_store(tmp_path)
    auheat.train(store, auheat.make_config("demo", image_size=32, epochs=1, batch_size=8))
    value, low, high = made["score_overlap"](store, "martinez")
    assert 0 < low <= value <= high < 1


def test_entry_points_have_the_groups_that_are_read_and_name_what_the_examples_make():
    (text,) = blocks("Rows of your own", "toml")
    points = tomllib.loads(text)["project"]["entry-points"]
    assert list(points) == [f"auheat.{table.kind}s" for table in TABLES]
    code = "".join(
        code for name in ("A method", "A data set", "A detector") for code in blocks(name)
    )
    for (name, target), call in zip(
        (row for group in points.values() for row in group.items()),
        ("register_method", "register_dataset", "register_detector"),
        strict=True,
    ):
        assert f'auheat.{call}("{name}", {target.partition(":")[2]})' in code


def test_a_model_that_knows_nothing_of_auheat_learns_from_heatmaps_by_one_hook():
    (code,) = blocks("A model of your own")
    made = run("A model of your own")
    assert len(code.partition("seen = []")[2].strip().splitlines()) + 1 == 5
    plain = torch.nn.functional.cross_entropy(made["model"](made["images"]), made["labels"])
    assert made["loss"].item() > plain.item()
    assert all(p.grad.abs().sum() > 0 for p in made["model"].parameters())


def test_it_links_to_files_that_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
