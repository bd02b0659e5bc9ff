"""Backbones: published names, sizes of the layers, and checkpoints that fit or do not."""

import pytest
import safetensors.torch
import torch

from auheat.errors import AuheatError
from auheat.models.pretrained import find_weights, load_weights
from auheat.models.resnet import BACKBONES, ResNet, build_backbone


def published_names(depths, convs, shortcut_in_first):
    """The parameter and buffer names of torchvision's ResNets, written from their layout."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{k}" for k in norm)]
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            block = f"layer{stage}.{i}"
            for c in range(1, convs + 1):
                names += [f"{block}.conv{c}.weight", *(f"{block}.bn{c}.{k}" for k in norm)]
            if i == 0 and (stage > 1 or shortcut_in_first):
                names += [f"{block}.downsample.0.weight"]
                names += [f"{block}.downsample.1.{k}" for k in norm]
    return names


@pytest.mark.parametrize(
    ("name", "depths", "convs", "parameters"),
    [
        ("resnet18", (2, 2, 2, 2), 2, 11_689_512),
        ("resnet34", (3, 4, 6, 3), 2, 21_797_672),
        ("resnet50", (3, 4, 6, 3), 3, 25_557_032),
        ("resnet101", (3, 4, 23, 3), 3, 44_549_160),
    ],
)
def test_names_and_parameter_count_are_the_published_ones(name, depths, convs, parameters):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert sorted(backbone.state_dict()) == sorted(published_names(depths, convs, convs == 3))
    own = sum(p.numel() for p in backbone.parameters())
    assert own + 1000 * (backbone.channels[-1] + 1) == parameters  # the published ones have fc


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_last_maps_are_an_eighth_of_the_image(name):
    with torch.device("meta"):
        features = build_backbone(name)(torch.zeros(1, 3, 224, 224))
    assert [f.shape[-1] for f in features] == [112, 56, 28, 28, 28]
    wide = 4 if name == "resnet50" else 1
    assert [f.shape[1] for f in features] == [64, *(wide * c for c in (64, 128, 256, 512))]


def test_thin_instance_is_of_the_same_class_and_ends_in_a_quarter():
    thin = build_backbone("thin")
    assert isinstance(thin, ResNet)
    features = thin(torch.rand(2, 3, 32, 32))
    assert [f.shape[-1] for f in features] == [16, 8, 8, 8, 8]
    assert all((f >= 0).all() for f in features)
    assert tuple(f.shape[1] for f in features) == thin.channels


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_loads_and_a_classifier_of_another_size_is_named(tmp_path, suffix):
    torch.manual_seed(0)
    source, target = build_backbone("thin"), build_backbone("thin")
    state = source.state_dict() | {"fc.weight": torch.ones(1000, 128), "fc.bias": torch.ones(1000)}
    file = tmp_path / f"weights{suffix}"
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save(state, file)
    messages = load_weights(target, file, torch.nn.Linear(128, 7))
    assert messages == [f"weights{suffix}: its classifier (fc, 1000 classes) is left out"]
    for key, value in target.state_dict().items():
        assert torch.equal(value, state[key])
    fc = torch.nn.Linear(128, 1000)
    assert load_weights(target, file, fc) == []
    assert torch.equal(fc.bias, torch.ones(1000))


def test_missing_and_unexpected_names_are_reported(tmp_path):
    state = build_backbone("thin").state_dict()
    del state["layer4.0.bn2.weight"], state["bn1.num_batches_tracked"]
    file = tmp_path / "weights.pth"
    torch.save(state | {"extra.weight": torch.ones(1)}, file)
    messages = load_weights(build_backbone("thin"), file)
    assert messages == [
        "weights.pth: 1 parameters missing (layer4.0.bn2.weight)",
        "weights.pth: 1 not used (extra.weight)",
    ]


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_files_that_are_no_checkpoint_are_refused(tmp_path, capsys):
    thin = build_backbone("thin")
    other = tmp_path / "other.pth"
    torch.save({"a": torch.ones(1)}, other)
    shape = tmp_path / "shape.pth"
    torch.save({"conv1.weight": torch.ones(1)}, shape)
    trap = tmp_path / "trap.pth"
    torch.save({"conv1.weight": Trap()}, trap)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    (tmp_path / "weights.h5").write_bytes(b"no")
    for file, message in (
        (other, "no parameter of this backbone"),
        (shape, "conv1.weight is"),
        (trap, "no checkpoint of plain tensors"),
        (broken, "cannot be read"),
        (tmp_path / "absent.pth", "cannot be read"),
        (tmp_path / "weights.h5", "not read here"),
    ):
        with pytest.raises(AuheatError, match=message):
            load_weights(thin, file)
    assert "unpickled" not in capsys.readouterr().out


def test_published_weights_are_found_in_the_cache_and_in_the_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("AUHEAT_WEIGHTS", raising=False)
    assert find_weights("resnet50") == ((), ("resnet50-0676ba61.pth",))
    assert find_weights("thin") == ((), ())
    cached = tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights("resnet50") == ((cached,), ())
    own = tmp_path / "own" / "resnet50-0676ba61.safetensors"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(own.parent))
    assert find_weights("resnet50") == ((own,), ())


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(AuheatError, match="resnet18, resnet34") as raised:
        build_backbone("vgg")
    assert all(name in str(raised.value) for name in BACKBONES)
