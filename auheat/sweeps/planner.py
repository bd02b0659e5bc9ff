"""Planning of a sweep: its runs and tables from the request, which is checked here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from auheat.errors import RequestError
from auheat.models.registry import METHODS
from auheat.models.resnet import N_LAYERS
from auheat.store.store import check_name
from auheat.sweeps.grid import (
    DATA,
    GRIDS,
    TOP,
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

_INSTEAD = {"method": "methods", "au_weight": "lambdas", "seed": "seeds"}

_HARMLESS = ("device", "workers", "tensorboard")


def plan_sweep(
    preset: str = "none",
    methods: Sequence[str] | None = None,
    lambdas: Sequence[float] | None = None,
    layers: Sequence[Sequence[int]] | None = None,
    seeds: Sequence[int] = (0,),
    name: str | None = None,
    train_preset: str | None = None,
    data: Sequence[str] | None = None,
    **settings: Any,
) -> SweepPlan:
    """Return the runs and tables of a grid: a preset's, or all combinations of what is given.

    `train_preset` and `settings` are those of `make_config`, the same for every run, but that
    runs without AUs (lambda 0) have no contrast either. `data` takes some of the paper preset's
    sets [default: both]. Nothing is read from disk. Raises `AuheatError` for what no run could
    use, for a setting that the grid decides, for a value given twice, and for an empty grid.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    chosen = {"methods": methods, "lambdas": lambdas, "layers": layers}
    _check_given(preset, given, seeds, data)
    if preset != "none":
        _check_preset(preset, chosen, given, train_preset)
        row = GRIDS[preset]
        training = {**row.training, **given}
        training |= {"train_preset": train_preset} if train_preset else {}
        parts = {key: row.parts[key] for key in row.parts if data is None or key in data}
    else:
        training = {**given, "train_preset": train_preset or "none"}
        parts = {_data_of(given): (_make_part(methods, lambdas, layers, training, seeds),)}
    positive = [part.positive() for grids in parts.values() for part in grids]
    if given.get("contrast_weight") and not any(positive):
        raise RequestError(
            "--contrast-weight: no lambda above 0 (runs without AUs have no contrast either)"
        )
    name = check_name(name or (preset if preset != "none" else "grid"))
    cells = tuple(_make_cells(name, parts, seeds, training))
    tables = tuple(table for key, grids in parts.items() for table in _lay_tables(key, grids))
    grid = {
        "preset": preset,
        "data": list(parts),
        **{key: _plain(value) for key, value in chosen.items()},
        "seeds": list(seeds),
        **{key: _plain(v) for key, v in sorted(training.items()) if key not in _HARMLESS},
    }
    return SweepPlan(name, grid, cells, tables)


def _check_given(
    preset: str, given: Mapping[str, Any], seeds: Sequence[int], data: Sequence[str] | None
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
    if preset != "paper":
        raise RequestError(f"data: for preset paper alone, not {preset} (leave it out)")
    for value in data:
        if value not in DATA:
            raise RequestError(f"data: {value!r} is not known (one of {', '.join(DATA)})")
    if not data:
        raise RequestError(f"data: an empty list (expected some of {', '.join(DATA)})")
    check_distinct("data", data, str)


def _check_preset(
    preset: str, chosen: Mapping[str, Any], given: Mapping[str, Any], train_preset: str | None
) -> None:
    if preset not in GRIDS:
        raise RequestError(f"--preset: {preset!r} is not known (one of none, {', '.join(GRIDS)})")
    for key, value in chosen.items():
        if value is not None:
            raise RequestError(f"--{key}: not beside --preset {preset}, which has its own")
    if preset == "paper" and (train_preset or given.get("recipe")):
        option = "--train-preset" if train_preset else "--recipe"
        raise RequestError(f"{option}: not beside --preset paper, whose recipes are the paper's")


def _data_of(given: Mapping[str, Any]) -> str:
    recipe = str(given.get("recipe", ""))
    return recipe if recipe in DATA else ""


def _make_part(
    methods: Sequence[str] | None,
    lambdas: Sequence[float] | None,
    layers: Sequence[Sequence[int]] | None,
    training: Mapping[str, Any],
    seeds: Sequence[int],
) -> SubGrid:
    """Return the grid of all combinations; what is not given is the training configuration's."""
    if methods is None and lambdas is None and layers is None and len(seeds) < 2:
        raise RequestError(
            f"sweep: nothing to vary (expected --preset {' or '.join(GRIDS)}, or some of "
            "--methods, --lambdas, --layers, --seeds)"
        )
    base = _configure(training)
    part = SubGrid(
        (base.method,) if methods is None else tuple(methods),
        tuple(sorted(map(float, {0.0, base.au_weight} if lambdas is None else lambdas))),
        tuple(map(_order, (base.layers,) if layers is None else layers)),
    )
    numbers = [number for chosen in part.layers for number in chosen]
    _check_known("--methods", part.methods, METHODS.__contains__, f"one of {', '.join(METHODS)}")
    _check_known("--lambdas", part.lambdas, lambda v: 0 <= v < math.inf, "0 or more")
    _check_known(
        "--layers", numbers, range(1, N_LAYERS + 1).__contains__, f"some of 1 to {N_LAYERS}"
    )
    check_distinct("--methods", part.methods, str)
    check_distinct("--lambdas", part.lambdas, str)
    check_distinct("--layers", part.layers, format_layers)
    if not (part.methods and part.lambdas and all(part.layers) and part.layers):
        raise RequestError("sweep: an empty list of methods, lambdas or layers (leave it out)")
    if layers is not None and not part.positive():
        raise RequestError("--layers: no lambda above 0 (without AUs no layer is aligned)")
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
    settings = {key: value for key, value in training.items() if key != "train_preset"}
    preset = training.get("train_preset", "none")
    if preset not in PRESETS:
        raise RequestError(f"--train-preset: {preset!r} is not known (one of {', '.join(PRESETS)})")
    return make_config(preset, **settings, **swept)


def _make_cells(
    name: str,
    parts: Mapping[str, Sequence[SubGrid]],
    seeds: Sequence[int],
    training: Mapping[str, Any],
) -> Iterator[SweepRun]:
    """Return every run once, in the order of the tables; configurations are checked."""
    for data, grids in parts.items():
        recipe = {"recipe": data} if data else {}
        for setting in dict.fromkeys(s for part in grids for s in part.settings(data)):
            # what "without AUs" stands for is the plain classifier, which no heatmap has taught
            plain = {} if setting.au_weight else {"contrast_weight": 0.0}
            for seed in seeds:
                config = _configure(
                    {**training, **recipe, **plain},
                    method=setting.method,
                    au_weight=setting.au_weight,
                    layers=setting.layers or TOP,
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
        f"seed{seed}",
    ]
    return "-".join(words).replace("+", "p")


def _lay_tables(data: str, parts: Sequence[SubGrid]) -> Iterator[TableSpec]:
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
