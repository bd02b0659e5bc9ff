"""The page for everyone: headings, names, tables and contrast, on every kind of page there is."""

import re

import numpy as np
import pytest
from browser_helpers import BROWSER, browse
from page_audit import audit
from report_helpers import NAMES, faithful, write_run
from training_helpers import make_store

from auheat.reporting.page import report

LONG = "An expression with a name that no table was made for <b>&\"'"


def class_scores(names):
    """Scores of class maps, as `evaluate` has them of methods with such maps."""
    values = {"class_rank1": 0.5, "class_margin": 0.2, "cam_rank1": 0.4, "cam_margin": 0.1}
    return values | {"per_class": {name: {"class_rank1": 0.25} for name in names[1:]}}


def stop(folder, keep=("config.json",)):
    """Leave a run as one that was stopped has it."""
    for file in folder.iterdir():
        if file.name not in keep:
            file.unlink()


def write_kind(root, kind):
    """Write the runs of one kind of report to a store; returns their names."""
    names = NAMES
    if kind == "one":
        write_run(root, "only", scores=class_scores(names))
        return ["only"]
    if kind == "unfinished":
        write_run(root, "done")
        stop(write_run(root, "stopped", seed=1))
        stop(write_run(root, "waiting", seed=2), ("config.json", "metrics.jsonl"))
        return ["done", "stopped", "waiting"]
    if kind == "many":
        for i in range(13):
            write_run(root, f"run-{i}", seed=i // 2, au_weight=4.0 * (i % 2))
        return [f"run-{i}" for i in range(13)]
    if kind == "odd":
        names = ("Neutral", "سعادة بالغة", "驚き", LONG)
    if kind == "two classes":
        names = NAMES[:2]
    if kind == "26 classes":
        names = ("Neutral", *(f"Happily {chr(97 + i)}" for i in range(25)))
    long = "-name-that-somebody-made" * 3 if kind == "odd" else ""
    for weight in (0.0, 4.0):
        scores = class_scores(names) | {"faithfulness": faithful(0.3)}
        write_run(root, f"{kind[:3]}-{weight:g}{long}", names, au_weight=weight, scores=scores)
    return [f"{kind[:3]}-{weight:g}{long}" for weight in (0.0, 4.0)]


KINDS = ("none", "one", "unfinished", "many", "all", "odd", "two classes", "26 classes")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind: kind -> file."""
    root = make_store(tmp_path_factory.mktemp("kind"), (("train", 2), ("test", 2)))
    made = {"none": report(store=root)}
    for kind in KINDS[1:]:
        made[kind] = report(write_kind(root, kind), root, out=root / f"{kind}.html")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_any_kind_can_be_read_by_everyone(pages, kind):
    assert audit(pages[kind].read_text()) == []


SOUND = (
    '<!doctype html><html lang="en"><head><title>t</title></head><body>'
    '<nav aria-label="n"><ul><li><a href="#a">x</a></li></ul></nav>'
    '<main><h1 id="a">h</h1><h2>i</h2>'
    '<img alt="x" src="y"><svg role="img" aria-label="z"></svg>'
    '<div role="region" tabindex="0" aria-label="t"><table><tbody><tr><th scope="row">r</th><td>1'
    "</td></tr></tbody></table></div><label><input>l</label></main></body></html>"
)


def test_a_sound_page_has_nothing_wrong():
    assert audit(SOUND) == []


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (' lang="en"', "", "no language"),
        ("<title>t</title>", "", "no title"),
        ("<h2>i</h2>", "<h3>i</h3>", "after a heading of level 1"),
        ("<h2>i</h2>", "<h2></h2>", "is empty"),
        ("<h2>i</h2>", "<h1>i</h1>", "2 headings of level 1"),
        ('href="#a"', 'href="#b"', "leads nowhere"),
        (">x</a>", "></a>", "has no text"),
        ('alt="x"', 'alt=" "', "has no text"),
        (' role="img"', "", "not said to be a picture"),
        ('aria-label="z"', "", "has no text"),
        (' scope="row"', "", "has no scope"),
        (">r</th>", "></th>", "an empty heading"),
        ('<th scope="row">r</th>', "", "has no heading"),
        (' tabindex="0"', "", "cannot be scrolled"),
        ("<input>l", "<input>", "has no label"),
        ("<h2>i</h2>", '<p id="a">i</p>', "id 'a' 2 times"),
        ("<h2>i</h2>", "<li>i</li>", "entry of no list"),
        ("<h2>i</h2>", "<p>i", "is not closed|</main> in"),
        ("</main>", "</main>words", "in no part"),
    ],
)
def test_each_fault_is_found(good, bad, said):
    assert SOUND.count(good) == 1
    assert any(re.search(said, fault) for fault in audit(SOUND.replace(good, bad)))


# ---------------------------------------------------------------- contrast


def read_color(code):
    """Red, green and blue in [0, 1] of "#rgb" or "#rrggbb"."""
    code = "".join(2 * c for c in code[1:]) if len(code) == 4 else code[1:]
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def find_contrast(one, other):
    """WCAG 2.1's contrast ratio of two colours in [0, 1]."""
    levels = []
    for color in (one, other):
        linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(levels) / min(levels)


def test_contrast_of_black_on_white_is_21_and_of_the_gray_on_the_edge_is_known():
    assert find_contrast(read_color("#000"), read_color("#ffffff")) == pytest.approx(21)
    assert find_contrast(read_color("#767676"), read_color("#fff")) == pytest.approx(4.54, abs=0.01)


@pytest.fixture(scope="module")
def palettes(pages):
    """The colours of the light page, the dark one, and paper."""
    style = pages["none"].read_text()
    light, dark, paper = (
        {name: read_color(code) for name, code in re.findall(r"--(\w+): (#\w+)", block)}
        for block in re.findall(r":root {([^}]*)}", style)
    )
    return {"light": light, "dark": dark, "print": light | paper}


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_every_text_has_the_contrast_that_aa_asks_for(palettes, name):
    colors = palettes[name]
    for back in ("paper", "card"):
        for text in ("ink", "soft", "c1"):  # c1: a wrong answer
            assert find_contrast(colors[text], colors[back]) >= 4.5, (text, back)
        for i in range(8):  # lines and marks are graphics
            assert find_contrast(colors[f"c{i}"], colors[back]) >= 3, (i, back)
    assert find_contrast(colors["ink"], colors["mark"]) >= 4.5
    for share in np.linspace(0, 1, 21):  # numbers on cells and bars of any shade
        shade = share * colors["shade"] + (1 - share) * colors["paper"]
        assert find_contrast(colors["ink"], shade) >= 4.5, share
    for i in range(8):
        bar = 0.3 * colors[f"c{i}"] + 0.7 * colors["paper"]
        assert find_contrast(colors["ink"], bar) >= 4.5, i


LOOK = """<script>
const share = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const level = ([r, g, b]) => .2126 * share(r) + .7152 * share(g) + .0722 * share(b) + .05;
const read = text => {
  const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number), whole = text.startsWith("color(");
  const alpha = numbers.length > 3 ? numbers[3] : 1;
  return [numbers.slice(0, 3).map(v => whole ? v : v / 255), alpha];
};
const back = node => {
  const [color, alpha] = read(getComputedStyle(node).backgroundColor);
  if (alpha >= 1 || !node.parentElement) return color;
  const under = back(node.parentElement);
  return color.map((v, i) => alpha * v + (1 - alpha) * under[i]);
};
const low = [];
let seen = 0;
for (const e of document.querySelectorAll("main *, nav *")) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const text = read(e instanceof SVGElement ? style.fill : style.color)[0];
  const levels = [level(text), level(back(e))];
  const ratio = Math.max(...levels) / Math.min(...levels);
  seen += 1;
  if (ratio < 4.5) low.push(e.tagName + " " + e.className + " " + ratio.toFixed(2));
}
document.body.dataset.looked = JSON.stringify([seen, low.slice(0, 5).join("; ")]);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no browser on the PATH to draw the page with")
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_that_a_browser_draws_stands_out(pages, tmp_path, dark):
    copy = tmp_path / "copy.html"
    text = pages["all"].read_text()
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    faint = f".soft {{ color: {'#606060' if dark else '#909090'} !important; }}"
    for soft, fine in (("", True), (faint, False)):
        copy.write_text(text.replace("</style>", soft + "</style>").replace("</body>", LOOK))
        shown, *_ = browse(copy, tmp_path, "--window-size=1280,900", "--dump-dom", *options)
        looked = re.search(r'data-looked="\[(\d+),&quot;(.*?)&quot;\]"', shown)
        assert int(looked.group(1)) > 300
        assert (looked.group(2) == "") is fine, looked.group(2)


CUT = """<script>
document.querySelectorAll("details").forEach(e => { e.open = true; });
const wide = [...document.querySelectorAll(".wide table, figure, h1, p, .pairs")].filter(
  e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1);
document.body.dataset.cut = JSON.stringify([
  innerWidth, wide.slice(0, 5).map(e => e.tagName + " " + e.className).join("; ")]);
</script></body>"""

A4 = 1047  # px across a sheet that lies, 277 mm between its margins


@pytest.mark.skipif(BROWSER is None, reason="no browser on the PATH to draw the page with")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["many", "26 classes"])
def test_a_sheet_of_paper_cuts_nothing(pages, tmp_path, kind):
    copy = tmp_path / "copy.html"
    text = pages[kind].read_text().replace("@media print", "@media all")
    wider = ".matrices { min-width: 1200px; }"
    for style, fine in (("", True), (wider, False)):
        copy.write_text(text.replace("</style>", style + "</style>").replace("</body>", CUT))
        shown, *_ = browse(copy, tmp_path, f"--window-size={A4},740", "--dump-dom")
        width, cut = re.search(r'data-cut="\[(\d+),&quot;(.*?)&quot;\]"', shown).groups()
        assert int(width) == A4
        assert (cut == "") is fine, cut
