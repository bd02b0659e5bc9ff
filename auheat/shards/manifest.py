"""manifest.json: which shards of a folder are finished, how they were made, and their checksums.

It is written twice, under two names, and each copy carries a checksum of itself: a flipped bit
anywhere in one is noticed, and the other one is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from textwrap import indent
from typing import Any

from auheat.errors import AuheatError, StoreError
from auheat.shards.schema import BACKUP, FORMAT_VERSION, MANIFEST, MAX_ROWS
from auheat.utils.files import dump_json, encode_json, write_whole
from auheat.utils.reading import parse_json, read_limited


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A finished shard as its manifest lists it.

    `source` is the sha256 of what it was made from ("" for a stage that starts from photos).
    `places` says of each dataset the CRC-32 of its bytes in the file and where they lie, as
    "CRC OFFSET+LENGTH ...". What lies outside of them is the file's own structure.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    source: str = ""
    places: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stage's fingerprint (its settings, and `photos`: the rows it has when finished) and shards.

    `entries` are in the order of their names.
    """

    fingerprint: Mapping[str, Any]
    entries: tuple[ShardEntry, ...]

    @property
    def rows(self) -> int:
        """How many rows are finished."""
        return sum(entry.rows for entry in self.entries)

    @property
    def photos(self) -> int:
        """How many rows there will be."""
        return int(self.fingerprint["photos"])


_FIELDS = ("file", "rows", "bytes", "sha256", "source", "places")

_KINDS = (str, int, int, str, str, dict)

_PLACE = re.compile(r"[0-9a-f]{8}( \d{1,20}\+\d{1,20})*")


def digest_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """Return the sha256 of all that decided the shards, so that others of one name differ."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def write_manifest(
    folder: Path, fingerprint: Mapping[str, Any], entries: Iterable[ShardEntry]
) -> None:
    """Replace both copies of a folder's manifest; raises OSError."""
    data = encode_manifest(fingerprint, sorted(entries, key=lambda e: (len(e.file), e.file)))
    write_whole(folder / MANIFEST, data)
    write_whole(folder / BACKUP, data)


def encode_manifest(fingerprint: Mapping[str, Any], entries: Sequence[ShardEntry]) -> bytes:
    """Return the bytes of a manifest: what `encode_json` would make of it, checksum included.

    It is put together from the text of each entry, which is made once: a manifest is written
    anew for every shard, and encoding thousands of old entries would cost more than the shard.
    """
    head = {"format": FORMAT_VERSION, "fingerprint": dict(fingerprint)}
    start = dump_json(head, indent=1, sort_keys=True).removesuffix("\n}") + ",\n"
    listed = ",\n".join(_encode_entry(entry) for entry in entries)
    end = f' "shards": [\n{listed}\n ]\n}}\n' if listed else ' "shards": []\n}\n'
    checksum = hashlib.sha256((start + end).encode()).hexdigest()
    return f'{start} "sha256": "{checksum}",\n{end}'.encode()


@lru_cache(maxsize=2**17)
def _encode_entry(entry: ShardEntry) -> str:
    """Return an entry's JSON, indented as it stands in the manifest."""
    return indent(dump_json(asdict(entry), indent=1, sort_keys=True), "  ")


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest, from its backup where the first copy is damaged or absent.

    Raises `AuheatError` where neither can be read, or there is no stage at all.
    """
    try:
        return read_copy(folder / MANIFEST)
    except AuheatError as first:
        try:
            return read_copy(folder / BACKUP)
        except AuheatError:
            raise first from None


def check_unchanged(folder: Path, before: Manifest) -> None:
    """Raise `AuheatError` where a stage's shards are others than they were before."""
    if read_manifest(folder) != before:
        raise StoreError(
            f"{folder}: its shards were replaced while they were read (give the same command again)"
        )


class DamagedManifestError(StoreError):
    """A copy of a manifest that was read, and is not what was written."""


def is_lost(folder: Path) -> bool:
    """Whether a stage's manifest is lost: one copy or both were read, and neither is whole.

    A manifest that cannot be read for now, or is of another version, is not lost.
    """
    found = 0
    for name in (MANIFEST, BACKUP):
        try:
            read_copy(folder / name)
        except DamagedManifestError:
            found += 1
        except AuheatError:
            if (folder / name).exists():
                return False
        else:
            return False
    return found > 0


def has_manifest(folder: Path) -> bool:
    """Whether a stage was ever begun in a folder."""
    return (folder / MANIFEST).is_file() or (folder / BACKUP).is_file()


def read_copy(file: Path) -> Manifest:
    """Return what one copy of a manifest says; raises `AuheatError` where it is not whole."""
    try:
        data = read_limited(file)
        raw = parse_json(data)
        version = raw["format"]
        if version == FORMAT_VERSION:
            stated = raw.pop("sha256")
            if stated != _checksum(raw) or data != encode_json(raw | {"sha256": stated}):
                raise ValueError("its own checksum differs")
            entries = tuple(_read_entry(entry) for entry in raw["shards"])
            fingerprint = dict(raw["fingerprint"])
            if type(fingerprint["photos"]) is not int:
                raise TypeError("a field of the wrong type")
            return Manifest(fingerprint, entries)
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror} (no finished stage here)") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "damaged" if isinstance(error, ValueError) else "incomplete"
        raise DamagedManifestError(f"{file}: not a manifest: {reason}: {error}") from error
    hint = "a draft: make it anew with --overwrite" if version == 0 else "a newer auheat wrote it"
    raise StoreError(f"{file}: format {version!r} (this auheat reads {FORMAT_VERSION}; {hint})")


def _read_entry(raw: Mapping[str, Any]) -> ShardEntry:
    values = [raw[name] for name in _FIELDS]
    if tuple(type(value) for value in values) != _KINDS:
        raise TypeError("a field of the wrong type")
    entry = ShardEntry(*values)
    if Path(entry.file).name != entry.file or not entry.file.endswith(".h5"):
        raise TypeError(f"{entry.file!r} is no plain name of a shard")
    for place in entry.places.values():
        if not isinstance(place, str) or not _PLACE.fullmatch(place):
            raise TypeError(f"{entry.file}: {place!r} is no place")
    if not 0 <= entry.rows <= MAX_ROWS:
        raise TypeError(f"{entry.file}: {entry.rows} rows (at most {MAX_ROWS})")
    return entry


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(body)).hexdigest()
