"""Calls that run at once, in this process."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from cluster.executor import placement
from cluster.executor.inprocess import InProcessExecutor
from cluster.executor.lasting import LastingExecutor
from cluster.executor.open import open_executor
from cluster.executor.placement import Place, is_on_device, unit_backend
from cluster.executor.protocol import ExecutorLost, Handle
from cluster.executor.ray_settings import passing_token, prepare_environment, token_file
from cluster.executor.ray_watch import PATIENCE_S, Watch
from cluster.service.config import ExecutorConfig
from doseeng.errors import BackendUnavailable, GeometryError
from tests.cluster.executor import units


@pytest.fixture
def executor() -> InProcessExecutor:
    return InProcessExecutor()


def test_handles_are_arguments(executor: InProcessExecutor) -> None:
    three = executor.call(units.add, 1, 2)
    assert executor.result(executor.call(units.add, three, three)) == 6
    assert executor.workers == 1


def test_errors_come_from_result(executor: InProcessExecutor) -> None:
    broken = executor.call(units.refuse, "slice 3")
    with pytest.raises(GeometryError, match="slice 3"):
        executor.result(broken)
    with pytest.raises(GeometryError, match="slice 3"):
        executor.result(executor.call(units.add, broken))
    for part in executor.split(units.refuse, 2, "slice 4"):
        with pytest.raises(GeometryError, match="slice 4"):
            executor.result(part)


def test_parts_have_handles_of_their_own(executor: InProcessExecutor) -> None:
    small, large = executor.split(units.pair, 2, 7)
    assert executor.result(small) == 7
    assert executor.result(executor.call(units.total, large)) == 7e6


def test_each_ends_when_nobody_wants_it(executor: InProcessExecutor) -> None:
    left = iter([True, True, False])
    found = [executor.result(h) for h in executor.each(units.add, [10], range(9), lambda: next(left))]
    assert found == [10, 11]


def test_the_configuration_opens_it_without_ray() -> None:
    script = (
        "import sys; from cluster.executor.open import open_executor\n"
        "from cluster.service.config import ExecutorConfig\n"
        "open_executor(ExecutorConfig()); import cluster.cli; print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert isinstance(open_executor(ExecutorConfig()), InProcessExecutor)


def test_a_cpu_worker_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_here", Place.CPU_WORKER)
    assert unit_backend("auto").workers == 1
    assert unit_backend("auto") is unit_backend("cpu")
    with pytest.raises(BackendUnavailable, match="no node of the cluster offers a GPU"):
        unit_backend("cuda")
    assert is_on_device(units.where_on_device)
    assert not is_on_device(units.where)


class Mortal(InProcessExecutor):
    """An executor whose runtime ends when it is told to."""

    def __init__(self) -> None:
        self.is_dead = self.is_closed = False

    def _require(self) -> None:
        if self.is_dead:
            raise ExecutorLost("ended")

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        self._require()
        return super().call(function, *arguments)

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        self._require()
        return super().result(handle, wanted)

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        for handle in super().each(function, shared, units, wanted):
            self._require()
            yield handle

    def close(self) -> None:
        self.is_closed = True


def test_another_runtime_is_opened_for_the_next_call() -> None:
    made: list[Mortal] = []

    def opened() -> Mortal:
        made.append(Mortal())
        return made[-1]

    executor = LastingExecutor(opened)
    held = executor.call(units.add, 1, 1)
    going = executor.each(units.add, [1], range(3), lambda: True)
    next(going)
    made[0].is_dead = True
    with pytest.raises(ExecutorLost):
        executor.result(held)
    with pytest.raises(ExecutorLost):
        next(going)
    assert executor.result(executor.call(units.add, 2, 2)) == 4
    assert [m.is_closed for m in made] == [True, False]
    # What the first runtime held is not given to the second.
    for lost in (lambda: executor.result(held), lambda: executor.call(units.add, held, 1)):
        with pytest.raises(ExecutorLost, match="done again"):
            lost()
    assert len(made) == 2
    assert [executor.result(h) for h in executor.each(units.add, [1], range(3), lambda: True)] == [1, 2, 3]


def test_a_runtime_is_closed_only_when_no_thread_is_inside() -> None:
    made: list[Mortal] = []
    entered, leave = threading.Event(), threading.Event()

    def opened() -> Mortal:
        made.append(Mortal())
        return made[-1]

    def lingering() -> int:
        entered.set()
        leave.wait(20)
        return 1

    executor = LastingExecutor(opened)
    thread = threading.Thread(target=lambda: executor.call(lingering))
    thread.start()
    assert entered.wait(20)
    made[0].is_dead = True
    with pytest.raises(ExecutorLost):
        executor.call(units.add, 1)
    again = threading.Thread(target=lambda: executor.call(units.add, 1))
    again.start()
    again.join(0.2)
    assert again.is_alive()
    assert not made[0].is_closed
    leave.set()
    again.join(20)
    thread.join(20)
    assert made[0].is_closed
    assert len(made) == 2


def test_a_control_store_may_restart_but_not_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers = [0.0], [True]
    monkeypatch.setattr("cluster.executor.ray_watch.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Watch, "_answers", lambda _: answers[0])
    watch = Watch("127.0.0.1:6379")
    now[0] = 1000.0  # an idle driver asks nobody
    answers[0] = False
    watch.require_alive()
    now[0] += PATIENCE_S - 1.0
    watch.require_alive()
    answers[0] = True
    now[0] += 1.0
    watch.require_alive()
    answers[0] = False
    for _ in range(5):
        now[0] += 1.0
        watch.require_alive()
    now[0] += 2.0
    with pytest.raises(ExecutorLost, match=r"127\.0\.0\.1:6379 has not answered"):
        watch.require_alive()


def test_nobody_listens_at_a_closed_port() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert Watch(f"127.0.0.1:{port}")._answers()
    assert not Watch(f"127.0.0.1:{port}")._answers()


def test_ray_is_always_authenticated_and_ones_own_stays_on_loopback() -> None:
    own: dict[str, str] = {}
    prepare_environment(stays_here=True, environment=own)
    passing_token(own)
    assert own["RAY_AUTH_MODE"] == "token"
    assert len(own["RAY_AUTH_TOKEN"]) == 64
    assert own["RAY_USAGE_STATS_ENABLED"] == "0"
    assert own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    shared = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/run/secrets/token"}
    prepare_environment(stays_here=False, environment=shared)
    passing_token(shared)
    assert shared["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in shared
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in shared


def test_the_token_is_for_its_user_alone(tmp_path: Any) -> None:
    path = token_file(tmp_path)
    token = path.read_text()
    assert len(token) == 64
    path.chmod(0o644)
    assert token_file(tmp_path).read_text() == token
    assert path.stat().st_mode & 0o777 == 0o600
