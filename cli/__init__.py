"""The command line: parse, one library call, print."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from auheat import __version__

from .codebooks import codebooks
from .common import (
    Group,
    backend_option,
    fail_option,
    json_option,
    overwrite_option,
    print_fields,
    print_summary,
    retry_option,
    store_option,
    workers_option,
)
from .data import export, merge, stats
from .explaining import explain
from .runs import evaluate, report, train
from .sweeps import sweep

# Read when torch is loaded. Threads that spin while they wait make a shared machine several times
# slower (measured: 10 images/s instead of 54), and gain a tenth on a quiet one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="auheat")
def main() -> None:
    """Turn labelled face photos into training shards with action-unit heatmaps.

    \b
    auheat extract rafdb/               photos -> landmarks
    auheat render --codebook martinez   landmarks -> shards with heatmaps
    auheat train                        shards -> an interpretable classifier
    auheat evaluate                     a run -> scores, beside their baselines
    auheat explain RUN photo.jpg        a run + any photo -> what it saw there, as a picture
    auheat sweep --grid demo          a grid of runs -> the paper's tables
    auheat report                       one HTML page to look at

    No photos at hand? `auheat demo rafdb/` makes a small labelled set.
    """


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train", default=40, show_default=True, help="Training photos per expression.")
@click.option("--test", default=10, show_default=True, help="Test photos per expression.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another variation.")
@json_option
def demo(folder: Path, train: int, test: int, seed: int, as_json: bool) -> None:
    """Write a small labelled set of one face in RAF-DB layout to FOLDER.

    It is made from a public-domain portrait whose points are moved as each expression's muscles
    move them. Needs scikit-image: pip install "auheat[demo]".

    \b
    auheat demo rafdb/
    """
    from auheat.demo import write_demo

    print_fields(write_demo(folder, train=train, test=test, seed=seed), as_json)


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@store_option
@click.option(
    "--dataset",
    default="auto",
    show_default=True,
    help="auto, rafdb, rafdb-compound, rafdb-numbered, affectnet, affectnet-reduced, ferplus, "
    "fer2013, expw, sfew, ckplus, csv, folders, jaffe, kdef, photos.",
)
@click.option(
    "--variant",
    default="auto",
    show_default=True,
    help="RAF-DB: aligned, original; CK+: last1 to last5 frames [last3], or last3+neutral with the "
    "first frame as Neutral; KDEF: frontal, all. auto is the first of each.",
)
@click.option("--follow-links", is_flag=True, help="Allow links inside SRC that lead out of it.")
@click.option(
    "--detector",
    default="mesh",
    show_default=True,
    help="mesh, fan, mediapipe; dataset: the 68 points that AffectNet carries itself; or a file "
    "or folder of points that exist already.",
)
@click.option(
    "--landmark-map",
    default="fitted",
    show_default=True,
    help="How the mesh's 468 vertices become 68 points: fitted, or index (one vertex each).",
)
@click.option(
    "--detector-model",
    type=click.Path(path_type=Path),
    help="fan: FAN's weights; mediapipe: face_landmarker.task.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N; several with commas, such as cuda:0,cuda:1.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="auto (OpenVINO on a CPU, else torch in float32), openvino, float32, float16.",
)
@click.option("--batch-size", type=int, help="Photos per batch [default: as suits the device].")
@workers_option
@backend_option
@click.option("--limit", type=int, help="Take only this many photos, spread over the set.")
@click.option("--shard-size", default=1024, show_default=True, help="Rows per shard.")
@retry_option
@overwrite_option
@fail_option
@json_option
def extract(src: Path, as_json: bool, **settings: Any) -> None:
    """Find 68 landmarks on every photo in SRC.

    SRC is a copy of RAF-DB, AffectNet, FER2013, FER+, ExpW, SFEW, CK+, JAFFE or KDEF as it was
    published, class folders (happy/, sad/, ... with or without train/ and test/), a CSV with path
    and label, or just photos. How labels were understood is printed with counts. A photo that fails
    becomes a row with a status, never a crash; a stopped run goes on where it was when the same
    command is given again.

    \b
    auheat extract rafdb/
    auheat extract photos/ --limit 500 --store quick-look
    auheat extract rafdb/ --device cuda:0,cuda:1
    auheat extract rafdb/ --detector openface-csvs/
    auheat extract rafdb/ --retry-failed
    auheat extract affectnet/ --backend loky --workers 16
    auheat extract affectnet/ --detector dataset
    auheat extract labels.csv
    """
    from auheat.pipeline.extraction import extract as run

    print_summary(run(src, **settings), as_json)


@main.command()
@store_option
@click.option("--codebook", help="A name or a YAML file [default: martinez].")
@click.option("--name", help="What to call the shards [default: codebook, and what is special].")
@click.option("--map-size", default=56, show_default=True, help="Side of the heatmap in pixels.")
@click.option("--generic", is_flag=True, help="Show all AUs of the codebook, whatever the label.")
@click.option("--landmarks", is_flag=True, help="Show the landmarks themselves, and no AUs.")
@click.option("--per-au", is_flag=True, help="Add a heatmap for each action unit.")
@click.option("--per-class", is_flag=True, help="Add a heatmap for each expression.")
@click.option(
    "--geometry",
    default="face",
    show_default=True,
    help="face, or reference: the paper authors' own maps, mistakes included.",
)
@click.option(
    "--crop", default="none", show_default=True, help="auto: cut out faces small in their photos."
)
@click.option("--align", is_flag=True, help="Turn and scale faces to one place; maps follow.")
@click.option(
    "--photo-size", default=224, show_default=True, help="Side of aligned photos in pixels."
)
@click.option("--no-images", is_flag=True, help="Write heatmaps and ids, and no photos.")
@click.option("--keep-low-confidence", is_flag=True, help="Let doubtful faces count as valid.")
@workers_option
@backend_option
@retry_option
@overwrite_option
@fail_option
@json_option
def render(as_json: bool, **settings: Any) -> None:
    """Draw one action-unit heatmap per face and write self-contained training shards.

    \b
    auheat render --codebook martinez
    auheat render --codebook my-codebook.yaml --map-size 112
    auheat render --generic --per-au
    auheat render --align --photo-size 112 --name aligned
    auheat render --no-images --name maps-alone
    auheat render --geometry reference
    """
    from auheat.pipeline.rendering import render as run

    print_summary(run(**settings), as_json)


for command in (train, evaluate, explain, sweep, report, export, merge, stats, codebooks):
    main.add_command(command)


@main.command()
@store_option
@click.option("--repair", is_flag=True, help="Take out what is broken; the next run rebuilds it.")
@json_option
def verify(store: Path, repair: bool, as_json: bool) -> None:
    """Check a store against every rule of FORMAT.md; exit 1 where one is broken.

    With --repair, broken shards are taken out and a damaged manifest is replaced by its copy; then
    `extract` or `render`, given as before, makes just that again.

    \b
    auheat verify --store auheat-data
    auheat verify --repair
    """
    from auheat.store.maintenance import repair_store, verify_store

    lost: dict[str, int] = {}
    if repair:
        checked, findings, lost = repair_store(store)
    else:
        checked, findings = verify_store(store)
    if as_json:
        rows = [finding.as_dict() for finding in findings]
        told = {"checked": [str(c) for c in checked], "findings": rows, "to_make_again": lost}
        click.echo(json.dumps(told, indent=1))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{len(checked)} folders checked, {len(findings)} findings")
        for folder, n in lost.items():
            rows_left = "all rows" if n < 0 else f"{n} rows"
            click.echo(f"{folder}: {rows_left} to be made again (give the same command as before)")
    if findings and not repair:
        sys.exit(1)


@main.command()
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A mediapipe 0.10.21 wheel, or a folder with the .tflite files.",
)
@json_option
def detectors(source: Path | None, as_json: bool) -> None:
    """Show where the landmark models lie, or install them from a wheel or folder.

    \b
    auheat detectors
    auheat detectors --from mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl
    """
    from auheat.landmarks.mesh.model_files import MODELS, find_model, install_models

    if source is not None:
        install_models(source)
    print_fields({name: str(find_model(name)) for name in MODELS}, as_json)
