"""What the commands share: the error-catching group, common options, printing."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from auheat.errors import AuheatError


class Terminated(KeyboardInterrupt):
    """SIGTERM: a run that is told to go stops as it does for Ctrl-C."""


def _terminate(*_: object) -> NoReturn:
    raise Terminated


class Group(click.Group):
    """A group that turns what went wrong into one line and exit code 1.

    Ctrl-C is exit code 130, SIGTERM 143; either is a clean stop, with the store's lock given back.
    """

    def invoke(self, ctx: click.Context) -> Any:
        before = None
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _terminate)
        try:
            return self._invoke(ctx)
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AuheatError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:  # the reader of a pipe has gone; click ends quietly
            raise
        except OSError as error:  # a full disk, a folder that may not be written
            where = error.filename or "this machine"
            raise click.ClickException(f"{where}: {error.strerror or error}") from error
        except KeyboardInterrupt as stop:
            note = str(stop) or "Stopped; the same command goes on from here."
            click.echo(f"\n{note}", err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(self.commands)


store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("auheat-data"),
    envvar="AUHEAT_STORE",
    show_default=True,
    show_envvar=True,
    help="Folder that holds landmarks/ and shards/.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
workers_option = click.option(
    "--workers", type=int, help="Threads that read photos, or processes [default: one per core]."
)
backend_option = click.option(
    "--backend",
    default="threads",
    show_default=True,
    help="threads; or loky, dask, ray: --workers processes that each make whole shards.",
)
retry_option = click.option(
    "--retry-failed", is_flag=True, help="Look again at the rows that failed, and only at them."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Make anew what was made with other settings."
)
fail_option = click.option(
    "--fail-on-bad", is_flag=True, help="Exit 1 if any row has a bad status (see failed.csv)."
)


def print_summary(summary: Any, as_json: bool) -> None:
    """Print what a stage did, as a table or as JSON, and its warnings on stderr."""
    if as_json:
        click.echo(json.dumps(summary.as_dict(), indent=1))
        return
    rows = [(name, str(n)) for name, n in summary.status.items() if n]
    rows += [("total", str(summary.rows))]
    for key, value in summary.details.items():
        many = isinstance(value, dict)
        inner = value.items() if many else [(key.replace("_", " "), value)]
        rows += [(f"{key.rstrip('s')} {name}" if many else name, str(v)) for name, v in inner]
    print_table([("status", "rows"), *rows])
    fresh = summary.rows - summary.resumed
    speed = f"{fresh} photos in {summary.seconds:.1f} s, {summary.rate:.0f}/s" if fresh else ""
    there = f"{summary.resumed} were there already" if summary.resumed else ""
    click.echo("; ".join(part for part in (speed, there) if part))
    click.echo(f"written to {summary.folder}")
    for warning in summary.warnings:
        click.echo(f"note: {warning}", err=True)


def print_fields(fields: dict[str, Any], as_json: bool) -> None:
    """Print names and values, as a table or as JSON."""
    if as_json:
        click.echo(json.dumps(fields, indent=1))
    else:
        print_table([(key, str(value)) for key, value in fields.items()])


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
