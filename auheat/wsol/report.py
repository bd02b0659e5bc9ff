"""The report with runs: their curves, scores and pictures side by side, above the store's own.

Everything is read from the runs' files (metrics.jsonl, evaluation.json, evaluation.npz), so a
report costs no inference.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from auheat.records import Array, AuheatError
from auheat.sheets import colorize, describe_store, embed, overlay, write_page
from auheat.wsol.checkpoints import METRICS, RUNS, find_run, read_config
from auheat.wsol.evaluation import ARRAYS, RESULT

TILE = 112
"""Side of a mean map or of one picture of an example, in pixels."""

CURVES = (
    ("accuracy", (("train_accuracy", "train"), ("val_accuracy", "validation"))),
    ("cross-entropy", (("train_ce", "train"), ("val_ce", "validation"))),
    ("AU alignment loss", (("train_au", "train"), ("val_au", "validation"))),
)
"""The learning curves: title, and (key of metrics.jsonl, what to call it)."""

COLUMNS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced"),
    ("cam_cos", "CAM-COS"),
    ("att_cos", "ATT-COS"),
    ("att_cos_centred", "centred"),
    ("margin", "margin"),
    ("rank1", "rank-1"),
)
"""The headline table: score of evaluation.json, and its heading."""

BASELINES = (
    ("mean_heatmap", "mean training heatmap"),
    ("centre_gaussian", "best centred Gaussian"),
    ("uniform", "uniform map"),
    ("wrong_class", "the photo's map of a wrong class"),
)


_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    cv2.error,
)
"""What reading or drawing a file raises whose content is not what was once written."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run as its files tell it.

    The curve is empty before the first epoch; scores and arrays where it was not evaluated.
    """

    name: str
    settings: Mapping[str, Any]
    curve: list[dict[str, float]]
    scores: Mapping[str, Any]
    arrays: Mapping[str, Array]


def write_report(
    store: Path,
    runs: Sequence[str] = (),
    name: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write the report of a store and of its runs, and return its path.

    `runs` are names or folders, by default all of the store's; `name` chooses the shards where
    there are several; `out` defaults to report.html in the store. Raises `AuheatError`.
    """
    found = [read_run(find_run(store, run)) for run in runs or list_runs(store)]
    if name is None and found:
        name = found[0].settings.get("shards") or None
    content = describe_store(store, name) | describe_runs(found)
    return write_page(store / "report.html" if out is None else out, content)


def list_runs(store: Path) -> list[str]:
    """Return the names of a store's runs."""
    return sorted(file.parent.name for file in (store / RUNS).glob("*/config.json"))


def read_run(folder: Path) -> Run:
    """Read a run's files; raises `AuheatError` where one is damaged."""
    config = read_config(folder)
    settings = config["settings"] | {"shards": config["data"]["shards"]}
    settings["weights"] = config["data"].get("weights_file", settings["weights"])
    curve = _read_curve(folder / METRICS)
    if not (folder / RESULT).is_file():
        return Run(folder.name, settings, curve, {}, {})
    try:
        scores = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        with (
            (folder / ARRAYS).open("rb") as file,  # np.load leaves a damaged one open
            np.load(file, allow_pickle=False) as opened,
        ):
            arrays = {key: opened[key] for key in opened.files}
        run = Run(folder.name, settings, curve, scores, arrays)
        _check_scores(run)
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}"
        raise AuheatError(f"{folder}: unreadable ({what}); run `auheat evaluate` again") from error
    return run


def _read_curve(file: Path) -> list[dict[str, float]]:
    """Return the numbers of each epoch, none where a run was stopped in its first."""
    if not file.is_file():
        return []
    wanted = [key for _, keys in CURVES for key, _ in keys]
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [{key: float(line[key]) for key in wanted} for line in lines]
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}"
        raise AuheatError(f"{file}: unreadable ({what}); `auheat train` makes it anew") from error


def _has_class_maps(run: Run) -> bool:
    """Whether the run's method has maps of classes, which its evaluation then scored."""
    return run.scores["cam_cos"] is not None


def _name_map(run: Run, kind: str) -> str:
    """Return what a run's "attention" or "cam" is called."""
    if kind == "attention":
        return kind
    return "CAM" if _has_class_maps(run) else "map of no class"


def _check_scores(run: Run) -> None:
    """Raise one of `_DAMAGE` unless all that the page shows of a run can be shown."""
    names = [name + "" for name in run.scores["class_names"]]
    for key, _ in COLUMNS:
        if _has_class_maps(run) or key != "cam_cos":
            float(run.scores[key])
    for key in ("attention", "cam", "heatmap"):
        if run.arrays[f"mean_{key}"].shape[:1] != (len(names),):
            raise ValueError(f"mean_{key} is not of {len(names)} classes")
    describe_runs([run])


def describe_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the report's page shows of the runs."""
    scored = [run for run in runs if run.scores]
    return {
        "runs": [{"name": run.name, "settings": _tell_settings(run)} for run in runs],
        "untrained": [run.name for run in runs if not run.curve and not run.scores],
        "unscored": [run.name for run in runs if run.curve and not run.scores],
        "curves": [draw_curves(title, keys, runs) for title, keys in CURVES],
        "headline": tabulate([run.scores for run in scored]) if scored else [],
        "scored": len(scored),
        "confusions": [_show_confusion(run) for run in scored],
        "matrices": [_show_matrix(run) for run in scored],
        "means": _show_means(scored),
        "examples": _show_examples(scored),
    }


def _tell_settings(run: Run) -> str:
    keys = ("method", "backbone", "weights", "image_size", "au_weight", "layers", "epochs", "seed")
    told = ", ".join(f"{key.replace('_', ' ')} {run.settings[key]}" for key in keys)
    if not run.scores:
        return told
    split, n, n_valid = (run.scores[key] for key in ("split", "n", "n_valid"))
    return f"{told}; scored on {n:d} {split} photos, {n_valid:d} of them with a heatmap"


def tabulate(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the headline table as text: a heading, runs, then the baselines of the first.

    These say whose they are where another run, of other classes or shards, has others.
    """
    rows = [("", *(heading for _, heading in COLUMNS))]
    rows += [(scores["run"], *_cells(scores)) for scores in results]
    if results:
        tables = [[_cells(scores["baselines"][key]) for key, _ in BASELINES] for scores in results]
        differ = any(table != tables[0] for table in tables)
        whose = f" (of {results[0]['run']})" if differ else ""
        rows += [
            (title + whose, *cells) for (_, title), cells in zip(BASELINES, tables[0], strict=True)
        ]
    return rows


def _cells(scores: Mapping[str, Any]) -> list[str]:
    return [tell_score(scores[key]) if key in scores else "" for key, _ in COLUMNS]


def tell_score(score: float | None) -> str:
    """Return a score as tables show it: "-" where a method has none of this kind."""
    return "-" if score is None else f"{score:.3f}"


def draw_curves(title: str, keys: Sequence[tuple[str, str]], runs: Sequence[Run]) -> dict[str, Any]:
    """Return a chart as polylines in a 100 x 100 square: one line per run and key.

    x runs over the epochs of the longest run, y from the least to the greatest value.
    """
    series = [
        (run.name, what, index, [float(line[key]) for line in run.curve])
        for index, run in enumerate(runs)
        for key, what in keys
    ]
    values = [v for *_, line in series for v in line if np.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    longest = max((len(line) for *_, line in series), default=1)
    span = high - low or 1.0
    lines = []
    for run, what, index, line in series:
        points = [
            f"{100 * i / max(longest - 1, 1):.2f},{100 - 100 * (v - low) / span:.2f}"
            for i, v in enumerate(line)
        ]
        dashed = what == "train"
        lines.append(
            {"run": run, "what": what, "index": index, "dashed": dashed, "points": " ".join(points)}
        )
    return {
        "title": title,
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "epochs": longest,
        "lines": lines,
    }


def _show_confusion(run: Run) -> dict[str, Any]:
    """Return a confusion matrix: rows are true classes, each cell its count and row share."""
    counts = np.array(run.scores["confusion"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {"name": name, "cells": [(int(n), round(float(s), 3)) for n, s in zip(*row, strict=True)]}
        for name, *row in zip(run.scores["class_names"], counts, share, strict=True)
    ]
    return {"run": run.name, "names": run.scores["class_names"], "rows": rows}


def _show_matrix(run: Run) -> dict[str, Any]:
    """Return the cosines of each expression (rows) at each layer and in its CAM."""
    matrix = run.scores["matrix"]
    rows = [
        {"name": name, "cells": [(f"{v:.2f}", round(max(0.0, float(v)), 3)) for v in values]}
        for name, values in zip(matrix["rows"], matrix["values"], strict=True)
    ]
    return {"run": run.name, "names": matrix["columns"], "rows": rows}


def _show_means(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the mean maps of each class: what is expected, then attention and map per run."""
    if not runs:
        return {"names": [], "rows": []}
    first = runs[0]
    names = list(first.scores["class_names"])
    there = [k for k in range(len(names)) if first.arrays["mean_heatmap"][k].max() > 0]
    rows = [{"title": "expected (A)", "pictures": _tiles(first.arrays["mean_heatmap"][there])}]
    for kind in ("attention", "cam"):
        rows += [
            {
                "title": f"{_name_map(run, kind)}, {run.name}",
                "pictures": _tiles(run.arrays[f"mean_{kind}"][there]),
            }
            for run in runs
            if list(run.scores["class_names"]) == names
        ]
    return {"names": [names[k] for k in there], "rows": rows}


def _tiles(maps: Array) -> list[str]:
    return [embed(colorize(_stretch(one))) for one in maps]


def _stretch(one: Array) -> Array:
    """Return a map scaled to [0, 1] and to TILE pixels, for the eye."""
    low, high = float(one.min()), float(one.max())
    scaled = (one - low) / (high - low) if high > low else np.zeros_like(one)
    return cv2.resize(scaled.astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR)


def _show_examples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return photos that all runs saw: A, and each run's attention and CAM over the photo."""
    shared = [
        key
        for key in (runs[0].arrays["example_id"].tolist() if runs else [])
        if all(key in run.arrays["example_id"].tolist() for run in runs)
    ]
    return [_show_example(key, runs) for key in shared]


def _show_example(key: str, runs: Sequence[Run]) -> dict[str, Any]:
    first = runs[0].arrays
    i = first["example_id"].tolist().index(key)
    names = runs[0].scores["class_names"]
    photo = cv2.resize(first["example_image"][i], (TILE, TILE), interpolation=cv2.INTER_AREA)
    pictures = [
        ("photo", embed(photo)),
        ("expected (A)", embed(overlay(photo, _stretch(first["example_heatmap"][i])))),
    ]
    for run in runs:
        j = run.arrays["example_id"].tolist().index(key)
        guess = run.scores["class_names"][int(run.arrays["example_predicted"][j])]
        for kind in ("attention", "cam"):
            picture = overlay(photo, _stretch(run.arrays[f"example_{kind}"][j]))
            title = f"{_name_map(run, kind)}, {run.name} (says {guess})"
            pictures.append((title, embed(picture)))
    return {"id": key, "label": names[int(first["example_label"][i])], "pictures": pictures}
