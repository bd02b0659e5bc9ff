"""A sweep's runs scored on other stores, each once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, RequestError
from auheat.evaluation.evaluator import evaluate
from auheat.evaluation.scored_rows import digest_content
from auheat.runs.run_folder import BEST, ELSEWHERE
from auheat.shards.manifest import has_manifest
from auheat.shards.schema import SHARDS
from auheat.store.store import list_rendered
from auheat.utils.console import progress
from auheat.utils.files import file_digest
from auheat.utils.reading import read_json

_LOG = logging.getLogger(__name__)

_SPLIT = "all"
"""The photos of another set that are scored: the run has learnt from none of them."""


def check_others(others: Sequence[Path], own: Collection[Path]) -> None:
    """Raise `AuheatError` for a store without shards or with several kinds, and for runs' own."""
    for other in others:
        if other.resolve() in {store.resolve() for store in own}:
            raise RequestError(f"--also-on: {other}: the runs learn from it (expected other sets)")
        list_rendered(other, None)


def score_elsewhere(runs: Sequence[Path], others: Sequence[Path], device: str = "auto") -> int:
    """Score every run on all photos of every store; what is there already is not made again.

    Args:
        runs: Folders of finished runs.
        others: Stores; their labels are matched with each run's classes by name.
        device: As of `evaluate`.

    Returns:
        How many were scored now. A run that a store does not fit is left out, with a warning.

    Example:
        >>> from auheat.sweeps.elsewhere import score_elsewhere
        >>> score_elsewhere([], [])
        0
    """
    waiting = [(run, other) for run, other in product(runs, others) if not _is_scored(run, other)]
    done = 0
    for run, other in progress(waiting, desc="elsewhere", unit="run", shown=bool(waiting)):
        try:
            evaluate(run, other, device=device, split=_SPLIT)
            done += 1
        except AuheatError as error:
            _LOG.warning("%s: not scored on %s: %s", run.name, other, error)
    return done


def _is_scored(run: Path, other: Path) -> bool:
    """Whether a run has scores of its weights on a store's shards as they are now."""
    whole = [scores for scores in read_elsewhere(run).values() if scores.get("split") == _SPLIT]
    for about in (scores.get("scored_on") or {} for scores in whole):
        shards = other / SHARDS / str(about.get("shards"))
        if about.get("store") != str(other.resolve()) or not has_manifest(shards):
            continue
        same = about.get("content") == digest_content(shards)
        if same and about.get("weights_sha256") == file_digest(run / BEST):
            return True
    return False


def read_elsewhere(run: Path) -> dict[Path, dict[str, Any]]:
    """Return the files of a run's scores on other stores, and what they hold.

    Those that cannot be read are left out, and named.
    """
    found = {}
    for file in sorted((run / ELSEWHERE).glob("*/evaluation*.json")):
        try:
            found[file] = dict(read_json(file))
        except (OSError, ValueError, TypeError):
            _LOG.warning("%s: unreadable, and left out", file)
    return found
