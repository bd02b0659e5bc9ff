"""The command that makes the paper's tables: sweep."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from auheat.errors import AuheatError

from .common import json_option, overwrite_option, print_table, store_option
from .runs import train

_SWEPT = ("name", "method", "au_weight", "layers", "seed")
_OWN = ("store", "preset", "overwrite", "as_json", *_SWEPT)
_DATA = ("rafdb", "affectnet")


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option of `train` that a sweep does not decide itself."""
    shared = [option for option in train.params if option.name not in _OWN]
    # click reads these as decorators leave them: the last one first
    command.__click_params__ = [*shared[::-1], *getattr(command, "__click_params__", [])]  # type: ignore[attr-defined]
    return command


@click.command()
@store_option
@click.option(
    "--grid",
    default="none",
    show_default=True,
    help="A grid by name. demo: 9 narrow runs for the set of `auheat demo`, about half an hour; "
    "paper: tables 1 to 3 and figure 5, 67 runs.",
)
@click.option("--methods", help="Such as cam,layercam; those of `train --method` [default: cam].")
@click.option("--au-weights", help="Weights of the AU loss, 0 for none [default: 0 and train's].")
@click.option("--layers", help="Which layers to align, such as 5,5+4 [default: 5].")
@click.option("--seeds", default="0", show_default=True, help="Such as 0,1,2.")
@click.option(
    "--rafdb",
    type=click.Path(path_type=Path, file_okay=False),
    help="grid paper: the store of RAF-DB; alone, only its part is run.",
)
@click.option(
    "--affectnet",
    type=click.Path(path_type=Path, file_okay=False),
    help="grid paper: the store of AffectNet; alone, only its part is run.",
)
@click.option("--name", help="What to call the sweep [default: the grid's name].")
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Runs made at a time, each in a process of its own with its share of the cores.",
)
@click.option("--dry-run", is_flag=True, help="List the runs, and make none; needs no store.")
@overwrite_option
@json_option
@click.option("--preset", help="The preset of `train` for every run [default: none].")
@_training_options
def sweep(
    store: Path,
    grid: str,
    methods: str | None,
    au_weights: str | None,
    layers: str | None,
    seeds: str,
    rafdb: Path | None,
    affectnet: Path | None,
    jobs: int,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    classes: str | None,
    **settings: Any,
) -> None:
    """Train and evaluate a grid of runs, and lay them out as the paper's tables.

    The grid is one by name, or every combination of --methods, --au-weights, --layers and --seeds; all
    further options are those of `train`, for every run. Where a table needs one of several lambdas,
    validation photos choose it, never the test photos. STORE/sweeps/NAME gets sweep.md (the
    tables), sweep.csv (a line for each run), sweep.json and the report of its runs. A sweep
    that was stopped goes on with the same command; a run that fails is told at the end
    (exit code 1), the others go on.

    \b
    auheat sweep --grid demo
    auheat sweep --grid paper --dry-run
    auheat sweep --grid paper --rafdb rafdb-data --affectnet affectnet-data --device cuda
    auheat sweep --methods cam,layercam --au-weights 0,1,4 --seeds 0,1,2 --preset demo
    auheat sweep --layers 5,5+4,5+4+3 --preset rafdb
    """
    from auheat.sweeps.planner import plan_sweep
    from auheat.sweeps.runner import sweep as run

    given = {"rafdb": rafdb, "affectnet": affectnet}
    stores = {data: place for data, place in given.items() if place is not None}
    _check_stores(grid, stores, dry_run)
    plan = plan_sweep(
        grid,
        _list(methods, "--methods", str),
        _list(au_weights, "--au-weights", float),
        _list(layers, "--layers", _layers),
        _list(seeds, "--seeds", int) or [0],
        data=list(stores) or None,
        classes=None if classes is None else tuple(_list(classes, "--classes", str) or ()),
        **settings,
    )
    if dry_run:
        _print_plan(plan, as_json)
        return
    for data in _DATA if stores else ():
        if data not in stores:
            click.echo(f"--{data} is not given: its runs are left out", err=True)
    summary = run(store, plan, stores, jobs, overwrite, _tell)
    reports = _write_reports(summary, plan, stores, store)
    _print_summary(summary, reports, as_json)
    if summary.failed:
        sys.exit(1)


def _tell(note: str) -> None:
    """Print a line on stderr, above the bars that are drawn there."""
    tqdm.write(note, file=sys.stderr)


def _check_stores(grid: str, stores: dict[str, Path], dry_run: bool) -> None:
    if grid != "paper" and stores:
        option = f"--{next(iter(stores))}"
        raise AuheatError(f"{option}: for --grid paper alone (--store for any other grid)")
    if grid == "paper" and not stores and not dry_run:
        raise AuheatError(
            "--grid paper: no store given (expected --rafdb STORE, --affectnet STORE, or both)"
        )


def _list(text: str | None, option: str, read: Callable[[str], Any]) -> list[Any] | None:
    """Read "a,b" as a list; raises `AuheatError` for what `read` cannot read."""
    if text is None:
        return None
    try:
        return [read(part.strip()) for part in text.split(",")]
    except ValueError as error:
        wanted = {float: "numbers such as 0,4", int: "whole numbers such as 0,1"}
        expected = wanted.get(read, "layers such as 5,5+4")  # type: ignore[call-overload]
        raise AuheatError(f"{option}: {text!r} (expected {expected})") from error


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+"))


def _print_plan(plan: Any, as_json: bool) -> None:
    """Print the runs of a plan and what each is for."""
    from auheat.sweeps.grid import format_layers

    rows = [
        {
            "run": cell.name,
            "data": cell.setting.data,
            "method": cell.setting.method,
            "au_weight": cell.setting.au_weight,
            "layers": format_layers(cell.setting.layers),
            "seed": cell.config.seed,
            "backbone": cell.config.backbone,
            "epochs": cell.config.epochs,
            "tables": plan.list_tables(cell.setting),
        }
        for cell in plan.cells
    ]
    if as_json:
        click.echo(json.dumps({"name": plan.name, "grid": plan.grid, "runs": rows}, indent=1))
        return
    keys = ("run", "backbone", "layers", "epochs")
    cells = [(*(str(row[key]) for key in keys), " ".join(row["tables"])) for row in rows]
    print_table([(*keys, "for the tables of"), *cells])
    click.echo(f"{len(rows)} runs, {sum(cell.config.epochs for cell in plan.cells)} epochs")


def _write_reports(summary: Any, plan: Any, stores: dict[str, Path], store: Path) -> list[Path]:
    """Write a report of the finished runs of each store into the sweep's folder."""
    from auheat.reporting.page import write_report
    from auheat.runs.run_folder import RUNS

    reports = []
    for data in plan.data:
        place = stores.get(data, store)
        done = [c.name for c in plan.cells if c.setting.data == data and c.name in summary.done]
        if done:
            name = f"report-{data}.html" if len(plan.data) > 1 else "report.html"
            folders = [str(place / RUNS / run) for run in done]
            reports.append(write_report(place, folders, None, summary.folder / name))
    return reports


def _print_summary(summary: Any, reports: list[Path], as_json: bool) -> None:
    from auheat.sweeps.grid import format_layers

    files = [str(summary.folder / name) for name in ("sweep.md", "sweep.csv", "sweep.json")]
    written = [*files, *map(str, reports)]
    if as_json:
        click.echo(json.dumps(summary.as_dict() | {"files": written}, indent=1))
        return
    for name, why in summary.failed.items():
        click.echo(f"{name}: failed: {why}", err=True)
    for setting in summary.chosen:
        where = " ".join(part for part in (setting.data, setting.method) if part)
        where += f", layer {format_layers(setting.layers)}"
        click.echo(f"{where}: lambda {setting.au_weight:g}, chosen on the validation photos")
    n, failed = len(summary.runs), len(summary.failed)
    resumed = f", {summary.resumed} of them before" if summary.resumed else ""
    click.echo(f"{len(summary.done)} of {n} runs done{resumed}; {failed} failed")
    for file in written:
        click.echo(f"written: {file}")
