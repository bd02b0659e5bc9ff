"""Block shuffle of a stream: random order, and yet long reads.

Rows are cut into blocks of neighbours. The blocks are permuted, `window` of them at a time are
taken together, and the rows of such a window are permuted. Everything is computed from the seed by
integer arithmetic alone: nothing is stored but one window, and neither the number of processes nor
the version of a library changes the order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from auheat.records import Array

_ROUNDS = 6


def mix(values: Array, key: int) -> Array:
    """Return a pseudo-random bijection of u64 `values` (n,): the finaliser of splitmix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = values ^ np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_key(*parts: object) -> int:
    """Return a 64-bit key that depends on all of the parts."""
    text = "|".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Permutation:
    """A pseudo-random permutation of range(n) that is computed and not stored.

    A Feistel network over the next power of four, walked along its cycle until it lands in the
    range (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [derive_key(key, i) for i in range(_ROUNDS)]

    def __call__(self, values: Array) -> Array:
        """Return where each of `values` (m,) i64, all in range(n), is sent."""
        return self._walk(values, self._forward)

    def invert(self, values: Array) -> Array:
        """Return what is sent to each of `values` (m,) i64."""
        return self._walk(values, self._backward)

    def _walk(self, values: Array, step: Callable[[Array], Array]) -> Array:
        x = step(values.astype(np.uint64))
        while (outside := x >= self.n).any():
            x[outside] = step(x[outside])
        moved: Array = x.astype(np.int64)
        return moved

    def _forward(self, x: Array) -> Array:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right, key) & self._mask)
        return (left << self._half) | right

    def _backward(self, x: Array) -> Array:
        left, right = x >> self._half, x & self._mask
        for key in reversed(self._keys):
            left, right = right ^ (mix(left, key) & self._mask), left
        return (left << self._half) | right


@dataclass(frozen=True, slots=True)
class ShuffleConfig:
    """How rows are mixed: by `window` blocks of `block` rows at a time, or (0, 0) not at all."""

    block: int
    window: int


class EpochOrder:
    """The order of one epoch: position in it -> row, a window at a time.

    Without a shuffle, rows come as they are stored; a window is then a stretch of them.
    """

    def __init__(
        self, rows: int, shuffle: ShuffleConfig, seed: int, epoch: int, mixed: bool
    ) -> None:
        """Prepare the order of `rows` rows; the same seed and epoch give the same one."""
        self.rows, self._shuffle, self._mixed = rows, shuffle, mixed
        self._seed, self._epoch = seed, epoch
        self._blocks = -(-rows // shuffle.block)
        self.windows = -(-self._blocks // shuffle.window)
        self._permute = Permutation(self._blocks, derive_key(seed, epoch, "blocks"))
        short = self._blocks * shuffle.block - rows
        last = np.array([self._blocks - 1])
        at = int(self._permute.invert(last)[0]) if mixed else self._blocks - 1
        self._short, self._short_window = short, at // shuffle.window

    def start(self, window: int) -> int:
        """Return the position at which a window starts; that of `windows` is the number of rows."""
        if window >= self.windows:
            return self.rows
        full = window * self._shuffle.window * self._shuffle.block
        return full - (self._short if window > self._short_window else 0)

    def find(self, position: int) -> int:
        """Return the window that holds a position in range(rows)."""
        guess = position // (self._shuffle.window * self._shuffle.block)
        while self.start(guess + 1) <= position:
            guess += 1
        return guess

    def window(self, number: int) -> Array:
        """Return the rows (n,) i64 of a window, in their order."""
        block, first = self._shuffle.block, number * self._shuffle.window
        blocks = np.arange(first, min(first + self._shuffle.window, self._blocks))
        if self._mixed:
            blocks = self._permute(blocks)
        rows = (blocks[:, None] * block + np.arange(block)).ravel()
        rows = rows[rows < self.rows]
        if self._mixed:  # a bijection has no ties: the order is the values' alone
            key = derive_key(self._seed, self._epoch, "window", number)
            rows = rows[np.argsort(mix(rows.astype(np.uint64), key), kind="stable")]
        return rows
