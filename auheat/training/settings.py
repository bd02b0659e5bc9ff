"""The settings of a run, without torch: what a command line and a notebook can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what a run becomes (apart from the photos).

    `au_weight` is the paper's lambda, 0 for a plain classifier, `contrast_weight` of the loss that
    tells a class's heatmap from the others'; `layers` (1 to 5) are aligned by both;
    `classes` leaves out the others; `name` defaults to one made of the settings; `optimizer`
    is "sgd" (Nesterov) or "adamw". `lr` is the highest rate, the head's
    is `head_lr_factor` times that;
    `schedule` "auto" is cosine of sgd and onecycle of adamw, `warmup` is in epochs.

    `batch_size` is what one step learns from, by all processes and `accumulate` passes together.
    `resize` (px, 0: none) is the side photos are resized to before a crop of `image_size`.
    `clip` (largest norm of the gradient) and `ema` (decay) are 0 for none. `freeze_bn` keeps
    batch normalisation in evaluation mode, `sync_bn` spans it over processes, `balance` draws every
    class as often. `workers` None is as many as suit; it, `device` and `tensorboard` do not
    change what a run becomes.
    """

    name: str = ""
    preset: str = "none"
    shards: str | None = None
    classes: tuple[str, ...] | None = None
    method: str = "cam"
    backbone: str = "resnet50"
    weights: str = "auto"
    image_size: int = 224
    au_weight: float = 4.0
    contrast_weight: float = 0.0
    layers: tuple[int, ...] = (5,)
    epochs: int = 30
    batch_size: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    head_lr_factor: float = 1.0
    schedule: str = "auto"
    warmup: float | None = None
    step_epochs: int = 10
    step_factor: float = 0.1
    augment: str = "affine"
    resize: int = 0
    balance: bool = False
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    freeze_bn: bool = False
    sync_bn: bool = False
    amp: str = "none"
    compile: bool = False
    val_fraction: float = 0.1
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    tensorboard: bool = False

    @property
    def run_name(self) -> str:
        """The name given, or method, backbone, the weights of what is aligned, and seed."""
        from auheat.store.store import check_name  # which loads far more than this

        contrast = f"-contrast{self.contrast_weight:g}" if self.contrast_weight else ""
        made = f"{self.method}-{self.backbone}-au{self.au_weight:g}{contrast}-seed{self.seed}"
        return check_name(self.name or made.replace("+", "p").replace(":", "-"))


class TrainSettings(TypedDict, total=False):
    """The fields of `TrainConfig` as keywords; each may be left out."""

    name: str
    shards: str | None
    classes: tuple[str, ...] | None
    method: str
    backbone: str
    weights: str
    image_size: int
    au_weight: float
    contrast_weight: float
    layers: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    head_lr_factor: float
    schedule: str
    warmup: float | None
    step_epochs: int
    step_factor: float
    augment: str
    resize: int
    balance: bool
    accumulate: int
    clip: float
    ema: float
    freeze_bn: bool
    sync_bn: bool
    amp: str
    compile: bool
    val_fraction: float
    seed: int
    device: str
    workers: int | None
    tensorboard: bool
