"""Train an image classifier of transformers with its Trainer, with the AU and class map losses.

python examples/huggingface_trainer.py auheat-data/shards/martinez --model microsoft/resnet-18

Without --model a small ResNet begins with fresh weights, and nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import AutoModelForImageClassification as AutoModel
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import auheat
from auheat.heatmaps import Plan
from auheat.utils.maps import on_grid

Batch = dict[str, Any]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


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


def collate(items: list[Batch]) -> Batch:
    """Return a batch as models of transformers take it, with what the losses need."""
    batch: Batch = default_collate(items)
    images = (batch["image"].float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    return batch | {"pixel_values": images, "labels": batch["label"]}


class GuidedTrainer(Trainer):
    """A Trainer whose loss also asks for attention and class maps where the heatmaps are."""

    def __init__(self, *given: Any, plan: Plan, weights: tuple[float, float], **more: Any) -> None:
        super().__init__(*given, **more)
        self.plan, self.weights = plan, weights

    def compute_loss(self, model: nn.Module, inputs: Batch, *given: Any, **_: Any) -> Any:
        """Return the loss of a batch, and log its parts."""
        batch, plan = inputs, self.plan
        output = model(pixel_values=batch["pixel_values"], output_hidden_states=True)
        logits, features = output.logits, output.hidden_states[-1]
        weight = model.get_parameter("classifier.1.weight")  # mean, then this linear layer
        maps = torch.einsum("bchw,kc->bkhw", features, weight)
        valid, faces = batch["valid"], batch["face"].isfinite().all(-1).all(-1)
        heatmap = batch["heatmap"].float() / 255
        ce = F.cross_entropy(logits, batch["label"])
        au = auheat.au_alignment_loss(features, heatmap, valid)
        class_maps = auheat.class_map_alignment_loss(maps, draw_class_maps(batch, plan), faces)
        loss = ce + self.weights[0] * au + self.weights[1] * class_maps
        found = {"ce": ce, "au": au, "class_maps": class_maps, "total": loss}
        logged = {name: value.item() for name, value in found.items()}
        self.log(logged | {"att_cos": measure_att_cos(features, heatmap, valid)})
        return (loss, output) if given and given[0] else loss


def build_model(name: str | None, classes: Sequence[str]) -> nn.Module:
    """Return a published ResNet with a fresh classifier, or a small one with fresh weights."""
    labels = {"id2label": dict(enumerate(classes))}
    if name:
        return AutoModel.from_pretrained(name, ignore_mismatched_sizes=True, **labels)
    shape = {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
    return ResNetForImageClassification(ResNetConfig(layer_type="basic", **shape, **labels))


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
    parser.add_argument("--model", help="a ResNet of the Hub, such as microsoft/resnet-18")
    parser.add_argument("--out", default="hf-run", help="folder for checkpoints")
    args = parser.parse_args(arguments)
    train = auheat.ShardDataset(args.shards, "train", args.image_size)
    plan = auheat.plan_heatmaps(auheat.load_codebook(args.codebook), train.class_names)
    settings = TrainingArguments(
        args.out, num_train_epochs=args.epochs, max_steps=args.steps, learning_rate=args.lr,
        per_device_train_batch_size=args.batch_size, dataloader_drop_last=True,
        remove_unused_columns=False, logging_strategy="no", save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = GuidedTrainer(
        build_model(args.model, train.class_names), settings, train_dataset=train,
        data_collator=collate, plan=plan, weights=(args.au_weight, args.class_map_weight),
    )  # fmt: skip
    trainer.train()
    return [line for line in trainer.state.log_history if "att_cos" in line]


if __name__ == "__main__":
    main()
