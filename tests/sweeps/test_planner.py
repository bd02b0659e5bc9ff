"""Grids: the paper's runs counted, each once; requests that no run could use; published figures."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.models.registry import METHODS
from auheat.sweeps import published
from auheat.sweeps.grid import RunKey, format_layers, list_choices
from auheat.sweeps.planner import plan_sweep
from auheat.training.config import TrainConfig, make_config

# what the paper varies, typed here from its tables and its plot
TABLE_3 = ("none", "1", "2", "3", "4", "5", "5+4", "5+4+3", "5+4+3+2", "5+4+3+2+1")
FIGURE_5 = (0.01, 0.1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 20)


def settings_of(plan):
    return [cell.setting for cell in plan.cells]


def test_the_paper_preset_is_exactly_the_papers_runs():
    plan = plan_sweep("paper")
    wanted = {RunKey(data, m, 0.0, ()) for data in ("rafdb", "affectnet") for m in METHODS}
    wanted |= {RunKey("rafdb", m, 4.0, (5,)) for m in METHODS}
    wanted |= {RunKey("affectnet", m, 9.0, (5,)) for m in METHODS}
    layers = [tuple(map(int, text.split("+"))) for text in TABLE_3[1:]]
    wanted |= {RunKey("rafdb", "cam", 4.0, some) for some in layers}
    wanted |= {RunKey("rafdb", "cam", float(value), (5,)) for value in FIGURE_5}
    assert len(METHODS) == 11
    assert len(settings_of(plan)) == len(wanted) == 67
    assert set(settings_of(plan)) == wanted
    assert Counter(s.data for s in settings_of(plan)) == {"rafdb": 45, "affectnet": 22}


def test_the_papers_tables_have_its_rows_and_share_their_runs():
    plan = plan_sweep("paper")
    tables = {(t.kind, t.data): t for t in plan.tables}
    assert [row.title for row in tables["layers", "rafdb"].rows] == list(TABLE_3)
    lambdas = [float(row.title) for row in tables["lambdas", "rafdb"].rows]
    assert lambdas == [0, *FIGURE_5]
    for data in ("rafdb", "affectnet"):
        assert len(tables["methods", data].rows) == 11
    assert len(plan.tables) == 4
    shown = [
        s
        for t in plan.tables
        for row in t.rows
        for s in (row.without, *row.candidates)
        if s is not None
    ]
    # 44 cells of tables 1 and 2, 10 of table 3, 17 of figure 5: CAM's two are in all three
    assert len(shown) == 44 + 10 + 17
    assert len(set(shown)) == len(plan.cells) == 67
    assert plan.list_tables(RunKey("rafdb", "cam", 4.0, (5,))) == ["lambdas", "layers", "methods"]


def test_the_papers_runs_are_its_presets_and_methods_own_networks():
    for cell in plan_sweep("paper").cells:
        wanted = make_config(
            preset=cell.setting.data,
            method=cell.setting.method,
            au_weight=cell.setting.au_weight,
            layers=cell.setting.layers or (5,),
            name=cell.name,
        )
        assert cell.config == wanted
        assert cell.config.backbone == METHODS[cell.setting.method].standard


def test_one_store_is_its_part_of_the_paper_and_seeds_multiply():
    assert {s.data for s in settings_of(plan_sweep("paper", data=["rafdb"]))} == {"rafdb"}
    plan = plan_sweep("paper", data=["affectnet"], seeds=[0, 1, 2])
    assert len(plan.cells) == 66
    assert sum(c.setting == RunKey("affectnet", "prm", 9.0, (5,)) for c in plan.cells) == 3


def test_only_the_figures_lambdas_are_chosen_among_and_zero_is_no_candidate():
    choices = [some for table in plan_sweep("paper").tables for some in list_choices(table)]
    assert [[s.au_weight for s in some] for some in choices] == [list(FIGURE_5)]


def test_the_demo_preset_is_nine_narrow_runs():
    plan = plan_sweep("demo")
    assert len(plan.cells) == 9
    assert {cell.config.backbone for cell in plan.cells} == {"thin", "thin-vit"}
    wanted = {("cam", w, (5,)) for w in (1, 4, 10)} | {("cam", 0, ()), ("cam", 4, (5, 4))}
    wanted |= {(m, 0, ()) for m in ("wildcat", "ts-cam")}
    wanted |= {(m, 4, (5,)) for m in ("wildcat", "ts-cam")}
    assert {s[1:4] for s in settings_of(plan)} == wanted
    longer = plan_sweep("demo", epochs=2, seeds=[5])
    assert {(cell.config.epochs, cell.config.seed) for cell in longer.cells} == {(2, 5)}


def test_a_grid_is_every_combination_and_without_aus_layers_do_not_count():
    plan = plan_sweep(
        methods=["cam", "layercam"], au_weights=[4, 0], layers=[[4, 5], [5]], seeds=[0, 1, 2]
    )
    assert len(plan.cells) == 2 * 3 * (1 + 2)
    assert Counter(format_layers(s.layers) for s in settings_of(plan)) == {
        "none": 6,
        "5+4": 6,
        "5": 6,
    }
    assert {c.config.layers for c in plan.cells if c.setting.layers == (5, 4)} == {(5, 4)}
    kinds = [(t.kind, t.method) for t in plan.tables]
    assert kinds == [("methods", ""), ("layers", "cam"), ("layers", "layercam")]


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"grid": "demo"}, "contrast_weight"),
        ({"grid": "paper"}, "contrast_weight"),
        ({"au_weights": [0, 1, 4]}, "contrast_weight"),
        ({"au_weights": [0, 1, 4]}, "class_map_weight"),
    ],
)
def test_runs_without_aus_have_no_contrast_and_no_class_maps_either(asked, key):
    plan = plan_sweep(**asked, **{key: 0.5})
    found = {(bool(c.setting.au_weight), getattr(c.config, key)) for c in plan.cells}
    assert found == {(False, 0.0), (True, 0.5)}
    without = plan_sweep(**asked)
    assert settings_of(plan) == settings_of(without)
    plain = [c.config for c in plan.cells if not c.setting.au_weight]
    assert plain == [c.config for c in without.cells if not c.setting.au_weight]


def test_what_is_not_varied_is_the_trainings_own():
    plan = plan_sweep(seeds=[0, 1], preset="affectnet")
    assert set(settings_of(plan)) == {
        RunKey("affectnet", "cam", 0.0, ()),
        RunKey("affectnet", "cam", 9.0, (5,)),
    }
    plan = plan_sweep(methods=["apvit"], preset="methods", epochs=7)
    assert {(c.config.epochs, c.config.lr) for c in plan.cells} == {(7, 5e-4)}
    assert settings_of(plan)[0].data == ""


def test_no_two_runs_have_one_name():
    for plan in (
        plan_sweep("paper", seeds=range(3)),
        plan_sweep(au_weights=[0.1, 0.1000001, 1e-7, 12345678.5, 12345678.25], seeds=[0, 1]),
        plan_sweep(methods=["gradcam", "gradcam++"], layers=[[5, 4], [5], [4]], name="a.0-b"),
    ):
        assert len({cell.name for cell in plan.cells}) == len(plan.cells)
        assert all(cell.name.startswith(f"{plan.name}-") for cell in plan.cells)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"grid": "papr"}, "--grid: 'papr' is not known (one of none, paper, demo, losses,"),
        ({"grid": "demo", "methods": ["cam"]}, "--methods: not beside --grid demo"),
        ({"grid": "paper", "preset": "rafdb"}, "--preset: not beside --grid paper"),
        ({}, "nothing to vary"),
        ({"methods": ["cam", "camm"]}, "--methods: 'camm' is not known (expected one of cam"),
        ({"methods": ["cam", "prm", "cam"]}, "--methods: cam is given twice"),
        ({"methods": []}, "an empty list"),
        ({"au_weights": [0, -1]}, "--au-weights: -1.0 is not known (expected 0 or more)"),
        ({"au_weights": [float("nan")]}, "--au-weights: nan"),
        ({"au_weights": [4, 0, 4.0]}, "--au-weights: 4.0 is given twice"),
        ({"layers": [[5], [6, 5]]}, "--layers: 6+5 (expected some of 1 to 5, or -1 to -5"),
        ({"layers": [[5, 4], [4, 5]]}, "--layers: 5+4 is given twice"),
        ({"layers": [[5, 5]]}, "--layers: 5 is given twice"),
        ({"layers": [[5], [4]], "au_weights": [0]}, "--layers: no AU weight above 0"),
        ({"seeds": [1, 1]}, "--seeds: 1 is given twice"),
        ({"seeds": [0, -1]}, "--seed: -1"),
        ({"methods": ["prm"], "preset": "quick"}, "--preset: 'quick' is not known"),
        ({"methods": ["cam", "ts-cam"], "backbone": "resnet18"}, "none of ts-cam's"),
        ({"methods": ["cam"], "epochs": 0}, "--epochs: 0"),
        ({"methods": ["cam"], "name": "a/b"}, "--name: 'a/b'"),
        ({"grid": "demo", "seeds": ()}, "--seeds: an empty list"),
        ({"methods": ["cam"], "seeds": ()}, "--seeds: an empty list"),
        ({"grid": "paper", "data": ["x"]}, "data: 'x' is not known (one of rafdb, affectnet)"),
        ({"grid": "paper", "data": []}, "data: an empty list"),
        ({"grid": "paper", "data": ["rafdb", "rafdb"]}, "data: rafdb is given twice"),
        ({"grid": "demo", "data": ["rafdb"]}, "--rafdb: for --grid paper alone"),
        ({"methods": ["cam"], "au_weight": 1.0}, "au_weight: not the same for every run"),
        ({"methods": ["cam"], "seed": 3}, "seed: not the same for every run"),
        ({"au_weights": [1], "method": "prm"}, "(expected methods)"),
        ({"au_weights": [0], "contrast_weight": 1.0}, "--contrast-weight: no AU weight above 0"),
        ({"au_weights": [0], "class_map_weight": 1.0}, "--class-map-weight: no AU weight above 0"),
        ({"au_weights": [0], "preset": "explain"}, "--class-map-weight: no AU weight above 0"),
        ({"au_weights": [0, 4], "contrast_weight": -1.0}, "--contrast-weight: -1.0"),
    ],
)
def test_a_grid_of_no_use_is_an_error_that_names_it(asked, words):
    with pytest.raises(AuheatError) as caught:
        plan_sweep(**asked)
    assert words in str(caught.value)


def test_a_dry_run_lists_the_papers_runs_without_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["sweep", "--grid", "paper", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert [run["run"] for run in told["runs"]] == [c.name for c in plan_sweep("paper").cells]
    assert sum(run["epochs"] for run in told["runs"]) == 45 * 100 + 22 * 20
    text = CliRunner().invoke(main, ["sweep", "--grid", "paper", "--dry-run"]).output
    assert text.splitlines()[-1] == "67 runs, 4940 epochs"
    assert not list(tmp_path.iterdir())


def test_the_command_has_every_option_of_train_that_a_sweep_does_not_decide():
    options = {p.name for p in main.commands["sweep"].params if p.expose_value}
    swept = {"name", "method", "au_weight", "layers", "seed"}
    own = {"store", "grid", "methods", "au_weights", "layers", "seeds", "name", "jobs", "dry_run"}
    own |= {"overwrite", "as_json", "rafdb", "affectnet", "source", "also_on"}
    assert options == set(TrainConfig.__dataclass_fields__) - swept | own


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--au-weights", "0,four"),
            "Invalid value for '--au-weights': 'four' is not a valid float",
        ),
        (("--layers", "5+x"), "Invalid value for '--layers': '5+x' (expected numbers such as"),
        (("--seeds", "1.5"), "Invalid value for '--seeds': '1.5' is not a valid integer"),
        (("--grid", "paper"), "no store given (expected --rafdb STORE"),
        (("--grid", "demo", "--rafdb", "x"), "--rafdb: for --grid paper alone"),
    ],
)
def test_what_the_command_cannot_read_is_an_error(options, words):
    done = CliRunner().invoke(main, ["sweep", *options])
    assert done.exit_code == (2 if "Invalid" in words else 1)
    assert words in done.output


def test_of_the_paper_only_the_data_set_whose_store_is_given_is_run(tmp_path, monkeypatch):
    seen = []

    def note(store, plan, stores, jobs, overwrite):
        seen.append((store, plan.data, stores, jobs, overwrite))
        raise AuheatError("enough")

    monkeypatch.setattr("auheat.sweeps.runner.run_plan", note)
    place, out = tmp_path / "a", tmp_path / "out"
    options = ["sweep", "--grid", "paper", "--store", str(out), "--jobs", "3"]
    done = CliRunner().invoke(main, [*options, "--affectnet", str(place)])
    assert "--rafdb is not given: its runs are left out" in done.output
    both = [*options, "--rafdb", str(out), "--affectnet", str(place), "--overwrite"]
    assert "left out" not in CliRunner().invoke(main, both).output
    assert seen == [
        (out, ("affectnet",), {"affectnet": place}, 3, False),
        (out, ("rafdb", "affectnet"), {"rafdb": out, "affectnet": place}, 3, True),
    ]


def test_published_figures_are_the_papers():
    raf, affect = published.METHODS["rafdb"], published.METHODS["affectnet"]
    assert list(raf) == list(affect) == list(METHODS)
    assert raf["cam"] == ((88.20, 0.55, 0.57), (88.95, 0.70, 0.85))
    assert raf["layercam"] == ((87.90, 0.60, 0.52), (88.88, 0.84, 0.86))
    assert raf["apvit"] == ((91.00, None, 0.38), (91.03, None, 0.85))
    assert affect["ts-cam"] == ((58.99, 0.57, 0.48), (59.54, 0.58, 0.79))
    assert affect["wildcat"].aligned == (61.62, 0.80, 0.81)
    assert published.LAYERS[()] == (88.20, 0.55, None)
    assert published.LAYERS[5, 4] == (88.78, 0.67, None)
    assert [format_layers(layers) for layers in published.LAYERS] == list(TABLE_3)
    assert tuple(published.LAMBDAS) == FIGURE_5
    assert max(published.LAMBDAS, key=lambda k: published.LAMBDAS[k].accuracy) == 4


def test_published_figures_agree_with_what_the_paper_says_of_them():
    pairs = [pair for rows in published.METHODS.values() for pair in rows.values()]
    for without, aligned in pairs:  # section 4.2: accuracy, CAM and attention improve with AUs
        assert aligned.accuracy > without.accuracy
        assert aligned.att_cos > without.att_cos
        assert without.cam_cos is None or aligned.cam_cos > without.cam_cos
    raf = published.METHODS["rafdb"]
    assert max(raf, key=lambda m: raf[m].without.accuracy) == "apvit"
    assert min(raf, key=lambda m: raf[m].without.att_cos) == "apvit"
    # table 3 repeats table 1's CAM; its layer 5 is the best
    assert published.LAYERS[()][:2] == raf["cam"].without[:2]
    assert published.LAYERS[5,][:2] == raf["cam"].aligned[:2]
    assert max(published.LAYERS.values())[:2] == published.LAYERS[5,][:2]


def test_the_ferplus_grid_has_losses_controls_and_learning_curves_of_three_seeds():
    plan = plan_sweep("ferplus")
    methods = ("cam", "layercam", "wildcat", "ts-cam")
    wanted = {
        (m, *rest, 0) for m in methods for rest in ((0.0, ""), (4.0, ""), (4.0, "maps"))
    }  # fmt: skip
    controlled = ("cam", "wildcat", "ts-cam")  # LayerCAM's networks are CAM's
    wanted |= {(m, 4.0, variant, 0) for m in controlled for variant in ("mean", "wrong")}
    wanted |= {("cam", 4.0, "faces", 0), ("cam", 4.0, "mean", 2500)}
    wanted |= {
        ("cam", *rest, n)
        for n in (2500, 5000, 10000)
        for rest in ((0.0, ""), (4.0, ""), (4.0, "maps"))
    }
    made = Counter((s.method, s.au_weight, s.variant, s.photos) for s in settings_of(plan))
    assert made == dict.fromkeys(wanted, 3)
    assert len({cell.name for cell in plan.cells}) == len(plan.cells) == 87
    for cell in plan.cells:
        config, s = cell.config, cell.setting
        assert (config.preset, config.method, config.au_weight) == (
            "ferplus",
            s.method,
            s.au_weight,
        )
        assert config.class_map_weight == (1.0 if s.variant == "maps" else 0.0)
        assert config.au_target == (s.variant if s.variant in ("mean", "wrong") else "own")
        assert (config.train_photos, config.faces_only) == (s.photos, s.variant == "faces")
        whole = make_config("ferplus", method=s.method)
        assert config.epochs == whole.epochs * (2 if s.photos else 1)
        assert (config.lr, config.backbone) == (whole.lr, whole.backbone)
    shown = [row.candidates[0] for table in plan.tables for row in table.rows]
    assert Counter(shown) == Counter(set(settings_of(plan)))


def test_the_ferplus_grid_takes_other_methods_seeds_and_epochs():
    plan = plan_sweep("ferplus", methods=["wildcat", "apvit"], seeds=[7], epochs=2)
    assert {c.config.seed for c in plan.cells} == {7}
    assert {c.config.epochs for c in plan.cells} == {2}
    made = Counter((s.method, s.variant, bool(s.photos)) for s in settings_of(plan))
    # APViT has one map for all classes, which cannot be aligned with each class's heatmap
    assert made == {
        ("wildcat", "", False): 2,
        ("wildcat", "maps", False): 1,
        ("wildcat", "mean", False): 1,
        ("wildcat", "mean", True): 1,
        ("wildcat", "wrong", False): 1,
        ("wildcat", "faces", False): 1,
        ("wildcat", "", True): 6,
        ("wildcat", "maps", True): 3,
        ("apvit", "", False): 2,
        ("apvit", "mean", False): 1,
        ("apvit", "wrong", False): 1,
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"class_map_weight": 2.0}, "--class-map-weight: not beside --grid"),
        ({"au_target": "mean"}, "--au-target: not beside --grid"),
        ({"train_photos": 10}, "--train-photos: not beside --grid"),
        ({"methods": ["cam", "cam"]}, "--methods: cam"),
        ({"methods": ["camm"]}, "--methods: 'camm' is not known"),
        ({"methods": []}, "--methods: an empty list"),
        ({"layers": [[4]]}, "--layers: not beside --grid ferplus"),
        ({"preset": "explain"}, "--preset explain: not beside --grid, which decides the class map"),
        ({"contrast_weight": 1.0}, "--contrast-weight: not beside --grid, which decides it"),
    ],
)
def test_what_the_ferplus_grid_decides_cannot_be_given(asked, message):
    with pytest.raises(AuheatError) as error:
        plan_sweep("ferplus", **asked)
    assert message in str(error.value)


def test_the_losses_grid_has_each_loss_of_each_method_and_takes_all_of_training():
    plan = plan_sweep(
        "losses", methods=["ts-cam", "apvit"], seeds=[3, 5], preset="methods", train_photos=40
    )
    wanted = [("ts-cam", 0.0, 0.0), ("ts-cam", 4.0, 0.0), ("ts-cam", 4.0, 1.0), ("apvit", 0.0, 0.0),
              ("apvit", 4.0, 0.0)]  # fmt: skip
    runs = [(c.config.method, c.config.au_weight, c.config.class_map_weight) for c in plan.cells]
    assert runs == [one for one in wanted for _ in range(2)]
    assert [c.config.seed for c in plan.cells] == [3, 5] * 5
    assert {(c.config.train_photos, c.config.preset) for c in plan.cells} == {(40, "methods")}
    assert plan.has_variants
    assert [c.config.method for c in plan_sweep("losses").cells] == ["cam"] * 3
    for refused in ({"preset": "explain"}, {"class_map_weight": 1.0}, {"au_weights": [1.0]}):
        with pytest.raises(AuheatError, match="not beside --grid"):
            plan_sweep("losses", **refused)


def test_a_run_without_aus_is_no_control():
    plan = plan_sweep(methods=["cam"], au_weights=[0, 4], au_target="wrong", train_photos=9)
    assert [c.config.au_target for c in plan.cells] == ["own", "wrong"]
    assert [c.config.train_photos for c in plan.cells] == [9, 9]
