"""Figures for Prometheus: counted in the database, in the format that Prometheus' own parser reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

import doseeng
from cluster.database.tables import JobRow
from cluster.jobs.model import JobState
from cluster.operations.metrics import CONTENT_TYPE, SECONDS, render_metrics
from cluster.service.config import ServiceConfig
from cluster.service.services import Services
from tests.cluster.operations.conftest import fill, serving


def samples(services: Services) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(render_metrics(services).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_figures_of_a_service(
    kind: str, configured: Callable[..., ServiceConfig], request: pytest.FixtureRequest
) -> None:
    url = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    with serving(configured("here", url)) as services:
        fill(services)
        with services.database.transaction() as session:
            for row in session.query(JobRow).filter(JobRow.state == JobState.DONE):
                row.started_at = row.finished_at - timedelta(seconds=7.5)
        found = samples(services)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    for site in ("north", "south"):
        assert value("doseeng_jobs", site=site, kind="evaluate", state="done", verdict="RED") == 1
        assert value("doseeng_jobs", site=site, kind="dose", state="queued", verdict="") == 1
        bucket = {"site": site, "kind": "evaluate"}
        assert value("doseeng_job_seconds_bucket", le="5.0", **bucket) == 0
        assert value("doseeng_job_seconds_bucket", le="10.0", **bucket) == 1
        assert value("doseeng_job_seconds_bucket", le="+Inf", **bucket) == 1
        assert value("doseeng_job_seconds_sum", **bucket) == pytest.approx(7.5, abs=0.002)
        assert value("doseeng_outbox_messages", site=site, destination="mail", state="dead") == 1
        assert 119 < value("doseeng_outbox_age_seconds", site=site, destination="pacs") < 600
        assert value("doseeng_instances", site=site, modality="CT") == 1
        expected = len(f"an object of {site}") + len(f"result of {site}")
        assert value("doseeng_blob_bytes", site=site) == expected
        assert value("doseeng_flags_open", site=site, verdict="RED") == 1
        assert value("doseeng_flag_age_seconds", site=site, verdict="RED") > 179
    assert value("doseeng_queue_jobs", priority="batch") == 2
    assert value("doseeng_queue_jobs", priority="today") == 0
    assert value("doseeng_queue_age_seconds", priority="today") == 0
    assert value("doseeng_disk_free_bytes") > 0
    assert any(name == "doseeng_build_info" and ("version", doseeng.__version__) in labels for name, labels in found)


def test_a_new_service_has_figures_too(configured: Callable[..., ServiceConfig]) -> None:
    with serving(configured("here")) as services:
        text = render_metrics(services).decode()
        assert samples(services)["doseeng_queue_jobs", (("priority", "today"),)] == 0
    assert text.endswith("\n")
    assert "version=" in CONTENT_TYPE
    assert list(SECONDS) == sorted(SECONDS)
