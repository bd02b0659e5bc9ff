"""Frames of videos, which become photos in a folder of the store, once.

Training, panels and exports read photos at random, and a frame can only be decoded with all before
it: so frames are kept as files, which are the source from then on. A clip's folder is called
as the clip, and has its frames by number and `clip.json`, which says what they were made of.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from auheat.datasets.layout import Folder
from auheat.errors import AuheatError, StoreError
from auheat.images.decoding import NO_FRAME
from auheat.images.videos import Step, VideoLog, load_library, read_frames
from auheat.utils.console import progress
from auheat.utils.files import cannot_write, encode_json, file_digest, write_folder
from auheat.utils.paths import list_few
from auheat.utils.reading import read_json

RECORD = "clip.json"

LOST = ".lost"
"""How the file is called, after the number of frames decoded, that says why others are lost."""


_KEYS = frozenset(("bytes", "decoded", "faults", "files", "remarks", "sha256"))


def unpack_videos(folder: Folder, clips: Sequence[str]) -> dict[str, list[str]]:
    """Write the frames of videos as files, and return the names of those of each clip.

    `clips` are paths relative to the folder's base, which moves to where the frames lie. A clip
    whose file is as it was is not decoded again; one that is absent has no frames. Raises
    `AuheatError`, also where there is no place for frames, or PyAV is missing.
    """
    from auheat.utils.devices import count_cores  # loads torch, which lists of layouts need not

    step = folder.step or Step()
    if folder.unpack is None:
        raise StoreError(
            f"{folder.base}: videos (`auheat extract` writes their frames to STORE/photos; in "
            "Python give `unpack`, a folder for them)"
        )
    source, target = folder.base, folder.unpack / f"frames-every-{step}"
    stop, cores = Event(), count_cores()
    pool = ThreadPoolExecutor(cores, "auheat-videos")
    with progress(desc=f"read {len(clips)} videos", unit="frame", delay=1) as bar:
        try:
            work = partial(_read_clip, source, target, step, stop, bar)
            records = dict(zip(clips, pool.map(work, clips), strict=True))
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    folder.move(target)
    folder.stepped = True
    folder.notes += _describe(records, target, folder.step)
    return {clip: record.get("files", []) for clip, record in records.items()}


def _read_clip(
    source: Path, target: Path, step: Step, stop: Event, bar: Any, clip: str
) -> dict[str, Any]:
    """Return the record of a clip whose frames lie in `target`; {} where its file is absent."""
    file, home = source / clip, target / clip
    if not file.exists():
        return {}
    log, digest = VideoLog(), ""
    try:
        digest = file_digest(file)
    except OSError as error:
        log.faults.append(f"cannot be read ({error.strerror or error})")
    record = _load(home, digest)
    if record:
        return record
    load_library()  # before anything is written
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(home) as part:
            frames = read_frames(file, step, log) if digest else iter(())
            sizes = _write_frames(part, frames, stop, bar)
            return _write_record(part, log, sizes, digest)
    except OSError as error:
        raise cannot_write(home, error) from error


def _load(home: Path, digest: str) -> dict[str, Any]:
    """Return a clip's record, {} where its frames are not all there, or are of another file."""
    try:
        record = read_json(home / RECORD)
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(home)}
    except (OSError, ValueError):
        return {}
    whole = isinstance(record, dict) and record.keys() == _KEYS and record["sha256"] == digest
    sizes.pop(RECORD, None)
    same = whole and sorted(sizes) == record["files"] and sum(sizes.values()) == record["bytes"]
    return record if same else {}


def _write_frames(
    part: Path, frames: Iterator[tuple[int, bytes]], stop: Event, bar: Any
) -> dict[str, int]:
    """Write frames by their numbers, and return how long the files are."""
    sizes = {}
    for number, data in frames:
        if stop.is_set():
            raise AuheatError(f"{part.name}: stopped (the same command begins this video again)")
        name = f"{number:06d}{'.png' if data[1:4] == b'PNG' else '.jpg'}"
        sizes[name] = (part / name).write_bytes(data)
        bar.update()
    return sizes


def _write_record(part: Path, log: VideoLog, sizes: dict[str, int], digest: str) -> dict[str, Any]:
    """Note what a clip's frames were made of, and in a file of its own why others are lost."""
    if log.faults:
        reason = f"video damaged: {'; '.join(log.faults)}"
        name = f"{log.decoded:06d}{LOST}"
        sizes[name] = (part / name).write_bytes(NO_FRAME + reason.encode())
    record = {
        "sha256": digest,
        "bytes": sum(sizes.values()),
        "decoded": log.decoded,
        "faults": log.faults,
        "files": sorted(sizes),
        "remarks": sorted(log.remarks),
    }
    (part / RECORD).write_bytes(encode_json(record))
    return record


def _describe(
    records: Mapping[str, Mapping[str, Any]], target: Path, step: Step | None
) -> list[str]:
    """Return notes on what was read of videos, and what was not."""
    kept = sum(
        len(record["files"]) - bool(record["faults"]) for record in records.values() if record
    )
    decoded = sum(record["decoded"] for record in records.values() if record)
    how = "every frame (--every N takes each Nth)" if step is None else f"--every {step}"
    notes = [
        f"{kept} of {decoded} frames of {len(records)} videos lie in {target}: {how}",
    ]
    others = sorted(d.name for d in target.parent.glob("frames-every-*") if d != target)
    if others:
        notes.append(f"{target.parent}: {', '.join(others)}: of other --every, and of no more use")
    groups = defaultdict[str, list[str]](list)
    for clip, record in records.items():
        for remark in record.get("remarks", ()):
            groups[f"videos that {remark}"].append(clip)
        if record.get("faults"):
            groups["videos that are damaged (what could be decoded was kept)"].append(clip)
        if not record:
            groups["videos that are absent"].append(clip)
    return notes + [f"{len(clips)} {what}: {list_few(clips)}" for what, clips in groups.items()]
