"""Planning of a sweep: its runs and tables from the request, which is checked here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from auheat.errors import RequestError
from auheat.models.registry import METHODS
from auheat.store.store import check_name
from auheat.sweeps.grid import (
    DATA,
    GRIDS,
    TOP,
    VARIANTS,
    RunKey,
    SubGrid,
    SweepPlan,
    SweepRun,
    TableRow,
    TableSpec,
    format_layers,
)
from auheat.training.config import TrainConfig, make_config
from auheat.training.presets import PRESETS
from auheat.utils.checks import check_distinct

_UNTAUGHT = {"contrast_weight": 0.0, "class_map_weight": 0.0, "au_target": "own"}

_INSTEAD = {"method": "methods", "au_weight": "au_weights", "seed": "seeds"}

_HARMLESS = ("device", "workers", "tensorboard")


def plan_sweep(
    grid: str = "none",
    methods: Sequence[str] | None = None,
    au_weights: Sequence[float] | None = None,
    layers: Sequence[Sequence[int]] | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    preset: str | None = None,
    data: Sequence[str] | None = None,
    **settings: Any,
) -> SweepPlan:
    """Return the runs and tables of a grid: one by name, or all combinations of what is given.

    `preset` and `settings` are those of `make_config`, the same for every run, but that
    runs without AUs (lambda 0) have no contrast either. `data` takes some of the paper grid's
    sets [default: both]. Nothing is read from disk. Raises `AuheatError` for what no run could
    use, for a setting that the grid decides, for a value given twice, and for an empty grid.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if seeds is None:
        seeds = GRIDS[grid].seeds if grid in GRIDS else (0,)
    chosen = {"methods": methods, "au_weights": au_weights, "layers": layers}
    _check_given(grid, given, seeds, data)
    if grid != "none":
        _check_grid(grid, chosen, preset)
        row = GRIDS[grid]
        training = {**row.training, **given}
        training |= {"preset": preset} if preset else {}
        parts = {
            key: _choose_methods(grids, methods)
            for key, grids in row.parts.items()
            if data is None or key in data
        }
    else:
        training = {**given, "preset": preset or "none"}
        data_set = preset if preset in DATA else ""
        parts = {data_set: (_make_part(methods, au_weights, layers, training, seeds),)}
    _check_variants(parts, given, preset)
    positive = [part.positive() for grids in parts.values() for part in grids]
    begun = {**PRESETS.get(training.get("preset", "none"), {}), **training}
    for key, what in (("contrast_weight", "contrast"), ("class_map_weight", "aligned class maps")):
        if begun.get(key) and not any(positive):
            raise RequestError(
                f"--{key.replace('_', '-')}: no AU weight above 0 (runs without AUs have no {what} "
                "either)"
            )
    name = check_name(name or (grid if grid != "none" else "grid"))
    cells = tuple(_make_cells(name, parts, seeds, training))
    tables = tuple(table for key, grids in parts.items() for table in _lay_tables(key, grids))
    asked = {
        "grid": grid,
        "data": list(parts),
        **{key: _plain(value) for key, value in chosen.items()},
        "seeds": list(seeds),
        **{key: _plain(v) for key, v in sorted(training.items()) if key not in _HARMLESS},
    }
    faithfulness = GRIDS[grid].faithfulness if grid in GRIDS else 0
    return SweepPlan(name, asked, cells, tables, faithfulness)


def _choose_methods(grids: Sequence[SubGrid], methods: Sequence[str] | None) -> tuple[SubGrid, ...]:
    """Return a grid's parts for other methods.

    Beside parts of several methods, those of one are of the first alone.
    """
    if methods is None:
        return tuple(grids)
    _check_known("--methods", methods, METHODS.__contains__, f"one of {', '.join(METHODS)}")
    check_distinct("--methods", methods, str)
    if not methods:
        raise RequestError("--methods: an empty list (leave it out)")
    most = max(len(part.methods) for part in grids)
    return tuple(
        replace(part, methods=tuple(methods if len(part.methods) > 1 or most == 1 else methods[:1]))
        for part in grids
    )


def _check_variants(
    parts: Mapping[str, Sequence[SubGrid]], given: Mapping[str, Any], preset: str | None
) -> None:
    """Raise `AuheatError` for a setting that a grid's variants have values of their own for."""
    grids = [part for some in parts.values() for part in some]
    decided = {key for part in grids for name in part.variants for key in VARIANTS[name].settings}
    decided |= {"train_photos"} if any(any(part.photos) for part in grids) else set()
    decided |= {"contrast_weight"} if decided else set()  # the paper's loss has no contrast
    for key in sorted(decided & {*given}):
        raise RequestError(f"--{key.replace('_', '-')}: not beside --grid, which decides it")
    for key in sorted(decided & {*PRESETS.get(preset or "none", {})}):
        raise RequestError(
            f"--preset {preset}: not beside --grid, which decides the {key.replace('_', ' ')}"
        )


def _check_given(
    grid: str, given: Mapping[str, Any], seeds: Sequence[int], data: Sequence[str] | None
) -> None:
    """Raise `AuheatError` for settings that the grid decides, and for a list that leaves no run."""
    for key, instead in _INSTEAD.items():
        if key in given:
            raise RequestError(f"{key}: not the same for every run of a sweep (expected {instead})")
    if not seeds:
        raise RequestError("--seeds: an empty list (expected one or more, such as 0)")
    check_distinct("--seeds", seeds, str)
    if data is None:
        return
    if grid != "paper":
        raise RequestError(
            f"--{data[0] if data else 'rafdb'}: for --grid paper alone (--store for any other)"
        )
    for value in data:
        if value not in DATA:
            raise RequestError(f"data: {value!r} is not known (one of {', '.join(DATA)})")
    if not data:
        raise RequestError(f"data: an empty list (expected some of {', '.join(DATA)})")
    check_distinct("data", data, str)


def _check_grid(grid: str, chosen: Mapping[str, Any], preset: str | None) -> None:
    if grid not in GRIDS:
        raise RequestError(f"--grid: {grid!r} is not known (one of none, {', '.join(GRIDS)})")
    for key, value in chosen.items():
        if value is not None and not (key == "methods" and grid in ("ferplus", "losses")):
            option = f"--{key.replace('_', '-')}"
            raise RequestError(f"{option}: not beside --grid {grid}, which has its own")
    if grid == "paper" and preset:
        raise RequestError("--preset: not beside --grid paper, whose presets are the paper's own")


def _make_part(
    methods: Sequence[str] | None,
    au_weights: Sequence[float] | None,
    layers: Sequence[Sequence[int]] | None,
    training: Mapping[str, Any],
    seeds: Sequence[int],
) -> SubGrid:
    """Return the grid of all combinations; what is not given is the training configuration's."""
    if methods is None and au_weights is None and layers is None and len(seeds) < 2:
        raise RequestError(
            f"sweep: nothing to vary (expected --grid {' or '.join(GRIDS)}, or some of "
            "--methods, --au-weights, --layers, --seeds)"
        )
    base = _configure(training)
    part = SubGrid(
        (base.method,) if methods is None else tuple(methods),
        tuple(sorted(map(float, {0.0, base.au_weight} if au_weights is None else au_weights))),
        tuple(
            _order(_configure(training, layers=chosen).layers)
            for chosen in ((base.layers,) if layers is None else layers)
        ),
    )
    _check_known("--methods", part.methods, METHODS.__contains__, f"one of {', '.join(METHODS)}")
    _check_known("--au-weights", part.lambdas, lambda v: 0 <= v < math.inf, "0 or more")
    check_distinct("--methods", part.methods, str)
    check_distinct("--au-weights", part.lambdas, str)
    check_distinct("--layers", part.layers, format_layers)
    if not (part.methods and part.lambdas and all(part.layers) and part.layers):
        raise RequestError("sweep: an empty list of methods, AU weights or layers (leave it out)")
    if layers is not None and not part.positive():
        raise RequestError("--layers: no AU weight above 0 (without AUs no layer is aligned)")
    return part


def _order(layers: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(layers, reverse=True))


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _check_known(
    option: str, values: Sequence[Any], fits: Callable[[Any], bool], expected: str
) -> None:
    for value in values:
        if not fits(value):
            raise RequestError(f"{option}: {value!r} is not known (expected {expected})")


def _configure(training: Mapping[str, Any], **swept: Any) -> TrainConfig:
    return make_config(**training, **swept)


def _make_cells(
    name: str,
    parts: Mapping[str, Sequence[SubGrid]],
    seeds: Sequence[int],
    training: Mapping[str, Any],
) -> Iterator[SweepRun]:
    """Return every run once, in the order of the tables; configurations are checked."""
    for data, grids in parts.items():
        preset = {"preset": data} if data else {}
        begun = {
            setting: part.training for part in reversed(grids) for setting in part.settings(data)
        }
        for setting in dict.fromkeys(s for part in grids for s in part.settings(data)):
            # what "without AUs" stands for is the plain classifier, which no heatmap has taught
            plain = {} if setting.au_weight else _UNTAUGHT
            variant = {**VARIANTS[setting.variant].settings}
            variant |= {"train_photos": setting.photos} if setting.photos else {}
            for seed in seeds:
                config = _configure(
                    {**begun[setting], **training, **preset, **plain, **variant},
                    method=setting.method,
                    au_weight=setting.au_weight,
                    # a top layer that nobody asked for is that of any network
                    layers=None if setting.layers in ((), TOP) else setting.layers,
                    seed=seed,
                    name=_name_run(name, setting, seed),
                )
                yield SweepRun(setting, config)


def _name_run(name: str, setting: RunKey, seed: int) -> str:
    words = [
        name,
        *([setting.data] if setting.data else []),
        setting.method,
        # no two lambdas have one name: repr tells all numbers apart
        f"au{setting.au_weight!r}".removesuffix(".0"),
        *([f"layers{format_layers(setting.layers)}"] if setting.layers else []),
        *filter(None, [setting.variant]),
        *([f"photos{setting.photos}"] if setting.photos else []),
        f"seed{seed}",
    ]
    return "-".join(words).replace("+", "p")


def _lay_tables(data: str, parts: Sequence[SubGrid]) -> Iterator[TableSpec]:
    if any(part.variants != ("",) for part in parts):
        settings = dict.fromkeys(s for part in parts for s in part.settings(data))
        for n in dict.fromkeys(s.photos for s in settings):
            of_n = sorted((s for s in settings if s.photos == n), key=_by_method(parts))
            yield TableSpec("variants", data, "", TOP, tuple(map(_variant_row, of_n)))
        return
    for part in parts:
        if len(part.methods) > 1 or len(parts) == 1:
            yield TableSpec("methods", data, "", part.layers[0], _method_rows(data, part))
    for part in parts:
        for method in part.methods:
            if len(part.layers) > 1:
                yield TableSpec("layers", data, method, (), _layer_rows(data, method, part))
    for part in parts:
        if len(part.positive()) > 1:
            for method in part.methods:
                for layers in part.layers:
                    rows = _lambda_rows(data, method, layers, part)
                    yield TableSpec("lambdas", data, method, layers, rows)


def _by_method(parts: Sequence[SubGrid]) -> Callable[[RunKey], int]:
    order = list(dict.fromkeys(method for part in parts for method in part.methods))
    return lambda setting: order.index(setting.method)


def _variant_row(setting: RunKey) -> TableRow:
    what = VARIANTS[setting.variant].title if setting.au_weight else "without AUs"
    plain = RunKey(setting.data, setting.method, 0.0, (), "", setting.photos)
    title = f"{METHODS[setting.method].title}, {what}"
    return TableRow(title, plain if setting.au_weight else None, (setting,))


def _aligned(data: str, method: str, layers: tuple[int, ...], part: SubGrid) -> tuple[RunKey, ...]:
    return tuple(RunKey(data, method, value, layers) for value in part.positive())


def _method_rows(data: str, part: SubGrid) -> tuple[TableRow, ...]:
    return tuple(
        TableRow(
            METHODS[method].title,
            RunKey(data, method, 0.0, ()) if 0 in part.lambdas else None,
            _aligned(data, method, part.layers[0], part),
        )
        for method in part.methods
    )


def _layer_rows(data: str, method: str, part: SubGrid) -> tuple[TableRow, ...]:
    none = TableRow("none", None, (RunKey(data, method, 0.0, ()),))
    rows = [
        TableRow(format_layers(layers), None, _aligned(data, method, layers, part))
        for layers in part.layers
    ]
    return (*([none] if 0 in part.lambdas else []), *rows)


def _lambda_rows(
    data: str, method: str, layers: tuple[int, ...], part: SubGrid
) -> tuple[TableRow, ...]:
    settings = [RunKey(data, method, v, layers if v else ()) for v in part.lambdas]
    return tuple(TableRow(f"{s.au_weight:g}", None, (s,)) for s in settings)
