"""Changes of bytes for the fuzzer: any bytes, and each kind of file by what is in it.

A change is a function (random source, bytes) -> bytes, and `changes_of` says which fit a file. One
that cannot be made (the file is no longer what its name says) raises any error.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import mutants
import numpy as np
import yaml
from mutants import flip

Change = Callable[[random.Random, bytes], bytes]

CELLS = (
    *("", " ", "0", "-1", "nan", "-inf", "1e38", "1e400", "-0.0", "9" * 25, "9" * 5000, "1_000"),
    *("2147483648", "18446744073709551616", "0x10", "٣", "½", "1,5", "True", "None", "null", "~"),
    *("\0", "\ufeff", "../../x", "/etc/passwd", "a" * 300, "a/" * 3000, "\x1b[2J", '"', "'", "\\"),
    *("=1+1", "e\u0301", "\u2028", "\u202e", "..", "/", "\r", "-", "#", "[", "{", "&a", "*a", "%s"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 0.5, 1e308, float("nan"), float("inf"), 10**30, -(2**63)),
    *(2**31, "", "x", "x" * 5000, "\ud800", "\0", "../..", "[]", [], {}, [[]], [None], {"": 0}),
    *([1] * 5000, ["a", "a"], {"a": {"a": {}}}, "nan", "1", [0.5, "x"]),
)
BYTES = (b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\n", b"\r\n", b"\x1a", b",", b'"')
KINDS = ("?", "u1", "i1", "i8", "u8", "f2", "f4", "f8", "c8", "S3", "U3", "M8[s]", "V4", "O")
NUMBERS = (
    0,
    1,
    -1,
    255,
    2**31 - 1,
    -(2**31),
    2**62,
    np.nan,
    np.inf,
    -np.inf,
    1e38,
    1e300,
    1e-38,
    0.5,
)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def remove(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 8, 40, 300)) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    at, n = rng.randrange(len(data)), rng.choice((1, 8, 40, 400))
    return data[: at + n] + data[at : at + n] * rng.choice((1, 30)) + data[at + n :]


def insert(rng: random.Random, data: bytes) -> bytes:
    at, some = rng.randrange(len(data) + 1), rng.choice(BYTES) * rng.choice((1, 1, 4, 900))
    return data[:at] + some + data[at + len(some) * rng.randrange(2) :]


def move(rng: random.Random, data: bytes) -> bytes:
    a, b, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 8, 60))
    return data[:a] + data[b : b + n] + data[a + n :]


def number(rng: random.Random, data: bytes) -> bytes:
    """Put a number that lies in any four or eight bytes."""
    at, form = rng.randrange(max(1, len(data) - 8)), rng.choice(("<I", ">I", "<Q", ">Q", "<d"))
    value = rng.choice((0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def empty(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\n", b"\0", b"\xef\xbb\xbf", data[:1]))


def encode(rng: random.Random, data: bytes) -> bytes:
    text = data.decode()
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp037", "utf-7", "utf-16-le")))


def lines(rng: random.Random, data: bytes) -> bytes:
    rows = data.splitlines(keepends=True)
    at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    action = rng.randrange(7)
    if action == 0:
        del rows[at]
    elif action == 1:
        rows.insert(at, rows[other])
    elif action == 2:
        rows[at], rows[other] = rows[other], rows[at]
    elif action == 3:
        rows.insert(at, rng.choice((b"\n", b" \n", b",,,\n", b"#\n", b"\t\n", b"\r", b"\0\n")))
    elif action == 4:
        rows[at] = rows[at].rstrip(b"\r\n")
    elif action == 5:
        rows[at] = rows[at] * rng.choice((2, 300))
    else:
        rows = [row.rstrip(b"\r\n") + rng.choice((b"\r", b"\r\n")) for row in rows]
    return b"".join(rows)


def cells(rng: random.Random, data: bytes) -> bytes:
    """Replace, drop, double or swap cells of a line, whatever divides them."""
    text = data.decode().splitlines(keepends=True)
    at = rng.randrange(len(text))
    parts = re.split(r"([,;\t :]+)", text[at])
    for _ in range(rng.choice((1, 1, 3))):
        k = rng.randrange(len(parts))
        other = rng.choice(re.split(r"([,;\t :]+)", rng.choice(text)))
        parts[k] = rng.choice((rng.choice(CELLS), rng.choice(CELLS), "", parts[k] * 2, other))
    text[at] = "".join(parts)
    return "".join(text).encode("utf-8", "surrogatepass")


def change_tree(rng: random.Random, tree: Any) -> Any:
    """Replace, delete, add or nest at a place of a tree of dicts and lists; the root too."""
    holders: list[tuple[Any, Any]] = []

    def gather(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            holders.append((node, key))
            if isinstance(node[key], dict | list):
                gather(node[key])

    if isinstance(tree, dict | list):
        gather(tree)
    if not holders or rng.random() < 0.02:
        return rng.choice(VALUES)
    if rng.random() < 0.5:  # one of the few upper places, not of many equal rows
        holders = holders[:40]
    node, key = rng.choice(holders)
    action = rng.randrange(8)
    if isinstance(node[key], str) and node[key][:1] in ("{", "[") and rng.random() < 0.7:
        node[key] = json.dumps(change_tree(rng, json.loads(node[key])))
    elif action < 4:
        node[key] = rng.choice(VALUES)
    elif action == 4:
        del node[key]
    elif action == 5:
        other, there = rng.choice(holders)
        node[key] = json.loads(json.dumps(other[there]))
    elif action == 6:
        node[key] = rng.choice(([node[key]], {"a": node[key]}, str(node[key]), [node[key]] * 2))
    elif isinstance(node, dict):
        node[rng.choice(("", "x", "\ud800", f"{key} ", "a" * 300))] = node[key]
    else:
        node.append(node[key])
    return tree


def change_json(rng: random.Random, data: bytes) -> bytes:
    return json.dumps(change_tree(rng, json.loads(data))).encode()


def deepen(rng: random.Random, data: bytes) -> bytes:
    """Put brackets, or a number, without end where a value is."""
    places = [m.end() for m in re.finditer(rb"[:\[,]\s*", data)]
    n, at = rng.choice((30, 1000, 100_000)), rng.choice(places or [0])
    return data[:at] + rng.choice((b"[" * n + b"]" * n, b"9" * n, b'{"a":' * n)) + data[at:]


def change_json_line(rng: random.Random, data: bytes) -> bytes:
    rows = data.splitlines()
    at = rng.randrange(len(rows))
    rows[at] = change_json(rng, rows[at])
    return b"\n".join(rows) + b"\n"


def change_yaml(rng: random.Random, data: bytes) -> bytes:
    tree = change_tree(rng, yaml.safe_load(data))
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")


def change_array(rng: random.Random, array: Any) -> Any:
    """Another kind, shape or value of an array."""
    action = rng.randrange(6)
    if action == 0:
        return array.astype(rng.choice(KINDS[:11]))
    if action == 1:
        return rng.choice((array[None], array[:-1], array[:0], array.ravel(), array[..., :0]))
    if action == 2:
        return rng.choice((array.T, array.ravel()[:1], np.concatenate([array] * 2), array[::-1]))
    if action == 3:
        return np.zeros(array.shape, rng.choice(KINDS[:13]))
    out = array.copy()
    where = rng.randrange(out.size) if action == 4 else slice(None)
    if out.dtype.kind in "SUO":
        out.flat[where] = rng.choice(("", "a", "\0", "é", "\ud800", "../x", out.flat[0]))
    else:
        with np.errstate(all="ignore"):
            out.flat[where] = np.asarray(rng.choice(NUMBERS)).astype(out.dtype)
    return out


def change_npy(rng: random.Random, data: bytes) -> bytes:
    out = io.BytesIO()
    np.save(out, change_array(rng, np.load(io.BytesIO(data))))
    return out.getvalue()


def change_header(rng: random.Random, data: bytes) -> bytes:
    """Lie in the header of an .npy, whose length is kept."""
    end = 10 + struct.unpack("<H", data[8:10])[0]
    head = data[10:end].decode()
    lies = (
        *((r"\(.*\)", f"({rng.choice((0, -1, 3, 2**40, 2**62, 2**64))}, {rng.choice((1, 68))})"),),
        *((r"'descr': [^,]*", f"'descr': '{rng.choice(KINDS)}'"), (r"\(.*\)", "()"), ("F", "")),
        *(("False", "True"), ("'shape'", "'s'"), (r"\{", "{" * 9), (r"\(.*\)", "(1.5,)")),
    )
    pattern, text = rng.choice(lies)
    new = re.sub(pattern, lambda _: text, head).rstrip().encode()
    new = new.ljust(-(-(len(new) + 11) // 64) * 64 - 11) + b"\n"
    return data[:8] + struct.pack("<H", len(new)) + new + data[end:]


def change_member(rng: random.Random, data: bytes) -> bytes:
    """Change, drop, double or rename a member of an .npz, or the kind of its packing."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(members))
    name, body = members[at]
    action = rng.randrange(8)
    if action < 4:
        body = rng.choice((change_npy, change_npy, change_header, *ANY))(rng, body)
        members[at] = (name, body)
    elif action == 4:
        del members[at]
    elif action == 5:
        members[at] = (rng.choice(members)[0], body)
    elif action == 6:
        members[at] = (rng.choice(("", "x.npy", "../x.npy", "a" * 300, name[:-4], "é.npy")), body)
    else:
        members.append((rng.choice(("x.npy", "x", "x/")), rng.choice((body, b""))))
    out, names = io.BytesIO(), set()
    with zipfile.ZipFile(out, "w", rng.choice((0, 0, 8, 12, 14))) as archive:
        for key, value in members:
            if key not in names:
                archive.writestr(key, value)
            names.add(key)
    return out.getvalue()


def change_zip_entry(rng: random.Random, data: bytes) -> bytes:
    """Lie in the central directory of a zip."""
    at = rng.choice([m.start() for m in re.finditer(b"PK\x01\x02", data)]) + rng.randrange(4, 46)
    return data[:at] + bytes([rng.choice((0, 1, 8, 99, 255))]) + data[at + 1 :]


def change_tensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header of a .safetensors, the metadata in it included, or its numbers."""
    (n,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        value = struct.pack("<f", rng.choice((np.nan, np.inf, 1e38, 0.0, -1e30)))
        at = 8 + n + 4 * rng.randrange((len(data) - 8 - n) // 4)
        many = rng.choice((1, 1, 64))
        return data[:at] + value * many + data[at + 4 * many :]
    head = json.loads(data[8 : 8 + n])
    if rng.random() < 0.5 and "__metadata__" in head:
        inner = head["__metadata__"]
        key = rng.choice(sorted(inner))
        inner[key] = json.dumps(change_tree(rng, json.loads(inner[key])))
    else:
        head = change_tree(rng, head)
    new = json.dumps(head).encode()
    return struct.pack("<Q", len(new)) + new + data[8 + n :]


def change_h5(rng: random.Random, data: bytes) -> bytes:
    """Change datasets and attributes of an HDF5 file by h5py's own means."""
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        name = rng.choice(sorted(file))
        if rng.random() < 0.4:
            _change_attribute(rng, file if rng.random() < 0.5 else file[name])
        else:
            _change_dataset(rng, file, name)
    return stream.getvalue()


def _change_attribute(rng: random.Random, node: Any) -> None:
    own = node.attrs
    key = rng.choice(sorted(own) or ["x"])
    old = own.get(key)
    if rng.random() < 0.2:
        del own[key]
        return
    new = rng.choice(
        (
            *(
                "",
                "x",
                "\x1b[2J",
                7,
                -1,
                2**62,
                0.5,
                np.nan,
                1j,
                np.zeros(3),
                np.zeros((2, 2), "u1"),
            ),
            *(h5py.Empty("S1"), h5py.Empty("f4"), np.bytes_(b"\xff"), np.array([b"a", b"\xff"])),
            *("[]", "{}", "[" * 5000, "null", "x" * 60_000, old, [old, old], np.zeros(0), True),
            *(np.zeros(2, [("a", "u1"), ("b", "f4")]), np.array(["a", "a"], object)),
        )
    )
    if isinstance(old, str) and old[:1] in ("[", "{") and rng.random() < 0.6:
        new = json.dumps(change_tree(rng, json.loads(old)))
    kind = h5py.string_dtype() if isinstance(new, np.ndarray) and new.dtype == object else None
    if key in own:
        del own[key]
    own.create(rng.choice((key, key, key, "x")), new, dtype=kind)


def _change_dataset(rng: random.Random, file: Any, name: str) -> None:
    old = file[name]
    action, own, values = rng.randrange(10), dict(old.attrs), None
    if action == 0:
        del file[name]
    elif action == 1:
        file.move(name, rng.choice((name + "x", "x", "a" * 300, "g/x")))
    elif action == 2:
        del file[name]
        link = (h5py.SoftLink("/" + name), h5py.SoftLink("/id"), h5py.ExternalLink("x.h5", "/id"))
        file[name] = rng.choice(link)
    elif action == 3:
        other = rng.choice(sorted(file))
        values = file[other][...]
    elif action == 4:
        del file[name]
        file.create_group(name)
    elif action == 5:
        rows = rng.choice((0, 1, 12, 2**20, 2**31, 2**40))
        shape = (rows, *old.shape[1:])
        del file[name]
        file.create_dataset(name, shape, old.dtype, chunks=rng.choice((None, True)) and True)
    elif action == 6 and old.dtype.kind in "SO":
        at = rng.randrange(len(old))
        old[at] = rng.choice((b"", b"\xff", b"\0", b"../x", b"\x1b[2J", old[0], b"a", b"\xe2\x80"))
    else:
        values = change_array(rng, old[...])
    if values is not None:
        del file[name]
        file.create_dataset(name, data=values)
        for key, value in own.items():
            file[name].attrs[key] = value


def change_photo(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(mutants.CHANGES)(rng, data) or b"\0"


ANY: tuple[Change, ...] = (flip, cut, remove, repeat, insert, move, number, empty)
TEXT: tuple[Change, ...] = (lines, lines, cells, cells, cells, cells, encode, insert, move, cut)
JSON: tuple[Change, ...] = (change_json, change_json, change_json, change_json, deepen, cells)
NPZ: tuple[Change, ...] = (change_member, change_member, change_member, change_zip_entry)
PHOTO: tuple[Change, ...] = (change_photo, change_photo, change_photo)
OF_ENDING: dict[str, tuple[Change, ...]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".lst", ".pts"), TEXT),
    **dict.fromkeys((".yaml", ".yml"), (change_yaml, change_yaml, change_yaml, *TEXT, deepen)),
    **dict.fromkeys((".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp"), PHOTO),
    ".json": JSON,
    ".jsonl": (change_json_line, change_json_line, lines, cells, deepen),
    ".npy": (change_npy, change_npy, change_header),
    ".npz": NPZ,
    ".h5": (change_h5,) * 5,
    ".safetensors": (change_tensors,) * 4,
}


def changes_of(ending: str) -> tuple[Change, ...]:
    """Those that fit a file: by what is in it, and now and then any."""
    fit = OF_ENDING.get(ending, ())
    return (*fit, *fit, *ANY) if fit else ANY
