"""The settings of a run, without torch: what a command line and a notebook can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a training run, which with the photos decide what it becomes.

    Made by `make_config`, which checks them. `workers`, `device` and `tensorboard` do not change
    what a run becomes.

    Attributes:
        name: The run's name; "" makes one of method, backbone, weights and seed.
        preset: Name of the settings that these began with.
        shards: Which of the store's shards; None where there are no others.
        classes: Classes to learn, the others are left out; None takes all.
        method: One of `list_methods`.
        backbone: One of the method's.
        weights: "auto" (published ones where they are on this machine), "none", or a file.
        image_size: Side of the network's input in px, 16 or more.
        au_weight: Weight of `au_alignment_loss`, the paper's lambda; 0 for a plain classifier.
        contrast_weight: Weight of `contrastive_alignment_loss`.
        class_map_weight: Weight of `class_map_alignment_loss`.
        au_target: What the AU losses draw attention to: "own", the heatmap of a photo's class; of
            the controls "mean", the mean of all classes' heatmaps on that face, which knows no
            class, and "wrong", the heatmap of another class, always the same one.
        soft_labels: Learn the votes of a set that tells them: each class's share of the votes for
            any class, in the place of the label. Validation and scores keep the label.
        geometry_branch: Decide by the landmarks, too: logits += W z of standardised points in the
            face's frame. Photos without a face are decided by the image alone.
        geometry_dropout: Share of the photos that a geometry branch is silent on in training, so
            that the image learns to do without it.
        layers: Layers (1 to 5, shallow to deep) that both align.
        align: How the heatmap is brought to a layer's size, "area" or "reference".
        train_photos: Learn from only so many of the training photos, drawn by the seed with every
            class in proportion; fewer are a part of more. 0 takes all.
        epochs: Passes over the training rows, above 0.
        batch_size: Photos that one step learns from, by all processes and `accumulate` passes.
        lr: Highest learning rate, above 0.
        weight_decay: 0 or more.
        optimizer: "sgd" (Nesterov) or "adamw".
        head_lr_factor: The head's rate as a multiple of `lr`.
        head_lr_stages: How many of a ResNet's last stages learn at the head's rate, too.
        schedule: "auto" is cosine of sgd and onecycle of adamw.
        warmup: Epochs in which the rate rises; None is as suits the schedule.
        step_epochs: Epochs between steps of the schedule "step".
        step_factor: What a step multiplies the rate by.
        augment: How photos are varied.
        resize: Side in px that photos are resized to before a crop of `image_size`; 0 for none.
        balance: Draw every class as often.
        accumulate: Passes that one step adds up.
        clip: Largest norm of the gradient; 0 for none.
        ema: Decay of the weights' moving average; 0 for none.
        freeze_bn: Keep batch normalisation in evaluation mode.
        sync_bn: Span batch normalisation over processes, on CUDA alone.
        amp: "none", "bf16" or "fp16".
        compile: Use torch.compile.
        val_fraction: Share of the training rows held out where there is no validation split.
        faces_only: Leave out photos in which no face was found, of training and validation; else
            they train the classifier, and no heatmap.
        seed: Seed of weights, order and augmentation.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        workers: Processes that decode photos; None is as many as suit.
        tensorboard: Write TensorBoard's files, too.

    Example:
        >>> from auheat import TrainConfig
        >>> TrainConfig(method="cam", au_weight=0.0, seed=3).run_name
        'cam-resnet50-au0-seed3'
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
    class_map_weight: float = 0.0
    au_target: str = "own"
    soft_labels: bool = False
    geometry_branch: bool = False
    geometry_dropout: float = 0.2
    layers: tuple[int, ...] = (5,)
    align: str = "area"
    train_photos: int = 0
    epochs: int = 30
    batch_size: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    head_lr_factor: float = 1.0
    head_lr_stages: int = 0
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
    faces_only: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    tensorboard: bool = False

    @property
    def run_name(self) -> str:
        """The name given, or method, backbone, the weights of what is aligned, points, and seed."""
        from auheat.store.store import check_name  # which loads far more than this

        contrast = f"-contrast{self.contrast_weight:g}" if self.contrast_weight else ""
        own = f"-maps{self.class_map_weight:g}" if self.class_map_weight else ""
        own += f"-target-{self.au_target}" if self.au_target != "own" else ""
        own += "-soft" if self.soft_labels else ""
        geometry = "-geometry" if self.geometry_branch else ""
        geometry += f"-photos{self.train_photos}" if self.train_photos else ""
        made = f"{self.method}-{self.backbone}-au{self.au_weight:g}{contrast}{own}"
        made = f"{made}{geometry}-seed{self.seed}"
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
    class_map_weight: float
    au_target: str
    soft_labels: bool
    geometry_branch: bool
    geometry_dropout: float
    layers: tuple[int, ...]
    align: str
    train_photos: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    head_lr_factor: float
    head_lr_stages: int
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
    faces_only: bool
    seed: int
    device: str
    workers: int | None
    tensorboard: bool
