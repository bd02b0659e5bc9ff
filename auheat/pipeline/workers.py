"""Shards made by many workers: processes of this machine, or those of a Dask or Ray cluster.

A worker makes one whole shard at a time, on one core, and writes it where all can see it; this
process alone keeps the manifest. A shard whose worker died is begun anew by another one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import joblib
from tqdm import tqdm

from auheat.errors import AuheatError, MissingExtraError, RequestError
from auheat.shards.manifest import ShardEntry
from auheat.shards.writer import ShardFolder
from auheat.utils.checks import check_one_of
from auheat.utils.devices import count_cores, limit_cores, pick_device

BACKENDS = ("threads", "loky", "dask", "ray")
"""Threads of this process (which batch over shards), or workers that own whole shards."""


RETRIES = 3
"""How often in a row workers may die without one more shard being finished."""


T = TypeVar("T")


CARD_WORKERS = 4
"""Most worker processes of one machine that may load their networks onto its cards."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """How joblib reaches workers: what to import, what to start, and what a lost worker raises."""

    package: str
    begin: Callable[[int], Any]
    lost: Callable[[], tuple[type[BaseException], ...]]
    end: Callable[[Any], None] = lambda _: None


def _begin_dask(workers: int) -> Any:
    """Use the client there is; else connect to DASK_SCHEDULER_ADDRESS, or start processes here."""
    distributed, dask = importlib.import_module("distributed"), importlib.import_module("dask")
    with contextlib.suppress(ValueError):
        distributed.get_client()
        return None
    if dask.config.get("scheduler-address", None):
        return distributed.Client()
    return distributed.Client(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    )


def _begin_ray(workers: int) -> Any:
    """Join the cluster of RAY_ADDRESS, or start one of this machine's processes."""
    ray, bridge = importlib.import_module("ray"), importlib.import_module("ray.util.joblib")
    began = not ray.is_initialized()
    if began:
        cluster = os.environ.get("RAY_ADDRESS")
        ray.init(num_cpus=None if cluster else workers, include_dashboard=False)
    bridge.register_ray()
    return ray if began else None


_ENGINES: MappingProxyType[str, _Engine] = MappingProxyType(
    {
        "loky": _Engine("joblib", lambda _: None, lambda: (BrokenExecutor,)),
        "dask": _Engine(
            "distributed",
            _begin_dask,
            lambda: (importlib.import_module("distributed").KilledWorker,),
            lambda client: client and client.close(),
        ),
        "ray": _Engine(
            "ray",
            _begin_ray,
            lambda: (importlib.import_module("ray.exceptions").RayError,),
            lambda ray: ray and ray.shutdown(),
        ),
    }
)


def place_workers(device: str, backend: str, workers: int | None) -> tuple[str, list[str]]:
    """Return the device that workers find landmarks on, and a note where "auto" is not the card.

    A card is fed best by one process: each worker of this machine, one per core, would put a CUDA
    context and the networks onto it, 1 to 1.5 GB. Workers of a Dask cluster that was started
    elsewhere use what they see.

    Args:
        device: What was asked for, as `pick_device` and `load_detector` take it.
        backend: One of BACKENDS.
        workers: How many workers; None: one per core.

    Returns:
        The device for every worker, and notes.

    Raises:
        RequestError: A card was asked for, for too many workers of this machine, or for Ray's.

    Example:
        >>> from auheat.pipeline.workers import place_workers
        >>> place_workers("cuda", "threads", 16)
        ('cuda', [])
    """
    if backend == "threads" or (backend == "dask" and _is_cluster()):
        return device, []
    if device == "auto":
        picked = pick_device("auto").type
        note = f"--backend {backend}: the workers use the CPU (--backend threads uses the card)"
        return "cpu", [] if picked == "cpu" else [note]
    count = count_cores() if workers is None else workers
    if "cuda" in device and backend == "ray":
        raise RequestError(
            f"--device: {device!r}: Ray shows no card to tasks that ask for none (--backend "
            "threads, or a Dask cluster with a worker for each card)"
        )
    if "cuda" in device and count > CARD_WORKERS:
        raise RequestError(
            f"--device: {device!r}: {count} workers would each load their networks there, 1 to 1.5 "
            f"GB (--backend threads feeds cards from all cores; or at most {CARD_WORKERS} workers)"
        )
    return device, []


def _is_cluster() -> bool:
    """Return whether Dask's workers were started elsewhere, and are not yet to be started here."""
    distributed, dask = importlib.import_module("distributed"), importlib.import_module("dask")
    with contextlib.suppress(ValueError):
        distributed.get_client()
        return True
    return bool(dask.config.get("scheduler-address", None))


def check_backend(backend: str) -> str:
    """Return a backend that is known and installed; raises `AuheatError` for another."""
    check_one_of("--backend", backend, BACKENDS)
    if backend != "threads":
        try:
            importlib.import_module(_ENGINES[backend].package)
        except ImportError as error:
            hint = f'pip install "auheat[{backend}]"'
            raise MissingExtraError(f"--backend: {backend} is not installed ({hint})") from error
    return backend


def run_jobs(
    work: Callable[[T], ShardEntry],
    tasks: Sequence[T],
    folder: ShardFolder,
    backend: str,
    workers: int | None,
    bar: tqdm[Any],
    rows: Callable[[T], int],
) -> None:
    """Have every task's shard made by a worker, and enter it; `bar` is told each one's `rows`.

    `work` and `tasks` must pickle. Tasks are told apart by their place in the list. Raises
    `AuheatError` where a worker does, or where workers keep dying.
    """
    engine = _ENGINES[backend]
    count = count_cores() if workers is None else workers
    running = engine.begin(count)
    try:
        left, deaths = dict(enumerate(tasks)), 0
        while left:
            try:
                for number, entry in _results(work, left, backend, count):
                    folder.enter(entry)
                    bar.update(rows(left.pop(number)))
                    deaths = 0
            except engine.lost() as error:
                deaths += 1
                if deaths > RETRIES:
                    raise AuheatError(
                        f"{folder.folder}: workers keep dying ({type(error).__name__}: perhaps for "
                        "want of memory; finished shards are kept, fewer --workers take less)"
                    ) from error
    finally:
        engine.end(running)
    folder.clear()


def _results(
    work: Callable[[T], ShardEntry], tasks: dict[int, T], backend: str, workers: int
) -> Iterator[tuple[int, ShardEntry]]:
    """Yield what comes back, as it comes; where joblib waits for all, in rounds of a few each."""
    inner = {"inner_max_num_threads": 1} if backend == "loky" else {}
    with joblib.parallel_config(backend=backend, n_jobs=workers, **inner):
        streams = backend != "ray"
        pool = joblib.Parallel(
            return_as="generator_unordered" if streams else "list",
            batch_size=1,
            pre_dispatch="2*n_jobs",
        )
        numbers = list(tasks)
        step = len(numbers) if streams else 4 * workers
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            yield from pool(joblib.delayed(_do)(work, n, tasks[n]) for n in some)


def _do(work: Callable[[T], ShardEntry], number: int, task: T) -> tuple[int, ShardEntry]:
    """Do one task in a worker, on one core."""
    limit_cores(1)
    return number, work(task)
