"""The command line: parse, one library call, print."""

from __future__ import annotations

import click

from auheat import __version__

from .codebooks import codebooks
from .common import Group
from .machine import detectors, info
from .prepare import demo, extract, render
from .runs import evaluate, explain, export_model, report, train
from .stores import export, merge, stats, verify
from .sweeps import sweep

SECTIONS = {
    "Prepare": (demo, extract, render),
    "Learn": (train, evaluate, explain, sweep, report, export_model),
    "Stores": (stats, verify, export, merge),
    "Models and codebooks": (detectors, codebooks, info),
}


@click.group(cls=Group, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="auheat")
def main() -> None:
    """Turn labelled face photos into training shards with action-unit heatmaps.

    \b
    auheat extract rafdb/               photos -> landmarks
    auheat render --codebook martinez   landmarks -> shards with heatmaps
    auheat train                        shards -> an interpretable classifier
    auheat evaluate                     a run -> scores, beside their baselines
    auheat explain RUN photo.jpg        a run + any photo -> what it saw there, as a picture
    auheat sweep --grid demo            a grid of runs -> the paper's tables
    auheat report                       one HTML page to look at

    No photos at hand? `auheat demo rafdb/` makes a small labelled set. Lists have commas between
    their values (--classes Anger,Fear), layers that are aligned together a plus (--layers 5+4).
    Every command takes options from a YAML file (--config FILE), and -v, -q, --log-level and
    --no-progress behind its name, too.
    """
