"""The numbers of a store, and the mean heatmap of each class as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auheat.errors import RequestError
from auheat.store.statistics import describe_stats
from auheat.utils.paths import find_store
from auheat.visualization.mean_heatmaps import write_mean_heatmaps


def stats(
    store: str | Path | None = None, *, shards: str | None = None, plot: str | Path | None = None
) -> dict[str, Any]:
    """Count what a store holds: rows, faces, heatmaps, photos that are there twice, bytes.

    Args:
        store: Folder of the store; None: $AUHEAT_STORE, else auheat-data.
        shards: Name of the shards, where there are several; landmarks alone are counted, too.
        plot: File (.png) to draw the mean heatmap of each class to.

    Returns:
        The numbers, as `auheat.store.statistics.describe_stats` has them.

    Raises:
        AuheatError: Where there is nothing to count or to draw.

    Example:
        >>> import auheat
        >>> from auheat.demo import write_demo
        >>> _ = write_demo("rafdb", train=1, test=1)
        >>> _ = auheat.extract("rafdb", "store")
        >>> auheat.stats("store")["total"]
        14
    """
    plot = None if plot is None else Path(plot)
    if plot is not None and plot.suffix.lower() != ".png":
        raise RequestError(f"--plot: {plot}: not a picture's name (.png)")
    numbers, maps = describe_stats(find_store(store), shards)
    if plot is not None:
        if "maps" not in numbers:
            raise RequestError("--plot: landmarks have no heatmaps (run `auheat render` first)")
        write_mean_heatmaps(plot, maps)
    return numbers
