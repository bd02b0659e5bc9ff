"""The command that makes the paper's tables: sweep."""

from __future__ import annotations

import sys
from typing import Any

import click

from .choices import GRIDS, METHOD, Choice, Layers, Listed
from .common import (
    FILE,
    FOLDER,
    Command,
    json_option,
    option,
    overwrite_option,
    print_json,
    print_line,
    print_table,
    store_option,
)
from .runs import preset_option, training_options


@click.command(cls=Command)
@store_option
@option(
    "--grid",
    type=Choice(GRIDS),
    default="none",
    show_default=True,
    section="Grid",
    help="A grid by name. demo: 9 narrow runs for the set of `auheat demo`, about half an hour; "
    "paper: tables 1 to 3 and figure 5, 67 runs; losses: each method without AUs, with the paper's "
    "loss, and with class maps; ferplus: that with controls and learning curves, 87 runs, hours.",
)
@option(
    "--methods",
    type=Listed(METHOD),
    section="Grid",
    help="Such as cam,layercam; those of `train --method`; beside --grid ferplus learning curves "
    "are of the first  [default: cam, or the grid's]",
)
@option(
    "--au-weights",
    type=Listed(float),
    section="Grid",
    help="Weights of the AU loss, such as 0,4; 0: none  [default: 0 and train's]",
)
@option(
    "--layers",
    type=Listed(Layers()),
    section="Grid",
    help="Which layers to align, such as 5,5+4 or -1,-1+-2  [default: top]",
)
@option("--seeds", type=Listed(int), section="Grid",
        help="Such as 0,1,2  [default: 0; --grid ferplus: 0,1,2]")  # fmt: skip
@option("--rafdb", type=FOLDER, section="Grid",
        help="--grid paper: the store of RAF-DB; alone, only its part is run.")  # fmt: skip
@option("--affectnet", type=FOLDER, section="Grid",
        help="--grid paper: the store of AffectNet; alone, only its part is run.")  # fmt: skip
@option("--source", type=FILE, section="Grid",
        help="A data set as published: it is extracted and rendered first.")  # fmt: skip
@option("--also-on", type=Listed(str), section="Grid",
        help="Stores of other data sets to score the runs on, too.")  # fmt: skip
@preset_option
@training_options(without=("name", "method", "au_weight", "layers", "seed"))
@option("--name", help="What to call the sweep  [default: the grid's name]")
@option(
    "--jobs",
    default=1,
    show_default=True,
    help="Runs made at a time, each in a process of its own with its share of the cores.",
)
@option("--dry-run", is_flag=True, help="List the runs, and make none; needs no store.")
@overwrite_option
@json_option
def sweep(dry_run: bool, as_json: bool, **settings: Any) -> None:
    """Train and evaluate a grid of runs, and lay them out as the paper's tables.

    The grid is one by name, or every combination of --methods, --au-weights, --layers and --seeds;
    all further options are those of `train`, for every run. Where a table needs one of several AU
    weights, validation photos choose it, never the test photos. STORE/sweeps/NAME gets sweep.md
    (the tables), sweep.csv (a line for each run), sweep.json and the report of its runs. A sweep
    that was stopped goes on with the same command; a run that fails is named at the end
    (exit code 1), the others go on.

    \b
    auheat sweep --grid demo
    auheat sweep --grid paper --dry-run
    auheat sweep --grid paper --rafdb rafdb-data --affectnet affectnet-data --device cuda
    auheat sweep --grid losses --methods cam,ts-cam --seeds 0,1,2 --preset rafdb
    auheat sweep --grid ferplus --source FERPlus/ --jobs 2
    auheat sweep --methods cam,layercam --au-weights 0,1,4 --seeds 0,1,2 --preset demo
    auheat sweep --layers 5,5+4,5+4+3 --preset rafdb
    """
    from auheat.sweeps.planner import plan_sweep
    from auheat.sweeps.runner import sweep as run

    if dry_run:
        for key in ("store", "source", "also_on", "jobs", "overwrite"):
            settings.pop(key)
        data = [key for key in ("rafdb", "affectnet") if settings.pop(key) is not None]
        _print_plan(plan_sweep(data=data or None, **settings), as_json)
        return
    summary = run(**settings)
    if as_json:
        print_json(summary.as_dict())
    else:
        _print_summary(summary)
    if summary.failed:
        sys.exit(1)


def _print_plan(plan: Any, as_json: bool) -> None:
    """Print the runs of a plan and what each is for."""
    rows = plan.describe()
    if as_json:
        print_json({"name": plan.name, "grid": plan.grid, "runs": rows})
        return
    keys = ("run", "backbone", "layers", "epochs")
    cells = [(*(str(row[key]) for key in keys), " ".join(row["tables"])) for row in rows]
    print_table([(*keys, "for the tables of"), *cells])
    print_line(f"{len(rows)} runs, {sum(row['epochs'] for row in rows)} epochs")


def _print_summary(summary: Any) -> None:
    for name, why in summary.failed.items():
        print_line(f"{name}: failed: {why}", err=True)
    for line in summary.describe_choices():
        print_line(line)
    resumed = f", {summary.resumed} of them before" if summary.resumed else ""
    done, failed = len(summary.done), len(summary.failed)
    print_line(f"{done} of {len(summary.runs)} runs done{resumed}; {failed} failed")
    for file in summary.files:
        print_line(f"written: {file}")
