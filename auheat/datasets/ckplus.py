"""CK+ as published: sequences of frames, the label in a file of its own."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.utils.photo_files import is_clutter
from auheat.utils.reading import open_regular

CKPLUS_LABELS = MappingProxyType(
    {
        "0": "Neutral",
        "1": "Anger",
        "2": "Contempt",
        "3": "Disgust",
        "4": "Fear",
        "5": "Happiness",
        "6": "Sadness",
        "7": "Surprise",
    }
)
"""CK+ id -> expression (Lucey et al. 2010, the set's own readme)."""


CKPLUS_IMAGES = tuple(f"last{n}{more}" for more in ("", "+neutral") for n in (3, 1, 2, 4, 5))

_FRAME = re.compile(r"(S[0-9]{3})_([0-9]{3})_([0-9]{8})(_emotion\.txt|\.png)")

_FRAMES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")

_LABELS = ("Emotion", "Emotion_labels/Emotion")

_MOST = 100  # bytes of a label file, which holds one number


def detect_ckplus(source: Path) -> str:
    """Return the folders of CK+'s frames and labels, "" where they are not together."""
    frames, labels = _find(source, _FRAMES), _find(source, _LABELS)
    return f"{frames}, {labels}" if frames and labels else ""


def _find(source: Path, places: tuple[str, ...]) -> str:
    return next((place for place in places if (source / place).is_dir()), "")


def read_ckplus(folder: Folder) -> None:
    """Read CK+: the last frames of each sequence that has a label, and its first as Neutral.

    `images` is "lastN" or "lastN+neutral". The label file is called after the peak, which is the
    last frame; persons are S005 and the like.
    """
    frames, labels = _find(folder.source, _FRAMES), _find(folder.source, _LABELS)
    if not frames or not labels:
        raise StoreError(
            f"{folder.source}: no cohn-kanade-images/ with Emotion/ (CK+ has both at its root)"
        )
    last, _, neutral = folder.images.partition("+")
    wanted = int(last.removeprefix("last"))
    sequences: dict[str, list[str]] = {}
    for path in folder.walk(frames).photos:
        home, _, name = path.rpartition("/")
        if _FRAME.fullmatch(name):
            sequences.setdefault(home, []).append(name)
        else:
            folder.dropped["photos not called as in CK+ (S005_001_00000001.png)"] += 1
    labelled = 0
    files = sorted((folder.source / labels).glob("*/*/*_emotion.txt"))
    for file in (f for f in files if not is_clutter(f.relative_to(folder.source))):
        match = _FRAME.fullmatch(file.name)
        if match is None:
            raise StoreError(f"{file}: not called as in CK+ (S005_001_00000011_emotion.txt)")
        said, label = _read_label(folder.within(file))
        person, take, number = match[1], match[2], match[3]
        home, clip = f"{frames}/{person}/{take}", f"{person}_{take}"
        peak = f"{person}_{take}_{number}.png"
        there = sequences.pop(home, [])
        # A peak that is not there is a row all the same: its photo will be called unreadable.
        run = [name for name in there if name < peak] + [peak]
        if neutral and len(run) > wanted:
            key = run[0].removesuffix(".png")
            folder.add(key, f"{home}/{run[0]}", "Neutral", "", person, "first frame", clip=clip)
        for name in run[-wanted:]:
            key = name.removesuffix(".png")
            folder.add(key, f"{home}/{name}", label, "", person, said, clip=clip)
        labelled += 1
    folder.counts = {"sequences": labelled}
    if sequences:
        folder.dropped["sequences without a label"] += len(sequences)


def _read_label(file: Path) -> tuple[str, str]:
    try:
        with open_regular(file) as stream:
            text = stream.read(_MOST).decode("utf-8-sig", "replace").strip()
        number = float(text)
        said = str(int(number)) if number.is_integer() else text
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror or 'cannot be read'}") from error
    except ValueError:
        said = text[:20]
    if said not in CKPLUS_LABELS:
        raise StoreError(f"{file}: line 1: class {said!r} is unknown (CK+ has 0 to 7)")
    return said, CKPLUS_LABELS[said]
