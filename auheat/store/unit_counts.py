"""A codebook against data: how often its action units were active in photos of each expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from auheat.shards.schema import UNMEASURED

COMMON = 0.5
"""Share of an expression's photos in which an AU that its codebook lacks is active, to be named."""


def compare_codebook(
    blocks: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    aus: Sequence[int],
    book: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Count how often AUs were active in the photos of each expression, whatever their landmarks.

    Args:
        blocks: Rows of shards, in parts: `label`, `au_intensity`, `au_active`.
        names: The classes that `label` stands for.
        aus: The AUs that were measured.
        book: The shards' codebook, as `codebook_json` has it.

    Returns:
        A row for each AU of each expression that has photos: `expression`, `au`, `in_codebook`,
        `weight`, `measured` (photos), `active` (their share) and `intensity` (the mean where it
        was measured), None where nothing was. AUs that the codebook lacks are there where they are
        active in at least `COMMON` of the photos.

    Example:
        >>> import numpy as np
        >>> from auheat.store.unit_counts import compare_codebook
        >>> rows = {"label": np.array([0, 0]), "au_active": np.uint8([[1], [0]])}
        >>> rows["au_intensity"] = np.float32([[3], [0]])
        >>> book = [{"expression": "Happiness", "aus": [{"au": 12, "weight": 1.0}]}]
        >>> compare_codebook([rows], ["Happiness"], [12], book)[0]["active"]
        0.5
    """
    shape = (len(names), len(aus))
    photos = np.zeros(len(names), np.int64)
    measured, active, levels = (np.zeros(shape, np.int64) for _ in range(3))
    total = np.zeros(shape)
    for block in blocks:
        for k in range(len(names)):
            own = block["label"] == k
            on, level = block["au_active"][own], block["au_intensity"][own]
            photos[k] += int(own.sum())
            measured[k] += (on != UNMEASURED).sum(0)
            active[k] += (on == 1).sum(0)
            levels[k] += (~np.isnan(level)).sum(0)
            total[k] += np.nansum(level, 0, dtype=np.float64)
    column = {au: i for i, au in enumerate(aus)}
    weights = {row["expression"]: {u["au"]: u["weight"] for u in row["aus"]} for row in book}
    rows = []
    for k in np.flatnonzero(photos).tolist():
        own_weights = weights.get(names[k], {})
        common = {au for au, i in column.items() if active[k, i] >= COMMON * max(measured[k, i], 1)}
        for au in [*sorted(own_weights), *sorted(common - {*own_weights})]:
            i = column.get(au)
            n, m = (0, 0) if i is None else (int(measured[k, i]), int(levels[k, i]))
            rows.append(
                {
                    "expression": names[k],
                    "au": au,
                    "in_codebook": au in own_weights,
                    "weight": own_weights.get(au),
                    "measured": n,
                    "active": round(int(active[k, i]) / n, 6) if n else None,
                    "intensity": round(float(total[k, i]) / m, 6) if m else None,
                }
            )
    return rows
