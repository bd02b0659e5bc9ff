"""What is written loads elsewhere with the same numbers, and replaces nothing of the user's."""

import io
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import safetensors
import torch
import yaml
from click.testing import CliRunner
from run_helpers import NAMES, make_run

import auheat
from auheat.cli import main
from auheat.deployment import graphs
from auheat.deployment.exporter import ENDINGS, export_model
from auheat.deployment.metadata import MARK
from auheat.models.names import METHOD_NAMES
from auheat.models.registry import METHODS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.torch.jit"),  # deprecated, for those who load it
]

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))),
    reason="needs onnx, onnxruntime and onnxscript (the extra auheat[onnx])",
)


def expected_outputs(run, count=5, landmarks=False):
    """Images that no graph was made with, and what the run's own network says of them."""
    model = auheat.load_model(run, device="cpu")
    draw = torch.Generator().manual_seed(7)
    inputs = [torch.rand((count, 3, 64, 64), generator=draw)]
    if landmarks:
        face = torch.from_numpy(20 * auheat.load_codebook("martinez").frame.mean + 30).float()
        inputs.append(face + torch.randn((count, 68, 2), generator=draw))
        inputs[1][0] = torch.nan
    with torch.no_grad():
        maps = model.maps(*inputs)
    return inputs, {"logits": maps.logits, "attention": maps.attention[-1], "class_maps": maps.cams}


def run_graph(file, inputs):
    """The outputs of an exported file by name, by onnxruntime or torch.jit alone."""
    if file.suffix == ".pt":
        with torch.no_grad():
            found = torch.jit.load(io.BytesIO(file.read_bytes()))(*inputs)
        return dict(zip(graphs.OUTPUTS, found, strict=False))
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    assert names == ["images", "landmarks"][: len(names)]
    found = session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
    outputs = [one.name for one in session.get_outputs()]
    return {k: torch.from_numpy(v) for k, v in zip(outputs, found, strict=True)}


def check(run, kind, count=5, landmarks=False, names=graphs.OUTPUTS):
    result = export_model(run, format=kind)
    file = run / "export" / f"run{ENDINGS[kind]}"
    assert result["out"] == str(file)
    assert result["outputs"] == list(names)
    assert max(result["differences"].values()) <= 1e-4
    inputs, expected = expected_outputs(run, count, landmarks)
    found = run_graph(file, inputs)
    assert list(found) == list(names)
    for name, values in found.items():
        assert values.shape == expected[name].shape
        assert (values - expected[name]).abs().max() <= 1e-4, name
    return result


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "backbone", "count"),
    [("cam", "resnet18", 1), ("ts-cam", "thin-vit", 5), ("layercam", "thin", 3)],
)
def test_onnx_has_the_networks_logits_attention_and_class_maps(method, backbone, count, tmp_path):
    run = make_run(tmp_path / "run", method, backbone)
    check(run, "onnx", count)
    import onnx

    model = onnx.load(run / "export" / "run.onnx")
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["class_names"]) == list(NAMES)
    assert json.loads(about["image_size"]) == 64
    assert json.loads(about["codebook"])["name"] == "martinez"
    assert "inside the network" in json.loads(about["inputs"])["images"]
    assert "resized to 64 x 64 px" in about["framing"]


@needs_onnx
@pytest.mark.slow
def test_a_geometry_branch_becomes_a_second_input_of_onnx(tmp_path):
    run = make_run(tmp_path / "run", geometry_branch=True)
    check(run, "onnx", landmarks=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_torchscript_has_them_of_every_method_and_says_what_is_missing(method, tmp_path, caplog):
    row = METHODS[method]
    run = make_run(tmp_path / "run", method, row.narrow)
    names = graphs.OUTPUTS if row.class_maps else graphs.OUTPUTS[:2]
    result = check(run, "torchscript", names=names)
    assert list(result["left_out"]) == list(graphs.OUTPUTS[len(names) :])
    assert ("left out" in caplog.text) == (not row.class_maps)
    extra = {graphs.ABOUT: ""}
    torch.jit.load(run / "export" / "run.pt", _extra_files=extra)
    about = json.loads(extra[graphs.ABOUT])
    assert about["class_names"] == list(NAMES)
    assert about["left_out"] == result["left_out"]


@pytest.mark.slow
def test_a_geometry_branch_becomes_a_second_input_of_torchscript(tmp_path):
    check(make_run(tmp_path / "run", geometry_branch=True), "torchscript", landmarks=True)


class Stubborn(torch.nn.Module):
    """A network whose class maps, or all of it, no graph can hold."""

    def __init__(self, within, always):
        super().__init__()
        self.within, self.always = within, always

    def forward(self, images, labels=None):
        from auheat.models.output import is_traced, wants_logits_alone

        if is_traced() and (self.always or not wants_logits_alone()):
            raise RuntimeError("no walk back here")
        return self.within(images, labels)


def test_class_maps_that_no_graph_holds_are_left_out_and_told(tmp_path, caplog, monkeypatch):
    run = make_run(tmp_path / "run")
    load = auheat.load_model
    always = False

    def load_stubborn(*given, **settings):
        model = load(*given, **settings)
        model.network = Stubborn(model.network, always)
        return model

    monkeypatch.setattr("auheat.deployment.exporter.load_model", load_stubborn)
    result = export_model(run, format="torchscript")
    assert result["outputs"] == ["logits", "attention"]
    assert "no walk back here" in result["left_out"]["class_maps"]
    assert "left out: class_maps" in caplog.text
    always = True
    with pytest.raises(auheat.AuheatError, match="--format torchscript: torch makes no graph"):
        export_model(run, format="torchscript", overwrite=True)


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    make = graphs.make_torchscript

    def make_wrong(network, inputs):
        pack, run_it = make(network, inputs)
        return pack, lambda given: [one + 2e-4 for one in run_it(given)]

    monkeypatch.setattr(graphs, "make_torchscript", make_wrong)
    with pytest.raises(auheat.AuheatError, match=r"logits differs from the network's by 0.0002"):
        export_model(run, format="torchscript")
    assert not list((run / "export").glob("*"))


@pytest.mark.parametrize("kind", ["safetensors", "huggingface"])
def test_weights_alone_load_again_as_the_same_network(kind, tmp_path):
    run = make_run(tmp_path / "run", geometry_branch=True)
    out = tmp_path / f"mine{ENDINGS[kind]}"
    assert export_model(run, format=kind, out=out)["out"] == str(out)
    inputs, expected = expected_outputs(run, landmarks=True)
    again = auheat.load_model(out, device="cpu")
    with torch.no_grad():
        assert torch.equal(again(*inputs), expected["logits"])
    assert again.class_names == NAMES
    file = out if kind == "safetensors" else out / "model.safetensors"
    with safetensors.safe_open(file, "np") as opened:
        about = opened.metadata()
        names = set(opened.keys())
    assert names == set(auheat.load_model(run, device="cpu").network.state_dict())
    assert json.loads(about["class_names"]) == list(NAMES)
    assert "/gone" not in json.dumps(about)  # no path of this machine is published


def test_a_hub_folder_has_what_hubs_look_for_and_is_watched_for_damage(tmp_path, caplog):
    out = tmp_path / "hub"
    export_model(make_run(tmp_path / "run"), format="huggingface", out=out)
    assert {f.name for f in out.iterdir()} == {
        "config.json", "model.safetensors", "README.md", "manifest.json"
    }  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "auheat"
    assert config["id2label"] == {"0": "Happiness", "1": "Surprise", "2": "Anger"}
    assert config["label2id"] == {"Happiness": 0, "Surprise": 1, "Anger": 2}
    head = (out / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["pipeline_tag"] == "image-classification"
    caplog.clear()
    auheat.load_model(out, device="cpu")
    assert "cannot be checked" not in caplog.text
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (out / "model.safetensors").write_bytes(data)
    with pytest.raises(auheat.StoreError, match=r"model\.safetensors: its bytes have changed"):
        auheat.load_model(out, device="cpu")


@pytest.mark.parametrize("kind", ["torchscript", "huggingface"])
def test_only_an_export_is_replaced_and_only_on_request(kind, tmp_path):
    run = make_run(tmp_path / "run")
    out = tmp_path / f"mine{ENDINGS[kind]}"
    export_model(run, format=kind, out=out)
    with pytest.raises(auheat.RequestError, match=r"there already \(--overwrite replaces it\)"):
        export_model(run, format=kind, out=out)
    export_model(run, format=kind, out=out, overwrite=True)
    if kind == "huggingface":
        (out / "README.md").write_text("edited by hand")
        with pytest.raises(auheat.RequestError, match=r"changed since \(README.md\)"):
            export_model(run, format=kind, out=out, overwrite=True)
        out = tmp_path / "other"
        export_model(run, format=kind, out=out)
        (out / "notes.txt").write_text("mine")
        with pytest.raises(auheat.RequestError, match=r"files of yours \(notes.txt\)"):
            export_model(run, format=kind, out=out, overwrite=True)
    else:
        out.write_bytes(b"my own weights")
        with pytest.raises(auheat.RequestError, match="no export of a network"):
            export_model(run, format=kind, out=out, overwrite=True)
        assert out.read_bytes() == b"my own weights"
        link = tmp_path / "link.pt"
        link.symlink_to(out)
        with pytest.raises(auheat.RequestError, match="a link"):
            export_model(run, format=kind, out=link, overwrite=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "tensorrt"}, "--format: 'tensorrt'"),
        ({"out": "mine.onnx", "format": "safetensors"}, r"--out: .*\(expected NAME\.safetensors\)"),
        ({"out": "run", "format": "huggingface"}, "the run lies in it"),
        ({"out": ".", "format": "huggingface"}, "the run lies in it"),
        (
            {"out": "run/model.safetensors", "format": "safetensors"},
            "taken for the weights of .*run ",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_named(settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    with pytest.raises(auheat.RequestError, match=said):
        export_model(run, **settings)
    assert {f.name for f in tmp_path.iterdir()} == {"run"}
    assert not (run / "model.safetensors").exists()


def test_an_exported_network_is_not_evaluated_in_the_place_of_its_run(tmp_path):
    out = tmp_path / "hub"
    export_model(make_run(tmp_path / "run"), format="huggingface", out=out)
    with pytest.raises(auheat.RequestError, match=r"hub: an exported network \(evaluate the run"):
        auheat.evaluate(out, tmp_path)
    assert not (out / "evaluation.json").exists()


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(auheat.MissingExtraError, match=r'pip install "auheat\[onnx\]"'):
        export_model(make_run(tmp_path / "run"))


def test_the_command_prints_what_was_written(tmp_path):
    run = make_run(tmp_path / "run", "apvit", "thin-apvit")
    done = CliRunner().invoke(main, ["export-model", str(run), "--format", "torchscript"])
    assert done.exit_code == 0, done.output
    assert "outputs" in done.output
    assert "left out: class_maps" in done.output
    again = ["export-model", str(run), "--format", "torchscript", "--overwrite", "--json"]
    done = CliRunner().invoke(main, again)
    assert json.loads(done.stdout)["outputs"] == ["logits", "attention"]
    assert MARK.encode() in (run / "export" / "run.pt").read_bytes()
    assert np.isfinite(json.loads(done.stdout)["differences"]["logits"])


@pytest.mark.timm
@needs_onnx
@pytest.mark.parametrize(
    "name", ["timm:resnet18", "timm:convnext_atto", "timm:vit_tiny_patch16_224"]
)
def test_onnx_has_them_of_timms_networks(name, tmp_path):
    check(make_run(tmp_path / "run", "cam", name), "onnx", count=3)
