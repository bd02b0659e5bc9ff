"""Archives of NumPy arrays from a stranger: what an array claims is checked before it is read."""

from __future__ import annotations

import lzma
import math
import struct
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from auheat.records import Array
from auheat.utils.reading import open_regular

DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, SyntaxError, EOFError, ArithmeticError),
    *(MemoryError, RuntimeError),  # text nested too deep, an archive that is encrypted
    *(struct.error, lzma.LZMAError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What reading a file raises whose content is not what was once written."""


ROOM, PACKED = 2**29, 16
"""The arrays of a file may take 512 MiB, and 16 times the file: a stranger's may be all zeros."""


class Claim(NamedTuple):
    """What the header of an array says, before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int


def read_npz(
    file: Path,
    names: Collection[str] | None = None,
    check: Callable[[dict[str, Claim]], None] | None = None,
) -> dict[str, Array]:
    """Return the arrays of an .npz, or those of them that are called `names`.

    `check` gets what they claim before any is read. Raises OSError, or one of `DAMAGE` where the
    file is no such archive, holds pickled objects, or claims more than it has.
    """
    with open_regular(file) as handle:
        if handle.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            raise ValueError("an array, and not an archive of arrays")
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if names is not None:
            members = {key: info for key, info in members.items() if key in names}
        claims = {}
        for key, info in members.items():
            with archive.open(info) as stream:
                claims[key] = _read_claim(stream, info.file_size)
        if check is not None:
            check(claims)
        claimed, most = sum(c.size for c in claims.values()), ROOM + PACKED * file.stat().st_size
        if claimed > most:
            raise ValueError(
                f"arrays of {claimed} bytes (at most {most} are read from a file so small; one "
                "written by np.savez, without compression, may be of any length)"
            )
        arrays: dict[str, Array] = {}
        for key, info in members.items():
            with archive.open(info) as stream:
                arrays[key] = _read_array(stream)
    return arrays


def read_npy(stream: IO[bytes]) -> Array:
    """Return the array of an .npy, which is never unpickled; raises OSError or one of `DAMAGE`.

    What it claims has to be there.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    _read_claim(stream, size)
    stream.seek(0)
    return _read_array(stream)


def _quiet() -> warnings.catch_warnings[None]:
    """Say nothing of a header that Python 2 wrote; it is read as any other."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _read_array(stream: IO[bytes]) -> Array:
    with _quiet():
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind == "U" and array.size and array.itemsize:
        numbers = array.astype(array.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
        if numbers.max() > sys.maxunicode:  # Python breaks on such a text, wherever it is used
            raise ValueError("text of numbers that are no characters")
    return array


def _read_claim(stream: IO[bytes], member: int) -> Claim:
    version = np.lib.format.read_magic(stream)
    with _quiet():
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"an array of version {version[0]}.{version[1]}")
    if dtype.hasobject:
        raise ValueError("Object arrays, as only allow_pickle=True would read them")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or size != member - stream.tell():
        raise ValueError(f"an array claims {size} bytes and has {member - stream.tell()}")
    return Claim(shape, dtype, size)
