"""A file of one's own that says what the names of a set's classes mean (`--labels map.yaml`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from auheat.datasets.label_files import read_class
from auheat.datasets.layout import find_label
from auheat.errors import RequestError
from auheat.expressions import SYNONYMS
from auheat.facs.yaml_reading import abbreviate, load_yaml

_OWN = re.compile(r"(?=.*[^\W\d_])\w(?:[\w .+'&()-]{0,58}[\w)])?")

_ALIKE = 0.85  # of two words' letters: "Hapiness" and "happiness" are, "bored" and "scared" are not


def load_label_map(file: Path) -> dict[str, str]:
    """Return {a set's own name, casefolded: expression, or class without action units}.

    A value that is no expression's name is a class of its own, unless it is nearly one. Raises
    `AuheatError` for a file that is no YAML mapping of names, and a name that has two meanings.
    """
    if not file.is_file():
        raise RequestError(
            f"--labels: {file}: no such file (expected YAML lines `name: expression`)"
        )
    raw, _ = load_yaml(file, "labels", "lines `name: expression`")
    labels: dict[str, str] = {}
    spelt: dict[str, str] = {}
    for key, value in cast("dict[Any, Any]", raw).items():
        where = f"--labels: {file.name}: {abbreviate(key)}"
        if isinstance(key, bool) or key is None:
            raise RequestError(
                f"{where}: YAML reads this word as true, false or nothing (quote it)"
            )
        name = read_class(str(key).strip()).casefold()
        label = _to_label(where, name, value)
        if spelt.setdefault(label.casefold(), label) != label:
            raise RequestError(f"{where}: {label!r} is written {spelt[label.casefold()]!r} before")
        if labels.setdefault(name, label) != label:
            raise RequestError(
                f"{where}: {label} here, {labels[name]} before (expected one meaning)"
            )
    if not labels:
        raise RequestError(f"--labels: {file.name}: empty (expected lines `name: expression`)")
    return labels


def _to_label(where: str, name: str, value: object) -> str:
    """Return an expression's canonical name, or the name of a class of its own."""
    if not isinstance(value, str):
        raise RequestError(f"{where}: {abbreviate(value)} (expected an expression, or a class)")
    said = value.strip()
    if said.casefold() in SYNONYMS:
        return SYNONYMS[said.casefold()]
    if not _OWN.fullmatch(said):
        raise RequestError(
            f"{where}: {abbreviate(said)} (a class is called by up to 60 letters, digits, blanks "
            "and - _ . + & ', with a letter among them)"
        )
    near = difflib.get_close_matches(said.casefold(), SYNONYMS, 1, _ALIKE)
    if near and said.casefold() != name:
        raise RequestError(
            f"{where}: {said!r} is no expression; is {SYNONYMS[near[0]]} meant? (a class without "
            f"action units that is called so needs the line `{said}: {said}`)"
        )
    return said


def describe_use(
    file: Path, labels: Mapping[str, str], counts: Mapping[tuple[str, str], int]
) -> list[str]:
    """Return notes on what a map made of a set's labels: classes without units, names not met.

    `counts` has photos by (label as the set has it, label).
    """
    own = {name: label for name, label in labels.items() if label not in SYNONYMS.values()}
    photos = dict.fromkeys(own.values(), 0)
    met = set[str]()
    for (said, label), n in counts.items():
        met |= {name for name in labels if find_label(said, {name: label})}
        if label in photos:
            photos[label] += n
    notes = []
    if photos:
        rows = ", ".join(f"{label} ({n} photos)" for label, n in sorted(photos.items()))
        notes.append(f"{file.name}: classes without action units, and so without maps: {rows}")
    if unused := [name for name in labels if name not in met]:
        notes.append(f"{file.name}: no photo has the label {', '.join(map(repr, unused[:5]))}")
    return notes
