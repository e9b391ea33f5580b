"""The executor on Ray: a unit is a task on a CPU worker or a call of a GPU's actor; results stay in the object store.

What was found out about failures (Ray 2.60), and is tested. A worker that dies: its unit runs again elsewhere. The
raylet of the driver's node dies: `result` raises JobError, or Ray ends the driver's process, whichever comes first; the
same when the control store (GCS) is gone for a minute. Either way leases end and a driver that is started anew does
the jobs again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import ray
from ray import ObjectRef
from ray.exceptions import (
    AuthenticationError,
    LocalRayletDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
)

from cluster.executor.placement import Place, is_on_device, settle
from cluster.executor.protocol import ExecutorLost, Handle
from cluster.executor.ray_settings import LOOPBACK, object_store_bytes
from cluster.executor.ray_watch import Watch
from cluster.service.config import ExecutorConfig
from doseeng.errors import ConfigError, JobError

UNITS_PER_WORKER: Final = 2
"""Under way at the same time: one computes, one waits with its arguments at hand."""
RETRIES: Final = 3
"""How often a unit runs again when its worker or node died."""
POLL_S: Final = 0.25
"""How often a wait asks whether its job is still wanted."""
COUNT_S: Final = 5.0
"""How long the number of workers is believed: nodes come and go."""
NAMESPACE: Final = "doseeng"


def _run(place: Place, function: Callable[..., Any], *arguments: Any) -> Any:
    """A unit, on a worker."""
    settle(place)
    return function(*arguments)


class _Device:
    """One GPU's actor: its process keeps context, kernels and tables from unit to unit."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A unit."""
        return _run(Place.GPU_ACTOR, function, *arguments)


class RayExecutor:
    """Units on a Ray cluster that this process is connected to; made by `open_ray`."""

    def __init__(self, uses_gpus: bool, most_workers: int = 0) -> None:
        self._uses_gpus = uses_gpus
        self._most_workers = most_workers
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        self._watch = Watch(ray.get_runtime_context().gcs_address)
        self._lock = threading.Lock()
        self._is_closed = False
        self._awaited: set[bytes] = set()
        self._devices: list[Any] = []
        self._queued: list[deque[ObjectRef]] = []
        self._counted: tuple[float, int, int] | None = None

    @property
    def workers(self) -> int:
        """CPU slots and GPUs of the whole cluster as counted within the last seconds, or fewer if so configured."""
        cpus, gpus = self._resources()
        found = max(1, cpus + (gpus if self._uses_gpus else 0))
        return min(found, self._most_workers) if self._most_workers else found

    @property
    def idle(self) -> int:
        """As `Executor.idle`: GPUs where there are some. Units that nobody waits for, such as merging, do not count."""
        _, gpus = self._resources()
        return max(0, (gpus if self._uses_gpus and gpus else self.workers) - len(self._awaited))

    @property
    def description(self) -> str:
        """Name, version and workers."""
        return f"ray {ray.__version__}, {self.workers} workers"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """As `Executor.call`."""
        return self._start(function, 1, arguments)

    def split(self, function: Callable[..., Any], parts: int, *arguments: Any) -> tuple[Handle, ...]:
        """As `Executor.split`."""
        handles: list[ObjectRef] = self._start(function, parts, arguments)
        self._awaited.add(handles[0].binary())
        return tuple(handles)

    def result(self, handle: Any, wanted: Callable[[], bool] | None = None) -> Any:
        """As `Executor.result`."""
        try:
            self._wait(handle, wanted or (lambda: True))
            return ray.get(handle)
        except RayTaskError as error:
            raise _cause(error) from None
        except RayError as error:
            raise _lost(error) from error
        finally:
            self._awaited.discard(handle.binary())

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """As `Executor.each`."""
        places = [self._shared(argument) for argument in shared]
        under_way: deque[ObjectRef] = deque()
        try:
            for unit in units:
                if not wanted():
                    return
                if len(under_way) >= UNITS_PER_WORKER * self.workers:
                    yield self._finished(under_way, wanted)
                under_way.append(self._start(function, 1, (*places, unit)))
                self._awaited.add(under_way[-1].binary())
            while under_way:
                yield self._finished(under_way, wanted)
        except _Unwanted:
            return
        finally:
            self._awaited.difference_update(handle.binary() for handle in under_way)
            # A generator may be thrown away long after the Ray that it belonged to.
            for handle in () if self._is_closed else under_way:
                _cancel(handle)

    def close(self) -> None:
        """Leave the cluster; a Ray of one's own ends with it."""
        self._is_closed = True
        self._devices, self._queued = [], []
        ray.shutdown()

    def _start(self, function: Callable[..., Any], parts: int, arguments: Sequence[Any]) -> Any:
        try:
            if self._uses_gpus and is_on_device(function) and self._resources()[1] > 0:
                return self._on_a_device(function, parts, arguments)
            task = self._task.options(num_returns=parts, name=_name(function))
            return task.remote(Place.CPU_WORKER, function, *arguments)
        except RayError as error:
            raise _lost(error) from error

    def _on_a_device(self, function: Callable[..., Any], parts: int, arguments: Sequence[Any]) -> Any:
        """On the GPU with the shortest queue."""
        with self._lock:
            self._make_devices()
            for queue in self._queued:
                if queue:
                    _, waiting = ray.wait(list(queue), num_returns=len(queue), timeout=0, fetch_local=False)
                    queue.clear()
                    queue.extend(waiting)
            index = min(range(len(self._queued)), key=lambda i: len(self._queued[i]))
            method = self._devices[index].run.options(num_returns=parts, name=_name(function))
            handle = method.remote(function, *arguments)
            self._queued[index].append(handle if parts == 1 else handle[0])
        return handle

    def _make_devices(self) -> None:
        """One actor per GPU of the cluster, made when they are first needed."""
        device = ray.remote(_Device).options(num_cpus=0, num_gpus=1, max_restarts=-1, max_task_retries=RETRIES)
        while len(self._devices) < self._resources()[1]:
            self._devices.append(device.remote())
            self._queued.append(deque())

    def _resources(self) -> tuple[int, int]:
        """CPUs and GPUs of the cluster."""
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] > COUNT_S:
            self._watch.require_alive()
            found = self._asked(ray.cluster_resources)
            self._counted = (now, int(found.get("CPU", 0)), int(found.get("GPU", 0)))
        return self._counted[1:]

    def _shared(self, argument: Any) -> Any:
        """A handle of an argument that all units take: it goes to the object store once."""
        return argument if isinstance(argument, ObjectRef) else self._asked(ray.put, argument)

    def _finished(self, under_way: deque[ObjectRef], wanted: Callable[[], bool]) -> ObjectRef:
        """The first of the units, once it is finished."""
        self._wait(under_way[0], wanted)
        self._awaited.discard(under_way[0].binary())
        return under_way.popleft()

    def _wait(self, handle: Any, wanted: Callable[[], bool]) -> None:
        """Until a unit is finished; its result stays where it is."""
        while True:
            ready, _ = self._asked(ray.wait, [handle], timeout=POLL_S, fetch_local=False)
            if ready:
                return
            self._watch.require_alive()
            try:
                goes_on = wanted()
            except BaseException:
                _cancel(handle)
                raise
            if not goes_on:
                _cancel(handle)
                raise _Unwanted("the unit was dropped: its result is no longer wanted")

    @staticmethod
    def _asked(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What Ray says; JobError when there is no Ray any more."""
        try:
            return function(*arguments, **options)
        except RayError as error:
            raise _lost(error) from error


class _Unwanted(JobError):
    """A unit was dropped."""


def open_ray(config: ExecutorConfig) -> RayExecutor:
    """Connect to the Ray of a configuration, or start one on this machine; `ray_settings.prepare_environment` came
    before. ConfigError: it cannot be reached, or refuses this user's token."""
    how: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if config.address:
        how["address"] = config.address
    else:
        how |= {
            "address": "local",
            "num_cpus": config.workers or len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": object_store_bytes(),
            "_node_ip_address": LOOPBACK,
        }
        if config.backend == "cpu":
            how["num_gpus"] = 0
    try:
        ray.init(**how)
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at '{config.address}'" if config.address else "a Ray on this machine"
        raise ConfigError(
            f"executor: {where} cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}); check that it "
            "runs, that this machine is part of it (`doseeng cluster up` or `ray start`), and RAY_AUTH_TOKEN_PATH"
        ) from error
    return RayExecutor(config.backend != "cpu", config.workers)


def _name(function: Callable[..., Any]) -> str:
    """What Ray calls a unit in its logs."""
    return getattr(function, "__name__", "unit")


def _cause(error: BaseException) -> BaseException:
    """What a unit raised, out of what Ray wrapped it in."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return _lost(error) if isinstance(error, RayError) else error


def _lost(error: RayError) -> JobError:
    if isinstance(error, TaskCancelledError):
        return _Unwanted("the unit was dropped: its result is no longer wanted")
    # Arguments that cannot be unpickled are a system error too, while Ray lives on.
    if isinstance(error, LocalRayletDiedError) or (isinstance(error, RaySystemError) and not ray.is_initialized()):
        return ExecutorLost(f"Ray on this machine has ended ({type(error).__name__}); start it again")
    return JobError(
        f"a work unit was lost ({type(error).__name__}): its worker died {RETRIES + 1} times; submit the job again, "
        "and look into Ray's logs if it happens again"
    )


def _cancel(handle: Any) -> None:
    """Drop a unit; one that ends anyway is no loss."""
    with suppress(RayError, ValueError, TypeError):
        ray.cancel(handle, force=False)
