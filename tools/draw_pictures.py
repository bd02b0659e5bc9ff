"""Draw the README's pictures from the store that `make demo` makes.

    auheat train --preset demo --class-map-weight 1 --name each-class --store demo-run/store
    python tools/draw_pictures.py demo-run/store

docs/report.jpg: photos with landmarks, heatmap, and both together. docs/attention.jpg: what is
expected of each expression, and the mean attention of the runs with-aus and without-aus.
docs/explain.jpg: what `auheat explain` shows of the first test photo. docs/classes.jpg: on one face
the heatmap that each expression would have, and the class maps of with-aus and each-class.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from auheat.data.dataset import ShardDataset
from auheat.explanation.explainer import explain
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.images.decoding import decode
from auheat.runs.checkpoint import load_classifier
from auheat.runs.codebook import read_codebook
from auheat.runs.run_folder import read_config
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.store.store import find_rendered
from auheat.utils.maps import on_grid
from auheat.visualization.face_panel import draw_panel
from auheat.visualization.overlays import colorize

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = ("Happiness", "Surprise", "Anger", "Sadness")
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write(name, picture):
    """Write an RGB picture as JPEG."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(DOCS / name), bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])


def draw_report(store):
    """Return four test photos of different expressions, two in a row."""
    (file,) = list_shards(find_rendered(store))
    rows, names = read_columns(file), read_attributes(file, "label")["names"]
    cells = []
    for name in SHOWN:
        labels, splits = np.array(rows["label"]), np.array(rows["split"])
        i = int(np.flatnonzero((labels == names.index(name)) & (splits == "test"))[1])
        heat = rows["heatmap"][i] / 255
        cell = draw_panel(decode(bytes(rows["image"][i])), rows["landmarks"][i], heat, 190)
        for color, width in (((20, 20, 20), 4), ((255, 255, 255), 1)):
            cv2.putText(cell, name, (6, 20), FONT, 0.55, color, width, cv2.LINE_AA)
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
        cv2.putText(picture, title, (6, top + r * side + 60), FONT, 0.45, (30, 30, 30), 1, 16)
        for c, k in enumerate(shown):
            heat = cv2.resize(maps[k].astype(np.float32), (side - 2, side - 2))
            heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-9)
            y, x = top + r * side, left + c * side
            picture[y : y + side - 2, x : x + side - 2] = colorize(heat)
    for c, k in enumerate(shown):
        cv2.putText(picture, names[k], (left + c * side + 4, 18), FONT, 0.45, (30, 30, 30), 1, 16)
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
        cv2.putText(picture, title, (4, top + r * side + 60), FONT, 0.4, (30, 30, 30), 1, 16)
        for c, heat in enumerate(maps.numpy()):
            heat = cv2.resize(heat, (side - 2, side - 2))[..., None]
            y, x = top + r * side, left + c * side
            mixed = (1 - 0.75 * heat) * gray + 0.75 * heat * colorize(heat[..., 0])
            picture[y : y + side - 2, x : x + side - 2] = mixed.round().astype(np.uint8)
    for c, k in enumerate(renderer.drawn):
        name = dataset.class_names[k]
        cv2.putText(picture, name, (left + c * side + 4, 18), FONT, 0.45, (30, 30, 30), 1, 16)
    return picture


def main():
    store = Path(sys.argv[1])
    write("report.jpg", draw_report(store))
    write("attention.jpg", draw_attention(store))
    write("classes.jpg", draw_classes(store))
    photo = next((store.parent / "rafdb").rglob("test_00001*.jpg"))
    write("explain.jpg", explain(store / "runs" / "with-aus", photo).panel())


if __name__ == "__main__":
    main()
