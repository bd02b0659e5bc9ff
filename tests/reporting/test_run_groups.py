"""Which runs of a report belong together, and the charts made of them: numbers by hand."""

import statistics

import pytest

from auheat.reporting.charts import draw_along, draw_curves, draw_reliability, tabulate_along
from auheat.reporting.page import describe_runs
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import (
    describe_aus,
    distinguishing_settings,
    find_layer_curves,
    find_weight_curves,
    make_key,
    pair_runs,
)
from auheat.reporting.tables import settings_context


def run(name, weight=4.0, layers=(5,), seed=0, accuracy=0.5, **settings):
    chosen = {"au_weight": weight, "layers": list(layers), "seed": seed, "name": name}
    scores = {"accuracy": accuracy, "att_cos": 0.5, "cam_cos": None, "margin": 0.1, "rank1": 0.2}
    return Run(name, chosen | settings, [], scores, {})


def names(groups):
    return [[one.name for one in group.runs] for group in groups]


def steps(curves):
    return [{text: [one.name for one in runs] for text, runs in c.steps} for c in curves]


def test_runs_pair_where_they_differ_in_the_weight_alone():
    runs = [run("a4"), run("b4", seed=1), run("a0", 0.0), run("b0", 0.0, seed=1)]
    assert names(pair_runs(runs)) == [["a0", "a4"], ["b0", "b4"]]
    assert [group.title for group in pair_runs(runs)] == ["seed 0", "seed 1"]


def test_device_name_and_workers_do_not_part_a_pair():
    runs = [run("a4", device="cuda", workers=4), run("a0", 0.0, device="cpu", workers=None)]
    assert names(pair_runs(runs)) == [["a0", "a4"]]


def test_a_setting_left_to_its_default_is_that_default():
    assert make_key({"au_weight": 4.0}) == make_key({"au_weight": 4.0, "augment": "affine"})
    assert make_key({"au_weight": 4.0}) != make_key({"au_weight": 4.0, "augment": "none"})
    assert make_key({"au_weight": 4.0, "layers": [4]}) != make_key({"au_weight": 4.0})
    assert make_key({"au_weight": 0.0, "layers": [4]}) == make_key({"au_weight": 0.0})


def test_a_run_without_aus_stands_beside_every_choice_of_layers():
    runs = [run("five"), run("both", layers=(4, 5)), run("plain", 0.0)]
    assert names(pair_runs(runs)) == [["plain", "five"], ["plain", "both"]]


def test_a_run_with_a_contrast_alone_is_not_one_without_aus():
    one, two = (run(f"c{n}", 0.0, layers=some, contrast_weight=1.0)
                for n, some in ((5, (5,)), (54, (4, 5))))  # fmt: skip
    plain, aligned = run("plain", 0.0, contrast_weight=0.0), run("a4")
    both = run("both", contrast_weight=1.0)
    assert names(pair_runs([one, plain, aligned])) == [["c5"], ["plain", "a4"]]
    assert names(pair_runs([one, two, both])) == [["c5", "both"], ["c54"]]
    assert make_key(one.settings) != make_key(two.settings)
    assert make_key(plain.settings) == make_key(run("old", 0.0, layers=(4,)).settings)
    assert steps(find_layer_curves([one, two, plain])) == [{"5": ["c5"], "5+4": ["c54"]}]
    assert steps(find_weight_curves([one, both, plain])) == [{"0": ["c5"], "4": ["both"]}]
    assert [describe_aus(r) for r in (plain, run("old", 0.0), aligned, one, both)] == [
        "without AUs",
        "without AUs",
        "with AUs (λ 4)",
        "with AUs (λ 0, contrast 1)",
        "with AUs (λ 4, contrast 1)",
    ]


def test_a_run_with_class_maps_alone_is_not_one_without_aus_and_has_no_layers():
    alone, plain = run("m", 0.0, class_map_weight=1.0), run("plain", 0.0)
    both, aligned = run("both", class_map_weight=1.0), run("a4")
    assert names(pair_runs([alone, plain, aligned, both])) == [["m", "both"], ["plain", "a4"]]
    other = run("m5", 0.0, layers=(4, 5), class_map_weight=1.0)
    assert find_layer_curves([alone, other]) == []
    assert describe_aus(alone) == "with AUs (λ 0, class maps 1)"
    assert describe_aus(run("all", class_map_weight=1.0, contrast_weight=0.5)) == (
        "with AUs (λ 4, contrast 0.5, class maps 1)"
    )


def test_every_run_is_in_a_group_even_without_a_partner():
    runs = [run("a"), run("b", method="adl"), run("c", 0.0, method="prm")]
    assert names(pair_runs(runs)) == [["a"], ["b"], ["c"]]
    assert [g.title for g in pair_runs(runs)] == ["method cam", "method adl", "method prm"]


def test_titles_have_no_more_than_tells_groups_apart():
    keys = [
        make_key({"au_weight": 4.0, "method": m, "lr": lr, "epochs": e})
        for m, lr, e in (("cam", 0.1, 5), ("adl", 0.2, 5), ("adl", 0.2, 9))
    ]
    assert distinguishing_settings(keys) == [
        "method cam, epochs 5",
        "method adl, epochs 5",
        "method adl, epochs 9",
    ]
    assert distinguishing_settings(keys[:1]) == [""]


def test_weights_make_a_curve_in_order_and_seeds_share_a_step():
    runs = [run(f"w{w:g}s{s}", w, seed=s) for w in (16.0, 0.0, 0.5, 4.0) for s in (0, 1)]
    (curve,) = find_weight_curves(runs)
    assert steps([curve]) == [{t: [f"w{t}s0", f"w{t}s1"] for t in ("0", "0.5", "4", "16")}]
    assert [text for text, _ in curve.steps] == ["0", "0.5", "4", "16"]
    assert find_layer_curves(runs) == []


def test_layers_make_a_curve_that_starts_without_alignment():
    sets = [(5,), (4, 5), (3, 4, 5), (4,)]
    runs = [run("-".join(map(str, s)), layers=s) for s in sets] + [run("plain", 0.0)]
    (curve,) = find_layer_curves(runs)
    assert [text for text, _ in curve.steps] == ["none", "5", "4", "5+4", "5+4+3"]


def test_a_single_choice_of_layers_is_no_curve():
    assert find_layer_curves([run("a"), run("b", 0.0), run("c", seed=1)]) == []


def test_other_settings_make_other_curves():
    runs = [run(f"{m}{w:g}", w, method=m) for m in ("cam", "adl") for w in (0.0, 4.0)]
    runs.append(run("alone", 8.0, method="prm"))
    assert [c.title for c in find_weight_curves(runs)] == ["method cam", "method adl"]


def test_points_are_means_and_whiskers_sample_deviations():
    values = {0.0: [0.5, 0.6, 0.4], 4.0: [0.8, 0.84, 0.7]}
    runs = [
        run(f"{w}{i}", w, seed=i, accuracy=v) for w, vs in values.items() for i, v in enumerate(vs)
    ]
    curves = find_weight_curves(runs)
    charts = {c["title"]: c for c in draw_along("λ", curves)}
    assert list(charts) == ["accuracy", "ATT-COS", "margin", "rank-1"]  # no run has CAM-COS
    chart = charts["accuracy"]
    ticks = {float(text): at for at, text in chart["y_ticks"]}
    (low, low_at), *_, (high, high_at) = sorted(ticks.items())

    def value(at):
        return low + (low_at - at) / (low_at - high_at) * (high - low)

    for mark, vs in zip(chart["marks"], values.values(), strict=True):
        mean, spread = statistics.mean(vs), statistics.stdev(vs)
        assert value(mark["y"]) == pytest.approx(mean, abs=2e-4)
        assert value(mark["low"]) == pytest.approx(mean - spread, abs=2e-4)
        assert value(mark["high"]) == pytest.approx(mean + spread, abs=2e-4)
        assert f"{mean:.3f} ± {spread:.3f} (3 seeds)" in mark["what"]
    assert [text for _, text in chart["x_ticks"]] == ["0", "4"]
    first = tabulate_along(curves)[0]
    assert first["cells"][:3] == ["0.500 ± 0.100", "0.500 ± 0.000", "-"]
    assert first["runs"] == "0.00, 0.01, 0.02"


def test_curves_with_other_values_share_an_axis_in_order():
    runs = [run(f"a{w}", w) for w in (0.0, 4.0, 16.0)]
    runs += [run(f"b{w}", w, method="adl") for w in (0.0, 1.0, 8.0, 16.0)]
    chart = draw_along("λ", find_weight_curves(runs))[0]
    assert [text for _, text in chart["x_ticks"]] == ["0", "1", "4", "8", "16"]
    places = [at for at, _ in chart["x_ticks"]]
    assert places == sorted(places)
    assert all(0 < at < 100 for at in places)


def test_a_reliability_diagram_has_the_filled_bins_at_their_place():
    bins = [
        {"low": 0.0, "high": 0.5, "n": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 1.0, "n": 8, "confidence": 0.9, "accuracy": 0.75},
    ]
    one = Run("r", {}, [], {"calibration": {"bins": bins}}, {})
    chart = draw_reliability(one, 3)
    (mark,) = chart["marks"]
    assert (mark["x"], mark["y"], mark["index"]) == (90, 25, 3)
    assert [(b["x"], b["width"], b["height"]) for b in chart["bars"]] == [(50, 50, 100)]


def test_learning_curves_have_whole_epochs_as_ticks():
    for longest in (1, 2, 3, 7, 30, 61):
        curve = [{"a": float(i)} for i in range(longest)]
        chart = draw_curves("t", (("a", "validation"),), [Run("r", {}, curve, {}, {})])
        ticks = [(at, int(text)) for at, text in chart["x_ticks"]]
        assert ticks[0] == (0, 1)
        assert ticks[-1][1] == longest
        assert len(ticks) <= 7
        for at, epoch in ticks:
            assert at == pytest.approx(100 * (epoch - 1) / max(longest - 1, 1), abs=0.01)


def test_a_missing_value_leaves_a_gap_and_no_nan():
    curve = [{"a": 1.0}, {"a": float("nan")}, {"a": 3.0}]
    chart = draw_curves("t", (("a", "train"),), [Run("r", {}, curve, {}, {})])
    assert chart["lines"][0]["points"] == "0.00,66.67 100.00,0.00"


def test_settings_in_which_runs_differ_come_first_and_are_marked():
    runs = [run("a", 4.0, lr=0.1, device="cpu"), run("b", 0.0, lr=0.1, device="cuda")]
    rows = settings_context(runs)
    assert [row["key"] for row in rows if row["differs"]] == ["au weight"]
    assert rows[0]["cells"] == ["4", "0"]
    assert {row["key"] for row in rows} == {"au weight", "layers", "seed", "name", "lr", "device"}


def test_many_runs_show_validation_alone():
    curve = [{f"{p}_{k}": 1.0 for p in ("train", "val") for k in ("accuracy", "ce", "au")}]
    settings = dict.fromkeys(
        ("method", "backbone", "weights", "image_size", "au_weight", "layers", "epochs", "seed"), 1
    )
    for count, lines in ((6, 12), (7, 7)):
        runs = [Run(f"r{i}", settings, curve, {}, {}) for i in range(count)]
        shown = describe_runs(runs)
        assert [len(c["lines"]) for c in shown["curves"]] == [lines] * 3
