"""What an exported network says of itself: classes, codebook, input, framing, outputs, terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from auheat import __version__
from auheat.datasets.registry import DATASETS
from auheat.deployment.run_model import RunModel
from auheat.runs.checkpoint import find_weights_file
from auheat.runs.run_folder import RUNS
from auheat.store.store import read_layout
from auheat.utils.files import file_digest

MARK = "auheat-model-export-1"
"""Stands in every exported file: only such a file is ever replaced."""

RANGE = "RGB in [0, 1]; mean and deviation of `normalisation` are applied inside the network"

_BOOK = ("name", "title", "citation", "digest", "expressions")

_FRAMING = {
    "align": "turned upright and to one size by the landmarks, {0} x {0} px",
    "crop": "cropped to the face where that is small",
    "alike": "brought to the place and size that all training faces have, where it lies elsewhere",
    "": "a face smaller than those of training is cropped to their size",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a network comes from: its data set's layout and terms, and the sha256 of its weights.

    `layout` and `terms` are "" where nothing says them.
    """

    layout: str
    terms: str
    weights_sha256: str


def find_provenance(run: Path, config: Mapping[str, Any]) -> Provenance:
    """Return where a run's network comes from, by its config and the store that it lies in.

    The terms are those of the layout's row in `auheat.datasets.DATASETS`.
    """
    layout = str(config["data"].get("dataset", ""))
    if not layout and run.resolve().parent.name == RUNS:
        layout = read_layout(run.resolve().parents[1])
    row = DATASETS.get(layout)
    return Provenance(layout, row.terms if row else "", file_digest(find_weights_file(run)))


def _make_public(config: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Return a run's config.json with the data set's layout, and of files the names alone."""
    settings = {**config["settings"], "weights": PurePath(config["settings"]["weights"]).name}
    data = {**config["data"], **({"dataset": layout} if layout else {})}
    return {**config, "settings": settings, "data": data}


def describe_framing_in_words(config: Mapping[str, Any]) -> str:
    """Return how a photo is framed before it is resized, as a sentence's end."""
    framing = config.get("framing")
    if framing is None:
        return "not known: small faces are cropped"
    kind = next((key for key in ("align", "alike") if framing[key]), "")
    kind = "crop" if framing["crop"] == "auto" else kind
    return _FRAMING[kind].format(framing["align"])


def describe_model(
    model: RunModel, provenance: Provenance, name: str, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Return the metadata of an exported network; `left_out` says what it lacks, and why."""
    side, config = model.image_size, model.config
    inputs = {"images": f"(batch, 3, {side}, {side}) float32, {RANGE}"}
    if model.takes_landmarks:
        inputs["landmarks"] = (
            "(batch, 68, 2) float32, iBUG order, pixels x, y of the framed photo before it is "
            "resized; NaN where no face is sure"
        )
    outputs = {
        "logits": f"(batch, {len(model.class_names)})",
        "attention": "(batch, h, w), mean over the channels of the top layer's features",
        "class_maps": f"(batch, {len(model.class_names)}, h, w), {model.method.title}",
    }
    return {
        "auheat_model": MARK,
        "auheat": __version__,
        "run": name,
        "class_names": list(model.class_names),
        "codebook": {key: config["codebook"].get(key) for key in _BOOK},
        "image_size": side,
        "framing": describe_framing_in_words(config)
        + f"; then the whole framed photo is resized to {side} x {side} px, by area where it "
        "shrinks, else bilinearly; a photo without a sure face is taken whole",
        "normalisation": config["normalisation"],
        "inputs": inputs,
        "outputs": {key: text for key, text in outputs.items() if key not in left_out},
        "left_out": dict(left_out),
        "weights_sha256": provenance.weights_sha256,
        "data": {"layout": provenance.layout, "terms": provenance.terms},
        "config": _make_public(config, provenance.layout),
    }
