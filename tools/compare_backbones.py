"""Train networks of timm of every form with every method; write the tables of docs/backbones.md.

    python tools/compare_backbones.py STORE PHOTO [--epochs 6] [--networks vit,swin] [--out docs]

It runs where timm is installed (`make test-timm` makes such an environment) on the store's shards:
a hundred or two photos are enough. Of each network CAM is trained without and with AUs, every
other method for an epoch with AUs; all runs are evaluated and reported in STORE, and PHOTO is
explained by the first one with AUs. The last epoch is scored, as the few photos held out would
choose one by chance. What is finished there is not done again. The tables stand between two marks
of the page; backbones.json beside it has every figure. Each run has one thread, so that figures do
not hang on the number of cores.
"""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch

import torch

from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.explanation.explainer import explain_to
from auheat.models.registry import METHODS
from auheat.models.timm_backbones import build_timm
from auheat.reporting.page import report
from auheat.reporting.tables import format_score
from auheat.runs import checkpoint
from auheat.runs.run_folder import BEST, LAST, METRICS, RESULT, read_metadata
from auheat.training.config import make_config
from auheat.training.runner import train

ROOT = Path(__file__).parent.parent
NETWORKS = {
    "resnet": ("ResNet", "timm:resnet18", 96),
    "mobilenet": ("MobileNetV4", "timm:mobilenetv4_conv_small", 96),
    "efficientnet": ("EfficientNet", "timm:tf_efficientnet_lite0", 96),
    "convnext": ("ConvNeXt", "timm:convnext_atto", 96),
    "swin": ("Swin", "timm:swin_tiny_patch4_window7_224", 64),
    "vit": ("ViT", "timm:vit_tiny_patch16_224", 96),
    "dinov2": ("DINOv2, with registers", "timm:vit_small_patch14_reg4_dinov2", 84),
}
"""Name on the command line -> family, network, and the input side in px."""

SETTINGS = {"weights": "none", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}
BATCH = 16
SCORES = ("accuracy", "att_cos", "cam_cos", "margin", "rank1")
START, END = "<!-- measured -->", "<!-- /measured -->"


def take_last(run):
    """Let a run's last epoch be the one that is evaluated: so few photos choose none."""
    last = read_metadata(run / LAST)["curve"][-1]
    if read_metadata(run / BEST)["epoch"] != last["epoch"]:
        tensors = checkpoint.load_tensors(run / LAST)
        weights = {k: v for k, v in tensors.items() if not k.startswith("optimizer/")}
        checkpoint.save_files(run, {BEST: checkpoint.pack_tensors(weights, **last)})


def run_one(store, backbone, side, method, au_weight, epochs):
    """Train and evaluate one network, or read what is finished; return its scores and seconds."""
    asked = {"method": method, "backbone": backbone, "image_size": side, "au_weight": au_weight}
    asked |= SETTINGS | {"batch_size": BATCH, "epochs": epochs}
    name = f"{make_config('none', **asked).run_name}-epochs{epochs}"
    run = train(store, make_config("none", **asked, name=name)).run
    take_last(run)
    file = run / RESULT
    if not file.is_file() or file.stat().st_mtime_ns < (run / BEST).stat().st_mtime_ns:
        evaluate(name, store)
    scores = json.loads(file.read_text())
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return {
        "run": name,
        "method": method,
        "au_weight": au_weight,
        "epochs": epochs,
        "n": scores["n"],
        "train_seconds": round(sum(line["seconds"] for line in lines), 1),
        **{key: scores.get(key) for key in SCORES},
    }


def run_network(store, key, epochs, photo):
    """Return what became of a network: its layers, its runs, and the methods that refuse it."""
    family, backbone, side = NETWORKS[key]
    shape = build_timm(backbone, side)[0].timm_shape
    runs = [run_one(store, backbone, side, "cam", weight, epochs) for weight in (0.0, 4.0)]
    explained = explain_to(store / "runs" / runs[1]["run"], [photo], store=store)
    refused = {}
    for method in [name for name in METHODS if name != "cam"]:
        try:
            runs.append(run_one(store, backbone, side, method, 4.0, 1))
        except AuheatError as error:
            refused[method] = str(error)
    return {
        "key": key,
        "family": family,
        "backbone": backbone,
        "image_size": side,
        "grids": [list(grid) for grid in shape.grids],
        "explained": explained.photos[0][0].expression,
        "runs": runs,
        "refused": refused,
    }


def format_grids(grids):
    """Return a network's layers, their number and sizes: "4: 24, 12, 6, 3"."""
    return f"{len(grids)}: {', '.join(str(rows) for rows, _ in grids)}"


def lay_out(record):
    """Return the two tables of the page for the networks of a record."""
    networks = record["networks"]
    methods = list(dict.fromkeys(r["method"] for one in networks for r in one["runs"]))
    first = networks[0]["runs"][0]
    lines = [
        f"Attention without AUs → with them, CAM, {first['epochs']} epochs:",
        "",
        "| family | `--backbone` | px | layers | ATT-COS | CAM-COS |",
        "|---|---|---|---|---|---|",
    ]
    for one in networks:
        pair = [r for r in one["runs"] if r["method"] == "cam"]
        cells = [" → ".join(format_score(r[key]) for r in pair) for key in ("att_cos", "cam_cos")]
        about = [one["family"], f"`{one['backbone']}`", str(one["image_size"])]
        lines.append(f"| {' | '.join([*about, format_grids(one['grids']), *cells])} |")
    lines += [
        "",
        "ATT-COS with AUs of every method, after one epoch (CAM: as above); - where it is refused:",
        "",
        f"| family | {' | '.join(f'`{name}`' for name in methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for one in networks:
        scores = {r["method"]: format_score(r["att_cos"]) for r in one["runs"] if r["au_weight"]}
        cells = [scores.get(name, "-") for name in methods]
        lines.append(f"| {' | '.join([one['family'], *cells])} |")
    lines += ["", f"All of {first['n']} test photos; torch {record['about']['torch']}, "]
    lines[-1] += f"timm {record['about']['timm']}."
    return "\n".join(lines)


def put_in(page, tables):
    """Return a page with the tables between its marks."""
    head, _, rest = page.partition(START)
    return f"{head}{START}\n{tables}\n{END}{rest.partition(END)[2]}"


def main(arguments=None):
    """Run what is asked for, and write the page after each network, so that it is never lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path, help="a store with shards")
    parser.add_argument("photo", type=Path, help="a photo to explain")
    parser.add_argument("--epochs", type=int, default=6, help="of CAM [default: 6]")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="[default: all]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="[default: docs]")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = {"torch": torch.__version__, "timm": version("timm"), "machine": platform.machine()}
    record = {"about": about, "networks": []}
    page = asked.out / "backbones.md"
    for key in asked.networks.split(","):
        record["networks"].append(run_network(asked.store, key, asked.epochs, asked.photo))
        (asked.out / "backbones.json").write_text(json.dumps(record, indent=1) + "\n")
        page.write_text(put_in(page.read_text(), lay_out(record)))
    names = [r["run"] for one in record["networks"] for r in one["runs"]]
    report(names, asked.store)
    print(f"{page}: {len(names)} runs")


if __name__ == "__main__":
    main()
