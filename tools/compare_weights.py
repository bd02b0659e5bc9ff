"""Cross-validate what published weights bring, with each loss; write docs/pretrained.md.

    python tools/compare_weights.py STORE WORK --weights FILE [--backbone timm:NAME@16]
        [--persons people.csv] [--folds 5] [--seeds 1] [--epochs 15] [--size 112]
        [--variants without,paper,maps] [--jobs 2] [--out docs]

The same network from fresh weights and from the file's, on the same folds, cut by person: two are
compared photo by photo. Runs that are finished in WORK are not done again. All variants are trained
on all folds. All else as in tools/compare_targets.py, whose scores these are.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # worker processes import by name, too

import compare_targets as targets

STARTS = ("fresh", "published")
TITLES = {"fresh": "fresh weights", "published": "published weights"}
MARKS = ("<!-- measured -->\n", "<!-- /measured -->")


def list_starts(options):
    """Return the options of the runs from fresh weights, and of those from the file."""
    common = vars(options) | {"few_folds": options.folds}
    several = []
    for start in STARTS:
        weights = str(options.weights.resolve()) if start == "published" else "none"
        settings = {"backbone": options.backbone, "weights": weights, "lr": options.lr}
        work = options.work / start
        work.mkdir(parents=True, exist_ok=True)
        several.append(Namespace(**common | {"work": work, "settings": settings}))
    return several


def compare(found):
    """Return means with intervals of each start and variant, and the paired differences.

    `found` has the numbers of each photo by (start, variant).
    """
    keys = [key for key in targets.COLUMNS if all(key in one for one in found.values())]

    def about(values, key):
        labels, persons = values["label"], values["persons"].tolist()
        return {"labels": labels, "persons": persons, "balanced": key != "accuracy"}

    table = {
        start: {
            name: {key: targets.interval(one[key], **about(one, key))._asdict() for key in keys}
            for (other, name), one in found.items()
            if other == start
        }
        for start in STARTS
    }
    pairs = {}
    for name in table[STARTS[1]]:
        fresh, published = (found[start, name] for start in STARTS)
        pairs[name] = {
            key: targets.paired_interval(published[key], fresh[key], **about(fresh, key))._asdict()
            for key in keys
        }
    return {"variants": table, "published - fresh": pairs}


def lay_out(results):
    """Return the page's tables: the scores, and what the published weights change."""
    shown = targets.SHOWN
    titles = [targets.COLUMNS[key] for key in shown]
    rows = [
        [
            f"{TITLES[start]}, {targets.VARIANTS[name][0]}",
            *(f"{scores[k]['value']:.3f}" for k in shown),
        ]
        for start in STARTS
        for name, scores in results["variants"][start].items()
    ]
    rows += [
        [name, *(f"{scores[key]:.3f}" if key in scores else "" for key in shown)]
        for name, scores in results["baselines"].items()
    ]
    changes = [
        [targets.VARIANTS[name][0], *(targets.tell(scores[key], True) for key in shown)]
        for name, scores in results["published - fresh"].items()
    ]
    return "\n\n".join(
        [
            targets.tabulate(rows, ["begun from, trained with", *titles]),
            targets.tabulate(changes, ["published less fresh weights", *titles]),
        ]
    )


def write_page(options, results):
    """Write the tables between the marks of docs/pretrained.md, and all numbers beside it."""
    (options.out / "pretrained.json").write_text(json.dumps(results, indent=1) + "\n")
    page = options.out / "pretrained.md"
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}{lay_out(results)}\n{MARKS[1]}{after}", encoding="utf-8")


def main():
    """Run what is asked for on the command line."""
    parser = targets.make_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0@16")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.set_defaults(variants=["without", "paper", "maps"], size=112, epochs=15)
    options = parser.parse_args()
    several = list_starts(options)
    targets.run_all(several)
    method = options.methods[0]
    found = {
        (start, name): values
        for start, one in zip(STARTS, several, strict=True)
        for name, values in targets.gather(one, method).items()
    }
    results = compare(found) | {"baselines": targets.score_baselines(options)}
    keys = ("backbone", "methods", "lr", "folds", "seeds", "epochs", "size")
    results["settings"] = {key: getattr(options, key) for key in keys}
    results["settings"]["weights"] = options.weights.name
    write_page(options, results)
    print(lay_out(results))


if __name__ == "__main__":
    main()
