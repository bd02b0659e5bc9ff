"""Which runs belong together: those that differ in the AU weight alone, or in the layers alone.

Everything is derived from the settings of the runs at hand, so that a sweep and a handful of runs
made by hand are shown alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from auheat.reporting.run_data import Run
from auheat.training.config import TrainConfig

NO_MATTER = frozenset({"name", "device", "workers", "tensorboard"})
"""Settings that do not change what a run becomes."""


CONTROLS = {"mean": "heatmaps that know no class", "wrong": "heatmaps of a wrong class"}
"""`au_target` of a control -> what attention was drawn to in it."""

_DEFAULTS = {f.name: f.default for f in fields(TrainConfig)}

_NONE = "none"

_Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Runs that are equal in all but what is compared: a title, and the runs in order.

    The title has the settings in which this group differs from the others; it is empty for one.
    """

    title: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Runs along one setting: a title, and for each of its values the runs (seeds) that have it."""

    title: str
    steps: tuple[tuple[str, tuple[Run, ...]], ...]


def make_key(settings: Mapping[str, Any], without: Iterable[str] = ()) -> _Key:
    """Return the settings that decide what a run becomes, less some; defaults where it has none.

    The layers of a run without AUs decide nothing.
    """
    chosen = _DEFAULTS | dict(settings)
    left_out = NO_MATTER | set(without)
    if not uses_aus(chosen):
        left_out |= {"layers"}
    return frozenset((k, json.dumps(v)) for k, v in chosen.items() if k not in left_out)


def uses_aus(settings: Mapping[str, Any]) -> bool:
    """Whether a run learnt from heatmaps: by the alignment, the contrast, or the class maps."""
    return _aligns_layers(settings) or bool(settings.get("class_map_weight"))


def _aligns_layers(settings: Mapping[str, Any]) -> bool:
    return bool(settings["au_weight"] or settings.get("contrast_weight"))


def pair_runs(runs: Sequence[Run]) -> list[Group]:
    """Return every run in one or more groups: with and without AUs, all else equal.

    A run without AUs belongs to each group that is equal but for weight and layers; one that has
    no partner is a group of its own. Contrast and class maps are settings like any other.
    """
    keys, chosen = _group(runs, ("au_weight",))
    titles = distinguishing_settings(keys)
    return [
        Group(title, tuple(sorted(members, key=lambda run: float(run.settings["au_weight"]))))
        for title, members in zip(titles, chosen, strict=True)
    ]


def find_weight_curves(runs: Sequence[Run]) -> list[Curve]:
    """Return a curve over the AU weight for all runs equal but for it and the seed."""
    keys, groups = _group(runs, ("au_weight", "seed"))
    return _curves(keys, groups, lambda run: (float(run.settings["au_weight"]), _weight(run)))


def find_layer_curves(runs: Sequence[Run]) -> list[Curve]:
    """Return a curve over the aligned layers for all runs equal but for them and the seed.

    There must be two sets of layers; the runs that align none come first. Sets are ordered by
    their size, then from the deepest layer up.
    """
    keys, groups = _group(runs, ("layers", "seed"))
    return [
        curve
        for curve in _curves(keys, groups, _layers)
        if len(curve.steps) > 1 + (curve.steps[0][0] == _NONE)
    ]


def describe_aus(run: Run) -> str:
    """Return whether a run learnt from heatmaps, and the weights of the losses that made it."""
    if not uses_aus(run.settings):
        return "without AUs"
    more = (("contrast", "contrast_weight"), ("class maps", "class_map_weight"))
    weights = [(name, float(run.settings.get(key, 0.0))) for name, key in more]
    parts = [f"{name} {weight:g}" for name, weight in weights if weight]
    control = CONTROLS.get(str(run.settings.get("au_target", "own")))
    parts += [f"control: {control}"] if control else []
    return f"with AUs ({', '.join([f'λ {_weight(run)}', *parts])})"


def _weight(run: Run) -> str:
    return f"{float(run.settings['au_weight']):g}"


def _layers(run: Run) -> tuple[tuple[int, tuple[int, ...]], str]:
    """Return the place of a run's layers on the axis, and their name."""
    if not _aligns_layers(run.settings):
        return (0, ()), _NONE
    layers = sorted((int(n) for n in run.settings["layers"]), reverse=True)
    return (len(layers), tuple(-n for n in layers)), "+".join(map(str, layers))


def _group(runs: Sequence[Run], without: Sequence[str]) -> tuple[list[_Key], list[list[Run]]]:
    """Return keys and groups of runs equal in all but some settings.

    Runs with AUs make the groups; those without join every one that they fit.
    """
    aligned = [run for run in runs if uses_aus(run.settings)]
    plain = [run for run in runs if not uses_aus(run.settings)]
    groups: dict[_Key, list[Run]] = {}
    for run in aligned:
        groups.setdefault(make_key(run.settings, without), []).append(run)
    lonely: dict[_Key, list[Run]] = {}
    for run in plain:
        loose = (*without, "au_weight", "layers")
        fitting = [group for group in groups.values() if _fits(run, group[0], loose)]
        for group in fitting:
            group.append(run)
        if not fitting:
            lonely.setdefault(make_key(run.settings, without), []).append(run)
    both = [*groups.items(), *lonely.items()]
    return [key for key, _ in both], [group for _, group in both]


def _fits(run: Run, other: Run, without: Sequence[str]) -> bool:
    return make_key(run.settings, without) == make_key(other.settings, without)


def _curves(
    keys: Sequence[_Key],
    groups: Sequence[Sequence[Run]],
    place: Callable[[Run], tuple[Any, str]],
) -> list[Curve]:
    """Return the groups that have two or more places on the axis."""
    found = []
    for key, group in zip(keys, groups, strict=True):
        steps: dict[tuple[Any, str], list[Run]] = {}
        for run in group:
            steps.setdefault(place(run), []).append(run)
        if len(steps) > 1:
            found.append((key, steps))
    titles = distinguishing_settings([key for key, _ in found])
    return [
        Curve(title, tuple((text, tuple(steps[at, text])) for at, text in sorted(steps)))
        for title, (_, steps) in zip(titles, found, strict=True)
    ]


def distinguishing_settings(keys: Sequence[_Key]) -> list[str]:
    """Return the settings in which each key differs: "method cam"; empty for a single one.

    Settings are taken in the order of `TrainConfig`, as many as it takes: what follows from an
    earlier one is left out.
    """
    tables = [dict(key) for key in keys]
    names = [*_DEFAULTS, *sorted({k for t in tables for k in t if k not in _DEFAULTS})]
    told: list[str] = []
    for name in names:
        if _distinct(tables, [*told, name]) > _distinct(tables, told):
            told.append(name)
    return [
        ", ".join(f"{n.replace('_', ' ')} {_plain(t[n])}" for n in told if n in t) for t in tables
    ]


def _distinct(tables: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    return len({tuple(t.get(n) for n in names) for t in tables})


def _plain(text: str) -> str:
    value = json.loads(text)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
