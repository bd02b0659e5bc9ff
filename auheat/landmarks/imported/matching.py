"""Landmarks that exist already: read from files, matched to photos, judged like found ones.

`load_points` reads a file or a folder (`formats` has the forms), `ImportedPoints.match` finds the
rows of all photos of a data set, and `Matching.find` gives landmarks where sizes are known.

A name fits a photo, the first rule that holds deciding:

1. it is the photo's id;
2. it is the photo's path, relative to the data set;
3. one of the two is the end of the other, whole folders compared (`/data/set/happy/a.jpg` fits
   the id `happy/a.jpg`, `a.jpg` fits the path `train/happy/a.jpg`); the longest such end counts.
   The file itself may lack its suffix, or RAF-DB's `_aligned`, on either side; the same spelling
   goes before the same stem, and that before a stem without `_aligned`.

A name that fits two photos equally, or two names for one photo, are an error: nothing is guessed.
Where the photos are one, and its faces have boxes, each takes the face whose middle is in its box.

Memory: about 0.8 kB a row is kept; matching needs another 1 kB a photo while it runs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from auheat.errors import RequestError, StoreError
from auheat.landmarks.face_shape import FAULTS, find_faults
from auheat.landmarks.imported.fit_check import MIN_INSIDE, lies_inside
from auheat.landmarks.imported.formats import (
    ENDINGS,
    KINDS,
    PointTable,
    join_tables,
    read_point_table,
    recognise,
)
from auheat.records import SUFFIXES, Array, Box, Landmarks, Status
from auheat.utils.photo_files import is_clutter

VERSION = "imported 2"
"""Raised whenever the code changes the rows that come out, so that the digest changes too."""


MIN_SCORE = 0.5

MANY_SIDE = 0.4
"""Least confidence, and the share of a face's side that makes another a rival of it."""


MIN_JUDGED = 32
"""Rows after which a fault of most rows is taken for one of the whole file."""


MIN_AT_EDGE = 10
"""Faces that must end in the border pixel before a count from 0 or 1 is called wrong.

With the right base as many end at the left as at the right; all on one side: 1 in 1,024 by chance.
"""


_SHOWN = 3

_DEEPEST = 1000


class ImportedPoints:
    """The rows of a file or folder of landmarks, grouped by the photo they name.

    `kind` is one of `formats.KINDS`; `digest` (hex sha256) covers the names and the numbers and
    what is done with them, not where they lie; `skipped` lists text files of a folder that hold
    no landmarks.
    """

    name = "imported"

    def __init__(
        self, source: Path, kind: str, table: PointTable, skipped: Sequence[str] = ()
    ) -> None:
        self.source, self.kind, self.skipped = source, kind, tuple(skipped)
        self.digest = _digest(kind, table)
        index: dict[str, int] = {}
        group = [index.setdefault(name, len(index)) for name in table.names]
        order = np.argsort(np.array(group, np.int64), kind="stable")
        self.table = table.take(order)
        self.score = np.clip(np.nan_to_num(self.table.score, nan=0), 0, 1)
        failed = self.table.status >= Status.NO_FACE
        self.faults = np.where(failed, 0, find_faults(self.table.points))
        self.names = list(index)
        self.count = np.bincount(group, minlength=len(index))
        self.start = np.cumsum(self.count) - self.count
        _check_repeats(self.table, np.repeat(np.arange(len(index)), self.count))

    def match(
        self,
        ids: Sequence[str],
        paths: Sequence[str],
        boxes: Sequence[Box | None] | None = None,
    ) -> Matching:
        """Find the rows of all photos of a data set, given their ids and relative paths.

        Where several samples are faces of one photo, `boxes` tell which of its rows is whose.
        Raises `AuheatError` where a name fits two photos, two names one photo, or none any.
        """
        return Matching(self, ids, paths, boxes)

    def find(self, ids: Sequence[str], paths: Sequence[str], sizes: Array) -> Landmarks:
        """Match and score a whole data set in one call; see `Matching.find`."""
        return self.match(ids, paths).find(ids, sizes)


class Matching:
    """Which rows belong to which photo of one data set, and what has come of them so far.

    `group` (N,) int64 is the name of each photo, -1 where there is none. `find` adds to the
    tallies: `seen` photos with a row, `judged` faces with points, and of these `misplaced`, less
    than half inside the photo; `faulty` (F,) rows that are no face, by the number in `FAULTS`.
    """

    def __init__(
        self,
        points: ImportedPoints,
        ids: Sequence[str],
        paths: Sequence[str],
        boxes: Sequence[Box | None] | None = None,
    ) -> None:
        self.points = points
        boxed = boxes or [None] * len(ids)
        self.group = match_names(
            points.names,
            ids,
            paths,
            [box is not None for box in boxed],
            lambda group: points.table.place(points.start[group]),
        )
        self._boxes = np.array([box or (np.nan,) * 4 for box in boxed], float).reshape(-1, 4)
        sharing = np.bincount(self.group + 1, minlength=len(points.names) + 1)
        self._boxes[sharing[self.group + 1] < 2] = np.nan  # a row of its own needs no box
        self.photo = {key: i for i, key in enumerate(ids)}
        self.seen = self.judged = self.misplaced = 0
        self.faulty = np.zeros(len(FAULTS), np.int64)
        self.edges = np.zeros(6, np.int64)
        if len(ids) and not self.matched:
            raise StoreError(
                f"{points.source}: none of {len(points.names)} names fits a photo (names: "
                f"{list_some(points.names)}; photos: {list_some(ids)})"
            )

    @property
    def matched(self) -> int:
        """Photos that have a row."""
        return int((self.group >= 0).sum())

    @property
    def unused(self) -> Array:
        """Names (K,) that belong to no photo, as indices of `points.names`."""
        used = np.zeros(len(self.points.names), bool)
        used[self.group[self.group >= 0]] = True
        return np.flatnonzero(~used)

    def counts(self) -> dict[str, int]:
        """Return how many photos matched or are missing, and rows unused or misplaced."""
        return {
            "photos": len(self.group),
            "matched": self.matched,
            "missing": len(self.group) - self.matched,
            "unused": int(self.points.count[self.unused].sum()),
            "misplaced": self.misplaced,
            "misshapen": int(self.faulty[1:].sum()),
        }

    def find(self, ids: Sequence[str], sizes: Array) -> Landmarks:
        """Return a row for each of the photos `ids`, of `sizes` (N, 2) (H, W), 0 if unreadable.

        Of several faces the largest central one is kept, as by `detection.choose_face`: side x
        exp(-2 away^2), `away` being the distance of its box from the photo's centre over the
        photo's long side; a face of at least MIN_SCORE goes before one below. MANY_FACES: another
        has MANY_SIDE of its side. LOW_CONFIDENCE: a confidence under MIN_SCORE (or an empty one),
        or less than MIN_INSIDE of the face's box in the photo. NO_FACE: no row, a failed one, a
        point that is no number, or points that cannot be those of a face (`face_shape`). A status
        of the file stands where it is the worse one.

        Raises `AuheatError` for an id that was not matched, and as soon as most rows lie outside
        their photos.
        """
        n, (sizes, readable, group) = len(ids), self._find_rows(ids, sizes)
        points = np.full((n, 68, 2), np.nan, np.float32)
        score = np.zeros(n, np.float32)
        status = np.where(readable, Status.NO_FACE, Status.UNREADABLE).astype(np.uint8)
        self.seen += int((group >= 0).sum())
        wanted = np.flatnonzero((group >= 0) & readable)
        row, photo, many = self._choose_faces(ids, wanted, group, sizes, self.points.faults)
        self._count_faulty(group[wanted], photo)
        at, table = wanted[photo], self.points.table
        points[at], score[at] = table.points[row], self.points.score[row]
        low = (score[at] < MIN_SCORE) | self._assign_status(points[at], sizes[at])
        own = np.where(low, Status.LOW_CONFIDENCE, np.where(many, Status.MANY_FACES, Status.OK))
        status[at] = np.maximum(own, table.status[row])
        return Landmarks(points, score, status)

    def reason_of(self, key: str) -> str:
        """Return why the photo with this id got no face, "" where its rows alone say so."""
        group = self.group[self.photo[key]]
        if group < 0:
            return "no points given"
        start, count = self.points.start[group], self.points.count[group]
        return FAULTS[self.points.faults[start : start + count].max()]

    def choose_points(self, ids: Sequence[str], sizes: Array) -> tuple[Array, Array]:
        """Return of which photos `ids` there is a face (K,), and its points (K, 68, 2) as read.

        Faces are chosen as by `find`, but they may have any shape. Nothing is counted.
        """
        sizes, readable, group = self._find_rows(ids, sizes)
        wanted = np.flatnonzero((group >= 0) & readable)
        any_shape = np.zeros_like(self.points.faults)
        row, photo, _ = self._choose_faces(ids, wanted, group, sizes, any_shape)
        return wanted[photo], self.points.table.points[row]

    def _find_rows(self, ids: Sequence[str], sizes: Array) -> tuple[Array, Array, Array]:
        """Return sizes (N, 2), which photos are readable (N,), and the name (N,) of each."""
        if unknown := [key for key in ids if key not in self.photo]:
            raise RequestError(f"{unknown[0]!r}: no photo of this matching ({len(self.photo)} ids)")
        sizes = np.asarray(sizes, np.int64).reshape(len(ids), 2)
        group = self.group[np.array([self.photo[key] for key in ids], np.int64)]
        readable: Array = np.all(sizes > 0, axis=1)
        return sizes, readable, group

    def _choose_faces(
        self, ids: Sequence[str], wanted: Array, group: Array, sizes: Array, faults: Array
    ) -> tuple[Array, Array, Array]:
        boxes = self._boxes[[self.photo[ids[i]] for i in wanted.tolist()]]
        return _choose_faces(self.points, group[wanted], sizes[wanted], boxes, faults)

    def _count_faulty(self, group: Array, photo: Array) -> None:
        """Count the faults of photos, named `group` (M,), of which only `photo` (K,) got a face."""
        lost = group[np.setdiff1d(np.arange(len(group)), photo)]
        for start, count in zip(self.points.start[lost], self.points.count[lost], strict=True):
            self.faulty[self.points.faults[start : start + count].max()] += 1

    def _assign_status(self, points: Array, sizes: Array) -> Array:
        """Return which faces (M,) lie mostly outside their photo, and keep the tallies."""
        low, high = points.min(1).astype(float), points.max(1).astype(float)
        extent = sizes[:, ::-1]
        misplaced: Array = ~lies_inside(points, extent)
        self.judged += len(points)
        self.misplaced += int(misplaced.sum())
        west, east, width = low[:, 0], high[:, 0], extent[:, 0]
        left, right = (west >= -1) & (west < 0), (east > width - 1) & (east <= width)
        ends = (left, right, west < -1, east > width, west < 1, east > width - 2)
        self.edges += np.array(ends).sum(1)
        if self.seen >= min(MIN_JUDGED, self.matched) and 2 * self.misplaced > self.judged:
            raise StoreError(
                f"{self.points.source}: {self.misplaced} of {self.judged} faces lie outside their "
                "photos: the points seem to belong to photos of another size (give the photos "
                "that they were found on)"
            )
        return misplaced

    def warnings(self) -> list[str]:
        """Return what a person should know, a sentence each, of all that was found so far."""
        counts, source, said = self.counts(), self.points.source, []
        if counts["missing"]:
            said.append(f"{counts['missing']} of {counts['photos']} photos have no row in {source}")
        if counts["unused"]:
            some = list_some([self.points.names[i] for i in self.unused[: _SHOWN + 1]])
            said.append(f"{counts['unused']} rows of {source} belong to no photo: {some}")
        if self.misplaced:
            said.append(
                f"{self.misplaced} faces of {source} lie mostly outside their photos: do their "
                "points belong to other crops or sizes?"
            )
        said += [
            f"{count} faces of {source} are {fault}: they count as not found"
            for fault, count in zip(FAULTS, self.faulty.tolist(), strict=True)
            if fault and count
        ]
        said += self._doubt_base()
        if self.points.skipped:
            some = list_some(self.points.skipped)
            said.append(f"{len(self.points.skipped)} text files hold no landmarks: {some}")
        return said

    def _doubt_base(self) -> list[str]:
        """Doubt that pixels were counted from where the form says, by faces cut at the border."""
        left, right, under, over, first, last = self.edges.tolist()
        if right >= MIN_AT_EDGE and not over and not first:
            what, base = f"{right} faces end beyond the centre of the last column, none in the", 1
        elif left >= MIN_AT_EDGE and not under and not last:
            what, base = f"{left} faces end before the centre of the first column, none in the", 0
        else:
            return []
        where = "first" if base else "last"
        kind, form = self.points.kind, int(self.points.kind == "pts")
        return [
            f"{what} {where}: does {self.points.source} count pixels from {base}? "
            f"(the form {kind} counts from {form})"
        ]


def load_points(source: Path) -> ImportedPoints:
    """Read landmarks from a file, or from all files of one kind in a folder, sorted by name.

    In a folder a file that names no photos belongs to the photo it is called after; text files
    without landmarks are skipped and listed, a CSV, .pts or .npz without is an error. Raises
    `AuheatError` naming file and line for anything that cannot be read or trusted.
    """
    if not source.exists():
        raise StoreError(f"{source}: no such file or folder (expected landmarks)")
    folder, files = source.is_dir(), [source]
    if folder:
        found = (file for file in source.rglob("*") if file.suffix.casefold() in ENDINGS)
        files = sorted(file for file in found if not is_clutter(file.relative_to(source)))
    kinds: dict[str, Path] = {}
    tables, skipped = [], []
    for file in files:
        kind, seen = recognise(file)
        if kind:
            kinds.setdefault(kind, file)
        elif folder and file.suffix.casefold() == ".txt":
            skipped.append(str(file))
            continue
        else:
            raise StoreError(f"{file}: no known form of landmarks: {seen} ({', '.join(KINDS)})")
        if len(kinds) > 1:
            both = " and ".join(f"{file} is {kind}" for kind, file in kinds.items())
            raise StoreError(f"{source}: {both} (keep files of one kind)")
        name = file.relative_to(source) if folder else Path(file.name)
        tables.append(read_point_table(file, kind, name.with_suffix("").as_posix()))
    table = join_tables(tables) if tables else None
    if table is None or not table.names:
        raise StoreError(f"{source}: no rows of landmarks ({', '.join(KINDS)} are read)")
    table.names[:] = [clean_name(name) for name in table.names]
    return ImportedPoints(source, next(iter(kinds)), table, skipped)


def list_some(names: Sequence[str]) -> str:
    """Return the first names, quoted, for a message."""
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def _digest(kind: str, table: PointTable) -> str:
    rules = (VERSION, kind, MIN_SCORE, MIN_INSIDE, MANY_SIDE)
    digest = hashlib.sha256(repr(rules).encode())
    digest.update("\0".join(table.names).encode("utf-8", "surrogatepass"))
    for values, form in ((table.points, "<f4"), (table.score, "<f4"), (table.status, "<u1")):
        digest.update(np.ascontiguousarray(values, form).tobytes())
    return digest.hexdigest()


def _check_repeats(table: PointTable, group: Array) -> None:
    """Refuse two rows of one face, and frames of a video; rows are sorted by `group` (R,)."""
    same = group[1:] == group[:-1]
    video = np.flatnonzero(same & (table.frame[1:] != table.frame[:-1]) & (table.frame[1:] >= 0))
    if len(video):
        row = int(video[0])
        raise StoreError(
            f"{table.place(row)} and {table.place(row + 1)}: frames {table.frame[row]:g} and "
            f"{table.frame[row + 1]:g} of {table.names[row]!r} (a video; photos are expected)"
        )
    order = np.lexsort((table.face, group))
    face, owner = table.face[order], group[order]
    doubled = (owner[1:] == owner[:-1]) & (face[1:] == face[:-1]) & (face[1:] >= 0)
    pairs = [(order[i], order[i + 1]) for i in np.flatnonzero(doubled)[:1]]
    seen: dict[tuple[int, bytes], int] = {}
    crowd = np.append(same, False) | np.append(False, same)
    for row in np.flatnonzero(crowd & (table.face < 0)).tolist():
        other = seen.setdefault((int(group[row]), table.points[row].tobytes()), row)
        pairs += [(other, row)] if other != row else []
    if pairs:
        first, second = pairs[0]
        name, where = table.names[first], f"{table.place(first)} and {table.place(second)}"
        raise StoreError(f"{where}: two rows of one face of {name!r} (keep one)")


def clean_name(name: str) -> str:
    """Return a path with `/` alone, without empty parts."""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _stem(file: str) -> str:
    stem, dot, ending = file.rpartition(".")
    return stem if dot and f".{ending}".casefold() in SUFFIXES else file


def _ends(name: str) -> list[str]:
    """Return the name without suffix and `_aligned`, then its ends with ever fewer folders."""
    parts = _stem(name).removesuffix("_aligned").split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


class _Photos:
    """The photos of a data set, to be found by a name in a time that does not grow with them.

    `depths` are the numbers of parts that the names have: other ends of paths are not kept.
    """

    def __init__(self, ids: Sequence[str], paths: Sequence[str], depths: set[int]) -> None:
        self.keys = [
            (clean_name(key), clean_name(path)) for key, path in zip(ids, paths, strict=True)
        ]
        self.ids, self.paths = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        self.whole, self.tail = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        for photo, (key, path) in enumerate(self.keys):
            self.ids[key].append(photo)
            self.paths[path].append(photo)
            ends = [_ends(text) for text in {key, path}]
            for end in {end[0] for end in ends}:
                self.whole[end].append(photo)
            for end in {end[-k] for end in ends for k in depths if k <= len(end)}:
                self.tail[end].append(photo)

    def find(self, name: str) -> tuple[list[int], int]:
        """Return the photos that a name fits equally well, and the rank of that: less is better."""
        for rank, exact in enumerate((self.ids, self.paths)):
            if name in exact:
                return exact[name], rank
        for rank, end in enumerate(_ends(name)):
            found = self.whole.get(end, []) if rank else self.tail.get(end, [])
            if found:
                unlike = [self._unlike(photo, name) for photo in found]
                best = min(unlike)
                fitting = [p for p, u in zip(found, unlike, strict=True) if u == best]
                return fitting, 2 + 3 * (_DEEPEST - end.count("/")) + best
        return [], 0

    def _unlike(self, photo: int, name: str) -> int:
        """Return how the file names differ: 0 not at all, 1 in the suffix, 2 by `_aligned`."""
        own, *others = (text.rpartition("/")[2] for text in (name, *self.keys[photo]))
        return 0 if own in others else 1 if _stem(own) in map(_stem, others) else 2


def match_names(
    names: Sequence[str],
    ids: Sequence[str],
    paths: Sequence[str],
    shares: Sequence[bool],
    place: Callable[[int], str],
) -> Array:
    """Return the index (N,) of the name of each photo, -1 where there is none.

    Samples of one photo may have the same name where each `shares` it. `place` says where a name
    stands. Raises `AuheatError` where a name fits two photos equally, or two names one photo.
    """
    photos = _Photos(ids, paths, {name.count("/") + 1 for name in names})
    best: dict[int, tuple[int, int]] = {}
    rivals: dict[int, tuple[int, int]] = {}
    for group, name in enumerate(names):
        found, rank = photos.find(name)
        faces = len({paths[photo] for photo in found}) == 1 and all(shares[p] for p in found)
        if len(found) > 1 and not faces:
            some = " and ".join(repr(ids[photo]) for photo in found[:2])
            raise StoreError(f"{place(group)}: {name!r} fits {some} (name the folder, too)")
        for photo in found:
            if photo not in best or rank < best[photo][0]:
                best[photo] = (rank, group)
            elif rank == best[photo][0]:
                rivals[photo] = (rank, group)
    for photo, (rank, group) in rivals.items():
        if best[photo][0] == rank:
            both = [best[photo][1], group]
            where = " and ".join(place(g) for g in both)
            spelled = " and ".join(repr(names[g]) for g in both)
            raise StoreError(f"{where}: {spelled} both fit the photo {ids[photo]!r} (keep one)")
    chosen = np.full(len(ids), -1, np.int64)
    for photo, (_, group) in best.items():
        chosen[photo] = group
    return chosen


def _choose_faces(
    points: ImportedPoints, group: Array, sizes: Array, boxes: Array, faults: Array
) -> tuple[Array, Array, Array]:
    """Return the row, the photo and whether there are many, (K,) each, where there is a face.

    `group` (M,) is the name of each photo, `sizes` (M, 2) its (H, W), `boxes` (M, 4) the part of
    it in which the face lies, NaN for all of it; rows with `faults` (R,) are no faces.
    """
    table, count = points.table, points.count[group]
    photo = np.repeat(np.arange(len(group)), count)
    skip = np.repeat(points.start[group] - (np.cumsum(count) - count), count)
    row = np.arange(len(photo)) + skip
    usable = (table.status[row] < Status.NO_FACE) & np.isfinite(table.points[row]).all((1, 2))
    usable &= faults[row] == 0
    row, photo = row[usable], photo[usable]
    boxed: Array = np.all(np.isfinite(boxes), axis=1, keepdims=True)
    corner = np.where(boxed, boxes[:, :2], 0)
    extent = np.where(boxed, boxes[:, 2:] - corner, sizes[:, ::-1])
    middle = (table.points[row].min(1).astype(float) + table.points[row].max(1)) / 2
    offset = middle - (corner + extent / 2)[photo]
    inside = ~boxed[photo, 0] | (np.abs(offset) <= extent[photo] / 2).all(1)
    row, photo, offset = row[inside], photo[inside], offset[inside]
    side = np.ptp(table.points[row].astype(np.float64), axis=1).max(1)
    away = np.linalg.norm(offset, axis=1) / extent[photo].max(1)
    sure = points.score[row] >= MIN_SCORE
    order = np.lexsort((-side * np.exp(-2 * away**2), ~sure, photo))
    kept, first = np.unique(photo[order], return_index=True)
    chosen = order[first]
    least, needed = np.zeros(len(group)), np.zeros(len(group), bool)
    least[kept], needed[kept] = MANY_SIDE * side[chosen], sure[chosen]
    rival = (side >= least[photo]) & (sure | ~needed[photo])
    many = np.bincount(photo[rival], minlength=len(group))[kept] > 1
    return row[chosen], kept, many


def import_points(source: Path, kind: str, names: Sequence[str], points: Array) -> ImportedPoints:
    """Return points (N, 68, 2) px, base 0, iBUG order, of photos called `names`, as imported ones.

    A point that is NaN makes its row a face that was not found. `source` and `kind` are what
    messages and summaries call them.
    """
    n = len(names)
    table = PointTable(
        list(names),
        np.asarray(points, np.float32).reshape(n, 68, 2),
        score=np.ones(n, np.float32),
        status=np.full(n, Status.OK, np.uint8),
        face=np.zeros(n, np.int64),
        frame=np.full(n, np.nan),
        line=np.zeros(n, np.int64),
        file=np.zeros(n, np.int64),
        files=[str(source)],
    )
    return ImportedPoints(source, kind, table)
