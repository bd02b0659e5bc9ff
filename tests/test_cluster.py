"""The simulated cluster agrees with closed forms, and its page with the recorded rates."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
try:
    import cluster_events as events

finally:
    sys.path.remove(str(ROOT / "tools"))

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
