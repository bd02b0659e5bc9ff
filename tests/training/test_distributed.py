"""Several processes train what one would; one that fails ends all, with one message."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_worker import CASES, config_of
from torch import nn
from training_helpers import make_store

from auheat.data.loader import BatchSampler
from auheat.errors import AuheatError
from auheat.models.registry import build_classifier
from auheat.runs.checkpoint import load_tensors
from auheat.runs.run_folder import read_metadata
from auheat.training import runner
from auheat.training.config import check_parts, make_config
from auheat.training.runner import train
from auheat.utils.distributed import World, join

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
WORKER = Path(__file__).parents[1] / "support" / "ddp_worker.py"


def launch(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", str(processes), *map(str, arguments)],
        cwd=WORKER.parent,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same runs by one process and by two; a quarter of the photos has no valid heatmap."""
    one, two = (
        make_store(tmp_path_factory.mktemp(n), (("train", 8),), spread=0.03) for n in ("one", "two")
    )
    result = launch(WORKER, "main", two)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    for name in CASES:
        train(one, config_of(name))
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_the_weights_of_one(both, name):
    states = [load_tensors(store / "runs" / name / "last.safetensors") for store in both]
    assert sorted(states[0]) == sorted(states[1])
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_measure_what_one_does(both, name):
    files = [store / "runs" / name / "metrics.jsonl" for store in both]
    one, two = ([json.loads(x) for x in file.read_text().splitlines()] for file in files)
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        for key in set(a) - {"seconds", "images_per_second"}:
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-6), key
    best = [read_metadata(s / "runs" / name / "best.safetensors")["epoch"] for s in both]
    assert best[0] == best[1]


def test_synced_normalisation_is_refused_where_torch_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "join", lambda: nullcontext(World(0, 2, 0, 2)))
    config = make_config("demo", sync_bn=True, device="cpu")
    with pytest.raises(AuheatError, match="--sync-bn: .* on CUDA alone .--freeze-bn on a CPU"):
        train(tmp_path, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["cam", "prm", "apvit"])
def test_synced_normalisation_holds_the_same_tensors_under_the_same_names(method):
    settings = make_config("demo", method=method)
    model = build_classifier(method, settings.backbone, 4)
    before, norms = dict(model.state_dict(keep_vars=True)), count_norms(model)
    synced = runner.sync_batchnorm(model, settings.backbone)
    after = synced.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is value for key, value in before.items())
    assert norms == {nn.BatchNorm2d: sum(norms.values())}
    assert count_norms(synced) == {nn.SyncBatchNorm: sum(norms.values())}


def count_norms(model):
    return Counter(type(m) for m in model.modules() if "BatchNorm" in type(m).__name__)


def test_a_run_notes_how_many_processes_made_it(both):
    config = json.loads((both[1] / "runs" / "frozen" / "config.json").read_text())
    assert config["data"]["processes"] == 2
    with pytest.raises(AuheatError, match="trained with processes 2, now asked with 1"):
        train(both[1], config_of("frozen"))


@pytest.mark.slow
def test_one_process_that_fails_ends_all_with_one_message(tmp_path):
    store = make_store(tmp_path)
    result = launch(WORKER, "crash", store)
    assert result.returncode != 0
    lines = [x for x in result.stderr.splitlines() if x.startswith(("Error:", "Stopped"))]
    assert lines == ["Error: photo 17: its disk is gone (mend it)"]
    assert read_metadata(store / "runs" / "crashed" / "last.safetensors")["epochs_done"] == 1


def test_alone_a_world_changes_nothing():
    values = torch.rand(3, 2)
    model = nn.BatchNorm2d(2)
    with join() as world:
        assert world == World()
        assert world.sum(values) is world.gather(values, 3) is values
        assert world.wrap_ddp(model, torch.device("cpu")) is model
        assert world.broadcast("x") == "x"


@pytest.mark.parametrize(("size", "n"), [(2, 29), (3, 29), (4, 8), (3, 2)])
def test_processes_share_the_batches_of_one_order(size, n):
    rows = 10 * np.arange(n)
    whole = list(BatchSampler(rows, 12, World(), seed=5))
    shares = [list(BatchSampler(rows, 12, World(r, size), seed=5)) for r in range(size)]
    for step, batch in enumerate(whole):
        own = [s[step] if step < len(s) else [] for s in shares]
        assert [own[p % size][p // size] for p in range(len(batch))] == batch
        assert sum(map(len, own)) == len(batch) == BatchSampler(rows, 12, World(), 5).size(step)


def test_batches_that_processes_cannot_share_are_refused():
    config = make_config("demo", batch_size=12, accumulate=2)
    check_parts(config, 3)
    with pytest.raises(AuheatError, match="12 \\(with 4 processes x --accumulate 2: a multiple of"):
        check_parts(config, 4)
    with pytest.raises(AuheatError, match="12 in 12 parts is 1 photo each"):
        check_parts(config, 6)


def test_processes_choose_a_device_of_their_own(monkeypatch):
    world = World(1, 2, 1, 2)
    assert world.device("cpu").type == "cpu"
    with pytest.raises(AuheatError, match="--device: 'cuda:0' \\(with torchrun: auto, cpu, cuda"):
        world.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for CUDA would ask its driver
    monkeypatch.setattr(World, "_shares_card", lambda _: True)
    with pytest.raises(AuheatError, match="2 processes and 1 CUDA devices"):
        world.device("auto")
