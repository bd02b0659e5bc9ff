"""Training under CUDA's rules, without a card: where tensors lie, host's waits, and streams."""

import logging

import numpy as np
import pytest
import torch
from fake_device import BrokenRuleError, FakeDevice
from training_helpers import make_store

from auheat.data import augmentation, loader
from auheat.data.dataset import CACHE_BYTES, ShardDataset
from auheat.errors import RequestError
from auheat.models import heads
from auheat.models.names import TABLE
from auheat.models.resnet import Bottleneck
from auheat.runs import checkpoint
from auheat.runs.run_folder import BEST, LAST
from auheat.training import runner
from auheat.training.class_targets import Targets
from auheat.training.config import make_config
from auheat.training.trainer import Trainer
from auheat.training.training_data import load_training_data
from auheat.utils.distributed import World

COVERS = (
    "auheat/data/loader",
    "auheat/training/class_targets",
    "auheat/training/runner",
    "auheat/training/trainer",
    "auheat/utils/distributed",
)

CUDA = torch.device("cuda", 0)

WAITS_OF_AN_EPOCH = 1  # for the losses of up to fifty steps
WAITS_OF_A_VALIDATION = 1  # for its sums

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of twelve photos, which make two steps of four, and a batch that is held out."""
    return make_store(tmp_path_factory.mktemp("few"), counts=(("train", 2), ("val", 1)))


def open_trainer(store, device=CUDA, **settings):
    settings = {"method": "cam", "batch_size": 4, "workers": 0, "image_size": 32} | settings
    config = make_config("demo", device="cuda", **settings)
    return runner._prepare(config, load_training_data(store, config), device, World())[0]


def count_waits(store, **settings):
    """Waits of two steps, and of a validation, once everything has been warmed up."""
    with FakeDevice(2) as fake:
        trainer = open_trainer(store, **settings)
        trainer._train_epoch(0)
        with fake.counting() as steps:
            trainer._train_epoch(1)
        with fake.counting() as validation:
            trainer._validate()
    assert trainer.steps == 2
    return steps, validation


@pytest.mark.slow
@pytest.mark.parametrize("au_weight", [0.0, 4.0])
@pytest.mark.parametrize("method", TABLE)
def test_no_step_of_any_method_waits_for_the_device(store, method, au_weight):
    amp = "bf16" if au_weight else "none"
    steps, validation = count_waits(store, method=method, au_weight=au_weight, amp=amp)
    assert steps.total() == WAITS_OF_AN_EPOCH, steps
    assert validation.total() == WAITS_OF_A_VALIDATION, validation


MODES = {
    "contrast": {"contrast_weight": 1.0},
    "class maps": {"class_map_weight": 1.0},
    "class maps of gradcam": {"class_map_weight": 1.0, "method": "gradcam"},
    "contrast with cutmix": {"contrast_weight": 1.0, "method": "cutmix"},
    "geometry": {"geometry_branch": True},
    "accumulated and averaged": {"accumulate": 2, "ema": 0.9, "clip": 1.0},
    "published augmentation": {"augment": "reference", "optimizer": "adamw"},
    "crops": {"resize": 40, "balance": True, "freeze_bn": True},
    "mirrored crops": {"resize": 40, "augment": "crop", "align": "reference"},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_step_of_any_mode_waits_for_the_device(store, mode):
    steps, validation = count_waits(store, **MODES[mode])
    assert steps.total() == WAITS_OF_AN_EPOCH, steps
    assert validation.total() == WAITS_OF_A_VALIDATION, validation


def test_scaling_gradients_of_fp16_waits_once_a_step(store):
    steps, _ = count_waits(store, amp="fp16", clip=1.0)
    assert steps.total() == WAITS_OF_AN_EPOCH + 2, steps


@pytest.mark.parametrize("weight", ["contrast_weight", "class_map_weight"])
def test_class_heatmaps_that_are_drawn_anew_wait_for_nothing(store, weight, monkeypatch):
    monkeypatch.setattr("auheat.training.class_targets.KEPT_BYTES", 0)
    steps, validation = count_waits(store, **{weight: 1.0})
    assert steps.total() == WAITS_OF_AN_EPOCH, steps
    assert validation.total() == WAITS_OF_A_VALIDATION, validation


def test_class_heatmaps_are_drawn_by_few_kernels(store, monkeypatch):
    """Seven classes, one by one, took two thousand."""
    kernels, launch = [], FakeDevice.launch
    monkeypatch.setattr(FakeDevice, "launch", lambda *a: (kernels.append(0), launch(*a)))
    material = load_training_data(store, make_config("demo", image_size=32))
    with FakeDevice():
        targets = Targets(material.plan, material.dataset.labels, CUDA)
        points = torch.rand(4, 68, 2).to(CUDA)
        targets.draw(points, 32, (28, 28))
        kernels.clear()
        targets.draw(points, 32, (28, 28))
    assert len(kernels) < 250


@pytest.mark.slow
def test_a_run_on_a_device_has_the_weights_of_one_on_the_cpu(store, monkeypatch):
    """All of `train`: what it writes, a stopped run that goes on, random numbers given back."""
    same = {"batch_size": 4, "workers": 0, "image_size": 32, "epochs": 2, "class_map_weight": 1.0}
    runner.train(store, preset="demo", name="cpu", device="cpu", **same)
    run_epoch, epochs = Trainer.run_epoch, []

    def stop_once(trainer, epoch):
        epochs.append(epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", stop_once)
    with FakeDevice(2):
        before = torch.random.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            runner.train(store, preset="demo", name="card", device="cuda:1", **same)
        runner.train(store, preset="demo", name="card", device="cuda:1", **same)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert epochs == [0, 1, 1]
    for file in (BEST, LAST):
        one, two = (checkpoint.load_tensors(store / "runs" / run / file) for run in ("cpu", "card"))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_wait_in_a_step_is_noticed(store, monkeypatch):
    def accuracy(logits, labels):
        return torch.tensor((logits.argmax(1) == labels).float().mean().item(), device=CUDA)

    monkeypatch.setattr("auheat.training.trainer._accuracy", accuracy)
    steps, _ = count_waits(store)
    assert steps.total() == WAITS_OF_AN_EPOCH + 2 * 2, steps  # the number read, and put back


def test_tensors_on_two_devices_are_noticed(store, monkeypatch):
    monkeypatch.setattr(augmentation, "send", lambda values, _: values)
    with FakeDevice() as fake, pytest.raises(BrokenRuleError, match="on the CPU and on cuda:0"):
        open_trainer(store)._train_epoch(0)
    assert fake.waits


@pytest.mark.parametrize("number", [0, 1])
def test_a_batch_is_read_after_it_was_copied_on_whatever_card(store, number):
    with FakeDevice(2):
        trainer = open_trainer(store, torch.device("cuda", number))
        trainer._train_epoch(0)


@pytest.mark.parametrize(
    "stream", [lambda _: torch.cuda.current_stream(), lambda _: torch.cuda.Stream(0)]
)
def test_a_batch_that_is_read_before_it_was_copied_is_noticed(store, monkeypatch, stream):
    """The current device's stream is not that of another card, on which a batch is learnt from."""

    def receive(batch, copied, device):
        stream(device).wait_event(copied)
        return batch

    monkeypatch.setattr(loader, "_receive", receive)
    with FakeDevice(2), pytest.raises(BrokenRuleError, match="what another stream writes"):
        open_trainer(store, torch.device("cuda", 1))._train_epoch(0)


@pytest.mark.parametrize(("weight", "made"), [(0.0, 0), (1.0, 1)])
def test_validation_makes_the_maps_that_a_loss_reads_and_no_others(
    store, monkeypatch, weight, made
):
    calls, gradient_maps = [], heads.gradient_maps
    monkeypatch.setattr(heads, "gradient_maps", lambda *a: calls.append(0) or gradient_maps(*a))
    cpu = torch.device("cpu")
    trainer = open_trainer(store, cpu, method="gradcam", class_map_weight=weight)
    trainer._validate()
    assert len(calls) == made


def test_photos_are_kept_in_memory_up_to_a_quarter_of_what_is_free(store, monkeypatch):
    limits = []
    monkeypatch.setattr("auheat.training.trainer.free_memory", lambda: 2**40 + 8)
    monkeypatch.setattr(ShardDataset, "cache", lambda _, limit: limits.append(limit))
    open_trainer(store, torch.device("cpu"))
    assert set(limits) == {2**38 + 2}
    monkeypatch.setattr("auheat.training.trainer.free_memory", lambda: 0)
    open_trainer(store, torch.device("cpu"))
    assert limits[-1] == CACHE_BYTES  # where the system does not say


def test_a_block_of_a_resnet_waits_for_nothing():
    block, values = Bottleneck(8, 4, 2), torch.rand(2, 8, 6, 6)
    expected = block(values)
    with FakeDevice(2) as fake:
        moved, there = block.to("cuda:1"), values.to("cuda:1")
        with fake.counting() as waits:
            moved(there).sum().backward()
        assert not waits
        found = moved(there).cpu()
    assert found.shape == expected.shape


@pytest.mark.parametrize(("capability", "faster"), [((8, 0), True), ((7, 5), False)])
def test_a_long_run_is_said_to_be_faster_in_bf16_on_a_card_that_has_it(store, capability, faster):
    with FakeDevice(capability=capability):
        trainer = open_trainer(store)
        lines = runner._estimate_time(trainer, 0, 1e-3)
        short = runner._estimate_time(trainer, 0, 1e6)
    assert any("--amp bf16" in line for line in lines) is faster
    assert not any("--amp bf16" in line for line in short)


def test_memory_that_is_not_enough_for_a_step_is_one_clear_error(store, monkeypatch):
    def backward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Trainer, "backward", backward)
    with pytest.raises(RequestError, match=r"^cpu: .*batch of 4 .*--accumulate 2 .*--amp bf16"):
        runner.train(store, preset="demo", name="large", batch_size=4, workers=0, image_size=32)


def test_a_step_that_overflows_in_fp16_is_left_out_and_counted(store, caplog):
    with FakeDevice():
        trainer = open_trainer(store, amp="fp16")
    rows = torch.ones(3, 6)
    rows[1, 0] = torch.inf
    with caplog.at_level(logging.WARNING):
        assert len(trainer._check_finite(rows, 0, 0)) == 2
    assert "1 of 3 steps were skipped" in caplog.text
    with pytest.raises(Exception, match="step 5: the loss is not finite"):
        trainer._check_finite(rows[1:2], 0, 4)


def test_momentum_is_read_back_in_the_layout_of_the_weights(store, tmp_path):
    trainer = open_trainer(store, torch.device("cpu"), optimizer="sgd")
    trainer._train_epoch(0)
    best = {"epoch": 1, "val_accuracy": 1.0, "val_loss": 0.0}
    (tmp_path / LAST).write_bytes(trainer.pack(epochs_done=1, best=best, curve=[]))
    other = open_trainer(store, torch.device("cpu"), optimizer="sgd")
    other.load(tmp_path)
    for parameter in other.model.parameters():
        momentum = other.optimizer.state[parameter]["momentum_buffer"]
        assert momentum.stride() == parameter.stride()
    pairs = zip(trainer.model.parameters(), other.model.parameters(), strict=True)
    for one, two in pairs:
        expected = trainer.optimizer.state[one]["momentum_buffer"]
        assert torch.equal(other.optimizer.state[two]["momentum_buffer"], expected)


def test_random_numbers_are_given_back_without_a_warning_of_many_cards(store):
    with FakeDevice(3), runner._seeded(0, CUDA):
        assert np.isfinite(torch.rand(1).item())


def test_cudnn_chooses_its_algorithms_for_the_time_of_a_training_on_cuda():
    for device, chosen in ((CUDA, True), (torch.device("cpu"), False)):
        with runner._tuned(device):
            assert torch.backends.cudnn.benchmark is chosen
    assert not torch.backends.cudnn.benchmark
