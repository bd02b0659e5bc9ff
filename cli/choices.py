"""The names that options take, typed here so that help and completion load no registry.

`tests/cli/test_choices.py` compares each with the registry it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

import auheat

VARIANTS = (
    *("auto", "aligned", "original"),
    *(f"last{n}{rest}" for n in range(1, 6) for rest in ("", "+neutral")),
    *("frontal", "all"),
)
LANDMARK_MAPS = ("contour", "fitted", "index")
ENGINES = ("auto", "openvino", "float32", "float16")
BACKENDS = ("threads", "loky", "dask", "ray")
GEOMETRIES = ("face", "reference")
CROPS = ("none", "auto")
AU_MODES = ("prior", "active", "intensity")
PRESETS = (
    *("none", "demo", "methods", "explain", "rafdb", "affectnet", "rafdb-code", "affectnet-code"),
    "ferplus",
)
GRIDS = ("none", "paper", "demo", "losses", "ferplus")
AU_TARGETS = ("own", "mean", "wrong")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("auto", "constant", "step", "cosine", "onecycle")
RESAMPLINGS = ("area", "reference")
AUGMENTATIONS = ("none", "crop", "affine", "reference")
AMP = ("none", "bf16", "fp16")
EVALUATED_SPLITS = ("test", "val", "train", "all")
KINDS = ("attention", "cam", "cam-predicted")
FORMATS = ("webdataset", "npz", "csv", "openface", "fiftyone", "parquet", "coco", "hf")
MODEL_FORMATS = ("onnx", "torchscript", "safetensors", "huggingface")
SPLITS = ("train", "val", "test")
LOG_LEVELS = ("debug", "info", "warning", "error")


class Registered(click.Choice):  # type: ignore[type-arg]
    """A choice among the names of an open registry, as they are when it is asked."""

    def __init__(self, list_names: Callable[[], Sequence[str]], *besides: str) -> None:
        self._list_names, self._besides = list_names, besides
        super().__init__(())

    @property
    def choices(self) -> tuple[str, ...]:
        """The names: ours, and those that other packages have added."""
        return (*self._besides, *self._list_names())

    @choices.setter
    def choices(self, value: Sequence[str]) -> None:
        """Ignore what click keeps: the registry is asked each time."""


Choice = click.Choice
METHOD = Registered(lambda: auheat.list_methods())  # not loaded before it is asked
DATASET = Registered(lambda: auheat.list_datasets(), "auto")
DETECTOR = Registered(lambda: auheat.list_detectors())


class DetectorOrFile(Registered):
    """A detector's name, "dataset", or a file or folder of points that exist already."""

    def __init__(self) -> None:
        super().__init__(lambda: auheat.list_detectors(), "dataset")

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """Return what help shows for the value."""
        return f"[{'|'.join(self.choices)}|FILE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """Return the value; what is no name is looked for as a file later."""
        return value


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
    """Layers to align, such as top, -1+-2 or 5+4, as a tuple of numbers."""

    name = "layers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, list | tuple):
            value = "+".join(map(str, value))
        try:
            parts = str(value).replace(",", "+").split("+")
            return tuple(-1 if part.strip() == "top" else int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} (expected numbers such as -1, 5 or 5+4, or top)", param, ctx)
