"""Photos of different splits that look alike: copies in another size or quality, next frames.

Two photos are compared where 16 of their 128 bits agree in one of eight places: so every pair of up
to seven different bits is found, and most of up to MOST_BITS. Time grows with the rows times the
rows that share such a place: 10,000 rows take 1 s (and 0.1 to 1 ms each to be decoded), a million
where hashes spread evenly about a minute; memory is 300 bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from auheat.images.perceptual_hash import THUMBNAIL
from auheat.records import Array

MOST_BITS = 12
"""Most bits in which the hashes of two photos that look alike differ."""


LEAST_LIKENESS = 0.95
"""Least correlation of the thumbnails of two photos that look alike.

Of 350,000 pairs of photos of different people none comes above 0.9; a copy cut by 2 % on each side
has 0.93 to 0.98, one of a quarter of the size or of JPEG quality 20 has 0.99.
"""


_CHUNK = 2**22  # most pairs that are compared at once
_FEW = 2**14  # fewer wait for others: values of a band that two rows share are many


def find_look_alikes(
    hashes: Array, thumbnails: Array, split: Array, digests: Sequence[bytes]
) -> list[tuple[int, int, int]]:
    """Return pairs of rows (i, j) of different splits that look alike, with their different bits.

    `hashes` (N, 16) u8 and `thumbnails` (N, 16, 16) u8 are `hash_photo`'s, `split` (N,) numbers.
    Photos of one digest are not listed, since they are equal. The most alike come first.
    """
    words, bands = hashes.view(np.uint64), hashes.view(np.uint16)
    pairs = dict[tuple[int, int], int]()
    for band in bands.T:
        for first, second in _join(_share_band(band, split)):
            bits = np.bitwise_count(words[first] ^ words[second]).sum(1)
            near = bits <= MOST_BITS
            first, second, bits = first[near], second[near], bits[near]
            alike = correlate(thumbnails[first], thumbnails[second]) >= LEAST_LIKENESS
            rows = zip(first[alike].tolist(), second[alike].tolist(), strict=True)
            for (i, j), n in zip(rows, bits[alike].tolist(), strict=True):
                if digests[i] != digests[j]:
                    pairs[min(i, j), max(i, j)] = n
    return sorted(((i, j, n) for (i, j), n in pairs.items()), key=lambda pair: (pair[2], pair[:2]))


def correlate(first: Array, second: Array) -> Array:
    """Return the correlation (N,) of thumbnails (N, h, w), 0 for one without any contrast."""
    a, b = (
        values.reshape(len(values), THUMBNAIL**2).astype(np.float32) for values in (first, second)
    )
    a, b = (values - values.mean(1, keepdims=True) for values in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike: Array = np.einsum("nd,nd->n", a, b) / np.maximum(lengths, 1e-6)
    return alike


def _join(parts: Iterator[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Yield the same pairs, in parts of no fewer than `_FEW` but for the last."""
    waiting: list[tuple[Array, Array]] = []
    pairs = 0
    for part in parts:
        waiting.append(part)
        pairs += len(part[0])
        if pairs >= _FEW:
            yield _concatenate(waiting)
            waiting, pairs = [], 0
    if waiting:
        yield _concatenate(waiting)


def _concatenate(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    first, second = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _share_band(band: Array, split: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the rows of pairs that have one value of a band and different splits."""
    order = np.lexsort((split, band))
    keys, marks = band[order], split[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    ends = np.r_[starts[1:], len(keys)]
    mixed = marks[starts] != marks[ends - 1]  # else the value is of one split alone
    for start, end in zip(starts[mixed].tolist(), ends[mixed].tolist(), strict=True):
        rows, its = order[start:end], marks[start:end]
        step = max(1, _CHUNK // len(rows))
        for at in range(0, len(rows), step):
            i, j = np.nonzero(its[at : at + step, None] < its[None, :])
            yield rows[at + i], rows[j]


def describe_look_alikes(
    pairs: Sequence[tuple[int, int, int]], ids: Sequence[str], splits: Sequence[str], most: int
) -> dict[str, Any]:
    """Return how many photos have one that looks like them in another split, and some of them."""
    rows = {row for i, j, _ in pairs for row in (i, j)}
    return {
        "near_duplicates": {"photos": len(rows), "pairs": len(pairs)},
        "near_leaks": [
            [{"id": ids[row], "split": splits[row]} for row in (i, j)] for i, j, _ in pairs[:most]
        ],
    }
