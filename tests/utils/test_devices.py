"""The device that is picked: cards that torch cannot use are passed over, and named."""

import logging
import re

import pytest
import torch

from auheat.errors import RequestError
from auheat.utils import devices
from auheat.utils.devices import pick_device

PROC = (  # /proc/driver/nvidia/version as drivers write it
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = PROC.replace("NVIDIA UNIX x86_64 Kernel Module  550.54.14", "NVIDIA UNIX Open Kernel "
                    "Module for x86_64  580.65.06  Release Build")  # fmt: skip


@pytest.fixture
def machine(monkeypatch, tmp_path, caplog):
    """Make a machine of some cards, a driver's file, and a build of torch."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)

    def make(cards=(), driver=None, cuda="13.0", kinds=("sm_75", "sm_80", "sm_90", "compute_120")):
        devices._warn.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: cards[i])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(kinds))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        file = tmp_path / "version"
        file.unlink(missing_ok=True)
        if driver:
            file.write_text(driver)
        monkeypatch.setattr(devices, "_DRIVER_FILE", file)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "auheat"):
            return str(pick_device("auto")), " ".join(caplog.messages)

    return make


@pytest.mark.parametrize(
    ("driver", "cuda", "words"),
    [
        (PROC, "13.0", "driver 550.54.14 is too old .* needs driver 580 or newer"),
        (OPEN, "13.0", "torch sees no card"),
        (PROC, "12.6", "torch sees no card"),
        (PROC, None, "built without CUDA"),
    ],
)
def test_auto_says_why_a_driver_that_is_there_is_of_no_use(machine, driver, cuda, words):
    picked, told = machine(driver=driver, cuda=cuda)
    assert picked == "cpu"
    assert re.search(words, told), told
    with pytest.raises(RequestError, match=f"can use 0 CUDA devices here; .*{words}"):
        pick_device("cuda")


def test_auto_is_silent_without_a_driver_and_where_cards_are_hidden(machine, monkeypatch):
    assert machine() == ("cpu", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine(driver=PROC) == ("cpu", "")


@pytest.mark.parametrize("card", [(7, 5), (8, 6), (8, 9), (9, 0), (12, 0), (12, 1)])
def test_a_card_runs_what_was_built_for_it_or_an_older_one_of_its_kind(machine, card):
    assert machine([card]) == ("cuda", "")


@pytest.mark.parametrize("card", [(7, 0), (6, 1), (10, 0)])
def test_a_card_that_this_torch_was_not_built_for_is_not_taken(machine, card):
    picked, told = machine([card])
    assert picked == "cpu"
    assert f"cuda:0 (card 0, sm_{card[0]}{card[1]}) has no kernels in torch" in told
    assert told.endswith("; cpu is used")
    with pytest.raises(RequestError, match="--device: 'cuda': cuda:0 .*no kernels"):
        pick_device("cuda")


def test_of_uneven_cards_the_first_that_can_be_used_is_taken(machine):
    picked, told = machine([(7, 0), (9, 0), (8, 0)])
    assert picked == "cuda:1"
    assert "cuda:0 (card 0, sm_70)" in told
    assert pick_device("cuda:2") == torch.device("cuda:2")


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 6000), ("max", 6000), ("5120000", 5000), ("1024", 0)]
)
def test_free_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(devices, "count_cores", lambda: 2)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 2)
    (tmp_path / "proc").mkdir()
    text = "MemTotal:       9000 kB\nMemAvailable:   6000 kB\n"
    (tmp_path / "proc/meminfo").write_text(text)
    if limit is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
        (tmp_path / "sys/fs/cgroup/memory.current").write_text("2048\n" if expected == 0 else "0\n")
    assert devices.free_memory(tmp_path) == 1024 * expected
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 8)
    assert devices.free_memory(tmp_path) == 256 * expected
    assert devices.free_memory(tmp_path / "elsewhere") == 0
