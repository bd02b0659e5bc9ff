"""Presets: rows of training settings by name, four of them the paper's, for its two sets.

The paper (Belharbi et al., FG 2024, section 4, "Implementation Details") states epochs,
mini-batch, optimizer (SGD), the crops of 224 x 224 from photos of 256 x 256, and that lambda was
chosen from values up to 20. What it leaves open is taken from the authors' published code, and
marked so below; where that says nothing of RAF-DB, from its defaults. What the code does beyond the
paper (photos turned, zoomed, tinted and erased; heatmaps shrunk by another rule) is in
"rafdb-code" and "affectnet-code".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

RESIZE, CROP = 256, 224
"""The paper's sides in px: photos are resized to the first, crops of the second are learnt from."""


_PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "resize": RESIZE,  # paper; of other input sides the same proportion
        "optimizer": "sgd",  # paper; momentum 0.9 and Nesterov: code
        "schedule": "step",  # code
        "augment": "crop",  # paper; mirroring half of the photos: code
        "layers": (5,),  # paper, table 3
    }
)


_RAFDB: Mapping[str, Any] = MappingProxyType(
    {
        **_PAPER,
        "epochs": 100,  # paper
        "batch_size": 32,  # paper
        "au_weight": 4.0,  # paper, figure 5: the best accuracy
        "lr": 0.001,  # the code's default, as are the next five
        "weight_decay": 1e-4,
        "head_lr_factor": 10.0,
        "head_lr_stages": 1,  # layer4 learns at the head's rate there
        "step_epochs": 40,
        "step_factor": 0.1,
    }
)


_AFFECTNET: Mapping[str, Any] = MappingProxyType(
    {
        **_PAPER,
        "epochs": 20,  # paper
        "batch_size": 224,  # paper
        "au_weight": 9.0,  # the code's command, as are the next five
        "lr": 0.002,
        "weight_decay": 5e-4,
        "head_lr_factor": 1.0,
        "step_epochs": 4,
        "step_factor": 0.9,
    }
)


_CODE: Mapping[str, Any] = MappingProxyType({"augment": "reference", "align": "reference"})
"""What the published code does and the paper does not say."""


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {},
        "demo": {
            "backbone": "thin",
            "weights": "none",
            "image_size": 96,
            "epochs": 60,
            "batch_size": 16,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "optimizer": "adamw",
        },
        "methods": {
            "backbone": "thin",
            "weights": "none",
            "image_size": 64,
            "epochs": 60,
            "batch_size": 16,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "optimizer": "adamw",
        },
        "ferplus": {
            "backbone": "thin",
            "weights": "none",
            "image_size": 48,
            "epochs": 16,
            "batch_size": 32,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "optimizer": "adamw",
        },
        "explain": {"class_map_weight": 1.0},
        "rafdb": _RAFDB,
        "affectnet": _AFFECTNET,
        "rafdb-code": {**_RAFDB, **_CODE},
        "affectnet-code": {**_AFFECTNET, **_CODE},
    }
)
"""Name -> settings that replace the defaults; what is asked for beside it replaces them.

"rafdb" and "affectnet" are the paper's settings for its two sets, "-code" with what its published
code does beyond them. "explain" also aligns every class's map with its own heatmap
(docs/attention.md), and leaves the rest to you. "demo" trains in minutes on a laptop's CPU,
"methods" in one or two, to compare all of them; a method that has no "thin" backbone gets its own
narrow one there, and the learning rate that suits that. "ferplus" is for FER+'s photos of 48 px,
of which one core learns some 550 a second (docs/ferplus.md).
"""


PRETRAINED = frozenset({"rafdb", "affectnet", "rafdb-code", "affectnet-code"})
"""Presets that begin from published weights: to do without has to be asked for."""
