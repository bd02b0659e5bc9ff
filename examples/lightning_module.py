"""Train a torchvision ResNet-18 in a Lightning module, with the AU loss and the class map loss.

python examples/lightning_module.py auheat-data/shards/martinez --epochs 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import lightning
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader

import auheat
from auheat.heatmaps import Plan
from auheat.utils.maps import on_grid

Batch = dict[str, Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw_class_maps(batch: Batch, plan: Plan) -> Tensor:
    """Return the heatmap (B, K, h, w) in [0, 1] that each class would have on the batch's faces."""
    side, size = batch["image"].shape[-1], batch["heatmap"].shape[1:]
    points = batch["landmarks"]
    labels = [torch.full((len(points),), k, device=points.device) for k in range(len(plan.names))]
    maps = [auheat.render_heatmaps(points, k, plan, (side, side), tuple(size))[0] for k in labels]
    return torch.stack(maps, 1).float()


def measure_att_cos(features: Tensor, heatmap: Tensor, valid: Tensor) -> float:
    """Return ATT-COS: the mean cosine of attention, scaled to [0, 1], with the heatmaps."""
    attention = on_grid(features.detach().float().mean(1), tuple(heatmap.shape[1:]))
    cosine = F.cosine_similarity(attention.flatten(1), heatmap.flatten(1))
    return cosine[valid].mean().item() if valid.any() else float("nan")


class GuidedClassifier(lightning.LightningModule):
    """A ResNet-18 whose attention and class maps are drawn to the heatmaps."""

    def __init__(self, plan: Plan, lr: float, au_weight: float, class_map_weight: float) -> None:
        super().__init__()
        self.plan, self.lr = plan, lr
        self.au_weight, self.class_map_weight = au_weight, class_map_weight
        resnet = torchvision.models.resnet18(weights=None)
        self.trunk = nn.Sequential(*list(resnet.children())[:-2])
        self.head = nn.Linear(512, len(plan.names))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, K), features (B, C, h, w) and class maps (B, K, h, w)."""
        features = self.trunk((images.float() / 255 - self.mean) / self.std)
        maps = torch.einsum("bchw,kc->bkhw", features, self.head.weight)
        return self.head(features.mean((2, 3))), features, maps

    def compute_loss(self, batch: Batch, stage: str) -> Tensor:
        """Return the loss of a batch, and log its parts."""
        logits, features, maps = self(batch["image"])
        plan = self.plan
        valid, faces = batch["valid"], batch["face"].isfinite().all(-1).all(-1)
        heatmap = batch["heatmap"].float() / 255
        ce = F.cross_entropy(logits, batch["label"])
        au = auheat.au_alignment_loss(features, heatmap, valid)
        class_maps = auheat.class_map_alignment_loss(maps, draw_class_maps(batch, plan), faces)
        loss = ce + self.au_weight * au + self.class_map_weight * class_maps
        found = {"loss": loss, "ce": ce, "au": au, "class_maps": class_maps}
        found["att_cos"] = torch.tensor(measure_att_cos(features, heatmap, valid))
        named = {f"{stage}_{name}": value for name, value in found.items()}
        self.log_dict(named, batch_size=len(logits), prog_bar=True)
        return loss

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss to go back through."""
        return self.compute_loss(batch, "train")

    def validation_step(self, batch: Batch) -> None:
        """Log the scores of photos that are not learnt from."""
        self.compute_loss(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, and return what was logged last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", help="folder of rendered shards, such as STORE/shards/martinez")
    parser.add_argument("--codebook", default="martinez", help="that of the shards")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many; -1: never")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--au-weight", type=float, default=4.0)
    parser.add_argument("--class-map-weight", type=float, default=1.0)
    args = parser.parse_args(arguments)
    train = auheat.ShardDataset(args.shards, "train", args.image_size)
    held_out = auheat.ShardDataset(args.shards, "test", args.image_size, train.class_names)
    plan = auheat.plan_heatmaps(auheat.load_codebook(args.codebook), train.class_names)
    model = GuidedClassifier(plan, args.lr, args.au_weight, args.class_map_weight)
    trainer = lightning.Trainer(
        max_epochs=args.epochs, max_steps=args.steps, log_every_n_steps=1, logger=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    learnt = DataLoader(train, args.batch_size, shuffle=True, drop_last=True)
    trainer.fit(model, learnt, DataLoader(held_out, args.batch_size))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    print(main())
