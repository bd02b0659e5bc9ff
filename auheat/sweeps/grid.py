"""The grids a sweep runs: which settings, in which of the paper's tables each is a cell.

A run that several tables show is one run. Without AUs (lambda 0) no layer is aligned, so that such
a run is the same whatever layers a table asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

from auheat.models.names import METHOD_NAMES
from auheat.models.registry import METHODS
from auheat.sweeps.published import LAMBDAS, LAYERS
from auheat.training.config import TrainConfig
from auheat.training.presets import PRESETS

DATA = ("rafdb", "affectnet")
"""The paper's data sets, which are also the names of its presets."""


TOP = (5,)
"""The layer that the paper aligns unless it says otherwise."""


class RunKey(NamedTuple):
    """A configuration of a sweep, all seeds together: what a table's rows and columns differ in.

    `data` is a name of `DATA`, "" for any other set; `au_weight` is lambda; `layers` are those
    aligned, deep to shallow, () where lambda is 0. `variant` is one of `VARIANTS`, `photos` how
    many training photos are learnt from, 0 for all.
    """

    data: str
    method: str
    au_weight: float
    layers: tuple[int, ...]
    variant: str = ""
    photos: int = 0


class Variant(NamedTuple):
    """What a setting of a grid changes of the AU losses: a title, and settings of training."""

    title: str
    settings: Mapping[str, Any]


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "": Variant("the paper's loss", {}),
        "maps": Variant("the paper's loss and class maps", PRESETS["explain"]),
        "mean": Variant("control: heatmaps that know no class", {"au_target": "mean"}),
        "wrong": Variant("control: heatmaps of a wrong class", {"au_target": "wrong"}),
        "faces": Variant("the paper's loss, photos with a face alone", {"faces_only": True}),
    }
)
"""Name -> variant of a run with AUs."""


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run: its setting, and the configuration that trains it (name and seed included)."""

    setting: RunKey
    config: TrainConfig

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.run_name


@dataclass(frozen=True, slots=True)
class TableRow:
    """A table's row: a run without AUs where the table has that column, and those with AUs.

    Of several `candidates`, which differ in lambda alone, one is chosen on validation.
    """

    title: str
    without: RunKey | None
    candidates: tuple[RunKey, ...]


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table of a sweep: `kind` is "methods" (tables 1 and 2), "layers" (3), "lambdas", or
    "variants".

    `method` is that of all rows, "" where rows are methods; `layers` likewise.
    """

    kind: str
    data: str
    method: str
    layers: tuple[int, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep before it runs: what was asked for as plain values, its runs and its tables.

    `faithfulness` is the number of test photos that it is measured on, 0 for none.
    """

    name: str
    grid: Mapping[str, Any]
    cells: tuple[SweepRun, ...]
    tables: tuple[TableSpec, ...]
    faithfulness: int = 0

    @property
    def data(self) -> tuple[str, ...]:
        """The data sets that runs are of, in order."""
        return tuple(dict.fromkeys(cell.setting.data for cell in self.cells))

    @property
    def has_variants(self) -> bool:
        """Whether runs differ in what their AU losses are, which study.json then compares."""
        return any(cell.setting.variant for cell in self.cells)

    def needs_validation(self, setting: RunKey) -> bool:
        """Whether a choice among several lambdas, or the table of one, looks at this setting."""
        return any(
            setting in compared for table in self.tables for compared in list_compared(table)
        )

    def describe(self) -> list[dict[str, Any]]:
        """Return each run and what it is for as plain values."""
        return [
            {
                "run": cell.name,
                "data": cell.setting.data,
                "method": cell.setting.method,
                "au_weight": cell.setting.au_weight,
                "layers": format_layers(cell.setting.layers),
                "variant": cell.setting.variant,
                "train_photos": cell.setting.photos,
                "seed": cell.config.seed,
                "backbone": cell.config.backbone,
                "epochs": cell.config.epochs,
                "tables": self.list_tables(cell.setting),
            }
            for cell in self.cells
        ]

    def list_tables(self, setting: RunKey) -> list[str]:
        """Return the kinds of tables that show a setting."""
        kinds = {
            table.kind
            for table in self.tables
            for row in table.rows
            if setting in (row.without, *row.candidates)
        }
        return sorted(kinds)


@dataclass(frozen=True, slots=True)
class SubGrid:
    """Every combination of these methods, lambdas, layers, variants and numbers of photos.

    `training` is what these runs are trained with beside the grid's settings.
    """

    methods: tuple[str, ...]
    lambdas: tuple[float, ...]
    layers: tuple[tuple[int, ...], ...] = (TOP,)
    variants: tuple[str, ...] = ("",)
    photos: tuple[int, ...] = (0,)
    training: Mapping[str, Any] = field(default_factory=dict)

    def positive(self) -> tuple[float, ...]:
        """The lambdas with AUs."""
        return tuple(value for value in self.lambdas if value)

    def settings(self, data: str) -> Iterator[RunKey]:
        """Return each combination once."""
        for photos, method in product(self.photos, self.methods):
            if 0 in self.lambdas:
                yield RunKey(data, method, 0.0, (), "", photos)
            variants = [name for name in self.variants if _takes(method, name)]
            for layers, value, variant in product(self.layers, self.positive(), variants):
                yield RunKey(data, method, value, layers, variant, photos)


def _takes(method: str, variant: str) -> bool:
    """Whether a method can be trained so: one map for all classes cannot be aligned with each."""
    aligned = VARIANTS[variant].settings.get("class_map_weight", 0)
    return method not in METHODS or METHODS[method].class_maps or not aligned


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid by name: the parts for each data set, and the training settings they are run with.

    `seeds` are those of each run unless others are asked for, `faithfulness` as of `SweepPlan`,
    `rendering` how photos are rendered that a sweep begins from.
    """

    parts: Mapping[str, tuple[SubGrid, ...]]
    training: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    faithfulness: int = 0
    rendering: Mapping[str, Any] = field(default_factory=dict)


def _paper_parts(data: str) -> tuple[SubGrid, ...]:
    weight = float(PRESETS[data]["au_weight"])
    parts = (SubGrid(METHOD_NAMES, (0.0, weight)),)
    if data != "rafdb":
        return parts
    aligned = tuple(layers for layers in LAYERS if layers)
    return (
        *parts,
        SubGrid(("cam",), (0.0, weight), aligned),
        SubGrid(("cam",), (0.0, *LAMBDAS)),
    )


_WEIGHT = TrainConfig().au_weight

_LOSSES = SubGrid(("cam",), (0.0, _WEIGHT), variants=("", "maps"))

# of fewer photos as many epochs would be fewer steps, and the curve one of training time
_LONGER = MappingProxyType({"epochs": 2 * int(PRESETS["ferplus"]["epochs"])})

_FERPLUS = (
    replace(_LOSSES, methods=("cam", "layercam", "wildcat", "ts-cam")),
    # of LayerCAM these would be CAM's networks once more
    SubGrid(("cam", "wildcat", "ts-cam"), (_WEIGHT,), variants=("mean", "wrong")),
    SubGrid(("cam",), (_WEIGHT,), variants=("faces",)),
    SubGrid(
        ("cam",),
        (0.0, _WEIGHT),
        variants=("", "maps"),
        photos=(2_500, 5_000, 10_000),
        training=_LONGER,
    ),
    SubGrid(("cam",), (_WEIGHT,), variants=("mean",), photos=(2_500,), training=_LONGER),
)
"""What is compared, its controls, and learning curves."""

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "paper": Grid(MappingProxyType({data: _paper_parts(data) for data in DATA}), {}),
        "demo": Grid(
            MappingProxyType(
                {
                    "": (
                        SubGrid(("cam", "wildcat", "ts-cam"), (0.0, 4.0)),
                        SubGrid(("cam",), (0.0, 4.0), (TOP, (5, 4))),
                        SubGrid(("cam",), (0.0, 1.0, 4.0, 10.0)),
                    )
                }
            ),
            MappingProxyType({"preset": "methods"}),
        ),
        "losses": Grid(MappingProxyType({"": (_LOSSES,)}), {}, faithfulness=128),
        "ferplus": Grid(
            MappingProxyType({"": _FERPLUS}),
            MappingProxyType({"preset": "ferplus"}),
            seeds=(0, 1, 2),
            faithfulness=128,
            # of 48 px the networks have maps of 12: class heatmaps of this size are kept in memory
            rendering=MappingProxyType({"codebook": "martinez", "map_size": 28}),
        ),
    }
)
"""Name -> grid.

"paper" is tables 1 to 3 and figure 5, with its presets; "demo" a small one for `auheat demo`;
"losses" no AUs, the paper's loss and class maps on any set; "ferplus" that comparison with controls
and learning curves (docs/ferplus.md).
"""


def list_choices(table: TableSpec) -> list[tuple[RunKey, ...]]:
    """Return the sets of settings of which a table marks or shows one, chosen on validation."""
    if table.kind == "lambdas":
        return [tuple(s for row in table.rows for s in row.candidates if s.au_weight)]
    return [row.candidates for row in table.rows if len(row.candidates) > 1]


def list_compared(table: TableSpec) -> list[tuple[RunKey, ...]]:
    """Return `list_choices`, and with lambdas that are all shown the one without AUs too."""
    if table.kind == "lambdas":
        return [row.candidates for row in table.rows]
    return list_choices(table)


def format_layers(layers: Sequence[int]) -> str:
    """Return layers as the paper writes them: "5+4", "none"."""
    return "+".join(map(str, layers)) or "none"
