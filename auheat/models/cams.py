"""Maps that take a gradient: Grad-CAM, Grad-CAM++ and LayerCAM, as pure formulas.

A formula takes activations A (B, C, h, w) and the gradient G of one class's score with respect
to them, of the same shape, and returns that class's map (B, h, w), which is never negative.
`gradient_maps` applies one to every class. Activations of either sign are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU of the channels' sum, each weighted by its gradient's mean over the map.

    Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2.
    """
    return torch.einsum("bchw,bc->bhw", activations, gradients.mean((2, 3))).relu()


def grad_cam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU of the channels' sum, each weighted by the sum of alpha x ReLU(gradient).

    Chattopadhay et al., Grad-CAM++, WACV 2018, section 3: alpha = g^2 / (2 g^2 + S g^3), the
    closed form, with S the channel's sum of activations. The score is the exponential of the
    logit there, whose derivatives are e^logit times g, g^2 and g^3; the common factor e^logit,
    positive and the same in the whole map, is left out. Where the denominator is not above zero
    (a gradient of zero; for signed activations others, too) alpha is 0.
    """
    square = gradients.square()
    below = square * (2 + activations.sum((2, 3), keepdim=True) * gradients)
    alpha = torch.where(below > 0, square / torch.where(below > 0, below, 1), 0)
    weights = (alpha * gradients.relu()).sum((2, 3))
    return torch.einsum("bchw,bc->bhw", activations, weights).relu()


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU of the channels' sum, each weighted at each place by ReLU of its gradient there.

    Jiang et al., LayerCAM, IEEE TIP 2021, section III: weight ReLU(g), at each place its own.
    """
    return torch.einsum("bchw,bchw->bhw", activations, gradients.relu()).relu()


def gradient_maps(formula: Formula, score: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return a formula's map of every class, (B, K, h, w), without a history of its own.

    `score` makes logits (B, K) of features (B, C, h, w); it alone is run again and gone back
    through, whatever made the features. Works under `torch.no_grad` and `torch.inference_mode`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.detach().clone().requires_grad_()
        logits = score(leaf)
        maps = []
        for k in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)
            maps.append(formula(leaf.detach(), gradient))
    return torch.stack(maps, 1)
