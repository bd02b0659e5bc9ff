"""The page of many runs: all its parts, small, without anything from outside, and readable."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from helpers import Page
from page_audit import read_table
from report_helpers import NAMES, UNITS, write_run
from training_helpers import make_store

from auheat.errors import AuheatError
from auheat.expressions import EXPRESSIONS
from auheat.reporting.page import read_run, report


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with evaluations that have every key: pairs, other layers, and one alone."""
    root = make_store(tmp_path_factory.mktemp("page"))
    write_run(root, "with-0", scores={"accuracy": 0.95})
    write_run(root, "with-1", seed=1)
    write_run(root, "without-0", au_weight=0.0)
    write_run(root, "without-1", au_weight=0.0, seed=1)
    write_run(root, "deeper", layers=(4, 5))
    write_run(root, "adl", method="adl")
    return root


@pytest.fixture(scope="module")
def page(store):
    return report(store=store).read_text()


def section(page, name):
    """The text of one part of the page."""
    found = re.split(r'<details[^>]* class="part" id="', page)
    (text,) = [part for part in found if part.startswith(name + '"')]
    return text


@pytest.mark.slow
def test_every_part_is_there_and_in_the_contents(page):
    parts = re.findall(r'class="part" id="([\w-]+)"', page)
    assert parts == [
        "findings", "runs", "headline", "photos", "maps", "class-maps", "classes", "along",
        "units", "calibration", "extremes", "learning", "settings", "counts", "expressions",
        "codebook", "doubtful",
    ]  # fmt: skip
    nav = page.partition("<nav")[2].partition("</nav>")[0]
    assert re.findall(r'href="#([\w-]+)"', nav) == parts


def test_ids_are_unique(page):
    ids = [i for _, _, i in Page(page).tags if i]
    assert len(ids) == len(set(ids))


def test_intervals_stand_under_their_scores_and_the_best_is_marked(page):
    heads, *rows = read_table(page, 'id="scores"')
    at = heads.index("with-0")
    assert len(rows) == 9
    assert rows[0][at] == "0.9500.111 to 0.999"
    assert all(row[at].endswith("0.111 to 0.999") for row in rows)
    table = page.partition('<table id="scores">')[2].partition("</table>")[0]
    best = re.findall(r'class="n r(\d) best">([\d.]+)', table)
    assert len(best) == 9
    assert best[0] == (str(at - 1), "0.950")
    assert "Bold: the highest" in page


@pytest.mark.slow
def test_no_best_is_marked_among_runs_scored_on_other_photos(store, tmp_path):
    other = tmp_path / "s"
    shutil.copytree(store, other)
    file = other / "runs" / "adl" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n": 41}))
    text = report(store=other).read_text()
    assert not re.search('class="n r. best"', text)
    assert "not all scored on the same photos" in text


def test_the_same_photo_stands_under_runs_with_and_without_aus(page):
    figure = section(page, "photos").partition('class="example"')[2].partition("</figure>")[0]
    told = r"<bdi>([\w-]+)</bdi></p>.*<small>.*?(with[^:]*), says"
    pairs = [
        re.search(told, pair, re.DOTALL).groups() for pair in figure.split('<div class="pair r')[1:]
    ]
    with_aus, without_aus = "with AUs (λ 4)", "without AUs"
    assert pairs == [
        ("adl", with_aus),
        *(("without-0", without_aus), ("deeper", with_aus)),
        *(("without-0", without_aus), ("with-0", with_aus)),
        *(("without-1", without_aus), ("with-1", with_aus)),
    ]
    assert 'style="--across: 4"' in figure  # photo and seven pairs: two lines of four
    photo = re.search(r'class="pic (p\d+)"', figure).group(1)
    assert set(re.findall(r'class="over (p\d+)"', figure)) == {photo}


def test_each_photo_is_embedded_once(page):
    used = set(re.findall(r'class="(?:over|pic) (p\d+)"', page))
    styles = re.findall(r'^\.(p\d+) { background-image: url\("([^"]+)"\); }', page, re.MULTILINE)
    assert {name for name, _ in styles} == used
    assert len({url for _, url in styles}) == len(styles)


def test_action_units_have_names_and_numbers_of_the_evaluation(store, page):
    scores = read_run(store / "runs" / "with-0").scores["au_pointing"]
    text = section(page, "units")
    assert [int(au) for au in re.findall(r'<tr><th scope="row">AU(\d+) ', text)] == [*UNITS, *UNITS]
    row = text.partition('<th scope="row">AU12 Lip Corner Puller</th>')[2].partition("</tr>")[0]
    assert row.startswith('<td class="soft">22</td>')
    index = sorted(p.name for p in (store / "runs").iterdir()).index("with-0")
    cell = re.search(rf'class="n r{index} [^>]*>([\d.]+) <small>([\d.]+)×', row).groups()
    found = scores["AU12"]["layer 5"]
    assert cell == (f"{found['pointing']:.2f}", f"{found['attended']:.1f}")


def test_calibration_has_a_diagram_and_errors_for_each_run(page):
    text = section(page, "calibration")
    assert len(re.findall(r'<figure class="reliability', text)) == 6
    assert text.count('class="ideal"') == 6
    rows = re.findall(r'<td class="n">([\d.]+)</td>', text)
    assert rows == ["0.051", "0.152", "0.853", "0.254"] * 6


def test_best_and_worst_photos_tell_their_margin(store, page):
    arrays = read_run(store / "runs" / "adl").arrays
    text = section(page, "extremes")
    part = text.partition("<h3>adl</h3>")[2].partition("<h3>")[0]
    kinds, rows = arrays["example_kind"].tolist(), arrays["example_row"]
    shown = [i for kind in ("best", "worst") for i, k in enumerate(kinds) if k == kind]
    wanted = [f"{arrays['row_scores'][rows[i], 1]:.2f}" for i in shown]
    assert re.findall(r"margin (-?[\d.]+)", part) == wanted
    assert len(wanted) == 12


@pytest.mark.slow
def test_old_evaluations_are_shown_without_the_parts_they_lack(tmp_path):
    root = make_store(tmp_path)
    write_run(root, "old", new=False)
    text = report(store=root).read_text()
    parts = re.findall(r'class="part" id="([\w-]+)"', text)
    assert not {"units", "calibration", "extremes", "along"} & set(parts)
    assert {"headline", "photos", "maps", "classes"} <= set(parts)
    assert "<small>0." not in text.partition('<table id="scores">')[2].partition("</table>")[0]
    assert "energy" not in section(text, "headline")
    write_run(root, "young")
    both = report(store=root).read_text()
    assert "energy" in section(both, "headline")
    assert section(both, "calibration").count('class="ideal"') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("intervals", {"accuracy": [0.1]}),
        ("intervals", {"accuracy": "wide"}),
        ("energy", "high"),
        ("maps", {"layer 1": {"cosine": "x"}}),
        ("maps", [1]),
        ("au_pointing", {"AU12": {"layer 5": {"pointing": 0.5}}}),
        ("au_pointing", {"nose": {"n": 3}}),
        ("faithfulness", [0.5]),
        ("faithfulness", {"maps": {"attention": {"fall": [0.1, 0.0, 0.2]}}}),
        ("faithfulness", {"maps": {"attention": {"gain": [0.1]}}}),
        ("faithfulness", {"maps": {"attention": {"gain": "high"}}}),
        ("calibration", {"ece": 0.1}),
        ("calibration", {"ece": 1, "mce": 1, "nll": 1, "brier": 1, "bins": [{"n": 3}]}),
    ],
)
def test_a_damaged_new_part_names_its_run(tmp_path, key, value):
    root = make_store(tmp_path)
    write_run(root, "torn", scores={key: value})
    with pytest.raises(AuheatError, match=r"torn: unreadable .*run `auheat evaluate` again"):
        report(store=root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("example_kind", np.array(["first"])),
        ("example_row", np.full(20, 10**6)),
        ("row_scores", np.zeros(3)),
        ("example_image", np.zeros((2, 4), np.uint8)),
    ],
)
def test_damaged_new_arrays_name_their_run(tmp_path, key, value):
    root = make_store(tmp_path)
    folder = write_run(root, "torn")
    with np.load(folder / "evaluation.npz") as opened:
        arrays = dict(opened)
    np.savez(folder / "evaluation.npz", **(arrays | {key: value}))
    with pytest.raises(AuheatError, match=r"torn: unreadable .*run `auheat evaluate` again"):
        report(store=root)


@pytest.mark.slow
def test_twenty_two_runs_and_three_thousand_photos_make_less_than_ten_megabytes(tmp_path):
    names = EXPRESSIONS[:7]
    root = make_store(tmp_path, (("train", 4), ("test", 429)), names, shard_rows=1024)
    methods = ("cam", "wildcat", "gradcam", "acol", "prm", "adl", "cutmix", "layercam", "gradcam++")
    pairs = [(m, seed) for seed in (0, 1) for m in methods][:11]
    for i, (method, seed) in enumerate(pairs):
        for weight in (0.0, 4.0):
            about = {"method": method, "seed": seed, "au_weight": weight}
            write_run(root, f"run-{i}-{weight:g}", names, n=3003, side=112, **about)
    text = report(store=root).read_text()
    assert "3031 photos" in text
    assert len(text.encode()) < 10e6
    parsed = Page(text)
    assert parsed.count("table", "confusion shaded fill") == 22
    assert parsed.count("img", "mean") == 6 * 2 * (1 + 22)  # attention, class maps: A and runs
    assert len(re.findall(r'<figure class="example">', text)) == 7  # one for each expression
    labels = re.findall(r'aria-label="Photo test\d+, (\w+)"', section(text, "photos"))
    assert sorted(labels) == sorted(names)


def test_every_picture_and_chart_has_a_text_for_those_who_cannot_see_it(page):
    assert all(re.search(r'\balt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    charts = re.findall(r"<svg [^>]*viewBox=\"0 -18[^>]*>", page)
    assert len(charts) == 3 + 6 + 2 * 5 + 1
    assert all(re.search(r'role="img" aria-label="[^"]+"', tag) for tag in charts)
    assert all("aria-label" in tag for tag in re.findall(r'<div class="pic[^>]*>', page))


def test_every_wide_table_scrolls_in_a_box_of_its_own(page):
    assert page.count("<table") == len(re.findall(r'<div class="wide[^>]*>\s*<table', page))


def test_a_run_looks_the_same_wherever_it_is_drawn(page):
    for index in range(6):
        lines = re.findall(rf'<polyline class="series (c\d) r{index} ', page)
        assert set(lines) == {f"c{index % 8}"}


def test_runs_can_be_hidden_without_a_script(page):
    boxes = re.findall(r'<input type="checkbox" id="show(\d+)" checked>', page)
    assert boxes == [str(i) for i in range(6)]
    for i in boxes:
        assert f"body:has(#show{i}:not(:checked)) .r{i} {{ display: none; }}" in page


def palettes(page):
    """The colours of the light and of the dark page."""
    blocks = [b for b in re.findall(r":root {([^}]*)}", page) if "--ink" in b]
    assert len(blocks) == 2  # paper alone has its own background, besides
    return [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]


DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colour_or_mark_tells_neighbouring_runs_apart(page, kind):
    for colors in palettes(page):
        codes = [colors[f"c{i}"] for i in range(8)]
        rgb = np.array([[int(code[j : j + 2], 16) for j in (1, 3, 5)] for code in codes])
        share = rgb / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.array(DEFICIENCIES[kind]).T, 0, 1)
        coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(coded.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
        for i in range(8):
            for j in range(i):
                if i % 4 == j % 4:  # the same mark: then the colour must do
                    assert np.linalg.norm(lab[i] - lab[j]) > 20, (i, j)
                elif i < 4:  # the first few are told apart without looking at marks
                    assert np.linalg.norm(lab[i] - lab[j]) > 12, (i, j)


@pytest.mark.slow
def test_a_page_is_the_same_every_time(store, page):
    assert report(store=store).read_text() == page


@pytest.mark.slow
def test_names_of_runs_cannot_become_markup(tmp_path):
    root = make_store(tmp_path)
    folder = write_run(root, "plain", scores={"run": "<b>x</b>"})
    folder.rename(folder.with_name("<i>r\x1b[2J\u202eun"))
    text = report(store=root).read_text()
    assert not {"\x1b", "\u202e"} & {*text}
    assert "<i>r" not in text
    assert "<b>x" not in text
    assert r"&lt;i&gt;r\x1b[2J\u202eun" in text


def test_the_names_of_helpers_are_those_of_the_shards():
    assert NAMES[0] == "Neutral"  # whose mean heatmap the helper leaves empty, as the codebook does
