"""What a set would cost on many cores: hours, bytes, money; from measured rates, by simulation.

    python tools/simulate_cluster.py --write docs/scale.md       (the page's tables and picture)
    python tools/simulate_cluster.py --photos 450000 --cores 256 --backend ray --loss-hours 24

Rates are those that `benchmarks/bench_scale.py --record docs/scale.json` measured on one machine;
`Assumed` lists what nobody measured. tools/cluster_events.py is the simulation.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cluster_events import ENGINES, Cluster, Outcome, simulate

ROOT = Path(__file__).parent.parent
RATES = ROOT / "docs" / "scale.json"
STAGES = ("extract", "render")
SETS = (("AffectNet", 450_000, 1), ("100 M photos", 100_000_000, 1), ("100 M photos", 10**8, 16))
"""What the page is about: a name, how many photos, in how many stores of equal size."""

CORES = (2, 16, 256, 4096)
SIZES = tuple(2**k for k in range(7, 17))
HOUR, GB = 3600.0, 1e9
COLOURS = ((180, 90, 20), (40, 110, 220), (60, 150, 60))  # blue, orange, green, in OpenCV's order


@dataclass(frozen=True)
class Assumed:
    """What is assumed rather than measured. Every field is an option of the command line."""

    slow_share: float = 0.05  # of the workers are slow all the time,
    slow_factor: float = 3.0  # and take so many times as long
    loss_hours: float = 200.0  # a worker's mean time between losses
    restart_s: float = 60.0  # until a replacement has begun
    storage_gb_s: float = 2.0  # the shared file system, for all
    link_gb_s: float = 0.1  # and for each worker at most
    shard_gb: float = 0.5  # the largest shard that is built in a worker's memory
    core_hour_usd: float = 0.04
    gb_month_usd: float = 0.02
    runs: int = 10  # simulated, each with its own seed


def build_cluster(
    stage: str,
    measured: Mapping[str, Any],
    assumed: Assumed,
    photos: int,
    workers: int,
    size: int,
    engine: str,
    stores: int = 1,
) -> Cluster:
    """Return one store's share of a stage, as the simulation needs it."""
    told, serial, stored = measured[stage], measured["serial"], measured["bytes"]
    entering = measured[f"enter_{stage}"]
    own = photos // stores
    written = stored["landmarks" if stage == "extract" else "training"]
    send = serial["send_us"] if stage == "extract" else 0.0  # render sends a name, extract rows
    return Cluster(
        workers=max(1, workers // stores),
        shards=-(-own // size),
        seconds=size / told["one_per_s"],
        spread=told["spread"],
        slow_share=assumed.slow_share,
        slow_factor=assumed.slow_factor,
        loss=assumed.loss_hours * HOUR,
        restart=assumed.restart_s + told["start_s"],
        start=told["start_s"],
        enter=entering["fixed_s"] + send * size / 1e6,
        growth=entering["growth_s"],
        bytes=size * (stored["photo"] + written),
        bandwidth=assumed.storage_gb_s * GB / stores,
        link=assumed.link_gb_s * GB,
        before=serial[f"{stage}_before_us"] * own / 1e6,
        after=serial[f"{stage}_after_us"] * own / 1e6,
        engine=engine,
    )


def estimate(c: Cluster) -> float:
    """Estimate a stage's seconds without simulating it: its narrowest part, and the last shards."""
    pace = c.workers * (1 - c.slow_share + c.slow_share / c.slow_factor)
    alone = c.bytes / c.link + c.seconds
    making = alone * max(c.shards / pace, -(-c.shards // c.workers)) + alone * (
        c.slow_factor - 1
    ) * (c.slow_share > 0)
    entering = c.shards * c.enter + c.growth * c.shards**2 / 2
    return c.before + c.start + max(making, entering, c.shards * c.bytes / c.bandwidth) + c.after


def choose_size(measured: Mapping[str, Any], assumed: Assumed, *asked: Any) -> int:
    """Return the most rows a shard, a power of two, with which both stages are all but fastest."""
    photos, workers, engine, stores = asked
    row = measured["bytes"]["training"]
    fit = [size for size in SIZES if size * row <= assumed.shard_gb * GB]

    def total(size: int) -> float:
        plans = (
            build_cluster(stage, measured, assumed, photos, workers, size, engine, stores)
            for stage in STAGES
        )
        return sum(estimate(plan) for plan in plans)

    totals = {size: total(size) for size in fit}
    return max(size for size in fit if totals[size] <= 1.03 * min(totals.values()))


def run_stage(cluster: Cluster, stores: int, seed: int) -> Outcome:
    """Simulate all stores of a stage beside one another: it ends with the last of them."""
    seen = [simulate(cluster, seed * stores + i) for i in range(stores)]
    sums = (sum(getattr(s, f.name) for s in seen) for f in fields(Outcome)[1:])
    whole = Outcome(max(s.seconds for s in seen), *sums)
    parents = statistics.mean(s.parent for s in seen) * whole.seconds
    return Outcome(whole.seconds, whole.paid, whole.useful, whole.lost, parents)


def run_plan(
    measured: Mapping[str, Any],
    assumed: Assumed,
    photos: int,
    workers: int,
    engine: str,
    stores: int = 1,
    size: int | None = None,
) -> dict[str, Any]:
    """Simulate extract and then render; return medians, 95 % bounds, shares and dollars."""
    asked = (photos, workers, engine, stores)
    size = choose_size(measured, assumed, *asked) if size is None else size
    seen: dict[str, list[Outcome]] = {}
    for stage in STAGES:
        plan = build_cluster(stage, measured, assumed, photos, workers, size, engine, stores)
        seen[stage] = [run_stage(plan, stores, seed) for seed in range(assumed.runs)]
    both = list(zip(*seen.values(), strict=True))
    total = [sum(o.seconds for o in pair) / HOUR for pair in both]
    paid = statistics.median(sum(o.paid for o in pair) for pair in both)
    useful, lost = (
        statistics.median(sum(getattr(o, key) for o in pair) for pair in both)
        for key in ("useful", "lost")
    )
    ideal = sum(photos / measured[stage]["one_per_s"] for stage in STAGES) / workers / HOUR
    return {
        "photos": photos,
        "cores": workers,
        "engine": engine,
        "stores": stores,
        "size": size,
        "shards": stores * -(-(photos // stores) // size),
        **{s: statistics.median(o.seconds for o in seen[s]) / HOUR for s in STAGES},
        "hours": statistics.median(total),
        "hours95": float(np.quantile(total, 0.95)),
        "ideal": ideal,
        "idle": 1 - (useful + lost) / paid,
        "wasted": lost / (useful + lost),
        "parent": statistics.median(
            sum(o.entering for o in pair) / sum(o.seconds for o in pair) for pair in both
        ),
        "usd": paid / HOUR * assumed.core_hour_usd,
    }


def tell_hours(hours: float) -> str:
    """Write hours with two digits that count."""
    digits = 0 if hours >= 10 else 1 if hours >= 1 else 2 if hours >= 0.1 else 3
    return f"{hours:,.{digits}f}"


def tell_bytes(count: float) -> str:
    """Write bytes in GB or TB."""
    return f"{count / 1e12:.2f} TB" if count >= 1e12 else f"{count / GB:.1f} GB"


def plan_rows(measured: Mapping[str, Any], assumed: Assumed) -> list[tuple[str, dict[str, Any]]]:
    """Simulate every row of the page's table: one machine by loky, more of them by Dask."""
    rows = []
    for name, photos, stores in SETS:
        for cores in CORES:
            if cores >= 16 * stores or stores == 1:
                engine = "loky" if cores <= 16 else "dask"
                told = run_plan(measured, assumed, photos, cores, engine, stores)
                rows.append((name, told))
    return rows


def lay_out_hours(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the table of hours and money."""
    lines = [
        "| photos | cores | stores | `--backend` | `--shard-size` | shards | extract h | render h "
        "| both h (95 %) | ideal h | idle | lost | parent | USD |",
        "|---|" + "---:|" * 2 + "---|" + "---:|" * 10,
    ]
    for name, t in rows:
        cells = [name, f"{t['cores']:,}", str(t["stores"]), t["engine"], f"{t['size']:,}"]
        cells += [f"{t['shards']:,}", *(tell_hours(t[stage]) for stage in STAGES)]
        cells += [f"{tell_hours(t['hours'])} ({tell_hours(t['hours95'])})", tell_hours(t["ideal"])]
        cells += [f"{t[key]:.0%}" for key in ("idle", "wasted", "parent")]
        cells.append(f"{t['usd']:,.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lay_out_bytes(sets: Mapping[str, Any], assumed: Assumed) -> str:
    """Return the table of bytes per row, and what the sets come to."""
    kinds = {
        "photo": "the photos' files",
        "landmarks": "landmark shards",
        "training": "training shards",
        "training_without_photos": "training shards, `--no-images`",
    }
    heads = [f"{name}, bytes a row" for name in sets]
    first = list(sets.values())[-1 if len(sets) < 2 else 1]
    totals = list(dict.fromkeys((name, photos) for name, photos, _ in SETS))
    heads += [f"{name}" for name, _ in totals] + [f"{name}, USD a month" for name, _ in totals]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for key, title in kinds.items():
        row = [f"{told['bytes'][key]:,.0f}" for told in sets.values()]
        whole = [first["bytes"][key] * photos for _, photos in totals]
        row += [tell_bytes(count) for count in whole]
        row += [f"{count / GB * assumed.gb_month_usd:,.2f}" for count in whole]
        lines.append(f"| {title} | {' | '.join(row)} |")
    return "\n".join(lines)


def lay_out_measured(record: Mapping[str, Any]) -> str:
    """Return the tables of what was measured, and where a larger shard pays."""
    machine = record["machine"]
    lines = [
        f"Measured on {machine['cores']} cores of a machine with {machine['processor']} "
        f"(rounds in turns, median of {record['rounds']}; load average at the start "
        f"{machine['load']:.1f}):",
        "",
        "| photos of | stage | one worker, photos/s | two | gain | threads | start, s | spread "
        "| alone before + after, µs a photo |",
        "|---|---|" + "---:|" * 7,
    ]
    for name, told in record["sets"].items():
        for stage in STAGES:
            one = told[stage]
            alone = [f"{told['serial'][f'{stage}_{w}_us']:.0f}" for w in ("before", "after")]
            cells = [f"{one[k]:,.0f}" for k in ("one_per_s", "two_per_s")]
            cells += [f"{one['gain']:.2f}", f"{one['threads_per_s']:,.0f}"]
            cells += [f"{one['start_s']:.1f}", f"{one['spread']:.2f}", " + ".join(alone)]
            lines.append(f"| {name} | {stage} | {' | '.join(cells)} |")
    _, told = pick(record)
    lines += ["", "| entries in the manifest | " + " | ".join(
        f"{int(n):,}" for n in told["enter_extract"]["enter_ms"]) + " | larger shards pay from "
        "(2, 16, 256 workers) |"]  # fmt: skip
    lines.append("|---|" + "---:|" * (len(told["enter_extract"]["enter_ms"]) + 1))
    for stage in STAGES:
        one = told[f"enter_{stage}"]
        pays = ", ".join(f"{n:,}" for n in one["larger_shards_pay_from"].values())
        cells = [f"{ms:,.0f} ms" for ms in one["enter_ms"].values()]
        lines.append(f"| {stage}: entering one more | {' | '.join(cells)} | {pays} |")
    return "\n".join(lines)


def lay_out_assumed(assumed: Assumed, name: str) -> str:
    """Say what is assumed."""
    return (
        f"Rates of the photos of {name}. Assumed, not measured: {assumed.slow_share:.0%} of the "
        f"workers take {assumed.slow_factor:g} times as long; a worker is lost every "
        f"{assumed.loss_hours:g} hours, and replaced {assumed.restart_s:g} s later; the storage "
        f"gives all workers together {assumed.storage_gb_s:g} GB/s and each {assumed.link_gb_s:g} "
        f"GB/s; a shard has at most {assumed.shard_gb:g} GB; {assumed.core_hour_usd:g} USD a "
        f"core-hour, {assumed.gb_month_usd:g} USD a GB and month. {assumed.runs} runs."
    )


def pick(record: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the set whose rates stand for photos in the wild: the second that was measured."""
    sets = list(record["sets"].items())
    return sets[min(1, len(sets) - 1)]


def rewrite(
    text: str, record: Mapping[str, Any], assumed: Assumed
) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Return the page with its generated parts made anew, and the rows of its table of hours."""
    name, measured = pick(record)
    rows = plan_rows(measured, assumed)
    parts = {
        "measured": lay_out_measured(record),
        "assumed": lay_out_assumed(assumed, name),
        "hours": lay_out_hours(rows),
        "bytes": lay_out_bytes(record["sets"], assumed),
    }
    for key, body in parts.items():
        pattern = rf"(<!-- {key} -->\n).*?(\n<!-- end -->)"
        text = re.sub(pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
    return text, rows


def draw(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> np.ndarray:
    """Draw hours against cores on logarithmic axes, each set with its ideal line."""
    wide, high, left, low = 900, 560, 90, 70
    page = np.full((high, wide, 3), 255, np.uint8)
    hours = [t[key] for _, t in rows for key in ("hours", "ideal")]
    ends = np.log10([min(CORES), max(CORES)]), np.floor(np.log10(min(hours))) + np.array([0, 1])
    ends[1][1] = np.ceil(np.log10(max(hours)))

    def place(cores: float, value: float) -> tuple[int, int]:
        x, y = (
            (np.log10(v) - e[0]) / (e[1] - e[0]) for v, e in zip((cores, value), ends, strict=True)
        )
        return round(left + x * (wide - left - 40)), round(high - low - y * (high - low - 40))

    def write(words: str, at: tuple[int, int], colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(page, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

    for power in range(int(ends[1][0]), int(ends[1][1]) + 1):
        x, y = place(CORES[0], 10.0**power)
        cv2.line(page, (x, y), (wide - 40, y), (225, 225, 225), 1)
        write(f"{10.0**power:g} h", (12, y + 5))
    for cores in CORES:
        x, y = place(cores, 10 ** ends[1][0])
        cv2.line(page, (x, y), (x, 40), (225, 225, 225), 1)
        write(f"{cores:,}", (x - 14, y + 24))
    write("cores (thin: ideal; thick: simulated, extract and render)", (left, high - 14))
    keys = list(dict.fromkeys((name, t["stores"]) for name, t in rows))
    for (name, stores), colour in zip(keys, COLOURS, strict=False):
        own = [t for n, t in rows if (n, t["stores"]) == (name, stores)]
        for key, thick in (("ideal", 1), ("hours", 3)):
            line = np.array([place(t["cores"], t[key]) for t in own], np.int32)
            cv2.polylines(page, [line], False, colour, thick, cv2.LINE_AA)
        write(f"{name}, {stores} store{'s' * (stores > 1)}", (wide - 300, 60 + 22 * keys.index(
            (name, stores))), colour)  # fmt: skip
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its picture, or print one plan as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", type=Path, default=RATES, help="of bench_scale.py --record")
    parser.add_argument("--write", type=Path, help="a page with markers; its picture lies beside")
    parser.add_argument("--photos", type=int, default=450_000)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--stores", type=int, default=1)
    parser.add_argument("--backend", choices=ENGINES, default="loky")
    parser.add_argument("--shard-size", type=int, help="[default: all but the fastest]")
    for field in fields(Assumed):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default)
    asked = parser.parse_args(arguments)
    assumed = Assumed(**{field.name: getattr(asked, field.name) for field in fields(Assumed)})
    record = json.loads(asked.rates.read_text())
    if asked.write:
        text, rows = rewrite(asked.write.read_text(), record, assumed)
        asked.write.write_text(text)
        cv2.imwrite(str(asked.write.with_suffix(".png")), draw(rows))
        print(f"{asked.write}: {len(rows)} rows")
        return
    plan = (asked.photos, asked.cores, asked.backend, asked.stores, asked.shard_size)
    print(json.dumps(run_plan(pick(record)[1], assumed, *plan)))


if __name__ == "__main__":
    main()
