"""The command about photos of one's own: explain."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import click

from .common import json_option, print_table, store_option


@click.command()
@click.argument("run")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@store_option
@click.option("--label", default="", help="The true expression of these photos, to be shown, too.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder [default: RUN/explain]."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
@click.option("--detector", help="mesh, fan, mediapipe [default: the run's].")
@click.option(
    "--detector-model",
    type=click.Path(path_type=Path),
    help="fan: FAN's weights; mediapipe: face_landmarker.task.",
)
@click.option("--fail-on-bad", is_flag=True, help="Exit 1 if any photo has a bad status.")
@json_option
def explain(
    run: str,
    images: tuple[Path, ...],
    store: Path,
    label: str,
    out: Path | None,
    device: str,
    detector: str | None,
    detector_model: Path | None,
    fail_on_bad: bool,
    as_json: bool,
) -> None:
    """Explain what RUN (a name or folder) says of IMAGES, photos and folders of them.

    Of each photo a picture NAME.png and its numbers NAME.json are written: expression, where the
    network looked, which action units the codebook expects, and how far the two agree. RUN's
    folder is enough: it may have been copied here without its store. A photo without a face gets a
    line of its own; if none can be explained the exit code is 1.

    \b
    auheat explain with-aus photo.jpg
    auheat explain with-aus photos/ --label happy --out explained
    auheat explain runs/with-aus photo.jpg --json
    """
    from auheat.explanation.explainer import (
        FOLDER,
        Explainer,
        describe_aus,
        describe_failure,
        explain_to,
    )
    from auheat.explanation.inputs import gather_photos
    from auheat.runs.run_folder import find_run

    photos = gather_photos(images, partial(click.echo, err=True))
    folder = find_run(store, run)
    explainer = Explainer(folder, device, detector, detector_model)
    for note in explainer.notes:
        click.echo(note, err=True)
    target = folder / FOLDER if out is None else out
    rows = [("photo", "status", "expression", "probability", "cosine", "AUs most attended")]
    told, bad = [], 0
    for found, panel in explain_to(explainer, photos, target, label):
        bad += found.status.name not in ("OK", "MANY_FACES")
        about = found.as_dict() | ({"panel": str(panel)} if panel else {})
        told.append(about)
        if panel is None:
            click.echo(describe_failure(found), err=True)
            rows.append((str(found.photo), found.status.name, "-", "-", "-", "-"))
            continue
        cosine = found.scores["attention"].cosine
        rows.append(
            (
                str(found.photo),
                found.status.name,
                found.expression,
                f"{found.probability:.3f}",
                "-" if cosine is None else f"{cosine:.3f}",
                describe_aus(found) or "-",
            )
        )
    explained = sum("panel" in row for row in told)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    else:
        print_table(rows)
        where = f", written to {target}" if explained else ""
        click.echo(f"{explained} of {len(photos)} photos explained{where}")
    if not explained or (fail_on_bad and bad):
        sys.exit(1)
