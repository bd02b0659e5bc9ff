"""The classifier methods: one row each of a plain dict, and what builds them.

Everything that tells one method from another stands in its row; training, evaluation and the
command line read rows and know no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from auheat.data.cutmix import Batch, cutmix
from auheat.errors import RequestError
from auheat.models.adl import AdlNetwork
from auheat.models.apvit import APVITS, build_apvit, find_apvit_weights, load_apvit_weights
from auheat.models.cams import grad_cam, grad_cam_pp, layer_cam
from auheat.models.heads import AcolHead, GapHead, GradientHead, WildcatHead
from auheat.models.names import TABLE
from auheat.models.network import Classifier, Network, NetworkBuilder, cnn
from auheat.models.pretrained import Found, find_weights, load_weights
from auheat.models.prm import PeakHead, PeakNetwork
from auheat.models.resnet import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, TIMM
from auheat.models.timm_backbones import describe_timm, fit_timm_weights
from auheat.models.ts_cam import build_ts_cam, find_ts_cam_weights, load_ts_cam_weights
from auheat.models.vit import VITS
from auheat.utils.registry import Registry


def load_cnn(model: nn.Module, file: Path) -> list[str]:
    """Load a backbone's checkpoint, and its classifier where the head has the like (`fc`).

    Returns what did not match, as `load_weights` does.
    """
    assert isinstance(model, Network)
    shape = getattr(model.backbone, "timm_shape", None)
    fit = None if shape is None else partial(fit_timm_weights, shape)
    return load_weights(model.backbone, file, getattr(model.head, "fc", None), fit)


def _any_side(_: str) -> int:
    return 1


def _patch_side(backbone: str) -> int:
    return VITS[backbone].patch


RESNETS = tuple(BACKBONES)

ANY = (*RESNETS, f"{TIMM}NAME")


@dataclass(frozen=True, slots=True)
class Method:
    """All that sets one method apart.

    `build` makes a network of a backbone's name and a number of classes. That is called with
    normalised images (B, 3, H, W) and labels (B,) or None and returns `Output`, its `features`
    shallow to deep, the top map last. `backbones` are the names it takes ("timm:NAME" for any of
    timm), and `why` says in an error why no others ("which ..."); `standard` is the default and
    `narrow` the one for small sets and CPUs, `image_size` the default input side. `narrow_settings`
    are put in the place of those of a preset for narrow backbones. `side_step` gives the number
    that a backbone's input side must be a multiple of. `class_maps` tells whether the maps differ
    from class to class: where not, no score is made of them. `mix` mixes a training batch after its
    augmentation: (batch, number of classes, CPU generator) -> batch. `find` looks for the files of
    a backbone's published weights, one for each part of it; `load` reads one of them into a network
    and returns what did not match.
    """

    title: str
    source: str
    build: Callable[[str, int], nn.Module]
    backbones: tuple[str, ...] = ANY
    why: str = ""
    standard: str = "resnet50"
    narrow: str = "thin"
    image_size: int = 224
    narrow_settings: Mapping[str, Any] = field(default_factory=dict)
    mix: Callable[[Batch, int, torch.Generator], Batch] | None = None
    side_step: Callable[[str], int] = _any_side
    class_maps: bool = True
    find: Callable[[str], Found] = find_weights
    load: Callable[[nn.Module, Path], list[str]] = load_cnn

    def takes(self, backbone: str) -> bool:
        """Whether a backbone of this name can be asked for."""
        wild = f"{TIMM}NAME" in self.backbones and backbone.startswith(TIMM)
        return wild or backbone in self.backbones


METHODS: Registry[Method] = TABLE
"""Name -> method, in the order of the AU paper's table 1, then those that were registered.

Whatever can be trained and evaluated stands here.
"""

METHODS.fill(
    {
        "cam": Method(
            "CAM",
            "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
            cnn(GapHead),
        ),
        "wildcat": Method(
            "WILDCAT",
            "Durand et al., WILDCAT: Weakly Supervised Learning of Deep ConvNets for Image "
            "Classification, Pointwise Localization and Segmentation, CVPR 2017",
            cnn(WildcatHead),
        ),
        "gradcam": Method(
            "Grad-CAM",
            "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via "
            "Gradient-Based Localization, ICCV 2017",
            cnn(partial(GradientHead, formula=grad_cam)),
        ),
        "gradcam++": Method(
            "Grad-CAM++",
            "Chattopadhay et al., Grad-CAM++: Generalized Gradient-Based Visual Explanations for "
            "Deep Convolutional Networks, WACV 2018",
            cnn(partial(GradientHead, formula=grad_cam_pp)),
        ),
        "acol": Method(
            "ACoL",
            "Zhang et al., Adversarial Complementary Learning for Weakly Supervised Object "
            "Localization, CVPR 2018",
            cnn(AcolHead),
        ),
        "prm": Method(
            "PRM",
            "Zhou et al., Weakly Supervised Instance Segmentation Using Class Peak Response, "
            "CVPR 2018",
            cnn(PeakHead, PeakNetwork),
        ),
        "adl": Method(
            "ADL",
            "Choe and Shim, Attention-Based Dropout Layer for Weakly Supervised Object "
            "Localization, CVPR 2019",
            cnn(GapHead, AdlNetwork),
        ),
        "cutmix": Method(
            "CutMix",
            "Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with "
            "Localizable Features, ICCV 2019",
            cnn(GapHead),
            mix=cutmix,
        ),
        "layercam": Method(
            "LayerCAM",
            "Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for "
            "Localization, IEEE TIP 2021",
            cnn(partial(GradientHead, formula=layer_cam)),
        ),
        "ts-cam": Method(
            "TS-CAM",
            "Gao et al., TS-CAM: Token Semantic Coupled Attention Map for Weakly Supervised "
            "Object Localization, ICCV 2021",
            build_ts_cam,
            backbones=tuple(VITS),
            why="couples its maps with the attention scores inside of its own transformers",
            standard="deit-small",
            narrow="thin-vit",
            # at the thin residual networks' rate a thin transformer without AUs stays at chance
            narrow_settings=MappingProxyType({"lr": 1e-3}),
            side_step=_patch_side,
            find=find_ts_cam_weights,
            load=load_ts_cam_weights,
        ),
        "apvit": Method(
            "APViT",
            "Xue et al., Vision Transformer with Attentive Pooling for Robust Facial Expression "
            "Recognition, IEEE TAFFC 2022",
            build_apvit,
            backbones=tuple(APVITS),
            why="drops tokens inside of its own transformers",
            standard="apvit",
            narrow="thin-apvit",
            image_size=112,
            narrow_settings=MappingProxyType({"lr": 5e-4}),
            class_maps=False,
            find=find_apvit_weights,
            load=load_apvit_weights,
        ),
    },
    Method,
)


def register_method(name: str, method: Method) -> None:
    """Add a method to those that can be trained, in this process.

    A package can add one for all processes by an entry point of the group `auheat.methods`.

    Args:
        name: What `train(method=...)` and `--method` will call it: letters, digits, . _ + -.
        method: Its row: how its network is built, and what else sets it apart.

    Raises:
        RequestError: The name is taken or unfit, or the row is no `Method`.

    Example:
        >>> import auheat
        >>> from auheat.models import Method, cnn
        >>> from auheat.models.heads import GapHead
        >>> auheat.register_method("my-cam", Method("My CAM", "this page", cnn(GapHead)))
        >>> auheat.list_methods()[-1]
        'my-cam'
    """
    METHODS.register(name, method)


def find_method(name: str) -> Method:
    """Return a row of `METHODS`; raises `AuheatError` for an unknown name."""
    method = METHODS.get(name)
    if method is None:
        raise RequestError(f"--method: {name!r} is not known (one of {', '.join(METHODS)})")
    return method


def check_backbone(method: str, backbone: str) -> None:
    """Raise `AuheatError` for a backbone that a method does not take."""
    row = find_method(method)
    if not row.takes(backbone):
        why = f", which {row.why}" if row.why else ""
        raise RequestError(
            f"--backbone: {backbone!r} is none of {method}'s{why} "
            f"(one of {', '.join(row.backbones)})"
        )


def find_normalisation(
    backbone: str, image_size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and deviation of RGB, in [0, 1], that a backbone's images are brought to.

    They are ImageNet's, or those that a network of timm was published with. Raises `AuheatError`
    as `describe_timm` does.
    """
    if not backbone.startswith(TIMM):
        return IMAGENET_MEAN, IMAGENET_STD
    shape = describe_timm(backbone, image_size)
    return shape.mean, shape.std


def build_classifier(
    method: str,
    backbone: str,
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
) -> Classifier:
    """Build a method's network with fresh weights, which normalises its images itself.

    Args:
        method: One of `list_methods`.
        backbone: One that the method takes, such as "resnet50", "thin" (small, for CPUs), or
            "timm:NAME" (with "@16", a cell of the top map is 16 px; 8 or 32 likewise).
        classes: Number of classes K.
        mean: Mean of each RGB channel in [0, 1], taken from the images; None: ImageNet's, or what
            timm's network was published with.
        std: Standard deviation of each, by which they are divided; None: likewise.
        image_size: Side in px of the images to come, which a network of timm may have to be made
            for; None: the method's own, 224 of most.

    Returns:
        A module of images (B, 3, H, W) f32 RGB in [0, 1] that returns `logits` (B, K), `maps`
        (B, K, h, w) of each class, and the backbone's `features`, shallow to deep.

    Raises:
        RequestError: An unknown method, a backbone that it does not take, or an image size that
            the backbone does not take.
        MissingExtraError: A backbone of timm, where timm is not installed.

    Example:
        >>> import torch
        >>> from auheat import build_classifier
        >>> model = build_classifier("cam", "thin", classes=7).eval()
        >>> with torch.no_grad():
        ...     output = model(torch.rand(2, 3, 64, 64))
        >>> output.logits.shape
        torch.Size([2, 7])
    """
    check_backbone(method, backbone)
    row = METHODS[method]
    side = image_size or row.image_size
    if isinstance(row.build, NetworkBuilder):
        model = row.build(backbone, classes, side)
    else:
        model = row.build(backbone, classes)
    # a hook and not a wrapper, so that parameters keep their names, in checkpoints above all
    if mean is None or std is None:
        own = find_normalisation(backbone, side)
        mean, std = own[0] if mean is None else mean, own[1] if std is None else std
    for name, values in (("image_mean", mean), ("image_std", std)):
        model.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
    model.register_forward_pre_hook(_normalise)
    return model


def _normalise(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *rest = inputs
    return (images - model.image_mean) / model.image_std, *rest
