"""The page and the charts of a comparison of AU losses, made of study.json alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from auheat.evaluation.agreement import GROUPS
from auheat.models.registry import METHODS
from auheat.reporting.charts import draw_along
from auheat.reporting.faithfulness_section import draw_agreement
from auheat.reporting.figures import write_figure
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import Curve
from auheat.sweeps.study import GROUPED, SCORES
from auheat.sweeps.study_summary import (
    LOSSES,
    QUESTIONS,
    WITHOUT,
    change_direction,
    find_changes,
    find_score,
    format_change,
    format_number,
    name_setting,
    tabulate_scores,
)
from auheat.sweeps.tables import format_grid

CURVES, AGREEMENT, MEANS = "curves.svg", "agreement.svg", "means.png"
"""The figures' files, beside the page."""

_FIGURES = {
    CURVES: "Scores over the number of training photos",
    AGREEMENT: "Agreement with the action units against faithfulness",
    MEANS: "Mean attention and class maps of each class",
}

_TABLES = (
    ("What is recognised", SCORES[:4]),
    ("Where attention lies", SCORES[4:9]),
    ("Where class maps lie", SCORES[9:14]),
    ("Calibration and faithfulness", SCORES[14:]),
)


def write_study_page(study: Mapping[str, Any], prefix: str = "") -> str:
    """Return the page of a comparison in Markdown.

    Args:
        study: What study.json holds.
        prefix: What the names of the figures' files begin with.

    Returns:
        The differences in a few lines, then costs, scores, differences and classes as tables.

    Example:
        >>> from auheat.sweeps.planner import plan_sweep
        >>> from auheat.sweeps.study import describe_study
        >>> from auheat.sweeps.study_page import write_study_page
        >>> "0 of 87 runs" in write_study_page(describe_study(plan_sweep("ferplus"), [], {}))
        True
    """
    parts = [*_list_changes(study), _describe_cost(study)]
    for photos in _sizes(study["settings"]):
        rows = [s for s in study["settings"] if s["photos"] == photos]
        for title, columns in _TABLES:
            parts += [f"### {title}, {_name_size(study, photos)}", tabulate_scores(rows, columns)]
    if study["differences"]:
        parts += ["### Differences", _DIFFERENCES]
        parts += [_tabulate_differences(study, n) for n in _sizes(study["differences"])]
    for title, key in (("By votes for the label", "by_votes"), ("On other sets", "elsewhere")):
        if table := _tabulate_parts(study, key):
            parts += [f"### {title}, {_name_size(study, 0)}", table]
    if study["runs"]:
        parts += ["### Class by class", _tabulate_classes(study), "### Figures"]
        parts += [f"![{_FIGURES[name]}]({prefix}{name})" for name in list_figures(study)]
    return "\n\n".join(parts) + "\n"


def list_figures(study: Mapping[str, Any]) -> list[str]:
    """Return the names of the figures that a comparison has something to show in.

    Args:
        study: What study.json holds.

    Returns:
        Some of `CURVES`, `AGREEMENT` and `MEANS`.

    Example:
        >>> from auheat.sweeps.study_page import list_figures
        >>> list_figures({"runs": [{"photos": 0, "gains": {}}]})
        ['means.png']
    """
    runs = study["runs"]
    shown = {
        CURVES: any(run["photos"] for run in runs),
        AGREEMENT: any(run["gains"] and not run["photos"] for run in runs),
        MEANS: bool(runs),
    }
    return [name for name, is_shown in shown.items() if is_shown]


_DIFFERENCES = (
    "Means over the seeds of the first less the second, with the 95 % interval by bootstrap over "
    "the same photos (the seeds together), and the p of a paired t-test over the seeds in "
    "brackets. Scores without each photo's value have the deviation over the seeds in place of an "
    "interval."
)


def _sizes(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of photos in order, all of them (0) first."""
    return sorted({row["photos"] for row in rows})


def _name_size(study: Mapping[str, Any], photos: int) -> str:
    """Return how many photos runs learnt from: 0 is all, or as many as the sweep was given."""
    photos = photos or study["grid"].get("train_photos") or 0
    return f"{photos:,d} training photos" if photos else "all training photos"


def _list_changes(study: Mapping[str, Any]) -> list[str]:
    """Return what the paired differences on all photos say, loss by loss and method by method."""
    lines = []
    for key, question in QUESTIONS.items():
        for what in LOSSES:
            if cells := find_changes(study, key, what, WITHOUT):
                said = "; ".join(f"{name} {format_change(key, c)}" for name, c in cells.items())
                up = sum(change_direction(c) > 0 for c in cells.values())
                down = sum(change_direction(c) < 0 for c in cells.values())
                lines.append(
                    f"- **{question[0].upper()}{question[1:]}**, {what}: higher for {up}, lower "
                    f"for {down}, neither for {len(cells) - up - down} of {len(cells)} methods "
                    f"({said})."
                )
    head = (
        "With AUs less without, over the seeds (surely higher or lower: the interval leaves out "
        "zero and p < 0.05; p alone where there is no interval):"
    )
    return [head, "\n".join(lines)] if lines else []


def _describe_cost(study: Mapping[str, Any]) -> str:
    photos, runs = study["photos"], study["runs"]
    text = f"{len(runs)} of {len(runs) + len(study['missing'])} runs are scored"
    if photos:
        heat = f"{photos['test_with_heatmap']:,d} of them with a heatmap"
        text += (
            f": {photos['train']:,d} photos to learn from, {photos['val']:,d} to choose the epoch "
            f"on, {photos['test']:,d} to score ({heat})"
        )
    return (
        f"{text}. {study['training_hours']:.1f} hours of training, {study['elapsed_hours']:.1f} "
        "with loading and scoring, summed over the runs; at most "
        f"{study['peak_bytes'] / 2**30:.1f} GiB of memory in a process."
    )


_SHOWN = ("accuracy", "macro_f1", "att_cos", "rank1", "cam_rank1_predicted", "class_rank1",
          "attention_gain", "cam_gain")  # fmt: skip


def _tabulate_differences(study: Mapping[str, Any], photos: int) -> str:
    headings = {score.key: score.heading for score in SCORES}
    size = _name_size(study, photos)
    lines = [
        [
            f"{METHODS[d['method']].title}: {d['first']} less {d['second']}, {size}",
            *(
                format_change(key, d["scores"][key]) if key in d["scores"] else "-"
                for key in _SHOWN
            ),
        ]
        for d in study["differences"]
        if d["photos"] == photos
    ]
    return format_grid(["difference", *(headings[key] for key in _SHOWN)], lines)


def _tabulate_classes(study: Mapping[str, Any]) -> str:
    """Return accuracy and ATT-COS of each class, of the first method on all photos."""
    rows = [s for s in study["settings"] if not s["photos"]]
    rows = [s for s in rows if s["method"] == rows[0]["method"]]
    names = study["class_names"]
    lines = []
    for row in rows:
        for key, heading in (("accuracy", "recognised (%)"), ("att_cos", "ATT-COS")):
            score = find_score(key)
            values = (row["per_class"][name].get(key) for name in names)
            cells = ("-" if v is None else format_number(score, v) for v in values)
            lines.append([name_setting(row), heading, *cells])
    return format_grid(["trained with", "", *names], lines)


def _tabulate_parts(study: Mapping[str, Any], key: str) -> str:
    """Return the scores of groups of photos, or of other sets, as means over the seeds."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in study["runs"]:
        names = [] if run["photos"] else sorted(run[key], key=_order)
        for name in names:
            runs.setdefault((name_setting(run), name), []).append(run[key][name])
    shown = [score for score in SCORES if score.key in GROUPED]
    lines = []
    for (title, name), parts in runs.items():
        cells = []
        for score in shown:
            known = [part[score.key] for part in parts if part[score.key] is not None]
            cells.append(format_number(score, fmean(known)) if known else "-")
        lines.append([title, name, str(parts[0]["n"]), str(len(parts)), *cells])
    heading = ["trained with", "photos", "n", "seeds", *(score.heading for score in shown)]
    return format_grid(heading, lines) if lines else ""


def _order(name: str) -> tuple[int, str]:
    return (GROUPS.index(name) if name in GROUPS else len(GROUPS), name)


def _as_run(run: Mapping[str, Any]) -> Run:
    """Return a run of study.json as the report's charts take it."""
    scores = {**run["scores"], "cam_cos_predicted": run["cam_cos_predicted"]}
    if run["gains"]:
        maps = {kind: {"gain": gain} for kind, gain in run["gains"].items()}
        scores["faithfulness"] = {"maps": maps}
    return Run(run["run"], run["config"], [], scores, {})


def draw_learning_curves(study: Mapping[str, Any]) -> str:
    """Return the scores over the number of training photos as SVG.

    Args:
        study: What study.json holds.

    Returns:
        The text of an SVG file; lines are what runs were trained with, marks means over the seeds,
        whiskers one standard deviation.

    Example:
        >>> from auheat.sweeps.study_page import draw_learning_curves
        >>> "<svg" in draw_learning_curves({"runs": []})
        True
    """
    sized = {(r["method"], r["what"]) for r in study["runs"] if r["photos"]}
    lines: dict[tuple[str, str], dict[int, list[Run]]] = {}
    for run in study["runs"]:
        if (key := (run["method"], run["what"])) in sized:
            lines.setdefault(key, {}).setdefault(run["train_rows"], []).append(_as_run(run))
    curves = [
        Curve(f"{METHODS[method].title}, {what}", tuple((str(n), tuple(by[n])) for n in sorted(by)))
        for (method, what), by in lines.items()
    ]
    charts = draw_along("training photos", curves) if curves else []
    return write_figure([curve.title for curve in curves], charts)


def draw_faithfulness(study: Mapping[str, Any]) -> str:
    """Return agreement with the action units against faithfulness as SVG.

    Args:
        study: What study.json holds.

    Returns:
        The text of an SVG file: a mark for each run on all photos, with its interval.

    Example:
        >>> from auheat.sweeps.study_page import draw_faithfulness
        >>> "<svg" in draw_faithfulness({"runs": []})
        True
    """
    shown = [run for run in study["runs"] if run["gains"] and not run["photos"]]
    names = list(dict.fromkeys(run["what"] for run in shown))
    marked = [(names.index(run["what"]), _as_run(run)) for run in shown]
    return write_figure(names, draw_agreement(marked), wide=2)
