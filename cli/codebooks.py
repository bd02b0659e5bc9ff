"""The command about codebooks: list, show, check, compare, draw."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from auheat.errors import AuheatError

from .common import FILE, Command, json_option, option, print_json, print_line, print_table


@click.command(cls=Command)
@click.argument("name", required=False)
@option("--validate", metavar="FILE", help="Name every problem of a YAML file; exit 1 if any")
@option("--diff", nargs=2, metavar="A B", help="Show how two codebooks differ.")
@option("--plot", type=FILE, help="Draw NAME's maps and all regions to a picture.")
@json_option
def codebooks(
    name: str | None,
    validate: str | None,
    diff: tuple[str, str] | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """List the codebooks, or show the action units of one by NAME (or of a YAML file).

    \b
    auheat codebooks
    auheat codebooks martinez
    auheat codebooks martinez --plot atlas.png
    auheat codebooks --validate my-codebook.yaml
    auheat codebooks --diff martinez emfacs
    """
    if sum(x is not None for x in (name, validate, diff)) > 1:
        raise AuheatError("codebooks: NAME, --validate and --diff exclude each other (give one)")
    if plot is not None and name is None:
        raise AuheatError("--plot: needs the NAME of a codebook (auheat codebooks lists them)")
    if validate is not None:
        _validate(validate, as_json)
    elif diff is not None:
        _diff(*diff, as_json)
    elif name is not None:
        _print_codebook(name, plot, as_json)
    else:
        _list(as_json)


def _list(as_json: bool) -> None:
    from auheat.facs.codebooks import list_codebooks, load_codebook

    books = [load_codebook(known) for known in list_codebooks()]
    if as_json:
        print_json({book.name: book.title for book in books})
        return
    rows = [(b.name, str(len(b.expressions)), b.title) for b in books]
    print_table([("codebook", "expressions", "title"), *rows])


def _print_text(text: str, indent: str = "") -> None:
    for line in text.splitlines():
        print_line(f"{indent}{line}")


def _print_codebook(name: str, plot: Path | None, as_json: bool) -> None:
    from auheat.facs.codebooks import describe_codebook, load_codebook

    book = load_codebook(name)
    rows = describe_codebook(book)
    if plot is not None:
        from auheat.visualization.codebook_atlas import plot_codebook

        plot_codebook(book, plot)
    if as_json:
        about = {"name": book.name, "title": book.title, "citation": book.citation}
        told = about | {"notes": book.notes, "expressions": rows}
        print_json(told | ({"plot": str(plot)} if plot else {}))
        return
    for text in (book.title, book.citation, book.notes):
        _print_text(text)
    print_line()
    for row in rows:
        print_line(row["expression"])
        print_table([(f"  AU{c['au']}", c["name"], _note(c)) for c in row["aus"]])
        for text in (row["note"], row["unverified"] and f"unverified: {row['unverified']}"):
            _print_text(text, "  ")
        print_line()
    if plot is not None:
        print_line(f"drawn to {plot}")


def _validate(file: str, as_json: bool) -> None:
    from auheat.facs.codebooks import validate_codebook

    problems = validate_codebook(file)
    if as_json:
        print_json({"file": file, "problems": problems})
    else:
        for problem in problems:
            print_line(problem)
        print_line(f"{file}: {len(problems)} problems" if problems else f"{file}: in order")
    if problems:
        sys.exit(1)


def _diff(a: str, b: str, as_json: bool) -> None:
    from auheat.facs.codebooks import diff_codebooks, load_codebook

    found = diff_codebooks(load_codebook(a), load_codebook(b))
    if as_json:
        print_json([asdict(difference) for difference in found])
        return
    rows = [
        (d.expression, "" if d.au is None else f"AU{d.au}", d.kind, _value(d.a), _value(d.b))
        for d in found
    ]
    if rows:
        print_table([("expression", "unit", "what", a, b), *rows])
    print_line(f"{len(rows)} differences")


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _note(cue: dict[str, Any]) -> str:
    weight = "" if cue["weight"] == 1 else f"weight {cue['weight']:g}"
    side = "" if cue["side"] == "both" else f"{cue['side']} side"
    role = "" if cue["role"] == "required" else cue["role"]
    return ", ".join(part for part in (role, weight, side) if part)
