"""What the fuzzer changes: a sound sample of every kind of file, and how auheat reads it.

A sample is a folder. The readers are those of the commands, with the work around them left out
where it would read nothing more.
"""

from __future__ import annotations

import csv
import functools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import broken_shards
import cv2
import mutants
import numpy as np
import sets
import unit_files
import wrong_points
from unchanged import RememberingDetector

Read = Callable[[Path, random.Random], object]


@dataclass(frozen=True)
class Target:
    """A kind of file: `make` writes the sample to a folder, `reads` are ways to read it.

    `files` are patterns of what is changed, `names` whether files are renamed and removed, too;
    `vouch` makes checksums agree with what was changed, in most cases, as a stranger would.
    """

    make: Callable[[Path], object]
    reads: tuple[Read, ...]
    files: tuple[str, ...] = ("**/*",)
    names: bool = True
    vouch: Callable[[Path], None] | None = None


def _layout(
    make: Callable[[Path], object], name: str, labels: bool = False, files: str = "**/*"
) -> Target:
    def read(root: Path, rng: random.Random) -> None:
        from auheat.datasets.registry import DATASETS, load_own_points, read_dataset

        source = root / "set"
        meanings = root / "labels.yaml" if labels else None
        found = read_dataset(
            source, rng.choice(("auto", name)), unpack=root / "unpacked", labels=meanings
        )
        found.mapping()
        if DATASETS[found.layout].points is not None:
            load_own_points(found)

    return Target(lambda root: make(root / "set"), (read,), (files,))


def _table(name: str, divider: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        rows = [("path", "label", "split", "person", "x", "y", "w", "h")]
        words = ("happy", "Sad", "angry", "neutral")
        for i in range(8):
            sets.photo(root / f"p/{i}.jpg", i)
            rows.append((f"p/{i}.jpg", words[i % 4], ("train", "test")[i % 2], f"s{i}", *"1234"))
        sets.write(root / name, "".join(divider.join(row) + "\n" for row in rows))

    return make


def _own_words(root: Path) -> None:
    for name in ("joie", "colère", "ennui"):
        for i in range(2):
            sets.photo(root / name / f"{i}.jpg", i)
    sets.write(root.parent / "labels.yaml", "joie: Happiness\ncolère: Anger\nennui: ignore\n")


POINT_IDS = [f"p{i}" for i in range(4)]


def _points(form: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        points = np.stack([sets.points_of(i) for i in range(4)])
        home = root / "points"
        home.mkdir(parents=True)
        for i, key in enumerate(POINT_IDS):
            sets.photo(root / f"photos/{key}.png", 40 * i)
        if form == "py-feat":
            _write_py_feat(home / "a.csv", points)
        elif form == "paper":
            rows = [
                ",".join([k, *map(str, p.T.ravel())])
                for k, p in zip(POINT_IDS, points, strict=True)
            ]
            sets.write(home / "landmarks.txt", "\n".join(rows) + "\n")
        elif form == "points":
            wrong_points.write_pts(home, POINT_IDS, points)
        else:
            wrong_points.FORMS[form](home / form, POINT_IDS, points)

    return make


def _write_py_feat(file: Path, points: np.ndarray) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        axes = [f"{axis}_{i}" for axis in "xy" for i in range(68)]
        writer.writerow(["FaceRectX", "FaceScore", *axes, "Pitch", "input", "frame"])
        for key, row in zip(POINT_IDS, points, strict=True):
            writer.writerow([1, 0.9, *row.T.ravel(), 0, f"{key}.png", 0])


@functools.cache
def load_mesh() -> Any:
    """Return the detector, loaded once for all processes that are forked after that."""
    from auheat.landmarks.registry import load_detector

    return RememberingDetector(load_detector("mesh", "cpu", engine="float32"))


def _read_points(root: Path, rng: random.Random) -> None:
    from auheat.pipeline import landmark_sources
    from auheat.records import Sample

    (root / "points").mkdir(exist_ok=True)
    files = sorted((root / "points").iterdir())
    alone = len(files) == 1 and rng.random() < 0.5
    samples = [Sample(key, Path(f"{key}.png"), "", "", "") for key in POINT_IDS]
    landmark_sources.load_detector = lambda *_: load_mesh()
    source = landmark_sources.ImportedSource(files[0] if alone else root / "points", samples, 1)
    with _closing_bar() as bar:
        for located in source(root / "photos", [samples], bar):
            assert len(located.reasons) == 4
    source.notes()


def _units(form: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        home = root / "aus"
        home.mkdir(parents=True)
        levels = [{6: 1.5, 12: 2.0 + i / 2} for i in range(4)]
        if form == "ckplus":
            unit_files.write_ckplus(home, {f"S005_001_0000000{i}": levels[i] for i in range(4)})
        elif form == "disfa":
            unit_files.write_disfa(home, {"SN001": {6: (0, 1, 2, 3), 12: (5, 4, 3, 2)}})
        elif form == "openface":
            for key, units in zip(POINT_IDS, levels, strict=True):
                row = {"units": {au: (level, 1) for au, level in units.items()}}
                (home / f"{key}.csv").write_text(unit_files.openface([row], sequence=False))
        elif form == "py-feat":
            rows = [{"units": {12: 0.9}, "input": f"{key}.png"} for key in POINT_IDS]
            (home / "all.csv").write_text(unit_files.pyfeat(rows))
        elif form == "libreface":
            for key, units in zip(POINT_IDS, levels, strict=True):
                row = {"levels": units, "present": tuple(units)}
                (home / f"{key}.csv").write_text(unit_files.libreface([row]))
        else:
            lines = [
                f"{key}.png,{row[6]},{row[12]}" for key, row in zip(POINT_IDS, levels, strict=True)
            ]
            (home / "aus.csv").write_text("\n".join(["path,AU6_r,AU12_r", *lines]) + "\n")

    return make


_UNIT_PATHS = {
    "ckplus": [f"S005/001/S005_001_0000000{i}.png" for i in range(4)],
    "disfa": [f"SN001/frame_{i}.png" for i in (1, 2, 3, 4)],
}


def _read_units(form: str) -> Read:
    paths = _UNIT_PATHS.get(form, [f"{key}.png" for key in POINT_IDS])
    ids = [path.removesuffix(".png") for path in paths]

    def read(root: Path, rng: random.Random) -> None:
        from auheat.action_units import load_units

        (root / "aus").mkdir(exist_ok=True)
        files = sorted((root / "aus").iterdir())
        alone = len(files) == 1 and rng.random() < 0.5
        matching = load_units(files[0] if alone else root / "aus").match(ids, paths)
        rows = matching.find(ids, np.stack([sets.points_of(i) for i in range(4)]))
        assert rows.intensity.shape == rows.active.shape == (4, len(matching.units.aus))

    return read


def _closing_bar() -> Any:
    from auheat.utils.console import progress

    return progress(total=4)


def _maps(form: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        _store(root)
        with np.load(root / "store" / "maps.npz") as arrays:
            values = dict(arrays)
        (root / "store" / "maps.npz").rename(root / "maps.npz")
        if form == "npz":
            return
        (root / "maps.npz").unlink()
        (root / "maps").mkdir()
        keys = values["id"].tolist()
        maps = values[next(n for n, v in values.items() if v.ndim >= 3)].astype(np.float32)
        maps = maps.reshape(len(keys), *maps.shape[-2:])
        if form == "one":
            (root / "maps").rmdir()
            np.savez(root / "maps.npz", **dict(zip(keys, maps, strict=True)))
        for key, map_ in zip(keys, maps, strict=True) if form != "one" else ():
            if form == "npy":
                np.save(root / "maps" / f"{key}.npy", map_)
            else:
                cv2.imwrite(str(root / "maps" / f"{key}.png"), (255 * map_.clip(0, 1)).astype("u1"))

    return make


def _find_maps(root: Path) -> Path:
    return root / "maps.npz" if (root / "maps.npz").exists() else root / "maps"


def _read_maps(root: Path, rng: random.Random) -> None:
    import auheat

    auheat.evaluate(store=root / "store", maps=_find_maps(root), device="cpu")


def _plan_maps(root: Path, rng: random.Random) -> None:
    """All that is read before something is scored."""
    import torch

    from auheat.evaluation.inputs import plan_given

    plan_given(root / "store", _find_maps(root), None, torch.device("cpu"), None, None)


MAP_READERS = (_plan_maps, _plan_maps, _plan_maps, _read_maps)


def _book(root: Path) -> None:
    from auheat.facs import codebooks

    home = Path(codebooks.__file__).parents[2] / "codebooks"
    name = "belharbi2024.yaml"
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(home / name, root / "book.yaml")
    text = "name: other\ntitle: t\ncitation: c\nexpressions:\n  fear:\n    required: [1, 2]\n"
    text += "    optional: [{au: 4, weight: 0.5, side: left}]\n    note: n\n    unverified: u\n"
    sets.write(root / "other.yaml", text)


def _read_book(root: Path, rng: random.Random) -> None:
    from auheat.facs.codebooks import (
        describe_codebook,
        diff_codebooks,
        load_codebook,
        validate_codebook,
    )
    from auheat.heatmaps.plan import plan_heatmaps
    from auheat.heatmaps.render import render_heatmaps

    for file in _list_changed(root):
        said = validate_codebook(file)
        assert not any("\n" in line for line in said)
        book = load_codebook(file)
        json.dumps(describe_codebook(book))
        diff_codebooks(book, sets.martinez())
        names = tuple(book.expressions)[:3]
        points = sets.points_of(0)[None].repeat(len(names), 0)
        render_heatmaps(points, np.arange(len(names)), plan_heatmaps(book, names), (40, 40), (8, 8))


def _make_store(root: Path) -> None:
    """Write a store with both stages and a run, once for all targets that lie beside this.

    A few rows of every class and split in one shard, as a case costs what its rows do.
    """
    if not (root.parent / "made").exists():
        counts = (("train", 2), ("test", 1))
        broken_shards.make(root.parent / "made", shard_rows=12, counts=counts)


def _store(root: Path) -> None:
    _make_store(root)
    shutil.copytree(root.parent / "made" / "store", root / "store")


def _vouch_store(root: Path) -> None:
    broken_shards.vouch(root / "store")


def _drop_backups(root: Path) -> None:
    """Leave one manifest of each stage; half of the time it is the changed one."""
    for file in (root / "store").rglob("manifest.backup.json"):
        file.unlink()


def _vouch_run(root: Path) -> None:
    (root / "store/runs/run/manifest.json").unlink(missing_ok=True)


def _reader(name: str) -> Read:
    """A reader of a store; what it merges with is the sound one."""

    def read(root: Path, rng: random.Random) -> None:
        work = root / "out"
        work.mkdir(exist_ok=True)
        sound = root.parent / "made" / "store"
        dict(broken_shards.readers(root / "store", sound, work, "runs/"))[name]()

    return read


STORE_READERS = tuple(
    _reader(name)
    for name in (
        *("stats", "verify", "digest", "read_columns", "report", "webdataset", "npz", "dataset"),
        *("stream", "train", "render", "merge"),
    )
)


def _on_run(read: Callable[[Path, Path], object]) -> Read:
    return lambda root, _: read(root / "store" / "runs" / "run", root)


def _evaluate(run: Path, root: Path) -> None:
    import auheat

    auheat.evaluate(run, root / "store", device="cpu")


def _report(run: Path, root: Path) -> None:
    import auheat

    auheat.report([run], store=root / "store", out=root / "report.html")


def _verify(run: Path, root: Path) -> None:
    import auheat

    auheat.verify(run)


RUN_READERS = (
    _on_run(_evaluate),
    _on_run(_report),
    _on_run(_verify),
    _on_run(lambda run, root: broken_shards.train(root / "store", "run")),
    _on_run(lambda run, root: _explain(run, [root / "face.jpg"])),
)


def _read_last(root: Path, rng: random.Random) -> None:
    config = root / "store/runs/run/config.json"
    about = json.loads(config.read_text())
    about["settings"]["epochs"] = 2
    config.unlink()
    config.write_text(json.dumps(about))
    broken_shards.train(root / "store", "run", epochs=2)


def _with_face(root: Path) -> None:
    _store(root)
    _face(root)


def _face_alone(root: Path) -> None:
    _make_store(root)
    _face(root)


def _face(root: Path) -> None:
    from auheat.demo import load_portrait

    root.mkdir(parents=True, exist_ok=True)
    photo = cv2.resize(load_portrait()[0], (160, 160), interpolation=cv2.INTER_AREA)
    for ending in ("jpg", "png", "webp"):
        cv2.imwrite(str(root / f"face.{ending}"), photo[..., ::-1])


def _explain(run: Path, photos: list[Path]) -> None:
    from auheat.explanation import inputs
    from auheat.explanation.explainer import Explainer

    inputs.load_detector = lambda *_: load_mesh()
    _explain_by(Explainer(run, "cpu", "mesh"), photos)


def _explain_by(explainer: Any, photos: list[Path]) -> None:
    for found in explainer(photos, ""):
        if found.explained:
            found.panel()


@functools.cache
def _sound_explainer(run: Path) -> Any:
    from auheat.explanation import inputs
    from auheat.explanation.explainer import Explainer

    inputs.load_detector = lambda *_: load_mesh()
    return Explainer(run, "cpu", "mesh")


def _read_explained(root: Path, rng: random.Random) -> None:
    run = root.parent / "made" / "store" / "runs" / "run"
    _explain_by(_sound_explainer(run), _list_changed(root))


def _photos(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in mutants.bases().items():
        (root / f"{name}.jpg").write_bytes(data)


def _list_changed(root: Path) -> list[Path]:
    """The files that a case has changed; all of a sound sample."""
    names = (root / "changed").read_text().splitlines()
    return [root / name for name in names] or sorted(root.glob("*.*"))[:3]


def _read_photos(root: Path, rng: random.Random) -> None:
    from auheat.images.decoding import make_portable, read_bytes
    from auheat.images.headers import UnreadableImageError, read_header
    from auheat.pipeline.photo_loading import load_size, load_view

    for file in _list_changed(root):
        seen = load_view((file, None))
        assert load_size(file)[:3] == seen[:3]
        assert bool(seen.reason) == (seen.view is None)
        try:
            data = make_portable(read_bytes(file)) if seen.view else b""
        except UnreadableImageError:
            continue
        header = read_header(data) if data else None
        assert not data or (header is not None and header.portable and header.size == seen.size)


def _export(root: Path) -> None:
    import auheat

    _store(root)
    auheat.export(root / "tars", root / "store")
    auheat.export(root / "all.npz", root / "store", format="npz")


def _read_export(root: Path, rng: random.Random) -> None:
    import auheat

    if rng.random() < 0.5:
        auheat.export(root / "tars", root / "store", overwrite=True)
    else:
        auheat.export(root / "all.npz", root / "store", format="npz", overwrite=True)


def _weights(root: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from auheat.models.resnet import build_backbone

    root.mkdir(parents=True, exist_ok=True)
    state = build_backbone("thin").state_dict()
    save_file(state, root / "a.safetensors")
    torch.save(state, root / "a.pth")
    torch.save({"state_dict": state}, root / "b.pth", _use_new_zipfile_serialization=False)


def _read_weights(root: Path, rng: random.Random) -> None:
    from auheat.models.pretrained import load_weights
    from auheat.models.resnet import build_backbone

    for file in _list_changed(root):
        load_weights(build_backbone("thin"), file)


_SHARDS = ("store/landmarks/*.h5", "store/shards/*/*.h5")
_RUN = "store/runs/run/"
_RESULTS = tuple(_RUN + name for name in ("evaluation.json", "evaluation.npz", "metrics.jsonl"))

TARGETS: dict[str, Target] = {
    "rafdb": _layout(sets.rafdb_basic, "rafdb", files="**/EmoLabel/*"),
    "rafdb-compound": _layout(sets.rafdb_compound, "rafdb-compound"),
    "rafdb-numbered": _layout(sets.rafdb_numbered, "rafdb-numbered"),
    "affectnet": _layout(sets.affectnet, "affectnet"),
    "affectnet-reduced": _layout(sets.affectnet_reduced, "affectnet-reduced"),
    "fer2013": _layout(lambda root: (root.mkdir(parents=True), sets.fer_table(root)), "fer2013"),
    "ferplus": _layout(sets.ferplus, "ferplus"),
    "expw": _layout(sets.expw, "expw"),
    "sfew": _layout(sets.sfew, "sfew"),
    "ckplus": _layout(sets.ckplus, "ckplus"),
    "jaffe": _layout(sets.jaffe, "jaffe"),
    "kdef": _layout(sets.kdef, "kdef"),
    "csv": _layout(_table("labels.csv", ","), "csv"),
    "tsv": _layout(_table("labels.tsv", "\t"), "csv"),
    "label-map": _layout(_own_words, "folders", labels=True),
    **{
        f"points-{name}": Target(_points(form), (_read_points,), ("points/**/*",))
        for name, form in {
            "pts": "points", "csv": "points.csv", "npz": "points.npz", "openface": "openface.csv",
            "py-feat": "py-feat", "paper": "paper",
        }.items()
    },
    **{
        f"aus-{form}": Target(_units(form), (_read_units(form),), ("aus/**/*",))
        for form in ("openface", "py-feat", "libreface", "ckplus", "disfa", "csv")
    },
    **{
        f"maps-{form}": Target(_maps(form), MAP_READERS, ("maps.npz", "maps/*"))
        for form in ("npz", "one", "npy", "png")
    },
    "codebook": Target(_book, (_read_book,), names=False),
    "shards": Target(_store, STORE_READERS, _SHARDS, False, _vouch_store),
    "manifests": Target(
        _store, STORE_READERS, ("store/landmarks/*.json", "store/shards/*/*.json"), True,
        _drop_backups,
    ),
    "runs": Target(_with_face, RUN_READERS, (_RUN + "*",), True, _vouch_run),
    "run-texts": Target(
        _with_face, RUN_READERS, (_RUN + "config.json", _RUN + "split.json", *_RESULTS), False,
        _vouch_run,
    ),
    "last": Target(_store, (_read_last,), (_RUN + "last.safetensors",), False, _vouch_run),
    "exports": Target(_export, (_read_export,), ("tars/*", "all.npz*")),
    "weights": Target(_weights, (_read_weights,), names=False),
    "photos-extract": Target(_photos, (_read_photos,), names=False),
    "photos-explain": Target(_face_alone, (_read_explained,), names=False),
}  # fmt: skip
