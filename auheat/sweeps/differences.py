"""What AUs changed in a sweep: runs with them less those without, seed by seed, photo by photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from auheat.errors import AuheatError
from auheat.records import Array
from auheat.reporting.paired import (
    NEEDED,
    are_of_the_same_photos,
    compare_pairs,
    format_difference,
)
from auheat.reporting.run_data import Run
from auheat.runs.run_folder import ARRAYS, RUNS
from auheat.sweeps.grid import RunKey, SweepPlan, TableSpec
from auheat.sweeps.results import RunResult
from auheat.sweeps.tables import PAPER_COLUMNS, format_grid, format_title
from auheat.utils.npz import DAMAGE, read_npz

_NOTE = (
    "Each cell: the difference over the same photos, its 95 % interval by bootstrap (persons, or "
    "photos, drawn whole, the seeds together), and of several seeds the standard deviation of "
    "their differences and the p of a paired t-test over them. The interval says what other photos "
    "of this kind would show, p what other seeds would."
)


def write_differences(
    plan: SweepPlan,
    results: Sequence[RunResult],
    choices: Mapping[tuple[RunKey, ...], RunKey | None],
    places: Mapping[str, Path],
) -> list[str]:
    """Return a table of paired differences for each table of methods, [] before all runs ended.

    `places` has the store of each data set. Pairs without each photo's scores are left out, and
    named.
    """
    if any(r.record.state not in ("done", "failed") for r in results):
        return []  # it is computed once, from all of them
    parts: list[str] = []
    for table in plan.tables:
        if table.kind in ("methods", "variants"):
            parts += _write_table(table, results, choices, places[table.data])
    return [*parts, _NOTE] if parts else []


def _write_table(
    table: TableSpec,
    results: Sequence[RunResult],
    choices: Mapping[tuple[RunKey, ...], RunKey | None],
    store: Path,
) -> list[str]:
    rows, left_out = [], []
    for row in table.rows:
        chosen = choices[row.candidates] if row.candidates else None
        if chosen is None or row.without is None:
            continue
        pairs = []
        for aligned, plain in pair_seeds(results, chosen, row.without):
            if pair_photos(one := load_scored(aligned, store), other := load_scored(plain, store)):
                pairs.append((one, other))
            else:
                left_out.append(f"{one.name} - {other.name}")
        if pairs:
            rows.append([row.title, f"{chosen.au_weight:g}", str(len(pairs)), *_cells(pairs)])
    if not rows and not left_out:
        return []
    heading = ["method", "λ", "pairs", *(column.paper for column in PAPER_COLUMNS.values())]
    note = "Left out, since a run lacks each photo's scores (`auheat evaluate` makes them): "
    return [
        format_title("Differences", "with AUs less without", table),
        *([format_grid(heading, rows)] if rows else []),
        *([f"{note}{', '.join(left_out)}."] if left_out else []),
    ]


def pair_seeds(
    results: Sequence[RunResult], aligned: RunKey, plain: RunKey
) -> list[tuple[RunResult, RunResult]]:
    """Return the scored runs of both settings that have the same seed."""
    first, second = (
        {r.cell.config.seed: r for r in results if r.cell.setting == setting and r.scores}
        for setting in (aligned, plain)
    )
    return [(first[seed], second[seed]) for seed in first if seed in second]


def load_scored(result: RunResult, store: Path) -> Run:
    """Return a run with what each photo scored; without arrays where they cannot be read."""
    name = result.cell.name
    arrays = read_photo_scores(store / RUNS / name / ARRAYS)
    return Run(name, {}, [], result.scores, arrays)


def read_photo_scores(file: Path) -> dict[str, Array]:
    """Return the arrays that have what each photo scored, {} where they cannot be read."""
    try:
        return read_npz(file, NEEDED)
    except AuheatError:
        raise
    except (OSError, *DAMAGE):
        return {}


def pair_photos(one: Run, other: Run) -> bool:
    """Return whether two runs have what each photo scored, of the same photos."""
    return all({*run.arrays} >= NEEDED for run in (one, other)) and are_of_the_same_photos(
        one, other
    )


def _cells(pairs: Sequence[tuple[Run, Run]]) -> list[str]:
    cells = []
    for key, column in PAPER_COLUMNS.items():
        change = compare_pairs(pairs, key)
        scale = (100, 2) if column.percent else (1, 3)
        cells.append("-" if change is None else " ".join(format_difference(change, *scale)).strip())
    return cells
