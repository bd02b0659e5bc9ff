"""The page in a real browser, where there is one: no message, no request, nothing too wide."""

import json
import re
from urllib.parse import urlsplit

import cv2
import pytest
from browser_helpers import BROWSER, NAMES, browse
from report_helpers import write_run
from training_helpers import make_store

from auheat.reporting.page import report

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser on the PATH ({', '.join(NAMES)}) to look at the page with"
)

MEASURE = (
    "<script>document.body.dataset.measured = JSON.stringify([innerWidth,"
    "document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor,"
    "[...document.images].filter(i => !i.complete || !i.naturalWidth).length])</script></body>"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two runs that have every key."""
    root = make_store(tmp_path_factory.mktemp("browser"))
    write_run(root, "with-aus")
    write_run(root, "without-aus", au_weight=0.0)
    return report(store=root)


def ask(page, folder, *options):
    """Browse a page: what the browser says, and the hosts that it asks for this page alone."""
    blank = folder / "blank" / "blank.html"
    blank.parent.mkdir()
    blank.write_text("<!doctype html><title>blank</title>")
    *_, own = browse(blank, blank.parent, *options)
    _, told, asked = browse(page, folder, *options)
    return told, {urlsplit(url).netloc for url in asked} - {urlsplit(url).netloc for url in own}


def test_a_page_that_logs_and_asks_is_caught(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.log('hi')</script>")
    told, asked = ask(page, tmp_path, "--window-size=390,900", f"--screenshot={tmp_path / 'p.png'}")
    assert "CONSOLE" in told
    assert asked == {"127.0.0.1:9"}


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_a_message_or_a_request(page, tmp_path, width):
    picture = tmp_path / "page.png"
    size = f"--window-size={width},900"
    told, asked = ask(page, tmp_path, size, f"--screenshot={picture}")
    assert "CONSOLE" not in told
    assert asked == set()
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.std() > 5  # something is drawn


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_and_every_picture_loads(page, tmp_path, width, dark):
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text().replace("</body>", MEASURE))
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    shown, *_ = browse(copy, tmp_path, f"--window-size={width},900", "--dump-dom", *options)
    measured = re.search(r'data-measured="([^"]+)"', shown).group(1).replace("&quot;", '"')
    inner, needed, background, broken = json.loads(measured)
    assert needed <= inner
    assert broken == 0
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 384
    assert light is not dark
