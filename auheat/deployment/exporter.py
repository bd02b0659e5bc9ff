"""export_model(): a run's network -> a file or folder that other programs load.

It is written beside its place and put there whole. Only what has the mark of such an export is
replaced, on request, and a folder only where nothing else is in it and nothing was changed since.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auheat.deployment.graphs import make_graph
from auheat.deployment.metadata import MARK, describe_model, find_provenance
from auheat.deployment.model_card import write_card
from auheat.deployment.run_model import RunModel, load_model, locate_network
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.exporters.exporter import lock_of
from auheat.runs import codebook
from auheat.runs.checkpoint import pack_tensors
from auheat.runs.run_folder import CONFIG, EXPORTED, TENSORS
from auheat.utils.checks import check_one_of
from auheat.utils.checksums import CHECKSUMS, find_damage, read_checksums, write_files
from auheat.utils.files import encode_json, write_folder, write_whole
from auheat.utils.locking import hold

_LOG = logging.getLogger(__name__)

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": TENSORS, "huggingface": ""}
"""Format -> how its file ends; "" for a folder."""

FOLDER = "export"
"""Folder of a run for its exports, unless another place is named."""

CARD = "README.md"


def export_model(
    run: str | Path | None = None,
    store: str | Path | None = None,
    *,
    format: str = "onnx",  # noqa: A002 (the option's name)
    out: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's network in a format that other programs load.

    ONNX and TorchScript give logits, attention and class maps for any number of photos; they are
    compared with the network before anything is written. Each file says what it was made of:
    classes, codebook, input, framing. What an export lacks is in `left_out`, and logged.

    Args:
        run: Folder, or name in `store`/runs; None: the newest.
        store: Folder that holds the run; None: $AUHEAT_STORE, else auheat-data.
        format: "onnx", "torchscript", "safetensors", or "huggingface" (a folder with config.json,
            model.safetensors and README.md, the model card).
        out: File or folder to write; None: in export/ of the run's folder.
        overwrite: Replace an export that is there already.

    Returns:
        `out`, its bytes, the outputs' names, `left_out`, and the largest `differences` of a graph's
        outputs from the network's.

    Raises:
        AuheatError: Where there is no such run, a graph cannot be made or differs, something would
            be lost, or cannot be written.

    Example:
        >>> import auheat
        >>> auheat.export_model("with-aus", "store", format="safetensors")  # doctest: +SKIP
        {'out': 'store/runs/with-aus/export/with-aus.safetensors', ...}
    """
    check_one_of("--format", format, ENDINGS)
    place = locate_network(run, store)
    name = place.stem if place.is_file() else place.resolve().name
    ending = ENDINGS[format]
    home = place.parent if place.is_file() else place / FOLDER
    target = home / (name + (ending or f"-{format}")) if out is None else Path(out)
    if ending and target.suffix != ending:
        raise RequestError(f"--out: {target}: a file of --format {format} (expected NAME{ending})")
    _check_place(target, place, is_folder=not ending, overwrite=overwrite)
    model = load_model(place, device="cpu")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{target}: another process exports to it (wait for it, or choose another name)"
        with hold(lock_of(target), busy, remove=True):
            _check_place(target, place, is_folder=not ending, overwrite=overwrite)
            return _write(model, place, name, format, target)
    except AuheatError:
        raise
    except OSError as error:
        raise StoreError(
            f"{target}: cannot be written: {error.strerror or error} (nothing is left of it)"
        ) from error


def _write(model: RunModel, place: Path, name: str, kind: str, target: Path) -> dict[str, Any]:
    provenance = find_provenance(place, model.config)
    result: dict[str, Any] = {"out": str(target), "format": kind, "left_out": {}}
    if kind in ("onnx", "torchscript"):
        book = codebook.unpack_codebook(model.config["codebook"], place)
        graph = make_graph(model, kind, book.frame.mean)
        for output, reason in graph.left_out.items():
            _LOG.warning("%s: left out: %s: %s", target, output, reason)
        result |= {"left_out": graph.left_out, "differences": graph.differences}
        about = describe_model(model, provenance, name, graph.left_out)
        data = graph.pack(about | {"differences": graph.differences})
    else:
        about = describe_model(model, provenance, name, {})
        data = pack_tensors(model.network.state_dict(), **about)
    result |= {"outputs": list(about["outputs"]), "weights_sha256": provenance.weights_sha256}
    if kind == "huggingface":
        files = {
            CONFIG: encode_json(_make_hub_config(about)),
            EXPORTED: data,
            CARD: write_card(model, place, provenance).encode(),
        }
        with write_folder(target) as part:
            write_files(part, files)
        return result | {"files": list(files), "bytes": sum(map(len, files.values()))}
    write_whole(target, data)
    return result | {"bytes": len(data)}


def _make_hub_config(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json of a model hub's folder: the run's, with the keys that hubs look for."""
    names = dict(enumerate(about["class_names"]))
    return {
        **about["config"],
        "model_type": "auheat",
        "auheat_model": MARK,
        "id2label": {str(k): name for k, name in names.items()},
        "label2id": {name: k for k, name in names.items()},
        "image_size": about["image_size"],
        "weights_sha256": about["weights_sha256"],
        "export": {key: about[key] for key in ("inputs", "outputs", "framing", "data")},
    }


def _check_place(target: Path, run: Path, is_folder: bool, overwrite: bool) -> None:
    """Raise `AuheatError` where something would be lost: nothing but an export is ever replaced."""
    real = Path(os.path.realpath(target))
    if real == run.resolve() or real in run.resolve().parents:
        raise RequestError(f"{target}: the run lies in it (choose a name for the export itself)")
    if real.name == EXPORTED and (real.parent / CONFIG).is_file():
        raise RequestError(
            f"{target}: it would be taken for the weights of {real.parent} (choose another name)"
        )
    if not os.path.lexists(target):
        return
    if is_folder and target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    problem = _find_problem(target, is_folder)
    if problem:
        raise RequestError(f"{target}: there already, {problem} (choose another name)")
    if not overwrite:
        raise RequestError(f"{target}: there already (--overwrite replaces it)")


def _find_problem(target: Path, is_folder: bool) -> str:
    """Return why what is there may not be replaced, "" for an untouched export."""
    if target.is_symlink():
        return "a link"
    if target.is_dir() != is_folder:
        return "a folder" if target.is_dir() else "a file"
    if not is_folder:
        return "" if _has_mark(target) else "and no export of a network"
    if not _has_mark(target / CONFIG):
        return "and no export of a network"
    listed = {*(read_checksums(target) or {}), CHECKSUMS}
    others = sorted({file.name for file in target.iterdir()} - listed)
    if others:
        return f"with files of yours ({', '.join(others[:3])})"
    changed = [name for name, _ in find_damage(target)]
    return f"and changed since ({', '.join(changed[:3])})" if changed else ""


def _has_mark(file: Path) -> bool:
    """Whether a regular file has the mark of an exported network in it."""
    if not file.is_file() or file.is_symlink() or not file.stat().st_size:
        return False
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(MARK.encode()) >= 0
