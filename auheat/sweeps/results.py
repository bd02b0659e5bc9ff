"""Results of a sweep: the runs' scores, the choice of lambda, sweep.csv.

Lambda is chosen on the validation split alone; `choose_lambda` is given no other scores.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from auheat.errors import StoreError
from auheat.evaluation.columns import BASELINES, COLUMNS
from auheat.runs.run_folder import BEST, RESULT, RUNS, name_results, read_metadata
from auheat.sweeps.grid import RunKey, SweepPlan, SweepRun, format_layers, list_choices
from auheat.utils.reading import read_json
from auheat.utils.text import plain_cell

VALIDATION = ("accuracy", "att_cos")
"""What lambda is chosen by: the first, the second where that is equal, then the smaller lambda."""


@dataclass(slots=True)
class RunState:
    """How far a run is: `state` is waiting, running, stopped, done or failed.

    `seconds` are those of all its epochs, `error` says why it failed, `notes` are what training
    said of it. `elapsed` seconds took the call that scored it, whose process had `peak_bytes` of
    memory at most: 0 where another call made the run and left no word of it.
    """

    state: str = "waiting"
    seconds: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()
    elapsed: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run, its record, and its scores on test and validation split: {} where not scored."""

    cell: SweepRun
    record: RunState
    scores: Mapping[str, Any]
    validation: Mapping[str, Any]


class Spread(NamedTuple):
    """Mean and standard deviation (None for one run) of a score over the n seeds that have it."""

    mean: float
    deviation: float | None
    n: int


def read_scores(file: Path) -> dict[str, Any]:
    """Return an evaluation's scores; raises `AuheatError` where they cannot be read."""
    try:
        scores: dict[str, Any] = read_json(file)
        for key in VALIDATION:
            float(scores[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: unreadable (`auheat evaluate` makes it anew)") from error
    return scores


def read_results(
    plan: SweepPlan, stores: Mapping[str, Path], records: Mapping[str, RunState]
) -> list[RunResult]:
    """Return every run of a plan with the scores that its folder has, if it is done."""
    results = []
    for cell in plan.cells:
        record = records[cell.name]
        folder = stores[cell.setting.data] / RUNS / cell.name
        done = record.state == "done"
        validated = done and plan.needs_validation(cell.setting)
        scores = read_scores(folder / RESULT) if done else {}
        validation = read_scores(folder / name_results("val")[0]) if validated else {}
        results.append(RunResult(cell, record, scores, validation))
    return results


def spread(values: Sequence[Any]) -> Spread | None:
    """Return mean and sample standard deviation of the numbers among values, None for none."""
    numbers = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not numbers:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(statistics.fmean(numbers), deviation, len(numbers))


def score_of(
    results: Sequence[RunResult], setting: RunKey, key: str, on: str = "test"
) -> Spread | None:
    """Return a score of a setting over its seeds; `on` is "test" or "val"."""
    own = [r for r in results if r.cell.setting == setting]
    return spread([(r.scores if on == "test" else r.validation).get(key) for r in own])


def choose_all(
    plan: SweepPlan, results: Sequence[RunResult]
) -> dict[tuple[RunKey, ...], RunKey | None]:
    """Return the choice among each set of candidates of a plan's tables.

    A set of one is its own choice; None where no candidate can be chosen (see `score_contrasts`).
    """
    validation = score_contrasts(results)
    sets = [candidates for table in plan.tables for candidates in list_choices(table)]
    sets += [row.candidates for table in plan.tables for row in table.rows]
    return {candidates: choose_lambda(candidates, validation) for candidates in sets}


def score_contrasts(results: Sequence[RunResult]) -> dict[RunKey, tuple[float, ...]]:
    """Return the `VALIDATION` scores, means over the seeds, of settings that can be chosen.

    These are the ones whose every run has them: a mean over fewer seeds than another's may be
    higher by its luck with them.
    """
    means_of: dict[RunKey, tuple[float, ...]] = {}
    for setting, n in Counter(result.cell.setting for result in results).items():
        spreads = [score_of(results, setting, key, "val") for key in VALIDATION]
        means = tuple(score.mean for score in spreads if score and score.n == n)
        if len(means) == len(VALIDATION):
            means_of[setting] = means
    return means_of


def choose_lambda(
    candidates: Sequence[RunKey], validation: Mapping[RunKey, Sequence[float]]
) -> RunKey | None:
    """Return the candidate of highest validation accuracy, then ATT-COS, then smallest lambda.

    `validation` has both scores, means over the seeds, of each candidate that was scored.
    """
    if len(candidates) == 1:
        return candidates[0]
    scored = [setting for setting in candidates if setting in validation]
    # equal means of several seeds may differ in their last bit
    rounded = {s: [round(float(v), 9) for v in validation[s]] for s in scored}
    return max(scored, key=lambda s: (*rounded[s], -s.au_weight), default=None)


def write_csv(
    plan: SweepPlan, results: Sequence[RunResult], stores: Mapping[str, Path], chosen: set[RunKey]
) -> bytes:
    """Return sweep.csv: a line for each run, numbers as evaluation.json has them."""
    text = io.StringIO()
    lines = [_csv_row(plan, result, stores, chosen) for result in results]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: plain_cell(cell) if isinstance(cell, str) else cell for key, cell in line.items()}
        for line in lines
    )
    return text.getvalue().encode()


def _csv_row(
    plan: SweepPlan, result: RunResult, stores: Mapping[str, Path], chosen: set[RunKey]
) -> dict[str, Any]:
    """Return a run's line of sweep.csv."""
    cell, scores = result.cell, result.scores
    setting, config = cell.setting, cell.config
    best = stores[setting.data] / RUNS / cell.name / BEST
    intervals, baselines = scores.get("intervals", {}), scores.get("baselines", {})
    line: dict[str, Any] = {
        "run": cell.name,
        "state": result.record.state,
        "data": setting.data,
        "tables": " ".join(plan.list_tables(setting)),
        "method": setting.method,
        "backbone": config.backbone,
        "image_size": config.image_size,
        "au_weight": setting.au_weight,
        "layers": format_layers(setting.layers),
        "variant": setting.variant,
        "train_photos": setting.photos or None,
        "seed": config.seed,
        "epochs": config.epochs,
        "best_epoch": read_metadata(best).get("epoch") if scores else None,
        "seconds": result.record.seconds or None,
        "chosen": int(setting in chosen) if plan.needs_validation(setting) else None,
        **{f"val_{key}": result.validation.get(key) for key in VALIDATION},
        "n": scores.get("n"),
        "n_valid": scores.get("n_valid"),
    }
    for key in (column.key for column in COLUMNS):
        low, high = intervals.get(key) or (None, None)
        line |= {key: scores.get(key), f"{key}_low": low, f"{key}_high": high}
    for key in (baseline.key for baseline in BASELINES):
        line[f"{key}_att_cos"] = baselines.get(key, {}).get("att_cos")
    return line | {"error": result.record.error}
