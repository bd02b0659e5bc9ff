"""The model card of a run, written from its own settings and evaluations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from auheat import __version__
from auheat.datasets.layout import OWN_TERMS
from auheat.deployment.metadata import RANGE, Provenance, describe_framing_in_words
from auheat.deployment.run_model import RunModel
from auheat.errors import AuheatError, StoreError
from auheat.reporting.console import (
    format_calibration,
    format_counts,
    format_interval,
    tabulate_headline,
)
from auheat.reporting.faithfulness_section import tabulate_faithfulness
from auheat.runs.run_folder import ELSEWHERE, RESULT, name_results
from auheat.utils.npz import DAMAGE
from auheat.utils.reading import read_json

_LOG = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

_FEW = 30
"""A class with fewer photos of the evaluation than this has an accuracy that says little."""

_BY_CLASS = {"accuracy": "accuracy", "f1": "F1", "att_cos": "ATT-COS", "rank1": "rank-1"}

_UNMEASURED = (
    "Age, gender, skin colour and culture are not noted in the data, so nothing was measured of "
    "them: expect it to be worse for people who are rare in the training photos, and test it on "
    "yours."
)


def write_card(model: RunModel, run: Path, provenance: Provenance) -> str:
    """Return the Markdown of a run's model card, with the head that model hubs read.

    What the run has not, or not noted, is said in it and logged: an evaluation, the data set, its
    terms. Raises `AuheatError` for an evaluation that is damaged.
    """
    result, elsewhere = _read_evaluations(run, provenance.weights_sha256)
    config = model.config
    settings, data = config["settings"], config["data"]
    numbers = data.get("train_per_class") or [None] * len(model.class_names)
    learnt = dict(zip(model.class_names, numbers, strict=False))
    try:
        content = _describe_scores(result, elsewhere, learnt)
        biases = [*_find_biases(result, learnt), _UNMEASURED]
    except DAMAGE as error:
        raise StoreError(
            f"{run}: an evaluation is damaged: {error} (`auheat evaluate` makes it anew)"
        ) from error
    weights = data.get("weights_file", "none")
    rows = f"{data.get('train_rows', '?')} photos to learn from, {data.get('val_rows', '?')} held "
    left = "".join(f", {n} left out ({why})" for why, n in data.get("left_out", {}).items())
    content |= {
        "head": yaml.safe_dump(
            _make_head(run.name, provenance, result), sort_keys=False, allow_unicode=True
        ),
        "run": run.name,
        "version": __version__,
        "method": model.method.title,
        "source": model.method.source,
        "backbone": settings["backbone"],
        "side": model.image_size,
        "classes": model.class_names,
        "losses": _describe_losses(settings),
        "book": f"{config['codebook'].get('title')} ({config['codebook'].get('citation')})",
        "landmarks": model.takes_landmarks,
        "range": RANGE,
        "framing": describe_framing_in_words(config),
        "data": _describe_data(run, provenance),
        "rows": f"{rows}out to choose the epoch{left}; landmarks by {config.get('detector')}.",
        "pretrained": "It was trained from scratch."
        if weights == "none"
        else f"It began from published weights ({weights}), whose data has biases of its own.",
        "biases": biases,
    }
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701 (no HTML)
    text: str = environment.from_string(_TEMPLATE.read_text("utf-8")).render(content)
    return text + "\n"


def _read_evaluations(run: Path, weights: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a run's scores on its own set, {} for none, and those on others, of these weights."""
    own = next(
        (run / name for name in (RESULT, name_results("val")[0]) if (run / name).is_file()), None
    )
    files = [*([own] if own else []), *sorted(run.glob(f"{ELSEWHERE}/*/evaluation*.json"))]
    kept = {}
    for file in files:
        try:
            scores = read_json(file)
            about = scores["scored_on"]
            current = about.get("weights_sha256", weights) == weights
        except (OSError, *DAMAGE) as error:
            if isinstance(error, AuheatError):
                raise
            raise StoreError(f"{file}: damaged (`auheat evaluate` makes it anew)") from error
        if current:
            kept[file] = scores
        else:
            _LOG.warning("%s: of other weights than the run has now: left out of the card", file)
    result = kept.pop(own, {}) if own else {}
    if not result:
        _LOG.warning(
            "%s: not evaluated, which its card says (`auheat evaluate %s`, then export again)",
            run, run.name,
        )  # fmt: skip
    return result, list(kept.values())


def _describe_losses(settings: Mapping[str, Any]) -> str:
    names = {
        "au_weight": "attention aligned with the heatmaps of action units",
        "contrast_weight": "attention told apart from other expressions' heatmaps",
        "class_map_weight": "every class's map aligned with its own heatmap",
    }
    parts = [
        f"{what} (weight {settings[key]:g})" for key, what in names.items() if settings.get(key)
    ]
    if not parts:
        return "It was trained by labels alone; its attention was left alone."
    return f"It was trained by labels, with its {'; '.join(parts)}."


def _describe_scores(
    result: Mapping[str, Any], elsewhere: Sequence[Mapping[str, Any]], learnt: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the card's tables, "" or empty where there is nothing to show."""
    other = [
        (
            Path(str(one["scored_on"].get("store"))).name,
            one["split"],
            str(one["n"]),
            *(_format(one[key], one["intervals"].get(key)) for key in ("accuracy", "att_cos")),
        )
        for one in elsewhere
    ]
    content: dict[str, Any] = {"scores": "", "faithfulness": [], "elsewhere": ""}
    if other:
        content["elsewhere"] = _tabulate(
            [("photos of", "split", "number", "accuracy", "ATT-COS"), *other]
        )
    if not result:
        return content
    rows = [("class", "learnt from", "evaluated on", *_BY_CLASS.values())]
    for name in result["class_names"]:
        one = result["per_class"][name]
        scores = ("" if one.get(key) is None else f"{one[key]:.3f}" for key in _BY_CLASS)
        number = learnt.get(name)
        rows.append((name, "?" if number is None else str(number), str(one["n"]), *scores))
    return content | {
        "counts": format_counts(result),
        "chosen": result["split"] == "val",
        "scores": _tabulate(tabulate_headline(result)),
        "by_class": _tabulate(rows),
        "calibration": format_calibration(result),
        "faithfulness": [_tabulate(t) for t in tabulate_faithfulness(result)]
        if result.get("faithfulness")
        else [],
    }


def _format(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" {format_interval(*ends)}" if ends else "")


def _tabulate(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the heading first, as a Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _describe_data(run: Path, provenance: Provenance) -> str:
    """Return the sentences on the data set and its terms; what is not known is logged, too."""
    layout, terms = provenance.layout, provenance.terms
    if layout and terms and terms != OWN_TERMS:
        return f"Data set: {layout}. Terms of its photos, in a word: {terms}."
    missing = "the data set is" if not layout else "the terms of its photos are"
    _LOG.warning("%s: %s not known: fill in the card before you hand it on", run, missing)
    what = f"Photos read as `{layout}`." if layout else "The data set was not noted."
    return f"{what} **Fill in: whose photos these are, with what consent, on what terms.**"


def _find_biases(result: Mapping[str, Any], learnt: Mapping[str, Any]) -> list[str]:
    """Return what the numbers of classes and their accuracies say, as sentences."""
    lines = []
    numbers = {name: n for name, n in learnt.items() if n}
    if numbers:
        most, least = (pick(numbers, key=numbers.__getitem__) for pick in (max, min))
        counts = f"{numbers[most]} photos of {most} and {numbers[least]} of {least}"
        lines.append(
            f"Learnt from {counts}: {numbers[most] / numbers[least]:.1f} to one."
            if numbers[most] > numbers[least]
            else f"Learnt from as many photos of every class ({numbers[most]})."
        )
    scores = {name: result["per_class"][name] for name in result.get("class_names", ())}
    classes = {name: one for name, one in scores.items() if one["n"]}
    rates = {k: one["accuracy"] for k, one in classes.items() if one["accuracy"] is not None}
    if rates:
        ends = {what: pick(rates.values()) for what, pick in (("best", max), ("worst", min))}
        named = (
            f"{what}: {', '.join(name for name, rate in rates.items() if rate == end)} ({end:.3f})"
            for what, end in ends.items()
        )
        lines.append(
            f"Recognised {'; '.join(named)}."
            if ends["best"] > ends["worst"]
            else f"All classes are recognised equally often ({ends['best']:.3f})."
        )
        few = [f"{name} ({one['n']})" for name, one in classes.items() if one["n"] < _FEW]
        if few:
            lines.append(f"Few photos to evaluate on, so little is known: {', '.join(few)}.")
    return lines


def _make_head(name: str, provenance: Provenance, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what model hubs read: tags, licence, and the scores."""
    head: dict[str, Any] = {
        "library_name": "auheat",
        "pipeline_tag": "image-classification",
        "license": "other",
        "license_name": "see-training-data",
        "tags": ["facial-expression-recognition", "action-units", "interpretability", "auheat"],
    }
    scores = {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "att_cos": "ATT-COS",
    }
    metrics = [
        {"type": key, "name": title, "value": round(result[key], 4)}
        for key, title in scores.items()
        if result.get(key) is not None
    ]
    if metrics:
        layout = provenance.layout or "unknown"
        task = {"type": "image-classification", "name": "Facial expression recognition"}
        dataset = {"type": layout, "name": layout, "split": result["split"]}
        head["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
        ]
    return head
