"""Each script of examples/ trains for two steps with the AU and class map losses, as it stands."""

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import make_store

import auheat

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "lightning_module": ("lightning", "torchvision"),
    "huggingface_trainer": ("transformers", "accelerate"),
    "timm_loop": ("timm",),
    "accelerate_loop": ("accelerate",),
}
MODELS = {"timm_loop": ("resnet18", "vit_tiny_patch16_224", "convnext_atto")}
RUNS = [(name, model) for name in SCRIPTS for model in MODELS.get(name, ("",))]

pytestmark = [
    pytest.mark.timm,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of other people's libraries, about each other
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    counts = (("train", 2), ("test", 1))
    root = make_store(tmp_path_factory.mktemp("examples"), counts, side=(44, 44))
    return root / "shards" / "martinez"


def load_script(name):
    """The module that a script is, or a skip where a library that it is about is missing."""
    for library in SCRIPTS[name]:
        pytest.importorskip(library, reason=f"examples/{name}.py needs {library}")
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name, model, shards, folder, *more):
    """What a script logs of two steps of four photos, a line a step (Lightning: the last)."""
    options = ["--steps", "2", "--image-size", "64", "--batch-size", "4", *more]
    options += ["--model", model] if model else []
    options += ["--out", str(folder / "out")] if name == "huggingface_trainer" else []
    torch.manual_seed(0)
    logged = load_script(name).main([str(shards), *options])
    if name == "lightning_module":
        return [{k.removeprefix("train_"): v for k, v in logged.items() if k.startswith("train_")}]
    return [line | {"loss": line.get("total", line.get("loss"))} for line in logged]


@pytest.mark.parametrize(("name", "model"), RUNS)
def test_it_runs_two_steps_with_both_losses_and_logs_att_cos(
    name, model, shards, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lines = run_script(name, model, shards, tmp_path, "--au-weight", "2", "--lr", "1e-2")
    assert len(lines) == (1 if name == "lightning_module" else 2)
    for line in lines:
        assert all(map(math.isfinite, line.values()))
        assert -1 <= line["att_cos"] <= 1
        assert 0 < line["au"] <= 2
        assert 0 < line["class_maps"] <= 1
        expected = line["ce"] + 2 * line["au"] + line["class_maps"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_its_targets_and_att_cos_are_those_of_the_shards(name, shards):
    module = load_script(name)
    data = auheat.ShardDataset(shards, "train", 48)
    batch = torch.utils.data.default_collate([data[i] for i in range(len(data))])
    plan = auheat.plan_heatmaps(auheat.load_codebook("martinez"), data.class_names)
    maps = module.draw_class_maps(batch, plan)
    assert maps.shape == (8, 4, 28, 28)
    own = maps[torch.arange(8), batch["label"]]
    stored = batch["heatmap"] / 255
    assert (own - stored)[batch["valid"]].abs().max() <= 0.5 / 255 + 1e-4  # as they are rounded
    assert not maps[:, 0].any()  # of Neutral
    flat = lambda one: one.reshape(len(one), -1).numpy().astype(np.float64)  # noqa: E731
    noise = torch.rand(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    seen = noise.mean(1)
    low, high = seen.amin((1, 2), keepdim=True), seen.amax((1, 2), keepdim=True)
    a, b = flat((seen - low) / (high - low)), flat(stored)
    with np.errstate(invalid="ignore"):
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = module.measure_att_cos(noise, stored, batch["valid"])
    assert found == pytest.approx(cosines[batch["valid"].numpy()].mean(), abs=1e-5)


def test_every_script_is_short_and_in_the_readme():
    page = (ROOT / "examples" / "README.md").read_text()
    scripts = sorted(file.stem for file in (ROOT / "examples").glob("*.py"))
    assert scripts == sorted(SCRIPTS) == sorted(set(re.findall(r"\((\w+)\.py\)", page)))
    for name in scripts:
        text = (ROOT / "examples" / f"{name}.py").read_text()
        assert len(text.splitlines()) < 120
