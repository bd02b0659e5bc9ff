"""The names that options take, typed here so that help and completion load no registry.

`tests/cli/test_choices.py` compares each with the registry it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

DATASETS = (
    *("rafdb", "rafdb-compound", "rafdb-numbered", "affectnet", "affectnet-reduced", "ferplus"),
    *("fer2013", "expw", "sfew", "ckplus", "csv", "folders", "jaffe", "kdef", "photos"),
)
VARIANTS = (
    *("auto", "aligned", "original"),
    *(f"last{n}{rest}" for n in range(1, 6) for rest in ("", "+neutral")),
    *("frontal", "all"),
)
DETECTORS = ("mesh", "fan", "mediapipe")
LANDMARK_MAPS = ("fitted", "index")
ENGINES = ("auto", "openvino", "float32", "float16")
BACKENDS = ("threads", "loky", "dask", "ray")
GEOMETRIES = ("face", "reference")
CROPS = ("none", "auto")
METHODS = (
    *("cam", "wildcat", "gradcam", "gradcam++", "acol", "prm", "adl", "cutmix", "layercam"),
    *("ts-cam", "apvit"),
)
PRESETS = ("none", "demo", "methods", "rafdb", "affectnet")
GRIDS = ("none", "paper", "demo")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("auto", "constant", "step", "cosine", "onecycle")
AUGMENTATIONS = ("none", "crop", "affine")
AMP = ("none", "bf16", "fp16")
EVALUATED_SPLITS = ("test", "val")
KINDS = ("attention", "cam", "cam-predicted")
FORMATS = ("webdataset", "npz", "hdf5")
SPLITS = ("train", "val", "test")
LOG_LEVELS = ("debug", "info", "warning", "error")


class Choice(click.Choice):  # type: ignore[type-arg]
    """A choice of names; one that is not among them is looked for in an open registry.

    `registry` is "module:NAME" of a mapping by name, which another package may have added to.
    """

    def __init__(self, names: Sequence[str], registry: str = "") -> None:
        super().__init__(names)
        self._registry = registry

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; fails with a usage error that lists all."""
        if self._registry and value not in self.choices:
            module, _, name = self._registry.partition(":")
            known = getattr(import_module(module), name)
            names = dict.fromkeys((*self.choices, *known))
            return click.Choice(tuple(names)).convert(value, param, ctx)
        return super().convert(value, param, ctx)


METHOD = Choice(METHODS, "auheat.models.registry:METHODS")
DATASET = Choice(("auto", *DATASETS), "auheat.datasets.registry:DATASETS")
DETECTOR = Choice(DETECTORS, "auheat.landmarks.registry:DETECTORS")


class Listed(click.ParamType):  # type: ignore[type-arg]
    """Values with commas between them, as a tuple."""

    def __init__(self, item: Any) -> None:
        self.item = click.types.convert_type(item)
        self.name = f"{self.item.name}s"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """Return what help shows for the value."""
        return "A,B,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the values, each converted."""
        parts = value.split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        strip = [part.strip() if isinstance(part, str) else part for part in parts]
        return tuple(self.item.convert(part, param, ctx) for part in strip)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete what follows the last comma."""
        head, comma, last = incomplete.rpartition(",")
        items = self.item.shell_complete(ctx, param, last)
        return [CompletionItem(f"{head}{comma}{item.value}") for item in items]


class Layers(click.ParamType):  # type: ignore[type-arg]
    """Layers to align, such as 5 or 5+4, as a tuple of numbers."""

    name = "layers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, list | tuple):
            value = "+".join(map(str, value))
        try:
            return tuple(int(part) for part in str(value).replace(",", "+").split("+"))
        except ValueError:
            self.fail(f"{value!r} (expected numbers such as 5 or 5+4)", param, ctx)
