"""What `explain` returns: a photo's explanation, and the summary of many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.explanation.contrast import ASKED_IS_PREDICTED, MEASURES, format_contrast
from auheat.explanation.contrast_panel import draw_contrast
from auheat.explanation.inputs import PANEL
from auheat.explanation.panel import draw_explanation
from auheat.explanation.scores import ExplanationData
from auheat.records import Array, Status
from auheat.utils.files import write_whole
from auheat.utils.marks import check_target
from auheat.visualization.drawing import encode_picture


class Explanation(ExplanationData):
    """The explanation of one photo (`ExplanationData`); a notebook shows it as its panel."""

    __slots__ = ()

    def panel(self) -> Array:
        """Return the panel, (H, W, 3) u8 RGB; raises `AuheatError` for an unreadable photo."""
        if not self.explained:
            raise AuheatError(f"{self.photo}: {self.status.name}: {'; '.join(self.notes)}")
        parts = [draw_explanation(self)]
        if self.contrast is not None:
            parts.append(draw_contrast(self, self.contrast))
        return np.concatenate(parts)

    def save(self, file: str | Path) -> Path:
        """Write the panel as PNG where nothing or an earlier one is; return its path.

        Raises `AuheatError`.
        """
        path = Path(file)
        check_target(path, PANEL)
        try:
            write_whole(path, encode_picture(self.panel(), kind=PANEL))
        except OSError as error:
            raise cannot_write_panel(path, error) from error
        return path

    def _repr_png_(self) -> bytes | None:
        return encode_picture(self.panel()) if self.explained else None

    def __repr__(self) -> str:
        result = f"{self.expression} {self.probability:.0%}" if self.explained else self.notes[0]
        return f"<Explanation of {self.photo.name}: {self.status.name}, {result}>"


def cannot_write_panel(path: Path, error: OSError) -> AuheatError:
    """Return the error that says a file or folder of `explain` could not be written, and why."""
    reason = error.strerror or str(error)
    return StoreError(
        f"{path}: cannot be written: {reason} (make room or choose another place; what was written "
        "of other photos is kept)"
    )


@dataclass(frozen=True, slots=True)
class ExplainSummary:
    """What `explain_to` wrote: its `folder`, and each photo's explanation with its panel's file.

    The panel is None of a photo that could not be explained.
    """

    folder: Path
    photos: tuple[tuple[Explanation, Path | None], ...]

    @property
    def explained(self) -> int:
        """How many photos have a panel."""
        return sum(panel is not None for _, panel in self.photos)

    @property
    def faceless(self) -> int:
        """How many photos have a panel of their maps alone, since no face was found."""
        return sum(one.status == Status.NO_FACE for one, panel in self.photos if panel is not None)

    @property
    def bad(self) -> int:
        """How many photos have a bad status."""
        return sum(one.status > Status.MANY_FACES for one, _ in self.photos)

    def tabulate(self) -> list[tuple[str, ...]]:
        """Return a heading and a row for each photo, for a terminal."""
        rows: list[tuple[str, ...]] = [
            ("photo", "status", "expression", "probability", "cosine", "AUs most attended", "why")
        ]
        for one, panel in self.photos:
            cells = ("-",) * 5
            if panel is not None:
                cosine = one.scores["attention"].cosine
                reasons = [] if one.contrast is None else [format_contrast(one.contrast)]
                reasons += [] if one.geometry is None else [one.geometry.summary]
                cells = (
                    one.expression,
                    f"{one.probability:.3f}",
                    "-" if cosine is None else f"{cosine:.3f}",
                    describe_attended_aus(one) or "-",
                    "; ".join(reasons) or "-",
                )
            rows.append((str(one.photo), one.status.name, *cells))
        return rows

    @property
    def asked_of_itself(self) -> int:
        """How many photos were given the very class that the others are compared with."""
        contrasts = [one.contrast for one, _ in self.photos if one.contrast is not None]
        return sum(ASKED_IS_PREDICTED.format(c.expression) in c.notes for c in contrasts)

    def describe_measures(self) -> list[str]:
        """Return what the numbers in the last column are, a line for each kind of them."""
        contrasts = [one.contrast for one, _ in self.photos if one.contrast is not None]
        return [f"why: {MEASURES[m]}" for m in dict.fromkeys(c.measure for c in contrasts)]

    def as_dict(self) -> list[dict[str, Any]]:
        """Return the photos' numbers as plain values, for JSON."""
        return [
            one.as_dict() | ({"panel": str(panel)} if panel else {}) for one, panel in self.photos
        ]


def describe_unexplained(found: ExplanationData) -> str:
    """Return the line that names a photo which could not be explained, and why."""
    return f"{found.photo}: {found.status.name}: {found.notes[0]}"


def describe_attended_aus(explanation: ExplanationData, most: int = 3) -> str:
    """Return the AUs with most attention in their region, such as "AU12 x2.10"."""
    shares = [
        (unit.attention, unit.code) for unit in explanation.units if unit.attention is not None
    ]
    return ", ".join(f"{code} x{share:.2f}" for share, code in sorted(shares, reverse=True)[:most])
