"""Files of landmarks that may claim anything: long lines, and arrays in an .npz archive.

What an array claims is checked before its numbers are read.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.records import N_POINTS, Array

MAX_UNPACKED = 2**31
"""Most bytes of the arrays of an archive: some million rows."""


LONGEST = 2**20
"""Most characters of a row; a py-feat header with a mesh has some 30,000."""


ARRAYS = ("id", "landmarks", "score", "status")


_BROKEN = (
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
    RuntimeError,
    struct.error,
    lzma.LZMAError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)  # what zipfile and NumPy raise for bytes that are no archive, or no array


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


class _Claim(NamedTuple):
    """What the header of an array says, before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    size: int


def read_archive(file: Path) -> dict[str, Array]:
    """Return `id` (N,) str and `landmarks` (N, 68, 2), with `score` and `status` (N,) if given.

    Raises `AuheatError` where the file is no such archive, holds pickled objects, or claims more
    than it has or than MAX_UNPACKED bytes. Memory: the arrays, and a MiB.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {f"{key}.npy": key for key in ARRAYS}
            infos = [info for info in archive.infolist() if info.filename in members]
            claims = {}
            for info in infos:
                with archive.open(info) as stream:
                    claims[members[info.filename]] = _read_claim(stream, info.file_size)
            _check_claims(file, claims)
            found = {}
            for info in infos:
                with archive.open(info) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                found[members[info.filename]] = array
    except AuheatError:
        raise
    except _BROKEN as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(f"{file}: cannot be read ({said})") from error
    return found


def _read_claim(stream: IO[bytes], member: int) -> _Claim:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array of version {version[0]}.{version[1]}")
    if dtype.hasobject:
        raise ValueError("Python objects, as only allow_pickle=True would read them")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or size != member - stream.tell():
        raise ValueError(f"an array claims {size} bytes and has {member - stream.tell()}")
    return _Claim(shape, dtype, size)


def _check_claims(file: Path, claims: dict[str, _Claim]) -> None:
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


def plain_names(names: Array) -> list[str] | None:
    """Return stripped text of (N,) str; None where it has what is no character."""
    names = names.astype(names.dtype.newbyteorder("="))
    if names.size and names.dtype.itemsize and names.view(np.uint32).max() > 0x10FFFF:
        return None
    return [str(text).strip() for text in names.tolist()]
