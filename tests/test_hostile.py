"""Codebooks, landmark files and weights from strangers: refused with the file's name, at no cost.

Every case is read by a process whose address space has a bound, so that a file which is believed
is an error there and not only slow.
"""

import ast
import csv
import io
import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import broken_shards
import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import auheat
from auheat.data import ShardDataset, ShardStream
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.external_maps import open_maps
from auheat.facs.codebooks import load_codebook, load_frame, validate_codebook
from auheat.models.pretrained import load_weights
from auheat.models.resnet import build_backbone
from auheat.utils.npz import read_npz
from auheat.visualization.face_panel import draw_bare, draw_panel

FULL = os.environ.get("AUHEAT_FAULTS") == "full"
"""Whether every way to break a store is tried (`make faults`), or some of each kind."""

SPARE = 2**29
"""Bytes that a process may take beyond what it has when everything is imported."""


def array(shape: str, kind: object = "<f4", body: bytes = b"") -> bytes:
    """An .npy file with any claim in its header, and any bytes behind it."""
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + body


def npz(**members: bytes) -> bytes:
    """An archive whose sound members are one id and one face, unless given."""
    names = io.BytesIO()
    np.save(names, np.array(["a"]))
    sound = {"id": names.getvalue(), "landmarks": array("(1, 68, 2)", body=bytes(544))}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in (sound | members).items():
            archive.writestr(f"{key}.npy", data)
    return out.getvalue()


def locked(data: bytes, offset: int, value: int) -> bytes:
    """The archive with another value in the central directory's first entry."""
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


class Trap:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


HEADER = "id," + ",".join(f"x{i},y{i}" for i in range(68)) + "\n"
POINTS: dict[str, tuple[bytes, str]] = {
    "claims.npz": (npz(landmarks=array("(1099511627776, 68, 2)")), "claims 598134325510144 bytes"),
    "claims_gigabytes.npz": (npz(landmarks=array("(9000000, 68, 2)")), "claims 4896000000 bytes"),
    "long_ids.npz": (npz(id=array("(1,)", "<U500000000")), "claims 2000000000 bytes"),
    "no_ids.npz": (npz(id=array("(1000000000000,)", "<U0")), "landmarks float32 (1, 68, 2)"),
    "below_zero.npz": (npz(landmarks=array("(-1, 68, 2)")), "claims -544 bytes"),
    "zeros.npz": (npz(landmarks=array("(90000, 68, 2)", body=bytes(48_960_000))), "(90000, 68, 2)"),
    "fields.npz": (npz(landmarks=array("(1, 68, 2)", [("a", "<f4")], bytes(544))), "[('a', '<f4')"),
    "code.npz": (npz(landmarks=array("__import__('os')")), "malformed node"),
    "nested.npz": (npz(landmarks=array("(" * 3000 + ")" * 3000)), "cannot be read"),
    "no_text.npz": (npz(id=array("(1,)", "<U1", b"\xff\xff\xff\xff")), "no characters"),
    "pickled.npz": (npz(landmarks=array("(1,)", "|O", pickle.dumps([1]))), "allow_pickle"),
    "version.npz": (npz(id=b"\x93NUMPY\x09\0" + bytes(99)), "version 9.0"),
    "no_array.npz": (npz(id=b"not an array"), "cannot be read"),
    "locked.npz": (locked(npz(), 8, 1), "cannot be read"),
    "method.npz": (locked(npz(), 10, 99), "cannot be read"),
    "line.csv": (HEADER.encode() + b"," * 3_000_000 + b"\n", "line 2: over 1048576 characters"),
    "row.csv": (HEADER.encode() + b'"\n",' * 600_000, "over 1048576 characters"),
    "cell.csv": (HEADER.encode() + b'"' + b"a" * 200_000, "field larger than field limit"),
    "start.csv": (b"a" * 3_000_000, "no known form"),
    "zero.csv": (HEADER.encode() + b"a" + b",1\0" * 136, "line 2: '1\\x00' is not a number"),
    "long.pts": (
        b"version: 1\nn_points: 68\n{\n" + b"1 2\n" * 600_000 + b"}",
        "more than 1048576 bytes",
    ),
    "list.json": (json.dumps([[1, 2]] * 68).encode(), "no known form"),
    "pickle.csv": (pickle.dumps({"a": [1]}), "no known form"),
}
BOOKS: dict[str, tuple[str, str]] = {
    "object": ("name: !!python/object/apply:os.mkdir [trap]", "tags are not read"),
    "name": ("name: !!python/name:os.mkdir", "tags are not read"),
    "custom": ("name: !mine x", "tags are not read (leave '!mine' out)"),
    "shorthand": ("%TAG ! tag:yaml.org,2002:python/\n---\nname: !name:os.mkdir x", "tags are not"),
    "laughs": (
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
        "line 2: aliases are not read",
    ),
    "itself": ("a: &a [*a]", "aliases are not read"),
    "merged": ("a: &a {x: 1}\nb: {<<: *a}", "aliases are not read"),
    "deep": ("a: " + "[" * 9000, "nested too deeply"),
    "base_60": ("a: " + ":".join(["59"] * 20_000), "a number of 59999 characters"),
    "base_60_with_a_point": ("a: " + ":".join(["59"] * 300) + ".5", "a number of 901 characters"),
    "base_16": ("a: 0x" + "f" * 5000, "a number of 5002 characters"),
    "base_8": ("a: -0" + "7" * 5000, "a number of 5001 characters"),
    "base_2": ("a: 0b" + "1" * 20_000, "a number of 20002 characters"),
    "long": ("a: '" + "x" * 1_500_000 + "'", "characters (at most 1048576)"),
}


PROGRAM = f"""
import resource, sys
from pathlib import Path
from auheat.facs import load_codebook
from auheat.landmarks.imported.matching import load_points
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {SPARE}, now + {SPARE}))
told = {{}}
for file in sorted(Path(sys.argv[2]).iterdir()):
    try:
        (load_points if sys.argv[1] == "points" else load_codebook)(file)
        told[file.name] = "read"
    except Exception as error:
        told[file.name] = f"{{type(error).__name__}}: {{error}}"
print(told)
"""


def try_all(kind: str, folder: Path) -> dict[str, str]:
    """What a process with little memory says of every file, by name."""
    command = [sys.executable, "-c", PROGRAM, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told = ast.literal_eval(done.stdout)
    assert isinstance(told, dict)
    return told


def test_a_landmark_file_is_not_believed(tmp_path):
    for name, (data, _) in POINTS.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    told = try_all("points", tmp_path)
    wanted = {name: said for name, (_, said) in POINTS.items()}
    wanted |= dict.fromkeys(("pipe.csv", "endless.csv"), "no regular file")
    assert set(told) == set(wanted)
    for name, said in wanted.items():
        assert told[name].startswith(f"StoreError: {tmp_path / name}: ")
        assert said in told[name], told[name]


@pytest.mark.slow
def test_a_codebook_is_text_and_nothing_else(tmp_path):
    for name, (text, _) in BOOKS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    told = try_all("books", tmp_path)
    wanted = {f"{name}.yaml": said for name, (_, said) in BOOKS.items()}
    wanted |= {"pipe.yaml": "no regular file", "endless.yaml": "no regular file"}
    assert set(told) == set(wanted)
    for name, said in wanted.items():
        kind = "StoreError" if said == "no regular file" else "RequestError"
        assert told[name].startswith(f"{kind}: {name}: ")
        assert said in told[name], told[name]
    assert not (tmp_path / "trap").exists()


def test_a_codebook_of_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("auheat.facs.yaml_reading.MAX_NODES", 1000)
    file = tmp_path / "wide.yaml"
    file.write_text("a:\n" + "- 1\n" * 997)
    assert "more than" not in validate_codebook(file)[0]
    file.write_text("a:\n" + "- 1\n" * 998)
    (said,) = validate_codebook(file)
    assert said == "wide.yaml: no valid YAML: line 999: more than 1000 values"


def test_long_plain_numbers_are_still_quoted_where_they_stand(tmp_path):
    file = tmp_path / "book.yaml"
    file.write_text("name: x\ntitle: t\ncitation: c\nexpressions: {fear: {required: [" + "9" * 99)
    file.write_text(file.read_text() + "]}}\n")
    with pytest.raises(AuheatError, match=r"required\[0\]: unknown AU 9{57}\.\.\."):
        load_codebook(file)


@pytest.mark.parametrize("new_form", [True, False])
def test_weights_that_would_run_code_are_refused_unrun(tmp_path, new_form):
    file, trap = tmp_path / "weights.pth", tmp_path / "trap"
    state = {"conv1.weight": torch.ones(1), "bn1.weight": Trap(trap)}
    torch.save(state, file, _use_new_zipfile_serialization=new_form)
    with pytest.raises(AuheatError, match=r"weights\.pth: no checkpoint of plain tensors"):
        load_weights(build_backbone("thin"), file)
    assert not trap.exists()


def test_a_plain_pickle_named_pth_is_refused_unrun(tmp_path):
    file, trap = tmp_path / "weights.pth", tmp_path / "trap"
    file.write_bytes(pickle.dumps(Trap(trap), protocol=2))  # torch warns of any other
    with pytest.raises(AuheatError, match="no checkpoint of plain tensors"):
        load_weights(build_backbone("thin"), file)
    assert not trap.exists()


@pytest.mark.parametrize("length", [2**63, 2**40, 10])
def test_safetensors_that_claim_too_much_are_refused(tmp_path, length):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b'{"a":' + b" " * 40)
    with pytest.raises(AuheatError, match=r"weights\.safetensors: cannot be read"):
        load_weights(build_backbone("thin"), file)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A sound store with a run, of which broken copies are made."""
    return broken_shards.make(tmp_path_factory.mktemp("sound"))


def assert_refused_or_read(told: dict[str, dict[str, list]], seconds: float = 5.0) -> None:
    """Every reader came to its end, or to one line of why not, in bounded time."""
    bad = {
        f"{kind}: {reader}": said
        for kind, readers in told.items()
        for reader, said in readers.items()
        if not said[0].startswith(("done", "AuheatError: ")) or "\n" in said[0] or said[1] > seconds
    }
    assert not bad


CAMPAIGN = pytest.mark.skipif(not FULL, reason="every way to break a store: `make faults`")


@pytest.mark.slow
def test_a_sample_of_what_may_be_wrong_is_refused_or_read_by_every_reader(sound, tmp_path):
    kinds = ["sound", *list(broken_shards.BREAKS)[5::24], "bomb / detector", "flip 1"]
    kinds += [*_list_files()[::37]]
    told = broken_shards.read_all(sound, tmp_path, kinds)
    assert list(told) == kinds
    assert {said[0] for said in told["sound"].values()} == {"done"}
    assert_refused_or_read(told)


def _list_files():
    kinds = [f"{what} at {place}" for place in broken_shards.PLACES for what in broken_shards.FILES]
    kinds.remove("folder at runs/run/evaluation.json")  # where a result is to be written
    return kinds


@CAMPAIGN
def test_content_of_strangers_shards_is_not_believed_by_any_reader(sound, tmp_path):
    kinds = list(broken_shards.BREAKS)
    told = broken_shards.read_all(sound, tmp_path, kinds)
    assert list(told) == kinds
    assert_refused_or_read(told)


@CAMPAIGN
def test_texts_that_are_one_text_many_times_are_not_loaded(sound, tmp_path):
    kinds = ["bomb / detector", "bomb label names", "bomb id x", "bomb / codebook_json"]
    told = broken_shards.read_all(sound, tmp_path, kinds)
    assert_refused_or_read(told)
    assert "names` is missing" in told["bomb label names"]["stats"][0]
    assert told["bomb id x"]["stats"][0] == "done"  # an attribute that the format does not know


@CAMPAIGN
def test_flipped_structure_is_refused_or_read_by_every_reader(sound, tmp_path):
    assert_refused_or_read(
        broken_shards.read_all(sound, tmp_path, [f"flip {i}" for i in range(250)])
    )


@CAMPAIGN
def test_nothing_but_regular_files_of_a_sane_content_is_opened(sound, tmp_path):
    assert_refused_or_read(broken_shards.read_all(sound, tmp_path, _list_files()))


def set_field(path: str, value: object):
    """A change of one field of a run's config.json."""

    def change(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        *outer, key = path.split(".")
        place = config
        for name in outer:
            place = place[name]
        place[key] = value
        (run / "config.json").write_text(json.dumps(config))

    return change


def set_first(key: str, value: object):
    """A change of the first such number in the codebook of a run's config.json."""

    def change(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        book = config["codebook"]
        cue = next(iter(book["expressions"].values()))[0]
        region = next(one for one in book["regions"] if one["au"] == cue["au"])
        (cue if key == "weight" else region["blobs"][0])[key] = value
        (run / "config.json").write_text(json.dumps(config))

    return change


def set_tensors(name: str, change):
    """A change of the tensors of a run's file."""

    def edit(run: Path) -> None:
        with safe_open(run / name, "pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(run / name)
        save_file(change(tensors), run / name, metadata)

    return edit


def optimizer_of(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [key for key in tensors if key.startswith("optimizer/")]


RUNS = {
    "image_size 30000": (set_field("settings.image_size", 30000), "image_size is '30000'"),
    "image_size 10^6": (set_field("settings.image_size", 10**6), "image_size is '1000000'"),
    "image_size 10^40": (set_field("settings.image_size", 10**40), "image_size is '1e.40'"),
    "mean NaN": (set_field("normalisation.mean", [float("nan")] * 3), "normalisation.mean"),
    "std infinite": (set_field("normalisation.std", [float("inf")] * 3), "normalisation.std"),
    "std 0": (set_field("normalisation.std", [0, 1, 1]), "normalisation.std"),
    "weight NaN": (set_field("settings.au_weight", float("nan")), "settings.au_weight"),
    "surrogate": (set_field("class_names", ["\ud800"]), "no run's settings"),
    "surrogate apart": (set_field("note", "\ud800"), "no run's settings"),
    "codebook": (set_field("codebook.regions", [[[]]]), "codebook is damaged"),
    **{
        f"{name} {value}": (set_first(name, value), "codebook is damaged")
        for name, values in {
            "weight": (0, -1, 1e308, float("inf"), float("nan")),
            "offset": ([float("inf"), 0], [1e308, 1e308], [float("nan"), 0]),
            "sigma": ([0, 0], [float("nan"), 1]),
        }.items()
        for value in values
    },
    "deep codebook": (
        lambda run: (run / "config.json").write_text('{"codebook": ' + "[" * 10**5 + "]" * 10**5),
        "no run's settings",
    ),
    "weights NaN": (
        set_tensors("best.safetensors", lambda t: {k: v * float("nan") for k, v in t.items()}),
        "has NaN or infinity",
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_strangers_run_is_refused_before_it_explains_anything(sound, tmp_path, portrait, case):
    change, message = RUNS[case]
    run = tmp_path / "run"
    shutil.copytree(sound / "runs" / "run", run)
    (run / "manifest.json").unlink()  # a stranger can write any checksums
    change(run)
    photo = tmp_path / "portrait.png"
    cv2.imwrite(str(photo), portrait[0][..., ::-1])
    with pytest.raises(StoreError, match=message) as error:
        auheat.explain(run, photo, store=sound, device="cpu", detector="mesh")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "optimizer/x/momentum_buffer": torch.ones(1)},
        lambda t: {**t, "optimizer/0/a/b": torch.ones(1)},
        lambda t: {**t, "optimizer/99999/momentum_buffer": torch.ones(1)},
        lambda t: {**t, "optimizer/-1/momentum_buffer": torch.ones(1)},
        lambda t: {**t, optimizer_of(t)[0]: torch.ones(1, 2, 3)},
        lambda t: {**t, optimizer_of(t)[0]: t[optimizer_of(t)[0]].int()},
        lambda t: {**t, optimizer_of(t)[0]: torch.zeros(0)},
    ],
)
def test_a_strangers_optimizer_state_is_refused(sound, tmp_path, change):
    store = tmp_path / "store"
    shutil.copytree(sound, store)
    set_tensors("last.safetensors", change)(store / "runs" / "run")
    set_field("settings.epochs", 2)(store / "runs" / "run")
    (store / "runs" / "run" / "manifest.json").unlink()  # else it was trained anew, and said so
    with pytest.raises(StoreError, match=r"last\.safetensors: optimizer/.* is not of this method"):
        broken_shards.train(store, "run", epochs=2)


def zeros_npz(file: Path, members: int, size: int) -> None:
    """Write an .npz of some kB that claims much more: zeros, deflated."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(members):
            archive.writestr(f"m{i}.npy", array(f"({size},)", "|u1", bytes(size)))


def test_archives_of_zeros_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("auheat.utils.npz.ROOM", 2**20)
    zeros_npz(tmp_path / "small.npz", 3, 2**16)
    assert {k: len(v) for k, v in read_npz(tmp_path / "small.npz").items()} == {
        "m0": 2**16,
        "m1": 2**16,
        "m2": 2**16,
    }
    zeros_npz(tmp_path / "bomb.npz", 40, 2**16)
    with pytest.raises(ValueError, match=r"arrays of 2621440 bytes .*np\.savez"):
        read_npz(tmp_path / "bomb.npz")
    assert list(read_npz(tmp_path / "bomb.npz", ["m7"])) == ["m7"]
    np.savez(tmp_path / "plain.npz", a=np.zeros(2**22, np.uint8))
    assert len(read_npz(tmp_path / "plain.npz")["a"]) == 2**22


def test_an_array_that_claims_more_than_its_file_is_refused_unread(tmp_path):
    (tmp_path / "a.npy").write_bytes(array("(1099511627776,)", "|u1", bytes(64)))
    with pytest.raises(StoreError, match="a: cannot be read: an array claims 1099511627776"):
        open_maps(tmp_path).take("a")


@pytest.mark.parametrize("value", [0, -1, 2**20, 10**30])
@pytest.mark.parametrize("kind", [ShardDataset, ShardStream])
def test_a_loader_refuses_sides_that_no_photo_can_have(sound, kind, value):
    with pytest.raises(RequestError, match="image_size: "):
        kind(sound / "shards" / "martinez", image_size=value)


@pytest.mark.parametrize("name", ["batch_size", "block", "window"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 10**30])
def test_a_stream_refuses_numbers_out_of_range(sound, name, value):
    with pytest.raises(RequestError, match=f"{name}: "):
        ShardStream(sound / "shards" / "martinez", **{name: value})


@pytest.mark.parametrize(
    "change",
    [
        *({"epoch": value} for value in (10**30, 2**64, 2**63, -1, True, 1.0, "1", None)),
        *({"position": value} for value in (10**30, 2**64, -1, 45, False, None)),
        *({"rows": 10**30}, {"seed": float("nan")}, {"version": None}, {"data": "\ud800"}),
    ],
)
def test_a_stream_refuses_a_strangers_state(sound, change):
    stream = ShardStream(sound / "shards" / "martinez", image_size=16, batch_size=4)
    with pytest.raises(RequestError, match="state|set_epoch"):
        stream.load_state_dict(stream.state_dict() | change)
    with pytest.raises(RequestError, match="state"):
        stream.load_state_dict(None)
    assert (stream.epoch, stream.position) == (0, 0)


@pytest.mark.parametrize("points", ["equal", "zero", "huge", "far", "one pixel", "infinite"])
def test_a_face_of_no_size_is_drawn(points):
    marks = {
        "equal": np.full((68, 2), 7.5),
        "zero": np.zeros((68, 2)),
        "huge": np.linspace(-3e38, 3e38, 136).reshape(68, 2),
        "far": np.full((68, 2), 1e6),
        "one pixel": np.random.default_rng(0).random((68, 2)),
        "infinite": np.full((68, 2), np.inf),
    }[points].astype(np.float32)
    heatmap = np.zeros((56, 56), np.float32)
    for photo in (np.zeros((60, 40, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)):
        assert draw_panel(photo, marks, heatmap, 40).shape == (40, 120, 3)
        assert draw_bare(photo.shape[:2], marks, heatmap, 40).shape == (40, 80, 3)


def run_auheat(*words: str, cwd: Path, redirect: str = "") -> subprocess.CompletedProcess[bytes]:
    command = " ".join([sys.executable, "-m", "auheat", *map(shlex.quote, words), redirect])
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, timeout=120, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2>&- >&-"])
def test_extract_ends_well_where_its_messages_cannot_be_seen(tmp_path, redirect):
    points = np.tile(15 * load_frame().mean + [20, 16], (3, 1, 1)).astype(np.float32)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((40, 40, 3), np.uint8))
    np.savez(tmp_path / "points.npz", id=np.array(["0.png", "1.png", "2.png"]), landmarks=points)
    done = run_auheat("extract", ".", "--detector", "points.npz", "--store", "store",
                      cwd=tmp_path, redirect=redirect)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert auheat.verify(tmp_path / "store").ok


@pytest.mark.slow
def test_a_reader_of_the_output_may_go_at_any_time(sound):
    done = run_auheat("stats", "--store", str(sound), cwd=sound, redirect="| head -c 5")
    assert (done.returncode, done.stdout) == (0, b"split")
    assert b"Traceback" not in done.stderr
    full = run_auheat("stats", "--store", str(sound), cwd=sound, redirect=">/dev/full")
    assert full.returncode == 1
    assert b"No space left" in full.stderr


@pytest.mark.slow
def test_names_of_photos_neither_command_a_terminal_nor_a_spreadsheet(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("=cmd|' -C calc'!A0.png", "@x.png", "a\x1b]0;owned\x07\x1b[2J.png"):
        (photos / name).write_bytes(b"no photo")
    points = np.zeros((1, 68, 2), np.float32)
    np.savez(tmp_path / "points.npz", id=np.array(["a\x1b]0;owned\x07\x1b[2J"]), landmarks=points)
    done = run_auheat("extract", "photos", "--detector", "points.npz", "--store", "store",
                      cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0
    assert b"\x1b[2J" not in done.stdout + done.stderr
    with (tmp_path / "store" / "landmarks" / "failed.csv").open(newline="") as listed:
        cells = [cell for row in csv.reader(listed) for cell in row]
    assert len(cells) == 16
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r")]
    bad = run_auheat("stats", "--store", "c\x1b[2Jd", cwd=tmp_path)
    assert bad.returncode == 1
    assert b"c\\x1b[2Jd" in bad.stderr
