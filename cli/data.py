"""The commands about finished stores: export, merge, stats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .common import json_option, overwrite_option, print_fields, print_table, store_option


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@store_option
@click.option(
    "--format",
    default="webdataset",
    show_default=True,
    help="webdataset (a folder of tars), npz or hdf5 (one file).",
)
@click.option("--shards", help="Which shards, where there are several.")
@click.option("--split", help="Only the rows of train, val or test [default: all].")
@click.option("--shard-size", type=int, help="webdataset: samples per tar [default: 1024].")
@click.option("--overwrite", is_flag=True, help="Replace an export that is there already.")
@json_option
def export(as_json: bool, **settings: Any) -> None:
    """Write training shards to OUT in a format that other code reads.

    webdataset: tars of KEY.jpg or .png, KEY.json, KEY.cls, KEY.heatmap.npy. npz: one file that
    np.load reads. hdf5: all rows in one shard.

    \b
    auheat export tars/
    auheat export train.npz --format npz --split train
    auheat export all.h5 --format hdf5 --shards martinez-generic
    """
    from auheat.exporters.exporter import export as run

    told = run(**settings)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    hidden = ("auheat_export", "attributes", "files", "classes", "names")
    fields = {key: _cell(value) for key, value in told.items() if key not in hidden}
    n = sum(entry["bytes"] for entry in told["files"].values())
    fields |= {f"class {name}": str(count) for name, count in told["classes"].items()}
    print_fields(fields | {"files": len(told["files"]), "bytes": n}, False)


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The new store."
)
@click.option(
    "--prefix",
    help="Put NAME/ in front of ids and paths: auto (the stores' folder names), or a,b,...",
)
@click.option(
    "--skip-duplicates", is_flag=True, help="Keep rows once that are equal in two stores."
)
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

    told = run(**settings)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    for note in told.pop("notes"):
        click.echo(f"note: {note}", err=True)
    stages = told.pop("stages")
    fields = {key: _cell(value) for key, value in told.items()}
    for stage, counts in stages.items():
        fields[stage] = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    print_fields(fields, False)


@click.command()
@store_option
@click.option("--shards", help="Which shards, where there are several.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the mean heatmap of each class to a .png."
)
@json_option
def stats(as_json: bool, **settings: Any) -> None:
    """Count what a store holds: rows, faces, heatmaps, photos that are there twice, bytes.

    \b
    auheat stats
    auheat stats --shards martinez --plot means.png
    """
    from auheat.reporting.store_stats import stats as run

    told = run(**settings)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    names = [name for name in told["rows"][0] if name not in ("split", "class")]
    names = [name for name in names if any(row[name] for row in told["rows"])]
    rows = [
        (row["split"] or "-", row["class"] or "-", *(str(row[name]) for name in names))
        for row in told["rows"]
    ]
    print_table([("split", "class", *names), *rows])
    click.echo()
    for title in ("photo_height", "photo_width", "eye_distance", "face_share", "score"):
        spread = told[title] or {}
        values = ", ".join(f"{name} {value:g}" for name, value in spread.items())
        click.echo(f"{title.replace('_', ' ')}: {values or 'none'}")
    _print_maps(told)
    single = ("total", "valid", "valid_share", "thin_rows", "persons", "persons_in_several_splits")
    click.echo()
    print_fields({key: told[key] for key in single if key in told}, False)
    click.echo()
    print_table([("dataset", "bytes per sample"), *_bytes(told["bytes_per_sample"])])
    _print_duplicates(told)


def _print_maps(told: dict[str, Any]) -> None:
    if told.get("maps"):
        rows = [
            (row["class"] or "-", str(row["n"]), f"{row['coverage']:.4f}", f"{row['energy']:.4f}")
            for row in told["maps"]
        ]
        click.echo()
        print_table([("heatmaps", "n", "above 0.5", "energy"), *rows])


def _bytes(sizes: dict[str, float]) -> list[tuple[str, str]]:
    rows = sorted(sizes.items(), key=lambda item: -item[1])
    return [(name, f"{n:.1f}") for name, n in [*rows, ("total", sum(sizes.values()))]]


def _print_duplicates(told: dict[str, Any]) -> None:
    click.echo()
    if "duplicates" not in told:
        click.echo("duplicates: not looked for (no photos in these shards)")
        return
    counts = told["duplicates"]
    click.echo(
        f"{counts['photos']} photos are there more than once, in {counts['rows']} rows; "
        f"{counts['leaks']} of them in several splits"
    )
    for rows in told["leaks"]:
        click.echo("  leak: " + ", ".join(f"{r['id']} ({r['split'] or '-'})" for r in rows))


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
