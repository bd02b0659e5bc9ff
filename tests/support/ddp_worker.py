"""One of several processes that `test_distributed` starts: python -m torch.distributed.run THIS."""

import logging
import logging.handlers
import sys
from pathlib import Path

import torch

from auheat.errors import AuheatError
from auheat.training import trainer
from auheat.training.config import make_config
from auheat.training.runner import train
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
        "class_map_weight": 0.5,
    },
    "mixed": {
        "method": "cutmix",
        "freeze_bn": True,
        "class_map_weight": 0.5,
        "geometry_branch": True,
    },
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


def main(store):
    torch.set_num_threads(1)
    with join() as world:
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
