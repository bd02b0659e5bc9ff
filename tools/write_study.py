"""Write what a sweep of FER+ measured into the documents, its numbers and figures beside them.

    auheat sweep --grid ferplus --source FERPlus/ --store STORE --jobs 2
    python tools/write_study.py STORE/sweeps/ferplus [STORE/sweeps/lite0]

docs/ferplus.json is the sweep's study.json, docs/ferplus-lite0.json that of the sweep of a network
from published weights (its command is in docs/ferplus.md). What stands between marks in
docs/ferplus.md, docs/results.md and README.md is made of these alone; the figures are the first
sweep's. The same command without a folder writes the documents anew from the JSON.
"""

import json
import shutil
import sys
from pathlib import Path

from PIL import Image

from auheat.sweeps.study_files import STUDY
from auheat.sweeps.study_page import AGREEMENT, CURVES, MEANS, write_study_page
from auheat.sweeps.study_summary import summarize_study, tabulate_losses

ROOT = Path(__file__).parent.parent
PREFIX = "ferplus-"
NUMBERS, PUBLISHED = "ferplus.json", f"{PREFIX}lite0.json"
COLORS = 128
"""A figure of maps has few colours: with a palette it is a third of the size."""


def copy_study(folder, root):
    """Copy a sweep's numbers and figures to the documents of a project."""
    docs = root / "docs"
    shutil.copyfile(folder / STUDY, docs / NUMBERS)
    for name in (CURVES, AGREEMENT):
        shutil.copyfile(folder / name, docs / f"{PREFIX}{name}")
    with Image.open(folder / MEANS) as means:
        means.convert("RGB").quantize(COLORS).save(docs / f"{PREFIX}{MEANS}", optimize=True)


def list_parts(study, published):
    """Return what is made of both studies: document, name of its marks, text."""
    summary = summarize_study(study) + "\n"
    of_each_loss = "".join(summary.splitlines(keepends=True)[:2])
    return (
        ("README.md", "ferplus", of_each_loss),
        ("docs/results.md", "ferplus", f"{summary}\n{tabulate_losses(study)}\n"),
        ("docs/ferplus.md", "summary", summary),
        ("docs/ferplus.md", "measured", write_study_page(study, PREFIX)),
        (
            "docs/ferplus.md",
            "lite0",
            f"{summarize_study(published)}\n\n{tabulate_losses(published)}\n",
        ),
    )


def fill_documents(root):
    """Write what is made of the JSON between its marks."""
    both = [
        json.loads((root / "docs" / name).read_text(encoding="utf-8"))
        for name in (NUMBERS, PUBLISHED)
    ]
    for name, mark, text in list_parts(*both):
        page = root / name
        start, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        before, rest = page.read_text(encoding="utf-8").split(start)
        _, after = rest.split(end)
        page.write_text(f"{before}{start}{text}{end}{after}", encoding="utf-8")


def main(arguments, root=ROOT):
    """Run what is asked for on the command line."""
    if arguments:
        copy_study(Path(arguments[0]), root)
    if len(arguments) > 1:
        shutil.copyfile(Path(arguments[1]) / STUDY, root / "docs" / PUBLISHED)
    fill_documents(root)


if __name__ == "__main__":
    main(sys.argv[1:])
