"""Intervals: they cover what they should, draw what they say, and repeat."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from auheat.errors import AuheatError, RequestError
from auheat.evaluation.bootstrap import (
    confusion_interval,
    interval,
    paired_interval,
    paired_t_test,
)

SIMULATIONS = 1000


def covered(truth, found):
    return np.mean((found.low <= truth) & (truth <= found.high))


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 60, 90])
    centres = np.array([0.2, 0.5, 0.8])
    values = centres[labels][:, None] + rng.gamma(2, 0.1, (180, SIMULATIONS)) - 0.2
    found = interval(values, labels)
    assert covered(centres.mean(), found) >= 0.9
    assert covered(centres.mean(), found) < 1
    share = rng.random((180, SIMULATIONS)) < 0.7
    assert covered(0.7, interval(share, labels, balanced=False)) >= 0.9


def test_persons_are_drawn_whole_so_that_their_likeness_counts():
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(40), 6)
    labels = np.tile(np.arange(3), 80)
    values = rng.normal(size=(40, SIMULATIONS))[people] + rng.normal(0, 0.2, (240, SIMULATIONS))
    names = [f"person{i}" for i in people]
    assert covered(0, interval(values, labels, names)) >= 0.9
    assert covered(0, interval(values, labels)) < 0.7  # as if each photo were somebody else's


def test_without_persons_every_class_keeps_its_number_of_photos():
    labels = np.array([0] * 50 + [1])
    values = np.where(labels == 1, 5.0, 1.0)
    assert interval(values, labels) == pytest.approx((3, 3, 3))
    plain = interval(values, labels, balanced=False)
    assert plain == pytest.approx((55 / 51,) * 3)


def test_a_class_that_a_draw_of_persons_misses_is_left_out_of_that_draw():
    labels, names = np.array([0, 0, 0, 1]), ["a", "b", "c", "d"]
    found = interval(np.array([0.0, 0.0, 0.0, 1.0]), labels, names)
    assert (found.value, found.low, found.high) == (0.5, 0, 1 / 2)


def test_unknown_persons_stand_alone():
    rng = np.random.default_rng(2)
    values, labels = rng.normal(size=30), np.zeros(30, int)
    one_known = interval(values, labels, ["somebody"] + [""] * 29)
    all_differ = interval(values, labels, [str(i) for i in range(30)])
    width = all_differ.high - all_differ.low
    assert one_known.high - one_known.low == pytest.approx(width, rel=0.2)


def test_a_row_without_a_value_counts_nowhere_and_a_column_without_any_is_nan():
    labels = np.array([0, 0, 1, 1, 2])
    values = np.array([[1.0, 7], [3, np.nan], [5, np.nan], [5, np.nan], [np.nan, np.nan]])
    found = interval(np.column_stack([values, np.full(5, np.nan)]), labels)
    assert found.value[:2].tolist() == [3.5, 7]
    assert (found.low[1], found.high[1]) == (7, 7)
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()


def test_two_runs_on_the_same_photos_are_told_apart_where_single_intervals_overlap():
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 4
    hard = rng.normal(size=200)
    first, second = hard + 0.1 + rng.normal(0, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    difference = paired_interval(first, second, labels)
    assert difference.low > 0
    assert difference.value == pytest.approx(
        interval(first, labels).value - interval(second, labels).value
    )
    assert interval(first, labels).low < interval(second, labels).high
    same = paired_interval(first, first, labels)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_paired_differences_cover_the_true_difference():
    rng = np.random.default_rng(4)
    labels, hard = np.arange(120) % 3, rng.normal(size=(120, SIMULATIONS))
    first = hard + 0.3 + rng.normal(0, 0.5, hard.shape)
    assert covered(0.3, paired_interval(first, hard, labels)) >= 0.9


def test_equal_arguments_give_equal_intervals_and_a_seed_other_draws():
    values, labels = np.random.default_rng(5).normal(size=50), np.arange(50) % 2
    assert interval(values, labels) == interval(values, labels)
    assert interval(values, labels) != interval(values, labels, seed=1)
    narrow, wide = interval(values, labels, level=0.5), interval(values, labels, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_lengths_that_differ_are_one_error():
    for values, labels, names in (
        (np.ones(3), np.zeros(2), None),
        (np.ones(3), np.zeros(3), ["a"]),
        (np.ones(0), np.zeros(0), None),
    ):
        with pytest.raises(AuheatError, match="bootstrap: .*expected as many of each"):
            interval(values, labels, names)
    with pytest.raises(AuheatError, match="expected the same rows"):
        paired_interval(np.ones(3), np.ones(2), np.zeros(3))


def test_persons_may_be_an_array_as_evaluations_store_them():
    rng = np.random.default_rng(0)
    values, labels = rng.uniform(size=12), np.arange(12) % 3
    persons = [f"p{i // 2}" for i in range(12)]
    assert interval(values, labels, np.array(persons)) == interval(values, labels, persons)


def wilson(hits, n):
    """Both ends of Wilson's interval, as the roots of its quadratic (Wilson 1927)."""
    z = 1.959963984540054
    a, b, c = 1 + z * z / n, -(2 * hits / n + z * z / n), (hits / n) ** 2
    root = np.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (12, 12), (70, 70)])
def test_hits_that_are_all_alike_have_wilsons_limits(hits, n):
    values = np.r_[np.ones(hits), np.zeros(n - hits)]
    found = interval(values, np.zeros(n, int), balanced=False, hits=True)
    assert (found.low, found.high) == pytest.approx(wilson(hits, n))
    plain = interval(values, np.zeros(n, int), balanced=False)
    assert plain.low == plain.high


def test_one_answer_for_all_has_an_interval_of_some_width_about_its_balanced_accuracy():
    labels = np.repeat([0, 1, 2], [20, 10, 10])
    found = interval((labels == 0).astype(float), labels, hits=True)
    below = 1 - wilson(20, 20)[0]
    above = np.hypot(wilson(0, 10)[1], wilson(0, 10)[1])
    assert found.value == pytest.approx(1 / 3)
    assert found.low == pytest.approx(1 / 3 - below / 3)
    assert found.high == pytest.approx(1 / 3 + above / 3)


def test_values_that_are_no_hits_keep_what_the_draws_say():
    table = np.c_[np.zeros(9), np.ones(9)]
    found = interval(table, np.zeros(9, int), hits=[False, True])
    assert (found.low[0], found.high[0]) == (0, 0)
    assert found.low[1] < 1 <= found.high[1] + 1e-12


def test_a_statistic_of_the_confusion_matrix_is_drawn_as_a_mean_is():
    """Accuracy as a statistic of the matrix has the interval that it has as a mean."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(3, size=200), rng.integers(3, size=200)
    persons = [f"p{i % 23}" for i in range(200)]

    def share(counts):
        return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))

    for known in (None, persons):
        found = confusion_interval(predicted, labels, 3, share, known)
        mean = interval((predicted == labels).astype(float), labels, known, balanced=False)
        assert tuple(found) == pytest.approx(tuple(mean))


@pytest.mark.parametrize("n", range(2, 11))
def test_the_paired_t_test_is_scipys(n):
    first, second = np.random.default_rng(n).normal([[0.3], [0.0]], 1, (2, n))
    p = paired_t_test((first - second).tolist())
    assert p == pytest.approx(ttest_rel(first, second).pvalue, abs=1e-12)
    assert paired_t_test((second - first).tolist()) == pytest.approx(p, abs=1e-12)


def test_differences_without_spread_or_partner_have_the_p_that_is_left():
    assert paired_t_test([0.0, 0.0]) == 1
    assert paired_t_test([0.5, 0.5]) == 0
    with pytest.raises(RequestError, match="expected two or more"):
        paired_t_test([0.5])
