"""Video files of one's own, or as in AFEW, RAVDESS and CREMA-D: each taken frame is a photo."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auheat.datasets.generic import (
    KNOWN_COLUMNS,
    PATH_COLUMNS,
    choose_columns,
    find_class,
    list_tables,
)
from auheat.datasets.label_files import read_label_table
from auheat.datasets.layout import Folder, find_label, to_name, to_split
from auheat.datasets.video_frames import unpack_videos
from auheat.errors import AuheatError, StoreError
from auheat.expressions import SYNONYMS
from auheat.utils.paths import find_names, is_inside_name, list_few
from auheat.utils.photo_files import VIDEOS, is_video

_OF_VIDEOS = ("video", "video_name", "video_path", "clip_name", "clip_path")
"""What a table may call the column that names videos, with their endings or without."""


_PATHS = (*PATH_COLUMNS, *_OF_VIDEOS, "clip", "name")

_SHARE = 0.95  # of the clips must be called as in a published set, for any label to be read of it

_RAVDESS = re.compile(r"0([12])-0[12]-(0[1-8])((?:-0[12]){3}-\d\d)(?!\d).*")

_RAVDESS_CLASSES = dict(
    zip(
        (f"0{k}" for k in range(1, 9)),
        ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
        strict=True,
    )
)

_CREMAD = re.compile(
    r"\d{4}_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_(?:HI|LO|MD|XX?)\..*", re.IGNORECASE
)

_CREMAD_CLASSES = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}

_AFEW = re.compile(r"(train|val|test)_afew", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Clip:
    """A video with its label, as it is and as the set has it, and where a table says so.

    `part_of` is the clip that a table says it is a part of, "" for one of its own.
    """

    path: str
    label: str
    said: str = ""
    split: str = ""
    person: str = ""
    part_of: str = ""
    file: Path | None = None
    line: int = 0


def detect_clips(source: Path) -> str:
    """Return the first video, or the table that names some; "" where there are photos, or none."""
    if source.is_file():
        table = "" if is_video(source.name) else _find_table(source)
        return source.name if is_video(source.name) else table
    if table := _find_table(source):
        return table
    if next(find_names(source), ""):
        return ""
    name = next(find_names(source, is_video), "")
    return f"videos such as {name}" if name else ""


def _find_table(source: Path) -> str:
    """Return the name of the first table that names videos, "" for none."""
    return next((file.name for file, _ in _list_tables(source)), "")


def _list_tables(source: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield tables at the root whose first row names a video, and their columns.

    In a column that is called so, the name may lack its ending.
    """
    for file in list_tables(source):
        try:
            columns = choose_columns(file, SYNONYMS, asked=True, paths=_PATHS)
            rows = read_label_table(file, columns) if columns else iter(())
            _, row = next(rows, (0, {}))
        except AuheatError:
            continue
        if columns and is_video(row.get(columns[0], "")):
            yield file, columns
        elif columns and row and columns[0] in _OF_VIDEOS:
            home = source.parent if source.is_file() else source
            if next(find_names(home, is_video), ""):
                yield file, columns


def read_clips(folder: Folder) -> None:
    """Read the frames of videos: labels by a table, by class folders, or by names.

    Raises `AuheatError` for a table that cannot be trusted, and where no video is there.
    """
    tables = list(_list_tables(folder.source))
    if len(tables) > 1:
        names = list_few([file.name for file, _ in tables])
        raise StoreError(f"{folder.source}: {names} name videos (give the one that is meant)")
    if folder.source.is_file():
        alone = [] if tables else [folder.source.name]
        folder.move(folder.source.parent)
    else:
        alone = []
    if tables:
        clips = list(_read_table(folder, *tables[0]))
    elif alone:
        clips = [_Clip(alone[0], "")]
    else:
        clips = _read_names(folder, folder.walk(videos=True).photos)
    if not clips and not folder.dropped:
        raise StoreError(f"{folder.source}: no videos ({', '.join(sorted(VIDEOS))} are read)")
    if folder.most_clips is not None and folder.most_clips < len(clips):
        most = folder.most_clips
        folder.notes.append(f"--limit: {most} of {len(clips)} videos were read, spread over them")
        clips = [clips[i * len(clips) // most] for i in range(most)]
    if clips and not any((folder.base / clip.path).exists() for clip in clips):
        raise StoreError(
            f"{folder.source}: none of the {len(clips)} videos listed is there: the first is "
            f"looked for at {folder.base / clips[0].path} (paths are relative to {folder.base})"
        )
    files = unpack_videos(folder, list(dict.fromkeys(clip.path for clip in clips)))
    for clip in clips:
        for name in files[clip.path] or ["000000.jpg"]:  # an absent one is a row that says so
            folder.add(
                f"{clip.path}#{name.partition('.')[0]}",
                f"{clip.path}/{name}",
                clip.label,
                clip.split,
                clip.person,
                clip.said,
                file=clip.file,
                line=clip.line,
                clip=clip.part_of or clip.path,
            )


def _read_table(folder: Folder, file: Path, columns: tuple[str, str]) -> Iterator[_Clip]:
    """Yield the clips of a table; videos that none of its rows names are counted."""
    at_path, at_label = columns
    videos, named = folder.walk(videos=True).photos, set[str]()
    places = defaultdict[str, list[str]](list)
    for path in videos:
        stem = path.rpartition(".")[0]
        for name in {path.rpartition("/")[2], stem, stem.rpartition("/")[2]}:
            places[name].append(path)
    for line, row in read_label_table(folder.within(file), columns, KNOWN_COLUMNS):
        where, name, said = f"{file}: line {line}", row[at_path], row[at_label]
        if not is_inside_name(name):
            raise StoreError(
                f"{where}: {name!r} is not a path inside {folder.base} (expected a relative one "
                "with /)"
            )
        path = PurePosixPath(name).as_posix()
        if not (folder.base / path).is_file():
            path = _find_place(places.get(path, []), path, where)
        named.add(path)
        label = to_name(said, where, folder.names) if said else ""
        split = to_split(row.get("split", ""), where)
        more = row.get("person", ""), row.get("clip", "")
        yield _Clip(path, label, said, split, *more, file, line)
    rest = [path for path in videos if path not in named]
    if rest:
        folder.notes.append(
            f"{len(rest)} videos on disk are named by no row, and were left out: {list_few(rest)}"
        )


def _find_place(places: Sequence[str], name: str, where: str) -> str:
    """Return the path of a video that a table names by its last part, or without its ending.

    Raises `AuheatError` for a name of several, and of what is no video.
    """
    if len(places) > 1:
        raise StoreError(f"{where}: {name!r} is {list_few(places)} (write which, with its ending)")
    if not places and not is_video(name):
        raise StoreError(
            f"{where}: {name!r} is no video (photos and videos are extracted apart; auheat merge "
            "joins the stores)"
        )
    return places[0] if places else name


def _read_names(folder: Folder, paths: Sequence[str]) -> list[_Clip]:
    """Return clips by their class folders, or the names of published sets; others have no label."""
    clips = []
    for path in paths:
        parts = path.split("/")
        k = find_class(parts[:-1], folder.names)
        said = parts[k] if k >= 0 else ""
        clips.append(
            _Clip(path, find_label(said, folder.names) if said else "", said, _find_split(parts))
        )
    bare = [clip.path for clip in clips if not clip.label]
    if len(bare) == len(clips):
        return _read_codes(folder, clips)
    if bare:
        folder.notes.append(
            f"{len(bare)} videos lie in no class folder, and have no label: {list_few(bare)}"
        )
    return clips


def _find_split(parts: Sequence[str]) -> str:
    """Return the split of AFEW's folders, Train_AFEW/ and the like; "" for others."""
    found = (match[1].casefold() for part in parts[:-1] if (match := _AFEW.fullmatch(part)))
    return next(found, "")


def _read_codes(folder: Folder, clips: Sequence[_Clip]) -> list[_Clip]:
    """Return clips with the labels that their names have as in RAVDESS or CREMA-D, if they do."""
    forms = {
        "RAVDESS (01-01-03-01-01-01-12)": (_RAVDESS, 2, _RAVDESS_CLASSES),
        "CREMA-D (1001_DFA_ANG_XX)": (_CREMAD, 1, _CREMAD_CLASSES),
    }
    names = [clip.path.rpartition("/")[2] for clip in clips]
    for form, (pattern, group, classes) in forms.items():
        matches = [pattern.fullmatch(name) for name in names]
        if sum(map(bool, matches)) < _SHARE * len(clips):
            continue
        whole = {(m[2], m[3]) for m in matches if m and pattern is _RAVDESS and m[1] == "1"}
        chosen = list[_Clip]()
        for clip, match in zip(clips, matches, strict=True):
            code = match[group].upper() if match else ""
            said = classes.get(code, "")
            label = folder.names.get(code) or find_label(said, folder.names) if said else ""
            if said and not label:
                advice = f"--labels with the line `{said}: Neutral`, or another class, keeps them"
                folder.dropped[f"videos of class {said} ({advice})"] += 1
            elif (
                match and pattern is _RAVDESS and match[1] == "2" and (match[2], match[3]) in whole
            ):
                folder.dropped["videos without sound of takes that are there with it"] += 1
            else:
                chosen.append(_Clip(clip.path, label, said, clip.split))
        odd = [clip.path for clip, match in zip(clips, matches, strict=True) if not match]
        more = f"; {len(odd)} videos are called otherwise, and have no label" if odd else ""
        folder.notes.append(f"labels are those in names as in {form}{more}")
        return chosen
    homes = Counter(clip.path.split("/")[-2] for clip in clips if "/" in clip.path)
    if len(homes) > 1:
        folder.notes.append(
            f"no video has a label; if the folders {list_few(list(homes))} are classes, say what "
            "they mean in a file for --labels"
        )
    return list(clips)
