"""What may be wrong with a copy of a data set: other numbers of photos, photos in two splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auheat.datasets.layout import WORDS, Listing
from auheat.records import Array
from auheat.utils.console import progress
from auheat.utils.reading import open_regular

_PROBE = 4096  # bytes from the middle of a file that tell most files of one size apart


def compare_counts(
    layout: str, found: Mapping[str, int], known: Sequence[Mapping[str, int]], source: str
) -> list[str]:
    """Return a note where the numbers of photos are not those of any complete copy."""
    if not known or any(dict(found) == dict(counts) for counts in known):
        return []
    wanted = " or ".join(_format_counts(counts) for counts in known)
    return [f"{layout}: {_format_counts(found)} here, {wanted} in a complete copy{source}"]


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {WORDS.get(key, key)}" for key, n in counts.items()) or "nothing"


def find_leaks(listing: Listing) -> list[str]:
    """Return a note where a file of the same content stands in two splits.

    Sizes are compared first; of files of one size in several splits some bytes are read, and only
    what is equal there is read whole.
    """
    names = sorted({sample.split for sample in listing.samples} - {""})
    if len(names) < 2:
        return []
    code = {name: i for i, name in enumerate(names)}
    split = np.array([code.get(sample.split, -1) for sample in listing.samples])
    rows = np.flatnonzero((split >= 0) & (listing.sizes > 0))
    rows = rows[_is_shared(listing.sizes[rows], split[rows])]
    with progress(total=len(rows), desc="compare splits", unit="photo", delay=2) as bar:
        equal = _group(listing, rows, split, _PROBE, bar)
    rows = np.array(sorted(row for group in equal for row in group), np.int64)
    with progress(total=len(rows), desc="compare splits", unit="photo", delay=2) as bar:
        leaks = _group(listing, rows, split, None, bar)
    if not leaks:
        return []
    first = leaks[0]
    other = next(row for row in first if split[row] != split[first[0]])
    pair = [listing.samples[row] for row in (first[0], other)]
    told = " and ".join(f"{s.path.as_posix()} ({s.split})" for s in pair)
    return [f"{len(leaks)} photos stand in two splits with the same bytes, such as {told}"]


def _is_shared(sizes: Array, split: Array) -> Array:
    """Return which rows (N,) have a size that occurs in another split, too."""
    _, group = np.unique(sizes, return_inverse=True)
    n = int(group.max()) + 1 if len(group) else 0
    low, high = np.full(n, split.max() if n else 0), np.full(n, -1)
    np.minimum.at(low, group, split)
    np.maximum.at(high, group, split)
    shared: Array = (low < high)[group]
    return shared


def _group(
    listing: Listing, rows: Array, split: Array, probe: int | None, bar: Any
) -> list[list[int]]:
    """Return groups of rows, of more than one split, whose files are equal as far as read."""
    groups = defaultdict[tuple[int, bytes], list[int]](list)
    for row in rows.tolist():
        size = int(listing.sizes[row])
        digest = _digest(listing.source / listing.samples[row].path, size, probe)
        bar.update()
        if digest:
            groups[size, digest].append(row)
    return [group for group in groups.values() if len({int(split[row]) for row in group}) > 1]


def _digest(file: Path, size: int, probe: int | None) -> bytes:
    """Return a digest of a file or of its middle; b"" where it cannot be read."""
    try:
        with open_regular(file) as stream:
            if probe is None:
                return hashlib.file_digest(stream, "blake2b").digest()[:16]
            stream.seek(max(0, size // 2 - probe // 2))
            return hashlib.blake2b(stream.read(probe), digest_size=16).digest()
    except OSError:
        return b""
