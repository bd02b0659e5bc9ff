"""Measured action units of a data set's photos: files read, matched by name, one face chosen.

A name fits a photo as those of imported landmarks do (`auheat.landmarks.imported.matching`). The
rows of a film, which have frames and no names of photos, fit photos whose path names the film and
ends in the frame's number: row 17 of `SN001` is of `SN001/0017.png` or `SN001_17.jpg`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auheat.action_units.formats import (
    ENDINGS,
    FORMS,
    INTENSITY,
    MAX_ROWS,
    PLAIN,
    PRESENCE,
    Cell,
    UnitTable,
    list_coded_units,
    read_units,
    recognise_units,
)
from auheat.errors import StoreError
from auheat.landmarks.imported.matching import MIN_SCORE, clean_name, list_some, match_names
from auheat.records import Array
from auheat.shards.schema import STRONGEST, UNMEASURED
from auheat.utils.files import file_digest
from auheat.utils.photo_files import is_clutter, is_video

VERSION = "units 1"
"""Raised whenever the code changes what comes of a file, so that the digest changes too."""


_FROM_ONE = ("disfa", "openface")  # forms whose films begin with frame 1


MIN_LEVEL, MIN_PROBABILITY = 1.0, 0.5
"""Least intensity (level A of FACS, a trace) and probability of an AU that is active."""


NO_ROW = "no measured AUs"
NOT_FOUND = "no face where AUs were measured"
DOUBTFUL = "measured AUs of low confidence"
SEVERAL = "AUs of several faces, not told apart"


@dataclass(frozen=True, slots=True, eq=False)
class UnitRows:
    """The action units of N photos, as a shard keeps them.

    `intensity` (N, A) f32 in [0, 5], NaN where it was not measured; `active` (N, A) u8: 1, 0, or
    `UNMEASURED`; `reasons` say why a photo has none, "" where it has.
    """

    intensity: Array
    active: Array
    reasons: list[str]


class MeasuredUnits:
    """The rows of a file or folder of action units, one per face.

    `form` is one of `formats.FORMS`, `aus` (A,) are the FACS numbers that it measures; `digest`
    (hex sha256) covers the files' bytes and names; `odd` counts what was left out and why.
    """

    def __init__(
        self, source: Path, form: str, table: UnitTable, digest: str, skipped: Sequence[str] = ()
    ) -> None:
        self.source, self.form, self.digest, self.skipped = source, form, digest, tuple(skipped)
        self.odd, self.notes = Counter(table.odd), list[str]()
        self.names, self.frame, self.where = table.names, table.frame, table.where
        self.place = table.place
        values = self._resolve(table)
        self.aus = sorted({cell.au for cell in values})
        self.intensity, presence = (self._stack(values, kind) for kind in (INTENSITY, PRESENCE))
        self._check_range(self.intensity, INTENSITY)
        self._check_range(presence, PRESENCE)
        unmeasured = np.isnan(self.intensity) & np.isnan(presence)
        lost = unmeasured.all(1)
        self.failed = table.failed | lost
        self.doubtful = ~self.failed & (table.score < MIN_SCORE)
        both = np.where(
            np.isnan(presence), self.intensity >= MIN_LEVEL, presence >= MIN_PROBABILITY
        )
        self.active = np.where(unmeasured, UNMEASURED, both).astype(np.uint8)
        self.odd["faces were not found there"] += int(self.failed.sum())
        self.odd[f"faces have a confidence under {MIN_SCORE}"] += int(self.doubtful.sum())
        sound = ~self.failed & ~self.doubtful
        measured = ~unmeasured[sound].all(0)
        self.odd["values are empty: not measured"] += int(unmeasured[sound][:, measured].sum())

    def _resolve(self, table: UnitTable) -> dict[Cell, Array]:
        """Return the values by what they measure; raises `AuheatError` where nothing says it."""
        values = {cell: column for cell, column in table.values.items() if cell.kind != PLAIN}
        plain = {cell: column for cell, column in table.values.items() if cell.kind == PLAIN}
        if not plain:
            return values
        whole = np.concatenate(list(plain.values()))
        kind = INTENSITY
        if np.isin(whole[~np.isnan(whole)], (0, 1)).all():
            kind = PRESENCE
            self.notes.append(
                f"{self.source}: all values are 0 or 1, and are taken for presence (intensities "
                "are meant by columns such as AU12_r)"
            )
        elif not (whole > 1).any() and not (whole < 0).any():
            example = whole[(whole > 0) & (whole < 1)][0]
            raise StoreError(
                f"{self.source}: all values lie between 0 and 1, such as {example:g}: intensities "
                "or probabilities? (call the columns AU12_r for intensities from 0 to 5, or AU12_c "
                "for presence, 0 or 1)"
            )
        for cell, column in plain.items():
            if Cell(cell.au, kind) in values:
                raise StoreError(
                    f"{self.source}: two columns for the {kind} of AU{cell.au} (expected one)"
                )
            values[Cell(cell.au, kind)] = column
        return values

    def _stack(self, values: Mapping[Cell, Array], kind: str) -> Array:
        """Return the values of a kind, (R, A) f32, NaN where there is no column."""
        empty = np.full(len(self.names), np.nan)
        columns = [values.get(Cell(au, kind), empty) for au in self.aus]
        with np.errstate(over="ignore"):
            return np.stack(columns, 1).astype(np.float32)

    def _check_range(self, values: Array, kind: str) -> None:
        """Take out values that are out of range; raises `AuheatError` where most of them are."""
        given = ~np.isnan(values) & (values != 0)
        with np.errstate(invalid="ignore"):
            if kind == INTENSITY:
                bad, expected = (values < 0) | (values > STRONGEST), "intensities, 0 to 5"
            elif self.form == "py-feat":
                bad, expected = (values < 0) | (values > 1), "probabilities, 0 to 1"
            else:
                bad, expected = given & (values != 1), "presence, 0 or 1"
        count = int(bad.sum())
        if 2 * count > given.sum():
            row, column = np.argwhere(bad)[0]
            raise StoreError(
                f"{self.where[row]}: AU{self.aus[column]} is {values[row, column]:g}, and {count} "
                f"of {int(given.sum())} values beside 0 are out of range (expected {expected})"
            )
        values[bad] = np.nan
        self.odd[f"values are out of range (expected {expected}): not measured"] += count

    def match(self, ids: Sequence[str], paths: Sequence[str]) -> UnitMatching:
        """Find the rows of all photos of a data set, given their ids and relative paths.

        Raises `AuheatError` where a name fits two photos, two names one photo, or none any.
        """
        return UnitMatching(self, ids, paths)


class UnitMatching:
    """Which rows belong to which photo of one data set; `find` counts what came of them."""

    def __init__(self, units: MeasuredUnits, ids: Sequence[str], paths: Sequence[str]) -> None:
        self.units, self.photos = units, {key: i for i, key in enumerate(ids)}
        self.counts: Counter[str] = Counter()
        index: dict[str, int] = {}
        film = ~np.isnan(units.frame)
        self._rows: list[list[int]] = []
        for row in np.flatnonzero(~film).tolist():
            group = index.setdefault(units.names[row], len(index))
            if group == len(self._rows):
                self._rows.append([])
            self._rows[group].append(row)
        where = [units.where[rows[0]] for rows in self._rows]
        self.group = match_names(list(index), ids, paths, [True] * len(ids), where.__getitem__)
        self._frames = 0
        if film.any():
            self._match_frames(np.flatnonzero(film), paths)
        used = set(self.group[self.group >= 0].tolist())
        self.unused = [
            units.names[row]
            if np.isnan(units.frame[row])
            else f"{units.names[row]} {units.frame[row]:g}"
            for group, rows in enumerate(self._rows)
            if group not in used
            for row in rows
        ]
        if len(ids) and not used:
            hint = "; frames of NAME fit photos such as NAME_17 and NAME/17" if film.any() else ""
            if len({*units.names}) == 1 < len(units.names) and not film.any():
                hint = "; of whom a row is, a column such as path, id or image says"
            raise StoreError(
                f"{units.source}: none of its names fits a photo (names: "
                f"{list_some(list(dict.fromkeys(units.names)))}; photos: {list_some(ids)}{hint})"
            )

    def _match_frames(self, rows: Array, paths: Sequence[str]) -> None:
        """Give photos whose path has a film's name and ends in a frame's number that frame's rows.

        Of several films that fit, the one of the longest name counts. A folder that is called as a
        video has its frames, counted from 0.
        """
        units, frames = self.units, dict[tuple[str, float], list[int]]()
        for row in rows.tolist():
            frames.setdefault((units.names[row], float(units.frame[row])), []).append(row)
        films = sorted({film for film, _ in frames}, key=len, reverse=True)
        names = f"({'|'.join(map(re.escape, films))})"
        # DISFA's films are LeftVideoSN001_comp.avi and RightVideoSN001_comp.avi, labelled alike
        edges = ("", "(?![0-9])") if units.form == "disfa" else ("(?<![^\\W_])", "(?![^\\W_])")
        named = re.compile(names.join(edges))
        group: dict[tuple[str, float], int] = {}
        for photo, path in enumerate(paths):
            stem = re.fullmatch(r"(.*?)([0-9]{1,15})", path.rpartition(".")[0] or path, re.DOTALL)
            fitting = named.findall(stem[1]) if stem else []
            if not stem or not fitting or self.group[photo] >= 0:
                continue
            # frames of a video that was read here count from 0
            later = units.form in _FROM_ONE and is_video(path.rpartition("/")[0])
            key = (max(fitting, key=len), float(stem[2]) + later)
            if key in frames:
                if key not in group:
                    group[key] = len(self._rows)
                    self._rows.append(frames[key])
                self.group[photo] = group[key]
                self._frames += 1
        self._rows += [own for key, own in frames.items() if key not in group]

    def find(self, ids: Sequence[str], points: Array) -> UnitRows:
        """Return the AUs of photos `ids`, whose faces have landmarks (N, 68, 2), and count them."""
        units, n = self.units, len(ids)
        intensity = np.full((n, len(units.aus)), np.nan, np.float32)
        active = np.full((n, len(units.aus)), UNMEASURED, np.uint8)
        reasons = []
        for i, key in enumerate(ids):
            group = int(self.group[self.photos[key]])
            row, reason = (-1, NO_ROW) if group < 0 else self._choose(self._rows[group], points[i])
            reasons.append(reason)
            if row >= 0:
                intensity[i], active[i] = units.intensity[row], units.active[row]
        self.counts.update(reasons)
        return UnitRows(intensity, active, reasons)

    def _choose(self, rows: Sequence[int], points: Array) -> tuple[int, str]:
        """Return the row of the face that has these points, or -1 and why there is none."""
        units = self.units
        sound = [row for row in rows if not (units.failed[row] or units.doubtful[row])]
        if not sound:
            return -1, DOUBTFUL if any(units.doubtful[row] for row in rows) else NOT_FOUND
        if len(sound) > 1:
            first = sound[0]
            if all(self._is_alike(first, row) for row in sound[1:]):
                self.counts["alike"] += len(sound) - 1
                return first, ""
            sound = self._find_nearest(sound, points)
        return (sound[0], "") if sound else (-1, SEVERAL)

    def _is_alike(self, one: int, other: int) -> bool:
        units = self.units
        same = np.array_equal(units.intensity[one], units.intensity[other], equal_nan=True)
        return same and np.array_equal(units.active[one], units.active[other])

    def _find_nearest(self, rows: Sequence[int], points: Array) -> list[int]:
        """Return the one row whose face is the nearest with the points' middle in it, or none.

        None where another is as near: those are rows of one face that differ.
        """
        middle = (points.min(0) + points.max(0)).astype(float) / 2
        place = self.units.place[list(rows)]
        with np.errstate(invalid="ignore"):
            inside = ((place[:, :2] <= middle) & (middle <= place[:, 2:])).all(1)
        size = np.ptp(place.reshape(-1, 2, 2), axis=1).max(1)
        away = np.linalg.norm((place[:, :2] + place[:, 2:]) / 2 - middle, axis=1)
        near = np.flatnonzero(inside & (away <= away[inside].min(initial=np.inf) + 0.05 * size))
        self.counts["chosen"] += len(near) == 1
        return [rows[int(near[0])]] if len(near) == 1 else []

    def warnings(self) -> list[str]:
        """Return what a person should know, a sentence each, of all that was found so far."""
        source, total = self.units.source, len(self.photos)
        said = list(self.units.notes)
        said += [
            f"{self.counts[reason]} of {total} photos: {reason} in {source}"
            for reason in (NO_ROW, NOT_FOUND, DOUBTFUL, SEVERAL)
            if self.counts[reason]
        ]
        if self.unused:
            said.append(
                f"{len(self.unused)} rows of {source} belong to no photo: {list_some(self.unused)}"
            )
        if self.counts["chosen"]:
            said.append(
                f"{self.counts['chosen']} photos have several faces in {source}: the one at the "
                "photo's landmarks counts"
            )
        if self.counts["alike"]:
            said.append(f"{self.counts['alike']} rows of {source} are there twice, alike")
        if self._frames:
            said.append(
                f"{self._frames} photos are matched to frames of {source} by the number that ends "
                "their names: are they counted alike?"
            )
        said += [f"{source}: {n} {what}" for what, n in self.units.odd.items() if n]
        if self.units.skipped:
            said.append(
                f"{len(self.units.skipped)} text files have no action units: "
                f"{list_some(self.units.skipped)}"
            )
        return said


def load_units(source: Path) -> MeasuredUnits:
    """Read action units from a file, or from all files of one form in a folder, sorted by name.

    Args:
        source: The file or folder, of a form of `auheat.action_units.formats`. In a folder a file
            that names no photos belongs to the photo it is called after; text files without action
            units are skipped and listed.

    Returns:
        The rows, one per face; `match` finds those of a data set's photos.

    Raises:
        AuheatError: With file and line, for anything that cannot be read or trusted.

    Example:
        >>> from pathlib import Path
        >>> from auheat.action_units import load_units
        >>> _ = Path("aus.csv").write_text("path,AU6_r,AU12_r\\na.jpg,0.5,2.5\\n")
        >>> units = load_units(Path("aus.csv"))
        >>> units.form, units.aus, units.active.tolist()
        ('csv', [6, 12], [[0, 1]])
    """
    if not source.exists():
        raise StoreError(f"--aus: {source}: no such file or folder (expected action units)")
    folder, files = source.is_dir(), [source]
    skipped: list[str] = []
    if folder:
        texts = (file for file in source.rglob("*") if file.suffix.casefold() in ENDINGS)
        files = sorted(file for file in texts if not is_clutter(file.relative_to(source)))
        coded = [file for file in files if file.stem.casefold().endswith("_facs")]
        skipped = [str(file) for file in files if coded and file not in {*coded}]
        files = coded or files
    forms: dict[str, Path] = {}
    tables: list[UnitTable] = []
    digest = hashlib.sha256(VERSION.encode())
    for file in files:
        form, problem = recognise_units(file)
        if not form:
            if folder and file.suffix.casefold() == ".txt":
                skipped.append(str(file))
                continue
            raise StoreError(f"{file}: no action units: {problem} (forms: {', '.join(FORMS)})")
        forms.setdefault(form, file)
        if len(forms) > 1:
            both = " and ".join(f"{file} is {form}" for form, file in forms.items())
            raise StoreError(f"{source}: {both} (keep files of one form)")
        name = file.relative_to(source) if folder else Path(file.name)
        digest.update(f"\0{name.as_posix()}\0{file_digest(file)}".encode("utf-8", "surrogatepass"))
        tables.append(read_units(file, form, name.with_suffix("").as_posix()))
        if sum(len(table.names) for table in tables) > MAX_ROWS:
            raise StoreError(f"{source}: more than {MAX_ROWS} rows (split the set)")
    if not any(table.names for table in tables):
        raise StoreError(f"{source}: no rows of action units (forms: {', '.join(FORMS)})")
    form = next(iter(forms))
    table = _pivot(tables) if form == "disfa" else _join(tables)
    table.names = [clean_name(name) for name in table.names]
    return MeasuredUnits(source, form, table, digest.hexdigest(), skipped)


def _join(tables: Sequence[UnitTable]) -> UnitTable:
    """Return one table with the rows of all; what one lacks is absent where it is complete."""
    cells = {cell for table in tables for cell in table.values}
    if tables[0].complete:
        units = {*list_coded_units(), *(cell.au for cell in cells)}
        cells = {Cell(au, kind) for au in units for kind in (INTENSITY, PRESENCE)}
    values: dict[Cell, Array] = {}
    for cell in sorted(cells):
        parts = []
        for table in tables:
            listed = Cell(cell.au, PRESENCE) in table.values
            usual = 0.0 if table.complete and not listed else np.nan
            parts.append(table.values.get(cell, np.full(len(table.names), usual)))
        values[cell] = np.concatenate(parts)
    names = [name for table in tables for name in table.names]
    where = [line for table in tables for line in table.where]
    frame, failed, score, boxes = (
        np.concatenate([getattr(table, key) for table in tables])
        for key in ("frame", "failed", "score", "place")
    )
    odd = sum((table.odd for table in tables), Counter[str]())
    return UnitTable(names, values, frame, failed, score, boxes, where, odd=odd)


def _pivot(tables: Sequence[UnitTable]) -> UnitTable:
    """Return one row per frame of a film from tables of one AU each.

    Raises `AuheatError` where a frame has two values of one AU.
    """
    index: dict[tuple[str, float], int] = {}
    where: list[str] = []
    for table in tables:
        for name, frame, place in zip(table.names, table.frame.tolist(), table.where, strict=True):
            if index.setdefault((name, frame), len(index)) == len(where):
                where.append(place)
    values: dict[Cell, Array] = {}
    for table in tables:
        (cell,) = table.values
        column = values.setdefault(cell, np.full(len(index), np.nan))
        levels = table.values[cell].tolist()
        rows = zip(table.names, table.frame.tolist(), levels, table.where, strict=True)
        for name, frame, level, place in rows:
            at = index[name, frame]
            if not np.isnan(column[at]) and column[at] != level:
                raise StoreError(
                    f"{place}: AU{cell.au} of frame {frame:g} of {name} is {level:g}, and "
                    f"{column[at]:g} elsewhere (expected one value)"
                )
            column[at] = level
    n = len(index)
    films, frames = zip(*index, strict=True)
    failed, score, boxes = np.zeros(n, bool), np.ones(n), np.full((n, 4), np.nan)
    return UnitTable(list(films), values, np.array(frames), failed, score, boxes, where)
