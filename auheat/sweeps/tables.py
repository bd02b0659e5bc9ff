"""A sweep's results as the paper lays them out: tables 1 to 3 and figure 5, in Markdown.

The paper's figures stand beside the measured ones in italics and brackets, and only where a
run is what the paper's was: that data set (its preset, and as many test photos as it has), that
method and network, those layers, scored against the authors' maps. Elsewhere the page says what
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from auheat.evaluation.columns import COLUMNS
from auheat.models.registry import METHODS
from auheat.reporting.tables import find_baselines
from auheat.sweeps import published
from auheat.sweeps.grid import RunKey, SweepPlan, TableRow, TableSpec, format_layers, list_choices
from auheat.sweeps.results import VALIDATION, RunResult, Spread, score_contrasts, score_of

NAMES = {"rafdb": "RAF-DB", "affectnet": "AffectNet"}


PAPER_COLUMNS = {column.key: column for column in COLUMNS if column.paper}
"""Score -> its column, for the scores that the paper has, and margin and rank-1."""


_SAME_SIZE = 0.01

Choices = Mapping[tuple[RunKey, ...], RunKey | None]


class _Page(NamedTuple):
    """A sweep's plan, results and choices, from which cells are made."""

    plan: SweepPlan
    results: Sequence[RunResult]
    choices: Choices


def write_markdown(
    plan: SweepPlan,
    results: Sequence[RunResult],
    choices: Choices,
    differences: Sequence[str] = (),
) -> str:
    """Return sweep.md: every table of the plan, with what is missing said below.

    `differences` are paragraphs of `auheat.sweeps.differences`, below the plan's tables.
    """
    page = _Page(plan, results, choices)
    done = sum(r.record.state == "done" for r in results)
    tables = [text for table in plan.tables for text in _WRITERS[table.kind](page, table)]
    return "\n\n".join(
        [
            f"# Sweep {plan.name}",
            f"{done} of {len(results)} runs are done. CL is the accuracy on the test photos in per "
            "cent; CAM-COS, ATT-COS, margin and rank-1 are explained by `auheat evaluate`. "
            + _format_seeds(plan)
            + _format_losses(plan)
            + " \"-\": no such score, or not there yet. Intervals of single runs are in sweep.csv.",
            *([_CITED] if any(_CITED_MARK in text for text in tables) else []),
            *tables,
            *differences,
            *_difference_lines(results),
            *_failure_lines(results),
        ]
    ) + "\n"  # fmt: skip


_CITED_MARK = "*("

_CITED = (
    f"*(In italics and brackets)*: as published, {published.CITATION}; one run each. Its best "
    "epoch was chosen on the test photos, here on photos held out from training. After a "
    "semicolon: ATT-COS as its code computes it, which alone compares with the published one."
)


def _format_seeds(plan: SweepPlan) -> str:
    n = len(plan.grid["seeds"])
    if n == 1:
        return f"One run each, seed {plan.grid['seeds'][0]}."
    return f"Mean ± standard deviation over n of {n} seeds."


def _format_losses(plan: SweepPlan) -> str:
    more = []
    for key, what in (("contrast_weight", "a contrast"), ("class_map_weight", "class maps")):
        weights = sorted({getattr(cell.config, key) for cell in plan.cells} - {0.0})
        if weights:
            more.append(f"{what} of weight {', '.join(f'{weight:g}' for weight in weights)}")
    if not more:
        return ""
    return f" Runs with AUs have {' and '.join(more)} too, those without (λ 0) none."


def _failure_lines(results: Sequence[RunResult]) -> list[str]:
    failed = [r for r in results if r.record.state == "failed"]
    if not failed:
        return []
    lines = "\n".join(f"- `{r.cell.name}`: {r.record.error}" for r in failed)
    return ["## Failed", lines + "\n\nThe same command tries them again."]


def format_title(number: str, what: str, table: TableSpec) -> str:
    """Return a table's heading: its number, what it compares, and of which data, method, layers."""
    data = NAMES.get(table.data)
    method = f", {METHODS[table.method].title}" if table.method else ""
    aligned = table.layers and table.kind not in ("methods", "variants")
    layers = f", layer {format_layers(table.layers)} aligned" if aligned else ""
    return f"## {number}: {what}{f', {data}' if data else ''}{method}{layers}"


def format_grid(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_mean(key: str, score: Spread | None) -> str:
    """Return a score as a cell: accuracy in per cent, others with three decimals."""
    if score is None:
        return "-"
    factor, digits = (100, 2) if PAPER_COLUMNS[key].percent else (1, 3)
    text = f"{factor * score.mean:.{digits}f}"
    if score.deviation is not None:
        text += f" ± {factor * score.deviation:.{digits}f} (n={score.n})"
    return text


def _cell(
    page: _Page, setting: RunKey | None, key: str, cited: published.PublishedScores | None = None
) -> str:
    """Return a test score of a setting, and the published one beside it."""
    if setting is None:
        return "-"
    text = format_mean(key, score_of(page.results, setting, key))
    value = getattr(cited, key, None)  # margin and rank-1 were not published
    own = [r for r in page.results if r.cell.setting == setting and r.scores]
    if value is None or text == "-" or not own or any(map(list_differences, own)):
        return text
    if key == "att_cos":  # the paper's is this one, by its code's flags
        reference = score_of(page.results, setting, "att_cos_reference")
        text += f"; {format_mean(key, reference)}"
    return f"{text} {_CITED_MARK}{value:.2f})*"


def list_differences(result: RunResult) -> list[str]:
    """Return in what a scored run differs from the paper's, so that its figures cannot be compared.

    Test photos may be up to one in a hundred fewer or more: some cannot be read.
    """
    setting, config, scores = result.cell.setting, result.cell.config, result.scores
    wanted = published.TEST_PHOTOS.get(setting.data)
    if wanted is None:
        return [f"data set {setting.data or 'of your own'}"]
    row, about = METHODS[setting.method], scores.get("scored_on", {})
    n = int(scores["n"])
    said = {
        "test photos": (n, wanted, abs(n - wanted) <= _SAME_SIZE * wanted),
        "backbone": (config.backbone, row.standard, config.backbone == row.standard),
        "image size": (config.image_size, row.image_size, config.image_size == row.image_size),
        "contrast weight": (config.contrast_weight, 0, not config.contrast_weight),
        "class map weight": (config.class_map_weight, 0, not config.class_map_weight),
        "geometry branch": ("on", "none", not config.geometry_branch),
        **{
            name: (about.get(name, "unknown"), theirs, about.get(name) == theirs)
            for name, theirs in (("codebook", "belharbi2024"), ("geometry", "reference"))
        },
    }
    return [
        f"{name} {own} (theirs: {theirs})" for name, (own, theirs, fits) in said.items() if not fits
    ]


def _difference_lines(results: Sequence[RunResult]) -> list[str]:
    """Return why published figures are left out, where there are some of these data sets."""
    cited = [r for r in results if r.scores and r.cell.setting.data in published.TEST_PHOTOS]
    reasons = dict.fromkeys(text for r in cited for text in list_differences(r))
    if not reasons:
        return []
    return [
        "Published figures are not shown where runs are not comparable with the paper's: "
        f"{'; '.join(reasons)} (docs/reproduce.md says what to choose)."
    ]


def _method_tables(page: _Page, table: TableSpec) -> list[str]:
    what = f"without and with AUs at layer {format_layers(table.layers)}"
    same = table.layers == (5,)
    parts = []
    for number, keys in (
        ("Table 1", ("accuracy", "cam_cos")),
        ("Table 2", ("att_cos", "margin", "rank1", "class_rank1")),
    ):
        heading = ["method", "λ"]
        heading += [f"{PAPER_COLUMNS[key].paper} {side}" for key in keys for side in ("w/o", "w/")]
        rows = []
        for row in table.rows:
            chosen = page.choices[row.candidates] if row.candidates else None
            method = (row.without or row.candidates[0]).method
            pair = published.METHODS.get(table.data, {}).get(method)
            cells = [row.title, _format_lambda(chosen)]
            for key in keys:
                cells.append(_cell(page, row.without, key, pair.without if pair else None))
                cells.append(_cell(page, chosen, key, pair.aligned if pair and same else None))
            rows.append(cells)
        if number == "Table 2":
            rows += _baseline_rows(page, table, keys)
        parts += [format_title(number, what, table), format_grid(heading, rows)]
    return [*parts[:2], *_choice_lines(page, table), *parts[2:], _BASELINES]


_BASELINES = (
    "The last rows are maps that know nothing of the photo, or the photo's map of a wrong class: a "
    "high cosine without a margin and a rank-1 rate shows no more than they do. Class rank-1 is "
    "of the class maps of all expressions on a face: each class's mean heatmap scores high."
)


def _baseline_rows(page: _Page, table: TableSpec, keys: Sequence[str]) -> list[list[str]]:
    """Return the baselines of the table's first run that has been scored."""
    settings = {s for row in table.rows for s in (row.without, *row.candidates)}
    first = next((r for r in page.results if r.cell.setting in settings and r.scores), None)
    if first is None:
        return []
    rows = []
    for baseline in find_baselines(first.scores):
        scores = first.scores.get("baselines", {}).get(baseline.key, {})
        cells = [f"{scores[k]:.3f}" if k in scores else "-" for k in keys]
        rows.append([f"*{baseline.title}*", "", *(text for cell in cells for text in (cell, ""))])
    return rows


def _format_lambda(setting: RunKey | None) -> str:
    return "-" if setting is None else f"{setting.au_weight:g}"


def _choice_lines(page: _Page, table: TableSpec) -> list[str]:
    """Return a sentence about the choice of lambda: its candidates and criteria; [] without one."""
    choices = list_choices(table)
    if not choices:
        return []
    values = ", ".join(f"{s.au_weight:g}" for s in choices[0])
    text = (
        f"λ was chosen among {values} by accuracy on the validation photos, held out from training "
        "(of equal ones the higher validation ATT-COS, then the smaller λ). The test photos had "
        "no part in it."
    )
    validated = score_contrasts(page.results)
    missing = sorted(
        {s.au_weight for candidates in choices for s in candidates if s not in validated}
    )
    if missing:
        text += f" Not all scored on validation yet: λ = {', '.join(f'{v:g}' for v in missing)}."
        text += " A λ of which a run has no such score cannot be chosen."
    return [text]


def _row_cells(
    page: _Page, setting: RunKey | None, cited: published.PublishedScores | None
) -> list[str]:
    return [_cell(page, setting, key, cited) for key in PAPER_COLUMNS]


def _layer_tables(page: _Page, table: TableSpec) -> list[str]:
    cited = published.LAYERS if _is_ablation(table) else {}
    rows = []
    for row in table.rows:
        chosen = page.choices[row.candidates]
        scores = cited.get(row.candidates[0].layers)
        rows.append([row.title, _format_lambda(chosen), *_row_cells(page, chosen, scores)])
    heading = ["layers", "λ", *(column.paper for column in PAPER_COLUMNS.values())]
    title = format_title("Table 3", "which layers are aligned", table)
    return [title, format_grid(heading, rows), *_choice_lines(page, table)]


def _is_ablation(table: TableSpec) -> bool:
    """Whether a table is of the set and method of the paper's ablations."""
    return table.data == "rafdb" and table.method == "cam"


def _lambda_tables(page: _Page, table: TableSpec) -> list[str]:
    same = _is_ablation(table) and table.layers == (5,)
    chosen = page.choices[list_choices(table)[0]]
    rows = [_lambda_row(page, row, row.candidates[0] == chosen, same) for row in table.rows]
    titles = {key: column.paper for key, column in PAPER_COLUMNS.items()}
    heading = ["λ", *(f"validation {titles[key]}" for key in VALIDATION), *titles.values()]
    text = format_grid(heading, rows)
    lines = _choice_lines(page, table)
    if chosen is not None:
        lines[0] = f"**Chosen: λ = {chosen.au_weight:g}.** {lines[0]}"
    if same and _CITED_MARK in text:
        lines.append("The paper's figures of this table are read off its plot.")
    return [format_title("Figure 5", "the weight λ of the AU loss", table), text, *lines]


def _lambda_row(page: _Page, row: TableRow, chosen: bool, same: bool) -> list[str]:
    setting = row.candidates[0]
    cited = published.LAMBDAS.get(setting.au_weight) if same else None
    if same and not setting.au_weight:
        cited = published.METHODS["rafdb"]["cam"].without
    title = f"**{row.title}** (chosen)" if chosen else row.title
    validation = [
        format_mean(key, score_of(page.results, setting, key, "val")) for key in VALIDATION
    ]
    return [title, *validation, *_row_cells(page, setting, cited)]


def _variant_tables(page: _Page, table: TableSpec) -> list[str]:
    rows = [[row.title, *_row_cells(page, row.candidates[0], None)] for row in table.rows]
    n = table.rows[0].candidates[0].photos
    learnt = f"{n:,d} training photos" if n else "all training photos"
    heading = ["trained with", *(column.paper for column in PAPER_COLUMNS.values())]
    return [
        format_title("Scores", f"what attention was drawn to, {learnt}", table),
        format_grid(heading, rows),
    ]


_WRITERS: Mapping[str, Callable[[_Page, TableSpec], list[str]]] = {
    "methods": _method_tables,
    "layers": _layer_tables,
    "lambdas": _lambda_tables,
    "variants": _variant_tables,
}
