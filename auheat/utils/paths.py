"""Walking folders safely: photo names, links, and paths that must stay inside a root."""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.records import SUFFIXES
from auheat.utils.photo_files import (
    HIDDEN,
    classify_file,
    is_paper,
    is_store,
    is_store_part,
    is_video,
    name_clutter,
    split_ending,
)

# Absolute; a backslash or NUL; a part `..`, or begun like a drive; a last part that is none.
_LEAVES = re.compile(r"\A/|[\\\0]|(?:\A|/)(?:\.\.(?:/|\Z)|[A-Za-z]:|\.?\Z)")


def find_store(store: str | Path | None = None) -> Path:
    """Return a store's folder: the one given, else $AUHEAT_STORE, else auheat-data.

    Raises `AuheatError` as `check_store_place` does.
    """
    if store:
        return check_store_place(store, "--store")
    return check_store_place(os.environ.get("AUHEAT_STORE") or "auheat-data", "AUHEAT_STORE")


def check_store_place(path: str | Path, what: str) -> Path:
    """Return the path of a folder, or of a place for one; `~` in front is the home, as in shells.

    Raises `AuheatError` for what is no name of a folder, with `what` it was given for, and where
    something else lies there, or nobody can look.
    """
    folder = check_text_path(path, what)
    try:
        folder = folder.expanduser()
        if not stat.S_ISDIR(os.stat(folder).st_mode):  # noqa: PTH116 (raises for a loop of links)
            raise StoreError(f"{folder}: no folder (expected one, or a name that is free)")
    except AuheatError:
        raise
    except RuntimeError as error:
        raise RequestError(f"{what}: {folder}: {error} (write the whole path)") from error
    except OSError as error:
        link = os.path.islink(folder)  # noqa: PTH114 (false where nobody can look)
        if link or not isinstance(error, FileNotFoundError):
            reason = error.strerror if not isinstance(error, FileNotFoundError) else "a lost link"
            raise StoreError(f"{folder}: {reason} (expected a folder, or a free name)") from error
    return folder


def check_text_path(path: str | Path, what: str) -> Path:
    """Return a path that files can name and a line can hold; raises `AuheatError` for another.

    `what` is what the error says of it, "" where the path says enough.
    """
    text, where = os.fspath(path), f"{what}: " if what else ""
    if not text.strip() or any(unicodedata.category(c) == "Cc" for c in text):
        raise RequestError(f"{where}{text!a}: no folder (expected characters that are seen)")
    if any("\ud800" <= c <= "\udfff" for c in text):
        try:
            os.fsencode(text).decode()
        except ValueError:
            reason = "no UTF-8 (rename it)"
        else:
            reason = f"no {sys.getfilesystemencoding()}, as the locale has it (set PYTHONUTF8=1)"
        raise RequestError(f"{where}{text!a}: {reason}")
    return Path(path)


def is_plain_name(name: str) -> bool:
    """Whether a name from a label file names one file in the folder it is meant for."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0:")


def is_inside_name(name: str) -> bool:
    """Whether a relative path stays below the folder it is meant for, on any system (rule S9).

    Refused are absolute paths, `..`, backslashes, NUL, drive letters, and the folder itself.
    """
    return _LEAVES.search(name) is None


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and what is not of the set.

    That is other programs' folders (@eaDir, __MACOSX), a store of auheat, and its parts.
    """
    inside = sorted(d for d in folder.iterdir() if d.is_dir() and not name_clutter(d.name))
    if is_store(folder):
        inside = [d for d in inside if not is_store_part(d)]
    return [d for d in inside if not _is_own(d)]


def _is_own(folder: Path) -> bool:
    """Whether a folder is a store without photos beside it, or has nothing but such folders."""
    stored = is_store(folder)
    inside = list[Path]()
    with os.scandir(folder) as entries:
        for entry in entries:
            plain = entry.is_dir(follow_symlinks=False)
            if not plain and (not stored or classify_file(entry.path, entry.name) == "photo"):
                return False
            if plain and not entry.name.startswith("."):
                inside.append(Path(entry.path))
    return all(map(is_store_part if stored else _is_own, inside)) and bool(inside)


def find_names(source: Path, wanted: Callable[[str], bool] | None = None) -> Iterator[str]:
    """Yield the names of photos, or of what is `wanted`, below a folder; no links are followed."""
    for root, folders, files in os.walk(source):
        keep = {d.name for d in list_folders(Path(root))}
        folders[:] = [name for name in folders if name in keep]
        for name in files:
            if name_clutter(name):
                continue
            if wanted(name) if wanted else classify_file(f"{root}/{name}", name) == "photo":
                yield name


def holds_photo(folder: Path) -> bool:
    """Whether a photo lies in a folder itself."""
    with os.scandir(folder) as entries:
        files = (entry for entry in entries if entry.is_file() and not name_clutter(entry.name))
        return any(classify_file(f.path, f.name, marked=True) == "photo" for f in files)


class Fence:
    """Rejects paths that resolve outside a root folder; with `follow`, links may leave it.

    A folder is resolved once, however many photos are looked at in it. `hint` is what the
    error says of the option that allows it.
    """

    def __init__(self, root: Path, follow: bool, hint: str = "; --follow-links allows it") -> None:
        self.root, self.follow, self._hint = os.path.realpath(root), follow, hint
        self._start = self.root.rstrip(os.sep) + os.sep
        self._seen: set[str] = {""}

    def join(self, relative: str) -> str:
        """Return the path of something below the folder."""
        return self._start + relative if relative else self.root

    def is_inside(self, real: str) -> bool:
        """Whether a resolved path is the folder or below it."""
        return real == self.root or real.startswith(self._start)

    def check_link(self, path: str) -> str:
        """Return what a path resolves to; raises `AuheatError` where that lies outside."""
        real = os.path.realpath(path)
        if not self.follow and not self.is_inside(real):
            raise StoreError(f"{path}: a link that leaves {self.root} (to {real}{self._hint})")
        return real

    def measure(self, relative: str) -> int:
        """Return the size of a file below the folder in bytes, -1 where there is none.

        Raises `AuheatError` for a name that leaves the folder, or a link that does. A link to
        nothing is a file that is missing.
        """
        if not is_inside_name(relative):
            raise StoreError(f"{relative!r}: a path that leaves {self.root} (expected one inside)")
        parent = relative.rpartition("/")[0]
        if parent not in self._seen:
            self.check_link(self.join(parent))
            self._seen.add(parent)
        path = self.join(relative)
        try:
            about = os.lstat(path)
            if stat.S_ISLNK(about.st_mode):
                about = Path(path).stat()
                self.check_link(path)
        except AuheatError:
            raise
        except OSError:
            return -1
        return about.st_size


@dataclass(slots=True)
class PhotoWalk:
    """Photos found below a folder: `photos` relative to the fence's root, with `/`, sorted.

    `again` lists links to photos or folders that are found without them, too; `left_out` files
    that are no photos, `own` pictures that auheat drew; `clutter` counts names of other programs.
    With `videos`, what is listed as photos are video files instead.
    """

    videos: bool = False

    photos: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    clutter: Counter[str] = field(default_factory=Counter)

    def sort_file(self, name: str, path: str) -> bool:
        """Put a file where it belongs unless it is a photo; return whether it is one."""
        folder, _, last = name.rpartition("/")
        if self.videos:
            kind = "photo" if is_video(last) else ""
        else:
            kind = classify_file(path, last, marked=not folder)
        if not kind and not is_paper(last):
            self.left_out.append(name)
        elif kind == "own":
            self.own.append(name)
        return kind == "photo"


def _refuse(error: AuheatError) -> None:
    raise error


def walk_photos(
    fence: Fence,
    start: str = "",
    odd: Callable[[AuheatError], None] = _refuse,
    videos: bool = False,
) -> PhotoWalk:
    """List everything below `start` that is a photo by its ending or, without one, its content.

    What is called like a photo and is no regular file is listed, too. Stores of auheat, its own
    pictures and other programs' files (hidden ones, too) are counted. Real folders come first, then
    links to folders, then links to photos: one that leads to what is listed already adds nothing,
    so that no photo is listed twice and circles end. A link to nothing is listed. Raises
    `AuheatError` for a folder that cannot be read, a link that leaves the root, and a name that is
    not UTF-8: none may be lost silently. `odd`, where given, is handed such an error instead, and
    what it names is left out. With `videos`, video files are listed, and not photos.
    """
    walk, visited, links = PhotoWalk(videos), set[tuple[int, int]](), list[str]()
    homes: dict[str, str] = {}
    fence.check_link(fence.join(start))
    scan = partial(_scan, fence, walk, visited, homes, links, odd)
    scan(start)
    files = []
    while links:
        links.sort(reverse=True)
        link = links.pop()
        path = Path(fence.join(link))
        if path.is_dir():
            if _resolve(fence, path, odd):
                scan(link)
        elif walk.sort_file(link, str(path)):
            files.append(link)
    seen = {_real_name(photo, homes) for photo in walk.photos} if files else set()
    for link in files:
        path = Path(fence.join(link))
        real = _resolve(fence, path, odd) if path.exists() else str(path)
        if not real:
            continue
        (walk.again if real in seen else walk.photos).append(link)
        seen.add(real)
    walk.photos.sort()
    walk.again.sort()
    return walk


def _resolve(fence: Fence, path: Path, odd: Callable[[AuheatError], None]) -> str:
    """Return what a link resolves to, "" where it leaves the root and `odd` was told."""
    try:
        return fence.check_link(str(path))
    except AuheatError as error:
        odd(error)
        return ""


def _real_name(photo: str, homes: dict[str, str]) -> str:
    folder, _, name = photo.rpartition("/")
    return f"{homes[folder]}{os.sep}{name}"


def _scan(
    fence: Fence,
    walk: PhotoWalk,
    visited: set[tuple[int, int]],
    homes: dict[str, str],
    links: list[str],
    odd: Callable[[AuheatError], None],
    start: str,
) -> None:
    """Add the photos below one folder, and put links aside."""
    folders = [start]
    while folders:
        folder = folders.pop()
        path = fence.join(folder)
        try:
            about = Path(path).stat()
            if (about.st_dev, about.st_ino) in visited:
                walk.again.append(folder)
                continue
            visited.add((about.st_dev, about.st_ino))
            homes[folder] = os.path.realpath(path)
            with os.scandir(path) as entries:
                inside = [entry for entry in entries if not _is_clutter(entry, walk)]
            stored = is_store(Path(path))
            for entry in inside:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    if _is_text(fence, name, odd):
                        links.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    inner = Path(entry.path)
                    if not (stored and is_store_part(inner)) and not _is_own(inner):
                        folders.append(name)
                elif walk.sort_file(name, entry.path) and _is_text(fence, name, odd):
                    walk.photos.append(name)
        except AuheatError:
            raise
        except OSError as error:
            where = error.filename or path
            odd(StoreError(f"{where}: {error.strerror} (every folder must be readable)"))


def _is_clutter(entry: os.DirEntry[str], walk: PhotoWalk) -> bool:
    """Whether a name is another program's; counted if it is known, or a photo may be lost by it."""
    label = name_clutter(entry.name)
    if label and (label != HIDDEN or split_ending(entry.name) in SUFFIXES or entry.is_dir()):
        walk.clutter[label] += 1
    return bool(label)


def _is_text(fence: Fence, name: str, odd: Callable[[AuheatError], None]) -> bool:
    """Whether a name is UTF-8; `odd` is told where it is not."""
    if name.isprintable() or not any("\ud800" <= c <= "\udfff" for c in name):
        return True
    odd(StoreError(f"{fence.root}: file name {name!a} is not UTF-8 (rename it)"))
    return False


def list_few(names: Collection[str], most: int = 3) -> str:
    """Return the first few names for a message."""
    shown = [repr(name) for _, name in zip(range(most), names, strict=False)]
    return ", ".join(shown) + (", ..." if len(names) > most else "")
