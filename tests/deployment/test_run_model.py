"""A run as a plain module: its logits are `evaluate`'s, to the last bit."""

import pickle

import numpy as np
import pytest
import torch
from run_helpers import make_run
from training_helpers import make_store

import auheat
from auheat.evaluation import inputs
from auheat.evaluation.model_maps import predict_maps
from auheat.training.config import make_config
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "gradcam"}, {"method": "ts-cam", "image_size": 48}, {"geometry_branch": True}],
    ids=str,
)
def test_its_logits_are_those_of_evaluate_bit_for_bit(settings, tmp_path, monkeypatch):
    store = make_store(tmp_path / "store", spread=0.05)
    settings = {"image_size": 32, "epochs": 1, "batch_size": 16, **settings}
    train(store, make_config("demo", name="few", **settings))
    seen = []

    def record(model, images, points=None):
        maps = predict_maps(model, images, points)
        seen.append((images, points, maps))
        return maps

    monkeypatch.setattr(inputs, "predict_maps", record)
    auheat.evaluate("few", store, device="cpu")
    model = auheat.load_model("few", store, device="cpu")
    assert not model.training
    assert model.class_names == ("Neutral", "Happiness", "Surprise", "Sadness")
    evaluation = np.load(store / "runs" / "few" / "evaluation.npz")
    images, points, maps = seen[0]  # all test photos are one batch
    given = (images, points) if model.takes_landmarks else (images,)
    with torch.no_grad():
        logits = model(*given)
        assert torch.equal(logits, maps.logits)
        own = model.maps(*given)
    assert torch.equal(own.cams, maps.cams)
    assert torch.equal(own.attention[-1], maps.attention[-1])
    np.testing.assert_array_equal(logits.softmax(1), evaluation["row_probabilities"])
    if model.takes_landmarks:
        assert not torch.equal(model(images), logits)


def test_it_is_a_module_like_any_other(tmp_path):
    model = auheat.load_model(make_run(tmp_path / "run"), device="cpu")
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)
    assert expected.shape == (2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
    copy = auheat.load_model(make_run(tmp_path / "other", method="acol"), device="cpu")
    copy = torch.nn.Sequential(copy, torch.nn.Softmax(1))
    assert torch.allclose(copy(images).sum(1), torch.ones(2))
    model.train()
    torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("method", ["gradcam", "prm"])
def test_maps_that_walk_back_are_not_made_for_logits_alone(method, tmp_path, monkeypatch):
    model = auheat.load_model(make_run(tmp_path / "run", method=method), device="cpu")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.maps(images)
        monkeypatch.setattr("auheat.models.heads.gradient_maps", None)
        monkeypatch.setattr("auheat.models.prm.peak_response_maps", None)
        assert torch.equal(model(images), expected.logits)


def test_a_run_with_a_geometry_branch_says_what_it_wants(tmp_path, caplog):
    caplog.set_level("INFO", "auheat")
    run = make_run(tmp_path / "run", geometry_branch=True)
    assert auheat.load_model(run, device="cpu").takes_landmarks
    assert "run: decides by landmarks, too: model(images, landmarks)" in caplog.text


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(auheat.StoreError, match="no run in"):
        auheat.load_model("nothing", tmp_path)
    file = tmp_path / "stranger.safetensors"
    for data in (b"", b"\x08" + bytes(7) + b"{}      "):
        file.write_bytes(data)
        with pytest.raises(auheat.StoreError, match=r"stranger.*no network of auheat's \(expected"):
            auheat.load_model(file)
