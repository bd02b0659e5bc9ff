"""Train any network of timm with timm's own building blocks, the AU loss and the class map loss.

python examples/timm_loop.py auheat-data/shards/martinez --model resnet18 --pretrained
python examples/timm_loop.py auheat-data/shards/martinez --model vit_tiny_patch16_224
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
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


def run_model(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), features (B, C, h, w) and class maps (B, K, h, w).

    A class map is the classifier's row of weights at every place, which is exact where the head is
    a mean and a linear layer.
    """
    raw = model.forward_features(images)
    logits, features = model.forward_head(raw), raw
    if raw.ndim == 3:  # a transformer's tokens
        features = auheat.tokens_to_map(raw, prefix=model.num_prefix_tokens)
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":  # such as a Swin's
        features = raw.permute(0, 3, 1, 2)
    classifier: nn.Linear = model.get_classifier()
    return logits, features, torch.einsum("bchw,kc->bkhw", features, classifier.weight)


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
    parser.add_argument("--model", default="resnet18", help="name of a network of timm")
    parser.add_argument("--pretrained", action="store_true", help="download published weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    data = auheat.ShardDataset(args.shards, "train", args.image_size)
    loader = DataLoader(data, args.batch_size, shuffle=True, drop_last=True)
    plan = auheat.plan_heatmaps(auheat.load_codebook(args.codebook), data.class_names)
    settings = {"pretrained": args.pretrained, "num_classes": len(data.class_names)}
    try:  # transformers are made for one size of images, others know no such argument
        model = timm.create_model(args.model, img_size=args.image_size, **settings)
    except TypeError:
        model = timm.create_model(args.model, **settings)
    model = model.to(args.device).train()
    about = resolve_model_data_config(model)
    mean, std = (torch.tensor(about[k], device=args.device).view(3, 1, 1) for k in ("mean", "std"))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=args.epochs, updates_per_epoch=len(loader),
        step_on_epochs=False,
    )  # fmt: skip
    history: list[dict[str, float]] = []
    for _ in range(epochs):
        for items in loader:
            batch = {name: value.to(args.device) for name, value in items.items()}
            images = (batch["image"].float() / 255 - mean) / std
            logits, features, maps = run_model(model, images)
            valid, faces = batch["valid"], batch["face"].isfinite().all(-1).all(-1)
            heatmap = batch["heatmap"].float() / 255
            ce = F.cross_entropy(logits, batch["label"])
            au = auheat.au_alignment_loss(features, heatmap, valid)
            class_maps = auheat.class_map_alignment_loss(maps, draw_class_maps(batch, plan), faces)
            loss = ce + args.au_weight * au + args.class_map_weight * class_maps
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found = {"loss": loss, "ce": ce, "au": au, "class_maps": class_maps}
            line = {name: value.item() for name, value in found.items()}
            history.append(line | {"att_cos": measure_att_cos(features, heatmap, valid)})
            scheduler.step_update(len(history))
            print(len(history), history[-1])
            if len(history) == args.steps:
                return history
    return history


if __name__ == "__main__":
    main()
