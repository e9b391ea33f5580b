"""Jobs on many workers as a discrete-event simulation in which everything takes the time that was measured for it.

One driver is a server that serves one request at a time (its interpreter has one lock); workers take units in the order
they were asked for; the blob store and the network card of every node serve bytes at their rate, one transfer after the
other. Jobs do as `cluster.workflows.evaluation` does: turns of one unit while all workers are busy, blocks of their own
when some are idle, merged in order, and a unit that judges.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from cluster.workflows.evaluation import LONGER, SHORT_TURN_S, TURN_S


@dataclass(frozen=True, slots=True)
class Work:
    """One job. prepare_s: to read and prepare the case, once per worker that meets it. blocks, of block_s each.
    merge_s: per block that was a unit of its own. judge_s: verdict, report and objects. read_bytes: of the case.
    partial_bytes: partial statistics of a block. written_bytes: of the artifacts."""

    prepare_s: float
    blocks: int
    block_s: float
    merge_s: float
    judge_s: float
    read_bytes: float
    partial_bytes: float
    written_bytes: float

    @property
    def core_s(self) -> float:
        """Of one core that does all of it."""
        return self.prepare_s + self.blocks * self.block_s + self.judge_s


@dataclass(frozen=True, slots=True)
class Rates:
    """job_s, unit_s: of the driver's time for each job and unit. node_workers: workers per node. network_bytes_s: of a
    node's network card. store_bytes_s: of the blob store, for all nodes together."""

    job_s: float
    unit_s: float
    node_workers: int
    network_bytes_s: float
    store_bytes_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """wall_s: from the first job's start to the last one's end. efficiency: work over wall times workers. busy: share
    of the wall time that driver, blob store and the busiest network card worked. again: share of the workers' time in
    which cases were prepared that another worker had prepared before."""

    workers: int
    wall_s: float
    efficiency: float
    busy: dict[str, float]
    again: float


@dataclass(slots=True)
class _Server:
    """Serves one request after the other."""

    free_at: float = 0.0
    busy_s: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When a request that comes now is done."""
        self.free_at = max(now, self.free_at) + seconds
        self.busy_s += seconds
        return self.free_at


@dataclass(slots=True)
class _Job:
    """How far a job is. left, to_merge: blocks. seen: workers that have prepared its case."""

    left: int
    turn_s: float
    to_merge: int = 0
    seen: set[int] = field(default_factory=set)


class _Cluster:
    """The simulation itself: events in order of their time."""

    def __init__(self, work: Work, rates: Rates, workers: int, jobs: int, slots: int) -> None:
        self.work, self.rates, self.workers = work, rates, workers
        self.now = self.again_s = 0.0
        self.asked = 0
        self.idle = deque(range(workers))
        self.queue: deque[tuple[Callable[[int], float], Callable[[], None]]] = deque()
        self.driver, self.store = _Server(), _Server()
        self.cards = [_Server() for _ in range(-(-workers // rates.node_workers))]
        self.waiting = jobs
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        for _ in range(min(slots, jobs)):
            self._at(0.0, self._start_job)

    def run(self) -> float:
        """Until nothing happens any more."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.now

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _ask(self, seconds: Callable[[int], float], done: Callable[[], None]) -> None:
        """A unit: the driver hands it out, a worker takes it, the driver hears of its end."""
        self.asked += 1

        def queued() -> None:
            self.queue.append((seconds, done))
            self._dispatch()

        self._at(self.driver.serve(self.now, self.rates.unit_s), queued)

    def _dispatch(self) -> None:
        while self.queue and self.idle:
            worker = self.idle.popleft()
            seconds, done = self.queue.popleft()

            def ended(worker: int = worker, done: Callable[[], None] = done) -> None:
                self.idle.append(worker)
                self.asked -= 1
                self._dispatch()
                done()

            self._at(seconds(worker), ended)

    def _prepared(self, job: _Job, worker: int, seconds: float) -> float:
        """When a unit that needs the case is done on a worker."""
        if worker in job.seen:
            return self.now + seconds
        if job.seen:
            self.again_s += self.work.prepare_s
        job.seen.add(worker)
        return self._moved(worker, self.work.read_bytes, from_store=True) + self.work.prepare_s + seconds

    def _moved(self, worker: int, size: float, from_store: bool = False) -> float:
        """When so many bytes are on the worker's node."""
        card = self.cards[worker // self.rates.node_workers].serve(self.now, size / self.rates.network_bytes_s)
        return max(card, self.store.serve(self.now, size / self.rates.store_bytes_s)) if from_store else card

    def _start_job(self) -> None:
        if self.waiting:
            self.waiting -= 1
            job = _Job(self.work.blocks, SHORT_TURN_S if self.workers - self.asked > 1 else TURN_S)
            self._at(self.driver.serve(self.now, self.rates.job_s), lambda: self._turn(job))

    def _turn(self, job: _Job) -> None:
        """As many blocks as fit, and the verdict where those are all."""
        work = self.work
        budget = job.turn_s - (0.0 if job.seen else work.prepare_s)
        fit = int(-(-max(budget, 0.0) // work.block_s)) if work.block_s else work.blocks
        taken = min(job.left, max(fit, 1 if job.seen else 0))
        job.left -= taken
        job.turn_s *= LONGER
        seconds = taken * work.block_s + (0.0 if job.left else work.judge_s)
        self._ask(lambda worker: self._prepared(job, worker, seconds), lambda: self._turn_ended(job))

    def _turn_ended(self, job: _Job) -> None:
        if not job.left:
            self._end_job()
        elif self.workers == 1 or self.workers - self.asked > 1:
            job.to_merge = job.left
            for _ in range(min(2 * self.workers, job.left)):
                self._next_block(job)
        else:
            self._turn(job)

    def _next_block(self, job: _Job) -> None:
        if job.left:
            job.left -= 1
            self._ask(lambda w: self._prepared(job, w, self.work.block_s), lambda: self._block_ended(job))

    def _block_ended(self, job: _Job) -> None:
        self._next_block(job)
        # Of the two parts that are merged one at least lies on another node, where there are several.
        size = 2.0 * self.work.partial_bytes if len(self.cards) > 1 else 0.0
        self._ask(lambda w: self._moved(w, size) + self.work.merge_s, lambda: self._merged(job))

    def _merged(self, job: _Job) -> None:
        job.to_merge -= 1
        if job.to_merge == 0:
            self._ask(lambda w: self._prepared(job, w, self.work.judge_s), self._end_job)

    def _end_job(self) -> None:
        self.store.serve(self.now, self.work.written_bytes / self.rates.store_bytes_s)
        self._start_job()


def simulate(work: Work, rates: Rates, workers: int, jobs: int, slots: int = 0) -> Outcome:
    """A batch of equal jobs. slots: jobs at the same time, 0 for one more than twice the workers."""
    cluster = _Cluster(work, rates, workers, jobs, slots or 2 * workers + 1)
    wall_s = cluster.run()
    busy = {
        "driver": cluster.driver.busy_s / wall_s,
        "blob store": cluster.store.busy_s / wall_s,
        "network": max(card.busy_s for card in cluster.cards) / wall_s,
    }
    room_s = wall_s * workers
    return Outcome(workers, wall_s, work.core_s * jobs / room_s, busy, cluster.again_s / room_s)
