"""Charts in a file of their own: an SVG that a Markdown page can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auheat.reporting.page import fill_template

_COLOURS = (
    *("#3f3f46", "#1d4ed8", "#15803d", "#c2410c"),
    *("#b91c1c", "#7e22ce", "#0e7490", "#a16207"),
)

_WIDTH, _HEIGHT, _KEY = 370, 250, 16


def write_figure(names: Sequence[str], charts: Sequence[Mapping[str, Any]], wide: int = 3) -> str:
    """Return charts side by side as SVG, with a key above them.

    Args:
        names: What the marks of index 0, 1, ... stand for.
        charts: As `auheat.reporting.charts` makes them.
        wide: How many stand in a row.

    Returns:
        The text of an SVG file.

    Example:
        >>> from auheat.reporting.figures import write_figure
        >>> write_figure(["without AUs"], []).lstrip().startswith("<svg")
        True
    """
    top = _KEY * (len(names) + 1)
    places = [
        (_WIDTH * (i % wide) + 10, top + _HEIGHT * (i // wide), chart)
        for i, chart in enumerate(charts)
    ]
    return fill_template(
        "figure.html",
        width=_WIDTH * min(wide, max(1, len(charts))) + 10,
        height=top + _HEIGHT * -(-len(charts) // wide),
        names=list(names),
        colours=_COLOURS,
        charts_at=places,
    )
