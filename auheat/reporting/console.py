"""An evaluation as text in a terminal: headline with intervals, units, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auheat.evaluation.columns import CALIBRATION, COLUMNS
from auheat.reporting.run_groups import CONTROLS
from auheat.reporting.tables import find_baselines, find_columns, format_score, tabulate

_Rows = list[tuple[str, ...]]

ACCURACIES = {"image": "the image alone", "geometry": "the points alone", "both": "both"}
"""What of a run with a geometry branch may decide, by its key in evaluation.json."""


def format_interval(low: float, high: float) -> str:
    """Return the ends of an interval in few characters, such as "[.89, .92]"."""
    return f"[{_shorten(low)}, {_shorten(high)}]"


def _shorten(value: float) -> str:
    text = f"{value:.2f}"
    text = text[1:] if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def tabulate_headline(result: Mapping[str, Any]) -> _Rows:
    """Return the headline of one evaluation: a row for each score, with interval and baselines."""
    columns = find_columns([result])
    (_, *headings), own, *baselines = tabulate([result])
    ends = [result["intervals"].get(column.key) for column in columns]
    ranges = [format_interval(*pair) if pair else "" for pair in ends]
    rows = zip(headings, own[1:], ranges, *(cells for _, *cells in baselines), strict=True)
    shown = (baseline.short for baseline in find_baselines(result))
    return [("", own[0], "95 %", *shown), *rows]


def tabulate_units(result: Mapping[str, Any]) -> _Rows:
    """Return the table of AUs: how often a map's maximum lies in the region (pointing), and how
    much stronger than on the whole photo the map is there (attended).
    """
    table = result["au_pointing"]
    kinds = [kind for kind in next(iter(table.values()), {}) if kind != "n"]
    heading = [f"{kind}: {what}" for kind in kinds for what in ("pointing", "attended")]
    rows: _Rows = [("AU", "photos", *heading)]
    for name, entry in table.items():
        cells = [
            text
            for kind in kinds
            for text in (f"{entry[kind]['pointing']:.2f}", f"{entry[kind]['attended']:.1f}x")
        ]
        rows.append((name, str(entry["n"]), *cells))
    return rows


def tabulate_geometry(result: Mapping[str, Any]) -> _Rows:
    """Return the table of a geometry branch: its share of the decisions, and accuracies."""
    about = result["geometry"]
    rows: _Rows = [("points as evidence", f"{about['photos']} photos", "95 %")]

    def add(title: str, ends: Sequence[float]) -> None:
        rows.append((title, f"{ends[0]:.3f}", format_interval(*ends[1:])))

    if about["photos"]:
        add("their share of a decision", about["share"])
        for name, ends in about["groups"].items():
            add(f"  of which {name}", ends)
        for name, ends in about["accuracy"].items():
            add(f"accuracy of {ACCURACIES[name]}", ends)
    if about["silent"]:
        rows.append(("decided by the image alone", f"{about['silent']} photos", ""))
    return rows


def format_calibration(result: Mapping[str, Any]) -> str:
    """Return one line about calibration, "" where nothing is known of it."""
    errors = result["calibration"]
    if errors is None:
        return ""
    return "calibration: " + ", ".join(f"{e.short} {errors[e.key]:.3f}" for e in CALIBRATION)


def tabulate_votes(result: Mapping[str, Any]) -> _Rows:
    """Return the scores by how far people agreed on a photo, the heading first.

    Accuracy and what tells maps apart, each with its interval; a group without photos is left out.
    """
    shown = [column for column in COLUMNS if column.key in _BY_VOTES]
    rows: _Rows = [("votes for the label", "photos", *(column.heading for column in shown))]
    for group in (name for name in _GROUPS if name in result["votes"]["groups"]):
        about, cells = result["votes"]["groups"][group], []
        for column in shown:
            value, low, high = about["scores"].get(column.key, (None, 0, 0))
            ends = "" if value is None else f" {format_interval(low, high)}"
            cells.append(f"{format_score(value)}{ends}")
        rows.append((_GROUPS[group], str(about["n"]), *cells))
    return rows


_BY_VOTES = ("accuracy", "cam_cos", "class_rank1", "att_cos", "margin", "rank1")

_GROUPS = {"unanimous": "all", "most": "over half", "split": "half or fewer"}


def format_source(about: Mapping[str, Any]) -> str:
    """Return one line about heatmaps: of which AUs they are, by what shards or results say."""
    aim = CONTROLS.get(about.get("au_target", "own"))
    control = f"; the run is a control, which learnt from {aim}" if aim else ""
    if about.get("au_mode", "prior") == "prior":
        return f"heatmaps: prior, the AUs that the codebook expects of each expression{control}"
    return (
        f"heatmaps: measured ({about.get('au_form', 'unknown')}, --au-mode {about['au_mode']}), "
        "the AUs of a photo's own expression that were active in it; those of other expressions "
        f"are the codebook's{control}"
    )


def tabulate_codebook(units: Sequence[Mapping[str, Any]]) -> _Rows:
    """Return the table of a codebook against data, of `compare_codebook`'s rows, its heading first.

    The share of photos in which an AU was active is a percentage, "-" where it was not measured.
    """
    rows: _Rows = [("expression", "AU", "codebook", "photos", "active", "intensity")]
    for unit in units:
        share, level = unit["active"], unit["intensity"]
        rows.append(
            (
                unit["expression"],
                f"AU{unit['au']}",
                f"{unit['weight']:g}" if unit["in_codebook"] else "-",
                str(unit["measured"]),
                "-" if share is None else f"{share:.0%}",
                "-" if level is None else f"{level:.2f}",
            )
        )
    return rows


def format_counts(result: Mapping[str, Any]) -> str:
    """Return one line about photos: how many, how many compared, and what was left out."""
    split = "" if result["split"] == "all" else f"{result['split']} "
    line = f"{result['n']} {split}photos, {result['n_valid']} with a heatmap"
    left = "; ".join(f"{why}: {n}" for why, n in result["left_out"].items())
    return f"{line} ({left})" if left else line
