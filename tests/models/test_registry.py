"""Methods: every row builds a model that learns with all its parameters, runs, and is evaluated."""

import json

import pytest
import torch
from training_helpers import make_store

from auheat.cli import main
from auheat.data.cutmix import Batch
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.evaluation.model_maps import predict_maps
from auheat.losses import au_alignment_loss, total_loss
from auheat.models import prm
from auheat.models.apvit import APVITS
from auheat.models.registry import METHODS, build_classifier
from auheat.models.vit import VITS
from auheat.reporting.page import report
from auheat.training.config import TrainConfig, make_config
from auheat.training.presets import PRESETS
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")

RESNET_ROWS = [name for name, row in METHODS.items() if row.takes("resnet50")]


def build_narrow(method, classes=3):
    torch.manual_seed(0)
    return build_classifier(method, METHODS[method].narrow, classes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("au_weight", [0.0, 4.0])
def test_gradients_reach_every_parameter(method, au_weight):
    model = build_narrow(method, 7)
    labels = torch.arange(7)
    output = model(torch.rand(7, 3, 32, 32), labels)
    total_loss(
        output, labels, torch.rand(7, 8, 8), torch.ones(7).bool(), au_weight
    ).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("method", RESNET_ROWS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_full_size_models_have_28_px_maps_at_224_px(method, backbone):
    with torch.device("meta"):
        output = build_classifier(method, backbone, 7)(torch.zeros(2, 3, 224, 224))
    assert output.logits.shape == (2, 7)
    assert output.maps.shape == (2, 7, 28, 28)
    assert len(output.features) == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", RESNET_ROWS)
def test_a_resnet50_takes_a_step_and_is_evaluated(method):
    side = 224 if method == "cam" else 80
    model = build_classifier(method, "resnet50", 7)
    images, labels = torch.rand(2, 3, side, side), torch.tensor([1, 4])
    heatmaps, valid = torch.rand(2, 56, 56), torch.ones(2).bool()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    loss = total_loss(model(images, labels), labels, heatmaps, valid, 4.0).total
    loss.backward()
    optimizer.step()
    with torch.inference_mode():
        seen = predict_maps(model.eval(), images)
    assert torch.isfinite(loss)
    assert torch.isfinite(seen.cams).all()
    assert seen.cams.shape == (2, 7, side // 8, side // 8)
    assert [a.shape[-1] for a in seen.attention] == [side // n for n in (2, 4, 8, 8, 8)]


def make_toy():
    """Twelve photos of three classes, each with a bright spot at a place of its own."""
    places = torch.tensor([[6, 6], [6, 20], [20, 13]])
    labels = torch.arange(12) % 3
    chance = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(12, 3, 32, 32, generator=chance)
    heatmaps = torch.zeros(12, 16, 16)
    for i, label in enumerate(labels.tolist()):
        y, x = places[label].tolist()
        images[i, :, y : y + 6, x : x + 6] += 0.6
        heatmaps[i, y // 2 : y // 2 + 3, x // 2 : x // 2 + 3] = 1
    return Batch(images, heatmaps, labels, torch.ones(12).bool())


def learn(method, au_weight, steps=16):
    """Train a narrow model on the toy set; return its losses and how far attention is off."""
    toy, model, chance = make_toy(), build_narrow(method), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    mix, losses = METHODS[method].mix, []
    for _ in range(steps):
        batch = toy if mix is None else mix(toy, 3, chance)
        output = model.train()(batch.images, toy.labels)
        loss = total_loss(output, batch.labels, batch.heatmaps, batch.valid, au_weight)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    with torch.inference_mode():
        top = model.eval()(toy.images).features[-1]
    return losses, au_alignment_loss(top, toy.heatmaps, toy.valid).item()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps_lower_the_loss_and_the_au_loss_moves_attention_to_the_heatmap(method):
    plain, apart = learn(method, 0.0)
    aligned, moved = learn(method, 4.0)
    for losses in (plain, aligned):
        assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    assert moved < 0.8 * apart


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("methods"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_row_trains_is_evaluated_and_reported_by_name_alone(method, store):
    config = make_config("demo", method=method, image_size=32, epochs=1, batch_size=8)
    summary = train(store, config)
    assert summary.run.name == f"{method.replace('+', 'p')}-{METHODS[method].narrow}-au4-seed0"
    result = evaluate(summary.run.name, store)
    if METHODS[method].class_maps:
        assert 0 <= result.cam_cos <= 1
    else:
        assert result.cam_cos is None
    assert result.n == 12
    page = report([summary.run.name], store).read_text()
    assert f"method {method}," in page
    assert train(store, config).resumed == 1


@pytest.mark.slow
def test_a_seed_decides_what_a_mixed_run_mixes(store):
    mixing = {"method": "cutmix", "image_size": 32, "batch_size": 8, "epochs": 2}
    runs = [train(store, make_config("demo", name=name, **mixing)).run for name in ("one", "two")]
    lines = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in runs]
    assert lines[0]["train_loss"] == lines[1]["train_loss"]
    assert 0 <= lines[0]["train_accuracy"] <= 1


def test_prm_shows_the_class_responses_in_training_and_the_traced_peaks_in_evaluation():
    model = build_narrow("prm").double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.double)
    trained = model.train()(images)
    torch.testing.assert_close(trained.maps, model.head.respond(trained.features[-1]))
    output = model.eval()(images)
    with torch.no_grad():
        walk = prm.Walk(model.backbone.layer4[0], output.features[3])
        responses = model.head.respond(output.features[4])
        weight = model.head.respond.weight
        expected = prm.peak_response_maps(responses, output.features[4], weight, [walk])
    torch.testing.assert_close(output.maps, expected)
    torch.testing.assert_close(output.logits, prm.stimulate(responses))
    assert not model.backbone.layer4[0]._forward_pre_hooks


def test_images_are_normalised_inside_and_the_constants_are_not_weights():
    model = build_classifier("cam", "thin", 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).eval()
    plain = build_classifier("cam", "thin", 3, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images).logits, plain(2 * images - 1).logits)
    assert not {"mean", "std", "image_mean", "image_std"} & set(model.state_dict())
    assert all(name.startswith(("backbone.", "head.")) for name in model.state_dict())


def test_unknown_names_name_the_known_ones():
    with pytest.raises(AuheatError, match="not known \\(one of cam"):
        build_classifier("magic", "thin", 3)
    why = "'timm:x' is none of ts-cam's, which couples .* own transformers \\(one of deit-small"
    with pytest.raises(AuheatError, match=why):
        build_classifier("ts-cam", "timm:x", 3)
    with pytest.raises(AuheatError, match="none of apvit's, which drops tokens inside of its own"):
        build_classifier("apvit", "timm:x", 3)


def test_the_command_lines_help_names_every_method():
    (option,) = [p for p in main.commands["train"].params if p.name == "method"]
    assert tuple(option.type.choices) == tuple(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_backbone_and_image_size_are_the_methods_own_where_none_is_asked_for(method):
    row = METHODS[method]
    config = make_config(method=method)
    assert (config.backbone, config.image_size) == (row.standard, row.image_size)
    assert make_config("demo", method=method).backbone == row.narrow
    assert row.takes(row.narrow)
    assert row.takes(row.standard)


@pytest.mark.parametrize(
    ("method", "backbone", "side", "step"),
    [
        ("ts-cam", "thin-vit", 100, 8),
        ("ts-cam", "deit-small", 100, 16),
        ("ts-cam", "thin-vit", 20, 8),
    ],
)
def test_a_side_that_is_no_multiple_of_the_patch_is_refused(method, backbone, side, step):
    with pytest.raises(
        AuheatError, match=f"--image-size: {side} \\({backbone} takes multiples of {step}\\)"
    ):
        make_config(method=method, backbone=backbone, image_size=side)
    taken = side // step * step + step
    assert make_config(method=method, backbone=backbone, image_size=taken).image_size == taken


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ts-cam"])
def test_the_other_methods_take_any_side(method):
    config = make_config("demo", method=method, image_size=37)
    model = build_classifier(method, config.backbone, 3).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 37, 37)).logits.shape == (1, 3)


@pytest.mark.parametrize("preset", ["demo", "methods"])
def test_the_presets_sides_suit_every_method(preset):
    for method, row in METHODS.items():
        assert make_config(preset, method=method).image_size % row.side_step(row.narrow) == 0


@pytest.mark.parametrize("method", METHODS)
def test_logit_maps_make_the_logits_but_for_a_constant_of_the_class(method):
    torch.manual_seed(6)
    side = 2 * METHODS[method].side_step(METHODS[method].narrow)
    with torch.no_grad():
        output = build_narrow(method).eval()(torch.rand(3, 3, max(side, 64), max(side, 64)))
    assert (output.logit_maps is not None) == (method in ("cam", "acol", "adl", "cutmix"))
    if output.logit_maps is not None:
        constant = output.logits - output.logit_maps.mean((2, 3))
        assert (constant - constant[:1]).abs().max() < 1e-5
        assert output.logit_maps.shape == output.maps.shape


def test_a_method_has_no_class_maps_where_they_are_the_same_for_every_class():
    for method, row in METHODS.items():
        model = build_narrow(method).eval()
        with torch.inference_mode():
            maps = model(torch.rand(2, 3, 32, 32)).maps
        same = torch.equal(maps, maps[:, :1].expand_as(maps))
        assert same == (not row.class_maps), method


def test_a_network_of_two_parts_finds_the_weights_of_both(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(tmp_path))
    stem, vit = (tmp_path / names[0] for names in APVITS["apvit"].weights)
    find = METHODS["apvit"].find
    assert find("apvit") == ((), (stem.name, vit.name))
    vit.touch()
    assert find("apvit") == ((vit,), (stem.name,))
    stem.with_suffix(".safetensors").touch()
    assert find("apvit") == ((stem.with_suffix(".safetensors"), vit), ())
    assert find("thin-apvit") == METHODS["ts-cam"].find("thin-vit") == ((), ())
    assert METHODS["ts-cam"].find("deit-small").missing == VITS["deit-small"].weights


def test_the_help_of_train_names_the_files_of_published_weights():
    told = main.commands["train"].help
    parts = [part for shape in APVITS.values() for part in shape.weights]
    for names in (*parts, *(shape.weights for shape in VITS.values())):
        assert all(name in told for name in names)


@pytest.mark.parametrize("method", METHODS)
def test_a_narrow_networks_own_settings_replace_a_presets_and_what_is_asked_for_both(method):
    row = METHODS[method]
    asked = {"method": method, "backbone": row.narrow}
    for preset in ("demo", "methods"):
        config = make_config(preset, method=method)
        expected = {**PRESETS[preset], **row.narrow_settings}
        assert {key: getattr(config, key) for key in expected} == expected | {
            "backbone": row.narrow
        }
        assert make_config(preset, **asked, lr=0.25).lr == 0.25
    assert make_config(**asked).lr == TrainConfig().lr


def test_published_classifiers_load_into_heads_that_have_the_like(tmp_path):
    model = build_narrow("gradcam")
    file = tmp_path / "own.pth"
    torch.save(
        {f"fc.{k}": v + 1 for k, v in model.head.fc.state_dict().items()}
        | model.backbone.state_dict(),
        file,
    )
    assert METHODS["gradcam"].load(build_narrow("cam"), file) == []
    assert METHODS["prm"].load(build_narrow("prm"), file) == [
        "own.pth: its classifier (fc, 3 classes) is left out"
    ]


def test_presets_of_published_weights_are_refused_before_there_is_a_run(
    store, monkeypatch, tmp_path
):
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = make_config("rafdb", image_size=32, name="refused", backbone="resnet18")
    with pytest.raises(AuheatError, match="begins from published weights"):
        train(store, config)
    assert not (store / "runs" / "refused").exists()
