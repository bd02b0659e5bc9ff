"""The names that options take are those of the registries; completion lists them."""

import os
import subprocess
import sys

import click
import pytest
import yaml
from click.shell_completion import ShellComplete

from auheat.cli import choices, main
from auheat.data.augmentation import AUGMENTATIONS
from auheat.datasets.registry import DATASETS
from auheat.deployment.exporter import ENDINGS
from auheat.evaluation import evaluator
from auheat.exporters.exporter import FORMATS
from auheat.expressions import SPLITS
from auheat.facs.records import AU_MODES
from auheat.landmarks.mesh import engines, landmark_map
from auheat.models import registry
from auheat.pipeline import framing, rendering, workers
from auheat.sweeps.grid import GRIDS
from auheat.training.class_targets import AU_TARGETS
from auheat.training.config import AMP
from auheat.training.optim import OPTIMIZERS, SCHEDULES
from auheat.training.presets import PRESETS
from auheat.utils import maps

FIXED = {
    "VARIANTS": {"auto", *(choice for row in DATASETS.values() for choice in row.images)},
    "LANDMARK_MAPS": landmark_map.MAPS,
    "ENGINES": engines.ENGINES,
    "RESAMPLINGS": maps.RESAMPLINGS,
    "GEOMETRIES": rendering.GEOMETRIES,
    "CROPS": framing.CROPS,
    "AU_MODES": AU_MODES,
    "BACKENDS": workers.BACKENDS,
    "PRESETS": PRESETS,
    "GRIDS": {"none", *GRIDS},
    "OPTIMIZERS": OPTIMIZERS,
    "SCHEDULES": {"auto", *SCHEDULES},
    "AUGMENTATIONS": AUGMENTATIONS,
    "AMP": AMP,
    "AU_TARGETS": AU_TARGETS,
    "EVALUATED_SPLITS": evaluator.SPLITS,
    "KINDS": evaluator.KINDS,
    "FORMATS": FORMATS,
    "MODEL_FORMATS": ENDINGS,
    "SPLITS": set(SPLITS.values()),
}


@pytest.mark.parametrize("name", FIXED)
def test_choices_are_those_of_the_registry(name):
    assert set(getattr(choices, name)) == set(FIXED[name])
    assert len(getattr(choices, name)) == len(FIXED[name])


def complete(*words: str) -> list[str]:
    *before, last = words
    done = ShellComplete(main, {}, "auheat", "_AUHEAT_COMPLETE").get_completions(before, last)
    return [item.value for item in done]


def test_completion_lists_the_values_of_an_option():
    assert complete("train", "--method", "") == list(registry.METHODS)
    assert complete("train", "--method", "grad") == ["gradcam", "gradcam++"]
    assert complete("sweep", "--methods", "cam,ts") == ["cam,ts-cam"]
    assert complete("tr") == ["train"]


def test_the_completion_script_of_the_readme_lists_the_methods():
    words = {"COMP_WORDS": "auheat train --method ", "COMP_CWORD": "3"}
    environment = os.environ | words | {"_AUHEAT_COMPLETE": "bash_complete"}
    code = "from auheat.cli import main; main(prog_name='auheat')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [f"plain,{name}" for name in registry.METHODS]


def test_a_method_of_another_package_is_taken(monkeypatch):
    monkeypatch.setattr(choices, "METHOD", choices.Registered(lambda: ["cam", "lse"]))
    assert choices.METHOD.convert("lse", None, None) == "lse"
    assert [item.value for item in choices.METHOD.shell_complete(None, None, "l")] == ["lse"]
    with pytest.raises(click.BadParameter, match="'x' is not one of 'cam', 'lse'"):
        choices.METHOD.convert("x", None, None)


def test_options_of_a_file_are_defaults_that_the_command_line_replaces(tmp_path):
    file = tmp_path / "settings.yaml"
    told = {"au-weight": 0, "epochs": 3, "layers": "5+4", "classes": ["Anger", "Fear"]}
    file.write_text(yaml.safe_dump(told | {"balance": True, "head_lr_factor": 2, "store": "s"}))
    context = main.commands["train"].make_context("train", ["--epochs", "7", "--config", str(file)])
    found = context.params
    assert (found["epochs"], found["au_weight"], found["layers"]) == (7, 0.0, (5, 4))
    assert (found["classes"], found["balance"]) == (("Anger", "Fear"), True)
    assert (found["head_lr_factor"], str(found["store"]), found["lr"]) == (2.0, "s", None)
