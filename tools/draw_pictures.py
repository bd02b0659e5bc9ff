"""Draw the README's pictures from the store that `make demo` makes.

    auheat train --preset demo --class-map-weight 1 --name each-class --store demo-run/store
    auheat evaluate each-class --faithfulness --store demo-run/store
    python tools/draw_pictures.py demo-run/store

docs/faces.jpg: photos with landmarks, heatmap, and both together. docs/attention.jpg: what is
expected of each expression, and the mean attention of the runs with-aus and without-aus.
docs/explain.jpg: what `auheat explain` shows of the first test photo. docs/classes.jpg: on one face
the heatmap that each expression would have, and the class maps of with-aus and each-class.
docs/report.jpg, report-dark.jpg, report-phone.jpg: the report of the three runs in Chromium, where
that is on the PATH.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from auheat.data.dataset import ShardDataset
from auheat.explanation.explainer import explain
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.images.decoding import decode
from auheat.reporting.page import report
from auheat.runs.checkpoint import load_classifier
from auheat.runs.codebook import read_codebook
from auheat.runs.run_folder import read_config
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.store.store import find_rendered
from auheat.utils.maps import on_grid
from auheat.visualization.drawing import INK, WHITE, fill_box, measure_text, write
from auheat.visualization.face_panel import draw_panel
from auheat.visualization.overlays import colorize

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = ("Happiness", "Surprise", "Anger", "Sadness")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def save(name, picture, quality=88):
    """Write an RGB picture as JPEG."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(DOCS / name), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def shrink(picture, width):
    """Return a picture of a width."""
    height = round(picture.shape[0] * width / picture.shape[1])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def take(page, parts, size, dark=False, scale=1):
    """Return what a browser shows of some parts of a page, RGB, in a window of a size (W, H)."""
    hidden = f".part:not({', '.join(f'#{part}' for part in parts)})"
    head = "" if "findings" in parts else "nav, h1, main > p, "
    with tempfile.TemporaryDirectory() as folder:
        copy, file = Path(folder) / "copy.html", Path(folder) / "taken.png"
        style = f"<style>{head}{hidden} {{ display: none; }} .part {{ margin-top: .4rem; }}</style>"
        copy.write_text(page.read_text().replace("</head>", f"{style}</head>"))
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        command += [f"--force-device-scale-factor={scale}", f"--screenshot={file}"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run([*command, copy.as_uri()], check=True, capture_output=True)
        return cv2.imread(str(file))[..., ::-1]


def draw_screens(store):
    """Write what the report looks like: light and dark on a screen, and on a phone."""
    with tempfile.TemporaryDirectory() as folder:
        runs = ["each-class", "with-aus", "without-aus"]
        page = report(runs, store, out=Path(folder) / "report.html")
        top = take(page, ("findings", "headline"), (1280, 1235))
        save("report.jpg", shrink(np.vstack([top, take(page, ("photos",), (1280, 430))]), 960), 74)
        dark = take(page, ("class-maps", "faithfulness"), (1280, 1560), dark=True)
        save("report-dark.jpg", shrink(dark, 960), 74)
        shown = (("findings", False), ("headline", False), ("photos", True), ("along", True))
        phone = [take(page, (part,), (390, 780), night, 1.5) for part, night in shown]
        edge = np.full((phone[0].shape[0], 16, 3), 150, np.uint8)
        row = [piece for one in phone for piece in (one, edge)][:-1]
        save("report-phone.jpg", shrink(np.hstack(row), 1300), 74)


def draw_faces(store):
    """Return four test photos of different expressions, two in a row."""
    (file,) = list_shards(find_rendered(store))
    rows, names = read_columns(file), read_attributes(file, "label")["names"]
    cells = []
    for name in SHOWN:
        labels, splits = np.array(rows["label"]), np.array(rows["split"])
        i = int(np.flatnonzero((labels == names.index(name)) & (splits == "test"))[1])
        heat = rows["heatmap"][i] / 255
        cell = draw_panel(decode(bytes(rows["image"][i])), rows["landmarks"][i], heat, 190)
        fill_box(cell, (0, 0, measure_text(name, 10) + 16, 26), INK)
        write(cell, name, (8, 18), 10, WHITE)
        cells.append(cell)
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])


def draw_attention(store):
    """Return a grid: rows expected, with AUs, without; a column per expression."""
    runs = [np.load(store / "runs" / r / "evaluation.npz") for r in ("with-aus", "without-aus")]
    (file,) = list_shards(find_rendered(store))
    names = read_attributes(file, "label")["names"]
    shown = [k for k, name in enumerate(names) if name != "Neutral"]
    side, left, top = 110, 96, 26
    picture = np.full((top + 3 * side, left + side * len(shown), 3), 255, np.uint8)
    rows = [("expected", runs[0]["mean_heatmap"]), ("with AUs", runs[0]["mean_attention"])]
    rows.append(("without", runs[1]["mean_attention"]))
    for r, (title, maps) in enumerate(rows):
        write(picture, title, (6, top + r * side + 60), 9)
        for c, k in enumerate(shown):
            heat = cv2.resize(maps[k].astype(np.float32), (side - 2, side - 2))
            heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-9)
            y, x = top + r * side, left + c * side
            picture[y : y + side - 2, x : x + side - 2] = colorize(heat)
    for c, k in enumerate(shown):
        write(picture, names[k], (left + c * side + 4, 18), 9)
    return picture


def draw_classes(store):
    """Return a grid for a smile: expected of each class, and the class maps of two runs."""
    config = read_config(store / "runs" / "each-class")
    dataset = ShardDataset(find_rendered(store), "test", config["settings"]["image_size"])
    plan = plan_heatmaps(read_codebook(dataset.files), dataset.class_names)
    row = int(np.flatnonzero(dataset.labels == dataset.class_names.index("Happiness"))[0])
    item, renderer = dataset[row], ClassMapRenderer(plan, dataset.image_size)
    image = item["image"][None].float() / 255
    rows = [("expected", renderer.draw(item["landmarks"][None]).heatmaps[0])]
    for title, run in (("paper's loss", "with-aus"), ("+ class maps", "each-class")):
        model, _ = load_classifier(store / "runs" / run)
        with torch.inference_mode():
            maps = model.eval()(image).maps[0, renderer.drawn]
        rows.append((title, on_grid(maps.relu(), renderer.size)))
    side, left, top = 110, 96, 26
    picture = np.full((top + 3 * side, left + side * len(renderer.drawn), 3), 255, np.uint8)
    photo = cv2.resize(item["image"].permute(1, 2, 0).numpy(), (side - 2, side - 2))
    gray = np.repeat(photo.mean(2, keepdims=True), 3, 2)
    for r, (title, maps) in enumerate(rows):
        write(picture, title, (4, top + r * side + 60), 9)
        for c, heat in enumerate(maps.numpy()):
            heat = cv2.resize(heat, (side - 2, side - 2))[..., None]
            y, x = top + r * side, left + c * side
            mixed = (1 - 0.75 * heat) * gray + 0.75 * heat * colorize(heat[..., 0])
            picture[y : y + side - 2, x : x + side - 2] = mixed.round().astype(np.uint8)
    for c, k in enumerate(renderer.drawn):
        name = dataset.class_names[k]
        write(picture, name, (left + c * side + 4, 18), 9)
    return picture


def main():
    store = Path(sys.argv[1])
    save("faces.jpg", draw_faces(store))
    save("attention.jpg", draw_attention(store))
    save("classes.jpg", draw_classes(store))
    photo = next((store.parent / "rafdb").rglob("test_00001*.jpg"))
    save("explain.jpg", shrink(explain(store / "runs" / "with-aus", photo).panel(), 1040), 76)
    if BROWSER:
        draw_screens(store)


if __name__ == "__main__":
    main()
