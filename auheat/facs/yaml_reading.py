"""Strict reading of codebook files: plain YAML -> checked values, or one error that says where."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from auheat.errors import RequestError, StoreError

MAX_TEXT = 2**20
"""Longest codebook file, in characters."""


MAX_NODES = 2**16
"""Most values and keys of a codebook file; the parser takes some seconds for as many."""


_LONGEST_NUMBER = 64  # characters, in another base than ten


_KINDS = (str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses tags, a key given twice, and aliases, whose nesting can explode."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise yaml.YAMLError(f"{where}: more than {MAX_NODES} values")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"{where}: aliases are not read (write the values out)")
        if getattr(event, "tag", None):
            raise yaml.YAMLError(f"{where}: tags are not read (leave {event.tag!r} out)")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"{where}: a key that is itself a list or mapping")
            value = self.construct_object(key)
            if value in seen:
                raise yaml.YAMLError(f"{where}: {abbreviate(value)} is given twice")
            seen.add(value)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Refuse long numbers of base 2, 8, 16 and 60: Python bounds only those of base ten.

        Base 60 takes a time that grows with the square of the digits, and the others make
        numbers that cannot be printed in an error.
        """
        text, kind = node.value.lstrip("+-"), node.tag.removeprefix(_TAG)
        if len(text) > _LONGEST_NUMBER and (":" in text or (kind == "int" and text[0] == "0")):
            where = f"line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"{where}: a number of {len(text)} characters")
        number: int | float = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        return number


_TAG = "tag:yaml.org,2002:"

for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_number)


def load_yaml(
    file: Traversable | Path,
    kind: str = "codebook",
    content: str = "name, citation, expressions",
) -> tuple[dict[str, Any], str]:
    """Return the mapping that a YAML file holds, and a canonical text that comments do not change.

    `kind` and `content` are what an error says was expected. Raises `AuheatError` with the file's
    name where it cannot be read, is not UTF-8, longer than MAX_TEXT characters, no valid YAML, no
    mapping, or uses tags, aliases, a key twice, more than MAX_NODES values, or a value that is
    neither text, number, list nor mapping.
    """
    if isinstance(file, Path) and file.exists() and not (file.is_file() or file.is_dir()):
        raise StoreError(f"{file.name}: no regular file (expected a {kind} file)")
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(2 * MAX_TEXT)  # enough to say how much too long most are
    except OSError as error:
        raise StoreError(f"{file.name}: {error.strerror} (expected a {kind} file)") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{file.name}: not UTF-8 at byte {error.start} (save it so)") from error
    if len(text) > MAX_TEXT:
        raise RequestError(f"{file.name}: {len(text)} characters (at most {MAX_TEXT})")
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except RecursionError as error:
        raise RequestError(f"{file.name}: no valid YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number out of bounds
        raise RequestError(f"{file.name}: no valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise RequestError(f"{file.name}: not a mapping (expected {content})")
    return raw, json.dumps(_plain(f"{file.name}: ", raw), sort_keys=True)


def _one_line(error: Exception) -> str:
    """Return what the parser says, with its line, without the echo of the file's text."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def _plain(where: str, value: Any) -> Any:
    """Return the value with every key as text; refuse what JSON has no word for, dates say."""
    if isinstance(value, dict):
        return {str(k): _plain(f"{where}{k}.", v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(f"{where[:-1]}[{i}].", v) for i, v in enumerate(value)]
    if type(value) not in _KINDS:
        kind = type(value).__name__
        raise RequestError(f"{where[:-1]}: a {kind} (expected text, a number, a list or a mapping)")
    return value


def abbreviate(value: Any) -> str:
    """Return the value as an error quotes it: one line, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_keys(
    where: str, entry: Any, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """Raise `AuheatError` unless `entry` is a mapping with these keys and no others."""
    if not isinstance(entry, dict):
        raise RequestError(f"{where}: {abbreviate(entry)} (expected a mapping)")
    known = [*sorted(required), *sorted(optional)]
    for key in entry:
        if key not in known:
            raise RequestError(
                f"{where}: unknown key {abbreviate(key)} (known: {', '.join(known)})"
            )
    for key in required:
        if key not in entry:
            raise RequestError(f"{where}: {key!r} is missing (known: {', '.join(known)})")


def check_text(where: str, value: Any) -> str:
    """Return the text on one line; raise `AuheatError` where it is none or empty."""
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{where}: {abbreviate(value)} (expected text)")
    return " ".join(value.split())


def check_list(where: str, value: Any) -> list[Any]:
    """Return the list; raise `AuheatError` where it is none."""
    if not isinstance(value, list):
        raise RequestError(f"{where}: {abbreviate(value)} (expected a list)")
    return value
