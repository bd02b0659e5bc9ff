"""What an adapter is, what it is given to read, and what reading a data set gives."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auheat.datasets.label_files import read_class
from auheat.errors import StoreError
from auheat.expressions import SPLITS, SYNONYMS
from auheat.images.videos import Step
from auheat.records import Array, Box, Sample
from auheat.utils.paths import Fence, PhotoWalk, list_few, walk_photos
from auheat.utils.photo_files import describe_unread, split_ending

WORDS = {"": "photos", "train": "train photos", "val": "val photos", "test": "test photos"}
"""Split -> what a note calls its photos."""

OWN_TERMS = "yours"
"""The terms of photos that are no published set: their owner's."""

_LISTS = (".csv", ".tsv", ".json", ".yaml", ".yml")
"""Endings of what goes with a set at its root: a layout that needs it reads or names it."""


_MOST_ENDINGS = 8

_NUMBER = re.compile(r"\A\(?[0-9]{1,3}\)?[\s_.:)-]+|[\s_.-]+\(?[0-9]{1,3}\)?\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """One data set layout.

    `about` describes it in a line; `detect` returns what of it a folder has, "" if nothing;
    `read` adds its photos to a `Folder`. `images` are the values of `--variant`, the default
    first. `known` holds the counts of complete copies. `points` returns the set's own landmarks
    (N, 68, 2) of a `Listing`. `files` says whether the source may be a CSV file, `named` whether
    the names of its classes are looked up in `Folder.names`, so that `--labels` can give meanings.
    `terms` says in a word on what terms the set is handed out, "" where that is not known; its own
    licence decides.
    """

    about: str
    detect: Callable[[Path], str]
    read: Callable[[Folder], None]
    images: tuple[str, ...] = ()
    known: tuple[Mapping[str, int], ...] = ()
    known_from: str = ""
    points: Callable[[Listing], Array] | None = None
    files: bool = False
    named: bool = False
    terms: str = ""


@dataclass(slots=True, eq=False)
class Folder:
    """A data set while it is read: where it lies, what was asked, what was found so far.

    Paths of samples are relative to `base`, the folder `source` except where photos are written
    out of a table (to a folder in `unpack`). `dropped` counts rows that are no photos with a
    label, by reason; `counts` replaces the numbers per split where the set is counted otherwise.
    `walked` has what was seen on disk, `files` the label files that were read; `names` says which
    label a class's name means. `votes` has, of a set that tells them, how often a photo (by id) was
    seen as each expression, or as anything else. `step` says how often a frame of a clip is taken,
    None where nobody asked, and `stepped` whether that was done; of videos at most `most_clips`
    are read.
    """

    source: Path
    images: str
    follow_links: bool
    unpack: Path | None = None
    samples: list[Sample] = field(default_factory=list)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    walked: list[PhotoWalk] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    names: Mapping[str, str] = field(default_factory=lambda: SYNONYMS)
    votes: dict[str, dict[str, int]] = field(default_factory=dict)
    step: Step | None = None
    most_clips: int | None = None
    stepped: bool = False
    _base: Path | None = None
    _fence: Fence | None = None
    _seen: dict[str, int] = field(default_factory=dict)
    _lines: array[int] = field(default_factory=lambda: array("Q"))
    _said: list[str] = field(default_factory=list)

    @property
    def base(self) -> Path:
        """The folder that the paths of samples are relative to."""
        return self._base or self.source

    def move(self, base: Path) -> None:
        """Say that photos lie elsewhere."""
        self._base = base

    def within(self, file: Path) -> Path:
        """Return a label file of the source; raises `AuheatError` for a link that leaves it."""
        root = self.source.parent if self.source.is_file() else self.source
        if file != self.source:
            if self._fence is None:
                self._fence = Fence(root, self.follow_links)
            self._fence.measure(file.relative_to(root).as_posix())
        self.files.add(file)
        return file

    def walk(self, start: str = "", videos: bool = False) -> PhotoWalk:
        """List the photos (or videos) on disk below a folder of the source; links are minded."""
        walk = walk_photos(Fence(self.base, self.follow_links), start, videos=videos)
        self.walked.append(walk)
        if walk.again:
            self.notes.append(
                f"{len(walk.again)} links lead to photos that are listed anyway, and were left "
                f"out: {list_few(walk.again)}"
            )
        return walk

    def add(
        self,
        key: str,
        path: str,
        label: str,
        split: str = "",
        person: str = "",
        said: str = "",
        box: Box | None = None,
        file: Path | None = None,
        line: int = 0,
        clip: str = "",
    ) -> None:
        """Add a photo; `said` is the label as the set has it, `file` and `line` where.

        A row that says the same as one before is counted and dropped. Raises `AuheatError` for
        one that says something else of the same photo.
        """
        sample = Sample(key, Path(path), label, split, person, box, clip)
        if file is not None:
            before = self._seen.setdefault(key, len(self.samples))
            if before < len(self.samples):
                self._compare(self.samples[before], sample, self._lines[before], file, line)
                return
        self.samples.append(sample)
        self._lines.append(line)
        self._said.append(said)
        self.labels[said, label] += 1

    def keep(self, wanted: Sequence[bool]) -> None:
        """Keep some of the samples that were added, in their order, and count labels anew."""
        rows = [row for row, kept in enumerate(wanted) if kept]
        samples, said = self.samples, self._said
        self.samples, self._said = [samples[row] for row in rows], [said[row] for row in rows]
        self._lines = array("Q", (self._lines[row] for row in rows))
        self._seen.clear()  # nothing is added after
        self.labels = Counter(
            (text, samples[row].label) for text, row in zip(self._said, rows, strict=True)
        )

    def _compare(self, old: Sample, new: Sample, first: int, file: Path, line: int) -> None:
        if old == new:
            self.dropped["rows that repeat another"] += 1
            return
        fields = ("label", "split", "path", "person", "box", "clip")
        name = next(n for n in fields if getattr(old, n) != getattr(new, n))
        values = [str(getattr(sample, name)) or "nothing" for sample in (old, new)]
        raise StoreError(
            f"{file}: line {line}: {new.id!r} is listed twice: {name} {values[0]} in line {first}, "
            f"{values[1]} here (keep one)"
        )

    def describe_left_out(self) -> list[str]:
        """Return notes on files that are no photos of the set, counted by ending and by program."""
        own = {path for walk in self.walked for path in walk.own}
        lost = {path for walk in self.walked for path in walk.left_out}
        lost = {path for path in lost if "/" in path or split_ending(path) not in _LISTS}
        lost -= {f"{path.rpartition('.')[0]}.json" for path in own}  # written with a panel
        inside = (file for file in self.files if file.is_relative_to(self.base))
        lost -= {file.relative_to(self.base).as_posix() for file in inside}
        for sample in self.samples if lost else ():  # a list may name what no walk takes
            lost.discard(sample.path.as_posix())
        clutter = sum((walk.clutter for walk in self.walked), Counter[str]())
        counts = {
            "left out": Counter(map(describe_unread, lost)),
            "left out, of other programs": clutter,
            "left out, drawn by auheat": Counter({"pictures": len(own)}),
        }
        return [f"{what}: {_format_most(rows)}" for what, rows in counts.items() if rows.total()]

    def note_unlisted(self, *starts: str, besides: Collection[str] = ()) -> None:
        """Count photos on disk, below folders of the source, that no row names.

        `besides` are paths of photos whose rows were dropped.
        """
        listed = {sample.path.as_posix() for sample in self.samples}
        walks = (self.walk(start) for start in starts)
        unlisted = [p for w in walks for p in w.photos if p not in listed and p not in besides]
        if unlisted:
            self.notes.append(
                f"{len(unlisted)} photos on disk are named by no row, and were left out: "
                f"{list_few(unlisted)}"
            )


def _format_most(counts: Counter[str]) -> str:
    """Return counts, the largest first."""
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    more = [f"{len(rows) - _MOST_ENDINGS} other kinds"] if len(rows) > _MOST_ENDINGS else []
    return ", ".join([*(f"{n} {name}" for name, n in rows[:_MOST_ENDINGS]), *more])


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A data set as it was listed.

    `layout` is its name in `DATASETS`, `saw` what it was recognised by, `source` the folder that
    the paths of `samples` (sorted by id) are relative to, `root` what was asked for. `labels`
    counts photos by (label as the set has it, canonical name); `dropped` rows left out, by
    reason; `notes` are sentences for a person. `sizes` (N,) int64 are bytes, -1 for no file;
    `own` are the meanings that were given for class names, `votes` as of `Folder`.
    """

    layout: str
    saw: str
    root: Path
    source: Path
    images: str
    samples: list[Sample]
    labels: dict[tuple[str, str], int]
    dropped: dict[str, int]
    notes: list[str]
    sizes: Array
    own: Mapping[str, str] = field(default_factory=dict)
    votes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides labels beside the set itself: meanings given for its class names."""
        return {"labels": dict(self.own)} if self.own else {}

    def mapping(self) -> dict[str, int]:
        """Return {"label in the set -> canonical name": photos}, in the set's own order."""

        def order(row: tuple[tuple[str, str], int]) -> tuple[int, str]:
            said = row[0][0]
            short = said.isdecimal() and len(said) < 20  # Python refuses thousands of digits
            return (int(said), "") if short else (-1, said.casefold())

        rows = sorted(self.labels.items(), key=order)
        return {f"{said} -> {name}" if name else "no label": n for (said, name), n in rows}

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell; `dropped` only where anything was."""
        told = {"dataset": self.layout, "recognised_by": self.saw, "labels": self.mapping()}
        return told | ({"dropped": self.dropped} if self.dropped else {})


def find_label(said: str, names: Mapping[str, str] = SYNONYMS) -> str:
    """Return the label of a class as a set writes it, "" where it is none of `names`.

    A number beside the name, 1_happy or "01 surprise", is only its place in a list.
    """
    name = read_class(said.strip()).casefold()
    return names.get(name) or names.get(_NUMBER.sub("", name), "")


def to_name(said: str, where: str, names: Mapping[str, str] = SYNONYMS) -> str:
    """Return the canonical name of an expression as a set writes it.

    Raises `AuheatError` naming the known ones; a number is nobody's name.
    """
    label = find_label(said, names)
    if not label:
        known = f"known: {', '.join(dict.fromkeys(names.values()))}"
        advice = f"{known}; or say what it means in a file for --labels"
        if read_class(said).isdecimal():
            advice = (
                "a number's meaning differs between copies of a set: write names, or say what it "
                "means in a file for --labels"
            )
        raise StoreError(f"{where}: {said!r} is no known expression ({advice})")
    return label


def to_split(said: str, where: str) -> str:
    """Return the canonical split; "" stays unknown. Raises `AuheatError` for any other word."""
    split = SPLITS.get(said.casefold(), "")
    if said and not split:
        known = ", ".join(dict.fromkeys(SPLITS.values()))
        raise StoreError(f"{where}: {said!r} is no split (known: {known} and the like)")
    return split
