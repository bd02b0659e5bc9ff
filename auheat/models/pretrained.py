"""Published weights: find the files, read them safely, load them by parameter name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from auheat.errors import AuheatError, StoreError
from auheat.models.resnet import BACKBONES

WEIGHTS_HINT = "--weights takes auto, none, a .pth or a .safetensors file"


class Found(NamedTuple):
    """The files of a backbone's published weights: those at hand, and the names of the others."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]


def find_weights(name: str) -> Found:
    """Look for the published weights of a backbone of `BACKBONES`, by torchvision's file names.

    Nothing is published here for a network of timm.
    """
    return find_parts((BACKBONES[name].weights,) if name in BACKBONES else ())


def find_parts(parts: Sequence[Sequence[str]]) -> Found:
    """Look for the weight files of a network's parts, each with the names it goes by.

    A part without names has nothing published; of one that is not at hand the first name is
    returned. Where `find_file` looks.
    """
    files = [(names[0], find_file(names)) for names in parts if names]
    return Found(
        tuple(file for _, file in files if file is not None),
        tuple(name for name, file in files if file is None),
    )


def find_file(names: Sequence[str]) -> Path | None:
    """Return the first of these weight files that is at hand, None where none is.

    Looks in the folder AUHEAT_WEIGHTS, then in torch's hub cache, for each name and the same
    with .safetensors.
    """
    own = os.environ.get("AUHEAT_WEIGHTS")
    folders = ([Path(own)] if own else []) + [Path(torch.hub.get_dir()) / "checkpoints"]
    for folder in folders:
        for file in names:
            for candidate in (folder / file, (folder / file).with_suffix(".safetensors")):
                if candidate.is_file():
                    return candidate
    return None


def load_weights(backbone: nn.Module, file: Path, fc: nn.Linear | None = None) -> list[str]:
    """Load a .pth or .safetensors checkpoint by parameter name; return what did not match.

    "fc.*" goes to `fc` where it fits and is else left out, with a message. Missing and unexpected
    names are messages too; batch counters, which old files lack, are not worth one. Raises
    `AuheatError` for a file that cannot be read, a shape that differs, or where no name matches.
    """
    return load_named(backbone, read_tensors(file), file, "fc", fc)


def load_named(
    backbone: nn.Module,
    given: Mapping[str, Tensor],
    file: Path,
    classifier: str,
    head: nn.Module | None = None,
) -> list[str]:
    """Load the tensors read from a file as `load_weights` does, whatever the classifier's name.

    "`classifier`.weight" and ".bias" go to `head` where they fit; `backbone` may contain it.
    """
    ours = {k: v for k, v in backbone.state_dict().items() if not k.startswith(f"{classifier}.")}
    theirs = {k: v for k, v in given.items() if k not in _classifier_names(classifier)}
    own_head = {k.rpartition(".")[2]: given[k] for k in _classifier_names(classifier) if k in given}
    matching = {k: v for k, v in theirs.items() if k in ours}
    if not matching:
        raise StoreError(
            f"{file}: no parameter of this backbone in it (starts with {_few(theirs)})"
        )
    for key, value in matching.items():
        if value.shape != ours[key].shape:
            raise StoreError(
                f"{file}: {key} is {tuple(value.shape)} (this backbone has "
                f"{tuple(ours[key].shape)})"
            )
    backbone.load_state_dict(matching, strict=False)
    messages = []
    missing = [k for k in ours if k not in theirs and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in theirs if k not in ours]
    if missing:
        messages.append(f"{file.name}: {len(missing)} parameters missing ({_few(missing)})")
    if unexpected:
        messages.append(f"{file.name}: {len(unexpected)} not used ({_few(unexpected)})")
    if own_head and not _load_head(head, own_head):
        classes = len(next(iter(own_head.values())))
        messages.append(
            f"{file.name}: its classifier ({classifier}, {classes} classes) is left out"
        )
    return messages


def _classifier_names(classifier: str) -> tuple[str, str]:
    return f"{classifier}.weight", f"{classifier}.bias"


def _load_head(head: nn.Module | None, given: dict[str, Tensor]) -> bool:
    if head is None or {k: v.shape for k, v in given.items()} != {
        k: v.shape for k, v in head.state_dict().items()
    }:
        return False
    head.load_state_dict(given)
    return True


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth or .safetensors file by name; code in it is never run.

    Some published files keep them under "model" or "state_dict". Raises `AuheatError` for a file
    that is none or cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix != ".pth":
            raise StoreError(f"{file}: a kind of file not read here ({WEIGHTS_HINT})")
        # weights_only is torch's restricted reader: tensors and plain containers, no code
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except AuheatError:
        raise
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(f"{file}: cannot be read ({WEIGHTS_HINT})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise StoreError(f"{file}: no checkpoint of plain tensors ({WEIGHTS_HINT})") from error
    for key in ("model", "state_dict"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict) or not all(isinstance(v, Tensor) for v in raw.values()):
        raise StoreError(f"{file}: no checkpoint of plain tensors ({WEIGHTS_HINT})")
    return dict(raw)


def _few(names: Sequence[str] | Mapping[str, Tensor]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
