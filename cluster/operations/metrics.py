"""The service's figures for Prometheus, counted in the database when they are asked for.

Nothing is counted in memory, so any process of the service can answer, and a restart resets nothing. Figures that may
go down (retention takes jobs away) are gauges, also where others would expect a counter.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sqlalchemy import ColumnElement, Float, Subquery, case, cast, extract, func, select, union_all
from sqlalchemy.orm import Session

import doseeng
from cluster.database.tables import ArtifactRow, FlagRow, InstanceRow, JobRow, OutboxRow
from cluster.jobs.model import JobState, Priority

if TYPE_CHECKING:
    from cluster.service.services import Services

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
"""Of what `render_metrics` returns: Prometheus' text format."""
SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper ends of the buckets of job times: from a small case on a GPU to an arc with random courses on two cores."""


def render_metrics(services: Services) -> bytes:
    """All figures in Prometheus' text format, as of now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(collect(services)))
    return generate_latest(registry)


def collect(services: Services) -> list[Metric]:
    """All figures as of now; one reading transaction."""
    now = datetime.now(UTC)
    with services.database.reading() as session:
        found = [
            _build(),
            _jobs(session),
            *_queue(session, now),
            _job_seconds(session, services.database.is_sqlite),
            *_outbox(session, now),
            _instances(session),
            _blob_bytes(session),
            *_flags(session, now),
        ]
    return [*found, *_disk(services)]


class _Collected(Collector):
    """Figures that were collected already, as the client library wants them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _build() -> Metric:
    info = InfoMetricFamily("doseeng_build", "What is running.")
    info.add_metric((), {"version": doseeng.__version__, "python": platform.python_version()})
    return info


def _jobs(session: Session) -> Metric:
    columns = (JobRow.site, JobRow.kind, JobRow.state, JobRow.verdict)
    rows = session.execute(select(*columns, func.count()).group_by(*columns))
    return _gauge("doseeng_jobs", "Jobs by what became of them.", ("site", "kind", "state", "verdict"), rows)


def _queue(session: Session, now: datetime) -> tuple[Metric, Metric]:
    rows = session.execute(
        select(JobRow.priority, func.count(), func.min(JobRow.created_at))
        .where(JobRow.state == JobState.QUEUED)
        .group_by(JobRow.priority)
    )
    waiting = {priority.value: (priority.name.lower(), 0, 0.0) for priority in Priority}
    for priority, count, oldest in rows:
        name = waiting.get(priority, (str(priority), 0, 0.0))[0]
        waiting[priority] = (name, count, _age(oldest, now))
    lengths = [(name, count) for name, count, _ in waiting.values()]
    ages = [(name, age) for name, _, age in waiting.values()]
    return (
        _gauge("doseeng_queue_jobs", "Jobs that wait for a driver.", ("priority",), lengths),
        _gauge("doseeng_queue_age_seconds", "How long the oldest of them has waited.", ("priority",), ages),
    )


def _job_seconds(session: Session, is_sqlite: bool) -> Metric:
    seconds = _seconds_between(JobRow.started_at, JobRow.finished_at, is_sqlite)
    timed = (
        select(JobRow.site, JobRow.kind, seconds.label("seconds"))
        .where(JobRow.state == JobState.DONE, JobRow.started_at.is_not(None), JobRow.finished_at.is_not(None))
        .subquery()
    )
    counts = [_at_most(timed, end) for end in SECONDS]
    rows = session.execute(
        select(timed.c.site, timed.c.kind, func.count(), func.sum(timed.c.seconds), *counts).group_by(
            timed.c.site, timed.c.kind
        )
    )
    family = HistogramMetricFamily(
        "doseeng_job_seconds", "From a driver's claim to the result.", labels=("site", "kind")
    )
    for site, kind, count, total, *below in rows:
        buckets = [(floatToGoString(end), float(n)) for end, n in zip(SECONDS, below, strict=True)]
        family.add_metric((site, kind), [*buckets, ("+Inf", float(count))], float(total))
    return family


def _at_most(timed: Subquery, seconds: float) -> ColumnElement[Any]:
    return func.sum(case((timed.c.seconds <= seconds, 1), else_=0))


def _seconds_between(start: Any, end: Any, is_sqlite: bool) -> ColumnElement[float]:
    if is_sqlite:
        return cast((func.julianday(end) - func.julianday(start)) * 86400.0, Float)
    return cast(extract("epoch", end - start), Float)


def _outbox(session: Session, now: datetime) -> tuple[Metric, Metric]:
    columns = (OutboxRow.site, OutboxRow.destination, OutboxRow.state)
    rows = session.execute(select(*columns, func.count(), func.min(OutboxRow.created_at)).group_by(*columns)).all()
    pending = [(site, name, _age(oldest, now)) for site, name, state, _, oldest in rows if state in WAITING]
    return (
        _gauge(
            "doseeng_outbox_messages",
            "Messages by where they stand.",
            ("site", "destination", "state"),
            [row[:4] for row in rows],
        ),
        _gauge(
            "doseeng_outbox_age_seconds", "Age of the oldest message not sent yet.", ("site", "destination"), pending
        ),
    )


WAITING: Final = ("pending", "sending")
"""States of a message that is still to arrive."""


def _instances(session: Session) -> Metric:
    columns = (InstanceRow.site, InstanceRow.modality)
    rows = session.execute(select(*columns, func.count()).group_by(*columns))
    return _gauge("doseeng_instances", "DICOM objects received and kept.", ("site", "modality"), rows)


def _blob_bytes(session: Session) -> Metric:
    # Distinct, because equal bytes are kept once however many name them.
    named = union_all(
        select(InstanceRow.site, InstanceRow.sha256, InstanceRow.size),
        select(ArtifactRow.site, ArtifactRow.sha256, ArtifactRow.size),
    ).subquery()
    once = select(named.c.site, named.c.sha256, func.max(named.c.size).label("size"))
    kept = once.group_by(named.c.site, named.c.sha256).subquery()
    rows = session.execute(select(kept.c.site, func.sum(kept.c.size)).group_by(kept.c.site))
    return _gauge("doseeng_blob_bytes", "Bytes of DICOM objects and results in the blob store.", ("site",), rows)


def _flags(session: Session, now: datetime) -> tuple[Metric, Metric]:
    columns = (FlagRow.site, FlagRow.verdict)
    rows = session.execute(
        select(*columns, func.count(), func.min(FlagRow.created_at))
        .where(FlagRow.acknowledged_at.is_(None))
        .group_by(*columns)
    ).all()
    ages = [(site, verdict, _age(oldest, now)) for site, verdict, _, oldest in rows]
    return (
        _gauge("doseeng_flags_open", "Flags that nobody took note of yet.", ("site", "verdict"), [r[:3] for r in rows]),
        _gauge("doseeng_flag_age_seconds", "Age of the oldest of them.", ("site", "verdict"), ages),
    )


def _disk(services: Services) -> tuple[Metric, Metric]:
    usage = shutil.disk_usage(services.config.data)
    return (
        _gauge("doseeng_disk_free_bytes", "Free on the disk of data_dir.", (), [(usage.free,)]),
        _gauge("doseeng_disk_bytes", "Size of the disk of data_dir.", (), [(usage.total,)]),
    )


def _gauge(name: str, words: str, labels: tuple[str, ...], rows: Iterable[Any]) -> Metric:
    """A gauge of rows that hold the labels and, last, the value."""
    family = GaugeMetricFamily(name, words, labels=labels)
    for *values, number in rows:
        family.add_metric([str(value) for value in values], float(number))
    return family


def _age(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())
