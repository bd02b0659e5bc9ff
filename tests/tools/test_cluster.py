"""The simulated cluster agrees with closed forms, and its page with the recorded rates."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

ROOT = Path(__file__).parents[2]
PLACES = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
sys.path[:0] = PLACES
try:
    import bench_scale as bench
    import cluster_events as events
    import simulate_cluster as tool

finally:
    del sys.path[: len(PLACES)]

Cluster, simulate = events.Cluster, events.simulate


def mean_seconds(cluster, runs):
    return np.mean([simulate(cluster, seed).seconds for seed in range(runs)])


@pytest.mark.parametrize("engine", events.ENGINES)
@pytest.mark.parametrize(("workers", "shards"), [(1, 5), (4, 16), (4, 17), (16, 3)])
def test_without_spread_and_losses_the_time_is_full_rounds(engine, workers, shards):
    cluster = Cluster(workers, shards, 7.0, engine=engine, start=2.0, before=3.0, after=1.0)
    seen = simulate(cluster, 0)
    assert seen.seconds == pytest.approx(math.ceil(shards / workers) * 7 + 6)
    assert seen.useful == pytest.approx(7 * shards)
    assert seen.idle == pytest.approx(1 - 7 * shards / (workers * seen.seconds))
    assert seen.wasted == seen.entering == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", events.ENGINES)
def test_with_losses_only_the_time_is_the_expected_one(engine):
    """A unit of work t lost at rate r and redone after d takes (1 / r + d) (exp(r t) - 1)."""
    workers, t, loss, restart = (1, 5.0, 10.0, 3.0) if engine == "dask" else (4, 5.0, 160.0, 3.0)
    held = events.ROUND if engine == "ray" else 1  # shards of each worker that one loss takes
    shards = 800 * workers
    cluster = Cluster(workers, shards, t, loss=loss, restart=restart, engine=engine)
    seen = [simulate(cluster, seed) for seed in range(60)]
    rate, units = workers / loss, shards / workers / held
    grown = math.exp(rate * held * t) - 1
    expected = units * (1 / rate + restart) * grown
    assert np.mean([s.seconds for s in seen]) == pytest.approx(expected, rel=0.03)
    wasted = 1 - held * t / (grown / rate)
    assert np.mean([s.wasted for s in seen]) == pytest.approx(wasted, rel=0.04)


@pytest.mark.slow
def test_a_loss_costs_dask_one_shard_and_loky_what_all_had_in_hand():
    cluster = Cluster(16, 1600, 10.0, loss=4000.0)
    lost = {e: np.mean([simulate(replace(cluster, engine=e), s).lost for s in range(200)])
            for e in ("dask", "loky")}  # fmt: skip
    # All 16 began together, so a loss takes as much of each of them.
    assert lost["loky"] == pytest.approx(16 * lost["dask"], rel=0.15)


def test_when_the_storage_is_the_limit_the_time_is_bytes_over_bandwidth():
    cluster = Cluster(8, 40, 0.0, bytes=300.0, bandwidth=100.0)
    assert simulate(cluster, 0).seconds == pytest.approx(40 * 300 / 100)
    linked = replace(cluster, link=5.0)  # 8 links of 5 are slower than the storage
    assert simulate(linked, 0).seconds == pytest.approx(40 / 8 * 300 / 5)


def test_transfers_share_the_storage_evenly():
    # Two transfers of 100 share 10 a second till 20; the third has it alone for 10 more.
    seen = simulate(Cluster(2, 3, 0.0, bytes=100.0, bandwidth=10.0), 0)
    assert seen.seconds == pytest.approx(30)
    # One shard computes from 20 on; its worker's next transfer overlaps with nothing.
    seen = simulate(Cluster(2, 4, 5.0, bytes=100.0, bandwidth=10.0), 0)
    assert seen.seconds == pytest.approx(2 * (20 + 5))
    assert seen.idle == pytest.approx(0)


def test_when_the_parent_is_the_limit_the_time_is_what_entering_takes():
    seen = simulate(Cluster(50, 400, 0.5, enter=2.0), 0)
    assert seen.seconds == pytest.approx(0.5 + 400 * 2)
    assert seen.parent == pytest.approx(800 / 800.5)
    grown = simulate(Cluster(50, 400, 0.5, enter=2.0, growth=0.01), 0)
    assert grown.seconds == pytest.approx(0.5 + 400 * 2 + 0.01 * 400 * 401 / 2)


def test_ray_waits_at_each_rounds_end_until_all_is_entered():
    seen = simulate(Cluster(2, 16, 3.0, enter=1.0, engine="ray"), 0)
    assert seen.seconds == pytest.approx(2 * (4 * 3 + 8 * 1))


def test_a_round_with_spread_lasts_as_long_as_its_longest_shard():
    """The mean of the greatest of W log-normals, integrated from its distribution."""
    workers, spread = 12, 0.5
    seen = mean_seconds(Cluster(workers, workers, 10.0, spread=spread), 3000)
    x = np.linspace(1e-6, 200, 200_001)
    z = (np.log(x / 10) + spread**2 / 2) / spread
    below = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z]) ** workers
    assert seen == pytest.approx(np.trapezoid(1 - below, x), rel=0.02)


def test_spread_keeps_the_mean_and_slow_workers_do_their_share():
    one = simulate(Cluster(1, 20_000, 3.0, spread=0.4), 0)
    assert one.seconds == pytest.approx(60_000, rel=0.01)
    many = mean_seconds(Cluster(1000, 80_000, 3.0, slow_share=0.25, slow_factor=4.0), 3)
    shared = 80_000 * 3 / (1000 * (0.75 + 0.25 / 4))
    assert 0.98 * shared < many < 1.02 * shared + 4 * 3  # and the last shard of a slow one


@settings(max_examples=60)
@given(
    workers=st.integers(1, 9),
    shards=st.integers(1, 40),
    spread=st.floats(0, 0.8),
    enter=st.floats(0, 2),
    loss=st.sampled_from([math.inf, 200.0]),
    size=st.sampled_from([0.0, 50.0]),
    engine=st.sampled_from(events.ENGINES),
    seed=st.integers(0, 99),
)
def test_no_run_beats_its_bounds_and_every_second_is_accounted_for(
    workers, shards, spread, enter, loss, size, engine, seed
):
    cluster = Cluster(
        workers, shards, 5.0, spread, 0.2, 3.0, loss, 4.0, 1.0, enter, 0.01, size, 40.0,
        engine=engine,
    )  # fmt: skip
    seen = simulate(cluster, seed)
    assert seen == simulate(cluster, seed)
    entering = shards * enter + 0.01 * shards * (shards + 1) / 2
    assert seen.entering == pytest.approx(entering)
    assert seen.seconds >= 1 + entering - 1e-6
    assert seen.seconds >= 1 + shards * size / 40 - 1e-6
    assert seen.lost >= 0
    assert (seen.lost > 0) <= (loss < math.inf)
    assert seen.useful + seen.lost <= workers * (seen.seconds - 1) + 1e-6


@pytest.fixture
def measured():
    """Round rates: a shard of 100 rows takes 10 s to extract and 1 s to render."""
    stage = {"start_s": 2.0, "spread": 0.0, "gain": 1.8, "threads_per_s": 20.0, "two_per_s": 18.0}
    entering = {"fixed_s": 0.5, "growth_s": 0.01}
    keys = ("extract_before", "extract_after", "render_before", "render_after", "send")
    kinds = ("photo", "landmarks", "training", "training_without_photos")
    return {
        "extract": stage | {"one_per_s": 10.0},
        "render": stage | {"one_per_s": 100.0},
        "serial": {f"{key}_us": 1000.0 * (i + 1) for i, key in enumerate(keys)},
        "bytes": {key: 1000.0 * (i + 1) for i, key in enumerate(kinds)},
        "enter_extract": entering,
        "enter_render": entering,
    }


CALM = {"slow_share": 0.0, "loss_hours": math.inf, "storage_gb_s": math.inf, "link_gb_s": math.inf}


def test_a_plan_without_accidents_is_what_a_pencil_makes_of_the_rates(measured):
    told = tool.run_plan(measured, tool.Assumed(**CALM, runs=3), 1000, 5, "dask", size=100)
    # extract: 1 s listing, 2 s start, two rounds of 10 s, five entries, 2 s counting. An entry
    # takes 0.5 s, 0.01 s more each time, and 100 x 5 ms to send its rows.
    extract = 1 + 2 + 20 + 5 * 1 + 0.01 * (6 + 7 + 8 + 9 + 10) + 2
    # render: the workers need 2 s, the parent longer for all ten entries.
    render = 3 + 2 + 1 + 10 * 0.5 + 0.01 * 55 + 4
    assert told["extract"] * 3600 == pytest.approx(extract)
    assert told["render"] * 3600 == pytest.approx(render)
    assert told["hours"] == told["hours95"] == pytest.approx((extract + render) / 3600)
    assert told["ideal"] * 3600 == pytest.approx(110 / 5)
    assert told["usd"] == pytest.approx(0.04 * 5 * told["hours"])
    assert told["idle"] == pytest.approx(1 - 110 / (5 * (extract + render)))
    entering = 10 * 1 + 10 * 0.5 + 2 * 0.01 * 55
    assert told["parent"] == pytest.approx(entering / (extract + render))


def test_stores_side_by_side_share_the_storage_and_halve_the_parents_work(measured):
    for stage in tool.STAGES:
        measured[stage] |= {"one_per_s": 1e12, "start_s": 0.0}
        measured[f"enter_{stage}"] = {"fixed_s": 0.0, "growth_s": 0.0}
    measured["serial"] = dict.fromkeys(measured["serial"], 0.0)
    slow = tool.Assumed(**CALM | {"storage_gb_s": 1e-4}, runs=1)
    for stores in (1, 4):  # 100 kB/s for all of them: bytes are all that counts
        told = tool.run_plan(measured, slow, 4000, 8, "dask", stores, 100)
        assert told["shards"] == 40
        assert told["extract"] * 3600 == pytest.approx(4000 * (1000 + 2000) / 1e5)
        assert told["render"] * 3600 == pytest.approx(4000 * (1000 + 3000) / 1e5)
    measured["enter_extract"] = {"fixed_s": 30.0, "growth_s": 0.0}
    calm = tool.Assumed(**CALM, runs=1)
    for stores in (1, 2):  # entering is all that counts, and two parents do it
        told = tool.run_plan(measured, calm, 4000, 8, "dask", stores, 100)
        assert told["extract"] * 3600 == pytest.approx(40 * 30 / stores)


def test_the_shard_size_that_is_chosen_is_within_its_word_when_simulated(measured):
    assumed = tool.Assumed(**CALM, runs=1)
    asked = (measured, assumed, 200_000, 16, "dask")
    chosen = tool.run_plan(*asked)
    each = [tool.run_plan(*asked, size=size)["hours"] for size in tool.SIZES]
    assert chosen["hours"] <= 1.1 * min(each) < 0.7 * max(each)


@pytest.mark.slow
def test_the_page_is_what_the_tool_writes_for_the_recorded_rates():
    page = (ROOT / "docs" / "scale.md").read_text()
    record = json.loads((ROOT / "docs" / "scale.json").read_text())
    text, rows = tool.rewrite(page, record, tool.Assumed())
    assert text == page
    assert len(re.findall(r"^<!-- (?!end)", page, re.MULTILINE)) == 4
    assert [t["cores"] for _, t in rows] == [*tool.CORES, *tool.CORES, 256, 4096]
    assert all(t["hours"] > t["ideal"] for _, t in rows)
    picture = tool.cv2.imread(str(ROOT / "docs" / "scale.png"))
    drawn = tool.draw(rows)
    assert picture.shape == drawn.shape
    other = np.abs(picture.astype(int) - drawn).max(2) > 64  # letters may differ in their edges
    assert other.mean() < 1e-3


def test_one_plan_is_printed_with_every_assumption_as_an_option(capsys):
    common = ["--photos", "100000", "--backend", "ray", "--shard-size", "500", "--runs", "2"]
    tool.main([*common, "--cores", "8", "--core-hour-usd", "1"])
    calm = json.loads(capsys.readouterr().out)
    tool.main([*common, "--cores", "8", "--core-hour-usd", "1", "--loss-hours", "0.5"])
    lossy = json.loads(capsys.readouterr().out)
    assert calm["engine"] == "ray"
    assert calm["usd"] == pytest.approx(8 * calm["hours"], rel=1e-6)
    assert lossy["wasted"] > calm["wasted"]
    assert lossy["hours"] > calm["hours"]


def test_the_benchmark_counts_rows_from_when_every_worker_had_a_shard():
    entered = [[9.0, 5], [11.0, 5], [20.0, 5], [21.0, 4]]
    assert bench.rate_of({"entered": entered}, 2) == pytest.approx(9 / 10)
    assert bench.rate_of({"entered": entered}, 1) == pytest.approx(14 / 12)


def test_larger_shards_pay_from_where_entering_takes_its_share():
    seconds = [0.001 + 0.0001 * n for n in (10, 100, 1000, 10_000)]
    told = bench.tell_manifest("extract", seconds, per_shard=20.0)
    assert told["growth_s"] == pytest.approx(0.0001)
    for workers, count in told["larger_shards_pay_from"].items():
        entering = sum(told["fixed_s"] + told["growth_s"] * k for k in range(1, count + 1))
        share = entering / (count * 20.0 / int(workers))
        assert share == pytest.approx(bench.SHARE, rel=0.02)


def test_a_small_set_is_listed_often_enough_and_every_photo_has_a_label(rafdb, tmp_path):
    bench.link_photos(rafdb / "Image", tmp_path / "many", 30)
    samples = bench.read_dataset(tmp_path / "many").samples
    assert len(samples) == 30
    assert {sample.label for sample in samples} == {"Happiness"}
    bench.link_photos(rafdb, tmp_path / "labelled", 24)
    labels = [sample.label for sample in bench.read_dataset(tmp_path / "labelled").samples]
    assert sorted(labels) == sorted(2 * [s.label for s in bench.read_dataset(rafdb).samples])
