"""Photo bytes against PIL, an independent reader."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from auheat.images import headers, pillow_formats
from auheat.images.decoding import FRACTIONS, decode, decode_picture, make_portable, read_bytes
from auheat.images.headers import MAX_PIXELS, UnreadableImageError, read_header

RNG = np.random.default_rng(0)
COARSE = RNG.integers(0, 255, (8, 12, 3), np.uint8)
PHOTO = Image.fromarray(COARSE).resize((120, 80), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def read_with_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


SIXTEEN = Image.fromarray(np.asarray(PHOTO)[..., 0].astype(np.uint16) * 257)
ALPHA = Image.fromarray(np.dstack([np.asarray(PHOTO), np.full((80, 120), 90, np.uint8)]))
BYTES = {
    "jpeg": encode(PHOTO, "JPEG"),
    "progressive jpeg": encode(PHOTO, "JPEG", progressive=True),
    "gray jpeg": encode(PHOTO.convert("L"), "JPEG"),
    "cmyk jpeg": encode(PHOTO.convert("CMYK"), "JPEG"),
    "png": encode(PHOTO, "PNG"),
    "gray png": encode(PHOTO.convert("L"), "PNG"),
    "16-bit png": encode(SIXTEEN, "PNG"),
    "rgba png": encode(ALPHA, "PNG"),
    "palette png": encode(PHOTO.convert("P"), "PNG"),
    "webp": encode(PHOTO, "WEBP", lossless=True),
    "tiff": encode(PHOTO, "TIFF"),
    "bmp": encode(PHOTO, "BMP"),
    "gif": encode(PHOTO.convert("P"), "GIF"),
    "ppm": encode(PHOTO, "PPM"),
    "gray pgm": encode(PHOTO.convert("L"), "PPM"),
    **({"avif": encode(PHOTO, "AVIF")} if features.check("avif") else {}),
}
VERBATIM = {"jpeg", "progressive jpeg", "gray jpeg", "png", "gray png"}


@pytest.mark.parametrize("kind", BYTES)
def test_pil_and_opencv_decode_portable_bytes_alike(kind):
    stored = make_portable(BYTES[kind])
    np.testing.assert_array_equal(decode(stored), read_with_pil(stored))
    assert read_header(stored).portable


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_are_kept_where_any_reader_agrees_on_them(kind):
    assert (make_portable(BYTES[kind]) == BYTES[kind]) == (kind in VERBATIM)
    assert make_portable(make_portable(BYTES[kind])) == make_portable(BYTES[kind])


@pytest.mark.parametrize("kind", sorted(set(BYTES) - {"16-bit png", "cmyk jpeg"}))
def test_pixels_equal_those_of_another_reader(kind):
    np.testing.assert_array_equal(decode(BYTES[kind]), read_with_pil(BYTES[kind]))


def test_sixteen_bits_are_reduced_not_cut_off():
    expected = np.asarray(PHOTO)[..., :1].repeat(3, 2)
    np.testing.assert_array_equal(decode(BYTES["16-bit png"]), expected)


def test_sixteen_bits_of_a_pixmap_are_reduced_not_cut_off():
    """P5 with a maximum of 65535 (netpbm): two bytes a pixel, the high one first."""
    gray = np.asarray(PHOTO)[..., 0]
    data = b"P5\n# made by hand\n120 80\n65535\n" + (gray.astype(">u2") * 257).tobytes()
    np.testing.assert_array_equal(decode(data), gray[..., None].repeat(3, 2))
    with pytest.raises(UnreadableImageError):
        decode(data[:-10])


def test_an_animation_is_its_first_picture():
    second = PHOTO.rotate(90)
    data = encode(PHOTO.convert("P"), "GIF", save_all=True, append_images=[second.convert("P")])
    np.testing.assert_array_equal(decode(data), read_with_pil(data))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_avif_is_stored_upright(orientation):
    """Pillow writes the turn as the format's own irot and imir, which OpenCV passes over."""
    data = encode(PHOTO, "AVIF", exif=turned(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert decode(data).shape == ((80, 120, 3) if orientation < 5 else (120, 80, 3))
    np.testing.assert_array_equal(decode(data), upright)
    np.testing.assert_array_equal(read_with_pil(make_portable(data)), upright)


def test_a_heic_is_read_with_pillow_heif():
    pillow_heif = pytest.importorskip("pillow_heif", reason="no pillow-heif here")
    out = io.BytesIO()
    pillow_heif.from_pillow(PHOTO).save(out, quality=90)
    data = out.getvalue()
    expected = np.asarray(pillow_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(read_with_pil(make_portable(data)), expected)


def test_a_kind_that_needs_a_library_says_which(monkeypatch):
    monkeypatch.setattr(pillow_formats, "list_readable", lambda: ("jpeg",))
    monkeypatch.setattr(headers, "list_readable", lambda: ("jpeg",))
    heic = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf"
    with pytest.raises(UnreadableImageError, match=r"HEIC is not read here \(pip install 'auheat"):
        decode(heic)


def test_cmyk_keeps_its_colours():
    assert np.abs(decode(BYTES["cmyk jpeg"]).astype(int) - np.asarray(PHOTO)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_rotated_photo_is_stored_upright(orientation, kind):
    data = encode(PHOTO, kind, exif=turned(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    stored = make_portable(data)
    assert decode(stored).shape == upright.shape
    assert np.abs(read_with_pil(stored).astype(int) - upright).mean() < 4
    if kind == "JPEG":
        assert (stored == data) == (orientation == 1)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png", "rgba png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_unreadable(kind, share):
    data = BYTES[kind]
    with pytest.raises(UnreadableImageError):
        decode(data[: int(len(data) * share)])


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(BYTES["png"])
    data[len(data) // 2] ^= 4
    with pytest.raises(UnreadableImageError, match="damaged: PNG"):
        decode(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"no photo at all", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"]
)
def test_what_is_no_photo_is_unreadable(data):
    with pytest.raises(UnreadableImageError):
        make_portable(data)


def test_a_small_file_that_decodes_to_too_much_is_refused_before_decoding():
    side = 1 << 15
    assert side * side > MAX_PIXELS
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        chunks += struct.pack(">I", len(body)) + name + body + check
    with pytest.raises(UnreadableImageError, match="32768 x 32768 pixels"):
        decode(chunks)


def test_opencv_is_told_the_bound_whichever_module_loads_it_first():
    program = (
        "import auheat, cv2, numpy as np;"
        "ok, data = cv2.imencode('.bmp', np.zeros((64, 64, 3), np.uint8));"
        "side = (1 << 14).to_bytes(4, 'little');"
        "bad = data.tobytes()[:18] + side * 2 + data.tobytes()[26:];"
        "import auheat.images as i\n"
        "try: i.decode(bad)\n"
        "except i.UnreadableImageError: print('refused')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "refused\n"
    assert os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] == str(MAX_PIXELS)


def test_what_is_no_regular_file_is_unreadable(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImageError, match="no regular file"):
        read_bytes(tmp_path / "pipe.jpg")


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImageError, match="absent"):
        read_bytes(tmp_path / "gone.jpg")


def test_a_huge_file_is_refused_unread(tmp_path):
    file = tmp_path / "huge.jpg"
    with file.open("wb") as handle:
        handle.truncate(2**28 + 1)
    with pytest.raises(UnreadableImageError, match="bytes"):
        read_bytes(file)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(BYTES)), st.data())
def test_mutated_bytes_decode_or_are_unreadable_and_nothing_else(kind, draw):
    data = bytearray(BYTES[kind])
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        image = decode(bytes(data))
    except UnreadableImageError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


def ramp(width: int, height: int) -> np.ndarray:
    """An upright photo whose red tells the column and whose green the row, in percent of them."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = (np.arange(width) * 250 / width).astype(np.uint8)
    pixels[..., 1] = (np.arange(height) * 250 / height).astype(np.uint8)[:, None]
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("step", FRACTIONS)
def test_a_jpeg_at_a_fraction_shows_each_part_where_it_lies(orientation, step):
    """A pixel is the mean of its block of the whole photo, turned by Pillow; sides are odd."""
    image = Image.fromarray(ramp(203, 157))
    data = encode(image, "JPEG", quality=95, exif=turned(orientation))
    whole = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), float)
    asked = []
    picture = decode_picture(data, lambda size: asked.append(size) or step)
    assert asked == [picture.size] == [whole.shape[:2]]
    assert picture.step == step
    height, width = picture.pixels.shape[:2]
    assert (height, width) == tuple(-(-side // step) for side in whole.shape[:2])
    (left, top), (tall, wide) = picture.origin, whole.shape[:2]
    for row, column in [(0, 0), (0, width - 1), (height - 1, 0), (height // 2, width // 3)]:
        x, y = left + column * step, top + row * step
        block = whole[max(y, 0) : min(y + step, tall), max(x, 0) : min(x + step, wide)]
        assert block.size
        np.testing.assert_allclose(picture.pixels[row, column], block.mean((0, 1)), atol=3)


@pytest.mark.parametrize("kind", BYTES)
def test_what_is_no_jpeg_and_no_wish_for_a_fraction_is_decoded_whole(kind):
    whole, picture = decode(BYTES[kind]), decode_picture(BYTES[kind], lambda _: 4)
    assert picture.size == whole.shape[:2]
    assert picture.step == (4 if "jpeg" in kind else 1)
    if "jpeg" in kind:
        means = whole.reshape(20, 4, 30, 4, 3).mean((1, 3))
        assert np.abs(picture.pixels - means).mean() < 2
        picture = decode_picture(BYTES[kind], lambda _: 1)
    np.testing.assert_array_equal(picture.pixels, whole)


def test_a_damaged_jpeg_fails_at_a_fraction_as_it_does_whole():
    rng, data = np.random.default_rng(1), BYTES["progressive jpeg"] + BYTES["jpeg"]
    outcomes = set()
    for start in (BYTES["jpeg"], BYTES["progressive jpeg"], BYTES["gray jpeg"]):
        for _ in range(60):
            data = bytearray(start)
            for at in rng.integers(2, len(data), 4):
                data[at] = rng.integers(256)
            cut = bytes(data[: rng.choice([len(data), len(data) // 2])])
            said = []
            for read in (decode, lambda d: decode_picture(d, lambda _: 2)):
                try:
                    read(cut)
                    said.append("")
                except UnreadableImageError as error:
                    said.append(str(error))
            assert said[0] == said[1]
            outcomes.add(said[0])
    assert len(outcomes) > 2


def exif_block(*entries: tuple[int, int]) -> bytes:
    """An EXIF segment whose directory has these orientations, (kind, value) each."""
    rows = b"".join(
        struct.pack("<HHI", 0x0112, kind, 1) + struct.pack("<I", value) for kind, value in entries
    )
    body = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + rows + bytes(4)
    )
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "blocks",
    [
        [exif_block((3, 6)), exif_block((3, 8))],
        [exif_block((3, 6), (3, 1))],
        [exif_block((4, 6))],
        [exif_block((3, 9))],
        [exif_block((3, 6))[:-8] + bytes(8), exif_block((3, 6))],
    ],
    ids=["two blocks", "two entries", "a long", "out of range", "a broken block"],
)
def test_a_jpeg_that_readers_may_turn_differently_is_decoded_whole(blocks):
    data = BYTES["jpeg"][:2] + b"".join(blocks) + BYTES["jpeg"][2:]
    picture = decode_picture(data, lambda _: 8)
    assert picture.step == 1
    np.testing.assert_array_equal(picture.pixels, decode(data))
    assert decode_picture(data[:2] + exif_block((3, 6)) + BYTES["jpeg"][2:], lambda _: 8).step == 8
