"""Put deliberate faults into the formulas, one at a time, and see whether the tests notice.

    python tools/mutate.py [--each N] [--only metrics,cams] [--seed 0] [--jobs 2] [--out FILE.json]

Faults: an operator or comparison is exchanged for its neighbour, a number is moved, `and` becomes
`or`, a condition is turned round, mean becomes sum, the largest the smallest. Of each module N are
drawn (0: all). The tests of the module run in a process of their own, in which a copy of the
package has the faulty source; the checkout does not change. Tests that put in faults themselves
are left out. Prints every fault that no test noticed, and the shares that were. Cost grows with the
faults: 3 to 20 seconds each.
"""

import argparse
import ast
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from joblib import Parallel, delayed

ROOT = Path(__file__).parent.parent
SECONDS = 120
MODULES = {
    "metrics": ("evaluation.metrics", ["evaluation/test_metrics.py", "evaluation/test_scorer.py"]),
    "maps": ("utils.maps", ["evaluation/test_metrics.py", "evaluation/test_scorer.py",
                            "test_losses.py"]),
    "cams": ("models.cams", ["models/test_cams.py"]),
    "heads": ("models.heads", ["models/test_heads.py"]),
    "losses": ("losses", ["test_losses.py"]),
    "class_maps": ("heatmaps.class_maps", ["evaluation/test_scorer.py"]),
    "plan": ("heatmaps.plan", ["heatmaps/test_render.py"]),
    "face_frame": ("heatmaps.face_frame", ["heatmaps/test_render.py"]),
    "render": ("heatmaps.render", ["heatmaps/test_render.py"]),
    "presets": ("training.presets", ["training/test_presets.py"]),
    "optim": ("training.optim", ["training/test_presets.py", "training/test_train_modes.py"]),
}  # fmt: skip
SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "@": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
    "==": "!=", "!=": "==", "and": "or", "or": "and",
}  # fmt: skip
NAMES = {
    "mean": "sum", "sum": "mean", "amax": "amin", "amin": "amax", "maximum": "minimum",
    "max": "min", "min": "max", "relu": "abs", "ceil": "floor", "sin": "cos", "cos": "sin",
}  # fmt: skip


def list_mutants(source):
    """Return (line, what, faulty source) of every fault that can be put into a module."""
    tree = ast.parse(source)
    starts = [0, *itertools.accumulate(len(line.encode()) for line in source.splitlines(True))]
    data = source.encode()

    def where(line, column):
        return starts[line - 1] + column

    hints = [getattr(n, name, None) for n in ast.walk(tree) for name in ("annotation", "returns")]
    skipped = {id(n) for hint in hints if hint is not None for n in ast.walk(hint)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.expr | ast.If):
            continue
        for start, end, new in _changes(node, data, where):
            old = data[start:end].decode()
            what = f"{old.strip()} -> {new.strip()}"
            found.append((node.lineno, what, (data[:start] + new.encode() + data[end:]).decode()))
    return found


def _changes(node, data, where):
    """Yield (start, end, text): bytes of the module to be replaced."""
    pairs = []
    if isinstance(node, ast.BinOp):
        pairs = [(node.left, node.right)]
    elif isinstance(node, ast.Compare):
        pairs = [(node.left, node.comparators[0])]
    elif isinstance(node, ast.BoolOp):
        pairs = [(node.values[0], node.values[1])]
    for left, right in pairs:
        start = where(left.end_lineno, left.end_col_offset)
        end = where(right.lineno, right.col_offset)
        between = data[start:end].decode()
        sign = between.strip(" ()\n")
        if sign in SWAPS:
            yield start, end, between.replace(sign, SWAPS[sign], 1)
    if not hasattr(node, "end_col_offset"):
        return
    start = where(node.lineno, node.col_offset)
    end = where(node.end_lineno, node.end_col_offset)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield (
            start,
            end,
            repr(node.value + 1 if type(node.value) is int else 1.5 * node.value + 1e-3),
        )
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield end - len(node.attr), end, NAMES[node.attr]
    elif isinstance(node, ast.If | ast.IfExp):
        test = node.test
        start = where(test.lineno, test.col_offset)
        end = where(test.end_lineno, test.end_col_offset)
        yield start, end, f"not ({data[start:end].decode()})"


def is_noticed(module, source, files):
    """Return whether a test fails, or does not end, with this source in the module's place."""
    with tempfile.TemporaryDirectory() as tmp:
        for folder, name in (("auheat", "auheat"), ("cli", "auheat/cli"),
                             ("codebooks", "auheat/codebooks")):  # fmt: skip
            shutil.copytree(ROOT / folder, Path(tmp) / name, dirs_exist_ok=True,
                            copy_function=os.symlink)  # fmt: skip
        faulty = Path(tmp) / "auheat" / f"{module.replace('.', '/')}.py"
        faulty.unlink()
        faulty.write_text(source)
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", "-n", "0",
                   "-k", "not is_noticed", *(f"tests/{file}" for file in files)]  # fmt: skip
        env = os.environ | {"PYTHONPATH": tmp, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return True
    if done.returncode not in (0, 1, 2):
        sys.exit(done.stdout.decode() + done.stderr.decode())
    return done.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(MODULES)
    tasks = []
    for name in chosen:
        module, files = MODULES[name]
        source = (ROOT / "auheat" / f"{module.replace('.', '/')}.py").read_text()
        if is_noticed(module, source, files):
            sys.exit(f"{name}: its tests fail without a fault (mend them first)")
        mutants = list_mutants(source)
        if options.each:
            mutants = random.Random(options.seed).sample(mutants, min(options.each, len(mutants)))
        tasks += [(name, module, files, *mutant) for mutant in mutants]
    outcomes = Parallel(options.jobs, prefer="threads", verbose=1)(
        delayed(is_noticed)(module, source, files) for _, module, files, _, _, source in tasks
    )
    result = {}
    for name in chosen:
        own = [(t, o) for t, o in zip(tasks, outcomes, strict=True) if t[0] == name]
        missed = [f"line {t[3]}: {t[4]}" for t, o in own if not o]
        result[name] = {"faults": len(own), "noticed": len(own) - len(missed), "missed": missed}
        print(f"{name}: {len(own) - len(missed)} of {len(own)} faults noticed")
        for line in missed:
            print(f"  {line}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
