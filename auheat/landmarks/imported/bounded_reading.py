"""Files of landmarks that may claim anything: long lines, and arrays in an .npz archive.

What an array claims is checked before its numbers are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, NoReturn

from auheat.errors import StoreError
from auheat.records import N_POINTS, Array
from auheat.utils.npz import DAMAGE, Claim, read_npz

MAX_UNPACKED = 2**31
"""Most bytes of the arrays of an archive: some million rows."""


LONGEST = 2**20
"""Most characters of a row; a py-feat header with a mesh has some 30,000."""


ARRAYS = ("id", "landmarks", "score", "status")


class Lines:
    """The lines of a file, one by one; refuses a row that is too long, of one line or of many."""

    def __init__(self, stream: IO[str], file: Path) -> None:
        self._stream, self._file, self.number, self.row = stream, file, 0, 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LONGEST)
        self.number += 1
        self.row += len(line)
        if self.row >= LONGEST:
            raise StoreError(f"{self._file}: line {self.number}: over {LONGEST} characters")
        if not line:
            raise StopIteration
        return line


def read_archive(file: Path) -> dict[str, Array]:
    """Return `id` (N,) str and `landmarks` (N, 68, 2), with `score` and `status` (N,) if given.

    Raises `AuheatError` where the file is no such archive, holds pickled objects, or claims more
    than it has or than MAX_UNPACKED bytes. Memory: the arrays, and a MiB.
    """
    try:
        return read_npz(file, ARRAYS, lambda claims: _check_claims(file, claims))
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"{file}: cannot be read ({reason})") from error


def _check_claims(file: Path, claims: Mapping[str, Claim]) -> None:
    def refuse(what: str) -> NoReturn:
        raise StoreError(f"{file}: {what}")

    if not {"id", "landmarks"} <= set(claims):
        refuse(
            f"arrays {', '.join(sorted(claims)) or 'of other names'} (expected id and landmarks)"
        )
    names, points = claims["id"], claims["landmarks"]
    if len(names.shape) != 1 or names.dtype.kind != "U":
        refuse(f"id {names.dtype} {names.shape} (expected str (N,))")
    n = names.shape[0]
    if points.shape != (n, N_POINTS, 2) or points.dtype.kind not in "fiu":
        refuse(f"landmarks {points.dtype} {points.shape} (expected numbers ({n}, {N_POINTS}, 2))")
    for key, kinds, wanted in (("score", "fiu", "numbers"), ("status", "iuU", "integers")):
        claim = claims.get(key)
        if claim and (claim.shape != (n,) or claim.dtype.kind not in kinds):
            refuse(f"{key} {claim.dtype} {claim.shape} (expected {wanted} ({n},))")
    size = sum(claim.size for claim in claims.values())
    if size > MAX_UNPACKED:
        refuse(f"{size} bytes unpacked (at most {MAX_UNPACKED}; split the file)")
