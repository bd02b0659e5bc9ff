"""Video files: their frames as photo bytes, one after another (PyAV).

One frame is in memory at a time, whatever the film's length. Frames come as a player shows them:
turned as the file says, with square pixels. A film that breaks off gives the frames before, and
those behind a damaged part.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from auheat.errors import MissingExtraError, RequestError
from auheat.images.decoding import encode_like
from auheat.images.headers import MAX_PIXELS, UnreadableImageError
from auheat.records import Array

_JPEG = b"\xff\xd8"

# Containers alone: a playlist or a script of FFmpeg's, whatever it is called, would open others.
_OPTIONS = {
    "format_whitelist": "mov,avi,matroska,mpeg,mpegts,mpegvideo,asf,flv,ogg",
    "protocol_whitelist": "file",
}

_WHOLE = 0.9
"""Share of the frames, or the time, that a file says it has, below which it has broken off."""


_WIDEST = 8  # a pixel's greatest width or height, in those of a square one

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Step:
    """How often a frame is taken: every `count`-th, or where `seconds` is not 0, one in so many."""

    count: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:g}s" if self.seconds else str(self.count)


def parse_step(every: int | str | None) -> Step | None:
    """Return how often a frame is taken: of 5 or "5" every fifth, of "0.5s" one in half a second.

    None stays None. Raises `RequestError` for what is neither.
    """
    if every is None:
        return None
    text = str(every).strip()
    match = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d{1,6})?|\.\d{1,6})s", text, re.ASCII)
    if match and match[1] and int(text):
        return Step(int(text))
    if match and match[2] and float(match[2]):
        return Step(seconds=float(match[2]))
    raise RequestError(f"--every: {text!r} (expected a number of frames, 1 or more, or 0.5s)")


@dataclass(slots=True)
class VideoLog:
    """What reading a video found: frames `decoded`, `faults` that lost some, and `remarks`."""

    decoded: int = 0
    faults: list[str] = field(default_factory=list)
    remarks: set[str] = field(default_factory=set)


def load_library() -> Any:
    """Return PyAV; raises `MissingExtraError`."""
    try:
        return import_module("av")
    except ImportError as error:
        raise MissingExtraError(
            'videos: PyAV is not installed (pip install "auheat[video]")'
        ) from error


def read_frames(file: Path, step: Step, log: VideoLog) -> Generator[tuple[int, bytes], None, None]:
    """Yield number, counted from 0, and bytes of every frame that is wanted of a video.

    They are JPEG of quality 95 without chroma subsampling, or PNG where the film was coded without
    loss. What goes wrong is noted in `log`. Raises `MissingExtraError`.
    """
    av = load_library()
    try:
        # metadata of any coding: a title that is no UTF-8 is no reason to lose a film
        container = av.open(os.path.realpath(file), options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        log.faults.append(f"cannot be opened ({error.strerror})")
        return
    with container:
        stream = _choose_stream(av, container, log)
        if stream is None:
            return
        wide, begin = _pixel_shape(stream, log), b"" if _is_lossless(av, stream) else _JPEG
        first, last, due = math.nan, 0.0, 0
        for frame in _decode(av, container, stream, log):
            number = log.decoded
            log.decoded += 1
            time = number * _frame_time(stream) if frame.time is None else frame.time
            first = time if math.isnan(first) else first
            last = time - first
            if step.seconds:
                wanted = last >= due * step.seconds - 1e-6
                due = max(due, int(last / step.seconds + 1e-6) + 1) if wanted else due
            else:
                wanted = number % step.count == 0
            if not wanted:
                continue
            try:
                data = encode_like(begin, _straighten(av, frame, wide, log))
            except (av.FFmpegError, UnreadableImageError, ValueError, cv2.error) as error:
                log.faults.append(f"frame {number} cannot be shown ({error})")
            else:
                yield number, data
        _check_whole(stream, container, last + _frame_time(stream), log)


def _choose_stream(av: Any, container: Any, log: VideoLog) -> Any:
    """Return the film of a file, None where it has none that can be decoded."""
    cover = av.stream.Disposition.attached_pic
    films = [s for s in container.streams.video if not s.disposition & cover]
    if not films:
        sound = "sound alone" if container.streams.audio else "no pictures"
        log.faults.append(f"no film in it ({sound})")
        return None
    if len(films) > 1:
        log.remarks.add("have several films, of which the first was read")
    stream = films[0]
    if stream.codec_context is None:
        log.faults.append("no decoder for it")
        return None
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        log.faults.append("too many pixels")
        return None
    stream.codec_context.thread_count = 1  # of a damaged film, threads would show it each time anew
    return stream


def _decode(av: Any, container: Any, stream: Any, log: VideoLog) -> Iterator[Any]:
    """Yield the frames of a film in order; packets that cannot be decoded are passed over."""
    damaged, packets = 0, container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError as error:
            log.faults.append(f"breaks off after {log.decoded} frames ({error.strerror})")
            packet = None  # what the decoder still holds
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            damaged, frames = damaged + 1, ()
        for frame in frames:
            if frame.is_corrupt or frame.width * frame.height > MAX_PIXELS:
                damaged += 1
            else:
                yield frame
        if packet is None:
            break
    if damaged:
        log.faults.append(f"damaged frames: {damaged}")


def _is_lossless(av: Any, stream: Any) -> bool:
    kinds = av.codec.codec.Properties
    return not stream.codec_context.codec.properties & kinds.LOSSY.value


def _frame_time(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.0


def _pixel_shape(stream: Any, log: VideoLog) -> Fraction:
    """Return how wide a pixel is for its height."""
    shape = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 0
    if not Fraction(1, _WIDEST) <= shape <= _WIDEST or shape == 1:
        return Fraction(1)
    log.remarks.add("have pixels that are not square, and were stretched as players do")
    return Fraction(shape)


def _straighten(av: Any, frame: Any, wide: Fraction, log: VideoLog) -> Array:
    """Return a frame's RGB pixels (H, W, 3) u8 as it is to be seen."""
    image: Array = frame.to_ndarray(format="rgb24")
    if wide != 1:
        height, width = image.shape[:2]
        size = (round(width * wide), height) if wide > 1 else (width, round(height / wide))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    kind = av.sidedata.sidedata.Type.DISPLAYMATRIX
    for data in frame.side_data:
        if data.type == kind:
            a, b, _, c, d = np.frombuffer(bytes(data), "=i4")[:5].tolist()
            log.remarks.update({"are turned, as their files say"} if (a, b, c, d) != _AS_IS else ())
            image = _turn(image, a, b, c, d)
    return np.ascontiguousarray(image)


_AS_IS = (65536, 0, 0, 65536)
"""A display matrix that turns nothing: right stays right (a, b), and down stays down (c, d)."""


def _turn(image: Array, a: int, b: int, c: int, d: int) -> Array:
    """Turn an image (H, W, 3) so that its right points to (a, b), and its down to (c, d)."""
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    image = image[:, ::-1] if a < 0 else image
    return image[::-1] if d < 0 else image


def _check_whole(stream: Any, container: Any, lasts: float, log: VideoLog) -> None:
    """Note where a film has less time, or fewer frames, than its file says.

    Time goes first: of a film that was trimmed without coding it anew, the file counts all frames.
    """
    time = _said_time(stream, container)
    missing = lasts < _WHOLE * time if time else log.decoded < _WHOLE * stream.frames
    if not log.decoded:
        log.faults += [] if log.faults else ["no frame in it"]
    elif missing and not any(fault.startswith("breaks off") for fault in log.faults):
        rest = f"{lasts:.1f} of {time:.1f} s" if time else f"of {stream.frames}"
        log.faults.append(f"breaks off after {log.decoded} frames ({rest})")


def _said_time(stream: Any, container: Any) -> float:
    """Return how many seconds a film has by its file, 0 where that says nothing of it."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if match := _CLOCK.match(stream.metadata.get("DURATION", "")):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    alone = container.duration and len(container.streams) == 1
    return container.duration / 1e6 if alone else 0.0
