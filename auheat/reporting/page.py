"""The report with runs: their curves, scores and pictures side by side, above the store's own.

Everything is read from the runs' files (metrics.jsonl, evaluation.json, evaluation.npz), so a
report costs no inference. What an evaluation of an earlier version lacks is not shown.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import cv2
import jinja2
import numpy as np

from auheat import __version__
from auheat.errors import AuheatError, StoreError
from auheat.reporting.across import across_context
from auheat.reporting.charts import (
    MAX_TRAINING,
    draw_along,
    draw_curves,
    draw_reliability,
    tabulate_along,
)
from auheat.reporting.class_maps_section import class_maps_context
from auheat.reporting.console import format_source
from auheat.reporting.faithfulness_section import faithfulness_context
from auheat.reporting.findings import add_photos, findings_context
from auheat.reporting.paired import paired_context
from auheat.reporting.pictures import (
    MAX_RUNS,
    Album,
    examples_context,
    extremes_context,
    means_context,
)
from auheat.reporting.run_data import CURVES, KINDS, Run, load_curve, load_run
from auheat.reporting.run_groups import Curve, find_layer_curves, find_weight_curves
from auheat.reporting.score_axes import GLANCE, strips_context
from auheat.reporting.store_section import describe_store
from auheat.reporting.tables import (
    HEADLINE,
    calibration_context,
    confusion_context,
    describe_run,
    headline_context,
    maps_context,
    matrix_context,
    settings_context,
    units_context,
)
from auheat.runs.run_folder import ARRAYS, CONFIG, METRICS, RESULT, RUNS, check_bytes, find_run
from auheat.utils.checksums import are_of_one_time, read_steadily
from auheat.utils.console import log_notes
from auheat.utils.files import write_whole
from auheat.utils.marks import check_target, page_mark
from auheat.utils.npz import DAMAGE
from auheat.utils.paths import find_store
from auheat.utils.text import escape_controls

_T = TypeVar("_T")

_KIND = "report"

_AGAIN = "run `auheat evaluate NAME` again"

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)

_LOG = logging.getLogger(__name__)


def report(
    runs: str | Path | Sequence[str | Path] = (),
    store: str | Path | None = None,
    *,
    shards: str | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write one self-contained HTML page of a store and its runs, and return its path.

    It shows faces, heatmaps and counts, and runs side by side.

    Args:
        runs: Name or folder of a run, or several; empty: all of the store's.
        store: Folder of the shards; None: $AUHEAT_STORE, else auheat-data.
        shards: Name of the shards to show, where there are several; None: those of the first run.
        out: HTML file to write, or a report to replace; None: report.html in the store.

    Returns:
        The file that was written.

    Raises:
        AuheatError: Where there are no shards, a run's files are damaged, or `out` is there and no
            report.

    Example:
        >>> import auheat
        >>> auheat.report(["with-aus", "without-aus"], "store")  # doctest: +SKIP
        PosixPath('store/report.html')
    """
    store = find_store(store)
    runs = [runs] if isinstance(runs, str | Path) else runs
    out = store / "report.html" if out is None else Path(out)
    check_target(out, _KIND)
    found = [read_run(find_run(store, run)) for run in runs or list_runs(store)]
    if shards is None and found:
        shards = found[0].settings.get("shards") or None
    content = describe_store(store, shards) | describe_runs(found) | {"made": _format_date()}
    content |= {"findings": add_photos(content["findings"], content)}
    units = {a["au"]: a["name"] for row in content["codebook"] for a in row["aus"]}
    if content["outdated"]:
        names = ", ".join(content["outdated"])
        log_notes(
            _LOG, [f"warning: scores of other weights than the run has now: {names} ({_AGAIN})"]
        )
    content["unit_names"] = {f"AU{au}": text for au, text in units.items()}
    return write_page(out, content)


def _format_date() -> str:
    """Return the day in UTC, or that of $SOURCE_DATE_EPOCH, for pages that can be made again."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isdecimal() else time.time()
    day = datetime.fromtimestamp(seconds, UTC)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def list_runs(store: Path) -> list[str]:
    """Return the names of a store's runs."""
    return sorted(file.parent.name for file in (store / RUNS).glob("*/config.json"))


def read_run(folder: Path) -> Run:
    """Read a run's files; raises `AuheatError` where one is damaged."""
    file = folder / METRICS
    curve = _guard(lambda: load_curve(file), file, "`auheat train` makes it anew")
    scores = [folder / name for name in (RESULT, ARRAYS)]
    run = _guard(
        lambda: read_steadily(lambda: _load_run(folder, curve), scores),
        folder,
        "run `auheat evaluate` again",
    )
    _guard(lambda: across_context([(0, run)]), folder, "run `auheat evaluate` again")
    if (folder / RESULT).is_file():
        _guard(lambda: _check_scores(run), folder, "run `auheat evaluate` again")
    for name in (CONFIG, METRICS, RESULT, ARRAYS):  # of another run, they are as sound
        command = "train" if name in (CONFIG, METRICS) else "evaluate"
        check_bytes(folder / name, f"run the same `auheat {command}` again")
    return run


def _load_run(folder: Path, curve: list[dict[str, float]]) -> Run:
    if not are_of_one_time(folder, (RESULT, ARRAYS)):
        raise StoreError(
            f"{folder}: its evaluation is being written, or was stopped (wait for it, or run "
            "`auheat evaluate` again)"
        )
    return load_run(folder, curve)


def _guard(read: Callable[[], _T], what: Path, remedy: str) -> _T:
    """Return what `read` does; raise `AuheatError` where the content cannot be used."""
    try:
        return read()
    except AuheatError:
        raise
    except (OSError, *DAMAGE, cv2.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{what}: unreadable ({reason}); {remedy}") from error


def _check_scores(run: Run) -> None:
    """Raise one of `DAMAGE` unless all that the page shows of a run can be shown."""
    names = [name + "" for name in run.scores["class_names"]]
    "".join(run.scores["matrix"]["columns"])
    if not np.isfinite(np.asarray(run.scores["confusion"], np.float64)).all():
        raise ValueError("confusion is not finite")
    for key in (column.key for column in HEADLINE if not column.later):
        asked = run.has_class_maps or key != "cam_cos"
        if asked and not math.isfinite(float(run.scores[key])):
            raise ValueError(f"{key} is not finite")
    for key in (*KINDS, "heatmap"):
        if run.arrays[f"mean_{key}"].shape[:1] != (len(names),):
            raise ValueError(f"mean_{key} is not of {len(names)} classes")
    describe_runs([run])


def describe_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the report's page shows of the runs."""
    scored = [(index, run) for index, run in enumerate(runs) if run.scores]
    pictured = scored[:MAX_RUNS]
    started = [run for run in runs if run.curve]
    paired = paired_context(runs)
    album, few = Album(), int(len(started) > MAX_TRAINING)
    return {
        "runs": [
            {
                "name": run.name,
                "settings": describe_run(run),
                "started": bool(run.curve),
                "shown": bool(run.curve or run.scores),
            }
            for run in runs
        ],
        "untrained": [run.name for run in runs if not run.curve and not run.scores],
        "unscored": [run.name for run in runs if run.curve and not run.scores],
        "outdated": [name for run in runs for name in run.outdated],
        "curves": [draw_curves(title, keys[few:], runs) for title, keys in CURVES if started],
        "trained": not few,
        "headline": headline_context(scored) if scored else None,
        "glance": strips_context(scored, [c.key for c in GLANCE], [c.heading for c in GLANCE]),
        "class_maps": class_maps_context(scored, pictured),
        "sources": _group_sources([run for _, run in scored]),
        "paired": paired,
        "findings": findings_context(runs, paired),
        "across": across_context(list(enumerate(runs))),
        "confusions": [confusion_context(run, index) for index, run in scored],
        "matrices": [matrix_context(run, index) for index, run in scored],
        "maps": [maps_context(run, index) for index, run in scored if run.scores.get("maps")],
        "means": means_context(pictured, "attention"),
        "no_class": means_context([(i, r) for i, r in pictured if not r.has_class_maps], "cam"),
        "examples": examples_context(pictured, album),
        "extremes": extremes_context(pictured, album),
        "unpictured": [run.name for _, run in scored[MAX_RUNS:]],
        "along": _along_context([run for _, run in scored]),
        "along_names": [column.heading for column in GLANCE],
        "units": units_context(scored),
        "calibration": calibration_context(scored),
        "reliability": [
            draw_reliability(run, index) for index, run in scored if run.scores.get("calibration")
        ],
        "faithfulness": faithfulness_context(scored),
        "settings": settings_context(runs),
        "album": album.list(),
    }


def _group_sources(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return which AUs the heatmaps show that runs were scored on, and those runs' names."""
    sources: dict[str, list[str]] = {}
    for run in runs:
        sources.setdefault(format_source(run.scores.get("scored_on") or {}), []).append(run.name)
    return [(", ".join(names), source) for source, names in sources.items()]


def _along_context(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """Return the curves over the AU weight and over the layers, where the runs form any."""
    found: tuple[tuple[str, str, list[Curve]], ...] = (
        ("weight", "λ (AU weight)", find_weight_curves(runs)),
        ("layers", "aligned layers", find_layer_curves(runs)),
    )
    return [
        {
            "kind": kind,
            "axis": axis,
            "curves": [curve.title for curve in curves],
            "charts": draw_along(axis, curves),
            "rows": tabulate_along(curves),
        }
        for kind, axis, curves in found
        if curves
    ]


def _escape(value: Any) -> Any:
    """Return a plain text without control characters, such as one that turns a line about."""
    return escape_controls(value) if type(value) is str else value


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the environment that compiles each template once in a process."""
    return jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
        finalize=_escape,
    )


def fill_template(name: str, **content: Any) -> str:
    """Return one of the templates of this package, filled."""
    return _templates().get_template(name).render(**content)


def write_page(out: Path, content: Mapping[str, Any]) -> Path:
    """Fill the report's template and write it to one self-contained file; returns its path."""
    page = (
        _templates()
        .get_template("report.html")
        .render(version=__version__, mark=page_mark(_KIND), **content)
    )
    check_target(out, _KIND)
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _read(template: str) -> str:
    folder = resources.files("auheat.reporting") / "templates"
    return (folder / template).read_text(encoding="utf-8")
