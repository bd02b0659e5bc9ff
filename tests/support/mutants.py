"""Photos that lie: small JPEG and PNG files, damaged at random or with intent, always the same.

`crafted`, `giants` and `mutants` make them, `write` puts them into a folder, and `run` has a child
process read them all, as `extract` and `render` would, and tells what became of each.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
EOI = b"\xff\xd9"
LENGTHS = (0, 1, 2, 3, 0x7FFF, 0xFFFF)
SIDES = (0, 1, 7, 8, 255, 0x7FFF, 0xFFFF)


def chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of every chunk of a sound PNG."""
    found, at = [], 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        found.append((name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def join(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG of these chunks."""
    return PNG + b"".join(chunk(*part) for part in parts)


def segments(data: bytes) -> list[int]:
    """Where the segments of a sound JPEG start, up to its first scan."""
    found, at = [], 2
    while not found or data[found[-1] + 1] != 0xDA:
        found.append(at)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return found


def find(data: bytes, *markers: int) -> int:
    """Where the first segment with one of these markers starts."""
    return next(at for at in segments(data) if data[at + 1] in markers)


def insert(data: bytes, *extra: bytes) -> bytes:
    """A JPEG or PNG with more segments or chunks before its pixels."""
    at = 2 if data[:2] == b"\xff\xd8" else 33
    return data[:at] + b"".join(extra) + data[at:]


def resize(data: bytes, height: int, width: int) -> bytes:
    """A JPEG or PNG that lies about its size."""
    if data[:8] == PNG:
        (name, head), *rest = chunks(data)
        return join([(name, struct.pack(">II", width, height) + head[8:]), *rest])
    at = find(data, 0xC0, 0xC2)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _picture(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (5, 6, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + rng.integers(-9, 9, smooth.shape), 0, 255).astype(np.uint8)


def _save(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bases() -> dict[str, bytes]:
    """Sound photos of many kinds, a few kB each."""
    photo = Image.fromarray(_picture(48, 56, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(photo)[..., 0].astype(np.uint16) * 257
    alpha = photo.copy()
    alpha.putalpha(90)
    frames = [Image.fromarray(_picture(48, 56, k)) for k in (2, 3)]
    more = {"save_all": True, "append_images": frames}
    restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
    return {
        "jpeg": _save(photo, "JPEG"),
        "progressive": _save(photo, "JPEG", progressive=True),
        "gray": _save(photo.convert("L"), "JPEG", quality=60),
        "restarts": cv2.imencode(".jpg", _picture(48, 56, 4), restarts)[1].tobytes(),
        "turned": _save(photo, "JPEG", exif=turned),
        "cmyk": _save(photo.convert("CMYK"), "JPEG"),
        "png": _save(photo, "PNG"),
        "interlaced": interlace(np.asarray(photo)),
        "palette": _save(photo.convert("P"), "PNG"),
        "alpha": _save(alpha, "PNG"),
        "deep": _save(Image.fromarray(deep), "PNG"),
        "apng": _save(photo, "PNG", **more),
        "bit": _save(photo.convert("1"), "PNG"),
        "webp": _save(photo, "WEBP"),
        "lossless webp": _save(photo, "WEBP", lossless=True),
        "animated webp": _save(photo, "WEBP", **more),
        "gif": _save(photo, "GIF", **more),
        "tiff": _save(photo, "TIFF", compression="tiff_lzw"),
        "bmp": _save(photo, "BMP"),
    }


def interlace(image: np.ndarray) -> bytes:
    """A PNG in seven passes (Adam7), which neither Pillow nor OpenCV writes."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    lines = b""
    for y, x, down, right in (*passes, (1, 0, 2, 1)):
        for row in image[y::down, x::right]:
            lines += b"\0" + row.tobytes()
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 1)
    return join([(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def _exif(entries: list[tuple[int, int, int, int]], count: int | None = None, start=8) -> bytes:
    head = b"II*\0" + struct.pack("<IH", start, len(entries) if count is None else count)
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return segment(0xE1, b"Exif\0\0" + head + body)


def _flat_png(height: int, width: int, *extra: bytes, color: int = 2) -> bytes:
    """A PNG of zeros, a thousandth of the size of its pixels."""
    pack, row = zlib.compressobj(9), bytes(1 + width * (3 if color == 2 else 1))
    packed = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")]
    return insert(join(parts), *extra)


def _scans(data: bytes, times: int, height: int = 48, width: int = 56) -> bytes:
    """A progressive JPEG whose first scans are followed by empty ones without end."""
    empty = b"\xff\xda\0\x08\x01\x01\0\x01\x05\0"
    cut = data.rindex(b"\xff\xda")
    return resize(data[:cut], height, width) + empty * times + EOI


def crafted() -> dict[str, bytes]:
    """Files made to hurt at little cost: bombs, loops, false headers, kinds few readers know."""
    base = bases()
    jpeg, progressive, png = base["jpeg"], base["progressive"], base["png"]
    sof, dht = find(jpeg, 0xC0), find(jpeg, 0xC4)
    fat = zlib.compress(bytes(8_000_000), 9)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000), 9))
    idat = dict(chunks(png))[b"IDAT"]
    head = dict(chunks(png))[b"IHDR"]
    long, wide = (65500, 3), (3, 65500)
    cycle = [(0x8769, 4, 1, 8), (0x014A, 4, 1, 8)]
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"not a photo\n" * 90,
        "only a start": b"\xff\xd8",
        "many starts": b"\xff\xd8" * 4_000_000,
        "fill bytes": b"\xff\xd8" + b"\xff" * 8_000_000,
        "fill bytes, then data": b"\xff\xd8" + b"\xff" * 100_000 + b"\0" + jpeg[2:],
        "temporary markers": b"\xff\xd8" + b"\xff\x01" * 2_000_000 + jpeg[2:],
        "restarts alone": jpeg[:-2] + b"\xff\xd0" * 2_000_000 + EOI,
        "late end": jpeg[:-40] + bytes(4_000_000) + EOI,
        "unknown marker in the scan": jpeg[:-300] + b"\xff\x22" + jpeg[-298:],
        "second image": jpeg + jpeg,
        "two frames": insert(jpeg, jpeg[sof:dht]),
        "two sizes": insert(jpeg, resize(jpeg, 9, 9)[sof:dht]),
        "arithmetic": jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "arithmetic progressive": progressive.replace(b"\xff\xc2", b"\xff\xca", 1),
        "lossless": jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "extended": jpeg.replace(b"\xff\xc0", b"\xff\xc1", 1),
        "12 bits": jpeg[: sof + 1] + b"\xc1" + jpeg[sof + 2 : sof + 4] + b"\x0c" + jpeg[sof + 5 :],
        "no tables": jpeg[:dht] + jpeg[find(jpeg, 0xDA) :],
        "two channels": jpeg[: sof + 9] + b"\x02" + jpeg[sof + 10 :],
        "tall lie": resize(jpeg, 65500, 56),
        "too huge a lie": resize(jpeg, 65500, 65500),
        "9000 empty scans": _scans(progressive, 9000),
        "500 empty scans of 9 megapixels": _scans(progressive, 500, 3000, 3000),
        "long jpeg": cv2.imencode(".jpg", np.zeros((*long, 3), np.uint8))[1].tobytes(),
        "turned long jpeg": insert(
            resize(cv2.imencode(".jpg", np.zeros((*long, 3), np.uint8))[1].tobytes(), 65535, 3),
            _exif([(0x0112, 3, 1, 3)]),
        ),
        "exif cycle": insert(jpeg, _exif(cycle)),
        "exif of 65535 entries": insert(jpeg, _exif([(1, 3, 1, 1)] * 5000, 65535)),
        "exif far away": insert(jpeg, _exif([], 1, 2**32 - 9)),
        "exif without end": insert(jpeg, _exif([(1, 3, 1, 1)] * 5000) * 300),
        "exif of a value of its own": insert(jpeg, _exif([(0x0112, 3, 1, 77)])),
        "exif twice": insert(jpeg, _exif([(0x0112, 3, 1, 1), (0x0112, 3, 1, 6)])),
        "two exif": insert(jpeg, _exif([(0x0112, 3, 1, 1)]), _exif([(0x0112, 3, 1, 8)])),
        "xmp turned": insert(jpeg, segment(0xE1, xmp)),
        "icc of no profile": insert(jpeg, segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(999))),
        "adobe rgb": insert(jpeg, segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")),
        "long png": _flat_png(*long),
        "wide png": _flat_png(*wide),
        "png of too many pixels": resize(png, 2**15, 2**15),
        "png of 2**31 columns": resize(png, 1, 2**31 - 1),
        "too much data": join([(b"IHDR", head), (b"IDAT", fat), (b"IEND", b"")]),
        "too little data": join([(b"IHDR", head), (b"IDAT", idat[:200]), (b"IEND", b"")]),
        "no data": join([(b"IHDR", head), (b"IEND", b"")]),
        "text bomb": insert(png, text),
        "900 text bombs": insert(png, text * 900),
        "profile bomb": insert(png, chunk(b"iCCP", b"a\0\0" + fat)),
        "international text bomb": insert(png, chunk(b"iTXt", b"a\0\x01\0\0\0" + fat)),
        "unknown critical": insert(png, chunk(b"ABCD", b"x")),
        "head twice": insert(png, chunk(b"IHDR", head)),
        "head missing": PNG + png[33:],
        "sBIT": insert(png, chunk(b"sBIT", b"\x05\x06\x05")),
        "cHRM": insert(png, chunk(b"cHRM", struct.pack(">8I", *[31270, 32900, 64000, 33000] * 2))),
        "sRGB": insert(png, chunk(b"sRGB", b"\0")),
        "bKGD": insert(png, chunk(b"bKGD", b"\0\xff\0\xff\0\xff")),
        "tRNS": insert(png, chunk(b"tRNS", b"\0\xff\0\xff\0\xff")),
        "cICP": insert(png, chunk(b"cICP", b"\x09\x10\0\x01")),
        "palette beside": insert(png, chunk(b"PLTE", bytes(768))),
        "bad palette": insert(png, chunk(b"PLTE", bytes(7))),
        "pHYs": insert(png, chunk(b"pHYs", b"\0\0\0\0\0\0\0\0\x01")),
        **_others(base),
    }


def _others(base: dict[str, bytes]) -> dict[str, bytes]:
    """Liars of the other kinds."""
    bmp, webp, gif = base["bmp"], base["lossless webp"], base["gif"]
    return {
        "bmp upside down": bmp[:22] + struct.pack("<i", -(2**31)) + bmp[26:],
        "webp of 268 megapixels": webp[:21] + b"\xff\xff\xff\x0f" + webp[25:],
        "gif of 4 gigapixels": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "jpeg 2000": cv2.imencode(".jp2", _picture(128, 128, 1))[1].tobytes(),
        "radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 11000 +X 11000\n" + bytes(99),
        "ppm": b"P6\n11000 11000\n255\n" + bytes(99),
        "tiff without end": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "tiff of a gigapixel": _tiff(2**15, 2**15, 1),
        "tiff of a huge tile": _tiff(9, 9, 9, [(322, 4, 1, 2**14), (323, 4, 1, 2**14)]),
    }


def _tiff(height: int, width: int, strip: int, more: list[tuple[int, ...]] | None = None) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, strip), (279, 4, 1, 40)]
    tags += more or []
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + body + bytes(300)


def giants() -> dict[str, bytes]:
    """Files that claim as much as is taken, or nearly, and take seconds to read."""
    base = bases()
    jpeg, png, bmp, gif = base["jpeg"], base["png"], base["bmp"], base["gif"]
    full = _save(Image.fromarray(_picture(48, 56, 1)), "JPEG", progressive=True, subsampling=0)
    progressive, side = base["progressive"], struct.pack("<i", 11000)
    idat, head = (dict(chunks(png))[name] for name in (b"IDAT", b"IHDR"))
    return {
        "four million segments": insert(jpeg, b"\xff\xfe\0\x02" * 4_000_000),
        "huge lie": resize(jpeg, 11585, 11585),
        "progressive lie": resize(progressive, 11000, 11000),
        "99 empty scans of 120 megapixels": _scans(progressive, 99, 11000, 11000),
        "flat png": _flat_png(11000, 11000),
        "flat gray png": _flat_png(11000, 11000, color=0),
        "huge profile": insert(png, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27), 9))),
        "data in a million parts": join(
            [(b"IHDR", head), *[(b"IDAT", b"")] * 1_000_000, (b"IDAT", idat), (b"IEND", b"")]
        ),
        "million texts": insert(png, chunk(b"tEXt", b"a\0b") * 1_000_000),
        "progressive of full colour": resize(full, 11585, 11585),
        "bmp of 121 megapixels": bmp[:18] + side * 2 + bmp[26:],
        "gif of 121 megapixels": gif[:6] + struct.pack("<HH", 11000, 11000) + gif[10:],
        "tiff of 121 megapixels": _tiff(11000, 11000, 11000),
    }


def flip(rng: random.Random, data: bytes) -> bytes:
    """Turn one to eight bits."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    at, values = rng.randrange(len(data)), (0, 0xFF, 0xD9, 0xDA, rng.randrange(256))
    return data[:at] + bytes(rng.choice(values) for _ in range(rng.choice((1, 2, 9)))) + data[at:]


def _cut(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + (EOI if rng.random() < 0.7 else b"")


def _remove(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 40, 300)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at, n = rng.randrange(len(data)), rng.choice((2, 40, 400))
    return data[: at + n] + data[at : at + n] * rng.choice((1, 30)) + data[at + n :]


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(list(_BASES.values()))
    at, start, n = rng.randrange(len(data)), rng.randrange(len(other)), rng.choice((4, 60, 900))
    return data[:at] + other[start : start + n] + data[at + n * rng.randrange(2) :]


def _lie(rng: random.Random, data: bytes) -> bytes:
    """A false size, a false length, or a part that is sound by itself and wrong where it stands."""
    if data[:2] == b"\xff\xd8":
        at = rng.choice(segments(data))
        if rng.random() < 0.4:
            return resize(data, rng.choice(SIDES), rng.choice(SIDES))
        if rng.random() < 0.5:
            return data[: at + 2] + struct.pack(">H", rng.choice(LENGTHS)) + data[at + 4 :]
        inner = at + 4 + rng.randrange(12)
        return data[:inner] + bytes([rng.randrange(256)]) + data[inner + 1 :]
    if data[:8] == PNG:
        parts = chunks(data)
        k = rng.randrange(len(parts))
        name, body = parts[k]
        changed = flip(rng, body) if body else b"\0"
        action = rng.randrange(5)
        if action == 0:
            return resize(data, rng.choice(SIDES), rng.choice(SIDES))
        if action == 1:
            return join(parts[:k] + parts[k + 1 :])
        if action == 2:
            return join([*parts[:k], (name, changed), *parts[k:]])
        if action == 3:
            return join([*parts[:k], (name, body[: rng.randrange(len(body) + 1)]), *parts[k + 1 :]])
        return join([*parts[:k], (name, changed), *parts[k + 1 :]])
    at = rng.randrange(min(64, len(data) - 4))
    return data[:at] + struct.pack("<I", rng.choice(SIDES)) + data[at + 4 :]


CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip,
    _overwrite,
    _cut,
    _remove,
    _repeat,
    _splice,
    _lie,
    _lie,
)
_BASES = bases()


def mutants(n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield n names and bytes: a sound photo each, changed once or thrice; most are JPEG or PNG."""
    rng = random.Random(seed)
    names = list(_BASES)
    common = [name for name in names if _BASES[name][:2] == b"\xff\xd8"]
    common += [name for name in names if _BASES[name][:8] == PNG]
    for i in range(n):
        name = rng.choice(common if rng.random() < 0.85 else names)
        data, said = _BASES[name], []
        for _ in range(rng.choice((1, 1, 1, 3))):
            change = rng.choice(CHANGES)
            try:
                data = change(rng, data) or b"\0"
            except (
                struct.error,
                IndexError,
                StopIteration,
                ValueError,
            ):  # no longer sound enough to lie
                data = flip(rng, data)
            said.append(change.__name__)
        yield f"{i:05} {name} {' '.join(said)}", data


def write(folder: Path, files: Iterator[tuple[str, bytes]]) -> list[Path]:
    """Write the files as .jpg, whatever they are."""
    paths = []
    for name, data in files:
        paths.append(folder / f"{name}.jpg")
        paths[-1].write_bytes(data)
    return paths


@dataclass(frozen=True)
class Told:
    """What a child process told of one file; the peak is the whole process's until then."""

    name: str
    size: list[int]
    stored: bool
    seconds: float
    peak: int


def run(folder: Path, limit: float = 5.0) -> tuple[list[Told], str]:
    """Have a child read every file of a folder; return what became of each, and its stderr.

    `limit` is processor seconds a file. Raises `AssertionError` naming the file where the child
    crashes or is too slow.
    """
    command = [sys.executable, __file__, str(folder)]
    told, name = [], "before the first file"
    with (
        tempfile.TemporaryFile("w+") as noise,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True) as child,
    ):
        assert child.stdout is not None
        watch = threading.Timer(60, child.kill)  # the imports
        watch.start()
        for line in child.stdout:
            watch.cancel()
            kind, _, rest = line.partition(" ")
            if kind == "start":
                name = rest.strip()
                watch = threading.Timer(12 * limit, child.kill)  # on a busy machine
                watch.start()
            else:
                told.append(Told(**json.loads(rest)))
        watch.cancel()
        code = child.wait()
        noise.seek(0)
        text = noise.read()
    assert code == 0, f"{name}: the reader ended with {code}: {text[-2000:]}"
    slowest = max(told, key=lambda t: t.seconds)
    assert slowest.seconds <= limit, f"{slowest.name}: {slowest.seconds:.1f} s"
    return told, text


def _read(folder: Path) -> None:
    """What the child does: everything that `extract` and `render` do with a photo."""
    from auheat.images.decoding import make_portable, read_bytes
    from auheat.images.headers import UnreadableImageError, read_header
    from auheat.pipeline.photo_loading import load_size, load_view

    cv2.setNumThreads(1)
    for file in sorted(folder.iterdir()):
        print("start", file.name, flush=True)
        started = time.process_time()
        seen, stored = load_view((file, None)), False
        assert load_size(file)[:3] == seen[:3]
        assert bool(seen.reason) == (seen.view is None)
        slower = time.process_time()
        try:
            data = make_portable(read_bytes(file)) if seen.view else b""
            if data:
                header = read_header(data)
                assert header is not None
                assert header.portable
                assert header.size == seen.size
            stored = bool(data)
        except UnreadableImageError:
            pass
        seconds = max(time.process_time() - slower, (slower - started) / 2)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            "done",
            json.dumps(
                {
                    "name": file.name,
                    "size": seen.size,
                    "stored": stored,
                    "seconds": seconds,
                    "peak": peak,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    _read(Path(sys.argv[1]))
