"""Methods: every row builds a model that learns with all its parameters."""

import pytest
import torch

from auheat.records import AuheatError
from auheat.wsol.losses import total_loss
from auheat.wsol.methods import METHODS, build_classifier


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("au_weight", [0.0, 4.0])
def test_gradients_reach_every_parameter(method, au_weight):
    torch.manual_seed(0)
    model = build_classifier(method, "thin", 7)
    labels = torch.arange(7)
    output = model(torch.rand(7, 3, 32, 32), labels)
    total_loss(
        output, labels, torch.rand(7, 8, 8), torch.ones(7).bool(), au_weight
    ).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_full_size_models_have_28_px_maps_at_224_px(method, backbone):
    with torch.device("meta"):
        output = build_classifier(method, backbone, 7)(torch.zeros(2, 3, 224, 224))
    assert output.logits.shape == (2, 7)
    assert output.maps.shape == (2, 7, 28, 28)
    assert len(output.features) == 5


def test_images_are_normalised_inside_and_the_constants_are_not_weights():
    model = build_classifier("cam", "thin", 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).eval()
    plain = build_classifier("cam", "thin", 3, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images).logits, plain(2 * images - 1).logits)
    assert not {"mean", "std"} & set(model.state_dict())


def test_unknown_method_names_the_known_ones():
    with pytest.raises(AuheatError, match="not known \\(one of cam"):
        build_classifier("magic", "thin", 3)
