"""Which clip a photo is a frame of, where only paths say so, and each Nth frame of a clip.

Frames are known by folders of numbered photos, as in Oulu-CASIA, DISFA, BP4D, AFEW's faces or DFEW,
and by names, as in CK+. Neighbouring frames are nearly the same photo: without clips a validation
split would share them with training.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from auheat.datasets.generic import find_class
from auheat.datasets.layout import Folder
from auheat.datasets.persons import NEARLY_ALL, find_all, is_home
from auheat.errors import RequestError
from auheat.expressions import SPLITS
from auheat.images.videos import Step
from auheat.records import Sample
from auheat.utils.photo_files import is_video

NONE = "none"
"""What --clip-pattern is where no photo is to be taken for a frame."""


_NAMES = {
    "CK+ (S010_004_00000017)": r"(S\d{3}_\d{3})_\d{8}",
    "RAVDESS (01-01-03-01-01-01-12_0001)": r"(0[12]-0[12]-0[1-8](?:-0[12]){3}-\d\d)[^0-9]+\d+",
    "CREMA-D (1001_DFA_ANG_XX_0001)": r"(\d{4}_[A-Z]{3}_[A-Z]{3}_(?:HI|LO|MD|XX?))[^0-9]+\d+",
    "film_frame_0001": r"(.+?)[ ._-]*frame[ ._-]*\d+",
}
"""What a note calls a form of names -> the form, whose group is the clip."""


_PATTERNS = {name: re.compile(form + r"(?!\d).*", re.IGNORECASE) for name, form in _NAMES.items()}

_NUMBERED = re.compile(r"(.*?)(\d{1,12})(\D*)", re.DOTALL)

_FOLDERS = "folders of numbered frames"

_DENSE = 0.5  # share of the numbers from the first frame to the last that are there

_SAME_START = 0.5  # share of the folders that must count from the same number, as clips do


def assign_clips(folder: Folder, pattern: re.Pattern[str] | None, known: bool) -> None:
    """Set the clips of a folder's samples, and keep each Nth frame of a clip where that was asked.

    From a pattern, or by names and folders where no clip is known and `known` says that no
    published layout has settled what is a photo. Raises `AuheatError` for steps without clips.
    """
    samples = folder.samples
    if pattern is not None:
        clips, notes = find_all(pattern, "--clip-pattern", "clip", samples)
        folder.notes += [*notes, f"--clip-pattern: {len({*clips} - {''})} clips"]
    elif any(sample.clip for sample in samples) or not known:
        clips = [sample.clip for sample in samples]
    else:
        clips = _find_clips(folder)
    pairs = zip(samples, clips, strict=True)
    folder.samples = [s if s.clip == clip else replace(s, clip=clip) for s, clip in pairs]
    if folder.step is not None and not folder.stepped:
        _thin(folder, folder.step)


def _find_clips(folder: Folder) -> list[str]:
    """Return the clip of each sample, "" where nearly all photos are not frames of some."""
    paths = [sample.path for sample in folder.samples]
    homes = _find_homes(paths, folder.names)
    named = [_name_clip(path, homes) for path in paths]
    clips = [clip for _, clip in named]
    bare = clips.count("")
    count = len({*clips} - {""})
    if len(paths) - bare < NEARLY_ALL * len(paths) or not 2 <= count <= (len(paths) - bare) / 2:
        return [""] * len(paths)
    forms = sorted({form for form, clip in named if clip})
    less = f"; {bare} photos are of none" if bare else ""
    folder.notes.append(
        f"{count} clips are known by {' and '.join(forms)}{less} (--clip-pattern reads them "
        "otherwise; none: photos are no frames)"
    )
    return clips


def _name_clip(path: PurePath, homes: Mapping[str, str]) -> tuple[str, str]:
    """Return in what form a path names a clip, and the clip; ("", "") for none."""
    home = path.parent.as_posix()
    for form, pattern in _PATTERNS.items():
        if home not in homes and (match := pattern.fullmatch(path.name)):
            return f"names as in {form}", match[1]
    return (_FOLDERS, homes[home]) if home in homes else ("", "")


def _find_homes(paths: Sequence[PurePath], names: Mapping[str, str]) -> dict[str, str]:
    """Return the folders whose photos are frames of one clip: {folder: clip}, both the path.

    Their photos are called alike and numbered densely; the folder lies in a person's, or is no
    class folder and most of its like count from the same number.
    """
    inside = defaultdict[str, list[str]](list)
    for path in paths:
        inside[path.parent.as_posix()].append(path.name)
    starts = {home: _find_start(files) for home, files in inside.items() if home != "."}
    starts = {home: start for home, start in starts.items() if start is not None}
    shared = Counter(starts.values()).most_common(1)
    alike = bool(shared) and shared[0][1] >= max(2, _SAME_START * len(starts))
    homes = {}
    for home in starts:
        parts = [part for part in home.split("/") if part.casefold() not in SPLITS]
        of_person = any(map(is_home, parts[:-1]))
        is_class = bool(parts) and find_class(parts[-1:], names) >= 0
        if parts and (of_person or (alike and not is_class)):
            homes[home] = home
    return homes


def _find_start(files: Sequence[str]) -> int | None:
    """Return the first number of files that are called alike and numbered, None for others."""
    stems, endings = zip(*(name.rpartition(".")[::2] for name in files), strict=True)
    matches = [_NUMBERED.fullmatch(stem) for stem in stems]
    frame = {(m[1], m[3]) if m else None for m in matches}
    if len(files) < 2 or None in frame or len(frame) > 1 or len({*endings}) > 1:
        return None
    numbers = np.sort([int(m[2]) for m in matches if m])
    steps = np.diff(numbers)
    span = numbers[-1] - numbers[0]
    dense = steps.min() > 0 and (len(numbers) - 1) * steps.min() >= _DENSE * span
    return int(numbers[0]) if dense else None


def _thin(folder: Folder, step: Step) -> None:
    """Keep each Nth frame of every clip, counted from its first; photos of no clip stay."""
    if step.seconds:
        raise RequestError(
            f"--every: {step}: frames in folders have no times (expected a number of frames)"
        )
    rows = defaultdict[str, list[int]](list)
    for row, sample in enumerate(folder.samples):
        if sample.clip:
            rows[sample.clip].append(row)
    if not rows:
        videos = sum(is_video(path) for walk in folder.walked for path in walk.left_out)
        beside = f"; beside photos lie {videos} videos, which --dataset clips reads"
        raise RequestError(
            "--every: no photo is known to be a frame of a clip (--clip-pattern REGEX says of "
            f"which{beside if videos else ''})"
        )
    wanted = [True] * len(folder.samples)
    for own in rows.values():
        own.sort(key=lambda row: _frame_order(folder.samples[row]))
        for i, row in enumerate(own):
            wanted[row] = i % step.count == 0
    folder.notes.append(
        f"--every {step}: {sum(wanted)} of {len(wanted)} photos were taken, of {len(rows)} clips"
    )
    folder.keep(wanted)


def _frame_order(sample: Sample) -> tuple[str, list[int | str]]:
    """Return what sorts frames as they follow: numbers by value, whatever their digits."""
    parts = re.split(r"(\d+)", sample.path.name)
    numbers: list[int | str] = [int(p) if i % 2 else p for i, p in enumerate(parts)]
    return sample.path.parent.as_posix(), numbers
