"""Small films for tests, and the tests' own copy of what a display matrix is."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np


def gray(k, size=(48, 32)):
    """Frame k: flat, and 20 levels brighter than the one before."""
    return np.full((size[1], size[0], 3), 20 + 20 * (k % 11), np.uint8)


def write_film(
    file: Path, frames, codec="mpeg4", pixels="yuv420p", times=None, container=None, **settings
):
    """Write frames (H, W, 3) u8 RGB as a film of 25 frames a second, or at `times` in ms."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25 if times is None else 1000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for name, value in settings.items():
            setattr(stream, name, value)
        for k, pixels_of in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[k], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file


def write_sound(file: Path):
    """Write a file of a video's kind that has sound alone."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def turn_film(file: Path, a, b, c, d):
    """Write a display matrix into an MP4's track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(file.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
