"""One of several processes that `test_distributed` starts: python -m torch.distributed.run THIS."""

import logging
import logging.handlers
import sys
from pathlib import Path

import torch
from torch import nn

from auheat.errors import AuheatError
from auheat.training import trainer
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.training.sync_batchnorm import sync_norms
from auheat.utils.distributed import join

CASES = {
    "frozen": {
        "method": "cam",
        "freeze_bn": True,
        "accumulate": 2,
        "clip": 0.5,
        "ema": 0.9,
        "balance": True,
        "contrast_weight": 0.5,
    },
    "synced": {"method": "cutmix", "sync_bn": True},
    "short": {
        "method": "acol",
        "classes": ("Neutral", "Happiness", "Surprise"),
        "freeze_bn": True,
        "accumulate": 2,
        "batch_size": 64,
        "contrast_weight": 0.5,
    },
}
"""Runs that must come out as those of one process.

In "short" all 21 photos are one short batch, of which one process has 11 and the other 10.
"""


def config_of(name):
    own = {"optimizer": "sgd", "lr": 0.02, "image_size": 32, "epochs": 2, "batch_size": 8}
    return make_config("demo", **(own | CASES[name] | {"device": "cpu", "name": name}))


def compare_norms(world):
    """Train a normalisation on this process's rows; rank 0 keeps what came out."""
    torch.manual_seed(0)
    values = 100 + torch.randn(5, 3, 4, 4)
    wanted = torch.randn(5, 3, 4, 4)
    rows = slice(world.rank, None, world.size)
    own = values[rows].clone().requires_grad_()
    model = sync_norms(nn.Sequential(nn.BatchNorm2d(3)))
    assert type(model[0]) is not nn.BatchNorm2d
    out = model(own)
    (out * wanted[rows]).sum().backward()
    found = {
        "out": world.gather(out.detach(), 5),
        "values": world.gather(own.grad, 5),
        "weight": world.sum(model[0].weight.grad),
        "bias": world.sum(model[0].bias.grad),
        "mean": model[0].running_mean,
        "var": model[0].running_var,
    }
    return {"values": values, "wanted": wanted, "found": found}


def main(store):
    torch.set_num_threads(1)
    with join() as world:
        norms = compare_norms(world)
        if world.is_main:
            torch.save(norms, store / "norms.pt")
        logger = logging.getLogger("auheat")
        logger.setLevel("INFO")
        logger.addHandler(handler := logging.handlers.BufferingHandler(10**6))
        for name in CASES:
            summary = train(store, config_of(name))
            assert (summary.resumed, summary.epochs) == (0, 2)
        assert bool(handler.buffer) == world.is_main


def crash(store):
    """Let the second process alone fail, in its second epoch, and the command line tell of it."""
    from auheat.cli import main as command

    original = trainer.Trainer.run_epoch

    def fail(self, epoch):
        if self.world.rank == 1 and epoch == 1:
            raise AuheatError("photo 17: its disk is gone (mend it)")
        return original(self, epoch)

    trainer.Trainer.run_epoch = fail
    settings = "--preset demo --image-size 32 --epochs 3 --batch-size 8 --device cpu --name crashed"
    command(["train", "--store", str(store), *settings.split()])


if __name__ == "__main__":
    {"main": main, "crash": crash}[sys.argv[1]](Path(sys.argv[2]))
