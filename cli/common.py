"""What the commands share: error handling, sections of help, common options, printing."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import click
import yaml
from click.core import ParameterSource

from auheat.errors import AuheatError, StoreError
from auheat.utils.failures import describe_failure
from auheat.utils.reading import read_limited
from auheat.utils.text import SafeStream, escape_controls

from .choices import BACKENDS, LOG_LEVELS, Choice

_LEVEL, _PROGRESS = "auheat.level", "auheat.progress"
_LARGEST = 2**20  # bytes of a file of options

_LOG = logging.getLogger("auheat.cli")

_DEFAULTS = (None, ParameterSource.DEFAULT)

_SWITCH = "AUHEAT_PROGRESS"  # `auheat.utils.console` reads it; tqdm, which that loads, is slow

FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


class Terminated(KeyboardInterrupt):
    """SIGTERM: a run that is told to go stops as it does for Ctrl-C."""

    number = signal.SIGTERM


class HungUp(Terminated):
    """SIGHUP: the terminal has gone."""

    number = getattr(signal, "SIGHUP", signal.SIGTERM)


def _describe_call(ctx: click.Context) -> str:
    """Return what a command was asked for, and its store; "" where that and all files are amiss."""
    from auheat.utils.paths import find_store  # loads NumPy, which `--help` does without

    store, words = find_store(ctx.params["store"]), []
    places = [store / "landmarks", store / "shards"]
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        source = ctx.get_parameter_source(param.name or "")
        if not param.expose_value or param.name in ("store", "as_json") or source in _DEFAULTS:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        text, flag = ", ".join(map(str, values)), max(param.opts, key=len).lstrip("-")
        if isinstance(param, click.Argument):
            places += map(Path, filter(None, map(str, values)))
            words.append(text)
        elif isinstance(value, bool):
            words.append(flag if value else f"no-{flag}")
        else:
            words.append(f"{flag} {text}")
    words.append(f"store {store}")
    return f"{ctx.info_name}: {'; '.join(words)}" if any(map(Path.exists, places)) else ""


def _terminate(number: int, _: object) -> NoReturn:
    raise (Terminated if number == signal.SIGTERM else HungUp)


class Option(click.Option):
    """An option that stands in a section of its command's help."""

    def __init__(self, *names: Any, section: str = "Options", **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section


option = partial(click.option, cls=Option)


class Command(click.Command):
    """A command with sections in its help, options out of a file, and the options of logging."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.params += [config_option, *make_log_options(hidden=True)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        last = sections.pop("Options", [])
        for title, rows in (*sections.items(), ("Options", last)):
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with its messages on stderr."""
        with _messages(ctx.meta):
            if "store" in ctx.params and os.environ.get("RANK", "0") == "0":  # of torchrun's many
                with contextlib.suppress(AuheatError, OSError):  # which the call itself reports
                    if words := _describe_call(ctx):
                        _LOG.info("%s", words)  # before torch is loaded, which takes seconds
            return super().invoke(ctx)


class Group(click.Group):
    """A group that turns what went wrong into one line and exit code 1.

    Ctrl-C is exit code 130, SIGTERM 143, SIGHUP 129 (but for `nohup`); each is a clean stop, with
    the store's lock given back.
    Its commands are listed by `sections`: title -> commands.
    """

    command_class = Command

    def __init__(
        self, *names: Any, sections: Mapping[str, Sequence[click.Command]], **settings: Any
    ) -> None:
        super().__init__(*names, **settings)
        self.params += make_log_options(hidden=False)
        self._sections = sections
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def main(self, *names: Any, **settings: Any) -> Any:
        """Run the command line, whatever becomes of the screen that its messages go to."""
        before = sys.stderr
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (no path of ours)
                sys.stderr = cast(TextIO, SafeStream(before or nowhere, plain=True))
                return super().main(*names, **settings)
        except OSError as error:  # of help and the like; commands handle their own
            raise SystemExit(_report_lost(error)) from None
        finally:
            sys.stderr = before

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; SIGTERM and SIGHUP stop it as Ctrl-C does."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in {Terminated.number, HungUp.number}:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it
                    before[number] = signal.signal(number, _terminate)
        try:
            return self._invoke(ctx)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            _check_here()
            return super().invoke(ctx)
        except AuheatError as error:
            raise click.ClickException(escape_controls(str(error), "")) from error
        except BrokenPipeError:  # the reader of a pipe has gone; click ends quietly
            raise
        except OSError as error:  # a full disk, a folder that may not be written
            where = error.filename or "this machine"
            text = f"{where}: {error.strerror or error}"
            raise click.ClickException(escape_controls(text, "")) from error
        except Exception as error:  # of memory and of devices; others keep their traceback
            text = describe_failure(error)
            if not text:
                raise
            raise click.ClickException(escape_controls(text)) from error
        except KeyboardInterrupt as stop:
            note = str(stop) or "Stopped; the same command goes on from here."
            print_line(err=True)
            print_line(note, err=True)
            ctx.exit(128 + getattr(stop, "number", signal.SIGINT))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the commands in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, section by section."""
        width = max(map(len, self.list_commands(ctx)))
        limit = formatter.width - width - 6
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(c.name.ljust(width), c.get_short_help_str(limit)) for c in commands if c.name]
                )


def _check_here() -> None:
    """Raise `AuheatError` where the current folder is gone: torch would end the process for it."""
    try:
        Path.cwd()
    except OSError as error:
        raise StoreError(f".: {error.strerror} (cd to a folder that is there)") from error


def _report_lost(error: OSError) -> int:
    """Say why a text could not be printed; return the exit code."""
    print_line(f"Error: standard output: {error.strerror or error}", err=True)
    return 1


class _Handler(logging.Handler):
    """Writes messages to stderr, above the bars that are drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        message = record.getMessage()
        where = self.format(record).removeprefix(message)  # lines of a traceback
        tqdm.write(escape_controls(message, "") + escape_controls(where), file=sys.stderr)


@contextlib.contextmanager
def _messages(meta: Mapping[str, Any]) -> Iterator[None]:
    """Show the library's messages from a level on, and progress bars unless they are not wanted."""
    logger, handler, before = logging.getLogger("auheat"), _Handler(), os.environ.get(_SWITCH)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(meta.get(_LEVEL, "info").upper())
    os.environ[_SWITCH] = "1" if meta.get(_PROGRESS, before != "0") else "0"
    try:
        yield
    except Exception as error:
        if isinstance(error, AuheatError) or describe_failure(error):  # others show it anyway
            logger.debug("where the error comes from:", exc_info=True)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        os.environ.pop(_SWITCH)
        os.environ.update({} if before is None else {_SWITCH: before})


def make_log_options(hidden: bool) -> list[click.Parameter]:
    """Return the options of messages, which stand before a command's name or behind it."""

    def keep(key: str, value: Any = None) -> Callable[[click.Context, Any, Any], None]:
        def note(ctx: click.Context, _: Any, given: Any) -> None:
            if given:
                ctx.meta[key] = given if value is None else value

        return note

    shared: dict[str, Any] = {"expose_value": False, "hidden": hidden}
    return [
        Option(
            ["-v", "--verbose"], is_flag=True, callback=keep(_LEVEL, "debug"),
            help="More messages, and where an error comes from.", **shared,
        ),
        Option(
            ["-q", "--quiet"], is_flag=True, callback=keep(_LEVEL, "warning"),
            help="Warnings alone, no other messages.", **shared,
        ),
        Option(
            ["--log-level"], type=Choice(LOG_LEVELS), callback=keep(_LEVEL),
            help="Messages from this level on  [default: info]", **shared,
        ),
        Option(
            ["--no-progress"], is_flag=True, callback=_hide_progress,
            help="Draw no progress bars.", **shared,
        ),
    ]  # fmt: skip


def _hide_progress(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        ctx.meta[_PROGRESS] = False


def _refuse(file: Path, what: str) -> click.UsageError:
    return click.UsageError(escape_controls(f"{file}: {what}", ""))


def _read_config(ctx: click.Context, _: click.Parameter, file: Path | None) -> None:
    """Take the options of a YAML file as a command's defaults."""
    if file is None:
        return
    try:
        values = yaml.safe_load(read_limited(file, _LARGEST).decode("utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _refuse(file, f"no readable YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise _refuse(file, "no options (expected lines such as `epochs: 30`)")
    options = {
        name.lstrip("-").replace("-", "_"): param
        for param in ctx.command.params
        if isinstance(param, click.Option) and param.expose_value
        for name in param.opts
    }
    defaults = {}
    for key, value in values.items():
        param = options.get(str(key).replace("-", "_"))
        if param is None:
            known = ", ".join(sorted(options))
            raise _refuse(file, f"{key}: no option of this command (one of {known})")
        try:
            defaults[param.name or ""] = param.type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise _refuse(file, f"{key}: {error.message}") from None
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


config_option = Option(
    ["--config"],
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="YAML file of options, such as `epochs: 30`; those given here replace them.",
)
store_option = option(
    "--store",
    type=FOLDER,
    help="Folder of landmarks/, shards/, runs/  [default: $AUHEAT_STORE, or auheat-data]",
)
shards_option = option("--shards", help="Which shards, where there are several.")
json_option = option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
device_option = option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."
)
model_option = option(
    "--detector-model", type=FILE, help="fan: FAN's weights; mediapipe: face_landmarker.task."
)
workers_option = option(
    "--workers", type=int, help="Threads that read photos, or processes  [default: one per core]"
)
backend_option = option(
    "--backend",
    type=Choice(BACKENDS),
    default="threads",
    show_default=True,
    help="All but threads: --workers processes that each make whole shards.",
)
retry_option = option(
    "--retry-failed", is_flag=True, help="Look again at the rows that failed, and only at them."
)
overwrite_option = option(
    "--overwrite", is_flag=True, help="Make anew what was made with other settings."
)
fail_option = option(
    "--fail-on-bad", is_flag=True, help="Exit 1 if any photo has a bad status, once all is written."
)


def print_line(text: str = "", err: bool = False) -> None:
    """Print a text of one line, none of whose characters a terminal obeys, on stdout or stderr."""
    click.echo(escape_controls(text, ""), err=err)


def print_json(value: Any) -> None:
    """Print plain values as JSON; what is not a finite number is null."""
    from auheat.utils.files import dump_json

    click.echo(dump_json(value, indent=1))


def print_summary(summary: Any, as_json: bool) -> None:
    """Print what a stage did, as a table or as JSON, and its warnings on stderr."""
    if as_json:
        print_json(summary.as_dict())
        return
    rows = [(name, str(n)) for name, n in summary.status.items() if n]
    rows += [("total", str(summary.rows))]
    for key, value in summary.details.items():
        many = isinstance(value, dict)
        inner = value.items() if many else [(key.replace("_", " "), value)]
        rows += [(f"{key.rstrip('s')} {name}" if many else name, str(v)) for name, v in inner]
    if summary.not_valid:
        reasons = ", ".join(f"{why}: {n}" for why, n in summary.not_valid.items())
        explained = f" of {summary.rows} ({reasons})"
        rows = [(name, v + explained if name == "valid" else v) for name, v in rows]
    print_table([("status", "rows"), *rows])
    fresh = summary.rows - summary.resumed
    speed = f"{fresh} photos in {summary.seconds:.1f} s, {summary.rate:.0f}/s" if fresh else ""
    resumed = f"{summary.resumed} were there already" if summary.resumed else ""
    print_line("; ".join(part for part in (speed, resumed) if part))
    print_line(f"written to {summary.folder}")
    print_notes(summary.warnings)


def print_notes(notes: Sequence[str]) -> None:
    """Print notes on stderr."""
    for note in notes:
        print_line(f"note: {note}", err=True)


def print_fields(fields: Mapping[str, Any], as_json: bool = False) -> None:
    """Print names and values, as a table or as JSON."""
    if as_json:
        print_json(fields)
    else:
        print_table([(key, format_value(value)) for key, value in fields.items()])


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text in aligned columns."""
    rows = [tuple(escape_controls(cell, "") for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def format_value(value: Any) -> str:
    """Return a value as text, a list with commas."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
