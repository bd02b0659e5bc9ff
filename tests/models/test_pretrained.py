"""Checkpoints as training loops write them: wrapped names, several sets of weights, NaN, options.

The kind: torchvision's bare names, DDP's `module.`, torch.compile's `_orig_mod.`,
Lightning's `model.`, nn.Sequential's `0.`, timm's `state_dict_ema`, DINO's teacher and student,
MoCo's encoders.
"""

import argparse
import os
import stat

import numpy as np
import pytest
import safetensors.torch
import torch
from training_helpers import save_tensors

from auheat.errors import AuheatError
from auheat.models.pretrained import load_weights
from auheat.models.registry import METHODS, build_classifier
from auheat.models.resnet import build_backbone
from auheat.runs.checkpoint import load_tensors


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    head = {"fc.weight": torch.rand(7, 128), "fc.bias": torch.rand(7)}
    return build_backbone("thin").state_dict() | head


def check_loaded(file, state):
    """Load a file into another network and a classifier, compare all, return the messages."""
    torch.manual_seed(2)
    backbone, fc = build_backbone("thin"), torch.nn.Linear(128, 7)
    messages = load_weights(backbone, file, fc)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    return messages, torch.equal(fc.weight, state["fc.weight"])


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "backbone.", "model.", "encoder.", "net.", "_orig_mod.", "0.", "resnet50."),
        *("module.backbone.", "_orig_mod.module.", "model._orig_mod.net.", "student.backbone."),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_are_read_without_what_training_loops_put_before_them(
    tmp_path, state, prefix, suffix
):
    file = tmp_path / f"weights{suffix}"
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save({prefix + key: value for key, value in state.items()}, file)
    assert check_loaded(file, state) == (
        [f"weights{suffix}: names are read without {prefix!r}"],
        True,
    )


@pytest.mark.parametrize(
    "keys",
    [
        *(("state_dict",), ("model",), ("model_state",), ("model_state_dict",), ("net",)),
        *(("ema_state_dict",), ("params",), ("model", "state_dict"), ("checkpoint", "model")),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar"])
def test_weights_are_found_wherever_in_the_file_they_lie(tmp_path, state, keys, suffix):
    content = dict(state)
    for key in reversed(keys):
        content = {key: content}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content |= {"epoch": 3, "optimizer": optimizer, "best": torch.tensor(0.5)}
    file = tmp_path / f"weights{suffix}"
    torch.save(content, file)
    assert check_loaded(file, state) == ([], True)


def test_of_several_sets_the_mean_weights_are_taken_and_the_others_named(tmp_path, state):
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    file = tmp_path / "both.pth"
    torch.save({"state_dict": other, "state_dict_ema": state}, file)
    assert check_loaded(file, state)[0] == [
        "both.pth: the weights of 'state_dict_ema/' are taken, and not those of 'state_dict/'"
    ]
    dino = {"student." + k: v for k, v in other.items()}
    torch.save({**dino, **{"teacher." + k: v for k, v in state.items()}}, file)
    messages, _ = check_loaded(file, state)
    assert messages[0] == (
        "both.pth: the weights of 'teacher.' are taken, and not those of 'student.'"
    )


def test_a_bare_state_with_a_counter_among_the_tensors_loads(tmp_path, state):
    torch.save(state | {"epoch": 7, "classes": ["a"]}, tmp_path / "flat.pth")
    assert check_loaded(tmp_path / "flat.pth", state) == ([], True)


def test_options_and_numpy_numbers_beside_the_weights_are_plain_values(tmp_path, state):
    about = {"args": argparse.Namespace(lr=0.1), "acc": np.float64(0.9), "n": np.int64(3)}
    torch.save({"state_dict": state, **about}, tmp_path / "loop.pth")
    assert check_loaded(tmp_path / "loop.pth", state) == ([], True)


def test_a_whole_pickled_network_is_refused_and_named(tmp_path):
    torch.save(build_backbone("thin"), tmp_path / "whole.pth")
    with pytest.raises(AuheatError, match=r"it holds auheat\.models\.resnet\.ResNet: save the st"):
        load_weights(build_backbone("thin"), tmp_path / "whole.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "bn1.running_var", "fc.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, state, key, value):
    bad = state | {key: state[key].clone()}
    bad[key].view(-1)[1] = value
    torch.save({"module." + k: v for k, v in bad.items()}, tmp_path / "bad.pth")
    with pytest.raises(AuheatError, match=rf"bad\.pth: {key} has NaN or infinity"):
        load_weights(build_backbone("thin"), tmp_path / "bad.pth", torch.nn.Linear(128, 7))


def test_numbers_of_another_part_may_be_infinite(tmp_path, state):
    torch.save(state | {"decoder.mask": torch.tensor([-torch.inf])}, tmp_path / "mask.pth")
    assert check_loaded(tmp_path / "mask.pth", state)[1]


def test_a_single_block_that_has_our_names_is_not_taken_for_a_network(tmp_path, state):
    torch.save({f"stages.3.{k}": v for k, v in list(state.items())[:6]}, tmp_path / "part.pth")
    with pytest.raises(AuheatError, match="no parameter of this backbone"):
        load_weights(build_backbone("thin"), tmp_path / "part.pth")


def test_a_runs_own_weights_are_weights_too(tmp_path):
    torch.manual_seed(3)
    source, target = (build_classifier("cam", "thin", 7) for _ in range(2))
    save_tensors(tmp_path / "best.safetensors", source.state_dict())
    messages = METHODS["cam"].load(target, tmp_path / "best.safetensors")
    assert messages[0] == "best.safetensors: names are read without 'backbone.'"
    own = source.backbone.state_dict()
    for key, value in target.backbone.state_dict().items():
        assert torch.equal(value, own[key])


@pytest.mark.parametrize("method", ["ts-cam", "apvit"])
def test_transformers_take_the_same_wrappers(tmp_path, method):
    row = METHODS[method]
    torch.manual_seed(4)
    source, target = (row.build(row.narrow, 7) for _ in range(2))
    named = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "vit.pth")
    assert row.load(target, tmp_path / "vit.pth") == ["vit.pth: names are read without 'module.'"]
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_weights_have_the_mode_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, epoch=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask
    assert load_tensors(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",  # the restricted reader meets the end of a pickle within an instruction
        b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01h\x00s.",  # a dict that holds itself
        b"\x80\x02]q\x00(K\x01K\x02u.",
        b"\x80\x02K\x01K\x02\x86R.",
    ],
)
def test_a_pickle_of_any_bytes_is_refused_in_one_line(tmp_path, data):
    file = tmp_path / "a.pth"
    file.write_bytes(data)
    with pytest.raises(AuheatError, match=r"a\.pth: no checkpoint of plain tensors"):
        load_weights(build_backbone("thin"), file)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_pipe_is_no_checkpoint(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(AuheatError, match="cannot be read"):
        load_weights(build_backbone("thin"), tmp_path / name)
