"""Many workers that make whole shards, and a parent that enters them: discrete events, seeded.

A worker takes a shard, moves its bytes over a storage that all share evenly (at most `link` each),
computes for a time drawn from a log-normal distribution, and takes the next one. Some workers are
slow all the time, and each is lost now and then. What a loss costs depends on the engine, as
auheat/pipeline/workers.py uses it: Dask gives the shard to another worker; loky loses what all
workers had in hand; Ray loses its round of 4 shards a worker, and waits at each round's end until
all of them are entered. Before and after its workers the parent works alone.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

ENGINES = ("dask", "loky", "ray")
ROUND = 4
"""Shards a worker in each of Ray's rounds."""

_DONE, _LOST, _BACK = range(3)


@dataclass(frozen=True)
class Cluster:
    """One stage on one cluster; times in seconds, `seconds` is one shard's mean on one core.

    `spread` is the standard deviation of the logarithm of shard times, `slow_share` the chance that
    a worker takes `slow_factor` times as long, `loss` a worker's mean time between losses,
    `restart` until its replacement works, `start` until the first workers do. The parent enters the
    k-th shard for `enter` + k x `growth`, and works `before` and `after` alone. A shard has `bytes`
    to read and write; `bandwidth` (of all) and `link` (of each worker) are bytes per second.
    """

    workers: int
    shards: int
    seconds: float
    spread: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    loss: float = math.inf
    restart: float = 0.0
    start: float = 0.0
    enter: float = 0.0
    growth: float = 0.0
    bytes: float = 0.0
    bandwidth: float = math.inf
    link: float = math.inf
    before: float = 0.0
    after: float = 0.0
    engine: str = "dask"


@dataclass(frozen=True)
class Outcome:
    """What a run took: `seconds`, worker-seconds `paid`, `useful` and `lost`, the parent's own."""

    seconds: float
    paid: float
    useful: float
    lost: float
    entering: float

    @property
    def idle(self) -> float:
        """The share of paid worker-seconds in which a worker had nothing to do."""
        return 1 - (self.useful + self.lost) / self.paid

    @property
    def wasted(self) -> float:
        """The share of the work done that was lost with its worker."""
        return self.lost / (self.useful + self.lost)

    @property
    def parent(self) -> float:
        """The share of the time in which the parent entered shards."""
        return self.entering / self.seconds


def simulate(cluster: Cluster, seed: int) -> Outcome:
    """Run a stage once; the same seed gives the same outcome."""
    return _Run(cluster, np.random.default_rng(seed)).run()


class _Run:
    """The state of one run."""

    def __init__(self, cluster: Cluster, rng: np.random.Generator) -> None:
        c = self.c = cluster
        draws = rng.lognormal(-(c.spread**2) / 2, c.spread, c.shards) * c.seconds
        slow = rng.random(c.workers) < c.slow_share
        self.rng, self.seconds = rng, draws.tolist()
        self.factor = np.where(slow, c.slow_factor, 1.0).tolist()
        self.clock, self.useful, self.lost, self.entering = c.before, 0.0, 0.0, 0.0
        self.parent_free, self.entered, self.finished = c.before, 0, 0
        self.events: list[tuple[float, int, int, int]] = []  # time, kind, worker, its epoch
        self.epoch = [0] * c.workers  # an event of an earlier epoch is void
        self.held: dict[int, tuple[int, float]] = {}  # worker: its shard, and since when
        self.idle: dict[int, None] = {}
        # Sharing evenly: `moved` grows alike for all transfers, and each ends at its own mark.
        self.moved, self.flows = 0.0, set[int]()
        self.marks: list[tuple[float, int, int]] = []
        self.queue, self.later = deque(range(c.shards)), deque[int]()
        self.round: dict[int, float] = {}  # Ray: what this round finished, and how long it took
        if c.engine == "ray":
            self.queue, self.later = self.later, self.queue
        self.limited = c.bytes > 0 and min(c.bandwidth, c.link) < math.inf
        for worker in range(c.workers):
            self.begin(worker, c.before + c.start)

    def run(self) -> Outcome:
        """Go from event to event until every shard is finished, and then entered."""
        if self.c.engine == "ray":
            self.next_round()
        while self.finished < self.c.shards:
            share = min(self.c.link, self.c.bandwidth / max(1, len(self.flows)))
            while self.marks and self.epoch[self.marks[0][1]] != self.marks[0][2]:
                heapq.heappop(self.marks)
            at = self.events[0][0] if self.events else math.inf
            if self.marks:
                ends = self.clock + max(0.0, self.marks[0][0] - self.moved) / share
                if ends <= at:
                    self.clock, (self.moved, worker, _) = ends, heapq.heappop(self.marks)
                    self.flows.discard(worker)
                    self.compute(worker)
                    continue
            at, kind, worker, epoch = heapq.heappop(self.events)
            if self.flows:
                self.moved += share * (at - self.clock)
            self.clock = at
            if epoch == self.epoch[worker]:
                (self.finish, self.lose, self.come)[kind](worker)
        seconds = max(self.parent_free, self.clock) + self.c.after
        paid = self.c.workers * seconds
        return Outcome(seconds, paid, self.useful, self.lost, self.entering)

    def begin(self, worker: int, at: float) -> None:
        """Have a worker begin, or begin again, at a time to come."""
        self.epoch[worker] += 1
        heapq.heappush(self.events, (at, _BACK, worker, self.epoch[worker]))

    def come(self, worker: int) -> None:
        """A worker is there: its next loss is as far away as any other's."""
        if self.c.engine == "ray" and self.clock < self.parent_free:
            self.begin(worker, self.parent_free)
            return
        if self.c.loss < math.inf:
            dies = self.clock + self.rng.exponential(self.c.loss)
            heapq.heappush(self.events, (dies, _LOST, worker, self.epoch[worker]))
        self.take(worker)

    def take(self, worker: int) -> None:
        """Begin the next shard, if there is one."""
        if not self.queue:
            self.idle[worker] = None
            return
        self.held[worker] = (self.queue.popleft(), self.clock)
        if self.limited:
            self.flows.add(worker)
            heapq.heappush(self.marks, (self.moved + self.c.bytes, worker, self.epoch[worker]))
        else:
            self.compute(worker)

    def compute(self, worker: int) -> None:
        """All bytes are there: what follows depends on the shard and on the worker alone."""
        ends = self.clock + self.seconds[self.held[worker][0]] * self.factor[worker]
        heapq.heappush(self.events, (ends, _DONE, worker, self.epoch[worker]))

    def finish(self, worker: int) -> None:
        """Give a finished shard to the parent, or keep it for the end of Ray's round."""
        shard, since = self.held.pop(worker)
        self.round[shard] = self.clock - since
        self.take(worker)
        if self.c.engine != "ray":
            self.enter_round()
        elif not self.queue and not self.held:
            self.enter_round()
            self.next_round()

    def enter_round(self) -> None:
        """The parent enters what is finished, once it has entered what was before."""
        count, before = len(self.round), self.entered
        numbers = count * before + count * (count + 1) / 2
        cost = count * self.c.enter + self.c.growth * numbers
        self.parent_free = max(self.parent_free, self.clock) + cost
        self.useful += sum(self.round.values())
        self.entering += cost
        self.entered = self.finished = before + count
        self.round = {}

    def next_round(self) -> None:
        """Ray: hand out the next shards once the parent has entered all before."""
        some = min(ROUND * self.c.workers, len(self.later))
        self.queue = deque(self.later.popleft() for _ in range(some))
        waiting, self.idle = self.idle, {}
        for worker in waiting:
            self.begin(worker, self.parent_free)

    def lose(self, worker: int) -> None:
        """A worker is lost, and with it what its engine loses."""
        if self.c.engine == "dask":
            self.drop(worker)
            for other in list(self.idle)[: len(self.queue)]:
                del self.idle[other]
                self.take(other)
            return
        self.lost += sum(self.round.values())
        self.queue.extendleft(self.round)
        self.round = {}
        for each in range(self.c.workers):
            self.drop(each)

    def drop(self, worker: int) -> None:
        """Put back what a worker had in hand, and start another one in its place."""
        self.flows.discard(worker)
        self.idle.pop(worker, None)
        if worker in self.held:
            shard, since = self.held.pop(worker)
            self.lost += self.clock - since
            self.queue.appendleft(shard)
        self.begin(worker, self.clock + self.c.restart)
