"""Small valid stores of random content, written straight from arrays: any ids, labels, sizes."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np

from auheat.expressions import EXPRESSIONS
from auheat.records import Status
from auheat.shards.manifest import ShardEntry, read_manifest, write_manifest
from auheat.shards.schema import shard_name
from auheat.shards.writer import Column, ShardFolder, _locate
from auheat.store.store import write_source

STATUS = [status.name for status in Status]


@dataclass
class Made:
    """What a store is made of: per-row lists, and what is drawn."""

    ids: list[str]
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    persons: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    photos: list[bytes] | None = None
    points: np.ndarray | None = None
    sizes: np.ndarray | None = None
    maps: np.ndarray | None = None
    shard_size: int = 3
    images: bool = True
    per_au: bool = False
    seed: int = 0
    name: str = "martinez"
    source: str = "photos"
    detector: str = "stub"

    def __post_init__(self):
        n, rng = len(self.ids), np.random.default_rng(self.seed)
        self.rng = rng
        self.labels = self.labels or [("Happiness", "Neutral", "")[i % 3] for i in range(n)]
        self.splits = self.splits or [("train", "test", "val", "")[i % 4] for i in range(n)]
        self.persons = self.persons or [f"p{i % 3}" for i in range(n)]
        self.paths = self.paths or [f"a/{i}.jpg" for i in range(n)]
        self.status = self.status or [(0, 1, 2, 3, 4)[i % 5] for i in range(n)]
        unreadable = np.array(self.status) == Status.UNREADABLE
        pointed = np.array(self.status) <= Status.LOW_CONFIDENCE
        if self.sizes is None:
            self.sizes = rng.integers(8, 20, (n, 2))
        self.sizes = np.where(unreadable[:, None], 0, self.sizes).astype(np.int32)
        if self.photos is None:
            self.photos = [self.photo(i) for i in range(n)]
        if self.points is None:
            self.points = rng.normal(10, 3, (n, 68, 2))
        self.points = np.where(pointed[:, None, None], self.points, np.nan).astype(np.float32)
        self.score = np.where(pointed, rng.random(n), 0).astype(np.float32)
        self.valid = (np.array(self.status) <= 1) & np.isin(self.labels, ["Happiness", "Anger"])
        if self.maps is None:
            self.maps = rng.integers(0, 256, (n, 5, 4))
        self.maps = (self.maps * self.valid[:, None, None]).astype(np.uint8)

    def photo(self, i: int) -> bytes:
        """Row i's photo: JPEG for even rows, PNG for odd ones, nothing where unreadable."""
        if not self.sizes[i].all():
            return b""
        pixels = self.rng.integers(0, 256, (*self.sizes[i], 3), np.uint8)
        return cv2.imencode((".jpg", ".png")[i % 2], pixels)[1].tobytes()


def write_store(store: Path, made: Made, rendered: bool = True) -> Path:
    """Write both stages, or landmarks alone; return the store."""
    n = len(made.ids)
    common = {"detector": made.detector, "detector_digest": "d" * 64}
    prints = {
        "stage": "extract",
        "source": f"digest of {made.source} {made.seed}",
        "dataset": "folders",
        **common,
        "detection_side": 1280,
        "photos": n,
        "shard_size": made.shard_size,
    }
    about = {"format": "auheat-landmarks", "version": 1, "dataset": "folders", **common}
    landmarks = ShardFolder(store / "landmarks", prints)
    write_source(store, store.parent / made.source)
    names = [name for name in EXPRESSIONS if name in made.labels]
    prints = {
        "stage": "render", "landmarks": "l" * 64, "codebook": "martinez",
        "codebook_digest": "c" * 64, "mode": "expression", "geometry": "face",
        "per_au": made.per_au, "per_class": False, "size": 4, "classes": names,
        "images": made.images, "keep_low_confidence": False, "photos": n,
    }  # fmt: skip
    told = {
        "format": "auheat-training", "version": 1, "codebook": "martinez", "codebook_title": "T",
        "codebook_citation": "C", "codebook_digest": "c" * 64, "codebook_json": "[]",
        "mode": "expression", "geometry": "face", **common,
    }  # fmt: skip
    if rendered:
        training = ShardFolder(store / "shards" / made.name, prints)
    for number, start in enumerate(range(0, n, made.shard_size)):
        at = slice(start, start + made.shard_size)
        shared = {
            "id": Column(made.ids[at], {}),
            "path": Column(made.paths[at], {}),
            "person": Column(made.persons[at], {}),
            **({"clip": Column(made.clips[at], {})} if made.clips else {}),
            "split": Column(made.splits[at], {}),
            "status": Column(np.array(made.status, np.uint8)[at], {"names": STATUS}),
            "score": Column(made.score[at], {}),
            "landmarks": Column(made.points[at], {"order": "iBUG-68", "unit": "pixel"}),
            "size": Column(made.sizes[at], {"order": "H, W"}),
        }
        own = {
            "label": Column(made.labels[at], {}),
            "bytes": Column(np.array([len(p) for p in made.photos], np.int64)[at], {}),
        }
        landmarks.write(number, shared | own, about)
        if rendered:
            source = h5_digest(store / "landmarks" / shard_name(number))
            training.write(number, shared | _training(made, at, names), told, source)
    return store


def _training(made: Made, at: slice, names: list[str]) -> dict[str, Column]:
    label = [names.index(name) if name else -1 for name in made.labels]
    maps = made.maps[at]
    turn = np.tile(np.array([[1, 0, 0.1], [0, 1, 0.3]], np.float32), (len(maps), 1, 1))
    counts = {"thin_rows": min(1, len(maps)), "turned_rows": min(2, len(maps))}
    columns = {
        "label": Column(np.array(label, np.int64)[at], {"names": names}),
        "transform": Column(turn, {"maps": "source pixels to stored pixels"}),
        "heatmap": Column(maps, {"scale": 1 / 255, **counts}),
        "valid": Column(made.valid[at], {}),
    }
    if made.images:
        columns["image"] = Column(made.photos[at], {"encoding": "JPEG or PNG"})
    if made.per_au:
        twice = np.stack([maps, maps[:, ::-1]], 1)
        aus = {"scale": 1 / 255, "aus": np.array([6, 12], np.int64)}
        columns["heatmap_au"] = Column(twice, aus)
    return columns


def h5_digest(file: Path) -> str:
    """The sha256 of a file."""
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def plain_rows(folder: Path) -> list[dict]:
    """Every row of a stage by plain h5py: the oracle of what is exported or merged."""
    rows = []
    for file in sorted(folder.glob("*.h5")):
        with h5py.File(file) as shard:
            for i in range(len(shard["id"])):
                row = {n: shard[n][i] for n in shard if not n.startswith("image")}
                row = {n: v.decode() if isinstance(v, bytes) else v for n, v in row.items()}
                if "image" in shard:
                    a, k = shard["image_start"][i], shard["image_length"][i]
                    row["image"] = shard["image"][a : a + k].tobytes()
                rows.append(row)
    return rows


def assert_same_rows(found, wanted) -> None:
    """Every field of every row is equal, of the same type and shape (NaN equals NaN)."""
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other)
        for name, value in other.items():
            if isinstance(value, np.ndarray):
                assert one[name].dtype == value.dtype, name
                np.testing.assert_array_equal(one[name], value, strict=True, err_msg=name)
            else:
                assert one[name] == value, name


def seal(folder):
    """Enter shards that were changed in the manifest."""
    manifest, entries = read_manifest(folder), []
    for entry in manifest.entries:
        data = (folder / entry.file).read_bytes()
        with h5py.File(folder / entry.file) as shard:
            places = {name: _locate(shard[name], data) for name in sorted(shard)}
        digest = h5_digest(folder / entry.file)
        entries.append(ShardEntry(entry.file, entry.rows, len(data), digest, entry.source, places))
    write_manifest(folder, manifest.fingerprint, entries)
