"""Cross-validate what attention is taught, on a store of your own, and write docs/attention.md.

    python tools/compare_targets.py STORE WORK --persons people.csv [--folds 5] [--epochs 40]
        [--size 64] [--classes Happiness,Anger] [--shards NAME] [--jobs 2] [--out docs]

Every variant trains on the same folds, cut by person, with the same seed, so that two of them are
compared photo by photo. people.csv has the columns name (of the photo's file) and person; without
it the shards' own persons count. The splits of the store are put together. A run that is finished
in WORK is not done again. The last epoch is judged, so that nothing is chosen on photos.
"""

import argparse
import csv
import json
import os
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch

import numpy as np
import torch

from auheat.data.dataset import ShardDataset
from auheat.evaluation.bootstrap import interval, paired_interval
from auheat.evaluation.model_maps import MapSet, predict_maps, view_maps
from auheat.evaluation.results import ScoreTable
from auheat.evaluation.scorer import CONSTANTS, MapScorer
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.models.registry import build_classifier
from auheat.runs import codebook
from auheat.store.store import find_rendered, list_finished
from auheat.training.class_targets import Targets
from auheat.training.config import make_config
from auheat.training.optim import make_optimizer
from auheat.training.trainer import Trainer
from auheat.training.training_data import TrainingData, join_geometry
from auheat.utils.distributed import World

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
VARIANTS = {
    "without": ("without AUs", {"au_weight": 0.0}, None),
    "paper": ("the paper's loss", {}, None),
    "blind": ("control: a target that knows no class", {}, "blind"),
    "wrong": ("control: the target of a fixed wrong class", {}, "wrong"),
    "light": ("the paper's loss and a contrast of 0.3", {"contrast_weight": 0.3}, None),
    "contrast": ("the paper's loss and a contrast of 1", {"contrast_weight": 1.0}, None),
    "points": ("the paper's loss and a geometry branch", {"geometry_branch": True}, None),
}
"""Name -> title, settings, and what is put in the place of the heatmaps."""

COLUMNS = {
    "accuracy": "accuracy",
    "att_cos": "ATT-COS",
    "att_cos_centred": "centred",
    "cam_cos": "CAM-COS",
    "margin": "margin",
    "rank1": "rank-1",
    "cam_margin": "CAM margin",
    "cam_rank1": "CAM rank-1",
}
BASELINES = {
    "mean_heatmap": "baseline: the mean training heatmap",
    "uniform": "baseline: a uniform map",
    "best centred Gaussian": "baseline: the best centred Gaussian",
    "wrong class": "baseline: the photo's heatmap of a wrong class",
}
PAIRS = (
    ("paper", "without"),
    ("paper", "blind"),
    ("paper", "wrong"),
    ("light", "paper"),
    ("contrast", "paper"),
    ("points", "paper"),
)


def read_persons(file):
    """Return the person of each photo, by the name of its file without the ending."""
    with file.open(newline="", encoding="utf-8") as lines:
        return {PurePosixPath(row["name"]).stem: row["person"] for row in csv.DictReader(lines)}


def cut_folds(labels, persons, folds, seed=0):
    """Return each row's fold (N,): whole persons, every class spread as evenly as that allows."""
    groups = defaultdict(list)
    for row, person in enumerate(persons):
        groups[person or row].append(row)
    rng = np.random.default_rng(seed)
    members = [np.array(rows) for rows in groups.values()]
    rng.shuffle(members)
    members.sort(key=len, reverse=True)
    total, count = np.bincount(labels), np.zeros((folds, labels.max() + 1))
    out = np.zeros(len(labels), np.int64)
    for rows in members:
        more = np.bincount(labels[rows], minlength=len(total))
        crowded = ((count + more) / total * (more > 0)).sum(1) + count.sum(1) / len(labels)
        best = int(crowded.argmin())
        count[best] += more
        out[rows] = best
    return out


def change_targets(dataset, plan, kind, chosen):
    """Put others in the place of the heatmaps: of no class (the mean of all), or of a wrong one."""
    stored = dataset._cache["heatmap"]
    targets = Targets(plan, dataset.labels, CPU)
    drawn = [k for k, blobs in enumerate(plan.classes) if blobs is not None]
    following = {k: drawn[(i + 1) % len(drawn)] for i, k in enumerate(drawn)}
    for row in chosen:
        points = dataset._cache["landmarks"][row][None]
        maps = targets.draw(points, dataset.image_size, tuple(stored.shape[1:]))[0]
        label = int(dataset.labels[row])
        if label in following:
            one = maps[drawn].mean(0) if kind == "blind" else maps[following[label]]
            stored[row] = (255 * one).round().to(torch.uint8)


def run_one(options, name, fold):
    """Train one variant on all folds but one and score it on that; write each photo's numbers."""
    file = options.work / f"{name}-{fold}.npz"
    if file.is_file():
        return
    torch.set_num_threads(1)
    _, given, kind = VARIANTS[name]
    config = make_config(
        "methods", image_size=options.size, epochs=options.epochs, seed=fold, workers=0, **given
    )
    dataset, plan = open_dataset(options)
    persons = find_persons(options, dataset)
    folds = cut_folds(dataset.labels, persons, options.folds)
    learnt, judged = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    kept = dataset._cache["heatmap"].clone()
    if kind:
        change_targets(dataset, plan, kind, learnt.tolist())
    torch.manual_seed(fold)
    model = build_classifier(config.method, config.backbone, len(dataset.class_names))
    model = model.to(memory_format=torch.channels_last)
    # nothing is chosen by validation: it looks at one batch that was learnt from
    book, first = codebook.read_codebook(dataset.files), learnt[: config.batch_size]
    material = TrainingData(options.store, dataset, learnt, dataset, first, plan, {}, book)
    if config.geometry_branch:
        model, _ = join_geometry(model, material)
    optimizer = make_optimizer(
        model, config.optimizer, config.lr, config.weight_decay, config.head_lr_factor
    )
    engine = Trainer(config, material, model, optimizer, CPU, World())
    started = time.perf_counter()
    for epoch in range(config.epochs):
        engine.run_epoch(epoch)
    seconds = time.perf_counter() - started
    dataset._cache["heatmap"] = kept
    found = score(model.eval(), dataset, judged, plan, learnt) | {"seconds": seconds}
    part = file.with_suffix(".part.npz")
    np.savez(part, persons=np.array(persons)[judged], **found)
    part.replace(file)
    print(f"{name} fold {fold}: {seconds:.0f} s", flush=True)


def score(model, dataset, rows, plan, learnt):
    """Return labels, predictions and every score of the rows judged."""
    scorer = make_scorer(dataset, plan, learnt)
    with torch.inference_mode():
        for part in np.array_split(rows, -(-len(rows) // 32)):
            batch = dataset.take(part.tolist())
            images = (batch["image"].float() / 255).contiguous(memory_format=torch.channels_last)
            maps = predict_maps(model, images, batch["face"])
            scorer.update(view_maps(maps, batch["label"]), batch)
    tables = scorer.compute()
    totals = ScoreTable(tables, scorer.renderer, scorer.kinds, scorer.kinds, scorer.top, [])
    scores = {}
    for column, values in totals.columns().items():
        scores[column] = np.full(len(tables.label), np.nan)
        scores[column][tables.scored] = values
    hits = (tables.predicted == tables.label).astype(float)
    return {"label": tables.label, "predicted": tables.predicted, "accuracy": hits, **scores}


def make_scorer(dataset, plan, learnt):
    """Return a scorer whose mean heatmap is that of the rows learnt from."""
    heatmaps = dataset._cache["heatmap"].float() / 255
    labels = torch.from_numpy(dataset.labels)
    chosen = torch.zeros(len(dataset), dtype=torch.bool)
    chosen[learnt] = True
    chosen &= dataset._cache["valid"]
    means = [heatmaps[chosen & (labels == k)] for k in range(len(plan.names))]
    mean = torch.stack([m.mean(0) for m in means if len(m)]).mean(0)
    return MapScorer(ClassMapRenderer(plan, dataset.image_size), mean, CPU)


def open_dataset(options):
    """Return all photos of the shards, in memory, and the plan of their heatmaps."""
    files, _ = list_finished(find_rendered(options.store, options.shards), "auheat render")
    dataset = ShardDataset(files, None, options.size, options.classes)
    dataset.cache()
    return dataset, plan_heatmaps(codebook.read_codebook(files), dataset.class_names)


def find_persons(options, dataset):
    """Return the person of each row, "" where nobody is known."""
    if options.persons is None:
        return dataset.persons
    known = read_persons(options.persons)
    return [known.get(PurePosixPath(key).stem, "") for key in dataset.ids]


def score_baselines(options):
    """Return the scores of maps that saw no photo, over all folds: name -> its four scores."""
    dataset, plan = open_dataset(options)
    folds = cut_folds(dataset.labels, find_persons(options, dataset), options.folds)
    found = defaultdict(list)
    for fold in range(options.folds):
        rows, learnt = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        scorer = make_scorer(dataset, plan, learnt)
        batch = dataset.take(rows.tolist())
        nothing = {"layer 5": torch.zeros(len(rows), 1, 1)}
        unknown = torch.full((len(rows), len(plan.names)), torch.nan)
        scorer.update(MapSet(nothing, torch.full((len(rows),), -1), unknown), batch)
        tables = scorer.compute()
        found["label"].append(tables.label[tables.scored])
        found["wrong"].append(tables.wrong_class)
        found["constants"].append(tables.constants)
    label, wrong, constants = (np.concatenate(found[k]) for k in ("label", "wrong", "constants"))
    means = [constants[label == k].mean(0) for k in np.unique(label)]
    table = np.mean(means, 0)
    gaussians = table[len(CONSTANTS) :]
    rows = dict(zip(CONSTANTS, table[: len(CONSTANTS)], strict=True))
    rows["best centred Gaussian"] = gaussians[gaussians[:, 0].argmax()]
    rows["wrong class"] = np.mean([wrong[label == k].mean(0) for k in np.unique(label)], 0)
    keys = ("att_cos", "att_cos_centred", "margin", "rank1")
    return {
        BASELINES.get(name, name): dict(zip(keys, values.tolist(), strict=True))
        for name, values in rows.items()
    }


def gather(options):
    """Return each variant's numbers over all folds, in the same order of photos."""
    found = {}
    for name in VARIANTS:
        parts = [
            dict(np.load(options.work / f"{name}-{k}.npz", allow_pickle=False))
            for k in range(options.folds)
        ]
        keys = [key for key in parts[0] if key != "seconds"]
        found[name] = {key: np.concatenate([part[key] for part in parts]) for key in keys}
        found[name]["seconds"] = np.array([part["seconds"] for part in parts])
    return found


def compare(found):
    """Return means with intervals of each variant, and the paired differences."""
    first = found["paper"]
    labels, persons = first["label"], first["persons"].tolist()

    def about(key):
        return {"labels": labels, "persons": persons, "balanced": key != "accuracy"}

    table = {
        name: {key: interval(values[key], **about(key))._asdict() for key in COLUMNS}
        for name, values in found.items()
    }
    pairs = {
        f"{a} - {b}": {
            key: paired_interval(found[a][key], found[b][key], **about(key))._asdict()
            for key in COLUMNS
        }
        for a, b in PAIRS
    }
    seconds = {name: float(values["seconds"].max()) for name, values in found.items()}
    return {"photos": len(labels), "variants": table, "pairs": pairs, "most_seconds": seconds}


def tell(score, signed=False):
    """Return a score and its interval as one cell."""
    value, low, high = (f"{score[k]:{'+' if signed else ''}.3f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def tabulate(rows, headings):
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_page(options, results):
    """Write the measured tables between the marks of docs/attention.md, and the numbers beside."""
    shown = list(COLUMNS)
    variants = tabulate(
        [
            [VARIANTS[name][0], *(f"{scores[key]['value']:.3f}" for key in shown)]
            for name, scores in results["variants"].items()
        ]
        + [
            [name, *(f"{scores[key]:.3f}" if key in scores else "" for key in shown)]
            for name, scores in results["baselines"].items()
        ],
        ["trained with", *COLUMNS.values()],
    )
    pairs = tabulate(
        [
            [pair, *(tell(scores[key], True) for key in shown)]
            for pair, scores in results["pairs"].items()
        ],
        ["difference", *COLUMNS.values()],
    )
    (options.out / "attention.json").write_text(json.dumps(results, indent=1) + "\n")
    page = options.out / "attention.md"
    start, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, rest = page.read_text(encoding="utf-8").split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}{variants}\n\n{pairs}\n{end}{after}", encoding="utf-8")


def main():
    """Run what is asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--persons", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--classes", type=lambda text: text.split(","))
    parser.add_argument("--shards")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tasks = [(options, name, fold) for fold in range(options.folds) for name in VARIANTS]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for done in [pool.submit(run_one, *task) for task in tasks]:
            done.result()
    results = compare(gather(options)) | {"baselines": score_baselines(options)}
    results["settings"] = {key: str(getattr(options, key)) for key in ("folds", "epochs", "size")}
    write_page(options, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
