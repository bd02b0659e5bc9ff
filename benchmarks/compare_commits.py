"""How fast this checkout is beside an earlier commit: extract, render, loader, train, evaluate.

    python benchmarks/compare_commits.py [COMMIT] [--rounds 5] [--most 1.10]

COMMIT is HEAD where files of the package have been changed since, else the one before it. Each of
the two has a process of its own, on one core, with a work tree of its own; they take turns part by
part, and a part's figure is the median of the rounds' ratios of processor time, which other work on
the machine hardly moves (the wall's ratio stands beside it). A part above `--most` is measured once
more with twice the rounds before it fails. Prints a table and one JSON line; exits 1 where a part
got slower.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = Path("auheat/landmarks/mesh/models")  # fetched by installation, in no commit
PARTS = ("extract", "render", "loader", "train", "evaluate")
SOURCES = ("auheat", "cli", "codebooks")
PHOTOS = 20  # of each class to learn from


def import_tree(tree):
    """Import the package from a work tree, and nothing of it from an installation."""
    sys.meta_path[:] = [find for find in sys.meta_path if "editable" not in repr(find).lower()]
    sys.path.insert(0, str(tree))
    import auheat

    for name in ("cli", "codebooks"):
        folder = tree / name
        spec = importlib.util.spec_from_file_location(
            f"auheat.{name}", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    assert Path(auheat.__file__).is_relative_to(tree), auheat.__file__
    return auheat


def make_parts(auheat, work):
    """Return what runs each part once, on a made set in `work`."""
    from auheat.demo import write_demo

    write_demo(work / "set", train=PHOTOS, test=PHOTOS // 2)
    store, made = work / "store", work / "made"
    auheat.extract(work / "set", store)
    rendered = auheat.render(store, codebook="martinez").folder
    settings = {"preset": "demo", "image_size": 64, "epochs": 1, "workers": 0}
    auheat.train(store, name="kept", **settings)

    def load():
        dataset = auheat.ShardDataset(rendered, "train", 64)
        for _ in range(3):
            for index in range(len(dataset)):
                dataset[index]

    def render():
        for _ in range(3):
            auheat.render(store, codebook="martinez", overwrite=True)

    def train():
        auheat.train(store, name="anew", overwrite=True, **settings)

    return {
        "extract": lambda: auheat.extract(work / "set", made, overwrite=True),
        "render": render,
        "loader": load,
        "train": train,
        "evaluate": lambda: auheat.evaluate("kept", store),
    }


def serve(tree):
    """Run parts as their names are read, and answer with seconds of processor and wall."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        parts = make_parts(import_tree(tree), Path(work))
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            started, wall = time.process_time(), time.perf_counter()
            parts[line.strip()]()
            figures = time.process_time() - started, time.perf_counter() - wall
            print(json.dumps(figures), file=answers, flush=True)


class Contestant:
    """A process that has a work tree's package."""

    def __init__(self, tree):
        own = {"AUHEAT_PROGRESS": "0", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **own},
            preexec_fn=_take_one_core,
            text=True,
        )

    def read(self):
        """Return the next answer; exits with the process's last words where there is none."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[-1]}: {self.process.stderr.read()[-2000:]}")
        return line

    def run(self, part):
        """Run a part; return its seconds of processor and wall."""
        print(part, file=self.process.stdin, flush=True)
        return json.loads(self.read())


def _take_one_core():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(now, before, part, rounds):
    """Return the medians of both ratios of a part, now over before, and its seconds before."""
    ratios = []
    for turn in range(rounds):
        pair = [None, None]
        for place in (0, 1) if turn % 2 else (1, 0):
            pair[place] = (now, before)[place].run(part)
        ratios.append([a / b for a, b in zip(*pair, strict=True)] + [pair[1][0]])
    return [statistics.median(values) for values in zip(*ratios, strict=True)]


def git(*arguments):
    """Return what git prints."""
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def compare(commit, rounds, most):
    """Measure every part; return the rows (part, processor, wall, seconds before)."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            shutil.copytree(ROOT / MODELS, tree / MODELS, dirs_exist_ok=True)
            now, before = Contestant(ROOT), Contestant(tree)
            for one in (now, before):
                assert one.read() == "ready\n"
            rows = []
            for part in PARTS:
                for one in (now, before):
                    one.run(part)  # what is made at the first call is made
                found = measure(now, before, part, rounds)
                if found[0] > most:
                    found = measure(now, before, part, 2 * rounds)
                rows.append((part, *found))
            for one in (now, before):
                one.process.stdin.close()
                one.process.wait()
            return rows
        finally:
            git("worktree", "remove", "--force", str(tree))


def main():
    """Compare, print a table, and fail where a part got slower."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    parser.add_argument("commit", nargs="?", default="HEAD" if changed else "HEAD~1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.10)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return 0
    rows = compare(asked.commit, asked.rounds, asked.most)
    print(f"this checkout against {git('log', '-1', '--format=%h %s', asked.commit)}")
    print(f"{'part':<10}{'processor':>10}{'wall':>8}{'seconds before':>16}")
    for part, processor, wall, seconds in rows:
        slower = "  slower" if processor > asked.most else ""
        print(f"{part:<10}{processor:>9.2f}x{wall:>7.2f}x{seconds:>16.2f}{slower}")
    print(json.dumps({part: round(processor, 3) for part, processor, *_ in rows}))
    return int(any(processor > asked.most for _, processor, *_ in rows))


if __name__ == "__main__":
    sys.exit(main())
