"""A real browser, where there is one on the PATH."""

import json
import shutil
import subprocess

NAMES = ("chromium", "google-chrome", "chromium-browser")
BROWSER = next((found for found in map(shutil.which, NAMES) if found), None)

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--disable-sync",
    "--enable-logging=stderr",
)


def browse(page, folder, *options):
    """Run the browser on a page: what it writes, and every web address in its log of the net."""
    log = folder / "net.json"
    command = [
        BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *options,
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = log.read_text()
    if not text.rstrip().endswith("}"):  # the browser may end before the log does
        text = text.rstrip().rstrip(",") + "]}"
    addresses = [event.get("params", {}).get("url", "") for event in json.loads(text)["events"]]
    return done.stdout, done.stderr, {url for url in addresses if url.startswith(("http", "ws"))}
