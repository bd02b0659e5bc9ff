"""The commands about single runs: train, evaluate, explain, export-model, report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import click

from auheat.evaluation.faithfulness_columns import FAITHFULNESS_PHOTOS, FAITHFULNESS_STEPS
from auheat.training.settings import TrainConfig

from .choices import (
    AMP,
    AU_TARGETS,
    AUGMENTATIONS,
    DETECTOR,
    EVALUATED_SPLITS,
    KINDS,
    METHOD,
    MODEL_FORMATS,
    OPTIMIZERS,
    PRESETS,
    RESAMPLINGS,
    SCHEDULES,
    Choice,
    Layers,
    Listed,
)
from .common import (
    FILE,
    FOLDER,
    Command,
    device_option,
    fail_option,
    json_option,
    model_option,
    option,
    overwrite_option,
    print_fields,
    print_json,
    print_line,
    print_table,
    shards_option,
    store_option,
)

SETTINGS: dict[str, dict[str, str]] = {
    "Run": {
        "name": "What to call the run  [default: made of its settings]",
        "seed": "Another seed, another run.",
        "tensorboard": "Also note each epoch for TensorBoard.",
    },
    "Data": {
        "shards": "Which shards, where there are several.",
        "classes": "Only these expressions, such as Happiness,Anger,Neutral.",
        "val_fraction": "Share of train held out.",
        "faces_only": "Leave out photos without a face  [default: they train the classifier]",
        "train_photos": "Learn from so many, every class in proportion; 0: all.",
        "soft_labels": "Learn the votes of FER+, not which class has most.",
        "balance": "Draw every class as often.",
        "augment": "affine: moved, tinted, erased; crop: mirrored; reference: as published code.",
        "resize": "Resize to this side, learn from random crops; 0: none.",
    },
    "Model": {
        "method": "How attention and class maps are made.",
        "backbone": "One of the method's, or timm:NAME  [default: the method's, resnet50 of cam]",
        "weights": "auto (published files that are at hand, no download), none, or a file.",
        "image_size": "Side of the input  [default: 224, of apvit 112]",
        "geometry_branch": "Decide by where brows, nose, eyes and mouth lie, too.",
        "geometry_dropout": "--geometry-branch: share of photos it is silent on in training.",
    },
    "AU loss": {
        "au_weight": "Weight of the AU loss; 0: none.",
        "contrast_weight": "Weight of telling its class's heatmap from the others'; 0: none.",
        "class_map_weight": "Weight of aligning every class's map with its own heatmap; 0: none.",
        "au_target": "Controls: mean, the mean of all classes' heatmaps; wrong, another class's.",
        "layers": "Layers to align: top, or -1, -2+-1, ...; 1 to 5 where there are five, such as "
        "5+4  [default: top]",
        "align": "How the heatmap is shrunk to a layer; reference: as the published code does.",
    },
    "Optimisation": {
        "epochs": "Passes over the photos.",
        "batch_size": "Photos per step, of all processes together.",
        "optimizer": "sgd is Nesterov's.",
        "lr": "Highest learning rate.",
        "head_lr_factor": "The head's rate, in multiples of --lr.",
        "head_lr_stages": "Last stages of a ResNet that learn at the head's rate, too.",
        "weight_decay": "Weight decay.",
        "schedule": "auto: cosine of sgd, onecycle of adamw.",
        "warmup": "Epochs in which the rate rises  [default: 0; onecycle: a quarter]",
        "step_epochs": "step: epochs between two drops.",
        "step_factor": "step: what a drop multiplies by.",
        "accumulate": "Passes that share a batch, to save memory.",
        "clip": "Largest norm of the gradient; 0: any.",
        "ema": "Validate and keep mean weights of this decay; 0: none.",
        "freeze_bn": "Leave batch normalisation's means alone.",
        "sync_bn": "torchrun, on GPUs: normalise over all processes.",
    },
    "Hardware": {
        "device": "auto, cpu, cuda.",
        "workers": "Processes that decode photos  [default: as many as suit]",
        "amp": "Number format to compute in: none is float32, fp16 needs CUDA.",
        "compile": "Use torch.compile.",
    },
}
"""Section -> setting -> help; type and default are those of `TrainConfig`."""

_TYPES: dict[str, Any] = {
    "classes": Listed(str),
    "augment": Choice(AUGMENTATIONS),
    "method": METHOD,
    "layers": Layers(),
    "align": Choice(RESAMPLINGS),
    "au_target": Choice(AU_TARGETS),
    "optimizer": Choice(OPTIMIZERS),
    "schedule": Choice(SCHEDULES),
    "amp": Choice(AMP),
}

preset_option = option(
    "--preset",
    section="Run",
    type=Choice(PRESETS),
    help="Settings to begin with. demo: a narrow network, minutes; methods: the same on smaller "
    "photos; explain: every class's map aligned, too; rafdb, affectnet: the paper's for that set; "
    "-code: as its published code; ferplus: a narrow network for that set's 48 px  [default: none]",
)


def training_options(without: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that adds an option for each setting of training."""
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    kinds = get_type_hints(TrainConfig)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        rows = [(s, name, text) for s, texts in SETTINGS.items() for name, text in texts.items()]
        for section, name, text in reversed(rows):
            if name in without:
                continue
            default, flag = defaults[name], "--" + name.replace("_", "-")
            if kinds[name] is bool:
                command = option(
                    f"{flag}/--no-{flag[2:]}", default=None, section=section, help=text
                )(command)
                continue
            if default is not None and "[default" not in text:
                shown = "+".join(map(str, default)) if isinstance(default, tuple) else default
                shown = f"{default:g}" if isinstance(default, float) else shown
                text = f"{text}  [default: {shown}]"
            numbers = [kind for kind in (int, float) if kinds[name] in (kind, kind | None)]
            kind = _TYPES.get(name) or (numbers[0] if numbers else str)
            command = option(flag, type=kind, section=section, help=text)(command)
        return command

    return add


@click.command(cls=Command)
@store_option
@preset_option
@training_options()
@overwrite_option
@json_option
def train(as_json: bool, **settings: Any) -> None:
    """Train a classifier whose attention is drawn to the heatmaps (--au-weight 0: left alone).

    The best epoch is chosen on photos held out from train; the test photos stay unseen until
    `evaluate`. A stopped run goes on when the same command is given again, to the same weights.
    With torchrun, several processes or GPUs share each batch of one run. A preset has defaults of
    its own.

    \b
    --backbone  ts-cam: deit-small, deit-tiny, thin-vit    apvit: apvit, thin-apvit
                all others: resnet18, resnet34, resnet50, resnet101, thin, or timm:NAME, any
                network of timm (prm: its ResNets; docs/backbones.md)
    --weights   auto looks in the folder AUHEAT_WEIGHTS, then in torch's hub cache, for
                resnet50-0676ba61.pth and torchvision's other names,
                deit_small_patch16_224-cd65a155.pth, deit_tiny_patch16_224-a1311bcf.pth,
                and of apvit's two parts (a file given by name is one of them, or the whole)
                backbone_ir50_ms1m_epoch120.pth, vit_small_p16_224-15ec54c9.pth;
                each may be a .safetensors file instead

    \b
    auheat train --preset demo
    auheat train --preset demo --au-weight 0 --name without-aus
    auheat train --preset demo --class-map-weight 1 --name each-class
    auheat train --preset demo --contrast-weight 0.3 --name apart
    auheat train --preset demo --geometry-branch --name with-points
    auheat train --preset rafdb --device cuda --amp bf16
    auheat train --method layercam --balance --warmup 2 --ema 0.999
    auheat train --config settings.yaml --seed 1
    torchrun --nproc-per-node 2 -m auheat train --preset affectnet --sync-bn
    """
    from auheat.training.runner import train as run
    from auheat.utils.distributed import join

    preset = settings.pop("preset") or "none"
    with join() as world:
        summary = run(preset=preset, **settings).as_dict()
    notes = summary.pop("notes")
    if world.is_main:
        print_fields(summary | ({"notes": notes} if as_json else {}), as_json)


@click.command(cls=Command)
@click.argument("run", required=False)
@store_option
@option(
    "--split",
    type=Choice(EVALUATED_SPLITS),
    help="val: the photos held out of training; of another store also train, all  [default: test; "
    "all of another store that has no test photos]",
)
@option("--shards", help="Score on these shards  [default: called like the run's, or the only]")
@device_option
@option(
    "--maps",
    type=FILE,
    help="Score another tool's heatmaps: an .npz, or a folder of one file per photo.",
)
@option("--require-all-maps", is_flag=True, help="--maps: exit 1 if a photo has no map.")
@option("--save-maps", type=FILE, help="Write the run's maps to this .npz.")
@option(
    "--kind",
    type=Choice(KINDS),
    default="attention",
    show_default=True,
    help="--save-maps: attention, cam (of the true class), cam-predicted.",
)
@option("--faithfulness", is_flag=True, help="Measure whether the network uses what maps show.")
@option(
    "--faithfulness-photos",
    type=int,
    default=FAITHFULNESS_PHOTOS,
    show_default=True,
    help="--faithfulness: on so many photos, spread over the classes.",
)
@option(
    "--faithfulness-steps",
    type=int,
    default=FAITHFULNESS_STEPS,
    show_default=True,
    help="--faithfulness: in so many steps.",
)
@json_option
def evaluate(as_json: bool, **settings: Any) -> None:
    """Score RUN (a name or folder; by default the newest) on the test photos.

    Accuracy, and how far attention and CAM agree with the expected action units, each with its 95 %
    interval, beside the baselines without which a cosine means little; then which action units are
    looked at, and whether probabilities can be trusted. Class rank-1 is the share of the maps of
    all classes, on every face, that are closest to their own class's action units. The map of apvit
    is the same for every class: it has no CAM-COS ("-", null in JSON), and no such score.

    With --store OTHER the run is scored on another data set, whose labels are matched with the
    run's classes by name or synonym (happy is Happiness); classes without photos, and labels that
    the run does not know, are told with counts. These scores go to RUN/evaluations/STORE-SHARDS,
    and `report` puts runs and stores side by side.

    --maps needs no run. Its .npz has id (N) and map (N, h, w), and predicted (N) for accuracy; a
    folder has ID.npy, ID.npz or ID.png. A map with NaN is left out, with its photo, and counted.
    The scores go to the store's evaluations/.

    --faithfulness takes pixels away in a map's order and asks the network again, beside the
    codebook's heatmap, a wrong class's, a random map and a centred Gaussian; then it randomises
    weights and moves the photo. Also, how far a class's logit falls without the regions of its own
    action units, less without as many pixels elsewhere. Each photo takes about 450 forward passes.
    With --maps it needs RUN, too.

    \b
    auheat evaluate
    auheat evaluate without-aus
    auheat evaluate with-aus --store affectnet
    auheat evaluate --save-maps attention.npz
    auheat evaluate --maps saliency.npz
    auheat evaluate with-aus --faithfulness
    auheat evaluate with-aus --faithfulness --maps saliency.npz
    """
    from auheat.evaluation.evaluator import evaluate as run
    from auheat.reporting.console import (
        format_calibration,
        format_counts,
        format_source,
        tabulate_geometry,
        tabulate_headline,
        tabulate_units,
        tabulate_votes,
    )
    from auheat.reporting.faithfulness_section import format_cost, tabulate_faithfulness

    result = run(**settings).as_dict()
    if as_json:
        print_json(result)
        return
    print_table(tabulate_headline(result))
    print_line()
    print_table(tabulate_units(result))
    print_line()
    if "geometry" in result:
        print_table(tabulate_geometry(result))
        print_line()
    if "votes" in result:
        print_table(tabulate_votes(result))
        print_line()
    source = format_source(result["scored_on"])
    for line in (format_calibration(result), format_counts(result), source):
        if line:
            print_line(line)
    if "faithfulness" in result:
        for table in tabulate_faithfulness(result):
            print_line()
            print_table(table)
        print_line()
        print_line(format_cost(result))


@click.command(cls=Command)
@click.argument("run")
@click.argument("images", nargs=-1, required=True, type=FILE)
@store_option
@option("--label", default="", help="The true expression of these photos, to be shown, too.")
@option("--against", default="", help="Why not this expression?  [default: the runner-up]")
@option("--out", type=FOLDER, help="Folder  [default: RUN/explain]")
@device_option
@option("--detector", type=DETECTOR, help="Another detector  [default: the run's]")
@model_option
@fail_option
@json_option
def explain(fail_on_bad: bool, as_json: bool, **settings: Any) -> None:
    """Explain what RUN (a name or folder) says of IMAGES, photos and folders of them.

    Of each photo a picture NAME.png and its numbers NAME.json are written: expression, where the
    network looked, which action units the codebook expects, how far the two agree, and why this
    expression and not another: both class maps, and what each says in the region of every action
    unit. RUN's folder is enough: it may have been copied here without its store. A photo in which
    no face is found is explained by its maps alone; one that cannot be read gets a line of its own.
    If none can be explained the exit code is 1.

    \b
    auheat explain with-aus photo.jpg
    auheat explain with-aus photo.jpg --against fear
    auheat explain with-aus photos/ --label happy --out explained
    auheat explain runs/with-aus photo.jpg --json
    """
    from auheat.explanation.explainer import explain_to

    summary = explain_to(**settings)
    if as_json:
        print_json(summary.as_dict())
    else:
        print_table(summary.tabulate())
        for line in summary.describe_measures():
            print_line(line)
        written = f", written to {summary.folder}" if summary.explained else ""
        maps = f" ({summary.faceless} without a face, by maps alone)" if summary.faceless else ""
        print_line(f"{summary.explained} of {len(summary.photos)} photos explained{maps}{written}")
    if not summary.explained or (fail_on_bad and summary.bad):
        sys.exit(1)


@click.command("export-model", cls=Command)
@click.argument("run", required=False)
@store_option
@option(
    "--format",
    type=Choice(MODEL_FORMATS),
    default="onnx",
    show_default=True,
    help="onnx (pip install 'auheat[onnx]'); torchscript; safetensors: weights alone; huggingface: "
    "a folder with config.json, model.safetensors and a model card.",
)
@option("--out", type=FILE, help="File, or folder of huggingface  [default: in RUN/export]")
@option("--overwrite", is_flag=True, help="Replace an export that is there already.")
@json_option
def export_model(as_json: bool, **settings: Any) -> None:
    """Write the network of RUN (a name or folder; by default the newest) for other programs.

    Images are normalised inside the network, batches may have any number of photos, and classes,
    codebook, input size and framing stand in the file's metadata. onnx and torchscript give logits,
    attention (of the top layer) and class_maps, and are compared with the network before they are
    written. apvit has no maps of classes: what an export lacks is named. A run with
    --geometry-branch takes landmarks as its second input. The model card is written from the run's
    evaluation: evaluate it before. In Python, `auheat.load_model(RUN)` is the same network as a
    torch module; it loads safetensors and huggingface exports, too.

    \b
    auheat export-model with-aus
    auheat export-model with-aus --format torchscript --out with-aus.pt
    auheat export-model with-aus --format huggingface --out to-publish/ --overwrite
    """
    from auheat.deployment.exporter import export_model as run

    result = run(**settings)
    if as_json:
        print_json(result)
        return
    differences = result.pop("differences", {})
    left_out = result.pop("left_out")
    fields = {key.replace("_", " "): value for key, value in result.items()}
    fields |= {f"{name} off by at most": f"{gap:.1e}" for name, gap in differences.items()}
    print_fields(fields | {f"left out: {name}": why for name, why in left_out.items()})


@click.command(cls=Command)
@click.argument("runs", nargs=-1)
@store_option
@shards_option
@option("--out", type=FILE, help="HTML file, or a report to replace  [default: in the store]")
@json_option
def report(as_json: bool, **settings: Any) -> None:
    """Write one self-contained HTML page: faces, heatmaps, counts, and RUNS side by side.

    RUNS are names or folders, by default all of the store's. Runs that differ in --au-weight or
    --layers alone are shown as pairs and curves; where runs were scored on other stores, too, there
    are tables of runs x stores. Shards without photos show landmarks and heatmaps.

    \b
    auheat report
    auheat report with-aus without-aus --out comparison.html
    """
    from auheat.reporting.page import report as run

    print_fields({"report": str(run(**settings))}, as_json)
