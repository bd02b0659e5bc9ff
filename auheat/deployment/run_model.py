"""A run's network as a plain module: framed photos in, logits out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auheat.deployment.photo_transform import PhotoTransform
from auheat.evaluation.model_maps import Maps, predict_maps
from auheat.models.geometry import GeometryNetwork
from auheat.models.network import Classifier
from auheat.models.output import logits_alone
from auheat.models.registry import Method, find_method
from auheat.runs import checkpoint, codebook, run_folder
from auheat.utils.devices import pick_device
from auheat.utils.paths import find_store

_LOG = logging.getLogger(__name__)


class RunModel(nn.Module):
    """A run's network as a module that gives plain logits, with what it takes to use it.

    `network` is the classifier itself, which returns `auheat.models.Output`; its feature layers
    (`network.backbone`, ...) are what other libraries hook. Images are normalised inside.
    """

    def __init__(self, network: Classifier, config: Mapping[str, Any], transform: PhotoTransform):
        super().__init__()
        self.network = network
        self.config = config
        self.transform = transform
        self.class_names = tuple(config["class_names"])
        self.image_size = transform.image_size

    @property
    def method(self) -> Method:
        """The method's row of `auheat.METHODS`."""
        return find_method(self.config["settings"]["method"])

    @property
    def takes_landmarks(self) -> bool:
        """Whether the network has a geometry branch, which decides by landmarks, too."""
        return isinstance(self.network, GeometryNetwork)

    def forward(self, images: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Return logits (B, K) of images (B, 3, S, S) f32 RGB in [0, 1].

        `landmarks` (B, 68, 2) px of the framed photos, NaN where there is no face, are for a
        network with a geometry branch: without them the image alone decides.
        """
        with logits_alone():
            return self.maps(images, landmarks).logits

    def maps(self, images: Tensor, landmarks: Tensor | None = None) -> Maps:
        """Return logits (B, K), the `attention` (B, h, w) of each layer and every class's `cams`.

        `cams` are (B, K, h, w), the method's own class maps.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        return predict_maps(self.network, images, landmarks)


def load_model(
    run: str | Path | None = None, store: str | Path | None = None, *, device: str = "auto"
) -> RunModel:
    """Load a run's network as a plain torch module, ready for photos.

    The module is in evaluation mode. Its logits are those of `evaluate` to the last bit, in batches
    of the same photos.

    Args:
        run: Folder, or name in `store`/runs; a folder or .safetensors file of `export_model`;
            None: the newest of `store`.
        store: Folder that holds the run; None: $AUHEAT_STORE, else auheat-data.
        device: "auto", "cpu", "cuda", "cuda:N".

    Returns:
        A module of images (B, 3, S, S) f32 RGB in [0, 1] that returns logits (B, K). `transform`
        makes such an image of a photo (a file, an image of Pillow's, an array), `class_names` are
        the classes, and `maps(images)` has attention and class maps, too.

    Raises:
        AuheatError: Where there is no such run, or its files are damaged.

    Example:
        >>> import auheat
        >>> model = auheat.load_model("with-aus", "store")  # doctest: +SKIP
        >>> logits = model(model.transform("photo.jpg")[None])  # doctest: +SKIP
        >>> model.class_names[logits.argmax()]  # doctest: +SKIP
        'Happiness'
    """
    place = locate_network(run, store)
    network, config = checkpoint.load_classifier(place)
    target = pick_device(device)
    frame = codebook.unpack_codebook(config["codebook"], place).frame
    model = RunModel(network, config, PhotoTransform(config, frame, str(target), place.name))
    if model.takes_landmarks:
        _LOG.info(
            "%s: decides by landmarks, too: model(images, landmarks), both of "
            "`transform.frame(photo)`; without landmarks the image alone decides",
            place.name,
        )
    model.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()


def locate_network(run: str | Path | None, store: str | Path | None) -> Path:
    """Return a run's folder, or the file or folder that a network was exported to.

    Raises `AuheatError` where there is none.
    """
    if run is not None and Path(run).suffix == run_folder.TENSORS and Path(run).is_file():
        return Path(run)
    return run_folder.find_run(find_store(store), run)
