"""Write what a sweep of FER+ measured into docs/ferplus.md, its numbers and figures beside it.

    auheat sweep --grid ferplus --source FERPlus/ --store STORE --jobs 2
    python tools/write_study.py STORE/sweeps/ferplus

docs/ferplus.json is the sweep's study.json; the page between its marks is made of that alone, and
the figures are the sweep's. The same command without a folder makes the page anew from the JSON.
"""

import json
import shutil
import sys
from pathlib import Path

from auheat.sweeps.study_files import STUDY
from auheat.sweeps.study_page import AGREEMENT, CURVES, MEANS, write_study_page

DOCS = Path(__file__).parent.parent / "docs"
PREFIX = "ferplus-"
START, END = "<!-- measured -->\n", "<!-- /measured -->"


def copy_study(folder, docs):
    """Copy a sweep's numbers and figures to a folder of documents."""
    shutil.copyfile(folder / STUDY, docs / "ferplus.json")
    for name in (CURVES, AGREEMENT, MEANS):
        shutil.copyfile(folder / name, docs / f"{PREFIX}{name}")


def fill_page(docs):
    """Write the tables of ferplus.json between the marks of ferplus.md."""
    study = json.loads((docs / "ferplus.json").read_text(encoding="utf-8"))
    page = docs / "ferplus.md"
    before, rest = page.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    measured = write_study_page(study, PREFIX)
    page.write_text(f"{before}{START}{measured}{END}{after}", encoding="utf-8")


def main(arguments, docs=DOCS):
    """Run what is asked for on the command line."""
    if arguments:
        copy_study(Path(arguments[0]), docs)
    fill_page(docs)


if __name__ == "__main__":
    main(sys.argv[1:])
