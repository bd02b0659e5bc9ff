"""Torch's own transformer layers with the weights of ours, as an independent reference."""

import torch
from torch import nn

from auheat.losses import au_alignment_loss, total_loss


def copy_attention(ours) -> nn.MultiheadAttention:
    """Torch's multi-head attention with our weights."""
    width = ours.proj.in_features
    theirs = nn.MultiheadAttention(width, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.zero_()
        if ours.qkv.bias is not None:
            theirs.in_proj_bias.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    return theirs.eval()


def copy_block(ours) -> nn.TransformerEncoderLayer:
    """Torch's encoder layer, norms first, with our weights."""
    width = ours.attn.proj.in_features
    theirs = nn.TransformerEncoderLayer(
        width,
        ours.attn.heads,
        ours.mlp.fc1.out_features,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    )
    theirs.self_attn = copy_attention(ours.attn)
    for name, module in (
        ("norm1", ours.norm1),
        ("norm2", ours.norm2),
        ("linear1", ours.mlp.fc1),
        ("linear2", ours.mlp.fc2),
    ):
        getattr(theirs, name).load_state_dict(module.state_dict())
    return theirs.train()  # nothing is dropped; eval would take another path through torch


def randomize(model: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """Give every parameter values that make a wrong formula show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def lit_quarters(n: int, side: int, classes: int, seed: int = 0):
    """Photos (n, 3, side, side) with one quarter lit, the class saying which, and that quarter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = 0.3 * torch.randn(n, 3, side, side, generator=generator)
    heatmaps = torch.zeros(n, side, side)
    half = side // 2
    for i, label in enumerate(labels.tolist()):
        top, left = half * (label // 2 % 2), half * (label % 2)
        heatmaps[i, top : top + half, left : left + half] = 1
    return images + 2 * heatmaps[:, None], labels, heatmaps


def learn_quarters(model, steps: int = 10):
    """Train a model on lit quarters, AUs included: its losses step by step, and how far it is off.

    Returns a row (total, classes, alignment) for each step, and the alignment loss afterwards.
    """
    images, labels, heatmaps = lit_quarters(8, 48, 4)
    valid = torch.ones(8).bool()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        loss = total_loss(model(images, labels), labels, heatmaps, valid, 4.0)
        losses.append([part.item() for part in loss])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.inference_mode():
        return losses, au_alignment_loss(model(images).features[-1], heatmaps, valid).item()
