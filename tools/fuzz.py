"""Fuzz every kind of file that auheat reads: python tools/fuzz.py [--seconds 600] [--target NAME].

Targets take turns of equal time. Findings are written to a folder, and progress.json there says
with which seed each target goes on: the same command again tries new cases.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "AUHEAT_PROGRESS": "0", "MALLOC_ARENA_MAX": "2"}
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from fuzz_targets import TARGETS
from fuzzing import fuzz, make_samples


def main() -> None:
    """Parse, run, and print a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", default="", help="at most so many: NAME=N,NAME=N,... or N")
    parser.add_argument("--target", default="", help="names, or beginnings of names, with commas")
    parser.add_argument("--seed", help="the first seed; else where the last run stopped")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    wanted = tuple(given.target.split(","))
    names = [name for name in TARGETS if name.startswith(wanted)]
    most = dict.fromkeys(names, sys.maxsize)
    if "=" in given.cases:
        most = {k: int(n) for k, _, n in (part.partition("=") for part in given.cases.split(","))}
        names = list(most)
    elif given.cases:
        most = dict.fromkeys(names, int(given.cases))
    if not names:
        parser.error(f"--target: none of {', '.join(TARGETS)}")
    progress, state = given.out / "progress.json", {}
    with contextlib.suppress(OSError, ValueError):
        state = json.loads(progress.read_text())
    found, began = 0, time.monotonic()
    memory = Path("/dev/shm")  # cases are small, and many
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="auheat-fuzz-", dir=place) as folder:
        make_samples(Path(folder), names)
        for turn, name in enumerate(names):
            left = given.seconds - (time.monotonic() - began)
            until = time.monotonic() + max(2.0, left / (len(names) - turn))
            first = int(given.seed) if given.seed else state.get(name, 0)
            seeds = iter(range(first, first + most[name]))
            tally = fuzz(name, Path(folder), seeds, until, given.out)
            found += sum(tally.findings.values())
            print(
                f"{name}: {tally.cases} cases from seed {first}, {tally.refused} refused, "
                f"{tally.cases / tally.seconds:.0f} a second, slowest {tally.slowest:.1f} s, "
                f"findings {dict(tally.findings) or 'none'}",
                flush=True,
            )
            state[name] = tally.next_seed or first
            given.out.mkdir(parents=True, exist_ok=True)
            progress.write_text(json.dumps(state, indent=1))
    print(f"{found} findings" + (f" in {given.out}" if found else ""))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
