"""Presets are the paper's, schedules their closed forms, and requests no run could meet errors."""

import math
import typing

import pytest
import torch

from auheat.data.augmentation import AUGMENTATIONS
from auheat.errors import AuheatError, RequestError
from auheat.models.registry import build_classifier
from auheat.training import runner
from auheat.training.config import TrainConfig, TrainSettings, make_config
from auheat.training.optim import SCHEDULES, ScheduleConfig, group_parameters, make_optimizer
from auheat.training.presets import PRESETS, PRETRAINED
from auheat.training.runner import train

PAPER = {
    "rafdb": {"epochs": 100, "batch_size": 32, "au_weight": 4.0},  # section 4; figure 5
    "affectnet": {"epochs": 20, "batch_size": 224},
}
CODE = {
    "rafdb": (0.001, 1e-4, 10.0, 40, 0.1),
    "affectnet": (0.002, 5e-4, 1.0, 4, 0.9),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_preset_is_what_the_paper_says(name):
    config = make_config(preset=name)
    assert {key: getattr(config, key) for key in PAPER[name]} == PAPER[name]
    assert (config.method, config.backbone, config.layers) == ("cam", "resnet50", (5,))
    assert (config.optimizer, config.resize, config.image_size) == ("sgd", 256, 224)


@pytest.mark.parametrize("name", CODE)
def test_what_the_paper_leaves_open_is_the_authors_codes(name):
    c = make_config(preset=name)
    found = (c.lr, c.weight_decay, c.head_lr_factor, c.step_epochs, c.step_factor)
    assert (c.schedule, found) == ("step", CODE[name])
    group = make_optimizer(torch.nn.Linear(2, 2), "sgd", c.lr, c.weight_decay).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.9, True, 0)


def test_the_codes_rate_of_the_head_is_that_of_a_resnets_last_stage_too():
    """Its optimizer puts layer4 and the classification head into the group with the ratio."""
    assert make_config("rafdb").head_lr_stages == 1


@pytest.mark.parametrize("name", ["rafdb", "affectnet"])
def test_a_codes_preset_adds_what_the_paper_does_not_say(name):
    paper, code = make_config(name), make_config(f"{name}-code")
    fields = TrainConfig.__dataclass_fields__
    changed = {key for key in fields if getattr(paper, key) != getattr(code, key)}
    assert changed == {"preset", "augment", "align"}
    how = AUGMENTATIONS[code.augment]
    assert (how.rotation, how.rotation_p, how.crop_area, how.flip) == (6, 0.5, 0.8, 0.5)
    assert (how.brightness, how.contrast, how.saturation, how.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (how.colour_p, how.gray, how.erase, how.erase_area) == (0.8, 0.2, 0.5, (0.02, 0.33))


def test_a_papers_preset_without_its_weights_is_refused_unless_none_is_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("AUHEAT_WEIGHTS", raising=False)
    for name in sorted(PRETRAINED):
        with pytest.raises(RequestError, match=f"--preset: {name} begins from published weights"):
            runner._build(make_config(name), 7)
    _, notes = runner._build(make_config("rafdb", weights="none"), 7)
    assert notes == ("weights: none, trained from scratch",)


def test_affectnets_au_weight_is_the_authors_commands():
    assert make_config(preset="affectnet").au_weight == 9.0


def test_what_is_asked_for_replaces_a_presets_settings():
    config = make_config(preset="rafdb", lr=0.5, epochs=3, resize=0)
    assert (config.lr, config.epochs, config.resize) == (0.5, 3, 0)
    assert make_config(preset="rafdb", image_size=112).resize == 128
    assert make_config(preset="none") == make_config() == TrainConfig()


def test_every_preset_sets_fields_that_exist():
    for settings in PRESETS.values():
        assert set(settings) <= set(TrainConfig.__dataclass_fields__)


def rates(name, course):
    return [SCHEDULES[name](step, course) for step in range(course.steps * course.epochs)]


def test_step_drops_after_whole_epochs_alone():
    course = ScheduleConfig(7, 20, step_epochs=4, step_factor=0.9)
    wanted = [0.9 ** (epoch // 4) for epoch in range(20) for _ in range(7)]
    assert rates("step", course) == pytest.approx(wanted, rel=1e-12)
    assert rates("constant", course) == [1.0] * 140


def test_cosine_is_half_a_wave_after_its_warm_up():
    plain, warm = (
        rates("cosine", ScheduleConfig(5, 8)),
        rates("cosine", ScheduleConfig(5, 8, warmup=2)),
    )
    assert plain == pytest.approx([(1 + math.cos(math.pi * k / 40)) / 2 for k in range(40)])
    assert warm[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert warm[10:] == pytest.approx([(1 + math.cos(math.pi * k / 30)) / 2 for k in range(30)])


@pytest.mark.parametrize(("warmup", "rise"), [(None, 10), (1, 5), (3, 15)])
def test_one_cycle_peaks_where_its_warm_up_ends(warmup, rise):
    found = rates("onecycle", ScheduleConfig(5, 8, warmup))
    up = [0.04 + 0.96 * (1 - math.cos(math.pi * k / rise)) / 2 for k in range(rise)]
    down = [(1 + math.cos(math.pi * k / (40 - rise))) / 2 for k in range(40 - rise)]
    assert found == pytest.approx(up + down)


@pytest.mark.parametrize("name", ["constant", "step"])
def test_warm_up_ends_with_the_full_rate(name):
    found = rates(name, ScheduleConfig(4, 6, warmup=1.5, step_epochs=10))
    assert found == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1.0] * 19)


def test_the_head_has_its_own_rate_and_every_weight_is_in_one_group():
    model = build_classifier("cam", "thin", 4)
    groups = group_parameters(model, 0.01, 10.0)
    assert [group["lr_scale"] for group in groups] == [1.0, 10.0]
    assert [group["lr"] for group in groups] == [0.01, 0.1]
    inside = [{id(p) for p in group["params"]} for group in groups]
    assert inside[1] == {id(p) for p in model.head.parameters()}
    assert inside[0] | inside[1] == {id(p) for p in model.parameters()}
    assert not inside[0] & inside[1]
    (_, fast) = group_parameters(model, 0.01, 10.0, stages=1)
    last = [*model.backbone.layer4.parameters(), *model.head.parameters()]
    assert {id(p) for p in fast["params"]} == {id(p) for p in last}
    model.backbone = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(RequestError, match="--head-lr-stages: 1 .this backbone has no layer4"):
        group_parameters(model, 0.01, 10.0, stages=1)
    (one,) = group_parameters(torch.nn.Linear(2, 2), 0.01, 10.0)
    assert one["lr_scale"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "imagenet"}, "--preset: 'imagenet' is not known \\(one of none, demo, meth"),
        ({"schedule": "linear"}, "--schedule: 'linear' is not known \\(one of auto, constant"),
        ({"augment": "mixup"}, "--augment: 'mixup'"),
        ({"amp": "fp8"}, "--amp: 'fp8' is not known \\(one of none, bf16, fp16"),
        ({"amp": "fp16", "device": "cpu"}, "--amp: 'fp16' needs CUDA \\(bf16"),
        ({"warmup": 30.0}, "--warmup: 30.0 \\(expected 0 to under 30 epochs"),
        ({"warmup": -1.0}, "--warmup: -1.0"),
        ({"warmup": math.nan}, "--warmup: nan"),
        ({"step_epochs": 0}, "--step-epochs: 0 \\(expected 1 or more"),
        ({"step_factor": 1.5}, "--step-factor: 1.5"),
        ({"head_lr_factor": 0.0}, "--head-lr-factor: 0.0"),
        ({"clip": -1.0}, "--clip: -1.0"),
        ({"ema": 1.0}, "--ema: 1.0 \\(expected 0 to under 1"),
        ({"workers": -1}, "--workers: -1"),
        ({"resize": 200}, "--resize: 200 \\(expected 0, or at least --image-size 224"),
        ({"accumulate": 3}, "--accumulate: 3 \\(expected a divisor of --batch-size 32"),
        ({"accumulate": 0}, "--accumulate: 0"),
        ({"accumulate": 32}, "--batch-size: 32 in 32 parts is 1 photo each"),
        ({"sync_bn": True, "freeze_bn": True}, "--sync-bn: nothing to sync"),
    ],
)
def test_engine_settings_no_run_could_use_are_refused(settings, message):
    with pytest.raises(AuheatError, match=message):
        make_config(**settings)


def test_the_keywords_of_train_are_the_fields_of_its_settings():
    fields = typing.get_type_hints(TrainConfig)
    assert fields.pop("preset") is str  # a parameter of its own
    assert typing.get_type_hints(TrainSettings) == fields


def test_settings_beside_a_config_are_refused(tmp_path):
    with pytest.raises(RequestError, match="train: epochs beside config"):
        train(tmp_path, make_config("demo"), epochs=2)
    with pytest.raises(RequestError, match="train: preset beside config"):
        train(tmp_path, make_config("demo"), preset="demo")
