"""Evaluated runs written by hand, with every key that a report may show: nothing is trained."""

import json
import zlib
from pathlib import Path

import cv2
import numpy as np

from auheat.evaluation.faithfulness_columns import KEYS
from auheat.training.config import make_config

NAMES = ("Neutral", "Happiness", "Surprise", "Sadness")
UNITS = (1, 2, 4, 6, 12, 15, 25)
SCORES = (
    "accuracy",
    "balanced_accuracy",
    "cam_cos",
    "cam_cos_predicted",
    "att_cos",
    "att_cos_centred",
    "margin",
    "rank1",
)
LAYERS = [f"layer {n}" for n in range(1, 6)]


def write_run(store: Path, name: str, names=NAMES, new=True, n=40, side=32, **settings):
    """Write a run's files; `settings` are those of training, and `scores` replaces some."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    folder = store / "runs" / name
    folder.mkdir(parents=True)
    scores = settings.pop("scores", {})
    chosen = make_config("demo", name=name, **settings)
    plain = {k: getattr(chosen, k) for k in chosen.__slots__}
    config = {
        "auheat": "0.1.0",
        "format": 0,
        "settings": plain,
        "data": {"shards": "martinez", "train_rows": 24, "val_rows": 8},
        "normalisation": {"mean": [0.5] * 3, "std": [0.2] * 3},
        "codebook": {"name": "martinez"},
        "detector": "none",
        "shard_classes": list(names),
        "class_names": list(names),
    }
    (folder / "config.json").write_text(json.dumps(config))
    keys = [f"{part}_{what}" for part in ("train", "val") for what in ("accuracy", "ce", "au")]
    lines = [json.dumps({key: float(rng.random()) for key in keys}) for _ in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = _scores(name, names, n, rng) | ({} if not new else _new_scores(n, rng)) | scores
    (folder / "evaluation.json").write_text(json.dumps(told))
    arrays = _arrays(names, side, rng) | (_new_arrays(names, n, side, rng) if new else {})
    first = _examples(2 * len(names), names, side, np.random.default_rng(99))
    first["example_id"] = np.array([f"test{i:03d}" for i in range(2 * len(names))])
    first["example_label"] = np.arange(2 * len(names)) // 2
    more = arrays.pop("more", None)
    if not new:
        del first["example_kind"], first["example_row"]
    for key, value in first.items():
        arrays[key] = value if more is None else np.concatenate([value, more[key]])
    np.savez(folder / "evaluation.npz", **arrays)
    return folder


def _scores(name, names, n, rng):
    table = {
        "att_cos": 0.5, "att_cos_centred": 0.3, "margin": 0.0, "rank1": 0.2,
    }  # fmt: skip
    return {
        "run": name,
        "split": "test",
        "n": n,
        "n_valid": n * 3 // 4,
        "class_names": list(names),
        **{key: float(rng.uniform(0.2, 0.9)) for key in SCORES},
        "confusion": rng.integers(0, 9, (len(names), len(names))).tolist(),
        "baselines": {
            key: dict(table)
            for key in ("mean_heatmap", "centre_gaussian", "uniform", "wrong_class")
        },
        "matrix": {
            "rows": list(names[1:]),
            "columns": [*LAYERS, "CAM"],
            "values": rng.random((len(names) - 1, 6)).tolist(),
        },
    }


def _new_scores(n, rng):
    edges = np.linspace(0, 1, 16)
    counts = rng.integers(0, 9, 15)
    bins = [
        {
            "low": float(low),
            "high": float(high),
            "n": int(count),
            "confidence": float((low + high) / 2) if count else None,
            "accuracy": float(rng.random()) if count else None,
        }
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    columns = ("cosine", "reference", "centred", "margin", "rank1", "energy", "pointing")
    return {
        "energy": float(rng.random()),
        "pointing": float(rng.random()),
        "intervals": {key: [0.111, 0.999] for key in (*SCORES, "energy", "pointing")},
        "maps": {
            kind: {key: float(rng.random()) for key in columns}
            for kind in (*LAYERS, "CAM", "CAM predicted")
        },
        "au_pointing": {
            f"AU{au}": {
                "n": 10 + au,
                **{
                    kind: {"pointing": float(rng.random()), "attended": float(rng.uniform(0.5, 3))}
                    for kind in ("layer 5", "CAM")
                },
            }
            for au in UNITS
        },
        "calibration": {"ece": 0.051, "mce": 0.152, "nll": 0.853, "brier": 0.254, "bins": bins},
        "shards": "martinez",
        "seconds": 1.5,
        "images_per_second": n / 1.5,
    }


def _maps(count, side, rng):
    coarse = rng.random((count, 7, 7), np.float32)
    return np.stack([cv2.resize(one, (side, side)) for one in coarse])


def _photos(count, side, rng):
    """Photos with about as much to encode as faces have: smooth, with a little grain."""
    coarse = rng.integers(0, 255, (count, side // 6 + 2, side // 6 + 2, 3), np.uint8)
    grain = rng.normal(0, 5, (count, side, side, 3))
    large = np.stack(
        [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse]
    )
    return (large + grain).clip(0, 255).astype(np.uint8)


def _arrays(names, side, rng):
    heatmaps = _maps(len(names), side, rng)
    heatmaps[0] = 0  # Neutral has none
    means = {f"mean_{kind}": _maps(len(names), side, rng) for kind in ("attention", "cam")}
    return means | {"mean_heatmap": heatmaps}


def _examples(count, names, side, rng):
    return {
        "example_id": np.array([f"row{rng.integers(10**6):06d}" for _ in range(count)]),
        "example_image": _photos(count, side, rng),
        "example_label": rng.integers(0, len(names), count),
        "example_predicted": rng.integers(0, len(names), count),
        "example_attention": _maps(count, side, rng),
        "example_cam": _maps(count, side, rng),
        "example_heatmap": _maps(count, side, rng),
        "example_kind": np.array(["first"] * count),
        "example_row": np.arange(count),
    }


def _new_arrays(names, n, side, rng):
    more = _examples(12, names, side, rng)
    more["example_kind"] = np.array(["best"] * 6 + ["worst"] * 6)
    more["example_row"] = rng.integers(0, n, 12)
    return {
        "more": more,
        "row_id": np.array([f"test{i:05d}" for i in range(n)]),
        "row_columns": np.array(["att_cos", "margin"]),
        "row_scores": rng.random((n, 2), np.float32),
    }


def class_regions(gain):
    """Falls of the predicted class, and half of them of every class, with intervals."""

    def falls(value):
        return {"logit_blur": [value, value - 0.05, value + 0.05]}

    return {
        which: {
            "own": falls(part * gain),
            "own_less": {"elsewhere": falls(part * gain - 0.1), "others": falls(part * gain - 0.2)},
        }
        for which, part in (("predicted", 1), ("every", 0.5))
    } | {"left_out": {"the predicted class has no heatmap": 3}}


def faithful(gain, kinds=("attention", "CAM", "CAM predicted", "heatmap", "random")):
    """What evaluation.json has; the gain of each kind is a tenth less than the last one's."""
    ends = [[gain - i / 10, gain - i / 10 - 0.05, gain - i / 10 + 0.05] for i in range(len(kinds))]
    effects = ("comprehensiveness_blur", "sufficiency_blur")
    likeness = {"rank": [0.5, 0.4, 0.6], "ssim": [0.25, 0.2, 0.3]}
    by = {"mean": [0.1, 0.05, 0.2], "max": [0.3, 0.2, 0.4], "still": [0.125, 0.1, 0.15]}
    return {
        "photos": 12,
        "steps": 10,
        "forwards_per_photo": 406,
        "left_out": {"map not finite": 2},
        "maps": {k: {m: list(e) for m in KEYS} for k, e in zip(kinds, ends, strict=True)},
        "regions": {
            name: {key: [0.2, 0.1, 0.3] for key in effects} for name in ("expected", "random")
        },
        "class_regions": class_regions(gain),
        "randomised": [{"down_to": "head", "attention": likeness}],
        "moves": {"attention": by},
    }
