"""Codebooks and AU regions: YAML -> checked records.

`facs.yaml` says where each action unit shows on the face; one YAML per published codebook says
which units an expression has. Every mistake in them is one error that names file and path.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from auheat.errors import AuheatError, RequestError
from auheat.expressions import EXPRESSIONS, SYNONYMS
from auheat.facs.records import Blob, Codebook, Cue, Frame, Region
from auheat.facs.yaml_reading import abbreviate, check_keys, check_list, check_text, load_yaml
from auheat.records import MIRROR, N_POINTS

SIDES = ("both", "left", "right", "either")

SIGMA_RANGE = (0.06, 0.20)
"""Sigmas outside it, in outer-eye distances, vanish on a small map or cover the face."""


OPTIONAL_WEIGHT = 0.5

_ROLES = ("required", "optional", "alternatives")

_REGIONS = "facs.yaml"

_HEAD = ({"name", "title", "citation", "expressions"}, {"notes", "unverified"})


@dataclass(frozen=True, slots=True, eq=False)
class NotedCodebook(Codebook):
    """A codebook with what its file says about its facts.

    `notes` is general; `remarks` maps an expression to its own note, and `unverified` to what of
    it could not be checked at its source, for the expressions where there is such a thing.
    """

    notes: str
    remarks: Mapping[str, str]
    unverified: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two codebooks: its kind, where it is, and both values.

    `kind` is "expression" (only in one; `au` None, the values are its AUs), "au" (only in one),
    "weight", "side" or "role". The value on a side that lacks the expression or AU is None.
    """

    kind: str
    expression: str
    au: int | None
    a: Any
    b: Any


def list_codebooks() -> list[str]:
    """List the names of the codebooks that come with auheat.

    Returns:
        Names that `load_codebook` and `render(codebook=...)` take, sorted.

    Example:
        >>> from auheat import list_codebooks
        >>> "martinez" in list_codebooks()
        True
    """
    files = resources.files("auheat.codebooks").iterdir()
    return sorted(f.name[:-5] for f in files if f.name.endswith(".yaml") and f.name != _REGIONS)


def load_codebook(name: str | Path) -> NotedCodebook:
    """Load a FACS codebook: which action units belong to which expression, and where they are.

    Args:
        name: A name of `list_codebooks`, or the path of a YAML file of the same form.

    Returns:
        The codebook, checked, with the notes of its file.

    Raises:
        RequestError: An unknown name, key, expression or AU, a duplicate, a weight outside (0, 1],
            or an AU without a region; the text names file and path.
        StoreError: A file that cannot be read as text.

    Example:
        >>> from auheat import load_codebook
        >>> book = load_codebook("martinez")
        >>> [cue.au for cue in book.expressions["Happiness"]]
        [6, 12, 25]
    """
    file = _find_codebook(name)
    raw, text = load_yaml(file)
    frame, regions, region_text = _load_regions()
    where = file.name
    check_keys(where, raw, *_HEAD)
    expressions = _read_expressions(where, raw["expressions"], regions)
    digest = hashlib.sha256((text + region_text).encode()).hexdigest()
    notes, doubt = (_optional_text(f"{where}: {k}", raw, k) for k in ("notes", "unverified"))
    entries = list(zip(expressions, raw["expressions"].values(), strict=True))
    remarks = {k: _optional_text(where, e, "note") for k, e in entries}
    unverified = {k: _optional_text(where, e, "unverified") or doubt for k, e in entries}
    return NotedCodebook(
        check_text(f"{where}: name", raw["name"]),
        check_text(f"{where}: title", raw["title"]),
        check_text(f"{where}: citation", raw["citation"]),
        MappingProxyType(expressions),
        regions,
        frame,
        digest,
        notes=notes,
        remarks=MappingProxyType({k: text for k, text in remarks.items() if text}),
        unverified=MappingProxyType({k: text for k, text in unverified.items() if text}),
    )


def validate_codebook(path: str | Path) -> list[str]:
    """Return every problem of a codebook file, one line each; an empty list means that it loads.

    Looks at each entry by itself, so that one run shows all mistakes. A file that is no YAML
    mapping has one problem. `path` may also be the name of a codebook that comes with auheat.
    """
    problems: list[str] = []

    def check(function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        except AuheatError as error:
            problems.append(str(error))
            return None

    try:
        file = _find_codebook(path)
        raw, _ = load_yaml(file)
    except AuheatError as error:
        return [str(error)]
    where, names = file.name, set[str]()
    check(check_keys, where, raw, *_HEAD)
    for key in ("name", "title", "citation", "notes", "unverified"):
        check(_optional_text, f"{where}: {key}", raw, key)
    if "expressions" in raw and check(_check_expressions, where, raw["expressions"]):
        for key, entry in raw["expressions"].items():
            names.add(check(_read_name, where, key, names))
            check(_read_cues, _path(where, key), entry, _load_regions()[1])
    return problems


def describe_codebook(book: Codebook) -> list[dict[str, Any]]:
    """Return a codebook as plain rows: expression, its note, and its AUs.

    Each row has `expression`, `note`, `unverified` (what could not be checked at the source, ""
    where all was) and `aus`, a list of number, name, role, weight and side.
    """
    remarks: Mapping[str, str] = book.remarks if isinstance(book, NotedCodebook) else {}
    unverified: Mapping[str, str] = book.unverified if isinstance(book, NotedCodebook) else {}
    return [
        {
            "expression": expression,
            "note": remarks.get(expression, ""),
            "unverified": unverified.get(expression, ""),
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


def diff_codebooks(a: Codebook, b: Codebook) -> list[Difference]:
    """Return how two codebooks differ, in order of `EXPRESSIONS`, then AU; empty where they agree.

    Compares expressions, and their AUs with weight, side and role; not names, notes or citations.
    """
    found = []
    for expression in EXPRESSIONS:
        ours, theirs = a.expressions.get(expression), b.expressions.get(expression)
        if ours is None or theirs is None:
            if ours is not theirs:
                listed = [None if c is None else [cue.au for cue in c] for c in (ours, theirs)]
                found.append(Difference("expression", expression, None, *listed))
            continue
        left, right = ({cue.au: cue for cue in cues} for cues in (ours, theirs))
        for au in sorted(left.keys() | right.keys()):
            found += _compare_cues(expression, au, left.get(au), right.get(au))
    return found


def _compare_cues(expression: str, au: int, a: Cue | None, b: Cue | None) -> list[Difference]:
    if a is None or b is None:
        weights = (None if cue is None else cue.weight for cue in (a, b))
        return [Difference("au", expression, au, *weights)]
    return [
        Difference(kind, expression, au, getattr(a, kind), getattr(b, kind))
        for kind in ("weight", "side", "role")
        if getattr(a, kind) != getattr(b, kind)
    ]


def _find_codebook(name: str | Path) -> Traversable | Path:
    known = list_codebooks()
    if isinstance(name, str) and name in known:
        return resources.files("auheat.codebooks") / f"{name}.yaml"
    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        raise RequestError(
            f"codebook {str(name)!r}: unknown (known: {', '.join(known)}; or a .yaml file)"
        )
    return file


def load_frame() -> Frame:
    """Return the mean face that every codebook's places are given on, and its weights."""
    return _load_regions()[0]


def regions_version() -> int:
    """Return the version of the regions that are drawn now; shards say theirs."""
    version: int = _read_regions()[0]["version"]
    return version


@functools.cache
def load_regions(version: int) -> tuple[Frame, Mapping[int, Region]]:
    """Load the face frame and the regions of a version: those that shards were drawn with.

    Version 1 was flat: its regions do not turn with a head. Raises `RequestError` for a version
    that this auheat does not know.
    """
    frame, regions, _ = _load_regions()
    if version == regions_version():
        return frame, regions
    earlier = _read_regions()[0]["earlier"]
    if version not in earlier:
        versions = ", ".join(map(str, (*earlier, regions_version())))
        raise RequestError(f"{_REGIONS}: no version {version} of the regions (known: {versions})")
    changed = {
        au: replace(regions[au], **_read_places(f"{_REGIONS}: earlier.{version}.{au}", entry))
        for au, entry in earlier[version].items()
    }
    return Frame(frame.mean, frame.weights), MappingProxyType({**regions, **changed})


@functools.cache
def _read_regions() -> tuple[dict[str, Any], str]:
    raw, text = load_yaml(resources.files("auheat.codebooks") / _REGIONS)
    check_keys(_REGIONS, raw, {"version", "frame", "regions", "earlier", "unplaced"})
    return raw, text


@functools.cache
def _load_regions() -> tuple[Frame, Mapping[int, Region], str]:
    raw, text = _read_regions()
    keys = {"source", "weights", "mean", "depth", "between"}
    check_keys(f"{_REGIONS}: frame", raw["frame"], keys)
    mean = np.array(raw["frame"]["mean"], np.float64)
    if mean.shape != (N_POINTS, 2):
        raise RequestError(f"{_REGIONS}: frame.mean: shape {mean.shape} (expected (68, 2))")
    weights = np.zeros(N_POINTS)
    for point, weight in raw["frame"]["weights"].items():
        weights[point] = weight
    weights /= weights.sum()
    between = np.array(raw["frame"]["between"], np.float64).reshape(-1, 3)
    aside = between[between[:, 0] != 0] * [-1, 1, 1]
    surface = np.vstack([np.column_stack([mean, raw["frame"]["depth"]]), between, aside])
    for array in (mean, weights, surface):
        array.flags.writeable = False  # shared by every codebook
    regions = {au: _read_region(au, entry) for au, entry in sorted(raw["regions"].items())}
    return Frame(mean, weights, surface), MappingProxyType(regions), text


def _read_region(au: int, entry: Any) -> Region:
    where = f"{_REGIONS}: regions.{au}"
    check_keys(where, entry, {"name", "muscle", "source", "blobs"})
    name, muscle = (check_text(f"{where}.{key}", entry[key]) for key in ("name", "muscle"))
    return Region(au, name, muscle, **_read_places(where, entry))


def _read_places(where: str, entry: Any) -> dict[str, Any]:
    """Return the blobs of a region, and who says so."""
    listed = check_list(f"{where}.blobs", entry["blobs"])
    blobs = tuple(b for i, e in enumerate(listed) for b in _read_blobs(where, i, e))
    return {"blobs": blobs, "source": check_text(f"{where}.source", entry["source"])}


@functools.cache
def unplaced_units() -> Mapping[int, str]:
    """Return the codes of FACS that have no place on 68 landmarks, each with its reason."""
    return MappingProxyType(dict(_read_regions()[0]["unplaced"]))


def _read_blobs(region: str, index: int, entry: Any) -> list[Blob]:
    """Return a blob and its mirror image, or one blob where it lies on the midline."""
    where = f"{region}.blobs[{index}]"
    check_keys(where, entry, {"anchor", "sigma"}, {"offset", "angle"})
    anchor = tuple(entry["anchor"])
    if not anchor or not all(type(p) is int and 0 <= p < N_POINTS for p in anchor):
        raise RequestError(f"{where}.anchor: {entry['anchor']} (expected landmarks 0 to 67)")
    x, y = (float(v) for v in entry.get("offset", (0, 0)))
    sigma = tuple(float(v) for v in entry["sigma"])
    low, high = SIGMA_RANGE
    if len(sigma) != 2 or not all(low <= s <= high for s in sigma):
        raise RequestError(f"{where}.sigma: {entry['sigma']} (expected two of {low} to {high})")
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
    expressions: dict[str, tuple[Cue, ...]] = {}
    for key, entry in _check_expressions(where, raw).items():
        name = _read_name(where, key, expressions)
        expressions[name] = _read_cues(_path(where, key), entry, regions)
    return expressions


def _check_expressions(where: str, raw: Any) -> dict[Any, Any]:
    if not isinstance(raw, dict) or not raw:
        raise RequestError(
            f"{where}: expressions: {abbreviate(raw)} (expected a mapping of name to AUs)"
        )
    return raw


def _path(where: str, key: Any) -> str:
    return f"{where}: expressions.{key if str(key).isprintable() else abbreviate(key)}"


def _read_name(where: str, key: Any, seen: Iterable[str]) -> str:
    name = SYNONYMS.get(str(key).casefold())
    if name is None:
        known = ", ".join(EXPRESSIONS)
        raise RequestError(f"{_path(where, key)}: unknown expression (known: {known})")
    if name in seen:
        raise RequestError(f"{_path(where, key)}: {name} is given twice")
    return name


def _read_cues(path: str, entry: Any, regions: Mapping[int, Region]) -> tuple[Cue, ...]:
    check_keys(path, entry, set(), {*_ROLES, "note", "unverified"})
    for key in ("note", "unverified"):
        _optional_text(f"{path}.{key}", entry, key)
    groups = []
    for role in _ROLES:
        spot = f"{path}.{role}"
        listed = check_list(spot, entry.get(role, []))
        if role == "alternatives":
            groups += [
                (role, f"{spot}[{i}]", check_list(f"{spot}[{i}]", group))
                for i, group in enumerate(listed)
            ]
        else:
            groups.append((role, spot, listed))
    cues: dict[int, Cue] = {}
    for role, spot, items in groups:
        group = _read_group(spot, items, role, regions)
        for au in group.keys() & cues.keys():
            # alternatives share units, being drawn as their union; else a unit stands once
            if cues[au].role != role:
                raise RequestError(f"{spot}: AU {au} is given twice (also {cues[au].role})")
            if cues[au] != group[au]:
                raise RequestError(f"{spot}: AU {au} has another weight or side before")
        cues |= group
    if not cues:
        raise RequestError(f"{path}: no AUs (expected {', '.join(_ROLES)})")
    return tuple(cues[au] for au in sorted(cues))


def _read_group(
    spot: str, items: list[Any], role: str, regions: Mapping[int, Region]
) -> dict[int, Cue]:
    group: dict[int, Cue] = {}
    for i, item in enumerate(items):
        cue = _read_cue(f"{spot}[{i}]", item, role, regions)
        if cue.au in group:
            raise RequestError(f"{spot}[{i}]: AU {cue.au} is given twice")
        group[cue.au] = cue
    return group


def _read_cue(where: str, item: Any, role: str, regions: Mapping[int, Region]) -> Cue:
    fields = item if isinstance(item, dict) else {"au": item}
    check_keys(where, fields, {"au"}, {"weight", "side"})
    au = fields["au"]
    if type(au) is not int or au not in regions:  # bool is an int, but no unit
        known = f"(known: {', '.join(str(k) for k in regions)})"
        if type(au) is int and au in unplaced_units():
            raise RequestError(f"{where}: AU {au} has no region: {unplaced_units()[au]} {known}")
        raise RequestError(f"{where}: unknown AU {abbreviate(au)} {known}")
    weight = fields.get("weight", OPTIONAL_WEIGHT if role == "optional" else 1)
    if type(weight) not in (int, float) or not 0 < weight <= 1:  # nor is bool a weight, nor NaN
        raise RequestError(
            f"{where}: AU {au}: weight {abbreviate(weight)} (expected above 0, at most 1)"
        )
    side = fields.get("side", "both")
    if side not in SIDES:
        raise RequestError(f"{where}: AU {au}: side {abbreviate(side)} (known: {', '.join(SIDES)})")
    if side != "both" and all(blob.side == "middle" for blob in regions[au].blobs):
        raise RequestError(f"{where}: AU {au}: side {side!r} of a unit on the midline (only: both)")
    return Cue(au, float(weight), side, role)


def _optional_text(spot: str, entry: dict[str, Any], key: str) -> str:
    return check_text(spot, entry[key]) if key in entry else ""
