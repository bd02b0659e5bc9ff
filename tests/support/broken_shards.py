"""Shards of strangers, broken in one way each, and every reader of shards let loose on them.

`make` writes a small sound store with a run; `BREAKS` names what is done to a copy of it, after
which its manifests vouch for the broken files. The module itself is the child process that reads:
it may take no more than `SPARE` bytes beyond what it has when everything is imported, and tells of
each reader what came of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SPARE = 2**30 + 2**28
"""Bytes of address space that the child may take more: 1 GB, and what a small file allows."""

_LANDMARKS = ("id", "path", "person", "split", "status", "score", "landmarks", "size")


def make(root: Path, shard_rows: int = 44, **photos: Any) -> Path:
    """Write a store with both stages (`photos` of `make_store`), and a run of one epoch."""
    from training_helpers import NAMES, make_store

    from auheat.shards.writer import Column, ShardFolder
    from auheat.store.store import write_source

    store = make_store(root / "store", shard_rows=shard_rows, **photos)
    rendered = store / "shards" / "martinez"
    fingerprint = {"stage": "extract", "source": "made", "photos": 44, "shard_size": shard_rows}
    landmarks = ShardFolder(store / "landmarks", fingerprint)
    about = {"format": "auheat-landmarks", "version": 1, "dataset": "folders"}
    about |= {"detector": "none", "detector_digest": "0" * 64}
    for number, file in enumerate(sorted(rendered.glob("*.h5"))):
        with h5py.File(file) as shard:
            columns = {name: shard[name][:] for name in _LANDMARKS}
            columns["bytes"] = shard["image_length"][:]
            columns |= {"label": np.array([NAMES[k].encode() for k in shard["label"][:]])}
        texts = {k: [t.decode() for t in v] for k, v in columns.items() if v.dtype.kind == "S"}
        landmarks.write(number, {k: Column(v, {}) for k, v in (columns | texts).items()}, about)
    photos = root / "photos"
    photos.mkdir()
    for file in sorted(rendered.glob("*.h5")):
        with h5py.File(file) as shard:
            for path, a, n in zip(
                *(shard[n] for n in ("path", "image_start", "image_length")), strict=True
            ):
                (photos / path.decode()).write_bytes(shard["image"][a : a + n].tobytes())
    write_source(store, photos)
    vouch(store)
    train(store, "run")
    import auheat

    auheat.evaluate(store=store, device="cpu", save_maps=store / "maps.npz")
    return store


def train(store: Path, name: str, epochs: int = 1) -> None:
    """Train a small network for an epoch or more."""
    import auheat

    settings = {"backbone": "thin", "image_size": 64, "epochs": epochs, "weights": "none"}
    auheat.train(
        store=store, name=name, method="cam", batch_size=16, device="cpu", workers=0, **settings
    )


def vouch(store: Path) -> None:
    """Have the manifests say what lies there: a stranger's store is whole by its checksums."""
    from auheat.shards.manifest import read_manifest, write_manifest

    digests: dict[str, str] = {}
    for folder in (store / "landmarks", store / "shards" / "martinez"):
        manifest, entries = read_manifest(folder), []
        for entry in manifest.entries:
            file = folder / entry.file
            if not file.is_file() or file.stat().st_size > 2**27:
                entries.append(entry)
                continue
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            source = digests.get(entry.file, "")
            places = entry.places if digest == entry.sha256 else {}  # which may be left out
            digests.setdefault(entry.file, digest)
            entry = replace(entry, bytes=len(data), sha256=digest, source=source, places=places)
            entries.append(entry)
        write_manifest(folder, manifest.fingerprint, entries)


Break = Callable[[h5py.File], None]


def _put(name: str, row: int, value: Any) -> Break:
    """Replace a row's value."""

    def edit(shard: h5py.File) -> None:
        if name in shard:
            shard[name][row] = value

    return edit


def _fill(name: str, value: Any) -> Break:
    def edit(shard: h5py.File) -> None:
        if name in shard:
            shard[name][...] = value

    return edit


def _attribute(where: str, name: str, value: Any, **kind: Any) -> Break:
    """Replace an attribute, or take it away (None)."""

    def edit(shard: h5py.File) -> None:
        if where != "/" and where not in shard:
            return
        own = shard[where].attrs
        if name in own:
            del own[name]
        if value is not None:
            own.create(name, value, **kind)

    return edit


def _replaced(name: str, values: Callable[[int], Any], **kind: Any) -> Break:
    """Replace a dataset by other values for its N rows, its attributes kept."""

    def edit(shard: h5py.File) -> None:
        if name not in shard:
            return
        own = dict(shard[name].attrs)
        rows = len(shard["id"])
        del shard[name]
        shard.create_dataset(name, data=values(rows), **kind)
        for key, value in own.items():
            shard[name].attrs[key] = value

    return edit


def _missing(name: str) -> Break:
    def edit(shard: h5py.File) -> None:
        if name in shard:
            del shard[name]

    return edit


def _added(name: bytes, value: Any, **kind: Any) -> Break:
    """Add a dataset that the format does not know."""

    def edit(shard: h5py.File) -> None:
        shard.create_dataset(name, data=value, **kind)

    return edit


def _zeros(name: str, shape: Callable[[int], tuple[int, ...]], chunk: tuple[int, ...]) -> Break:
    """Claim gigabytes of zeros, deflated: every chunk is stored."""

    def edit(shard: h5py.File) -> None:
        import zlib

        if name in ("heatmap", "label") and "heatmap" not in shard:
            return
        own = dict(shard[name].attrs) if name in shard else {}
        full = shape(len(shard["id"]))
        if name in shard:
            del shard[name]
        kind = f"S{full[-1]}" if name in ("id", "person") else "u1"
        full = full[:-1] if kind != "u1" else full
        data = shard.create_dataset(name, full, kind, chunks=chunk, compression="gzip")
        n = int(np.prod(chunk)) * data.dtype.itemsize
        packed = zlib.compress(bytes(n), 9)
        for at in np.ndindex(*(-(-a // b) for a, b in zip(full, chunk, strict=True))):
            data.id.write_direct_chunk(tuple(i * c for i, c in zip(at, chunk, strict=True)), packed)
        for key, value in own.items():
            data.attrs[key] = value

    return edit


def _odd_type(where: str, attribute: bool) -> Break:
    """Add an attribute or dataset of a time, a type that h5py does not have."""

    def edit(shard: h5py.File) -> None:
        kind, space = h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((1,))
        if attribute:
            h5py.h5a.create(shard[where].id, b"when", kind, space)
        else:
            h5py.h5d.create(shard.id, b"when", kind, space)

    return edit


def _many(n: int, attributes: bool) -> Break:
    def edit(shard: h5py.File) -> None:
        for i in range(n):
            if attributes:
                shard["id"].attrs[f"a{i}"] = i
            else:
                shard.create_dataset(f"d{i}", data=np.zeros(1, "u1"))

    return edit


def _odd_name(attribute: bool) -> Break:
    def edit(shard: h5py.File) -> None:
        if attribute:
            space = h5py.h5s.create_simple((1,))
            h5py.h5a.create(shard.id, b"\xff\xfe", h5py.h5t.NATIVE_INT32, space)
        else:
            shard.create_dataset(b"\xff\xfe", data=np.zeros(len(shard["id"]), "u1"))

    return edit


def bomb(file: Path, where: str, name: str) -> None:
    """Give a shard an attribute of 4,000 texts that are all one text of 4 MB."""
    with h5py.File(file) as shard, h5py.File(file.with_suffix(".new"), "w") as plain:
        for key, value in shard.items():  # anew, for headers without checksums
            packed = {"chunks": value.chunks, "compression": value.compression}
            plain.create_dataset(key, data=value[...], dtype=value.dtype, **packed)
            plain[key].attrs.update(value.attrs)
        plain.attrs.update(shard.attrs)
    file.with_suffix(".new").replace(file)
    with h5py.File(file, "r+") as shard:
        if where not in shard:
            return
        text = h5py.string_dtype()
        own = shard[where].attrs
        if name in own:
            del own[name]
        own.create(name, [f"{i:08}" for i in range(4000)], dtype=text)
        shard.attrs.create("big", "x" * 2**22, dtype=text)
    data = bytearray(file.read_bytes())
    big = data.index(struct.pack("<I", 2**22))
    reference = bytes(data[big : big + 16])
    first = data.index(b"\x08\0\0\0")
    while any(data[first + 16 * i : first + 16 * i + 4] != b"\x08\0\0\0" for i in range(4000)):
        first = data.index(b"\x08\0\0\0", first + 1)
    for i in range(4000):
        data[first + 16 * i : first + 16 * i + 16] = reference
    file.write_bytes(data)


def flip(file: Path, seed: int) -> None:
    """Flip bits of HDF5's own structure: the first 4 kB, and what stands before a dataset."""
    rng = np.random.default_rng(seed)
    data = bytearray(file.read_bytes())
    for at in rng.integers(8, 6000, int(rng.integers(1, 4))).tolist():
        data[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


_TEXT = h5py.string_dtype()
_DEEP = "[" * 100_000 + "]" * 100_000
_FACE: dict[str, Any] = {
    "zero": 0,
    "equal": 7.5,
    "huge": 1e38,
    "infinite": np.inf,
    "missing": np.nan,
    "negative": -1e30,
}

BREAKS: dict[str, Break | None] = {
    "sound": None,
    "label 99": _put("label", 1, 99),
    "label -7": _put("label", 1, -7),
    "label float": _replaced("label", lambda n: np.zeros(n, "f4")),
    "status 200": _put("status", 1, 200),
    "status 4 with points": _put("status", 1, 4),
    "score nan": _put("score", 1, np.nan),
    "size zero": _put("size", 1, (0, 0)),
    "size negative": _put("size", 1, (-5, 3)),
    "size huge": _put("size", 1, (2**31 - 1, 2**31 - 1)),
    "size one": _put("size", 1, (1, 1)),
    "start overlaps": _fill("image_start", 0),
    "start negative": _put("image_start", 1, -1),
    "start far": _put("image_start", 1, 2**62),
    "length far": _put("image_length", 1, 2**62),
    "length negative": _put("image_length", 1, -1),
    "length zero": _put("image_length", 1, 0),
    "image garbage": _fill("image", 7),
    "starts text": _replaced("image_start", lambda n: np.array([b"a"] * n)),
    "no image": _missing("image"),
    "transform nan": _put("transform", 1, np.nan),
    "valid without points": _fill("landmarks", np.nan),
    "id not UTF-8": _put("id", 1, b"\xff\xfe"),
    "id twice": _put("id", 1, b"train000"),
    "id empty": _put("id", 1, b""),
    "path not UTF-8": _put("path", 1, b"\xff"),
    "person not UTF-8": _put("person", 0, b"\xff"),
    "split not UTF-8": _put("split", 1, b"\xff"),
    "split unknown": _put("split", 1, b"x"),
    "ids in 2-D": _replaced("id", lambda n: np.array([[b"a"]] * n)),
    "one row fewer": _replaced("score", lambda n: np.zeros(n - 1, "f4")),
    "67 points": _replaced("landmarks", lambda n: np.zeros((n, 67, 2), "f4")),
    "flat heatmap": _replaced("heatmap", lambda n: np.zeros((n, 9), "u1")),
    "empty heatmap": _replaced("heatmap", lambda n: np.zeros((n, 0, 0), "u1")),
    "null heatmap": _replaced("heatmap", lambda n: h5py.Empty("u1")),
    "one-pixel heatmap": _replaced("heatmap", lambda n: np.zeros((n, 1, 1), "u1")),
    "no detector": _attribute("/", "detector", None),
    "detector 7": _attribute("/", "detector", 7),
    "detector nothing": _attribute("/", "detector", h5py.Empty("S1")),
    "detector bytes": _attribute("/", "detector", np.bytes_(b"\xff")),
    "mode list": _attribute("/", "mode", ["a", "b"], dtype=_TEXT),
    "geometry unknown": _attribute("/", "geometry", "\x1b[2J"),
    "version text": _attribute("/", "version", "1"),
    "version list": _attribute("/", "version", [1, 1]),
    "format list": _attribute("/", "format", ["a"], dtype=_TEXT),
    "no codebook": _attribute("/", "codebook_json", None),
    "codebook no JSON": _attribute("/", "codebook_json", "{"),
    "codebook deep": _attribute("/", "codebook_json", _DEEP),
    "codebook null": _attribute("/", "codebook_json", "null"),
    "codebook numbers": _attribute("/", "codebook_json", "[1]"),
    "codebook without units": _attribute("/", "codebook_json", '[{"expression": "Happiness"}]'),
    "codebook empty": _attribute("/", "codebook_json", "[]"),
    "codebook surrogate": _attribute("/", "codebook_json", '[{"expression": "\\ud800"}]'),
    "codebook AU 999": _attribute(
        "/",
        "codebook_json",
        json.dumps(
            [
                {
                    "expression": "Happiness",
                    "note": "",
                    "unverified": "",
                    "aus": [{"au": 999, "name": "", "role": "", "weight": 1, "side": "both"}],
                }
            ]
        ),
    ),
    "digest of another codebook": _attribute("/", "codebook_digest", "x"),
    "no names": _attribute("label", "names", None),
    "names numbers": _attribute("label", "names", [1, 2]),
    "names twice": _attribute("label", "names", ["Happiness"] * 4, dtype=_TEXT),
    "names strange": _attribute("label", "names", ["a", "b", "c", "d"], dtype=_TEXT),
    "names few": _attribute("label", "names", ["Happiness"], dtype=_TEXT),
    "names text": _attribute("label", "names", "Happiness"),
    "names not UTF-8": _attribute("label", "names", np.array([b"\xff"] * 4, "S1")),
    "thin_rows text": _attribute("heatmap", "thin_rows", "many"),
    "thin_rows list": _attribute("heatmap", "thin_rows", [1, 2]),
    "thin_rows negative": _attribute("heatmap", "thin_rows", -1),
    "turned_rows text": _attribute("heatmap", "turned_rows", "many"),
    "regions_version text": _attribute("/", "regions_version", "two"),
    "no scale": _attribute("heatmap", "scale", None),
    "scale nan": _attribute("heatmap", "scale", np.nan),
    "unknown 2-D text": _added(b"notes", np.array([[b"a", b"b"]] * 44)),
    "unknown matrix attribute": _attribute("/", "x", np.zeros((3, 3))),
    "unknown complex attribute": _attribute("id", "x", 1j),
    "unknown time attribute": _odd_type("/", True),
    "unknown time dataset": _odd_type("/", False),
    "time attribute of id": _odd_type("id", True),
    "unknown compound": _added(b"pairs", np.zeros(44, [("a", "u1"), ("b", "f4")])),
    "unknown reference": _attribute("/", "x", np.zeros(2), dtype="f8"),
    "a dataset's name not UTF-8": _odd_name(False),
    "an attribute's name not UTF-8": _odd_name(True),
    "2000 datasets": _many(2000, False),
    "2000 attributes": _many(2000, True),
    "unknown gigabytes": _zeros("zeros", lambda n: (256, 2**24), (1, 2**24)),
    "heatmap gigabytes": _zeros("heatmap", lambda n: (n, 2**13, 2**13), (1, 2**13, 2**13)),
    "heatmap in one chunk": _zeros("heatmap", lambda n: (n, 2**11, 2**11), (44, 2**11, 2**11)),
    "ids gigabytes": _zeros("id", lambda n: (n, 2**26), (1,)),
    **{f"{name} points": _put("landmarks", 1, value) for name, value in _FACE.items()},
    **{f"all {name} points": _fill("landmarks", value) for name, value in _FACE.items()},
}


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _socket(file: Path) -> None:
    file.unlink()
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's whole name has to be short
    try:
        socket.socket(socket.AF_UNIX).bind(file.name)
    finally:
        os.chdir(here)


def _endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _deep(file: Path) -> None:
    file.write_text(_DEEP)


def _surrogate(file: Path) -> None:
    file.write_text('{"format": 1, "a": "\\ud800"}')


def _sparse(file: Path) -> None:
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(2**36)


FILES: dict[str, Callable[[Path], None]] = {
    "pipe": _fifo,
    "folder": _folder,
    "socket": _socket,
    "endless": _endless,
    "empty": _empty,
    "deep": _deep,
    "surrogate": _surrogate,
    "sparse": _sparse,
}
"""What lies in place of a file."""

PLACES = (
    *("shards/martinez/00000.h5", "landmarks/00000.h5", "landmarks/source.json"),
    *("landmarks/manifest.json", "shards/martinez/manifest.json"),
    *("runs/run/config.json", "runs/run/split.json", "runs/run/metrics.jsonl"),
    *("runs/run/best.safetensors", "runs/run/last.safetensors", "runs/run/maps.safetensors"),
    *("runs/run/evaluation.json", "runs/run/evaluation.npz", "maps.npz"),
)
"""The files that are replaced."""


def write_broken(sound: Path, out: Path, kind: str) -> None:
    """Write a copy of the sound store that is broken in one way."""
    shutil.copytree(sound, out)
    files = [out / "landmarks" / "00000.h5", out / "shards" / "martinez" / "00000.h5"]
    if kind in BREAKS:
        edit = BREAKS[kind]
        for file in files if edit is not None else ():
            with h5py.File(file, "r+") as shard:
                edit(shard)
    elif kind.startswith("flip "):
        for file in files:
            flip(file, int(kind.removeprefix("flip ")))
    elif kind.startswith("bomb "):
        for file in files:
            bomb(file, *kind.removeprefix("bomb ").split())
    else:
        what, place = kind.split(" at ")
        FILES[what](out / place)
        if place.endswith("manifest.json"):
            FILES[what]((out / place).with_name("manifest.backup.json"))
        return
    vouch(out)


def readers(
    store: Path, sound: Path, work: Path, kind: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield every reader of a store, by the name of its command."""
    import auheat
    from auheat.data import ShardDataset, ShardStream
    from auheat.runs.checkpoint import load_state  # noqa: F401 (imported before memory is bounded)
    from auheat.shards.reader import content_digest, read_columns

    rendered, run = store / "shards" / "martinez", store / "runs" / "run"
    photo = sound.parent / "photos" / "train000.png"
    yield "stats", lambda: auheat.stats(store)
    yield "verify", lambda: auheat.verify(store)
    yield "digest", lambda: content_digest(rendered)
    yield "read_columns", lambda: read_columns(rendered / "00000.h5")
    yield "report", lambda: auheat.report(store=store, out=work / "report.html")
    yield "webdataset", lambda: auheat.export(work / "tars", store)
    yield "npz", lambda: auheat.export(work / "all.npz", store, format="npz")
    yield "merge", lambda: auheat.merge([store, sound], work / "both", prefix="a,b")
    yield "dataset", lambda: [item for item in ShardDataset(rendered, image_size=16)]  # noqa: C416
    yield "stream", lambda: list(ShardStream(rendered, image_size=16, batch_size=4))
    yield (
        "evaluate maps",
        lambda: auheat.evaluate(store=store, maps=store / "maps.npz", device="cpu"),
    )
    if "runs/" in kind:  # what needs a run's files
        yield "evaluate", lambda: auheat.evaluate(run, store, device="cpu")
        yield "train again", lambda: train(store, "run")
        yield (
            "explain",
            lambda: auheat.explain(run, photo, store=store, device="cpu", detector="mesh"),
        )
    yield "train", lambda: train(store, "other")
    yield "render", lambda: auheat.render(store, codebook="martinez", name="again")


def read_all(sound: Path, folder: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """Have a child break and read the store in each way: kind -> reader -> what came of it."""
    command = [sys.executable, __file__, str(sound), str(folder), json.dumps(kinds)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60 + 20 * len(kinds)
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (lines[-1:], done.stderr[-3000:])
    return {line["kind"]: line["said"] for line in lines}


def _child(sound: Path, folder: Path, kinds: list[str]) -> None:
    import resource
    import traceback

    import auheat
    from auheat.errors import AuheatError

    os.environ["AUHEAT_PROGRESS"] = "0"
    for name in auheat.__all__:
        getattr(auheat, name)
    warm = folder / "warm"
    write_broken(sound, warm, "sound")
    for _, read in readers(warm, sound, folder, "runs/"):
        with contextlib.suppress(AuheatError), contextlib.redirect_stdout(sys.stderr):
            read()
    page = resource.getpagesize()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * page
    for number, kind in enumerate(kinds):
        store, work = folder / str(number), folder / f"{number}-out"
        write_broken(sound, store, kind)
        work.mkdir()
        said: dict[str, Any] = {}
        resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, resource.RLIM_INFINITY))
        for name, read in readers(store, sound, work, kind):
            started = time.process_time()
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    read()
                text = "done"
            except AuheatError as error:
                text = f"AuheatError: {error}"
            except BaseException as error:
                where = [
                    f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
                ]
                own = [place for place in where if "/auheat/" in place][-1:]
                text = f"{type(error).__name__} at {own}: {error}"
            said[name] = [text, round(time.process_time() - started, 2)]
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(json.dumps({"kind": kind, "said": said}), flush=True)
        shutil.rmtree(store)
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _child(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
