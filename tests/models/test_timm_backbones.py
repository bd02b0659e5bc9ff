"""Networks of timm as backbones: on a stand-in with each form of output, and on timm itself."""

import collections
import copy
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_timm import WIDTHS, create_model, install_fake_timm
from training_helpers import make_store

from auheat.errors import AuheatError, MissingExtraError
from auheat.evaluation.evaluator import evaluate
from auheat.explanation.explainer import explain
from auheat.losses import au_alignment_loss, total_loss
from auheat.models.adl import drop_attended
from auheat.models.prm import Walk
from auheat.models.registry import METHODS, build_classifier
from auheat.models.resnet import BasicBlock, Bottleneck
from auheat.models.timm_backbones import build_timm, change_map, describe_timm, note_grid
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
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


def test_strides_are_taken_out_where_a_cell_of_so_many_pixels_is_asked_for(fake_timm):
    for name, side in (("five", 2), ("five@32", 2), ("five@16", 4), ("five@8", 8), ("four@8", 8)):
        network, channels = build_timm(f"timm:{name}", 64)
        top = network(torch.rand(2, 3, 64, 64))[-1]
        assert top.shape == (2, channels[-1], side, side), name
        assert describe_timm(f"timm:{name}", 64).channels == channels


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("five@", r"@ \(expected one of @8, @16, @32"),
        ("five@12", r"@12 \(expected one of @8, @16, @32"),
        ("vit@16", "timm cannot build it .*'output_stride'; .* only some networks: timm:vit has"),
    ],
)
def test_a_cell_that_cannot_be_had_is_refused(name, words, fake_timm):
    with pytest.raises(AuheatError, match=f"--backbone: timm:{name}: {words}"):
        make_config(backbone=f"timm:{name}", image_size=64)


def test_images_are_brought_to_what_timms_weights_were_trained_with(fake_timm):
    image = torch.rand(1, 3, 64, 64)
    seen = []
    model = build_classifier("cam", "timm:five", 3, image_size=64)
    model.backbone["stages_0"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(image)
    build = build_classifier("cam", "timm:five", 3, (0, 0, 0), (1, 1, 1), image_size=64)
    build.backbone["stages_0"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    build(image)
    scale = torch.tensor([0.25, 0.5, 0.5]).view(3, 1, 1)
    assert torch.allclose(seen[0], (image - 0.5) / scale, atol=1e-6)
    assert torch.equal(seen[1], image)


def test_a_network_that_is_given_its_normalisation_is_not_described_once_more(
    fake_timm, monkeypatch
):
    monkeypatch.delattr("auheat.models.registry.describe_timm")
    assert build_classifier("cam", "timm:five", 3, (0, 0, 0), (1, 1, 1), 64).image_std.sum() == 3


class OtherNames(torch.nn.Module):
    """A registered method's network, which calls its parts as it likes."""

    def __init__(self, network):
        super().__init__()
        self.trunk = network

    def forward(self, images, labels=None):
        return self.trunk(images, labels)


def test_a_method_of_ones_own_may_call_its_backbone_otherwise(fake_timm, store, monkeypatch):
    row = METHODS["cam"]
    own = replace(row, build=lambda *given: OtherNames(row.build(*given, 32)))
    monkeypatch.setattr(METHODS, "_rows", {**METHODS._rows, "cam": own})
    asked = {"backbone": "timm:five", "image_size": 32, "epochs": 1, "batch_size": 8}
    assert train(store, make_config("demo", **asked, name="own-names")).resumed == 0


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


def refuse_without_a_word(*_, **__):
    raise AssertionError  # as a bare `assert` of timm's does


def test_what_timm_cannot_give_is_one_error_each(fake_timm, monkeypatch):
    with pytest.raises(AuheatError, match="cannot build it \\(Unknown model"):
        build_classifier("cam", "timm:nothing", 4)
    with pytest.raises(AuheatError, match="cannot build it \\(Unknown model .nothing.\\)$"):
        build_classifier("cam", "timm:nothing@16", 4)
    with pytest.raises(AuheatError, match="cannot build it \\(Unknown model"):
        make_config("demo", backbone="timm:nothing")
    monkeypatch.setattr("fake_timm.FakeStages.forward", lambda self, images: [images] * 4)
    with pytest.raises(AuheatError, match=r"its layer 1 is \(1, 3, 64, 64\) \(expected a map or"):
        build_classifier("cam", "timm:four", 4, image_size=64)
    with monkeypatch.context() as patch:
        patch.setattr("fake_timm.FakeStages.__init__", refuse_without_a_word)
        with pytest.raises(AuheatError, match="cannot build it .AssertionError.$"):
            build_classifier("cam", "timm:cut", 4, image_size=64)
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (
        lambda: build_classifier("cam", "timm:five", 4),
        lambda: make_config("demo", backbone="timm:five"),
    ):
        with pytest.raises(MissingExtraError, match="needs timm: .*\\(pip install timm\\)"):
            call()


def build_real(name, side, method="cam"):
    torch.manual_seed(0)
    return build_classifier(method, f"timm:{name}", 3, image_size=side)


REAL = {
    "resnet18": (64, 5),
    "mobilenetv4_conv_small": (64, 5),
    "tf_efficientnet_lite0": (64, 5),
    "convnext_atto": (64, 4),
    "swin_tiny_patch4_window7_224": (64, 4),
    "vit_tiny_patch16_224": (64, 3),
    "vit_small_patch14_reg4_dinov2": (56, 3),
}
FORMS = {
    **REAL,
    "swinv2_cr_tiny_224": (64, 4),
    "mambaout_femto": (64, 4),
    "vgg11": (64, 6),
    "levit_128s": (64, 3),
    "hiera_tiny_224": (64, 4),
    "cait_xxs24_224": (64, 3),
    "deit_tiny_distilled_patch16_224": (64, 3),
    "vit_small_patch14_dinov2": (112, 3),
    "xcit_nano_12_p16_224": (64, 3),
    "maxvit_rmlp_pico_rw_256": (64, 5),
    "densenet121": (64, 5),
    "mixer_s16_224": (64, 3),
    "pit_ti_224": (64, 3),
}


@pytest.mark.timm
@pytest.mark.parametrize("name", FORMS)
def test_the_layers_of_timms_networks_are_timms_own_with_channels_first(name):
    import timm

    side, count = FORMS[name]
    network, channels = build_timm(f"timm:{name}", side)
    shape = network.timm_shape
    assert len(channels) == count == len(shape.grids)
    plain = timm.create_model(
        name, features_only=True, **({"img_size": side} if shape.fixed else {})
    )
    plain.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        outputs, maps = plain.eval()(images), network.eval()(images)
    for values, features, width, (h, w) in zip(outputs, maps, channels, shape.grids, strict=True):
        assert features.shape == (2, width, h, w)
        last = getattr(plain, "output_fmt", None) == "NHWC"
        for y, x in ((0, w - 1), (h - 1, 0), (h // 2, w // 2)):
            expected = values[:, y, x] if last else values[:, :, y, x]
            assert torch.equal(features[:, :, y, x], expected)


@pytest.mark.timm
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_the_map_of_a_plain_transformer_has_its_tokens_but_class_and_registers(name):
    side, _ = REAL[name]
    model = build_real(name, side).eval()
    vit, images = model.backbone.model, torch.rand(2, 3, side, side)
    with torch.inference_mode():
        tokens, top = vit.forward_features(images), model.backbone(images)[-1]
    extra = {"vit_tiny_patch16_224": 1, "vit_small_patch14_reg4_dinov2": 5}[name]
    assert tokens.shape[1] == extra + 16
    for y, x in ((0, 0), (1, 3), (3, 2)):
        torch.testing.assert_close(top[:, :, y, x], tokens[:, extra + 4 * y + x])


@pytest.mark.timm
def test_a_transformer_made_for_518_px_is_made_for_the_side_that_is_asked_for():
    for side in (112, 224):
        shape = build_timm("timm:vit_small_patch14_dinov2", side)[0].timm_shape
        assert shape.grids == ((side // 14, side // 14),) * 3
    with pytest.raises(
        AuheatError, match=r"--image-size: 100 \(timm:vit_small_patch14_dinov2 takes"
    ):
        make_config("demo", backbone="timm:vit_small_patch14_dinov2", image_size=100)
    for name in ("convnext_atto", "swin_tiny_patch4_window7_224"):
        with pytest.raises(
            AuheatError, match=rf"--image-size: 98 \(timm:{name} takes multiples of 4"
        ):
            make_config("demo", backbone=f"timm:{name}", image_size=98)
    (note,) = note_grid(build_timm("timm:convnext_atto", 112)[0])
    assert "leaves out the last 16 px (--image-size 96 or 128 is seen whole)" in note
    with pytest.raises(
        AuheatError, match=r"--image-size: 72 \(timm:maxvit_rmlp_pico_rw_256 cannot be"
    ):
        build_classifier("cam", "timm:maxvit_rmlp_pico_rw_256", 3, image_size=72)


@pytest.mark.timm
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("method", [*ANY, "prm"])
def test_every_method_learns_with_all_parameters_of_timms_networks(method, name):
    side, count = REAL[name]
    if method == "prm" and name != "resnet18":
        with pytest.raises(AuheatError, match=f"timm:{name} does not end in one"):
            build_real(name, side, method)
        return
    model, images, labels = build_real(name, side, method), torch.rand(3, 3, side, side), [0, 1, 2]
    output = model.train()(images, torch.tensor(labels))
    assert len(output.features) == count
    loss = total_loss(
        output, torch.tensor(labels), torch.rand(3, 28, 28), torch.ones(3).bool(), 4.0, (-1,)
    )
    loss.total.backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    with torch.inference_mode():
        output = model.eval()(images)
    assert output.maps.shape == (3, 3, *output.features[-1].shape[2:])
    assert torch.isfinite(output.maps).all()


@pytest.mark.timm
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_walk_through_timms_block_is_the_walk_through_ours(kind):
    from timm.models import resnet as theirs

    torch.manual_seed(3)
    own = (BasicBlock(8, 8, 1) if kind == "basic" else Bottleneck(8, 2, 1)).eval()
    made = theirs.BasicBlock(8, 8) if kind == "basic" else theirs.Bottleneck(8, 2)
    made.eval().load_state_dict(own.state_dict())
    inputs, share = torch.rand(2, 8, 5, 5), torch.rand(2, 8, 5, 5)
    with torch.no_grad():
        expected, got = Walk(own, inputs).go_back(share), Walk(made, inputs).go_back(share)
    assert torch.equal(got, expected)


@pytest.mark.timm
@pytest.mark.parametrize("name", REAL)
def test_the_au_loss_moves_the_attention_of_timms_networks(name):
    """Eight photos, each with a bright corner that the heatmap marks."""
    side, _ = REAL[name]
    corners = [(y, x) for y in (0, side // 2) for x in (0, side // 2)] * 2
    images, heatmaps = 0.3 * torch.rand(8, 3, side, side), torch.zeros(8, 8, 8)
    for i, (y, x) in enumerate(corners):
        images[i, :, y : y + side // 2, x : x + side // 2] += 0.6
        heatmaps[i, y * 8 // side : y * 8 // side + 4, x * 8 // side : x * 8 // side + 4] = 1
    labels, valid, apart = torch.arange(8) % 3, torch.ones(8).bool(), []
    for weight in (0.0, 4.0):
        model = build_real(name, side)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(8):
            optimizer.zero_grad()
            output = model.train()(images)
            total_loss(output, labels, heatmaps, valid, weight, (-1,)).total.backward()
            optimizer.step()
        top = model(images).features[-1].detach()
        apart.append(au_alignment_loss(top, heatmaps, valid).item())
    assert apart[1] < 0.8 * apart[0], apart


@pytest.fixture(scope="module")
def photo_store(outside_data, tmp_path_factory):
    """A store of a few real photos: three expressions, eight to learn from and two to test each."""
    root, source = tmp_path_factory.mktemp("fer"), outside_data / "fer_dev"
    lines, counts = [], collections.Counter()
    (root / "set" / "EmoLabel").mkdir(parents=True)
    (root / "set" / "Image" / "aligned").mkdir(parents=True)
    for line in (source / "EmoLabel" / "list_patition_label.txt").read_text().splitlines():
        name, key = line.split()
        split = name.partition("_")[0]
        if key in "146" and counts[split, key] < {"train": 8, "test": 2}[split]:
            counts[split, key] += 1
            lines.append(line + "\n")
            photo = f"Image/aligned/{Path(name).stem}_aligned.jpg"
            shutil.copy(source / photo, root / "set" / photo)
    (root / "set" / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    extract(root / "set", root / "store")
    render(root / "store", codebook="martinez")
    return root / "store"


@pytest.mark.timm
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_timms_networks_are_trained_evaluated_explained_and_reported(name, photo_store):
    asked = {"backbone": f"timm:{name}", "image_size": REAL[name][0], "batch_size": 8, "epochs": 1}
    summary = train(photo_store, make_config("demo", **asked, layers=(-1, -2)))
    result = evaluate(summary.run.name, photo_store)
    assert result.n == 6
    assert 0 <= result.att_cos <= 1
    photo = photo_store.parent / "set" / "Image" / "aligned" / "test_00001_aligned.jpg"
    found = explain(summary.run.name, photo, store=photo_store)
    assert found.attention.shape == (REAL[name][0],) * 2
    assert f"timm:{name}" in report([summary.run.name], photo_store).read_text()
    assert train(photo_store, make_config("demo", **asked, layers=(-1, -2))).resumed == 1


@pytest.mark.timm
@pytest.mark.parametrize(
    ("name", "side", "key", "words"),
    [
        ("vit_tiny_patch16_224", 64, "pos_embed", "position embeddings of 14 x 14 made 4 x 4"),
        ("vit_small_patch14_dinov2", 112, "pos_embed", "of 37 x 37 made 8 x 8"),
        (
            "swin_tiny_patch4_window7_224",
            64,
            "layers.3.blocks.0.attn.relative_position_bias_table",
            "8 tables of relative positions made for 64 px",
        ),
    ],
)
def test_weights_for_another_side_are_resized_as_timm_does_it(name, side, key, words, tmp_path):
    import timm

    torch.manual_seed(1)
    published = timm.create_model(name)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    model = build_real(name, side)
    messages = METHODS["cam"].load(model, tmp_path / "weights.pth")
    assert any(words in message for message in messages), messages
    with warnings.catch_warnings():  # of timm's own, which indexes with lists
        warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers")
        published.set_input_size((side, side))
    state = model.backbone.state_dict()
    own = next(value for k, value in state.items() if k.endswith(key.replace("layers.", "layers_")))
    torch.testing.assert_close(own, published.state_dict()[key])
