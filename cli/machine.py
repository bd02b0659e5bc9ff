"""The commands about this machine: detectors and info."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from auheat.errors import AuheatError

from .common import FILE, Command, json_option, option, print_json, print_table

PACKAGES = (
    *("torch", "numpy", "opencv-python", "openvino", "h5py", "safetensors", "timm", "tensorboard"),
    *("face-alignment", "mediapipe", "scikit-image", "dask", "ray"),
)
VARIABLES = ("AUHEAT_STORE", "AUHEAT_MODELS", "AUHEAT_WEIGHTS", "AUHEAT_FAN", "AUHEAT_TASK")


@click.command(cls=Command)
@option(
    "--from",
    "source",
    type=FILE,
    help="Install mesh's models from a mediapipe 0.10.21 wheel, or a folder of .tflite files.",
)
@json_option
def detectors(source: Path | None, as_json: bool) -> None:
    """List the landmark detectors and where their model files lie, or install those of mesh.

    \b
    auheat detectors
    auheat detectors --from mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl
    """
    if source is not None:
        from auheat.landmarks.mesh.model_files import install_models

        install_models(source)
    rows = find_model_files()
    if as_json:
        print_json(rows)
    else:
        print_table([("detector", "file", "where"), *map(_cells, rows)])


def _cells(row: dict[str, str | None]) -> tuple[str, ...]:
    return str(row["detector"]), str(row["file"]), str(row["path"] or row["missing"])


def find_model_files() -> list[dict[str, str | None]]:
    """Return of each detector's files where it lies, or what to do where it is missing."""
    from auheat.landmarks import fan, mediapipe
    from auheat.landmarks.mesh.model_files import MODELS, find_model

    finders: list[tuple[str, str, Callable[[], Path]]] = [
        *(
            (detector, name, lambda name=name: find_model(name))
            for detector in ("mesh", "mesh-accurate")
            for name in MODELS
        ),
        ("fan", fan.WEIGHTS, fan.find_fan_weights),
        ("mediapipe", "face_landmarker.task", mediapipe.find_task),
    ]
    rows: list[dict[str, str | None]] = []
    for detector, name, find in finders:
        path, missing = None, None
        try:
            path = str(find())
        except AuheatError as error:
            missing = f"missing: {error}"
        rows.append({"detector": detector, "file": name, "path": path, "missing": missing})
    return rows


@click.command(cls=Command)
@json_option
def info(as_json: bool) -> None:
    """Show versions, devices, model files, and the folders that are looked in.

    \b
    auheat info
    auheat info --json
    """
    found = describe_machine()
    if as_json:
        print_json(found)
        return
    rows = [(key, name, str(value)) for key, values in found.items() if isinstance(values, dict)
            for name, value in values.items()]  # fmt: skip
    print_table([*rows, *(("model files", *_cells(row)[1:]) for row in found["model files"])])


def describe_machine() -> dict[str, Any]:
    """Return what a report of a problem should say of this machine."""
    import torch

    from auheat import __version__
    from auheat.landmarks.mesh.model_files import cache_dir, package_dir
    from auheat.utils.devices import count_cores, pick_device
    from auheat.utils.paths import find_store

    versions = {"auheat": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    devices = {"system": platform.platform(), "cpu cores": count_cores()}
    devices |= {
        f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    }
    devices["--device auto"] = str(pick_device("auto"))
    return {
        "versions": versions,
        "devices": devices,
        "variables": {name: os.environ.get(name, "not set") for name in VARIABLES},
        "folders": {
            "package": str(Path(sys.modules["auheat"].__file__ or "").parent),
            "store": str(find_store().resolve()),
            "models": str(package_dir()),
            "models, else": str(cache_dir()),
            "weights": str(Path(torch.hub.get_dir()) / "checkpoints"),
        },
        "model files": find_model_files(),
    }
