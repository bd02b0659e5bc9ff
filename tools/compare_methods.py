"""Train every method without AUs, with them, and with class maps; write docs/methods.md.

    python tools/compare_methods.py WORK [--epochs N] [--methods cam,prm] [--jobs 2] [--out docs]

WORK holds the demonstration set, its shards and the runs; what is finished there is not done
again, so a stopped comparison goes on with the same command. methods.json beside the page has
every figure. Each run has one thread, so that figures do not hang on the number of cores: more
threads would hardly speed up networks as small as these, runs side by side do.
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch

import joblib
import torch

from auheat.demo import write_demo
from auheat.evaluation.columns import BASELINES
from auheat.evaluation.evaluator import evaluate
from auheat.models.registry import METHODS
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.reporting.tables import format_score
from auheat.runs.run_folder import BEST, METRICS, RESULT
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.utils.devices import count_cores

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "without AUs": {"au_weight": 0.0},
    "with AUs": {"au_weight": 4.0},
    "with class maps": {"au_weight": 4.0, "class_map_weight": 1.0},
}
COLUMNS = {
    "accuracy": "accuracy",
    "cam_cos": "CAM-COS",
    "att_cos": "ATT-COS",
    "margin": "margin",
    "rank1": "rank-1",
}
CLASS_COLUMNS = {
    "accuracy": "accuracy",
    "cam_cos": "CAM-COS",
    "cam_rank1": "CAM rank-1",
    "class_rank1": "class rank-1",
    "att_cos": "ATT-COS",
}
CLASS_BASELINES = {
    "class_means": "each class's mean training heatmap as its map",
    "mean_heatmap": "the mean training heatmap as every class's map",
    "permuted": "the class maps under each other's names",
}
MARKED = "written.json"


def prepare(work):
    """Make the set and its shards where they are not there yet; return the store."""
    if not (work / MARKED).is_file():
        told = write_demo(work / "set")
        (work / MARKED).write_text(json.dumps(told, default=str))
    extract(work / "set", work / "store")
    render(work / "store", codebook="martinez")
    return work / "store"


def run_one(store, method, setting, epochs):
    """Train and evaluate one method, or read what is finished; return its scores and seconds."""
    torch.set_num_threads(1)
    asked = {"method": method, "epochs": epochs, **SETTINGS[setting]}
    config = make_config("methods", **asked)
    name = f"{config.run_name}-epochs{config.epochs}"
    config = make_config("methods", **asked, name=name)
    run = train(store, config).run
    file = run / RESULT
    if not file.is_file() or file.stat().st_mtime_ns < (run / BEST).stat().st_mtime_ns:
        evaluate(run.name, store)
    scores = json.loads(file.read_text())
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return {
        "method": method,
        "setting": setting,
        **SETTINGS[setting],
        "backbone": config.backbone,
        "image_size": config.image_size,
        "epochs": config.epochs,
        "train_seconds": round(sum(line["seconds"] for line in lines), 1),
        **{key: scores[key] for key in ("run", "n", "n_valid", "baselines")},
        **{key: scores.get(key) for key in (*COLUMNS, *CLASS_COLUMNS)},
    }


def tell_row(runs, columns):
    """Return the cells of a method's row: the scores of its runs, in their order."""
    cells = [[format_score(run[key]) for run in runs] for key in columns]
    return ["-" if set(cell) == {"-"} else " → ".join(cell) for cell in cells]


def list_settings(method):
    """Return the settings that a method is trained with: no class maps where it has one map."""
    return [name for name in SETTINGS if name != "with class maps" or METHODS[method].class_maps]


def run_all(store, methods, epochs, jobs):
    """Run every method with each of its settings, `jobs` at a time; yield its runs, in order."""
    tasks = [(store, name, setting, epochs) for name in methods for setting in list_settings(name)]
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator")
        done = pool(joblib.delayed(run_one)(*task) for task in tasks)
        for name in methods:
            yield [next(done) for _ in list_settings(name)]


def tell_rises(trios):
    """Return a line for each score: with which methods it rises with AUs, and with class maps."""
    with_maps = [runs for runs in trios if len(runs) == len(SETTINGS)]
    compared = [
        (trios, key, "with AUs, against without", 0) for key in ("att_cos", "margin", "rank1")
    ]
    if with_maps:
        what = "with class maps, against AUs alone"
        compared += [(with_maps, key, what, 1) for key in ("cam_rank1", "class_rank1")]
    lines = []
    for those, key, what, at in compared:
        moved = {"higher": [], "the same": [], "lower": []}
        for runs in those:
            change = runs[at + 1][key] - runs[at][key]
            kind = "higher" if change > 0 else "lower" if change < 0 else "the same"
            moved[kind].append(METHODS[runs[0]["method"]].title)
        parts = [
            f"{kind} for {', '.join(titles) if len(titles) < len(those) else 'every method'}"
            for kind, titles in moved.items()
            if titles
        ]
        lines.append(f"- {(COLUMNS | CLASS_COLUMNS)[key]} {what}: {'; '.join(parts)}.")
    unscored = [METHODS[runs[0]["method"]].title for runs in trios if runs[0]["cam_cos"] is None]
    if unscored:
        lines.append(
            f"- No CAM-COS for {', '.join(unscored)}: the map is the same for every class."
        )
    return lines


def lay_out_class_maps(trios):
    """Return the lines of the second table: what `--class-map-weight` adds to the paper's loss."""
    trios = [runs for runs in trios if len(runs) == len(SETTINGS)]
    if not trios:
        return []
    lines = [
        "",
        "## Every class's map",
        "",
        "Each cell has the score with the paper's loss alone (`--au-weight 4`) → with class maps",
        "beside it (`--au-weight 4 --class-map-weight 1`). CAM rank-1: the true class's map is",
        "closest to its own class's heatmap; class rank-1: the same of the maps of all classes on",
        "all photos (chance .17). ATT-COS is of the attention, which both losses align.",
        "",
        f"| method | {' | '.join(CLASS_COLUMNS.values())} |",
        f"|---|{'---|' * len(CLASS_COLUMNS)}",
    ]
    for runs in trios:
        title = METHODS[runs[0]["method"]].title
        lines.append(f"| {title} | {' | '.join(tell_row(runs[1:], CLASS_COLUMNS))} |")
    baselines = trios[0][2]["baselines"]
    for key, title in CLASS_BASELINES.items():
        cells = [
            f"{baselines[key][c]:.3f}" if c in baselines[key] and c != "att_cos" else ""
            for c in CLASS_COLUMNS
        ]
        lines.append(f"| *{title}* | {' | '.join(cells)} |")
    return lines


def lay_out(results):
    """Return the page's text for the runs of `run_one`, two or three of each method."""
    names = list(dict.fromkeys(r["method"] for r in results))
    trios = [[r for r in results if r["method"] == name] for name in names]
    first = results[0]
    lines = [
        "# The methods, without AUs, with them, and with class maps",
        "",
        "Written by `make methods`, which trains them all anew (tools/compare_methods.py; every",
        "figure is in [methods.json](methods.json)). The demonstration set: one face, seven",
        f"expressions, {first['n']} test photos, codebook `martinez`. Each cell has the score",
        "without AUs (`--au-weight 0`) → with them (`--au-weight 4`), one run each with seed 0 of",
        f"`--preset methods`: narrow, shallow instances of the methods' own classes, "
        f"{first['image_size']} px,",
        f"{first['epochs']} epochs. CAM-COS is of the method's own map of the true class; ATT-COS, "
        "margin and",
        "rank-1 are of the attention, the last layer's channel mean. Methods that differ in their",
        "maps alone (CAM and the gradient CAMs) are the same training, and agree but for CAM-COS.",
        "",
        f"| method | {' | '.join(COLUMNS.values())} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for name, runs in zip(names, trios, strict=True):
        lines.append(f"| {METHODS[name].title} | {' | '.join(tell_row(runs[:2], COLUMNS))} |")
    for key, title, _ in BASELINES:
        scores = first["baselines"][key]
        cells = [f"{scores[c]:.3f}" if c in scores else "" for c in COLUMNS]
        lines.append(f"| *{title}* | {' | '.join(cells)} |")
    lines += lay_out_class_maps(trios)
    minutes = sum(r["train_seconds"] for r in results) / 60
    lines += [
        "",
        *tell_rises(trios),
        "",
        f"The runs' minutes, of one thread each, sum up to {minutes:.0f}. One face and "
        f"{first['n']} test photos tell",
        "whether a method works, not which is better: differences of a few hundredths, or of a",
        "few photos of accuracy, come and go with the seed; [results.md](results.md#the-methods)",
        "says more of them. The last rows of the table are maps that know nothing of the photo, or",
        "the photo's map of a wrong class: without a margin and a rank-1 rate a high cosine shows",
        "no more than they do.",
        "",
        "| method | network | paper |",
        "|---|---|---|",
    ]
    for name, (one, *_) in zip(names, trios, strict=True):
        network = f"`{one['backbone']}` at {one['image_size']} px"
        lines.append(f"| `{name}` | {network} | {METHODS[name].source} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    """Run what is asked for and write the page after each method, so that it is never lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for the set, its shards and the runs")
    parser.add_argument("--epochs", type=int, help="[default: the preset's]")
    parser.add_argument("--methods", default=",".join(METHODS), help="[default: all]")
    parser.add_argument("--jobs", type=int, default=count_cores(), help="[default: every core]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="[default: docs]")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    store = prepare(asked.work)
    results = []
    about = {"torch": torch.__version__, "jobs": asked.jobs, "machine": platform.machine()}
    for runs in run_all(store, asked.methods.split(","), asked.epochs, asked.jobs):
        results += runs
        record = {"about": about, "runs": results}
        (asked.out / "methods.json").write_text(json.dumps(record, indent=1) + "\n")
        (asked.out / "methods.md").write_text(lay_out(results))
    print(f"{asked.out / 'methods.md'}: {len(results)} runs")


if __name__ == "__main__":
    main()
