"""Training a classifier from shards into a run's folder.

The learning rate and all randomness are functions of seed, epoch and step, so a stopped run that
goes on equals one that was never stopped. The test split is never looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from auheat import __version__
from auheat.errors import RequestError, StoreError
from auheat.models.network import Classifier
from auheat.models.pretrained import WEIGHTS_HINT, Found
from auheat.models.registry import build_classifier, find_method, find_normalisation
from auheat.models.resnet import TIMM
from auheat.models.timm_backbones import note_grid
from auheat.pipeline.reframing import describe_framing
from auheat.runs import checkpoint, codebook, run_folder
from auheat.shards.manifest import check_unchanged, read_manifest
from auheat.shards.reader import read_attributes
from auheat.training.config import TrainConfig, TrainSettings, check_parts, make_config
from auheat.training.optim import make_optimizer
from auheat.training.presets import PRETRAINED
from auheat.training.tensorboard import tensorboard_writer
from auheat.training.trainer import Trainer
from auheat.training.training_data import (
    TrainingData,
    describe_training_data,
    join_geometry,
    load_training_data,
    note_groups,
    note_left_out,
    pack_split_and_maps,
)
from auheat.utils.checks import format_duration
from auheat.utils.console import log_notes
from auheat.utils.distributed import World, join
from auheat.utils.failures import is_out_of_memory
from auheat.utils.files import encode_json, file_digest
from auheat.utils.paths import find_store

_LOG = logging.getLogger(__name__)

SLOW_SECONDS = 3600
"""Where a run is estimated to take longer than this, a faster command is named."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a training run: its best epoch (from 1) by validation accuracy, and how fast.

    `resumed` epochs were there already; `rate` is images per second of this call's epochs.
    """

    run: Path
    epochs: int
    resumed: int
    best_epoch: int
    val_accuracy: float
    val_loss: float
    seconds: float
    rate: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        return asdict(self) | {"run": str(self.run), "notes": list(self.notes)}


def train(
    store: str | Path | None = None,
    config: TrainConfig | None = None,
    *,
    preset: str = "none",
    overwrite: bool = False,
    **settings: Unpack[TrainSettings],
) -> RunSummary:
    """Train a classifier whose attention is drawn to the heatmaps, and write `store`/runs/NAME.

    The best epoch is chosen on photos held out from train; the test photos stay unseen. The same
    call goes on where a stopped run was, and does nothing for a finished one. Started by
    `torchrun`, all processes train one network, and the first alone writes and logs.

    Args:
        store: Folder of the shards; None: $AUHEAT_STORE, else auheat-data.
        config: All settings at once, as `make_config` makes them; None: from `preset` and
            `settings`.
        preset: Name of settings to begin with: "none", "demo", "methods", "explain", "rafdb",
            "affectnet", "rafdb-code", "affectnet-code", "ferplus".
        overwrite: Train anew a run of this name that has other settings.
        settings: Fields of `TrainConfig` that replace those of the preset.

    Returns:
        The run's folder, its best epoch by validation accuracy, and how fast it was.

    Raises:
        AuheatError: Where there are no shards, for settings that no run could use, for `config`
            beside settings, and for a run of this name with other settings.
        KeyboardInterrupt: On Ctrl-C, with a text that says how to go on.

    Example:
        >>> import auheat
        >>> auheat.train("store", preset="demo", name="with-aus").best_epoch  # doctest: +SKIP
        37
    """
    if config is None:
        config = make_config(preset, **settings)
    elif settings or preset != "none":
        given = ", ".join([*settings, *(["preset"] if preset != "none" else [])])
        raise RequestError(
            f"train: {given} beside config (put them in the config, or leave it out)"
        )
    store = find_store(store)
    with join() as world:
        device = world.device(config.device)
        check_parts(config, world.size)
        if config.sync_bn and world.size > 1 and device.type == "cpu":
            raise RequestError(
                "--sync-bn: torch syncs batch normalisation on CUDA alone (--freeze-bn on a CPU)"
            )
        material = load_training_data(store, config)
        run = store / run_folder.RUNS / config.run_name
        run_folder.check_place(run)
        # Of a new run, whatever its network refuses is refused before there is a folder.
        ready = None
        if world.broadcast(0 if (run / run_folder.CONFIG).is_file() else 1):
            with _seeded(config.seed, device):
                ready = _prepare(config, material, device, world)
        with run_folder.lock_run(run) if world.is_main else nullcontext():
            return _train(run, config, material, overwrite, world, ready)


def _train(
    run: Path,
    config: TrainConfig,
    material: TrainingData,
    overwrite: bool,
    world: World,
    ready: tuple[Trainer, tuple[str, ...]] | None,
) -> RunSummary:
    """Train what is left of a run; `ready` is what `_prepare` gave of a new one."""
    notes: list[str] = []
    device = world.device(config.device)

    def note(*lines: str) -> None:
        if world.is_main:
            notes.extend(lines)
            log_notes(_LOG, lines)

    if overwrite and run.is_dir():  # weights of no use are refused before a run is removed
        with _seeded(config.seed, device):
            _build(config, len(material.dataset.class_names))
    done = world.broadcast(
        _start(run, config, material, overwrite, world, note) if world.is_main else 0
    )
    if done >= config.epochs:
        return _summarize(run, config, done, 0.0, 0.0, (*notes, "was finished already"))
    with _seeded(config.seed, device):
        engine, beforehand = ready or _prepare(config, material, device, world)
        saved = engine.load(run) if done else {}
        note(*beforehand)
        engine.on_rate = lambda rate: note(*_estimate_time(engine, done, rate))
        started = time.perf_counter()
        with _tuned(device):
            _run_epochs(engine, run, done, saved.get("best", {}))
        seconds = time.perf_counter() - started
    rate = (config.epochs - done) * len(material.train) / seconds
    return _summarize(run, config, done, seconds, rate, tuple(notes))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw by a seed, and leave the caller's random numbers as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _tuned(device: torch.device) -> Iterator[None]:
    """Let cuDNN try which of its algorithms is the fastest: batches are all of one shape."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    free = device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = before or free
    try:
        yield
    finally:
        cudnn.benchmark = before


def _start(
    run: Path,
    config: TrainConfig,
    material: TrainingData,
    overwrite: bool,
    world: World,
    note: Callable[..., None],
) -> int:
    """Prepare a run's folder for its next epoch; return how many are done.

    What is damaged is made again where that is possible, and noted.
    """
    described = _describe(config, material, world)
    run_folder.start_run(run, described, overwrite)
    state = checkpoint.find_state(run)
    note(*(f"warning: {problem}" for problem in state.problems))
    files = {run_folder.CONFIG: encode_json(described), **state.files}
    if state.done < config.epochs or state.damaged & {run_folder.SPLIT, run_folder.MAPS}:
        files |= pack_split_and_maps(material)
    checkpoint.save_files(run, files)
    return state.done


def _prepare(
    config: TrainConfig, material: TrainingData, device: torch.device, world: World
) -> tuple[Trainer, tuple[str, ...]]:
    """Return the trainer of a run, and notes on its weights, processes and photos."""
    model, notes = _build(config, len(material.dataset.class_names))
    if config.geometry_branch:
        model, *about = join_geometry(model, material)
        notes = (*notes, *about)
    if config.sync_bn and world.size > 1:
        model = sync_batchnorm(model, config.backbone)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(
        model,
        config.optimizer,
        config.lr,
        config.weight_decay,
        config.head_lr_factor,
        config.head_lr_stages,
    )
    if config.head_lr_stages and config.head_lr_factor == 1:
        notes = (*notes, "head_lr_stages: nothing to do, since --head-lr-factor is 1")
    if config.head_lr_factor != 1 and len(optimizer.param_groups) - config.geometry_branch == 1:
        notes = (*notes, f"head_lr_factor: {config.method} has one rate for all of its network")
    if world.size > 1:
        each = config.batch_size // world.size
        notes = (*notes, f"{world.size} processes, {each} photos of each batch for every one")
    notes = (
        *notes,
        f"{config.method} on {config.backbone} at {config.image_size} px, {device}: "
        f"{len(material.train)} photos to learn from, {len(material.val)} held out",
        *note_groups(material),
        *note_left_out(material),
    )
    return Trainer(config, material, model, optimizer, device, world), notes


def _estimate_time(engine: Trainer, done: int, rate: float) -> list[str]:
    """Return a run's speed and the time it will take, of whose epochs `done` are over.

    A photo held out counts as a third of one that is learnt from: it has no backward pass.
    """
    config, material = engine.config, engine.material
    epochs = config.epochs - done
    wait = epochs * (len(material.train) + len(material.val) / 3) / rate
    speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    many = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    lines = [f"{speed} images/s, {many}: about {format_duration(wait)}"]
    on_cuda = engine.device.type == "cuda"
    if wait > SLOW_SECONDS and not on_cuda:
        lines.append(
            "faster: `auheat train --preset demo` (a thin network at 96 px), or a CUDA GPU"
        )
    if wait > SLOW_SECONDS and on_cuda and config.amp == "none" and _has_bf16(engine.device):
        lines.append("faster: --amp bf16, which this card calculates in (with another --name)")
    return lines


def _has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device calculates in bf16 itself, as cards since Ampere do."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def sync_batchnorm(model: Classifier, backbone: str) -> Classifier:
    """Make batch normalisation span all processes; parameters and their names are kept."""
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if backbone.startswith(TIMM):  # some of its norms hold an activation, which torch would drop
        convert = import_module("timm.layers").convert_sync_batchnorm
    synced: Classifier = convert(model)  # type: ignore[no-untyped-call]
    return synced


def _run_epochs(engine: Trainer, run: Path, done: int, best: dict[str, Any]) -> None:
    """Train the remaining epochs and save each; `best` is the best line so far, or {}."""
    epochs = engine.config.epochs
    curve, folder = checkpoint.read_curve(run, done), engine.material.folder
    made = read_manifest(folder)
    with tensorboard_writer(run, engine.config.tensorboard and engine.world.is_main, done) as note:
        for epoch in range(done, epochs):
            try:
                line = engine.run_epoch(epoch)
            except KeyboardInterrupt as error:
                raise type(error)(  # SIGTERM has a kind of its own
                    f"{run}: stopped in epoch {epoch + 1} of {epochs}, {epoch} are saved "
                    "(the same command goes on from there)"
                ) from error
            except RuntimeError as error:
                _raise_uncompiled(error)
                _raise_short_of_memory(error, engine)
                raise
            better = not best or _is_better(line, best)
            best = line if better else best
            if not engine.world.is_main:
                continue
            check_unchanged(folder, made)
            curve = [*curve, line]
            files = {
                run_folder.METRICS: checkpoint.encode_curve(curve),
                run_folder.LAST: engine.pack(epochs_done=epoch + 1, best=best, curve=curve),
            }
            if better:
                weights = engine.best_model.state_dict()
                files = {run_folder.BEST: checkpoint.pack_tensors(weights, **line), **files}
            checkpoint.save_files(run, files)
            note(line)
    engine.world.barrier()  # all files are written when any process goes on


def _raise_uncompiled(error: RuntimeError) -> None:
    """Raise `AuheatError` for an error that comes from compiling a network."""
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        what = " ".join(str(error).split("\n")[:2])
        raise RequestError(
            f"--compile: {what} (torch.compile needs a C++ compiler on a CPU; the run is the "
            "same without, if slower)"
        ) from error


def _raise_short_of_memory(error: RuntimeError, engine: Trainer) -> None:
    """Raise `AuheatError` for an error that says that memory was not enough for a step."""
    config = engine.config
    if is_out_of_memory(error):
        passes = 2 * config.accumulate
        lighter = "" if config.amp != "none" else "--amp bf16 takes about half the memory, "
        raise RequestError(
            f"{engine.device}: memory is not enough for a batch of {config.batch_size} photos of "
            f"{config.image_size} px (--accumulate {passes} passes it in {passes} parts, {lighter}"
            "a smaller --batch-size takes less, too; each with --overwrite or another --name)"
        ) from error


def _describe(config: TrainConfig, material: TrainingData, world: World) -> dict[str, Any]:
    """Return config.json: all that evaluation needs besides photos, on any machine."""
    asked = read_manifest(material.folder).fingerprint
    made_with = read_attributes(material.dataset.files[0])
    book = material.book
    mean, std = find_normalisation(config.backbone, config.image_size)
    return {
        "format": run_folder.RUN_VERSION,
        "auheat": __version__,
        "settings": describe_settings(config),
        "data": describe_training_data(material, world.size) | identify_weights(config),
        "class_names": material.dataset.class_names,
        "shard_classes": material.dataset.shard_classes,
        "normalisation": {"mean": mean, "std": std},
        "codebook": codebook.pack_codebook(book),
        "framing": describe_framing(material.dataset.files, asked, book.frame),
        "detector": made_with["detector"],
        "detector_digest": made_with["detector_digest"],
    }


def describe_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings as config.json has them, the run's name filled in."""
    return asdict(config) | {"name": config.run_name}


def _choose_weights(config: TrainConfig) -> Found:
    """Return the checkpoints a run starts from, and those it would start from if they were here."""
    if config.weights == "none":
        return Found((), ())
    if config.weights == "auto":
        return find_method(config.method).find(config.backbone)
    return Found((Path(config.weights),), ())


def identify_weights(config: TrainConfig) -> dict[str, str]:
    """Return names and sha256 of the weights a run starts from, which "auto" leaves open.

    They follow from method, backbone and weights of the settings. Raises `AuheatError` for a file
    that cannot be read.
    """
    names, digests = [], []
    for file in _choose_weights(config).files:
        try:
            digests.append(file_digest(file))
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({WEIGHTS_HINT})") from error
        names.append(file.name)
    return {
        "weights_file": ", ".join(names) or "none",
        "weights_sha256": ", ".join(digests) or "none",
    }


def _build(config: TrainConfig, classes: int) -> tuple[Classifier, tuple[str, ...]]:
    """Return a classifier with the weights asked for, and notes on them."""
    model = build_classifier(config.method, config.backbone, classes, image_size=config.image_size)
    backbone = getattr(model, "backbone", None)  # which a registered method may call otherwise
    notes = [*note_grid(backbone)] if hasattr(backbone, "timm_shape") else []
    if config.weights == "none":
        return model, (*notes, "weights: none, trained from scratch")
    weights = _choose_weights(config)
    for file in weights.files:
        notes += [f"weights: {file}", *find_method(config.method).load(model, file)]
    if weights.missing or not weights.files:
        named = f" ({', '.join(weights.missing)})" if weights.missing else ""
        if config.preset in PRETRAINED and config.weights == "auto":
            raise RequestError(
                f"--preset: {config.preset} begins from published weights, and there are none of "
                f"{config.backbone}{named} in AUHEAT_WEIGHTS or torch's hub cache (put the file "
                "there, or type --weights none)"
            )
        what = "the rest is" if weights.files else "it is"
        notes.append(
            f"warning: no published weights of {config.backbone}{named} in AUHEAT_WEIGHTS or "
            f"torch's hub cache: {what} trained from scratch, which takes far more photos"
        )
    return model, tuple(notes)


def _is_better(line: dict[str, Any], best: dict[str, Any]) -> bool:
    """Whether an epoch's validation accuracy is higher, or equal with a lower loss."""
    return (line["val_accuracy"], -line["val_loss"]) > (best["val_accuracy"], -best["val_loss"])


def _summarize(
    run: Path,
    config: TrainConfig,
    resumed: int,
    seconds: float,
    rate: float,
    notes: tuple[str, ...],
) -> RunSummary:
    best = run_folder.read_progress(run)["best"]
    return RunSummary(
        run,
        config.epochs,
        resumed,
        best["epoch"],
        best["val_accuracy"],
        best["val_loss"],
        round(seconds, 3),
        round(rate, 2),
        notes,
    )
