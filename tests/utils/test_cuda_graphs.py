"""CUDA graphs on a device that is not there: replays, fixed sizes, and when there are none."""

import logging

import pytest
import torch
from fake_device import BrokenRuleError, FakeDevice

from auheat.utils import cuda_graphs
from auheat.utils.cuda_graphs import MOST, SMALL, GraphedFunction

CUDA = torch.device("cuda", 1)


def measure(rows, factor):
    """Something that takes several kernels, an image's mean and its largest value."""
    return rows.flatten(1).mean(1) * factor[:, 0], (rows + 1).relu().amax((1, 2, 3))


def make(n, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 4, 4, generator=drawn), torch.rand(n, 1, generator=drawn)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_shared", {})  # streams are those of one emulation
    with FakeDevice(2) as device:
        yield device


def run(function, inputs):
    found = function(*(value.to(CUDA, non_blocking=True) for value in inputs))
    return [value.cpu() for value in found]


def test_a_graph_gives_the_functions_results_for_any_number_of_rows(fake):
    function = GraphedFunction(measure, CUDA)
    for n in (1, 8, 9, 64, 70):
        for seed in range(4):
            inputs = make(n, seed)
            for found, expected in zip(run(function, inputs), measure(*inputs), strict=True):
                assert torch.equal(found, expected)
    assert sorted(function._graphs) == [*SMALL, 70]


def test_replaying_takes_a_launch_beside_the_copies(fake):
    function = GraphedFunction(measure, CUDA)
    inputs = [value.to(CUDA) for value in make(5)]
    launched = []
    for _ in range(4):
        before = fake.kernels
        function(*inputs)
        launched.append(fake.kernels - before)
    assert launched[2:] == [1 + len(inputs) + 2, 1 + len(inputs) + 2]
    with fake.counting() as waits:
        function(*inputs)
    assert not waits


def test_what_one_replay_gave_is_not_written_over_by_the_next(fake):
    function = GraphedFunction(measure, CUDA)
    found = [function(*(value.to(CUDA) for value in make(3, seed))) for seed in range(5)]
    for seed, results in enumerate(found):
        for one, expected in zip(results, measure(*make(3, seed)), strict=True):
            assert torch.equal(one.cpu(), expected)


def test_a_wait_inside_of_what_is_captured_is_noticed(fake):
    function = GraphedFunction(lambda rows: [rows * rows.sum().item()], CUDA)
    inputs = [torch.ones(2, 3, device=CUDA)]
    function(*inputs)
    with pytest.raises(BrokenRuleError, match="inside of a graph that is captured"):
        function(*inputs)


def test_where_a_capture_fails_kernels_are_launched_one_by_one_and_a_note_says_so_once(
    fake, monkeypatch, caplog
):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    function = GraphedFunction(measure, CUDA)
    with caplog.at_level(logging.WARNING):
        for n in (2, 2, 2, 20, 20, 20):
            inputs = make(n)
            for found, expected in zip(run(function, inputs), measure(*inputs), strict=True):
                assert torch.equal(found, expected)
    assert [record.message for record in caplog.records] == [
        "cuda:1: no CUDA graph could be captured (CUDA out of memory. Tried to allocate 2 GiB): "
        "kernels are launched one by one, with the same results"
    ]
    assert not function._graphs


def test_graphs_are_given_back_where_memory_is_short(fake):
    function = GraphedFunction(measure, CUDA)
    inputs = make(4)
    for _ in range(3):
        expected = run(function, inputs)
    assert function._graphs
    function.release()
    assert torch.equal(run(function, inputs)[0], expected[0])
    run(function, inputs)
    assert not function._graphs


def test_only_so_many_sizes_have_a_graph(fake):
    function = GraphedFunction(measure, CUDA)
    for n in range(65, 65 + MOST + 3):
        for _ in range(2):
            run(function, make(n))
    assert len(function._graphs) == MOST


def test_there_are_no_graphs_on_a_cpu_nor_beside_the_default_stream(fake):
    function, plain = GraphedFunction(measure, CUDA), GraphedFunction(measure, torch.device("cpu"))
    aside = torch.cuda.Stream(CUDA)
    for _ in range(3):
        plain(*make(3))
        with torch.cuda.stream(aside):
            function(*(value.to(CUDA) for value in make(3)))
    assert not plain._graphs
    assert not function._graphs
