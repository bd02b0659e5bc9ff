"""How batches are loaded by worker processes."""

from types import SimpleNamespace

import torch

from auheat.data import loader
from auheat.data.dataset import use_one_thread


def test_workers_start_as_the_system_can_start_them_with_one_thread_each(monkeypatch):
    options = {}
    monkeypatch.setattr(loader, "DataLoader", lambda *_, **given: options.update(given))
    monkeypatch.setattr(loader, "WORKER_START", "spawn")  # as on Windows
    loader.BatchLoader(SimpleNamespace(cached=False), [], torch.device("cpu"), 2)
    assert options["multiprocessing_context"] == "spawn"
    assert options["worker_init_fn"] is use_one_thread
