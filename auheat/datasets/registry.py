"""Data set layouts -> samples, with canonical expression names.

An adapter recognises its layout (`detect`) and reads it (`read`). Class ids are never trusted:
every adapter maps to names. Paths from label files cannot leave the source folder, and links that
leave it are refused unless asked for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from auheat.datasets import (
    affectnet,
    ckplus,
    clips,
    expw,
    fer2013,
    ferplus,
    generic,
    jaffe_kdef,
    rafdb,
    sfew,
)
from auheat.datasets.audit import compare_counts
from auheat.datasets.label_map import describe_use, load_label_map
from auheat.datasets.layout import OWN_TERMS, Folder, Layout, Listing
from auheat.datasets.persons import assign_persons, assign_splits, compile_pattern
from auheat.datasets.rafdb import IMAGES
from auheat.datasets.sequences import NONE, assign_clips
from auheat.errors import RequestError, StoreError
from auheat.expressions import SYNONYMS
from auheat.images.videos import parse_step
from auheat.records import SUFFIXES, Array, Sample
from auheat.utils.paths import Fence, holds_photo, list_few, list_folders
from auheat.utils.registry import Registry

_FER_COUNTS = ({"train": 28709, "val": 3589, "test": 3589},)

_AFFECTNET_COUNTS = ({"train": 287651, "val": 4000}, {"train": 283901, "val": 3500})


_PHOTOS = "photos"
"""The layout of photos without labels, which all others are tried before."""


_ON_REQUEST, _NON_COMMERCIAL = "research, on request", "research, non-commercial"

_LAYOUTS = {
    "rafdb": Layout(
        "[basic/]EmoLabel/list_patition_label.txt and Image/aligned",
        rafdb.detect_basic,
        rafdb.read_basic,
        images=IMAGES,
        known=({"train": 12271, "test": 3068},),
        terms=_ON_REQUEST,
    ),
    "rafdb-compound": Layout(
        "[compound/]EmoLabel/list_patition_label.txt with classes up to 11",
        rafdb.detect_compound,
        rafdb.read_compound,
        images=IMAGES,
        known=({"train": 3162, "test": 792},),
        known_from=" (as far as we remember)",
        terms=_ON_REQUEST,
    ),
    "rafdb-numbered": Layout(
        "DATASET/{train,test}/1..7 with {train,test}_labels.csv",
        rafdb.detect_numbered,
        rafdb.read_numbered,
        known=({"train": 12271, "test": 3068},),
        terms=_ON_REQUEST,
    ),
    "affectnet": Layout(
        "Manually_Annotated_Images and training.csv, validation.csv",
        affectnet.detect_full,
        affectnet.read_full,
        known=_AFFECTNET_COUNTS,
        points=affectnet.load_full_points,
        terms=_ON_REQUEST,
    ),
    "affectnet-reduced": Layout(
        "{train_set,val_set}/images and annotations/ID_exp.npy",
        affectnet.detect_reduced,
        affectnet.read_reduced,
        known=_AFFECTNET_COUNTS,
        points=affectnet.load_reduced_points,
        terms=_ON_REQUEST,
    ),
    "ferplus": Layout(
        "fer2013new.csv with fer2013.csv or FER2013Train/",
        ferplus.detect_ferplus,
        ferplus.read_ferplus,
        known=_FER_COUNTS,
        known_from=", unlabelled rows included",
        terms="labels MIT; photos as FER2013",
    ),
    "fer2013": Layout(
        "fer2013.csv with emotion, pixels, Usage",
        fer2013.detect_fer2013,
        fer2013.read_fer2013,
        known=(*_FER_COUNTS, {"train": 28709, "test": 7178}, {"train": 28709}),
        files=True,
        terms="a challenge's data: research",
    ),
    "expw": Layout(
        "label/label.lst and image/origin",
        expw.detect_expw,
        expw.read_expw,
        known=({"faces": 91793},),
        terms=_NON_COMMERCIAL,
    ),
    "sfew": Layout(
        "{Train,Val}_Aligned_Faces/EXPRESSION/photo",
        sfew.detect_sfew,
        sfew.read_sfew,
        named=True,
        terms=_ON_REQUEST,
    ),
    "ckplus": Layout(
        "cohn-kanade-images and Emotion",
        ckplus.detect_ckplus,
        ckplus.read_ckplus,
        images=ckplus.CKPLUS_IMAGES,
        known=({"sequences": 327},),
        terms=_ON_REQUEST,
    ),
    "clips": Layout(
        "videos in class folders, named by a table, or alone",
        clips.detect_clips,
        clips.read_clips,
        files=True,
        named=True,
        terms=OWN_TERMS,
    ),
    "csv": Layout(
        "a CSV with path,label[,split,person]",
        generic.detect_csv,
        generic.read_csv,
        files=True,
        named=True,
        terms=OWN_TERMS,
    ),
    "folders": Layout(
        "[train|val|test/]EXPRESSION/photo",
        generic.detect_classes,
        generic.read_classes,
        named=True,
        terms=OWN_TERMS,
    ),
    "jaffe": Layout(
        "photos called KA.AN1.39.tiff",
        jaffe_kdef.detect_jaffe,
        jaffe_kdef.read_jaffe,
        known=({"": 213},),
        terms=_NON_COMMERCIAL,
    ),
    "kdef": Layout(
        "photos called AF01ANS.JPG",
        jaffe_kdef.detect_kdef,
        jaffe_kdef.read_kdef,
        images=jaffe_kdef.KDEF_IMAGES,
        known=({"": 980}, {"": 4900}),
        terms=_NON_COMMERCIAL,
    ),
    "photos": Layout(
        "photos without labels, [train|val|test/]",
        generic.detect_photos,
        generic.read_photos,
        terms=OWN_TERMS,
    ),
}

DATASETS: Registry[Layout] = Registry("dataset", tuple(_LAYOUTS), reserved=("auto",))
"""Layout name -> adapter, in the order in which "auto" tries them: registered ones last."""

DATASETS.fill(_LAYOUTS, Layout)


def list_datasets() -> list[str]:
    """List the names of all data set layouts, in the order in which "auto" tries them.

    Returns:
        Names that `extract(dataset=...)` and `--dataset` take beside "auto".

    Example:
        >>> import auheat
        >>> auheat.list_datasets()[0]
        'rafdb'
    """
    return list(DATASETS)


def register_dataset(name: str, layout: Layout) -> None:
    """Add a data set layout to those that can be read, in this process.

    A package can add one for all processes by an entry point of the group `auheat.datasets`.
    "auto" tries it after all that come with auheat.

    Args:
        name: What `extract(dataset=...)` and `--dataset` will call it: letters, digits, . _ + -.
        layout: How it is recognised and read.

    Raises:
        RequestError: The name is taken or unfit, or the layout is no `Layout`.

    Example:
        >>> import auheat
        >>> from auheat.datasets import Layout
        >>> def read(folder):
        ...     for path in folder.walk().photos:
        ...         folder.add(key=path, path=path, label="Happiness")
        >>> auheat.register_dataset("smiles", Layout("photos of smiles", lambda path: "", read))
        >>> [sample.label for sample in auheat.read_samples(photos, "smiles")][:2]
        ['Happiness', 'Happiness']
    """
    DATASETS.register(name, layout)


def read_samples(
    source: Path | str,
    dataset: str = "auto",
    variant: str = "auto",
    follow_links: bool = False,
    unpack: Path | None = None,
    labels: Path | str | None = None,
    person_pattern: str | None = None,
    split_pattern: str | None = None,
    clip_pattern: str | None = None,
    every: int | str | None = None,
) -> list[Sample]:
    """List the photos of a data set as it was published, with canonical expression names.

    Args:
        source: The set's folder (or a CSV file of the layouts "csv" and "fer2013").
        dataset: One of `list_datasets`, or "auto" for the first whose files are there.
        variant: Which of a set's photos: RAF-DB aligned or original, CK+ last3 and others, KDEF
            frontal or all. "auto" is the first of each.
        follow_links: Allow links inside the source that lead out of it.
        unpack: Folder for the photos of FER2013, which are numbers in a table, and for frames of
            videos.
        labels: YAML file that says what a set's own class names mean; see docs/datasets.md.
        person_pattern: Regular expression whose group "person", or first group, is the person
            that a relative path names; None: names as published sets have them.
        split_pattern: The same for the split; None: what the layout says, or folders' names.
        clip_pattern: The same for the clip that a photo is a frame of; "none": of none.
        every: Take each such frame of a clip: 5, or "0.5s" of a video; None: all.

    Returns:
        Samples sorted by id, with unique ids; paths are relative to `source` (to `unpack` for
        FER2013 and videos).

    Raises:
        RequestError: An unknown data set, or a choice of images that it does not have.
        StoreError: A source that is absent, empty or of no known layout, labels that cannot be
            trusted, or a link that leaves the folder.

    Example:
        >>> from auheat import read_samples
        >>> [(s.id, s.label) for s in read_samples(photos)][:2]
        [('happy/0.png', 'Happiness'), ('happy/1.png', 'Happiness')]
    """
    patterns = (person_pattern, split_pattern, clip_pattern, every)
    given = (dataset, variant, follow_links, unpack, labels, *patterns)
    return read_dataset(Path(source), *given).samples


def read_dataset(
    source: Path,
    dataset: str = "auto",
    variant: str = "auto",
    follow_links: bool = False,
    unpack: Path | None = None,
    labels: Path | str | None = None,
    person_pattern: str | None = None,
    split_pattern: str | None = None,
    clip_pattern: str | None = None,
    every: int | str | None = None,
    most_clips: int | None = None,
) -> Listing:
    """List the photos of a data set, and tell how labels were understood and what looks wrong.

    `source` is a folder (or a CSV of "csv" or "fer2013"); `dataset` a name from `DATASETS` or
    "auto"; `variant` chooses among a set's photos: RAF-DB aligned or original, CK+ last3 and
    others, KDEF frontal or all. Links inside the source that leave it are an error unless
    `follow_links`. `labels` is a file with meanings of class names. Of videos at most `most_clips`
    are read. Raises `AuheatError` for a
    source that is absent or empty, an unknown name, or labels that cannot be trusted.
    """
    persons = compile_pattern("--person-pattern", person_pattern, "person")
    splits = compile_pattern("--split-pattern", split_pattern, "split")
    named = None if clip_pattern == NONE else clip_pattern
    clip_form = compile_pattern("--clip-pattern", named, "clip")
    own = {} if labels is None else load_label_map(Path(labels))
    place, name, saw = _choose_layout(source, dataset, own)
    layout = DATASETS[name]
    folder = Folder(place, _choose_variant(variant, name), follow_links, unpack)
    folder.names, folder.step, folder.most_clips = (
        {**SYNONYMS, **own},
        parse_step(every),
        most_clips,
    )
    if place != source:
        inner = place.relative_to(source).as_posix()
        folder.notes.append(f"{source} holds {inner}/ alone, and was read from there")
    layout.read(folder)
    assign_clips(folder, clip_form, layout.terms == OWN_TERMS and clip_pattern != NONE)
    if labels is not None:
        folder.notes += describe_use(Path(labels), own, folder.labels)
    folder.samples.sort(key=lambda sample: sample.id)
    if not folder.samples:
        _refuse_empty(folder)
    assign_splits(folder, splits)
    assign_persons(folder, persons)
    fence = Fence(folder.base, follow_links)
    sizes = np.array([fence.measure(s.path.as_posix()) for s in folder.samples], np.int64)
    if (sizes < 0).all():
        _refuse_absent(folder)
    return Listing(
        layout=name,
        saw=saw,
        root=place,
        source=folder.base,
        images=folder.images,
        samples=folder.samples,
        labels=dict(folder.labels),
        dropped=dict(folder.dropped),
        notes=[*_audit(name, layout, folder), *folder.notes, *folder.describe_left_out()],
        sizes=sizes,
        own=own,
        votes=folder.votes,
    )


def _choose_variant(variant: str, name: str) -> str:
    """Return which of a layout's photos are read; raises `AuheatError` for a choice it lacks."""
    choices = dict.fromkeys(choice for layout in DATASETS.values() for choice in layout.images)
    images = DATASETS[name].images
    if variant != "auto" and variant not in choices:
        raise RequestError(f"--variant: {variant!r} is unknown (known: {', '.join(choices)})")
    if variant != "auto" and variant not in images:
        has = ", ".join(images) or "nothing to choose"
        raise RequestError(f"--variant: {variant!r} is not of {name} (it has: {has})")
    return images[0] if variant == "auto" and images else variant


def _refuse_empty(folder: Folder) -> None:
    """Raise `AuheatError` for a set in which no photo is left."""
    lists = [f"no row of {list_few([f.name for f in sorted(folder.files)])} is left"]
    seen = [
        *_list_dropped(folder),
        *(lists if folder.files else []),
        *folder.describe_left_out(),
    ]
    seen = seen or [f"{', '.join(sorted(SUFFIXES))} are read"]
    raise StoreError(f"{folder.source}: no photos found ({'; '.join(seen)})")


def _choose_layout(source: Path, dataset: str, own: Mapping[str, str]) -> tuple[Path, str, str]:
    """Return the folder (or file) to read, as which layout, and what tells it."""
    if dataset == "auto":
        place, name, saw = _detect(source, own)
    elif dataset in DATASETS:
        _check_source(source, DATASETS[dataset].files)
        place, name, saw = _choose_place(source, dataset, own), dataset, "as asked"
    else:
        known = ", ".join(DATASETS)
        raise RequestError(f"--dataset: {dataset!r} is unknown (known: auto, {known})")
    if own and not DATASETS[name].named:
        _refuse_labels(source, name)
    return place, name, saw


def _audit(name: str, layout: Layout, folder: Folder) -> list[str]:
    """Return notes on rows that were dropped, and on numbers that a complete copy has not."""
    splits = Counter(sample.split for sample in folder.samples)
    counts = folder.counts or {s: splits[s] for s in ("train", "val", "test", "") if splits[s]}
    return [*compare_counts(name, counts, layout.known, layout.known_from), *_list_dropped(folder)]


def _list_dropped(folder: Folder) -> list[str]:
    return [f"{n} {reason} were dropped" for reason, n in sorted(folder.dropped.items())]


def _check_source(source: Path, files: bool) -> None:
    if source.is_file():
        if not files:
            raise StoreError(f"{source}: a file (expected a folder of photos)")
    elif not source.is_dir():
        raise StoreError(f"{source}: no such folder (expected a folder of photos)")


def _refuse_labels(source: Path, name: str) -> None:
    """Raise `AuheatError` where class names of one's own are given for a layout that has none."""
    if name == _PHOTOS:
        raise RequestError(
            f"--labels: {source}: no class folder and no table of photos has a name that it gives "
            f"(it has {_list_contents(source)})"
        )
    named = ", ".join(name for name, layout in DATASETS.items() if layout.named)
    raise RequestError(
        f"--labels: the classes of {name} have a meaning already (a file with meanings goes with "
        f"{named})"
    )


def _refuse_absent(folder: Folder) -> None:
    """Raise `AuheatError` for a list none of whose photos is there."""
    first = folder.base / folder.samples[0].path
    near = next(p for p in (*first.parents, folder.base) if os.path.isdir(p))  # noqa: PTH112
    raise StoreError(
        f"{folder.source}: none of the {len(folder.samples)} photos listed is there: the first is "
        f"looked for at {first}; {near} has {_list_contents(near)} (paths are relative to "
        f"{folder.base})"
    )


def _saw(name: str, layout: Layout, place: Path, own: Mapping[str, str]) -> str:
    """Return what of a layout a place has, names of one's own included."""
    if place.is_file() and not layout.files:
        return ""
    named = {"csv": generic.detect_csv, "folders": generic.detect_classes}
    return named[name](place, {**SYNONYMS, **own}) if name in named else layout.detect(place)


def _choose_place(source: Path, name: str, own: Mapping[str, str]) -> Path:
    """Return the folder to read a layout from: the source, or one that it holds alone."""
    if name == _PHOTOS:
        return source
    return next((p for p in _unwrap(source) if _saw(name, DATASETS[name], p, own)), source)


def _unwrap(source: Path) -> list[Path]:
    """Return a source, and below it each folder beside which there is no folder, photo or table."""
    places = [source]
    while places[-1].is_dir():
        inner = list_folders(places[-1])
        if len(inner) != 1 or inner[0].is_symlink():
            break
        if generic.list_tables(places[-1]) or holds_photo(places[-1]):
            break
        places.append(inner[0])
    return places


def _detect(source: Path, own: Mapping[str, str]) -> tuple[Path, str, str]:
    """Return the folder (or CSV file) to read, the name of its layout and what tells it.

    That is the source, or the folder that it holds alone. Raises `AuheatError` where it has no
    layout, which says what was seen and what is known.
    """
    _check_source(source, files=True)
    names = list(DATASETS)
    first, last = names[: names.index(_PHOTOS)], names[names.index(_PHOTOS) + 1 :]
    places = _unwrap(source)
    for place in places:
        for name in first:
            if saw := _saw(name, DATASETS[name], place, own):
                return place, name, saw
    if source.is_dir():
        if saw := generic.detect_wrapped(source, {**SYNONYMS, **own}):
            return source, "folders", saw
        # Of the inner place, too: it is refused where its folders are numbers.
        saw = [DATASETS[_PHOTOS].detect(place) for place in reversed(places)][-1]
        if saw:
            return source, _PHOTOS, saw
    for name in last:
        if saw := _saw(name, DATASETS[name], source, own):
            return source, name, saw
    known = "; ".join(f"{name}: {layout.about}" for name, layout in DATASETS.items())
    raise StoreError(f"{source}: no known layout: it has {_list_contents(source)} (known: {known})")


def _list_contents(source: Path) -> str:
    """Return what lies in a folder, in a few words."""
    if source.is_file():
        return "columns of another name"
    folders = [d.name + "/" for d in list_folders(source)]
    files = Counter(Path(name).suffix or name for _, _, names in os.walk(source) for name in names)
    told = [*folders[:5], *(f"{n} {ending}" for ending, n in files.most_common(5))]
    return ", ".join(told) or "nothing in it"


def load_own_points(listing: Listing) -> Array:
    """Return the 68 points that a set carries for its own photos: (N, 68, 2) f32 px, iBUG order.

    NaN where it has none for a photo. Raises `AuheatError` for a set without points.
    """
    load = DATASETS[listing.layout].points
    if load is None:
        have = ", ".join(name for name, layout in DATASETS.items() if layout.points)
        raise RequestError(
            f"--detector: dataset: {listing.layout} carries no points of its own (these do: {have})"
        )
    return load(listing)
