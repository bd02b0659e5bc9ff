"""Merged stores: every row of every store once, as plain h5py reads it, and nothing broken."""

import os
import re
import shutil
from pathlib import Path

import cv2
import faults
import h5py
import numpy as np
import pytest
from stores import Made, assert_same_rows, plain_rows, write_store

from auheat.errors import AuheatError
from auheat.exporters.exporter import export
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.manifest import read_manifest
from auheat.shards.reader import content_digest, list_shards, read_attributes
from auheat.store.maintenance import verify_store
from auheat.store.merging import merge
from auheat.store.store import read_source
from auheat.store.votes import read_votes, write_votes


def make(folder, name, ids, rendered=True, **kwargs) -> Path:
    return write_store(folder / name, Made(ids, **kwargs), rendered)


@pytest.fixture
def two(tmp_path):
    """Two stores of equal settings: other ids, classes, photos, shard sizes."""
    one = make(tmp_path, "one", [f"a{i}" for i in range(7)], per_au=True)
    labels = ["Anger", "Happiness", "", "Surprise", "Anger"]
    other = make(tmp_path, "other", list("vwxyz"), labels=labels, seed=1, shard_size=4, per_au=True)
    return [one, other]


def stages(store):
    return store / "landmarks", store / "shards" / "martinez"


def named(folder) -> list[dict]:
    """Every row with its class name instead of its number."""
    rows, names = plain_rows(folder), read_attributes(list_shards(folder)[0], "label").get("names")
    return [r | {"label": names[r["label"]] if r["label"] >= 0 else ""} for r in rows]


@pytest.mark.slow
def test_a_merged_store_has_every_row_of_both_stages_and_breaks_no_rule(two, tmp_path):
    told = merge(two, tmp_path / "all")
    landmarks, rendered = stages(tmp_path / "all")
    assert_same_rows(plain_rows(landmarks), [r for s in two for r in plain_rows(stages(s)[0])])
    assert_same_rows(named(rendered), [r for s in two for r in named(stages(s)[1])])
    checked, findings = verify_store(tmp_path / "all")
    assert (len(checked), findings) == (2, [])
    assert (told["rows"], told["skipped"], told["shards"]) == (12, 0, ["martinez"])
    assert told["notes"] == []
    counts = told["stages"]["shards/martinez"]
    assert [counts[name] for name in ("OK", "UNREADABLE")] == [3, 2]
    assert counts["thin_rows"] == 5  # one in each shard, as the stores say
    assert counts["turned_rows"] == 8  # two in each shard of more than one row
    classes = ["Neutral", "Happiness", "Surprise", "Anger"]
    assert read_attributes(rendered / "00003.h5", "label")["names"] == classes
    assert read_manifest(rendered).fingerprint["classes"] == classes
    assert [entry.rows for entry in read_manifest(landmarks).entries] == [3, 3, 1, 4, 1]
    failed = (landmarks / "failed.csv").read_text().splitlines()
    assert len(failed) == 1 + sum(r["status"] >= 2 for r in plain_rows(landmarks))


def test_shards_in_which_nothing_changes_are_copied_byte_by_byte(tmp_path):
    both = ["Anger", "Happiness", "Anger", "Anger"]
    one = make(tmp_path, "one", list("abcd"), labels=both)
    other = make(tmp_path, "other", list("efgh"), labels=both, seed=1)
    merge([one, other], tmp_path / "all")
    for stage in ("landmarks", "shards/martinez"):
        sources = [f for s in (one, other) for f in list_shards(s / stage)]
        for file, source in zip(list_shards(tmp_path / "all" / stage), sources, strict=True):
            assert file.read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_attributes_survive_being_written_anew(two, tmp_path):
    merge(two, tmp_path / "all", prefix="a,b")
    for stage in ("landmarks", "shards/martinez"):
        old, new = (list_shards(s / stage)[0] for s in (two[0], tmp_path / "all"))
        assert read_attributes(new) == read_attributes(old)
        with h5py.File(old) as a, h5py.File(new) as b:
            assert set(a) == set(b)
            for name in a:
                assert set(a[name].attrs) == set(b[name].attrs)
                for key in set(a[name].attrs) - {"names"}:
                    first, second = np.asarray(a[name].attrs[key]), np.asarray(b[name].attrs[key])
                    assert first.dtype.kind == second.dtype.kind
                    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_an_id_that_is_there_twice_is_refused_with_both_places(tmp_path):
    one = make(tmp_path, "one", list("abcde"))
    other = make(tmp_path, "other", list("vwxd"), seed=1)
    with pytest.raises(AuheatError) as error:
        merge([one, other], tmp_path / "all")
    place = re.escape(str(one / "landmarks" / "00001.h5")) + ": row 0 and "
    place += re.escape(str(other / "landmarks" / "00001.h5")) + ": row 0: both 'd'"
    assert re.match(place, str(error.value))
    assert not (tmp_path / "all").exists()
    with pytest.raises(AuheatError, match="both 'd', but .* differs"):
        merge([one, other], tmp_path / "all", skip_duplicates=True)


@pytest.mark.slow
def test_equal_rows_are_kept_once_when_asked(tmp_path):
    labels = ["Anger", "Happiness", "Neutral", "Anger", "Anger", "Neutral"]
    one = make(tmp_path, "one", list("abcdef"), labels=labels, status=[0, 0, 0, 3, 4, 1])
    other = tmp_path / "other"
    shutil.copytree(one, other)
    last = make(tmp_path, "last", list("xyz"), seed=2)
    told = merge([one, other, last], tmp_path / "all", skip_duplicates=True)
    assert (told["rows"], told["skipped"]) == (9, 6)
    assert told["notes"] == ["thin_rows and turned_rows of shards with skipped rows count at most"]
    assert verify_store(tmp_path / "all")[1] == []
    wanted = [r for s in (one, last) for r in named(stages(s)[1])]
    assert_same_rows(named(stages(tmp_path / "all")[1]), wanted)


@pytest.mark.slow
def test_some_rows_of_a_shard_may_be_kept_and_others_not(tmp_path):
    """The second store has two rows of the first, and one of its own between them."""
    first, pick = Made(list("abcde"), status=[0] * 5), [1, 3]
    texts = {
        name: [getattr(first, name)[1], "", getattr(first, name)[3]]
        for name in ("labels", "splits", "persons")
    }
    photos = [first.photos[1], first.photos[0], first.photos[3]]
    paths = ["a/1.jpg", "own.jpg", "a/3.jpg"]
    second = Made(list("bxd"), **texts, photos=photos, paths=paths, status=[0] * 3)
    second.sizes[1] = first.sizes[0]
    for name in ("points", "sizes", "maps", "score"):
        getattr(second, name)[[0, 2]] = getattr(first, name)[pick]
    one, other = write_store(tmp_path / "1", first), write_store(tmp_path / "2", second)
    told = merge([one, other], tmp_path / "all", skip_duplicates=True)
    assert (told["rows"], told["skipped"]) == (6, 2)
    assert verify_store(tmp_path / "all")[1] == []
    wanted = [*named(stages(one)[1]), named(stages(other)[1])[1]]
    assert_same_rows(named(stages(tmp_path / "all")[1]), wanted)
    for name in ("score", "photos"):  # whatever of a row differs, it is no longer the same row
        changed = Made(list("bxd"), **texts, photos=photos, paths=paths, status=[0] * 3)
        for own in ("points", "sizes", "maps", "score"):
            setattr(changed, own, getattr(second, own).copy())
        if name == "score":
            changed.score[2] /= 2
        else:
            changed.photos = [photos[0], photos[1], photos[2] + b"\0"]
        store = write_store(tmp_path / name, changed)
        words = "but score differs" if name == "score" else "but bytes differs"
        with pytest.raises(AuheatError, match=words):
            merge([one, store], tmp_path / "none", skip_duplicates=True)


@pytest.mark.slow
def test_prefixes_tell_rows_of_equal_ids_apart(tmp_path):
    one = make(tmp_path, "one", list("abc"), clips=["f", "f", ""])
    other = make(tmp_path, "other", list("abc"), seed=1, clips=["f", "f", ""])
    write_votes(one, {"b": {"Fear": 3, "NF": 1}})
    write_votes(other, {"b": {"Anger": 2, "Fear": 0}})
    merge([one, other], tmp_path / "all", prefix="auto")
    votes = read_votes(tmp_path / "all")
    assert votes.names == ("Fear", "NF", "Anger")
    assert votes.counts == {"one/b": (3, 1, 0), "other/b": (0, 0, 2)}
    rows = plain_rows(tmp_path / "all" / "shards" / "martinez")
    assert [row["id"] for row in rows] == [f"{s}/{i}" for s in ("one", "other") for i in "abc"]
    assert [row["path"] for row in rows][:2] == ["one/a/0.jpg", "one/a/1.jpg"]
    assert [row["clip"] for row in rows] == ["one/f", "one/f", "", "other/f", "other/f", ""]
    assert verify_store(tmp_path / "all")[1] == []
    with pytest.raises(AuheatError, match="merged from stores of several photo folders"):
        render(tmp_path / "all", name="new")
    assert verify_store(tmp_path / "all")[1] == []
    merge([one, other], tmp_path / "named", prefix="1,2")
    assert plain_rows(tmp_path / "named" / "landmarks")[3]["id"] == "2/a"


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["a", "a,a", "a,b,c", "a,../b", "a,", "a,b/c"])
def test_prefixes_that_tell_nothing_apart_are_refused(two, tmp_path, prefix):
    with pytest.raises(AuheatError, match="--prefix: .*--prefix a,b"):
        merge(two, tmp_path / "all", prefix=prefix)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"detector": "other"}, r"landmarks: made with detector 'other', but .*one.*'stub'"),
        ({"per_au": True}, r"shards/martinez: made with per_au True, but .* with False"),
        ({"images": False}, r"shards/martinez: made with images False"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, setting, words):
    one = make(tmp_path, "one", list("abc"))
    other = make(tmp_path, "other", list("xyz"), seed=1, **setting)
    with pytest.raises(AuheatError, match=words):
        merge([one, other], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.slow
def test_shards_that_not_all_have_are_left_out_and_told(two, tmp_path):
    bare = make(tmp_path, "bare", list("123"), rendered=False, seed=5)
    told = merge([*two, bare], tmp_path / "all")
    (note,) = told["notes"]
    assert note.startswith("shards/martinez: left out, not in every store")
    assert told["shards"] == []
    assert not (tmp_path / "all" / "shards").exists()
    assert verify_store(tmp_path / "all")[1] == []


@pytest.mark.slow
def test_unfinished_outdated_and_damaged_stores_are_refused(two, tmp_path):
    one, other = two
    (stages(other)[0] / "manifest.json").rename(tmp_path / "aside")
    shutil.copy(tmp_path / "aside", stages(other)[0] / "manifest.json")
    file = list_shards(stages(other)[1])[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(AuheatError, match=r"its bytes have changed .run `auheat verify`"):
        merge(two, tmp_path / "all")
    shutil.rmtree(other)
    make(tmp_path, "other", list("vwxyz"), seed=9, per_au=True, rendered=False)
    shutil.copytree(stages(one)[1], stages(other)[1])
    with pytest.raises(AuheatError, match="made from other landmarks .run `auheat render` again"):
        merge(two, tmp_path / "all2")
    with pytest.raises(AuheatError, match="run `auheat extract` first"):
        merge([one, tmp_path / "gone"], tmp_path / "all2")


@pytest.mark.slow
def test_a_place_that_is_no_place_of_its_own_is_refused(two, tmp_path):
    for stores, target, words in [
        (two[:1], tmp_path / "all", "two stores or more"),
        ([two[0], two[0]], tmp_path / "all", "each once"),
        (two, two[0], "in or around"),
        (two, two[1] / "inside", "in or around"),
        (two, tmp_path, "in or around"),
    ]:
        with pytest.raises(AuheatError, match=words):
            merge(stores, target)
    third = make(tmp_path, "third", list("123"), seed=3)
    before = content_digest(third / "landmarks")
    with pytest.raises(AuheatError, match="made with .*--overwrite makes it anew"):
        merge(two, third)
    assert content_digest(third / "landmarks") == before
    shutil.copytree(third / "shards" / "martinez", third / "shards" / "mine")
    with pytest.raises(AuheatError, match="shards/mine: no part of this merge"):
        merge(two, third, overwrite=True)
    shutil.rmtree(third / "shards" / "mine")
    merge(two, third, overwrite=True)
    assert verify_store(third)[1] == []
    assert merge(two, third)["rows"] == 12  # all is there already


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_a_merge_goes_on_to_what_an_undisturbed_one_gives(tmp_path):
    labels = ["Anger", "Happiness", ""]
    two = [make(tmp_path, "one", list("abcde")), make(tmp_path, "two", list("xyz"), labels=labels)]
    target, calm = tmp_path / "all", tmp_path / "calm"
    with faults.struck(faults.Fault(-1, "", None)) as steps:
        merge(two, calm)
    wanted = [content_digest(stage) for stage in stages(calm)]
    inputs = [content_digest(stage) for store in two for stage in stages(store)]
    places = {name: at for at, name in enumerate(steps.seen)}  # the last step of each kind
    stride = 1 if os.environ.get("AUHEAT_FAULTS") == "full" else 3
    for k, at in enumerate(sorted(places.values())[::stride]):
        shutil.rmtree(target, ignore_errors=True)
        child = os.fork()
        if child == 0:
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 2)
            with faults.struck(faults.Fault(at, faults.PHASES[k % 3], faults.kill_self)):
                merge(two, target)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if (target / "landmarks").is_dir():
            broken = {finding.rule for finding in verify_store(target)[1]}
            assert broken <= faults.LEFT_BY_A_STOP, (steps.seen[at], broken)
        merge(two, target)
        assert [content_digest(stage) for stage in stages(target)] == wanted
        assert verify_store(target)[1] == []
    assert [content_digest(stage) for store in two for stage in stages(store)] == inputs


@pytest.mark.slow
def test_parts_of_one_folder_are_merged_and_may_be_rendered_afterwards(tmp_path):
    """Two machines each found the points of some photos; a third one draws the maps of all."""
    faults.make_photos(tmp_path)
    photos, points = tmp_path / "photos", str(tmp_path / "points.npz")
    extract(photos, tmp_path / "whole", detector=points, shard_size=4, workers=1)
    render(tmp_path / "whole", map_size=12, workers=1)
    hidden, parts = tmp_path / "hidden", []
    for k, keep in enumerate((("happy", "neutral"), ("sad",))):
        photos.rename(hidden)
        for name in keep:
            shutil.copytree(hidden / "train" / name, photos / "train" / name)
        parts.append(tmp_path / f"part-{k}")
        extract(photos, parts[-1], detector=points, shard_size=4, workers=1)
        shutil.rmtree(photos)
        hidden.rename(photos)
    merge(parts, tmp_path / "all")
    assert read_source(tmp_path / "all") == photos
    assert verify_store(tmp_path / "all")[1] == []
    render(tmp_path / "all", map_size=12, workers=1)
    by_id = [sorted(named(tmp_path / s / "shards/martinez"), key=lambda r: r["id"])
             for s in ("all", "whole")]  # fmt: skip
    assert_same_rows(*by_id)
    for part in parts:
        render(part, map_size=12, workers=1)
    merge(parts, tmp_path / "late")
    assert content_digest(tmp_path / "late/shards/martinez") == content_digest(
        tmp_path / "all/shards/martinez"
    )
    assert (
        render(tmp_path / "late", map_size=12, workers=1).resumed == 11
    )  # nothing is left to draw
    with pytest.raises(AuheatError, match="made with .*--overwrite"):
        extract(photos, tmp_path / "late", detector=points, shard_size=4, retry_failed=True)


def test_stores_of_several_folders_say_that_they_are_rendered_before(tmp_path, face_at):
    ids = ["happy/one.png", "happy/two.png"]
    points = tmp_path / "points.npz"
    np.savez(points, id=ids, landmarks=np.stack(2 * [face_at(8, (10, 6))]))
    for name in ("one", "two"):
        folder = tmp_path / name / "photos" / "happy"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((20, 20, 3), np.uint8))
        extract(tmp_path / name / "photos", tmp_path / name / "s", detector=str(points))
    merge([tmp_path / "one" / "s", tmp_path / "two" / "s"], tmp_path / "all")
    assert verify_store(tmp_path / "all")[1] == []
    with pytest.raises(AuheatError, match="run `auheat render` on each of them"):
        render(tmp_path / "all")


def test_an_export_is_no_store(two, tmp_path):
    export(tmp_path / "tars", two[0])
    with pytest.raises(AuheatError, match="run `auheat extract` first"):
        merge([two[1], tmp_path / "tars"], tmp_path / "all")
