"""Pictures of codebooks: what is drawn is what is rendered; and the command that shows them."""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.facs.codebooks import list_codebooks, load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.visualization import codebook_atlas


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["codebooks", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_mean_face_lies_within_its_square(martinez):
    points = codebook_atlas.place_face(martinez, 200)
    assert points.min() > 10
    assert points.max() < 190
    width = points[45] - points[36]
    np.testing.assert_allclose(width[1], 0, atol=0.02 * width[0])


def test_maps_are_those_of_the_renderer_on_the_mean_face(martinez):
    points = codebook_atlas.place_face(martinez, 60)
    found = codebook_atlas.draw_maps(martinez, 60)
    assert list(found) == list(martinez.expressions)
    for name, heat in found.items():
        plan = plan_heatmaps(martinez, [name])
        expected, _ = render_heatmaps(points[None], np.array([0]), plan, (60, 60), (60, 60))
        np.testing.assert_array_equal(heat, expected[0])


def test_an_expressions_map_is_the_largest_of_its_units(martinez):
    units, maps = codebook_atlas.draw_units(martinez, 60), codebook_atlas.draw_maps(martinez, 60)
    assert sorted(units) == sorted(martinez.regions)
    cues = martinez.expressions["Happiness"]
    assert all(cue.weight == 1 for cue in cues)
    largest = np.max([units[cue.au] for cue in cues], 0)
    np.testing.assert_allclose(maps["Happiness"], largest, atol=1e-6)


def test_heat_reddens_the_drawing_and_nothing_else_changes_it(martinez):
    points = codebook_atlas.place_face(martinez, 80)
    heat = np.zeros((80, 80), np.float32)
    plain = codebook_atlas.draw_face(heat, points)
    assert plain.max() == 255
    assert (plain < 200).any()  # the lines of the face
    heat[60:70, 10:20] = 1
    marked = codebook_atlas.draw_face(heat, points)
    changed = (marked != plain).any(-1)
    np.testing.assert_array_equal(changed, heat > 0)
    assert (
        marked[65, 15] == np.rint(0.2 * plain[65, 15] + 0.8 * np.array(codebook_atlas._HOT))
    ).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_codebooks())
def test_every_codebook_can_be_drawn(name, tmp_path):
    out = codebook_atlas.plot_codebook(load_codebook(name), tmp_path / "new" / f"{name}.png")
    picture = cv2.imread(str(out))
    assert picture.shape[1] == codebook_atlas.COLUMNS * codebook_atlas.SIDE
    red = (picture[..., 2].astype(int) - picture[..., 1]) > 100
    assert red.sum() > 1000


def test_a_picture_needs_a_pictures_name(martinez, tmp_path):
    with pytest.raises(AuheatError, match=r"--plot: .*atlas.pdf: not a picture's name"):
        codebook_atlas.plot_codebook(martinez, tmp_path / "atlas.pdf")


def test_the_command_lists_shows_and_draws(tmp_path):
    listed = run().output
    for name in list_codebooks():
        assert name in listed
    out = tmp_path / "a.png"
    shown = run("martinez", "--plot", out).output
    assert "AU12  Lip Corner Puller" in shown
    assert out.is_file()
    told = json.loads(run("martinez", "--json").output)
    (happiness,) = (e for e in told["expressions"] if e["expression"] == "Happiness")
    assert {6, 12} <= {unit["au"] for unit in happiness["aus"]}


def test_the_command_checks_files_and_compares_codebooks(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\ntitle: x\ncitation: x\nexpressions:\n  Joy: {required: [99]}\n")
    found = run("--validate", broken, code=1).output
    assert "broken.yaml" in found
    assert "99" in found
    assert json.loads(run("--validate", broken, "--json", code=1).output)["problems"]
    assert "in order" in run("--validate", "martinez").output
    assert run("--diff", "martinez", "martinez").output.strip() == "0 differences"
    rows = json.loads(run("--diff", "martinez", "emfacs", "--json").output)
    (pain,) = (row for row in rows if row["expression"] == "Pain")
    assert (pain["kind"], pain["au"], pain["b"]) == ("expression", None, None)
    assert {4, 6, 7} <= set(pain["a"])
    both = run("martinez", "--diff", "martinez", "emfacs", code=1).output
    assert "exclude each other" in both
    assert "needs the NAME" in run("--plot", tmp_path / "x.png", code=1).output
