"""A plain loop with accelerate on one of auheat's networks, with the AU and class map losses.

accelerate launch examples/accelerate_loop.py auheat-data/shards/martinez --method cam
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

import auheat
from auheat.heatmaps import Plan
from auheat.utils.maps import on_grid

Batch = dict[str, Any]


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


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Train, and return what was logged, step by step."""
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
    parser.add_argument("--method", default="cam", help="one of auheat.list_methods()")
    parser.add_argument("--backbone", default="thin")
    parser.add_argument("--out", help="file for the weights (.pt)")
    args = parser.parse_args(arguments)
    accelerator = Accelerator()
    data = auheat.ShardDataset(args.shards, "train", args.image_size)
    plan = auheat.plan_heatmaps(auheat.load_codebook(args.codebook), data.class_names)
    model = auheat.build_classifier(args.method, args.backbone, len(data.class_names))
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    loader = DataLoader(data, args.batch_size, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    history: list[dict[str, float]] = []
    for _ in range(args.epochs):
        for batch in loader:
            output = model(batch["image"].float() / 255, batch["label"])  # it normalises images
            logits, maps, features = output.logits, output.maps, output.features[-1]
            valid, faces = batch["valid"], batch["face"].isfinite().all(-1).all(-1)
            heatmap = batch["heatmap"].float() / 255
            ce = F.cross_entropy(logits, batch["label"])
            au = auheat.au_alignment_loss(features, heatmap, valid)
            class_maps = auheat.class_map_alignment_loss(maps, draw_class_maps(batch, plan), faces)
            loss = ce + args.au_weight * au + args.class_map_weight * class_maps
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            found = {"loss": loss, "ce": ce, "au": au, "class_maps": class_maps}
            line = {name: value.item() for name, value in found.items()}
            history.append(line | {"att_cos": measure_att_cos(features, heatmap, valid)})
            accelerator.print(len(history), history[-1])
            if len(history) == args.steps:
                break
        if len(history) == args.steps:
            break
    if args.out and accelerator.is_main_process:
        accelerator.save(accelerator.unwrap_model(model).state_dict(), args.out)
    return history


if __name__ == "__main__":
    main()
