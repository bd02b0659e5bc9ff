"""Networks of timm as backbones: on a stand-in with each form of output, and on timm itself."""

import copy
import re
import sys

import pytest
import torch
from fake_timm import WIDTHS, create_model, install_fake_timm
from training_helpers import make_store

from auheat.errors import AuheatError, MissingExtraError
from auheat.evaluation.evaluator import evaluate
from auheat.models.adl import drop_attended
from auheat.models.registry import METHODS, build_classifier
from auheat.models.timm_backbones import build_timm, change_map, describe_timm, note_grid
from auheat.reporting.page import report
from auheat.training.config import make_config
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = {"five": 64, "four": 64, "last": 64, "square": 32, "vit": 64, "vit_reg": 64, "old_vit": 64}
CHANNELS = {
    "five": WIDTHS,
    "four": WIDTHS[1:],
    "last": WIDTHS[1:],
    "square": (16, 16, 8),
    "vit": (8, 8, 8),
    "vit_reg": (8, 8, 8),
    "old_vit": (8,),
}
ANY = [name for name, row in METHODS.items() if row.takes("timm:x") and name != "prm"]


@pytest.fixture
def fake_timm(monkeypatch):
    install_fake_timm(monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("timm"))


def read_place(name, values, y, x, width):
    """What a network's own output (of the stand-in) has at a place: (B, C)."""
    if name in ("last", "square"):
        return values[:, y, x]
    if name == "old_vit":
        return values[:, 1 + y * width + x]  # behind the class token, row by row
    return values[:, :, y, x]


@pytest.mark.parametrize("name", CHANNELS)
def test_every_form_of_output_becomes_maps_with_the_values_where_they_were(name, fake_timm):
    side = SIDES[name]
    network, channels = build_timm(f"timm:{name}", side)
    assert channels == CHANNELS[name] == describe_timm(f"timm:{name}", side).channels
    images, size = torch.rand(2, 3, side, side), {"img_size": side} if "vit" in name else {}
    plain = create_model(name, features_only=name != "old_vit", **size)
    plain.load_state_dict((network.network if name == "old_vit" else network).state_dict())
    outputs = [plain.forward_features(images)] if name == "old_vit" else plain(images)
    for features, values, width in zip(network(images), outputs, channels, strict=True):
        assert features.shape[:2] == (2, width)
        h, w = features.shape[2:]
        for y, x in ((0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1)):
            expected = read_place(name, values, y, x, w)
            torch.testing.assert_close(features[:, :, y, x], expected)


@pytest.mark.parametrize("name", ["five", "four", "last", "vit_reg", "old_vit"])
@pytest.mark.parametrize("method", ANY)
def test_a_network_of_timm_serves_any_method_that_needs_no_look_inside(method, name, fake_timm):
    model = build_classifier(method, f"timm:{name}", 4, image_size=64)
    images = torch.rand(2, 3, 64, 64)
    assert model(images, torch.tensor([0, 1])).logits.shape == (2, 4)
    with torch.inference_mode():
        output = model.eval()(images)
    assert output.maps.shape == (2, 4, *output.features[-1].shape[2:])
    assert tuple(f.shape[1] for f in output.features) == CHANNELS[name]
    assert torch.isfinite(output.maps).all()


def test_a_copy_of_a_network_is_on_its_own(fake_timm):
    model = build_classifier("adl", "timm:last", 4, image_size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    before = model(images).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert torch.equal(model(images).logits, before)
    assert not torch.equal(twin(images).logits, before)


@pytest.mark.parametrize("name", ["four", "last", "vit_reg"])
def test_adl_drops_between_the_last_layers_and_shows_them_as_they_are(name, fake_timm, monkeypatch):
    monkeypatch.setattr("auheat.models.adl.draw_drop", lambda: torch.tensor(True))
    model = build_classifier("adl", f"timm:{name}", 4, image_size=64)
    images = torch.rand(2, 3, 64, 64)
    plain = model.eval()(images).features
    dropped = model.train()(images).features
    below = len(plain) - 3
    for number, (one, other) in enumerate(zip(plain, dropped, strict=True)):
        assert torch.equal(one, other) == (number <= below), number
    if name == "four":  # what the third stage sees, from its definition
        seen = drop_attended(plain[1], torch.tensor(True))
        expected = torch.tanh(model.backbone["stages_2"].forward(seen))
        torch.testing.assert_close(dropped[2], expected)
    if name == "vit_reg":
        vit, tokens = model.backbone.model, []
        hook = vit.blocks[0].register_forward_hook(lambda m, i, o: tokens.append(o))
        model.train()(images)
        hook.remove()
        (first,) = tokens
        own = drop_attended(first[:, 5:].mT[..., None], torch.tensor(True))[..., 0].mT
        expected = vit.blocks[1].forward(torch.cat([first[:, :5], own], 1))[:, 5:]
        torch.testing.assert_close(dropped[1], expected.mT.reshape(dropped[1].shape))


def test_values_are_changed_as_a_map_in_whatever_layout(fake_timm):
    values = torch.randn(2, 8, 4, 4)

    def turn(features):
        return features * torch.arange(8).view(-1, 1, 1)

    expected = turn(values)
    tokens = torch.cat([torch.full((2, 5, 8), 7.0), values.flatten(2).mT], 1)
    shape = build_timm("timm:vit_reg", 64)[0].timm_shape
    changed = change_map(shape, 0, turn, tokens)
    assert torch.equal(changed[:, :5], tokens[:, :5])
    assert torch.equal(changed[:, 5:], expected.flatten(2).mT)
    assert torch.equal(change_map(shape, 0, turn, values), expected)
    last = change_map(shape, 0, turn, values.permute(0, 2, 3, 1))
    assert torch.equal(last, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "count"), [("five", 5), ("four", 4), ("vit", 3), ("old_vit", 1)])
def test_layers_count_from_the_top_and_where_there_are_five_as_the_paper_does(
    name, count, fake_timm
):
    def place(**asked):
        config = make_config("demo", backbone=f"timm:{name}", image_size=64, **asked)
        return config.layers

    top = 5 if count == 5 else -1
    assert place() == place(layers=(-1,)) == (top,)
    assert make_config("rafdb", backbone=f"timm:{name}", image_size=64).layers == (top,)
    assert place(layers=(-count,)) == ((1,) if count == 5 else (-count,))
    for layers in ((-count - 1,), (0,), (6,), *([] if count == 5 else [(5,), (1,)])):
        with pytest.raises(
            AuheatError, match=rf"--layers: {layers[0]} \(expected some of .*-1 to "
        ):
            place(layers=layers)
    if count == 5:
        assert place(layers=(-1, 4)) == (5, 4)
        with pytest.raises(AuheatError, match="--layers: 5 is given twice"):
            place(layers=(5, -1))


def test_a_side_that_the_patches_would_cut_is_refused(fake_timm):
    for name, side, step in (("vit", 100, 16), ("old_vit", 72, 16), ("cut", 30, 4)):
        words = rf"--image-size: {side} \(timm:{name} takes multiples of {step}\)"
        with pytest.raises(AuheatError, match=words):
            make_config("demo", backbone=f"timm:{name}", image_size=side)
        with pytest.raises(AuheatError, match=words):
            build_classifier("cam", f"timm:{name}", 3, image_size=side)
    assert make_config("demo", backbone="timm:four", image_size=37).image_size == 37


def test_images_of_another_side_than_a_network_was_made_for_are_refused(fake_timm):
    model = build_classifier("cam", "timm:vit", 3, image_size=64)
    with pytest.raises(AuheatError, match=r"96 x 96 \(timm:vit was built for 64 x 64: build_clas"):
        model(torch.rand(1, 3, 96, 96))
    assert build_classifier("cam", "timm:vit", 3).backbone.timm_shape.side == 224
    assert build_classifier("cam", "timm:four", 3)(torch.rand(1, 3, 96, 96)).maps.shape[2:] == (
        6,
        6,
    )


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("four", 16, "top map is 1 x 1: one cell"),
        ("cut", 88, r"top map is 5 x 5, of cells of 16 px: .* last 8 px \(--image-size 80 or 96"),
        ("cut", 96, None),
        ("four", 88, None),  # its convolutions are padded, and see all
    ],
)
def test_maps_that_say_little_or_leave_pixels_out_are_noted(name, side, words, fake_timm):
    notes = note_grid(build_timm(f"timm:{name}", side)[0])
    assert len(notes) == (words is not None)
    if words:
        assert re.match(f"warning: timm:{name} at {side} px: its {words}", notes[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["four", "last", "vit_reg"])
def test_a_run_with_a_network_of_timm_needs_no_special_word(name, fake_timm, store):
    asked = {"backbone": f"timm:{name}", "image_size": 32, "epochs": 1, "batch_size": 8}
    run = train(store, make_config("demo", **asked)).run
    assert run.name == f"cam-timm-{name}-au4-seed0"
    result = evaluate(run.name, store)
    assert result.n == 12
    count = len(CHANNELS[name])
    assert [kind for kind in result.maps if kind.startswith("layer")] == [
        f"layer {n}" for n in range(-count, 0)
    ]
    assert train(store, make_config("demo", **asked, layers=(-1,))).resumed == 1
    assert "layer -1" in report([run.name], store).read_text()
    assert METHODS["cam"].find(f"timm:{name}") == ((), ())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"backbone": "timm:five", "head_lr_factor": 10.0, "head_lr_stages": 1}, "no layer4"),
        ({"backbone": "timm:four", "method": "prm"}, "timm:four does not end in one"),
    ],
)
def test_what_a_network_cannot_do_is_refused_before_there_is_a_run(fake_timm, store, asked, words):
    config = make_config(**{"preset": "demo", "image_size": 32, "name": "refused", **asked})
    with pytest.raises(AuheatError, match=words):
        train(store, config)
    assert not (store / "runs" / "refused").exists()


def test_what_timm_cannot_give_is_one_error_each(fake_timm, monkeypatch):
    with pytest.raises(AuheatError, match="cannot build it \\(Unknown model"):
        build_classifier("cam", "timm:nothing", 4)
    with pytest.raises(AuheatError, match="cannot build it \\(Unknown model"):
        make_config("demo", backbone="timm:nothing")
    monkeypatch.setattr("fake_timm.FakeStages.forward", lambda self, images: [images] * 4)
    with pytest.raises(AuheatError, match=r"its layer 1 is \(1, 3, 64, 64\) \(expected a map or"):
        build_classifier("cam", "timm:four", 4, image_size=64)
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (
        lambda: build_classifier("cam", "timm:five", 4),
        lambda: make_config("demo", backbone="timm:five"),
    ):
        with pytest.raises(MissingExtraError, match="needs timm: .*\\(pip install timm\\)"):
            call()
