"""Codebooks and AU regions: YAML -> checked records.

`facs.yaml` says where each action unit shows on the face; one YAML per published codebook says
which units an expression has. Every mistake in them is one error that names file and path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from auheat.records import (
    EXPRESSIONS,
    MIRROR,
    N_POINTS,
    SYNONYMS,
    AuheatError,
    Blob,
    Codebook,
    Cue,
    Frame,
    Region,
)

SIDES = ("both", "left", "right", "either")
SIGMA_RANGE = (0.06, 0.20)
"""Sigmas outside it, in outer-eye distances, vanish on a small map or cover the face."""

OPTIONAL_WEIGHT = 0.5
MAX_TEXT = 2**20
_REGIONS = "facs.yaml"


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses aliases, whose nesting can explode, and a key given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read (write the values out)")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key!r} is given twice")
        return super().construct_mapping(node, deep=deep)


def list_codebooks() -> list[str]:
    """Return the names of the codebooks that come with auheat."""
    files = resources.files("auheat.codebooks").iterdir()
    return sorted(f.name[:-5] for f in files if f.name.endswith(".yaml") and f.name != _REGIONS)


def load_codebook(name: str | Path) -> Codebook:
    """Load a codebook by its name, or from a YAML file of the same form.

    Raises `AuheatError` naming file and path for an unknown name, key, expression or AU, a
    duplicate, a weight outside (0, 1], or an AU without a region.
    """
    known = list_codebooks()
    if isinstance(name, str) and name in known:
        file: Traversable | Path = resources.files("auheat.codebooks") / f"{name}.yaml"
    else:
        file = Path(name)
        if file.suffix not in (".yaml", ".yml"):
            raise AuheatError(
                f"codebook {str(name)!r}: unknown (known: {', '.join(known)}; or a .yaml file)"
            )
    raw, text = _load_yaml(file)
    frame, regions, region_text = _load_regions()
    where = file.name
    _check_keys(where, raw, {"name", "title", "citation", "expressions"}, {"notes"})
    expressions = _read_expressions(where, raw["expressions"], regions)
    digest = hashlib.sha256((text + region_text).encode()).hexdigest()
    return Codebook(
        _text(f"{where}: name", raw["name"]),
        _text(f"{where}: title", raw["title"]),
        _text(f"{where}: citation", raw["citation"]),
        MappingProxyType(expressions),
        MappingProxyType(regions),
        frame,
        digest,
    )


def describe_codebook(book: Codebook) -> list[dict[str, Any]]:
    """Return a codebook as plain rows: expression, and number, name, role, weight of its AUs."""
    return [
        {
            "expression": expression,
            "aus": [
                {
                    "au": cue.au,
                    "name": book.regions[cue.au].name,
                    "role": cue.role,
                    "weight": cue.weight,
                    "side": cue.side,
                }
                for cue in cues
            ],
        }
        for expression, cues in book.expressions.items()
    ]


def _load_yaml(file: Traversable | Path) -> tuple[dict[str, Any], str]:
    """Return the parsed mapping and a canonical text of it, which comments do not change."""
    try:
        text = file.read_text(encoding="utf-8")
        if len(text) > MAX_TEXT:
            raise AuheatError(f"{file.name}: {len(text)} characters (at most {MAX_TEXT})")
        raw = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise AuheatError(f"{file.name}: {error.strerror} (expected a codebook file)") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise AuheatError(f"{file.name}: no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise AuheatError(f"{file.name}: not a mapping (expected name, citation, expressions)")
    try:
        return raw, json.dumps(raw, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AuheatError(f"{file.name}: a key or value of a kind not used here") from error


def _load_regions() -> tuple[Frame, dict[int, Region], str]:
    raw, text = _load_yaml(resources.files("auheat.codebooks") / _REGIONS)
    _check_keys(_REGIONS, raw, {"frame", "regions"})
    _check_keys(f"{_REGIONS}: frame", raw["frame"], {"source", "weights", "mean"})
    mean = np.array(raw["frame"]["mean"], np.float64)
    if mean.shape != (N_POINTS, 2):
        raise AuheatError(f"{_REGIONS}: frame.mean: shape {mean.shape} (expected (68, 2))")
    weights = np.zeros(N_POINTS)
    for point, weight in raw["frame"]["weights"].items():
        weights[point] = weight
    regions = {}
    for au, entry in raw["regions"].items():
        where = f"{_REGIONS}: regions.{au}"
        _check_keys(where, entry, {"name", "muscle", "source", "blobs"})
        blobs = tuple(b for i, e in enumerate(entry["blobs"]) for b in _read_blobs(where, i, e))
        regions[int(au)] = Region(int(au), entry["name"], entry["muscle"], blobs, entry["source"])
    return Frame(mean, weights / weights.sum()), dict(sorted(regions.items())), text


def _read_blobs(region: str, index: int, entry: Any) -> list[Blob]:
    """Return a blob and its mirror image, or one blob where it lies on the midline."""
    where = f"{region}.blobs[{index}]"
    _check_keys(where, entry, {"anchor", "sigma"}, {"offset", "angle"})
    anchor = tuple(entry["anchor"])
    if not anchor or not all(type(p) is int and 0 <= p < N_POINTS for p in anchor):
        raise AuheatError(f"{where}.anchor: {entry['anchor']} (expected landmarks 0 to 67)")
    x, y = (float(v) for v in entry.get("offset", (0, 0)))
    sigma = tuple(float(v) for v in entry["sigma"])
    low, high = SIGMA_RANGE
    if len(sigma) != 2 or not all(low <= s <= high for s in sigma):
        raise AuheatError(f"{where}.sigma: {entry['sigma']} (expected two of {low} to {high})")
    angle = float(entry.get("angle", 0))
    partner = tuple(int(MIRROR[p]) for p in anchor)
    if set(partner) == set(anchor) and x == 0 and angle % 90 == 0:
        return [Blob(anchor, (x, y), (sigma[0], sigma[1]), angle, "middle")]
    return [
        Blob(anchor, (x, y), (sigma[0], sigma[1]), angle, "right"),
        Blob(partner, (-x, y), (sigma[0], sigma[1]), -angle, "left"),
    ]


def _read_expressions(
    where: str, raw: Any, regions: Mapping[int, Region]
) -> dict[str, tuple[Cue, ...]]:
    if not isinstance(raw, dict) or not raw:
        raise AuheatError(f"{where}: expressions: not a mapping (expected name: AUs)")
    expressions: dict[str, tuple[Cue, ...]] = {}
    for key, entry in raw.items():
        path = f"{where}: expressions.{key}"
        name = SYNONYMS.get(str(key).casefold())
        if name is None:
            raise AuheatError(f"{path}: unknown expression (known: {', '.join(EXPRESSIONS)})")
        if name in expressions:
            raise AuheatError(f"{path}: {name} is given twice")
        expressions[name] = _read_cues(path, entry, regions)
    return expressions


def _read_cues(path: str, entry: Any, regions: Mapping[int, Region]) -> tuple[Cue, ...]:
    _check_keys(path, entry, set(), {"required", "optional", "alternatives", "note"})
    listed = [("required", f"{path}.required", e) for e in _list(path, entry, "required")]
    for i, group in enumerate(_list(path, entry, "alternatives")):
        if not isinstance(group, list):
            raise AuheatError(f"{path}.alternatives[{i}]: {group!r} (expected a list of AUs)")
        listed += [("alternatives", f"{path}.alternatives[{i}]", e) for e in group]
    listed += [("optional", f"{path}.optional", e) for e in _list(path, entry, "optional")]
    cues: dict[int, Cue] = {}
    for role, spot, item in listed:
        cue = _read_cue(spot, item, role, regions)
        if cue.au not in cues:
            cues[cue.au] = cue
        elif role != "alternatives":  # alternatives share units; they are drawn as their union
            raise AuheatError(f"{spot}: AU {cue.au} is given twice")
    if not cues:
        raise AuheatError(f"{path}: no AUs (expected required, optional or alternatives)")
    return tuple(cues[au] for au in sorted(cues))


def _read_cue(where: str, item: Any, role: str, regions: Mapping[int, Region]) -> Cue:
    fields = item if isinstance(item, dict) else {"au": item}
    _check_keys(where, fields, {"au"}, {"weight", "side"})
    au = fields["au"]
    if type(au) is not int or au not in regions:
        known = ", ".join(str(k) for k in regions)
        raise AuheatError(f"{where}: AU {au!r} has no region (known: {known})")
    weight = fields.get("weight", OPTIONAL_WEIGHT if role == "optional" else 1)
    number = type(weight) in (int, float)  # bool is an int, but no weight
    if not number or not math.isfinite(weight) or not 0 < weight <= 1:
        raise AuheatError(f"{where}: AU {au}: weight {weight!r} (expected above 0, at most 1)")
    side = fields.get("side", "both")
    if side not in SIDES:
        raise AuheatError(f"{where}: AU {au}: side {side!r} (known: {', '.join(SIDES)})")
    return Cue(au, float(weight), side, role)


def _list(path: str, entry: dict[str, Any], key: str) -> list[Any]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise AuheatError(f"{path}.{key}: {value!r} (expected a list)")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise AuheatError(f"{where}: {value!r} (expected text)")
    return " ".join(value.split())


def _check_keys(
    where: str, entry: Any, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    if not isinstance(entry, dict):
        raise AuheatError(f"{where}: {entry!r} (expected a mapping)")
    known = [*sorted(required), *sorted(optional)]
    for key in entry:
        if key not in known:
            raise AuheatError(f"{where}: unknown key {key!r} (known: {', '.join(known)})")
    for key in required:
        if key not in entry:
            raise AuheatError(f"{where}: {key!r} is missing")
