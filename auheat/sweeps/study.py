"""A comparison of AU losses as numbers: each run's config and scores, seeds together, differences.

All of it is plain values, study.json, of which the page and its charts are made without a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from auheat import __version__
from auheat.evaluation.agreement import score_by_votes
from auheat.evaluation.bootstrap import paired_t_test
from auheat.evaluation.columns import CLASS_COLUMNS, COLUMNS
from auheat.reporting.paired import NEEDED, compare_pairs
from auheat.reporting.run_data import Run
from auheat.runs.run_folder import ARRAYS, BEST, RUNS, read_config, read_metadata
from auheat.store.votes import read_votes
from auheat.sweeps.differences import load_scored, pair_photos, pair_seeds, read_photo_scores
from auheat.sweeps.elsewhere import read_elsewhere
from auheat.sweeps.grid import VARIANTS, RunKey, SweepPlan
from auheat.sweeps.results import RunResult, spread
from auheat.utils.npz import read_npz

STUDY_VERSION = 0

_DIGITS = 6
_NO_MATTER = ("device", "workers", "tensorboard")


class StudyScore(NamedTuple):
    """A score of the study: its key and heading, and whether tables show it in per cent."""

    key: str
    heading: str
    percent: bool = False


SCORES: tuple[StudyScore, ...] = (
    StudyScore("accuracy", "accuracy (%)", percent=True),
    StudyScore("macro_f1", "macro-F1"),
    StudyScore("balanced_accuracy", "UAR (%)", percent=True),
    StudyScore("kappa", "kappa"),
    StudyScore("att_cos", "ATT-COS"),
    StudyScore("att_cos_centred", "centred"),
    StudyScore("margin", "margin"),
    StudyScore("rank1", "rank-1 (%)", percent=True),
    StudyScore("rank1_predicted", "rank-1 of predicted (%)", percent=True),
    StudyScore("cam_cos", "CAM-COS"),
    StudyScore("cam_rank1", "CAM rank-1 (%)", percent=True),
    StudyScore("cam_rank1_predicted", "CAM rank-1 of predicted (%)", percent=True),
    StudyScore("class_rank1", "class rank-1 (%)", percent=True),
    StudyScore("class_margin", "class margin"),
    StudyScore("ece", "ECE"),
    StudyScore("nll", "NLL"),
    StudyScore("attention_gain", "gain of attention"),
    StudyScore("cam_gain", "gain of predicted CAM"),
    StudyScore("own_elsewhere", "own regions less elsewhere"),
    StudyScore("own_others", "own regions less others'"),
)
"""The scores of the study, in the order of its tables."""

GROUPED = ("accuracy", "att_cos", "rank1", "class_rank1")
"""The scores that are given by how far people agree on a photo."""

_OF_PHOTOS = {"accuracy"} | {c.key for c in COLUMNS if c.key not in CLASS_COLUMNS}

PAIRS: tuple[tuple[str, str | None], ...] = (
    ("", None),
    ("maps", None),
    ("maps", ""),
    ("", "mean"),
    ("", "wrong"),
    ("faces", ""),
)
"""Which variants are compared, first less second; None is the run without AUs."""


def flatten_scores(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Return an evaluation's value of each of `SCORES`, None where it has none.

    Args:
        scores: What evaluation.json has; faithfulness may be missing.

    Returns:
        Key -> value, rounded to six digits.

    Example:
        >>> from auheat.sweeps.study import flatten_scores
        >>> found = flatten_scores({"accuracy": 0.5, "calibration": {"ece": 0.1}})
        >>> found["accuracy"], found["ece"], found["attention_gain"]
        (0.5, 0.1, None)
    """
    flat = {**scores, **(scores.get("calibration") or {})}
    measured = scores.get("faithfulness") or {}
    maps = measured.get("maps", {})
    for key, kind in (("attention_gain", "attention"), ("cam_gain", "CAM predicted")):
        flat[key] = maps[kind]["gain"][0] if kind in maps else None
    less = measured.get("class_regions", {}).get("predicted", {}).get("own_less", {})
    for key in ("elsewhere", "others"):
        flat[f"own_{key}"] = less[key]["logit_blur"][0] if key in less else None
    return {score.key: _round(flat.get(score.key)) for score in SCORES}


def describe_study(
    plan: SweepPlan, results: Sequence[RunResult], places: Mapping[str, Path]
) -> dict[str, Any]:
    """Return the whole comparison as plain values: what study.json holds.

    Args:
        plan: The sweep's plan.
        results: Its runs; those that have no scores yet are left out, and named.
        places: The store of each data set.

    Returns:
        What was asked for, hours and memory, and lists of runs, of settings (seeds together), and
        of paired differences.

    Example:
        >>> from auheat.sweeps.planner import plan_sweep
        >>> from auheat.sweeps.study import describe_study
        >>> describe_study(plan_sweep("ferplus"), [], {})["runs"]
        []
    """
    scored = [r for r in results if r.scores]
    records = [r.record for r in results]
    return {
        "format": STUDY_VERSION,
        "auheat": __version__,
        "name": plan.name,
        "grid": _leave_out_folders(plan.grid),
        "missing": [c.name for c in plan.cells if c.name not in {r.cell.name for r in scored}],
        "training_hours": round(sum(r.seconds for r in records) / 3600, 3),
        # what a stopped call took beyond its epochs is not known
        "elapsed_hours": round(sum(max(r.elapsed, r.seconds) for r in records) / 3600, 3),
        "peak_bytes": max([0, *(r.peak_bytes for r in records)]),
        "class_names": list(scored[0].scores["class_names"]) if scored else [],
        "photos": _count_photos(scored, places),
        "runs": [_describe_run(r, places[r.cell.setting.data]) for r in scored],
        "settings": [
            _describe_setting(key, [r for r in scored if r.cell.setting == key])
            for key in dict.fromkeys(r.cell.setting for r in scored)
        ],
        "differences": _list_differences(scored, places),
    }


def _leave_out_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they may be published: a file of weights by its name alone."""
    weights = settings.get("weights")
    return {**settings, **({"weights": Path(weights).name} if weights else {})}


def _count_photos(scored: Sequence[RunResult], places: Mapping[str, Path]) -> dict[str, Any]:
    """Return how many photos a run on all of them had, of each split and class."""
    whole = next((r for r in scored if not r.cell.setting.photos), None)
    if whole is None:
        return {}
    config = read_config(places[whole.cell.setting.data] / RUNS / whole.cell.name)
    classes = config["class_names"]
    return {
        "train": config["data"]["train_rows"],
        "val": config["data"]["val_rows"],
        "test": whole.scores["n"],
        "test_with_heatmap": whole.scores["n_valid"],
        "train_per_class": dict(zip(classes, config["data"]["train_per_class"], strict=True)),
        "detector": config["detector"],
    }


def _describe_run(result: RunResult, store: Path) -> dict[str, Any]:
    """Return a run's config, cost and scores."""
    folder, key = store / RUNS / result.cell.name, result.cell.setting
    config, scores = read_config(folder), result.scores
    measured = (scores.get("faithfulness") or {}).get("maps", {})
    return {
        "run": result.cell.name,
        **_describe_key(key),
        "seed": result.cell.config.seed,
        "train_rows": config["data"]["train_rows"],
        "config": {
            k: v for k, v in _leave_out_folders(config["settings"]).items() if k not in _NO_MATTER
        },
        "best_epoch": read_metadata(folder / BEST).get("epoch"),
        "seconds": result.record.seconds,
        "elapsed": result.record.elapsed,
        "peak_bytes": result.record.peak_bytes,
        "scores": flatten_scores(scores),
        "cam_cos_predicted": _round(scores.get("cam_cos_predicted")),
        "gains": {kind: [_round(v) for v in by["gain"]] for kind, by in measured.items()},
        "per_class": {
            name: {k: _round(v) for k, v in by.items()} for name, by in scores["per_class"].items()
        },
        "by_votes": _score_by_votes(folder, store, scores),
        "elsewhere": list_elsewhere(folder),
    }


def _score_by_votes(folder: Path, store: Path, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of each group of photos by their votes; {} where the store has none.

    Of a run that was scored before the store had votes they are counted from its arrays.
    """
    by_votes = scores.get("votes")
    if by_votes is None and (votes := read_votes(store)) is not None:
        arrays = read_npz(folder / ARRAYS, NEEDED)
        by_votes = score_by_votes(votes, arrays, tuple(scores["class_names"]))
    return {
        group: {"n": about["n"]}
        | {key: _round(about["scores"].get(key, [None])[0]) for key in GROUPED}
        for group, about in (by_votes or {"groups": {}})["groups"].items()
    }


def list_elsewhere(folder: Path) -> dict[str, Any]:
    """Return the scores on other data sets: name of the store -> photos, and each score.

    Args:
        folder: The run's folder.

    Returns:
        Of several stores called alike, all but the first have a digest of their content in their
        names.

    Example:
        >>> from pathlib import Path
        >>> from auheat.sweeps.study import list_elsewhere
        >>> list_elsewhere(Path("no-run"))
        {}
    """
    listed: dict[str, Any] = {}
    for name, (_, scores) in _name_elsewhere(folder).items():
        absent = {"absent_classes": list((scores.get("scored_on") or {}).get("absent_classes", ()))}
        listed[name] = {"n": scores.get("n"), **absent, **flatten_scores(scores)}
    return listed


def _name_elsewhere(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the file and scores of each other set: name of the store and split -> both."""
    named: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file, scores in read_elsewhere(folder).items():
        about = scores.get("scored_on") or {}
        name = f"{Path(about.get('store', '')).name}, {scores.get('split')}"
        name += f", {str(about.get('content'))[:8]}" if name in named else ""
        named[name] = file, scores
    return named


def _describe_key(key: RunKey) -> dict[str, Any]:
    what = VARIANTS[key.variant].title if key.au_weight else "without AUs"
    about = {"method": key.method, "au_weight": key.au_weight, "variant": key.variant}
    return {**about, "photos": key.photos, "what": what}


def _describe_setting(key: RunKey, runs: Sequence[RunResult]) -> dict[str, Any]:
    """Return mean, standard deviation and number of seeds of each score of equal runs."""
    values = [flatten_scores(r.scores) for r in runs]
    scores = {}
    for score in SCORES:
        over = spread([flat[score.key] for flat in values])
        scores[score.key] = None if over is None else [_round(v) for v in over]
    names = runs[0].scores["class_names"]
    classes = {name: [r.scores["per_class"].get(name, {}) for r in runs] for name in names}
    per_class = {
        name: {
            column: _round(fmean(known))
            for column in sorted({column for one in each for column in one})
            if len(known := [one[column] for one in each if one.get(column) is not None])
            == len(runs)
        }
        for name, each in classes.items()
    }
    about = {**_describe_key(key), "seeds": len(runs)}
    return {**about, "scores": scores, "per_class": per_class}


def _list_differences(
    scored: Sequence[RunResult], places: Mapping[str, Path]
) -> list[dict[str, Any]]:
    """Return the paired differences of `PAIRS`, of each method and number of photos."""
    listed = []
    settings = dict.fromkeys(r.cell.setting for r in scored)
    for method, photos in dict.fromkeys((s.method, s.photos) for s in settings):
        known = {
            s.variant if s.au_weight else None: s
            for s in settings
            if (s.method, s.photos) == (method, photos)
        }
        for one, other in PAIRS:
            if one not in known or other not in known:
                continue
            pairs = pair_seeds(scored, known[one], known[other])
            place = places[known[one].data]
            if pairs:
                first, second = (_describe_key(known[name])["what"] for name in (one, other))
                about = {"method": method, "photos": photos, "first": first, "second": second}
                about |= {"pairs": len(pairs), "scores": _compare(pairs, place)}
                listed.append(about | {"elsewhere": _compare_elsewhere(pairs, place)})
    return listed


def _compare_elsewhere(pairs: Sequence[tuple[RunResult, RunResult]], store: Path) -> dict[str, Any]:
    """Return the differences on other sets, of scores that each photo has: set -> score -> values.

    Pairs without each photo's scores are left out; `pairs` counts those that are compared.
    """
    found: dict[str, list[tuple[Run, Run]]] = {}
    for one, other in pairs:
        first, second = (_load_elsewhere(store / RUNS / r.cell.name) for r in (one, other))
        for name in first:
            if name in second and pair_photos(first[name], second[name]):
                found.setdefault(name, []).append((first[name], second[name]))
    listed: dict[str, Any] = {}
    for name, alike in found.items():
        listed[name] = {"pairs": len(alike)}
        for score in SCORES:
            change = compare_pairs(alike, score.key) if score.key in _OF_PHOTOS else None
            if change is not None:
                values = *change.interval, change.deviation, change.p
                listed[name][score.key] = [_round(v) for v in values]
    return listed


def _load_elsewhere(folder: Path) -> dict[str, Run]:
    """Return a run's scores on other sets, with what each photo scored where that can be read."""
    return {
        name: Run(folder.name, {}, [], scores, read_photo_scores(file.with_suffix(".npz")))
        for name, (file, scores) in _name_elsewhere(folder).items()
    }


def _compare(pairs: Sequence[tuple[RunResult, RunResult]], store: Path) -> dict[str, Any]:
    """Return the difference of each score: value, interval, deviation over seeds and p.

    Scores that a photo has none of differ by their seeds alone, and have no interval.
    """
    loaded = [(load_scored(one, store), load_scored(other, store)) for one, other in pairs]
    alike = [pair for pair in loaded if pair_photos(*pair)]
    values = [(flatten_scores(one.scores), flatten_scores(other.scores)) for one, other in pairs]
    out: dict[str, Any] = {}
    for score in SCORES:
        if score.key in _OF_PHOTOS and alike:
            if (change := compare_pairs(alike, score.key)) is not None:
                seeds = change.deviation, change.p
                out[score.key] = [_round(v) for v in (*change.interval, *seeds)]
            continue
        sides = [(one[score.key], other[score.key]) for one, other in values]
        own = [a - b for a, b in sides if a is not None and b is not None]
        if own and len(own) == len(pairs):
            over = (stdev(own), paired_t_test(own)) if len(own) > 1 else (None, None)
            out[score.key] = [_round(v) for v in (fmean(own), None, None, *over)]
    return out


def _round(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value
