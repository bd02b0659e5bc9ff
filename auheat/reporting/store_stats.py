"""The numbers of a store, and the mean heatmap of each class as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auheat.errors import RequestError
from auheat.store.statistics import describe_stats
from auheat.visualization.mean_heatmaps import write_plot


def stats(store: Path, shards: str | None = None, plot: Path | None = None) -> dict[str, Any]:
    """Return the numbers of a store, as `describe_stats` does; `plot` is a .png to be drawn.

    The picture shows the mean heatmap of each class. Raises `AuheatError`.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise RequestError(f"--plot: {plot}: not a picture's name (.png)")
    numbers, maps = describe_stats(store, shards)
    if plot is not None:
        if "maps" not in numbers:
            raise RequestError("--plot: landmarks have no heatmaps (run `auheat render` first)")
        write_plot(plot, maps)
    return numbers
