"""Which files of a folder are photos of the set, and which other programs, or auheat, left there.

A usual ending settles it. Any other file is opened for its first 64 bytes: 2 s for 100,000 files on
a local disk, and a message to and fro for each on a network's. So is every .png, for the mark
of auheat's own pictures.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePath
from types import MappingProxyType

from PIL import features

from auheat.records import SUFFIXES

HEAD = 64
"""How many first bytes of a file tell what it is."""


MARK = b"Software\x00auheat"
"""What every picture that auheat draws has in its first bytes, and no photo (`utils.marks`)."""


VIDEOS = frozenset(
    {
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".ogv", ".vob", ".webm", ".wmv"),
    }
)
"""File name endings, in lower case, of videos."""


REMEDIES = MappingProxyType(
    {
        "avif": "pip install 'pillow>=11.3'",
        "heic": "pip install 'auheat[heif]'",
        **dict.fromkeys((".jp2", ".jxl", ".psd", ".svg"), "convert to .png"),
        **dict.fromkeys(VIDEOS, "--dataset clips reads videos"),
    }
)
"""Kind or ending of what is not read -> what would help."""


_RAW = frozenset(
    {
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2"),
        *(".srf", ".srw", ".x3f"),
    }
)
"""Endings of cameras' raw files: TIFF by their first bytes, with a thumbnail where readers look."""


_COPY = re.compile(
    r".*(?:~|_original|\.(?:bak|backup|crdownload|download|old|orig|part|partial|swp|te?mp))",
    re.IGNORECASE | re.DOTALL,
)
"""Names that an editor, ExifTool or a download gives to a second copy or a part."""


_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@__thumb", "@sharebin"),
        *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled"),
        *("__macosx", "system volume information", "lost+found", "found.000", "_vti_cnf"),
        *("__pycache__", "node_modules", "_gsdata_", "network trash folder", "temporary items"),
    }
)

_FILES = frozenset(
    {
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("zbthumbnail.info", "picasa.ini", "icon\r"),
    }
)

HIDDEN = ".*"
"""What a hidden name is counted as that no known program has."""


_HIDDEN = frozenset(
    {
        *(".ds_store", ".appledouble", ".spotlight-v100", ".trashes", ".trash-1000", ".thumbnails"),
        *(".ipynb_checkpoints", ".git", ".stfolder", ".stversions", ".dropbox.cache", ".dvc"),
    }
)
"""Hidden names that are counted by themselves."""


_UNPACKED = re.compile(r"fer2013-(?:rows-)?[0-9a-f]{12}(?:\.part)?|frames-every-[0-9.]+s?")

_BEGINS = b'"fingerprint"'  # a manifest's first key

_PAPERS = re.compile(
    r"(?:read[_ -]?me|licen[cs]e|notice|changelog|citation|terms|copying|authors)\b.*",
    re.IGNORECASE,
)

_FTYP = re.compile(rb"....ftyp(.{4})....((?:.{4})*)", re.DOTALL)

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")

_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def split_ending(name: str) -> str:
    """Return a file name's ending in lower case, with its dot; "" for a name without one."""
    stem, dot, ending = name.rpartition(".")
    return (dot + ending).lower() if stem else ""


def is_video(name: str) -> bool:
    """Whether a file's name ends as a video's."""
    return split_ending(name) in VIDEOS


def name_kind(head: bytes) -> str:
    """Return what an image file's first bytes say that it is, "" for anything else.

    "jpeg", "png", "bmp", "gif", "tiff", "webp", "avif" or "heic". What begins with plain letters
    alone (the old portable pixmaps) is told by its ending.
    """
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "bmp"
    match = _FTYP.match(head[: int.from_bytes(head[:4], "big")])
    brands = () if match is None else (match[1], *re.findall(rb"(?s).{4}", match[2]))
    if b"avif" in brands or b"avis" in brands:
        return "avif"
    return "heic" if any(brand in _HEIC for brand in brands) else ""


@lru_cache(maxsize=1)
def list_readable() -> tuple[str, ...]:
    """Return the kinds of `name_kind` that can be decoded here: AVIF and HEIC need a library."""
    avif = find_spec("PIL.AvifImagePlugin") is not None and features.check("avif")
    more = [("avif", avif), ("heic", find_spec("pillow_heif") is not None)]
    return ("jpeg", "png", "bmp", "gif", "tiff", "webp", *(kind for kind, there in more if there))


def classify_file(path: str, name: str, marked: bool = False) -> str:
    """Return "photo", "own" for a picture that auheat drew, or "" for what is not to be read.

    The name's ending settles it, else the first bytes. Second copies and cameras' raw files are
    not read. `marked` has the bytes read in any case.
    """
    ending = split_ending(name)
    if _COPY.fullmatch(name) or ending in _RAW:
        return ""
    if ending in SUFFIXES and ending != ".png" and not marked:
        return "photo"
    head = read_head(path)
    if is_marked(head):
        return "own"
    return "photo" if ending in SUFFIXES or name_kind(head) in list_readable() else ""


def read_head(path: str) -> bytes:
    """Return the first bytes of a regular file, b"" of anything else."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe never waits
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
        try:
            return os.read(handle, HEAD) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        finally:
            os.close(handle)
    except OSError:
        return b""


def is_marked(head: bytes) -> bool:
    """Whether a file's first bytes are of a picture that auheat drew."""
    return MARK in head[:HEAD] and name_kind(head) in ("png", "jpeg")


def describe_unread(path: str) -> str:
    """Return what a file is counted as that is not read, such as `.heic (pip install ...)`."""
    ending = split_ending(path.rpartition("/")[2])
    kind = {".heif": "heic", ".hif": "heic"}.get(ending, ending.removeprefix("."))
    hint = REMEDIES.get(ending, "" if kind in list_readable() else REMEDIES.get(kind, ""))
    if ending in _RAW:
        hint = "develop them to .jpg"
    return (ending or "without an ending") + (f" ({hint})" if hint else "")


def is_paper(name: str) -> bool:
    """Whether a file goes with every set, such as README.txt or LICENSE: no photo is missed."""
    return _PAPERS.fullmatch(name) is not None


def name_clutter(name: str) -> str:
    """Return what a name of another program is counted as, "" for a name of the set.

    All hidden names are: those of macOS, Synology, Syncthing, Git, Jupyter and their like.
    """
    low = name.casefold()
    if low in _FOLDERS or low in _FILES:
        return name.strip()
    if low.startswith("._"):
        return "._*"
    if low.startswith("."):
        return name if low in _HIDDEN else HIDDEN
    return "~$*" if low.startswith("~$") else ""


def is_clutter(path: PurePath) -> bool:
    """Whether a part of a relative path is another program's name."""
    return any(map(name_clutter, path.parts))


def is_store(folder: Path) -> bool:
    """Whether a folder holds landmarks/ or shards/NAME/ that auheat wrote, by their manifests."""
    shards = folder / "shards"
    homes = [folder / "landmarks", *(shards.glob("*/") if shards.is_dir() else ())]
    names = ("manifest.json", "manifest.backup.json")
    return any(_BEGINS in read_head(str(home / name)) for home in homes for name in names)


def is_store_part(folder: Path) -> bool:
    """Whether a folder of a store is auheat's own, so that photos beside it are the set's."""
    if folder.name == "photos":
        return all(_UNPACKED.fullmatch(inner.name) for inner in folder.iterdir())
    return folder.name in ("landmarks", "shards", "runs")
