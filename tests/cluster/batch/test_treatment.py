"""Everybody under treatment at a site, computed by the drivers of a service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cluster.batch.treatment as treatment
from cluster.batch.results import Outcome
from cluster.batch.treatment import run_under_treatment
from cluster.executor.inprocess import InProcessExecutor
from cluster.jobs.context import JobContext
from cluster.jobs.driver import Driver
from cluster.jobs.model import JobKind, JobResult, JobSpec
from cluster.operations.health import Check, Readiness
from cluster.service.config import ExecutorConfig, ServiceConfig, Site
from cluster.service.services import Services, open_services
from doseeng.errors import ConfigError, JobError
from tests.cluster.batch.conftest import plan_in, quick_result


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """A service with two sites."""
    config = ServiceConfig(data_dir=str(tmp_path / "data"), site=[Site(name="north"), Site(name="south")])
    opened = open_services(config)
    yield opened
    opened.close()


@pytest.fixture
def treated(services: Services, make_case: Callable[..., Path], tmp_path: Path) -> str:
    """UID of a plan under treatment at north; the same case lies at south, where nobody is treated."""
    for site in ("north", "south"):
        for path in sorted(make_case(tmp_path / site, "R1").iterdir()):
            services.library.receive(site, path)
    plan_uid = services.library.plans("north")[0].plan_uid
    services.courses.treat("north", plan_uid, {}, "test")
    return plan_uid


@pytest.fixture
def driver(services: Services, tmp_path: Path) -> Iterator[None]:
    """A driver of the service at work."""

    def run_job(spec: JobSpec, context: JobContext) -> JobResult:
        return quick_result(str(plan_in(spec, context).RTPlanLabel), spec, context)

    stop = threading.Event()
    works = Driver(
        "d1", services.store, InProcessExecutor(), services.blobs_of, run_job, ExecutorConfig(), tmp_path / "scratch"
    )
    thread = threading.Thread(target=works.run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def ask(services: Services, folder: Path, site: str = "north", kind: JobKind = JobKind.EVALUATE) -> dict[str, Outcome]:
    _, items = run_under_treatment(services, site, kind, {}, folder, lambda _items: None, threading.Event())
    return {item.name: item.outcome for item in items}


@pytest.mark.usefixtures("driver")
def test_all_plans_under_treatment(services: Services, treated: str, tmp_path: Path) -> None:
    first = ask(services, tmp_path / "out")
    assert list(first.values()) == [Outcome.RED]
    assert (tmp_path / "out" / "overview.html").is_file()
    assert len(services.store.search("north")) == 1
    assert services.store.search("south") == []
    assert list(first) == [services.library.case_objects("north", treated).case_key]
    assert ask(services, tmp_path / "again") == first
    assert len(services.store.search("north")) == 1, "what is known is not asked again"
    assert [entry.action for entry in services.audit.read("north")] == ["job-submit", "job-submit"]


@pytest.mark.usefixtures("treated")
def test_what_cannot_be_asked(services: Services, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start their own jobs"):
        ask(services, tmp_path / "out", kind=JobKind.ADAPT)
    with pytest.raises(ConfigError, match="nobody is under treatment"):
        ask(services, tmp_path / "out", site="south")
    with pytest.raises(ConfigError, match="is not configured"):
        ask(services, tmp_path / "out", site="east")


@pytest.mark.usefixtures("treated")
def test_a_service_without_driver_is_not_waited_for(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Readiness(False, (Check("drivers", False, "1 jobs wait and no driver takes them; start one"),))
    monkeypatch.setattr(treatment, "readiness", lambda _services: gone)
    monkeypatch.setattr(treatment, "LOOKS_PER_CHECK", 1)
    with pytest.raises(JobError, match="the jobs are kept"):
        ask(services, tmp_path / "out")
    assert len(services.store.search("north")) == 1
