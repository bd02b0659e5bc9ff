"""Batch normalisation over the rows of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, on any device.

    torch's own needs CUDA, and is no `BatchNorm2d`. Mean and variance are summed one after the
    other, so that nothing cancels.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (B, C, H, W); in evaluation mode, by the running mean and variance."""
        if not self.training:
            return super().forward(values)
        x = values.float()
        n, channels = x.new_tensor([x.numel() / x.shape[1]]), x.shape[1]
        told = _Sum.apply(torch.cat([x.sum((0, 2, 3)), n]))  # type: ignore[no-untyped-call]
        count = told[channels].detach()
        mean = told[:channels] / count
        apart = x - mean[:, None, None]
        var = _Sum.apply(apart.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._remember(mean.detach(), var.detach() * count / (count - 1))
        scale = torch.rsqrt(var + self.eps) * self.weight
        out: Tensor = apart * scale[:, None, None] + self.bias[:, None, None]
        return out.to(values.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


def sync_norms(model: nn.Module) -> nn.Module:
    """Replace a network's `BatchNorm2d` by synced ones that hold the same tensors."""
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
            for key, value in [*child.named_parameters(), *child.named_buffers()]:
                setattr(synced, key, value)
            setattr(model, name, synced)
        else:
            sync_norms(child)
    return model
