"""Measured action units of a store's photos, for the shards that are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auheat.action_units.matching import UnitMatching, UnitRows, load_units
from auheat.facs.records import Codebook
from auheat.pipeline.selection import ChosenRows
from auheat.pipeline.training_shards import MeasuredSpec
from auheat.shards.reader import read_columns
from auheat.shards.schema import UNMEASURED


@dataclass(frozen=True, slots=True, eq=False)
class UnitSource:
    """The AUs of all photos, by landmark shard, and how they were matched."""

    matching: UnitMatching
    rows: Mapping[str, UnitRows]
    labels: Mapping[str, Sequence[str]]

    def describe(self, mode: str) -> MeasuredSpec:
        """Return what the shards say of them."""
        units = self.matching.units
        return MeasuredSpec(mode, units.form, tuple(units.aus), units.digest)

    def notes(self, book: Codebook, mode: str) -> list[str]:
        """Return what a person should know, a sentence each."""
        said = self.matching.warnings()
        missing = self._count_unmeasured(book)
        if missing:
            units = ", ".join(f"AU{au}" for au in sorted(missing))
            drawn = "drawn as the codebook has them" if mode == "prior" else "not drawn"
            said.append(
                f"{units} of the codebook are not measured by {self.matching.units.source} "
                f"({sum(missing.values())} times in photos whose expression has them): {drawn}"
            )
        return said

    def _count_unmeasured(self, book: Codebook) -> dict[int, int]:
        """Count for AUs the photos with measured AUs whose expression has one that is not."""
        column = {au: i for i, au in enumerate(self.matching.units.aus)}
        missing: dict[int, int] = {}
        for file, rows in self.rows.items():
            known = (rows.active != UNMEASURED).any(1)
            labels = np.array(self.labels[file], object)
            for name, cues in book.expressions.items():
                own = known & (labels == name)
                for au in {cue.au for cue in cues}:
                    there = rows.active[own, column[au]] if au in column else None
                    lost = own.sum() if there is None else (there == UNMEASURED).sum()
                    if lost:
                        missing[au] = missing.get(au, 0) + int(lost)
        return missing


def match_units(source: Path, files: Sequence[Path], selection: ChosenRows) -> UnitSource:
    """Read a file or folder of action units, and find those of the chosen rows of landmark shards.

    Names are matched to those of all photos, so that a choice gives no row another one's AUs.
    Raises `AuheatError`.
    """
    names = [read_columns(file, ["id", "path"]) for file in files]
    ids, paths = ([text for rows in names for text in rows[key]] for key in ("id", "path"))
    matching = load_units(source).match(ids, paths)
    found, labels = dict[str, UnitRows](), dict[str, Sequence[str]]()
    for file in files:
        rows = selection.read(file, ["id", "landmarks", "label"])
        found[file.name] = matching.find(rows["id"], rows["landmarks"])
        labels[file.name] = rows["label"]
    return UnitSource(matching, found, labels)
