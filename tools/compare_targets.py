"""Cross-validate what attention is taught, on a store of your own, and write docs/attention.md.

    python tools/compare_targets.py STORE WORK --persons people.csv [--folds 5] [--few-folds 2]
        [--seeds 3] [--epochs 30] [--size 64] [--methods cam,ts-cam] [--variants paper,maps]
        [--classes Happiness,Anger] [--shards NAME] [--jobs 2] [--out docs] [--faithfulness]

tools/compare_weights.py does the same of networks with and without published weights.

Every variant trains on the same folds, cut by person, with the same seed, so that two of them are
compared photo by photo. people.csv has the columns name (of the photo's file) and person; without
it the shards' own persons count. The first method is trained with all variants, the others with
the paper's loss and with class maps. These two of the first method are trained on all folds with
all seeds, without AUs on all folds, all else on the first few folds. The splits of the store are
put together. A run that is finished in WORK is not done again; without its scores (`.npz`) it is
scored from its weights. The last epoch is judged, so that nothing is chosen on photos.
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
from auheat.evaluation.class_regions import measure_predicted
from auheat.evaluation.inputs import find_faces
from auheat.evaluation.model_maps import MapSet, predict_maps, view_maps
from auheat.evaluation.results import ScoreTable
from auheat.evaluation.scorer import CLASS_MEANS, CONSTANTS, ONE_MAP, MapScorer
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.models.registry import METHODS, build_classifier
from auheat.runs import checkpoint, codebook
from auheat.store.store import find_rendered, list_finished
from auheat.training.config import make_config
from auheat.training.optim import make_optimizer
from auheat.training.trainer import Trainer
from auheat.training.training_data import TrainingData, join_geometry
from auheat.utils.distributed import World

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
VARIANTS = {
    "without": ("without AUs", {"au_weight": 0.0}),
    "paper": ("the paper's loss", {}),
    "blind": ("control: a target that knows no class", {"au_target": "mean"}),
    "wrong": ("control: the target of a fixed wrong class", {"au_target": "wrong"}),
    "contrast": ("the paper's loss and a contrast of 0.3", {"contrast_weight": 0.3}),
    "alone": ("class maps alone", {"au_weight": 0.0, "class_map_weight": 1.0}),
    "maps": ("the paper's loss and class maps", {"class_map_weight": 1.0}),
    "maps-blind": ("control: both, of no class", {"class_map_weight": 1.0, "au_target": "mean"}),
    "maps-wrong": (
        "control: both, of a fixed wrong class",
        {"class_map_weight": 1.0, "au_target": "wrong"},
    ),
    "points": (
        "the paper's loss, class maps and a geometry branch",
        {"class_map_weight": 1.0, "geometry_branch": True},
    ),
}
"""Name -> title, and settings of training."""

COLUMNS = {
    "accuracy": "accuracy",
    "att_cos": "ATT-COS",
    "att_cos_centred": "centred",
    "cam_cos": "CAM-COS",
    "margin": "margin",
    "rank1": "rank-1",
    "cam_margin": "CAM margin",
    "cam_rank1": "CAM rank-1",
    "cam_rank1_predicted": "CAM rank-1 of predicted",
    "class_margin": "class margin",
    "class_rank1": "class rank-1",
}
FAITHFULNESS = {
    "deletion": "deletion of predicted",
    "gain": "gain of predicted",
    "own_elsewhere": "deletion: own minus elsewhere",
    "own_others": "deletion: own minus other classes'",
}
"""Columns of --faithfulness: of the predicted class's map, and how far its logit falls."""

BASELINES = {
    "mean_heatmap": "baseline: the mean training heatmap",
    "uniform": "baseline: a uniform map",
    "best centred Gaussian": "baseline: the best centred Gaussian",
    "wrong class": "baseline: the photo's heatmap of a wrong class",
    "class means": "baseline: each class's mean training heatmap as its map",
}
CHIEF = ("paper", "maps")
"""The variants of all methods; those of the first are trained on all folds with all seeds."""

SHOWN = ("accuracy", "att_cos", "rank1", "cam_cos", "cam_rank1", "class_margin", "class_rank1")
"""The columns of the page, before those of --faithfulness; attention.json has all."""

PAIRS = (
    ("paper", "without"),
    ("paper", "blind"),
    ("paper", "wrong"),
    ("contrast", "paper"),
    ("alone", "paper"),
    ("maps", "paper"),
    ("maps", "maps-blind"),
    ("maps", "maps-wrong"),
    ("points", "paper"),
    ("points", "maps"),
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


def run_one(options, method, name, fold, seed):
    """Train one variant on all folds but one and score it on that; write each photo's numbers."""
    file = find_result(options, method, name, fold, seed)
    if file.is_file():
        return
    torch.set_num_threads(1)
    dataset, plan = open_dataset(options)
    persons = find_persons(options, dataset)
    folds = cut_folds(dataset.labels, persons, options.folds)
    learnt, judged = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    _, given = VARIANTS[name]
    config = make_config(
        "methods",
        method=method,
        image_size=options.size,
        epochs=options.epochs,
        seed=options.folds * seed + fold,
        workers=0,
        **{**getattr(options, "settings", {}), **given},
    )
    # nothing is chosen by validation: it looks at one batch that was learnt from
    book, first = codebook.read_codebook(dataset.files), learnt[: config.batch_size]
    material = TrainingData(options.store, dataset, learnt, dataset, first, plan, {}, book)
    model, seconds = build_model(config, material), np.nan
    weights = file.with_suffix(".safetensors")
    if weights.is_file():
        model.load_state_dict(checkpoint.load_tensors(weights))
    else:
        seconds = train_one(model, config, material)
        weights.write_bytes(checkpoint.pack_tensors(model.state_dict()))
    found = score(model.eval(), dataset, judged, plan, learnt, options.faithfulness)
    found["seconds"] = seconds
    part = file.with_suffix(".part.npz")
    np.savez(part, persons=np.array(persons)[judged], **found)
    part.replace(file)
    print(f"{method} {name} fold {fold} seed {seed}: {seconds:.0f} s", flush=True)


def build_model(config, material):
    """Return a run's network with fresh weights of its seed."""
    torch.manual_seed(config.seed)
    model = build_classifier(config.method, config.backbone, len(material.dataset.class_names))
    if config.weights not in ("none", "auto"):
        METHODS[config.method].load(model, Path(config.weights))
    model = model.to(memory_format=torch.channels_last)
    return join_geometry(model, material)[0] if config.geometry_branch else model


def train_one(model, config, material):
    """Train a network on the rows learnt from; return the seconds."""
    optimizer = make_optimizer(
        model, config.optimizer, config.lr, config.weight_decay, config.head_lr_factor
    )
    engine = Trainer(config, material, model, optimizer, CPU, World())
    started = time.perf_counter()
    for epoch in range(config.epochs):
        engine.run_epoch(epoch)
    return time.perf_counter() - started


def find_result(options, method, name, fold, seed):
    """Return the file of one run's scores."""
    return options.work / f"{method}-{name}-{fold}-{seed}.npz"


def score(model, dataset, rows, plan, learnt, faithfulness=False):
    """Return labels, predictions and every score of the rows judged."""
    scorer = make_scorer(dataset, plan, learnt)
    with torch.inference_mode():
        for part in np.array_split(rows, -(-len(rows) // 32)):
            batch = take_rows(dataset, part)
            images = (batch["image"].float() / 255).contiguous(memory_format=torch.channels_last)
            maps = predict_maps(model, images, batch["face"])
            scorer.update(view_maps(maps, batch["label"]), batch)
    tables = scorer.compute()
    totals = ScoreTable(tables, scorer.renderer, scorer.kinds, scorer.kinds, scorer.top, [])
    hits = (tables.predicted == tables.label).astype(float)
    about = {"label": tables.label, "predicted": tables.predicted, "accuracy": hits}
    if faithfulness:
        with torch.inference_mode():
            about |= measure_predicted(model, dataset, np.sort(rows), scorer.renderer)
    return about | totals.columns()


def take_rows(dataset, rows):
    """Return rows of the photos in memory as one batch, with which of them show a face."""
    batch = dataset.take(rows.tolist())
    return batch | {"has_face": find_faces(dataset, batch)}


def make_scorer(dataset, plan, learnt):
    """Return a scorer whose mean heatmaps are those of the rows learnt from."""
    heatmaps = dataset._cache["heatmap"].float() / 255
    labels = torch.from_numpy(dataset.labels)
    chosen = torch.zeros(len(dataset), dtype=torch.bool)
    chosen[learnt] = True
    chosen &= dataset._cache["valid"]
    parts = [heatmaps[chosen & (labels == k)] for k in range(len(plan.names))]
    mean = torch.stack([part.mean(0) for part in parts if len(part)]).mean(0)
    means = torch.stack([part.sum(0) / max(len(part), 1) for part in parts])
    return MapScorer(ClassMapRenderer(plan, dataset.image_size), mean, CPU, means)


def open_dataset(options):
    """Return all photos of the shards, in memory, and the plan of their heatmaps."""
    files, _ = list_finished(find_rendered(options.store, options.shards), "auheat render")
    dataset = ShardDataset(files, None, options.size, options.classes)
    dataset.cache()
    return dataset, plan_heatmaps(codebook.read_codebook(files), dataset.class_names)


def find_persons(options, dataset):
    """Return the person of each row, "" where nobody is known."""
    if options.persons is None:
        return dataset.groups
    known = read_persons(options.persons)
    return [known.get(PurePosixPath(key).stem, "") for key in dataset.ids]


def score_baselines(options):
    """Return the scores of maps that saw no photo, over all folds: name -> its four scores."""
    dataset, plan = open_dataset(options)
    folds = cut_folds(dataset.labels, find_persons(options, dataset), options.folds)
    found, classes = defaultdict(list), defaultdict(list)
    for fold in range(options.folds):
        rows, learnt = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        scorer = make_scorer(dataset, plan, learnt)
        batch = take_rows(dataset, rows)
        nothing = {"layer 5": torch.zeros(len(rows), 1, 1)}
        unknown = torch.full((len(rows), len(plan.names)), torch.nan)
        no_maps = torch.zeros(len(rows), len(plan.names), 1, 1)
        scorer.update(MapSet(nothing, torch.full((len(rows),), -1), unknown, no_maps), batch)
        tables = scorer.compute()
        totals = ScoreTable(tables, scorer.renderer, scorer.kinds, scorer.kinds, scorer.top, [])
        for name, place in (("mean_heatmap", ONE_MAP), ("class means", CLASS_MEANS)):
            classes[name].append(totals.of_classes(place) | {"label": tables.label})
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
    scores = {name: dict(zip(keys, values.tolist(), strict=True)) for name, values in rows.items()}
    for name, parts in classes.items():
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        label = whole.pop("label")
        found = {key: interval(values, label, draws=1).value for key, values in whole.items()}
        # what a network predicts is no matter of these
        known = {key: value for key, value in found.items() if np.isfinite(value)}
        scores[name] = scores.get(name, {}) | known
    return {BASELINES[name]: values for name, values in scores.items()}


def list_runs(options, method):
    """Return the runs of each variant that a method is trained with, (seed, fold) in order."""
    first = method == options.methods[0]
    runs = {}
    for name in options.variants if first else CHIEF:
        seeds = options.seeds if first and name in CHIEF else 1
        whole = first and (name in CHIEF or name == "without")
        folds = options.folds if whole else options.few_folds
        runs[name] = [(seed, fold) for seed in range(seeds) for fold in range(folds)]
    return runs


def run_all(several):
    """Train and score every run of these options that is not done, the first folds first."""
    tasks = [
        (options, method, name, fold, seed)
        for options in several
        for method in options.methods
        for name, runs in list_runs(options, method).items()
        for seed, fold in runs
    ]
    tasks.sort(key=lambda task: task[-2:][::-1])
    with ProcessPoolExecutor(several[0].jobs, get_context("spawn")) as pool:
        for done in [pool.submit(run_one, *task) for task in tasks]:
            done.result()


def gather(options, method):
    """Return each variant's numbers over all seeds and folds, in the same order of photos."""
    found = {}
    for name, runs in list_runs(options, method).items():
        files = [find_result(options, method, name, fold, seed) for seed, fold in runs]
        parts = [dict(np.load(file, allow_pickle=False)) for file in files]
        keys = [key for key in parts[0] if key != "seconds"]
        found[name] = {key: np.concatenate([part[key] for part in parts]) for key in keys}
        found[name]["seconds"] = np.array([part["seconds"] for part in parts])
    return found


def compare(found):
    """Return means with intervals of each variant, and the paired differences.

    Variants of more seeds than others are compared with those by the seeds that both have.
    """
    shown = [key for key in (*COLUMNS, *FAITHFULNESS) if all(key in one for one in found.values())]

    def about(values, key, n=None):
        labels, persons = values["label"][:n], values["persons"][:n].tolist()
        return {"labels": labels, "persons": persons, "balanced": key != "accuracy"}

    def pair(a, b, key):
        n = min(len(a["label"]), len(b["label"]))
        return paired_interval(a[key][:n], b[key][:n], **about(a, key, n))._asdict()

    table = {
        name: {key: interval(values[key], **about(values, key))._asdict() for key in shown}
        for name, values in found.items()
    }
    pairs = {
        f"{a} - {b}": {key: pair(found[a], found[b], key) for key in shown}
        for a, b in PAIRS
        if a in found and b in found
    }
    seconds = {k: float(np.nan_to_num(v["seconds"]).max()) for k, v in found.items()}
    photos = {name: len(values["label"]) for name, values in found.items()}
    return {"photos": photos, "variants": table, "pairs": pairs, "most_seconds": seconds}


def tell(score, signed=False):
    """Return a score and its interval as one cell."""
    value, low, high = (f"{score[k]:{'+' if signed else ''}.3f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def tabulate(rows, headings):
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def lay_out(results):
    """Return the page's tables: of the first method, its differences, and of the others."""
    first, *others = results["methods"]
    one = results["methods"][first]
    known = next(iter(one["variants"].values()))
    shown = [key for key in (*SHOWN, *FAITHFULNESS) if key in known]
    titles = [(COLUMNS | FAITHFULNESS)[key] for key in shown]

    def cells(scores):
        return [f"{scores[key]['value']:.3f}" for key in shown]

    rows = [[VARIANTS[name][0], *cells(scores)] for name, scores in one["variants"].items()]
    rows += [
        [name, *(f"{scores[key]:.3f}" if key in scores else "" for key in shown)]
        for name, scores in results["baselines"].items()
    ]
    tables = [tabulate(rows, [f"`{first}` trained with", *titles])]
    rows = [
        [f"`{first}`: {k}", *(tell(v[x], True) for x in shown)] for k, v in one["pairs"].items()
    ]
    more = []
    for method in others:
        about = results["methods"][method]
        more += [[f"`{method}`: {VARIANTS[k][0]}", *cells(v)] for k, v in about["variants"].items()]
        for pair, scores in about["pairs"].items():
            rows.append([f"`{method}`: {pair}", *(tell(scores[key], True) for key in shown)])
    tables += [tabulate(more, ["trained with", *titles])] if more else []
    return "\n\n".join([*tables, tabulate(rows, ["difference", *titles])])


def write_page(options, results):
    """Write the measured tables between the marks of docs/attention.md, and the numbers beside."""
    (options.out / "attention.json").write_text(json.dumps(results, indent=1) + "\n")
    page = options.out / "attention.md"
    start, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, rest = page.read_text(encoding="utf-8").split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}{lay_out(results)}\n{end}{after}", encoding="utf-8")


def make_parser(about):
    """Return the options of a cross-validation, described by a script's first line."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--persons", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--few-folds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["cam"])
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--classes", type=lambda text: text.split(","))
    parser.add_argument("--shards")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="also take pixels away and ask the network again",
    )
    return parser


def main():
    """Run what is asked for on the command line."""
    options = make_parser(__doc__).parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run_all([options])
    methods = {method: compare(gather(options, method)) for method in options.methods}
    results = {"methods": methods, "baselines": score_baselines(options)}
    results["settings"] = {
        key: getattr(options, key) for key in ("folds", "few_folds", "seeds", "epochs", "size")
    }
    write_page(options, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
