"""Running a sweep: a grid of runs trained, evaluated and laid out as the paper's tables.

STORE/sweeps/NAME holds sweep.json (the grid, each run's state), sweep.csv (a line for each run)
and sweep.md (the tables). All three are written again after each run, so that a sweep that is
stopped has shown what it had; the same call goes on, and does again only what was not finished.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import torch

from auheat import __version__
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.reporting.page import report
from auheat.runs.run_folder import RENAMED, RUNS
from auheat.sweeps.differences import write_differences
from auheat.sweeps.elsewhere import check_others, score_elsewhere
from auheat.sweeps.grid import DATA, GRIDS, RunKey, SweepPlan, format_layers
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.results import RunState, choose_all, read_results, write_csv
from auheat.sweeps.single_run import (
    Task,
    check_material,
    find_difference,
    is_finished,
    make_run,
    sum_seconds,
)
from auheat.sweeps.study_files import write_study
from auheat.sweeps.tables import write_markdown
from auheat.training import runner as training
from auheat.training.runner import identify_weights
from auheat.utils.checks import format_duration
from auheat.utils.console import log_notes, progress
from auheat.utils.devices import count_cores, limit_cores
from auheat.utils.files import write_json, write_whole
from auheat.utils.locking import LOCK, hold
from auheat.utils.paths import find_store
from auheat.utils.reading import read_json

_LOG, _TRAINING_LOG = logging.getLogger(__name__), logging.getLogger(training.__name__)

SWEEPS = "sweeps"

STATE, TABLE, PAGE = "sweep.json", "sweep.csv", "sweep.md"

SWEEP_VERSION = 0


_RENAMED = {"preset": "grid", "train_preset": "preset", "lambdas": "au_weights", **RENAMED}
"""What a sweep.json of earlier versions calls its grid's parts -> their names now."""

_WATCH_SECONDS = 1.0
_SYNCHRONIZE = 0x100000  # the right to wait for a process of Windows


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """Summary of a sweep: its folder, each run's state, and lambda where one was chosen.

    `resumed` of the runs were finished before this call, which took `seconds`.
    """

    folder: Path
    runs: Mapping[str, RunState]
    resumed: int
    chosen: tuple[RunKey, ...]
    seconds: float
    reports: tuple[Path, ...] = ()

    @property
    def failed(self) -> dict[str, str]:
        """The runs that failed, and why."""
        return {name: r.error for name, r in self.runs.items() if r.state == "failed"}

    @property
    def done(self) -> list[str]:
        """The runs that are trained and evaluated."""
        return [name for name, r in self.runs.items() if r.state == "done"]

    def describe_choices(self) -> list[str]:
        """Return a line for each AU weight that was chosen."""
        return [
            f"{' '.join(filter(None, (key.data, key.method)))}, layer {format_layers(key.layers)}: "
            f"lambda {key.au_weight:g}, chosen on the validation photos"
            for key in self.chosen
        ]

    @property
    def files(self) -> list[Path]:
        """The files that show the sweep."""
        return [*(self.folder / name for name in (PAGE, TABLE, STATE)), *self.reports]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        return {
            "folder": str(self.folder),
            "runs": {name: asdict(record) for name, record in self.runs.items()},
            "resumed": self.resumed,
            "chosen": [_describe_key(setting) for setting in self.chosen],
            "seconds": self.seconds,
            "files": [str(file) for file in self.files],
        }


def sweep(
    store: str | Path | None = None,
    *,
    grid: str = "none",
    methods: Sequence[str] | None = None,
    au_weights: Sequence[float] | None = None,
    layers: Sequence[Sequence[int]] | None = None,
    seeds: Sequence[int] | None = None,
    rafdb: str | Path | None = None,
    affectnet: str | Path | None = None,
    source: str | Path | None = None,
    also_on: Sequence[str | Path] | None = None,
    name: str | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    preset: str | None = None,
    **settings: Any,
) -> SweepSummary:
    """Train and evaluate a grid of runs, and lay them out as the paper's tables.

    `store`/sweeps/NAME gets sweep.md (the tables), sweep.csv (a line for each run), sweep.json and
    the report of its runs. Where a table needs one of several AU weights, validation photos choose
    it, never the test photos. The same call goes on where a stopped sweep was; a run that fails is
    recorded with its error, and the others go on.

    Args:
        store: Folder of the shards and the sweep; None: $AUHEAT_STORE, else auheat-data.
        grid: A grid by name: "demo" (9 narrow runs), "paper" (tables 1 to 3 and figure 5, 67
            runs), "ferplus" (AU losses, controls and learning curves, 87 runs); "none": every
            combination of what follows.
        methods: Names of methods; None: the preset's, or the grid's.
        au_weights: Weights of the AU loss, 0 or more, 0 for none; None: 0 and the preset's.
        layers: Layers to align, each such as (5, 4) or (-1,), as `TrainConfig` has them; None: the
            preset's.
        seeds: Seeds, 0 or more, each a run of its own; None: 0, of "ferplus" 0, 1 and 2.
        rafdb: Store of RAF-DB, for the grid "paper" alone.
        affectnet: Store of AffectNet, likewise; of a data set without a store nothing is run.
        source: Data set as it was published, such as FER+'s folder: it is extracted and rendered to
            `store` first, as `extract` and `render` do; None: `store` has its shards. Not for
            "paper".
        also_on: Stores of other data sets, on which the finished runs are scored, too.
        name: What to call the sweep; None: the grid's name.
        jobs: Runs made at a time, 1 or more, each by a process with its share of the cores.
        overwrite: Take this grid in another one's place, and make anew the runs that differ.
        preset: Name of the settings of every run, as of `train`; None: the grid's, or "none".
        settings: Fields of `TrainConfig` for every run, but for those that the grid decides.

    Returns:
        The sweep's folder, each run's record, and the AU weights chosen.

    Raises:
        AuheatError: Before the first run for what no run could use.
        KeyboardInterrupt: On Ctrl-C, with a text that says how to go on.

    Example:
        >>> import auheat
        >>> auheat.sweep("store", grid="demo").failed  # doctest: +SKIP
        {}
    """
    given = {"rafdb": rafdb, "affectnet": affectnet}
    stores = {data: Path(place) for data, place in given.items() if place is not None}
    plan = plan_sweep(
        grid, methods, au_weights, layers, seeds, name, preset, list(stores) or None, **settings
    )
    if grid == "paper" and not stores:
        raise RequestError(
            "--grid paper: no store given (expected --rafdb STORE, --affectnet STORE, or both)"
        )
    for data in DATA if stores else ():
        if data not in stores:
            _LOG.warning("--%s is not given: its runs are left out", data)
    folder = find_store(store)
    others = [Path(other) for other in also_on or ()]
    check_others(others, stores.values() or [folder])
    if source is not None:
        _prepare(source, folder, grid)
    summary = run_plan(folder, plan, stores, jobs, overwrite)
    done = [c for c in plan.cells if c.name in summary.done]
    runs = [stores.get(c.setting.data, folder) / RUNS / c.name for c in done]
    score_elsewhere(runs, others, str(settings.get("device") or "auto"))
    pages = _write_reports(summary, plan, stores, folder)
    if plan.has_variants:
        places = {data: stores.get(data, folder) for data in plan.data}
        results = read_results(plan, places, summary.runs)
        pages = (*pages, *write_study(summary.folder, plan, results, places))
    return replace(summary, reports=pages)


def _prepare(source: str | Path, store: Path, grid: str) -> None:
    """Extract and render a data set; what is there already is not made again."""
    if grid == "paper":
        raise RequestError(
            "--source: not beside --grid paper (whose stores are --rafdb and --affectnet)"
        )
    log_notes(_LOG, extract(source, store).warnings)
    log_notes(_LOG, render(store, **(GRIDS[grid].rendering if grid in GRIDS else {})).warnings)


def _write_reports(
    summary: SweepSummary, plan: SweepPlan, stores: Mapping[str, Path], store: Path
) -> tuple[Path, ...]:
    """Write a report of the finished runs of each store into the sweep's folder."""
    reports = []
    for data in plan.data:
        place = stores.get(data, store)
        done = [c.name for c in plan.cells if c.setting.data == data and c.name in summary.done]
        if done:
            name = f"report-{data}.html" if len(plan.data) > 1 else "report.html"
            folders = [place / RUNS / run for run in done]
            reports.append(report(folders, place, out=summary.folder / name))
    return tuple(reports)


def run_plan(
    store: Path,
    plan: SweepPlan,
    stores: Mapping[str, Path] | None = None,
    jobs: int = 1,
    overwrite: bool = False,
) -> SweepSummary:
    """Train and evaluate a plan's runs, and write `store`/sweeps/NAME.

    `stores` has the stores of a plan's data sets [default: `store` for each]; runs lie there.
    `jobs` of them are made at a time, each by a process with its share of the cores. A run that
    fails is recorded with its error, and the others go on. `overwrite` takes another grid in an
    old one's place and makes anew the runs that differ. Raises `AuheatError` before the first
    run for what no run could use; Ctrl-C raises `KeyboardInterrupt` that says how to go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("sweep: started by torchrun (expected one process; see --jobs)")
    if jobs < 1:
        raise RequestError(f"--jobs: {jobs} (expected 1 or more)")
    places = {data: (stores or {}).get(data, store) for data in plan.data}
    folder = store / SWEEPS / plan.name
    tasks = _make_tasks(plan, places)
    _check_grid(folder, plan, overwrite)
    tasks = _check_tasks(tasks, overwrite)
    busy = f"{folder}: another process is at this sweep (wait for it, or use another --name)"
    with hold(folder / LOCK, busy):
        started = time.perf_counter()
        work = SweepRunner(folder, plan, places, {task.cell.name: RunState() for task in tasks})
        resumed = work.make(tasks, jobs)
        chosen = work.write()
    seconds = round(time.perf_counter() - started, 3)
    return SweepSummary(folder, work.records, resumed, chosen, seconds)


def _make_tasks(plan: SweepPlan, places: Mapping[str, Path]) -> list[Task]:
    return [
        Task(
            places[cell.setting.data],
            cell,
            ("test", "val") if plan.needs_validation(cell.setting) else ("test",),
            faithfulness=plan.faithfulness,
        )
        for cell in plan.cells
    ]


def _check_grid(folder: Path, plan: SweepPlan, overwrite: bool) -> None:
    """Raise `AuheatError` where a sweep of this name was made with another grid."""
    file = folder / STATE
    if not file.is_file():
        return
    try:
        before = _rename(read_json(file)["grid"])
        keys = sorted({*before, *plan.grid})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if overwrite:
            return
        raise StoreError(f"{file}: unreadable (--overwrite writes it anew)") from error
    for key in keys:
        old, new = before.get(key), plan.grid.get(key)
        if old != new and not overwrite:
            raise RequestError(
                f"{file}: made with {key} {_format_value(old)}, now {_format_value(new)} "
                "(--overwrite takes this grid and keeps the runs that are in both, --name keeps "
                "both)"
            )


def _rename(grid: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grid with the names of now where an earlier version wrote it."""
    if "grid" in grid:
        return dict(grid)
    unused = "train_preset" if "recipe" in grid else ""
    return {_RENAMED.get(key, key): value for key, value in grid.items() if key != unused}


def _format_value(value: Any) -> str:
    return "not given" if value is None else repr(value)


def _check_tasks(tasks: Sequence[Task], overwrite: bool) -> list[Task]:
    """Return the tasks, those in place of another run marked; raises `AuheatError`.

    Shards, device and weights are looked at once for each kind of run, and every run's folder
    that is there already.
    """
    materials: dict[tuple[Any, ...], dict[str, Any]] = {}
    weights: dict[tuple[str, ...], dict[str, str]] = {}
    checked = []
    for task in progress(tasks, desc="check", unit="run", leave=False):
        config = task.cell.config
        drawn = config.seed, config.val_fraction, config.train_photos, config.faces_only
        rows = (task.store, config.shards, config.classes, *drawn)
        network = (config.method, config.backbone, config.weights)
        if rows not in materials:
            materials[rows] = check_material(task.store, config)
        if network not in weights:
            weights[network] = identify_weights(config)
        difference = find_difference(task, materials[rows] | weights[network])
        if difference and not overwrite:
            raise RequestError(
                f"{task.run}: trained with {difference} (--overwrite trains it anew, --name keeps "
                "both)"
            )
        checked.append(replace(task, anew=bool(difference)))
    return checked


_Made: TypeAlias = Generator[tuple[str, RunState], None, None]


class SweepRunner:
    """Trains and evaluates a plan's runs, in turn or in parallel, and writes the sweep's files.

    `records` has every run's state; all files are written again whenever one changes.
    """

    def __init__(
        self,
        folder: Path,
        plan: SweepPlan,
        places: Mapping[str, Path],
        records: dict[str, RunState],
    ) -> None:
        self.folder, self.plan, self.places, self.records = folder, plan, places, records

    def make(self, tasks: Sequence[Task], jobs: int) -> int:
        """Train and evaluate every run that is not finished; return how many were."""
        waiting, before = [], _read_costs(self.folder / STATE)
        for task in tasks:
            if is_finished(task):
                name, seconds = task.cell.name, sum_seconds(task.run)
                self.records[name] = RunState("done", seconds, **before.get(name, {}))
            else:
                waiting.append(task)
        resumed = len(tasks) - len(waiting)
        if resumed:
            _LOG.info("%d of %d runs were finished already", resumed, len(tasks))
        self.write()
        many = jobs > 1 and len(waiting) > 1
        done = self._run_in_parallel(waiting, jobs) if many else self._run_in_turn(waiting)
        try:
            bar = progress(total=len(tasks), initial=resumed, desc="sweep", unit="run")
            # closed, `done` ends its processes
            with bar, contextlib.closing(done), _log_once(_TRAINING_LOG):
                for name, record in done:
                    self._note(name, record, jobs)
                    bar.update()
        except AuheatError:
            self._stop()
            raise
        except KeyboardInterrupt as error:
            self._stop()
            n = sum(record.state == "done" for record in self.records.values())
            raise type(error)(  # SIGTERM has a kind of its own
                f"{self.folder}: stopped, {n} of {len(tasks)} runs are done "
                "(the same command goes on from there)"
            ) from error
        return resumed

    def _run_in_turn(self, tasks: Sequence[Task]) -> _Made:
        for task in tasks:
            name = task.cell.name
            self.records[name] = RunState("running")
            self._write_state()
            _LOG.info("%s: started", name)
            yield name, make_run(task)

    def _run_in_parallel(self, tasks: Sequence[Task], jobs: int) -> _Made:
        """Train runs in parallel processes; which of them wait is not known here."""
        threads = max(1, count_cores() // jobs)
        _LOG.info("%d runs, %d at a time with %d threads each", len(tasks), jobs, threads)
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if cards > 1:
            _LOG.info("%d CUDA devices take the runs in turn", cards)
        tasks = spread_over_cards(tasks, cards)
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            try:
                yield from pool(
                    joblib.delayed(_make_apart)(task, threads, os.getpid()) for task in tasks
                )
            except BrokenProcessPool as error:
                raise AuheatError(
                    f"{self.folder}: a process was ended from outside, for want of memory perhaps "
                    "(fewer --jobs; the same command goes on from there)"
                ) from error

    def _note(self, name: str, record: RunState, jobs: int) -> None:
        self.records[name] = record
        log_notes(_TRAINING_LOG, record.notes)
        self.write()
        what = "done" if record.state == "done" else f"failed: {record.error}"
        rest = self._describe_progress(jobs)
        _LOG.info("%s: %s, %.0f s%s", name, what, record.seconds, rest)

    def _describe_progress(self, jobs: int) -> str:
        """Return how long the other runs will take, by those of the same method or data set."""
        rest = [c for c in self.plan.cells if self.records[c.name].state in ("waiting", "running")]
        finished = [
            (c.setting, self.records[c.name].seconds)
            for c in self.plan.cells
            if self.records[c.name].state == "done" and self.records[c.name].seconds
        ]
        if not rest or not finished:
            return "" if not rest else f"; {len(rest)} to go"
        total = 0.0
        for cell in rest:
            alike = [t for s, t in finished if s[:2] == cell.setting[:2]]
            alike = alike or [t for s, t in finished if s.data == cell.setting.data]
            alike = alike or [t for _, t in finished]
            total += sum(alike) / len(alike)
        return f"; {len(rest)} to go, about {format_duration(total / jobs)}"

    def _stop(self) -> None:
        for record in self.records.values():
            if record.state == "running":
                record.state = "stopped"
        self.write()

    def write(self) -> tuple[RunKey, ...]:
        """Write the sweep's three files; return the settings chosen among several."""
        results = read_results(self.plan, self.places, self.records)
        choices = choose_all(self.plan, results)
        chosen = {s for candidates, s in choices.items() if s and len(candidates) > 1}
        table = write_csv(self.plan, results, self.places, chosen)
        write_whole(self.folder / TABLE, table)
        differences = write_differences(self.plan, results, choices, self.places)
        page = write_markdown(self.plan, results, choices, differences)
        write_whole(self.folder / PAGE, page.encode())
        ordered = tuple(sorted(chosen))
        self._write_state(ordered)
        return ordered

    def _write_state(self, chosen: Sequence[RunKey] = ()) -> None:
        state = {
            "format": SWEEP_VERSION,
            "auheat": __version__,
            "name": self.plan.name,
            "grid": self.plan.grid,
            "runs": {name: asdict(record) for name, record in self.records.items()},
            "chosen": [_describe_key(setting) for setting in chosen],
            "seconds": round(sum(record.seconds for record in self.records.values()), 3),
        }
        write_json(self.folder / STATE, state)


def spread_over_cards(tasks: Sequence[Task], count: int) -> list[Task]:
    """Give each run whose device is "auto" or "cuda" one of `count` CUDA cards, in turn.

    Args:
        tasks: Runs that are made side by side.
        count: How many cards there are; with fewer than two the runs are left as they are.

    Returns:
        The runs, in the same order.

    Example:
        >>> from auheat.sweeps.runner import spread_over_cards
        >>> spread_over_cards([], 2)
        []
    """
    out = []
    for number, task in enumerate(tasks):
        config = task.cell.config
        if count > 1 and config.device in ("auto", "cuda"):
            config = replace(config, device=f"cuda:{number % count}")
        out.append(replace(task, cell=replace(task.cell, config=config)))
    return out


def _make_apart(task: Task, threads: int, parent: int) -> tuple[str, RunState]:
    """`make_run` in a process of its own, which draws no bars over those of the others."""
    _end_with(parent)
    torch.set_num_threads(threads)
    limit_cores(threads)
    with contextlib.redirect_stderr(io.StringIO()):
        return task.cell.name, make_run(task)


@contextlib.contextmanager
def _log_once(logger: logging.Logger) -> Iterator[None]:
    """Log what is the same of several runs once."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        count = len(logged)
        logged.add(record.getMessage())
        return len(logged) > count

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


@functools.cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent: a killed sweep must not go on training unseen."""

    def watch() -> None:
        if sys.platform == "win32":  # where a parent that is gone keeps its number
            import _winapi

            with contextlib.suppress(OSError):  # gone already
                handle = _winapi.OpenProcess(_SYNCHRONIZE, False, parent)
                _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
        else:
            while os.getppid() == parent:
                time.sleep(_WATCH_SECONDS)
        os._exit(1)  # all threads at once, and nothing is tidied: a stopped run goes on from this

    threading.Thread(target=watch, daemon=True).start()


def _read_costs(file: Path) -> dict[str, dict[str, Any]]:
    """Return what a sweep's runs have taken, as an earlier call noted it; {} where none did."""
    try:
        runs = read_json(file)["runs"]
        return {
            name: {key: record[key] for key in ("elapsed", "peak_bytes") if key in record}
            for name, record in runs.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _describe_key(setting: RunKey) -> dict[str, Any]:
    return setting._asdict() | {"layers": list(setting.layers)}
