"""The commands that prepare data: demo, extract, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .choices import (
    AU_MODES,
    CROPS,
    DATASET,
    ENGINES,
    GEOMETRIES,
    LANDMARK_MAPS,
    VARIANTS,
    Choice,
    DetectorOrFile,
)
from .common import (
    FILE,
    FOLDER,
    Command,
    backend_option,
    fail_option,
    json_option,
    model_option,
    option,
    overwrite_option,
    print_fields,
    print_summary,
    retry_option,
    store_option,
    workers_option,
)


@click.command(cls=Command)
@click.argument("folder", type=FOLDER)
@option("--train", default=40, show_default=True, help="Training photos per expression.")
@option("--test", default=10, show_default=True, help="Test photos per expression.")
@option("--seed", default=0, show_default=True, help="Another seed, another variation.")
@json_option
def demo(folder: Path, as_json: bool, **settings: Any) -> None:
    """Write a small labelled set of one face in RAF-DB layout to FOLDER.

    It is made from a public-domain portrait whose points are moved as each expression's muscles
    move them. Needs scikit-image: pip install "auheat[demo]".

    \b
    auheat demo rafdb/
    """
    from auheat.demo import write_demo

    print_fields(write_demo(folder, **settings), as_json)


@click.command(cls=Command)
@click.argument("src", type=FILE)
@store_option
@option(
    "--dataset", type=DATASET, default="auto", show_default=True, help="Layout of SRC.",
)  # fmt: skip
@option(
    "--variant",
    type=Choice(VARIANTS),
    metavar="NAME",
    default="auto",
    show_default=True,
    help="RAF-DB: aligned, original; CK+: last1 to last5 frames [last3], or last3+neutral with the "
    "first frame as Neutral; KDEF: frontal, all. auto is the first of each.",
)
@option(
    "--labels",
    type=FILE,
    metavar="MAP.yaml",
    help="What class names of your own mean: lines such as `engaged: Happiness`, or `bored: "
    "Boredom` for a class without action units.",
)
@option("--follow-links", is_flag=True, help="Allow links inside SRC that lead out of it.")
@option(
    "--person-pattern",
    metavar="REGEX",
    help="Its group (person, or the first) is the person that a path in SRC names  [default: as in "
    "JAFFE, KDEF, CK+ and other sets]",
)
@option(
    "--split-pattern",
    metavar="REGEX",
    help="The same for the split: train, val, test  [default: as folders are called]",
)
@option(
    "--clip-pattern",
    metavar="REGEX|none",
    help="The same for the clip that a photo is a frame of  [default: by folders of numbered "
    "frames, and names as in CK+]",
)
@option(
    "--every",
    metavar="N|Ss",
    help="Take each Nth frame of a clip, or of a video one in S seconds (0.5s)  [default: all]",
)
@option(
    "--detector",
    default="mesh",
    show_default=True,
    type=DetectorOrFile(),
    help="What finds the points; dataset: the 68 that AffectNet carries itself; FILE: a file or "
    "folder of points that exist already.",
)
@option(
    "--accurate",
    is_flag=True,
    help="Average two more views of each face, in twice the time: the detector mesh-accurate.",
)
@option(
    "--landmark-map",
    type=Choice(LANDMARK_MAPS),
    default="contour",
    show_default=True,
    help="How the mesh's 468 vertices become 68 points; contour: jaw and brows spaced evenly, as "
    "the markup has them; fitted: not so; index: one vertex each.",
)
@model_option
@option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N; several with commas, such as cuda:0,cuda:1.",
)
@option(
    "--engine",
    type=Choice(ENGINES),
    default="auto",
    show_default=True,
    help="auto: OpenVINO on a CPU, else torch in float32.",
)
@option(
    "--batch-size",
    type=int,
    help="Photos handed to the detector at once; mesh takes at most 64 at a time on a CPU, 256 on "
    "a card  [default: as suits the device]",
)
@workers_option
@backend_option
@option("--limit", type=int, help="Take only this many photos, spread over the set.")
@option("--shard-size", default=1024, show_default=True, help="Rows per shard.")
@retry_option
@overwrite_option
@fail_option
@json_option
def extract(as_json: bool, **settings: Any) -> None:
    """Find 68 landmarks on every photo in SRC.

    SRC is a copy of RAF-DB, AffectNet, FER2013, FER+, ExpW, SFEW, CK+, JAFFE or KDEF as it was
    published, class folders (happy/, sad/, ... with or without train/ and test/), a CSV with path
    and label, or just photos; or videos in such folders or tables (pip install "auheat[video]"),
    whose frames are written to the store and become its photos. How labels were understood is
    printed with counts. A photo that fails becomes a row with a status, never a crash; a stopped
    run goes on where it was when the same command is given again.

    \b
    auheat extract rafdb/
    auheat extract photos/ --limit 500 --store quick-look
    auheat extract rafdb/ --device cuda:0,cuda:1
    auheat extract rafdb/ --detector openface-csvs/
    auheat extract rafdb/ --accurate
    auheat extract rafdb/ --retry-failed
    auheat extract affectnet/ --backend loky --workers 16
    auheat extract affectnet/ --detector dataset
    auheat extract labels.csv
    auheat extract classroom/ --labels map.yaml
    auheat extract clips/ --every 5
    auheat extract photos/ --person-pattern '(?P<person>[^/_]+)_[^/]*$'
    """
    from auheat.pipeline.extraction import extract as run

    print_summary(run(**settings), as_json)


@click.command(cls=Command)
@store_option
@option("--codebook", metavar="NAME|FILE", help="A name or a YAML file  [default: martinez]")
@option("--name", help="What to call the shards  [default: codebook, and what is special]")
@option("--map-size", default=56, show_default=True, help="Side of the heatmap in pixels.")
@option("--generic", is_flag=True, help="Show all AUs of the codebook, whatever the label.")
@option("--landmarks", is_flag=True, help="Show the landmarks themselves, and no AUs.")
@option("--per-au", is_flag=True, help="Add a heatmap for each action unit.")
@option("--per-class", is_flag=True, help="Add a heatmap for each expression.")
@option(
    "--geometry",
    type=Choice(GEOMETRIES),
    default="face",
    show_default=True,
    help="reference: the paper authors' own maps, mistakes included.",
)
@option(
    "--crop",
    type=Choice(CROPS),
    default="none",
    show_default=True,
    help="auto: cut out faces small in their photos.",
)
@option("--align", is_flag=True, help="Turn and scale faces to one place; maps follow.")
@option("--photo-size", default=224, show_default=True, help="Side of aligned photos in pixels.")
@option("--no-images", is_flag=True, help="Write heatmaps and ids, and no photos.")
@option(
    "--aus",
    type=FILE,
    metavar="FILE|DIR",
    help="Which AUs each photo shows: files of OpenFace, py-feat, LibreFace, CK+, DISFA, or a CSV "
    "with path, AU1, AU12, ...",
)
@option(
    "--au-mode",
    type=Choice(AU_MODES),
    help="active: draw those of the expression's AUs that are active in the photo; intensity: by "
    "weight times intensity / 5; prior: all, as without --aus  [default: active with --aus]",
)
@option(
    "--only",
    type=FILE,
    metavar="LIST",
    help="Draw these rows alone: their ids, one a line, or a CSV with a column id. The shards have "
    "no other rows.",
)
@option("--exclude", type=FILE, metavar="LIST", help="Leave these rows out: such a list of ids.")
@option("--keep-low-confidence", is_flag=True, help="Let doubtful faces count as valid.")
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
    auheat render --aus openface-csvs/
    auheat render --aus measured.csv --au-mode intensity
    auheat render --exclude auheat-data/landmarks/failed.csv
    auheat render --only kept.csv --name curated
    """
    from auheat.pipeline.rendering import render as run

    print_summary(run(**settings), as_json)
