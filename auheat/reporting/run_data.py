"""A run's settings, learning curve, scores, and maps at the page's size, read from its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from auheat.records import Array
from auheat.runs.run_folder import ARRAYS, BEST, ELSEWHERE, RESULT, read_config
from auheat.utils.checksums import find_digest
from auheat.utils.npz import read_npz
from auheat.utils.reading import parse_json, read_json, read_limited

PHOTO_SIDE, MAP_SIDE = 112, 56
"""Sides, in pixels, that photos and maps are kept at; a map is smooth, and shown enlarged."""


CURVES = (
    ("accuracy", (("train_accuracy", "train"), ("val_accuracy", "validation"))),
    ("cross-entropy", (("train_ce", "train"), ("val_ce", "validation"))),
    ("AU alignment loss", (("train_au", "train"), ("val_au", "validation"))),
)
"""The learning curves: title, and (key of metrics.jsonl, what to call it)."""


KINDS = ("attention", "cam")
"""The two maps of a run that pictures show: of the top layer, and of the true class."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Settings, learning curve and scores of a run.

    The curve is empty before the first epoch; scores and arrays where it was not evaluated.
    `about` has what is worth telling beside the settings: versions, rows, detector. `elsewhere` are
    the scores on other stores. `outdated` names those scores that are of other weights than the
    run has now.
    """

    name: str
    settings: Mapping[str, Any]
    curve: list[dict[str, float]]
    scores: Mapping[str, Any]
    arrays: Mapping[str, Array]
    about: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    outdated: tuple[str, ...] = ()

    @property
    def has_class_maps(self) -> bool:
        """Whether the run's method has maps of classes, which its evaluation then scored."""
        return self.scores["cam_cos"] is not None

    def name_map(self, kind: str) -> str:
        """Return what the run's "attention" or "cam" is called."""
        if kind == "attention":
            return kind
        return "CAM" if self.has_class_maps else "map of no class"


def load_run(folder: Path, curve: list[dict[str, float]]) -> Run:
    """Return what lies in a run's folder, pictures made small, with its learning curve.

    Raises `AuheatError` for settings of no use, and whatever reading raises for damaged scores.
    """
    config = read_config(folder)
    settings = config["settings"] | {"shards": config["data"]["shards"]}
    settings["weights"] = config["data"].get("weights_file", settings["weights"])
    about = _describe_config(config)
    files = sorted(folder.glob(f"{ELSEWHERE}/*/evaluation*.json"))
    elsewhere = tuple(read_json(file) for file in files)
    evaluated = (folder / RESULT).is_file()
    scores = read_json(folder / RESULT) if evaluated else {}
    arrays = read_npz(folder / ARRAYS) if evaluated else {}
    arrays = {key: _shrink(key, values) for key, values in arrays.items()}
    outdated = tuple(_list_outdated(folder, [scores, *elsewhere]))
    return Run(folder.name, settings, curve, scores, arrays, about, elsewhere, outdated)


def _list_outdated(folder: Path, evaluations: Sequence[Any]) -> Iterator[str]:
    """Yield the run's name, and the store's, for scores of other weights than the run's."""
    if not (folder / BEST).is_file():  # a copy without weights
        return
    digest = find_digest(folder / BEST)
    for place, scores in enumerate(evaluations):
        about: Any = scores.get("scored_on") if isinstance(scores, dict) else None
        weights = about.get("weights_sha256") if isinstance(about, dict) else None
        if weights is not None and weights != digest:  # an earlier version named none
            yield folder.name + (f" on {Path(str(about.get('store'))).name}" if place else "")


def load_curve(file: Path) -> list[dict[str, float]]:
    """Return the numbers of each epoch, none where a run was stopped in its first.

    Raises whatever reading raises for a damaged file.
    """
    if not file.is_file():
        return []
    wanted = [key for _, keys in CURVES for key, _ in keys]
    lines = [parse_json(line) for line in read_limited(file).splitlines()]
    return [{key: float(line[key]) for key in wanted} for line in lines]


def _describe_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json has beside the settings, as far as it has it."""
    data = config["data"]
    told = {
        "auheat": config.get("auheat"),
        "classes": config["class_names"],
        "training photos": data.get("train_rows"),
        "validation photos": data.get("val_rows"),
        "detector": config.get("detector"),
        "codebook": config["codebook"].get("name"),
        "measured AUs": data.get("au_mode"),
        "codebook digest": _shorten(data.get("codebook_digest")),
        "weights sha256": _shorten(data.get("weights_sha256")),
    }
    return {key: value for key, value in told.items() if value is not None}


def _shorten(digest: Any) -> str | None:
    return None if digest is None else str(digest)[:12]


def _shrink(key: str, values: Array) -> Array:
    """Return pictures at the page's size, so that many runs fit in memory; others unchanged.

    "example_image" is (E, H, W, 3) u8; maps are (N, H, W), and keep their scale.
    """
    if key == "example_image":
        return _resize_all(values, PHOTO_SIDE)
    if key in {f"{start}_{kind}" for start in ("mean", "example") for kind in (*KINDS, "heatmap")}:
        return _resize_all(values.astype(np.float32), MAP_SIDE)
    return values


def _resize_all(pictures: Array, side: int) -> Array:
    if pictures.ndim < 3:
        raise ValueError(f"pictures of shape {pictures.shape}")
    if not len(pictures):
        return pictures
    how = cv2.INTER_AREA if min(pictures.shape[1:3]) > side else cv2.INTER_LINEAR
    return np.stack([cv2.resize(one, (side, side), interpolation=how) for one in pictures])
