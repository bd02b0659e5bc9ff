"""The commands about runs: train, evaluate, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from auheat.errors import AuheatError

from .common import (
    json_option,
    overwrite_option,
    print_fields,
    print_table,
    store_option,
)


@click.command()
@store_option
@click.option(
    "--preset",
    default="none",
    show_default=True,
    help="demo: a narrow network, minutes; methods: the same on smaller photos; rafdb, affectnet: "
    "the paper's settings for that set.",
)
@click.option(
    "--method",
    help="cam, wildcat, gradcam, gradcam++, acol, prm, adl, cutmix, layercam, ts-cam, apvit "
    "[default: cam].",
)
@click.option(
    "--backbone", help="One of the method's, or timm:NAME [default: the method's, resnet50 of cam]."
)
@click.option(
    "--weights",
    default=None,
    help="auto (published files that are at hand, no download), none, or a file [default: auto].",
)
@click.option("--image-size", type=int, help="Side of the input [default: 224, of apvit 112].")
@click.option("--au-weight", type=float, help="Weight of the AU loss; 0: none [default: 4].")
@click.option(
    "--contrast-weight",
    type=float,
    help="Weight of telling its class's heatmap from the others'; 0: none [default: 0].",
)
@click.option("--layers", help="Layers to align, 1 to 5, such as 5 or 5+4 [default: 5].")
@click.option("--epochs", type=int, help="Passes over the photos [default: 30].")
@click.option(
    "--batch-size", type=int, help="Photos per step, of all processes together [default: 32]."
)
@click.option("--optimizer", help="sgd (Nesterov) or adamw [default: sgd].")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option(
    "--head-lr-factor", type=float, help="The head's rate, in multiples of --lr [default: 1]."
)
@click.option("--weight-decay", type=float, help="[default: 0.0005]")
@click.option(
    "--schedule",
    help="constant, step, cosine, onecycle, or auto: cosine of sgd, onecycle of adamw "
    "[default: auto].",
)
@click.option(
    "--warmup", type=float, help="Epochs in which the rate rises [default: 0; onecycle: a quarter]."
)
@click.option("--step-epochs", type=int, help="step: epochs between two drops [default: 10].")
@click.option("--step-factor", type=float, help="step: what a drop multiplies by [default: 0.1].")
@click.option(
    "--augment",
    help="affine (moved, tinted, erased), crop (mirrored alone), none [default: affine].",
)
@click.option(
    "--resize",
    type=int,
    help="Resize to this side, learn from random crops; 0: none [default: 0].",
)
@click.option("--balance/--no-balance", default=None, help="Draw every class as often.")
@click.option(
    "--accumulate", type=int, help="Passes that share a batch, to save memory [default: 1]."
)
@click.option("--clip", type=float, help="Largest norm of the gradient; 0: any [default: 0].")
@click.option(
    "--ema", type=float, help="Judge and keep mean weights of this decay; 0: none [default: 0]."
)
@click.option(
    "--freeze-bn/--no-freeze-bn", default=None, help="Leave batch normalisation's means alone."
)
@click.option(
    "--sync-bn/--no-sync-bn", default=None, help="torchrun: normalise over all processes."
)
@click.option("--amp", help="Compute in none (float32), bf16, fp16 (CUDA) [default: none].")
@click.option("--compile/--no-compile", default=None, help="Use torch.compile.")
@click.option("--val-fraction", type=float, help="Share of train held out [default: 0.1].")
@click.option("--classes", help="Only these expressions, such as Happiness,Anger,Neutral.")
@click.option("--seed", type=int, help="Another seed, another run [default: 0].")
@click.option("--device", default=None, help="auto, cpu, cuda [default: auto].")
@click.option(
    "--workers", type=int, help="Processes that decode photos [default: as many as suit]."
)
@click.option("--shards", help="Which shards, where there are several.")
@click.option("--name", help="What to call the run [default: made of its settings].")
@click.option(
    "--tensorboard/--no-tensorboard", default=None, help="Also note each epoch for TensorBoard."
)
@overwrite_option
@json_option
def train(
    store: Path,
    preset: str,
    layers: str | None,
    classes: str | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a classifier whose attention is drawn to the heatmaps (--au-weight 0: left alone).

    The best epoch is chosen on photos held out from train; the test photos stay unseen until
    `evaluate`. A stopped run goes on when the same command is given again, to the same weights.
    With torchrun, several processes or GPUs share each batch of one run.

    \b
    --backbone  ts-cam: deit-small, deit-tiny, thin-vit    apvit: apvit, thin-apvit
                prm, adl: resnet18, resnet34, resnet50, resnet101, thin
                all others: the same, or timm:NAME
    --weights   auto looks in the folder AUHEAT_WEIGHTS, then in torch's hub cache, for
                resnet50-0676ba61.pth and torchvision's other names,
                deit_small_patch16_224-cd65a155.pth, deit_tiny_patch16_224-a1311bcf.pth,
                and of apvit's two parts (a file given by name is one of them, or the whole)
                backbone_ir50_ms1m_epoch120.pth, vit_small_p16_224-15ec54c9.pth;
                each may be a .safetensors file instead

    \b
    auheat train --preset demo
    auheat train --preset demo --au-weight 0 --name without-aus
    auheat train --preset demo --contrast-weight 0.3 --name apart
    auheat train --preset rafdb --device cuda --amp bf16
    auheat train --method layercam --balance --warmup 2 --ema 0.999
    torchrun --nproc-per-node 2 -m auheat.cli train --preset affectnet --sync-bn
    """
    from auheat.training.config import make_config
    from auheat.training.runner import train as run
    from auheat.utils.distributed import join

    with join() as world:
        config = make_config(preset, layers=_numbers(layers), classes=_names(classes), **settings)
        summary = run(store, config, overwrite, lambda note: click.echo(note, err=True))
    fields = summary.as_dict()
    notes = fields.pop("notes")
    if world.is_main:
        print_fields(fields | ({"notes": notes} if as_json else {}), as_json)


@click.command()
@click.argument("run", required=False)
@store_option
@click.option("--split", default="test", show_default=True, help="test, or val.")
@click.option("--shards", help="Score on these shards [default: those of the run].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Score another tool's heatmaps: an .npz, or a folder of one file per photo.",
)
@click.option("--require-all-maps", is_flag=True, help="--maps: exit 1 if a photo has no map.")
@click.option(
    "--save-maps", type=click.Path(path_type=Path), help="Write the run's maps to this .npz."
)
@click.option(
    "--kind",
    default="attention",
    show_default=True,
    help="--save-maps: attention, cam (of the true class), cam-predicted.",
)
@json_option
def evaluate(store: Path, as_json: bool, **settings: Any) -> None:
    """Score RUN (a name or folder; by default the newest) on the test photos.

    Accuracy, and how far attention and CAM agree with the expected action units, each with its 95 %
    interval, beside the baselines without which a cosine means little; then which action units are
    looked at, and whether probabilities can be trusted. The map of apvit is the same for every
    class: it has no CAM-COS ("-", null in JSON).

    --maps needs no run. Its .npz has id (N) and map (N, h, w), and predicted (N) for accuracy; a
    folder has ID.npy, ID.npz or ID.png. The scores go to the store's evaluations/.

    \b
    auheat evaluate
    auheat evaluate without-aus
    auheat evaluate --save-maps attention.npz
    auheat evaluate --maps saliency.npz
    """
    from auheat.evaluation.evaluator import evaluate as score
    from auheat.reporting.console import (
        format_calibration,
        format_counts,
        tabulate_headline,
        tabulate_units,
    )

    result = score(store, **settings).as_dict()
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    print_table(tabulate_headline(result))
    click.echo()
    print_table(tabulate_units(result))
    click.echo()
    for line in (format_calibration(result), format_counts(result)):
        if line:
            click.echo(line)


@click.command()
@click.argument("runs", nargs=-1)
@store_option
@click.option("--shards", help="Which shards, where there are several.")
@click.option("--out", type=click.Path(path_type=Path), help="HTML file [default: in the store].")
@json_option
def report(
    store: Path, runs: tuple[str, ...], shards: str | None, out: Path | None, as_json: bool
) -> None:
    """Write one self-contained HTML page: faces, heatmaps, counts, and RUNS side by side.

    RUNS are names or folders, by default all of the store's. Runs that differ in --au-weight or
    --layers alone are shown as pairs and curves. Shards without photos show landmarks and heatmaps.

    \b
    auheat report
    auheat report with-aus without-aus --out comparison.html
    """
    from auheat.reporting.page import write_report

    print_fields({"report": str(write_report(store, runs, shards, out))}, as_json)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Read "5+4" or "5,4" as (5, 4)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace(",", "+").split("+"))
    except ValueError as error:
        raise AuheatError(f"--layers: {text!r} (expected numbers such as 5 or 5+4)") from error


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))
