"""The commands about finished stores: stats, verify, export, merge."""

from __future__ import annotations

import sys
from typing import Any

import click

from .choices import FORMATS, SPLITS, Choice
from .common import (
    FILE,
    FOLDER,
    Command,
    json_option,
    option,
    overwrite_option,
    print_fields,
    print_json,
    print_line,
    print_notes,
    print_table,
    shards_option,
    store_option,
)


@click.command(cls=Command)
@click.argument("out", type=FILE)
@store_option
@option(
    "--format",
    type=Choice(FORMATS),
    default="webdataset",
    show_default=True,
    help="webdataset, hf: a folder; the others are one file.",
)
@shards_option
@option("--split", type=Choice(SPLITS), help="Only the rows of one split  [default: all]")
@option("--shard-size", type=int, help="webdataset: samples per tar  [default: 1024]")
@option("--photos", is_flag=True, help="parquet, hf: put the photos' bytes in, too.")
@option("--overwrite", is_flag=True, help="Replace an export that is there already.")
@json_option
def export(as_json: bool, **settings: Any) -> None:
    """Write training shards to OUT in a format that other code reads.

    webdataset: tars of KEY.jpg or .png, KEY.json, KEY.cls, KEY.heatmap.npy. npz: one file that
    np.load reads. csv and parquet: a table, a row per photo, whose column id `auheat render --only`
    takes back; parquet has the landmarks, too, and needs pyarrow: pip install "auheat[parquet]".
    openface: a CSV in OpenFace's columns (landmarks, measured AUs), and filename as the last.
    fiftyone: a CSV that FiftyOne imports as a CSVDataset. coco: a JSON of photos, 68 keypoints of
    each face, and (after render --per-au) a polygon for each AU.
    hf: a folder that Hugging Face's load_dataset reads: pip install "auheat[hf]".

    \b
    auheat export tars/
    auheat export train.npz --format npz --split train
    auheat export all.npz --format npz --shards martinez-generic
    auheat export rows.csv --format csv
    auheat export rows.parquet --format parquet --photos
    auheat export faces.json --format coco
    auheat export faces/ --format hf --photos
    """
    from auheat.exporters.exporter import export as run

    result = run(**settings)
    if as_json:
        print_json(result)
        return
    print_notes(result.pop("notes", []))
    hidden = ("auheat_export", "attributes", "files", "classes", "names")
    fields = {key: value for key, value in result.items() if key not in hidden}
    n = sum(entry["bytes"] for entry in result["files"].values())
    fields |= {f"class {name}": str(count) for name, count in result["classes"].items()}
    print_fields(fields | {"files": len(result["files"]), "bytes": n})


@click.command(cls=Command)
@click.argument("stores", nargs=-1, required=True, type=FILE)
@option("--out", required=True, type=FOLDER, help="The new store.")
@option(
    "--prefix",
    help="Put NAME/ in front of ids and paths: auto (the stores' folder names), or a,b,...",
)
@option("--skip-duplicates", is_flag=True, help="Keep rows once that are equal in two stores.")
@overwrite_option
@json_option
def merge(as_json: bool, **settings: Any) -> None:
    """Join STORES that were made with equal settings to a new one, --out.

    Each of them must be finished. An id that is in two of them is an error that names both places.
    What is to be rendered is rendered before: afterwards the photos lie in several folders.

    \b
    auheat merge part-1 part-2 part-3 --out whole
    auheat merge rafdb affectnet --out both --prefix auto
    """
    from auheat.store.merging import merge as run

    result = run(**settings)
    if as_json:
        print_json(result)
        return
    print_notes(result.pop("notes"))
    stages = result.pop("stages")
    fields: dict[str, Any] = dict(result)
    for stage, counts in stages.items():
        fields[stage] = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    print_fields(fields)


@click.command(cls=Command)
@store_option
@shards_option
@option("--plot", type=FILE, help="Draw the mean heatmap of each class to a .png.")
@json_option
def stats(as_json: bool, **settings: Any) -> None:
    """Count what a store holds: rows, faces, heatmaps, persons, photos that are there twice, bytes.

    Named are persons in several splits, photos of one content in several splits, and photos that
    look like one of another split (copies of another size or quality, next frames of a film). Where
    action units were measured (render --aus), it is said how often the codebook's were active in
    each expression's photos.

    \b
    auheat stats
    auheat stats --shards martinez --plot means.png
    """
    from auheat.reporting.console import tabulate_codebook
    from auheat.reporting.store_stats import stats as run

    result = run(**settings)
    if as_json:
        print_json(result)
        return
    names = [name for name in result["rows"][0] if name not in ("split", "class")]
    names = [name for name in names if any(row[name] for row in result["rows"])]
    rows = [
        (row["split"] or "-", row["class"] or "-", *(str(row[name]) for name in names))
        for row in result["rows"]
    ]
    print_table([("split", "class", *names), *rows])
    print_line()
    for title in ("photo_height", "photo_width", "eye_distance", "face_share", "score"):
        spread = result[title] or {}
        values = ", ".join(f"{name} {value:g}" for name, value in spread.items())
        print_line(f"{title.replace('_', ' ')}: {values or 'none'}")
    _print_maps(result)
    if result.get("codebook_against_data"):
        print_line()
        print_table(tabulate_codebook(result["codebook_against_data"]))
    counts = ("total", "valid", "valid_share", "thin_rows", "turned_rows")
    single = (*counts, "persons", "persons_in_several_splits", "clips", "clips_in_several_splits")
    print_line()
    print_fields({key: result[key] for key in single if key in result})
    print_line()
    print_table([("dataset", "bytes per sample"), *_bytes(result["bytes_per_sample"])])
    _print_duplicates(result)
    for kind in ("person", "clip"):
        for row in result.get(f"shared_{kind}s", ()):
            print_line(f"  {kind} in several splits: {row[kind]} ({', '.join(row['splits'])})")


def _print_maps(result: dict[str, Any]) -> None:
    if result.get("maps"):
        rows = [
            (row["class"] or "-", str(row["n"]), f"{row['coverage']:.4f}", f"{row['energy']:.4f}")
            for row in result["maps"]
        ]
        print_line()
        print_table([("heatmaps", "n", "above 0.5", "energy"), *rows])


def _bytes(sizes: dict[str, float]) -> list[tuple[str, str]]:
    rows = sorted(sizes.items(), key=lambda item: -item[1])
    return [(name, f"{n:.1f}") for name, n in [*rows, ("total", sum(sizes.values()))]]


def _print_duplicates(result: dict[str, Any]) -> None:
    print_line()
    if "duplicates" not in result:
        print_line("duplicates: not looked for (no photos in these shards)")
        return
    counts = result["duplicates"]
    print_line(
        f"{counts['photos']} photos are there more than once, in {counts['rows']} rows; "
        f"{counts['leaks']} of them in several splits"
    )
    for rows in result["leaks"]:
        _print_together("leak", rows)
    if "near_duplicates" in result:
        counts = result["near_duplicates"]
        print_line(f"{counts['photos']} photos look like one of another split")
        for rows in result["near_leaks"]:
            _print_together("alike", rows)


def _print_together(title: str, rows: list[dict[str, str]]) -> None:
    print_line(f"  {title}: " + ", ".join(f"{r['id']} ({r['split'] or '-'})" for r in rows))


@click.command(cls=Command)
@click.argument("run", required=False)
@store_option
@option("--repair", is_flag=True, help="Take out what is broken; the next run rebuilds it.")
@option("--source", is_flag=True, help="Read the photos, too: none may have changed since.")
@json_option
def verify(repair: bool, as_json: bool, **settings: Any) -> None:
    """Check a store against every rule of FORMAT.md, or RUN; exit 1 where one is broken.

    The files of runs (RUN is a name or a folder; without it those of the store) are compared with
    the sha256 that training and evaluation noted of them.

    With --repair, broken shards are taken out and a damaged manifest is replaced by its copy; then
    `extract` or `render`, given as before, makes just that again.

    \b
    auheat verify --store auheat-data
    auheat verify with-aus
    auheat verify --repair
    auheat verify --source
    """
    from auheat.store.maintenance import verify as check

    result = check(repair=repair, **settings)
    if as_json:
        print_json(result.as_dict())
    else:
        for violation in result.violations:
            print_line(str(violation))
        stages, findings = len(result.folders) - len(result.runs), len(result.violations)
        if stages:
            print_line(f"{stages} folders checked, {findings} findings")
        if result.runs:
            own = "" if stages else f", {findings} findings"
            print_line(f"runs and evaluations checked: {len(result.runs)}{own}")
        for folder, n in result.lost.items():
            rows = "all rows" if n < 0 else f"{n} rows"
            print_line(f"{folder}: {rows} to be made again (give the same command as before)")
    if not (result.ok or repair):
        sys.exit(1)
