"""Published weights: find the files, read them safely, load them by parameter name."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from auheat.errors import AuheatError, StoreError
from auheat.models.resnet import BACKBONES
from auheat.models.weight_names import Rename, list_renames
from auheat.utils.reading import open_regular

WEIGHTS_HINT = "--weights takes auto, none, a .pth or a .safetensors file"

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of files that `torch.save` wrote, in the order in which they are common."""


_MEANS = ("ema", "teacher", "momentum")  # what names of mean weights have in them

_SCALAR = np.float64(0).__reduce__()[0]

_PLAIN: list[Any] = [
    *(argparse.Namespace, np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar")),
    *(type(np.dtype(kind)) for kind in "?bhilqefd"),
]
"""What training loops keep beside weights, such as options and the best accuracy: plain values."""


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


Fit: TypeAlias = Callable[[nn.Module, dict[str, Tensor]], list[str]]
"""Brings a file's tensors, in place, to the sizes that a network has; says what it resized."""


def load_weights(
    backbone: nn.Module, file: Path, fc: nn.Linear | None = None, fit: Fit | None = None
) -> list[str]:
    """Load a checkpoint by parameter name; return what did not match.

    "fc.*" goes to `fc` where it fits and is else left out, with a message. Missing and unexpected
    names are messages too; batch counters, which old files lack, are not worth one. Raises
    `AuheatError` for a file that cannot be read, a shape that differs, or where no name matches.
    """
    network = _unwrap(backbone)
    given, messages = read_named(file, [network.state_dict()])
    if fit is not None:
        messages += [f"{file.name}: {what}" for what in fit(network, given)]
    return messages + load_named(network, given, file, "fc", fc)


def _unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside of what gives its feature maps, which published names are of."""
    parts = dict(network.named_children())
    inner = next(
        (part for name, part in parts.items() if name in ("model", "network", "body")), None
    )
    if inner is None or len(parts) > 1 or next(network.parameters(recurse=False), None) is not None:
        return network
    return inner


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
    check_finite({**matching, **{f"{classifier}.{k}": v for k, v in own_head.items()}}, file)
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


def read_named(file: Path, parts: Sequence[Collection[str]]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a checkpoint by the names of one of a network's parts, and messages.

    What training loops put around names is taken off ("module.", "model.backbone.", ...), and of
    several sets of weights in one file the one with the most names of a part is taken, of equal
    ones mean weights. Where the file has a network under another package's names
    (`auheat.models.weight_names`), those are read. All of it is told in messages. Code in the
    file is never run. Raises `AuheatError` for a file that is none or cannot be read.
    """
    sets = read_tensors(file)
    renames: dict[str, Rename] = {
        "": str,
        **list_renames({name for part in parts for name in part}),
    }
    ranked = sorted(
        (
            _Naming(n, any(word in where + prefix for word in _MEANS), where, prefix, source)
            for source, rename in renames.items()
            for where, tensors in sets.items()
            for prefix, n in _count_names([rename(key) for key in tensors], parts).items()
        ),
        key=lambda one: (-one.matching, one.source != "", not one.means, len(one.prefix)),
    )
    if not ranked:
        return next(iter(sets.values())), []
    count, _, where, prefix, source = ranked[0]
    messages = []
    others = [
        one.where + one.prefix
        for one in ranked[1:]
        if one.matching == count and one.source == source
    ]
    if others:
        messages.append(
            f"{file.name}: the weights of {where + prefix or 'the top'!r} are taken, and not those "
            f"of {', '.join(repr(other or 'the top') for other in others)}"
        )
    if prefix:
        messages.append(f"{file.name}: names are read without {prefix!r}")
    if source:
        messages.append(f"{file.name}: names of {source} are read as this network's")
    rename = renames[source]
    return {rename(key).removeprefix(prefix): value for key, value in sets[where].items()}, messages


class _Naming(NamedTuple):
    """A way to read a file: how many names of a part it gives, and where, before and by which."""

    matching: int
    means: bool
    where: str
    prefix: str
    source: str


def _count_names(names: Sequence[str], parts: Sequence[Collection[str]]) -> dict[str, int]:
    """Return how many names of the parts come after each prefix ("" for none).

    A prefix of some length counts where half of one part's names come after it.
    """
    counts: dict[str, int] = {}
    for part in parts:
        rests = (("", key) for key in names)
        cut = ((key[: m.end()], key[m.end() :]) for key in names for m in re.finditer(r"\.", key))
        heads = Counter(head for head, rest in (*rests, *cut) if rest in part)
        for head, n in heads.items():
            if not head or 2 * n >= len(part):
                counts[head] = max(n, counts.get(head, 0))
    return counts


def read_tensors(file: Path) -> dict[str, dict[str, Tensor]]:
    """Return the sets of tensors in a checkpoint, by where in it they lie; no code is ever run.

    "" is the top. Raises `AuheatError` for a file that is none or cannot be read.
    """
    try:
        open_regular(file).close()
        if file.suffix == ".safetensors":
            return {"": safetensors.torch.load_file(file)}
        if file.suffix not in PICKLES:
            raise StoreError(f"{file}: a kind of file not read here ({WEIGHTS_HINT})")
        # weights_only is torch's restricted reader: tensors and plain values, no code
        with torch.serialization.safe_globals(_PLAIN):
            raw = torch.load(file, map_location="cpu", weights_only=True)
        sets = dict(_find_sets(raw))
    except AuheatError:
        raise
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(f"{file}: cannot be read ({WEIGHTS_HINT})") from error
    except Exception as error:  # that reader raises whatever a file leads it to
        code = re.findall(r"GLOBAL (\S+)", str(error))[:1]
        what = "".join(f"it holds {name}: save the state_dict() alone; " for name in code)
        raise StoreError(
            f"{file}: no checkpoint of plain tensors ({what}{WEIGHTS_HINT})"
        ) from error
    if not sets:
        raise StoreError(f"{file}: no checkpoint of plain tensors ({WEIGHTS_HINT})")
    return sets


def _find_sets(raw: Any, where: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of each mapping in a checkpoint that has some, outer ones first."""
    if not isinstance(raw, dict):
        return
    tensors = {k: v for k, v in raw.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in raw.items():
        if isinstance(key, str):
            yield from _find_sets(value, f"{where}{key}/")


def check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise `AuheatError`, naming the tensor, where one has NaN or infinity."""
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise StoreError(
                f"{file}: {key} has NaN or infinity (expected finite weights: train again, with a "
                "lower --lr, or take another file)"
            )


def _few(names: Sequence[str] | Mapping[str, Tensor]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
