"""Find the landmark models on this machine, checked by sha256; never over the network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.utils.files import write_whole
from auheat.utils.reading import open_regular, read_limited

MODELS = MappingProxyType(
    {
        "face_detection_short_range.tflite": (
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
        ),
        "face_landmark_with_attention.tflite": (
            "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4"
        ),
        "face_landmark.tflite": (
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
        ),
    }
)
"""File name -> sha256 of each model."""


WHEEL = "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl"
"""The release file from which a build takes the models."""


_VERSION = "0.10.21"

MAX_MODEL = 2**28
"""Bytes of the largest model file that is read (256 MiB): FAN's has 96 MB."""

_MEMBERS = MappingProxyType(
    {
        name: PurePosixPath("mediapipe", "modules", folder, name)
        for name, folder in zip(
            MODELS, ("face_detection", "face_landmark", "face_landmark"), strict=True
        )
    }
)


_DAMAGE = (OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def package_dir() -> Path:
    """Return the folder inside this package that a build fills with the models."""
    return Path(str(importlib.resources.files("auheat.landmarks.mesh"))) / "models"


def cache_dir() -> Path:
    """Return the user's own folder, used where the package's cannot be written."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "auheat" / "models"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "auheat" / "models"
    return Path.home() / ".cache" / "auheat" / "models"


def _from_mediapipe(name: str) -> Path | None:
    """Return where an installed mediapipe of the right version keeps a model."""
    try:
        distribution = importlib.metadata.distribution("mediapipe")
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != _VERSION:
        return None
    return Path(str(distribution.locate_file(str(_MEMBERS[name]))))


def _candidates(name: str) -> Iterator[Path]:
    """Yield the places where a model may lie, in the order in which they are searched."""
    if os.environ.get("AUHEAT_MODELS"):
        yield Path(os.environ["AUHEAT_MODELS"]) / name
    yield package_dir() / name
    yield cache_dir() / name
    for package in importlib.metadata.distributions(name="auheat"):
        # a checkout that Python is started in hides the package that was built with the models
        yield Path(str(package.locate_file("auheat/landmarks/mesh/models"))) / name
    installed = _from_mediapipe(name)
    if installed is not None:
        yield installed


def _check(where: str, data: bytes, wanted: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise StoreError(
            f"{where}: not the expected file, sha256 {found[:12]}... (wanted {wanted[:12]}...)"
        )


def read_model(file: Path) -> bytes:
    """Return the bytes of a detector's model; raises `AuheatError` where it is none's.

    That is no regular file, one that cannot be read, or one of more than `MAX_MODEL` bytes.
    """
    try:
        return read_limited(file, MAX_MODEL)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"{file}: cannot be read: {what} (a detector's model is needed)"
        ) from error


def _known(name: str) -> str:
    if name not in MODELS:
        raise RequestError(f"model {name!r}: not known (one of {', '.join(MODELS)})")
    return MODELS[name]


def find_model(name: str) -> Path:
    """Return the path of a model, its bytes checked; a corrupt file is an error, never skipped."""
    wanted = _known(name)
    places = list(_candidates(name))
    for path in places:
        if path.is_file():
            _check(str(path), read_model(path), wanted)
            return path
    looked = ", ".join(dict.fromkeys(str(path.parent) for path in places))
    raise StoreError(
        f"{name}: landmark model not found in {looked} (get {WHEEL} with `pip download --no-deps "
        f"mediapipe=={_VERSION}`, then run `auheat detectors --from WHEEL|DIR`)"
    )


def _read_wheel(source: Path) -> dict[str, bytes]:
    try:
        with open_regular(source) as handle, zipfile.ZipFile(handle) as archive:
            infos = {name: archive.getinfo(str(member)) for name, member in _MEMBERS.items()}
            if max(info.file_size for info in infos.values()) > MAX_MODEL:
                raise StoreError(f"{source}: a model of more than {MAX_MODEL} bytes")
            return {name: archive.read(info) for name, info in infos.items()}
    except AuheatError:
        raise
    except (KeyError, *_DAMAGE) as error:
        raise StoreError(f"{source}: {error} (a wheel like {WHEEL} is needed)") from error


def _read_folder(source: Path) -> dict[str, bytes]:
    """Read the models from a folder that holds them itself, or an unpacked wheel."""
    found = {}
    for name, member in _MEMBERS.items():
        path = next((p for p in (source / name, source / member) if p.is_file()), None)
        if path is None:
            raise StoreError(f"{source}: no {name} (needed: {', '.join(MODELS)})")
        found[name] = read_model(path)
    return found


def _write(folder: Path, models: dict[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in models.items():
        write_whole(folder / name, data)
        paths.append(folder / name)
    return paths


def install_models(source: Path) -> list[Path]:
    """Copy the models from a mediapipe wheel or a folder to where they are searched.

    They go into the package's own folder, or the user's cache where that cannot be written.
    """
    source = Path(source)
    if source.is_dir():
        models = _read_folder(source)
    elif source.is_file():
        models = _read_wheel(source)
    else:
        raise StoreError(f"{source}: not found (a mediapipe {_VERSION} wheel, or a folder)")
    for name, data in models.items():
        _check(f"{source}: {name}", data, MODELS[name])
    refused = []
    for folder in (package_dir(), cache_dir()):
        try:
            return _write(folder, models)
        except OSError as error:
            refused.append(f"{folder}: {error.strerror or error}")
    raise StoreError(f"models cannot be written: {'; '.join(refused)} (or set AUHEAT_MODELS)")
