"""Who is shown, and which split a photo is of, where only paths say so.

Persons are read from file names of published sets, or folders called after persons, wherever they
lie: sorted into class folders, into splits, or flat. Without them a validation split would share
persons, and neighbouring frames of one film, with training.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from auheat.datasets.generic import CLASSES
from auheat.datasets.layout import WORDS, Folder
from auheat.errors import RequestError, StoreError
from auheat.expressions import SPLITS
from auheat.records import Sample
from auheat.utils.paths import list_few
from auheat.utils.photo_files import is_video

NEARLY_ALL = 0.95
"""Share of a set's photos whose paths must name a person, for any to be believed."""


_WORTH_A_NOTE = 0.1  # share from which on lost persons are told


_CODES = "AF|AN|DI|FE|HA|NE|SA|SU"

_FORMS = {
    "CK+ (S010_004_00000017)": r"(S\d{3})_\d{3}_\d{8}",
    "JAFFE (KA.AN1.39)": rf"([A-Z]{{2}})[._-](?:{_CODES})\d[._-]\d{{1,3}}",
    "KDEF (AF01ANS)": rf"[AB]([FM]\d{{2}})(?:{_CODES})(?:S|[HF][LR])",
    "RaFD (Rafd090_01_Caucasian_female_happy)": r"Rafd\d{3}_(\d{2})_[a-z]+_(?:fe)?male_[a-z]+",
    "Chicago Face Database (CFD-WM-001-014-HO)": r"CFD-([A-Z]{1,2}-\d{3})-\d{3}-(?:N|A|F|HC|HO)",
    "FACES (004_o_m_a_a)": r"(\d{3})_[ymo]_[fm]_[adfhns]_[ab]",
    "NimStim (01F_HA_C)": rf"(\d{{2}}[FM])_(?:{_CODES}|CA|SP)_(?:\d{{3}}_)?[COX]",
    "BU-3DFE (F0001_AN01WH_F2D)": rf"([FM]\d{{4}})_(?:{_CODES})\d{{2}}[A-Z]{{2}}",
    "Bosphorus (bs000_E_HAPPY_0)": r"(bs\d{3})_(?:E|N|[LU]FAU|CAU|O|YR|PR|CR)_\w+",
    "Yale (subject01.happy)": r"(subject\d{2})\.[a-z]+",
    "RAVDESS (01-01-03-01-01-01-12)": r"0[1-3]-0[12]-0[1-8](?:-0[12]){3}-(\d\d)",
    "CREMA-D (1001_DFA_ANG_XX)": r"(\d{4})_[A-Z]{3}_(?:ANG|DIS|FEA|HAP|NEU|SAD)_(?:HI|LO|MD|XX?)",
    "DISFA (LeftVideoSN001_comp)": r"(?:Left|Right)Video(SN\d{3})(?:_comp)?",
    "Multi-PIE (001_01_02_051_07)": r"(\d{3})_\d\d_\d\d_\d{3}_\d\d",
}
"""What a note calls a form -> the form, whose group is the person; names may go on around it."""


_PATTERNS = {
    name: re.compile(rf"(?<![A-Za-z0-9]){form}(?![A-Za-z0-9])", re.IGNORECASE)
    for name, form in _FORMS.items()
}

_HOME = re.compile(
    r"(?:SN|[SPFM])\d{3}|(?i:subj?|subject|person|pers|participant|actor|speaker)[ _.-]?\d{1,5}"
)
"""A folder called after a person, as in Oulu-CASIA (P001), DISFA (SN001), BP4D (F001)."""


_FOLDERS = "folders such as P001, SN001 or subject_1"

_LOOK = 200  # photos, spread over the set, that are looked at first


def compile_pattern(option: str, text: str | None, group: str) -> re.Pattern[str] | None:
    """Return an option's regular expression, None where it was not given.

    Raises `RequestError` for one that is none, or has no group.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise RequestError(f"{option}: {text!r}: {error} (a regular expression)") from error
    if not pattern.groups:
        raise RequestError(
            f"{option}: {text!r}: it has no group (put brackets around the {group}, such as "
            f"'(?P<{group}>[^/_]+)_')"
        )
    return pattern


def find_all(
    pattern: re.Pattern[str], option: str, group: str, samples: Sequence[Sample]
) -> tuple[list[str], list[str]]:
    """Return what a pattern finds in each path, "" for nothing, and a note on those."""
    chosen = group if group in pattern.groupindex else 1
    paths = [name_source(sample).as_posix() for sample in samples]
    matches = [pattern.search(path) for path in paths]
    values = [(match[chosen] or "") if match else "" for match in matches]
    odd = [path for path, value in zip(paths, values, strict=True) if not value]
    if len(odd) == len(samples):
        raise RequestError(
            f"{option}: {pattern.pattern!r}: found in none of {len(odd)} paths, such as "
            f"{list_few(odd)}"
        )
    note = f"{option}: not found in {len(odd)} of {len(samples)} paths: {list_few(odd)}"
    return values, [note] if odd else []


def assign_splits(folder: Folder, pattern: re.Pattern[str] | None) -> None:
    """Set the splits of a folder's samples: from a pattern, or folders where no split is known.

    Raises `AuheatError` for a word that is no split, and a photo below folders of two splits.
    """
    samples = folder.samples
    if pattern is not None:
        said, notes = find_all(pattern, "--split-pattern", "split", samples)
        unknown = sorted({word for word in said if word and word.casefold() not in SPLITS})
        if unknown:
            raise RequestError(
                f"--split-pattern: {list_few(unknown)}: no split (train, val, test and the like "
                "are known)"
            )
        splits = [SPLITS.get(word.casefold(), "") for word in said]
        folder.notes += notes
    elif any(sample.split for sample in samples) and {f.name for f in folder.files} - {CLASSES}:
        splits = [sample.split for sample in samples]  # labels' files say more than folders' names
    else:
        splits = [_split_of(sample.path) or sample.split for sample in samples]
    _note_torn(folder, splits)
    if splits != [sample.split for sample in samples]:
        counts = Counter(splits)
        folder.notes.append(
            "splits are those that paths name: "
            + ", ".join(f"{n} {WORDS[split]}" for split, n in sorted(counts.items()))
        )
        pairs = zip(samples, splits, strict=True)
        folder.samples = [replace(sample, split=split) for sample, split in pairs]


def _note_torn(folder: Folder, splits: Sequence[str]) -> None:
    """Note clips of which some frames are in one split, and some in another."""
    homes = defaultdict[str, set[str]](set)
    for sample, split in zip(folder.samples, splits, strict=True):
        if sample.clip:
            homes[sample.clip].add(split or "train")
    torn = [clip for clip, own in homes.items() if len(own) > 1]
    if torn:
        folder.notes.append(
            f"{len(torn)} of {len(homes)} clips have frames in several splits, whose scores are "
            f"too good for it: {list_few(torn)}"
        )


def _split_of(path: PurePath) -> str:
    """Return the split that a folder of a path is called after, "" for none."""
    named = dict.fromkeys(SPLITS.get(part.casefold(), "") for part in path.parts[:-1])
    named.pop("", None)
    if len(named) > 1:
        raise StoreError(
            f"{path.as_posix()}: below folders of two splits, {' and '.join(named)} "
            "(--split-pattern says which counts)"
        )
    return next(iter(named), "")


def assign_persons(folder: Folder, pattern: re.Pattern[str] | None) -> None:
    """Set the persons of a folder's samples: from a pattern, or names where none is known."""
    samples = folder.samples
    if pattern is not None:
        persons, notes = find_all(pattern, "--person-pattern", "person", samples)
        folder.notes += [*notes, f"--person-pattern: {len({*persons} - {''})} persons"]
    elif any(sample.person for sample in samples):
        return
    else:
        share = _share(first := _name_persons(samples[:: len(samples) // _LOOK + 1]))
        if share < NEARLY_ALL:
            if share >= _WORTH_A_NOTE and len({*first} - {("", "")}) > 1:
                folder.notes.append(
                    f"no persons are known, though {share:.0%} of the photos are called as in "
                    f"{' and '.join(sorted({form for form, _ in first if form}))} "
                    "(--person-pattern reads them)"
                )
            return
        named = _name_persons(samples)
        forms = Counter(form for form, _ in named if form)
        persons = [
            f"{form.split(' (')[0]} {person}" if person and len(forms) > 1 else person
            for form, person in named
        ]
        n = len({*persons} - {""})
        if _share(named) < NEARLY_ALL or n < 2:
            return
        odd = [s.path.as_posix() for s, who in zip(samples, persons, strict=True) if not who]
        less = f"; {len(odd)} photos without one: {list_few(odd)}" if odd else ""
        folder.notes.append(
            f"{n} persons are known by names as in {' and '.join(forms)}{less} "
            "(--person-pattern reads them otherwise)"
        )
    pairs = zip(samples, persons, strict=True)
    folder.samples = [replace(sample, person=person) for sample, person in pairs]


def is_home(folder: str) -> bool:
    """Whether a folder is called after a person."""
    return _HOME.fullmatch(folder) is not None


def name_source(sample: Sample) -> PurePath:
    """Return the path in the set that a sample comes from: of a video's frame, the video's."""
    home = sample.path.parent
    return home if sample.clip and is_video(home.name) else sample.path


def _share(named: Sequence[tuple[str, str]]) -> float:
    return sum(bool(form) for form, _ in named) / max(1, len(named))


def _name_persons(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Return the form in which each path names a person, and the person; ("", "") for none."""
    return [_name_person(name_source(sample)) for sample in samples]


def _name_person(path: PurePath) -> tuple[str, str]:
    for form, pattern in _PATTERNS.items():
        # frames may lie in a folder that is called as their film
        if match := pattern.search(path.name) or pattern.fullmatch(path.parent.name):
            return form, match[1].upper()
    home = next(filter(is_home, path.parts[:-1]), "")
    return (_FOLDERS, home) if home else ("", "")
