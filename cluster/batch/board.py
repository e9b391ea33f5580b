"""Follows the jobs of a batch's items, and gathers what they leave."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from cluster.batch.results import ItemResult, Outcome, failed_item, goals_in, item_of_job
from cluster.database.tables import JobRow
from cluster.jobs.model import Job, JobState
from cluster.jobs.store import JobStore
from cluster.report.document import write_document
from cluster.storage.blobs import BlobStore

REPORTS: Final = "reports"
RESULT_FILE: Final = "result.json"
REPORT_FILE: Final = "report.html"
_CHUNK: Final = 500
"""Jobs asked for in one query."""
_PROGRESS: Final = (
    JobRow.id,
    JobRow.state,
    JobRow.stage,
    JobRow.done,
    JobRow.total,
    JobRow.started_at,
    JobRow.updated_at,
)
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME: Final = 80


@dataclass(slots=True, eq=False)
class Board:
    """The items of a batch, in the order of the manifest. folder: where their reports are put."""

    store: JobStore
    blobs: BlobStore
    site: str
    folder: Path
    _items: list[ItemResult] = field(default_factory=list)

    @property
    def items(self) -> tuple[ItemResult, ...]:
        """All items as they stood when they were last looked at."""
        return tuple(self._items)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(item.has_ended for item in self._items)

    def add_waiting(self, name: str, kind: str, treatment_site: str) -> int:
        """An item that has not been looked at; its place."""
        self._items.append(ItemResult(name, kind, "waiting", Outcome.WAITING, treatment_site))
        return len(self._items) - 1

    def set_job(self, place: int, name: str, job: Job) -> None:
        """An item became a job."""
        self._items[place] = self._of_job(place, name, self._items[place].treatment_site, job)

    def set_failed(self, place: int, name: str, kind: str, message: str) -> None:
        """An item could not become a job. message: without identity."""
        old = self._items[place]
        self._items[place] = failed_item(name, old.kind, old.treatment_site, kind, message)

    def look(self) -> bool:
        """See how far the jobs are; whether one ended since the last time."""
        open_jobs = {item.job_id for item in self._items if item.job_id and not item.has_ended}
        ended = self._progress(sorted(open_jobs))
        for place, item in enumerate(self._items):
            if item.job_id in ended and not item.has_ended:
                job = ended[item.job_id]
                self._items[place] = self._of_job(place, item.name, item.treatment_site, job)
        return bool(ended)

    def _progress(self, ids: Sequence[str]) -> dict[str, Job]:
        """Put stages and states of open jobs into the items; those that have ended."""
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _CHUNK):
            query = select(*_PROGRESS).where(JobRow.id.in_(ids[start : start + _CHUNK]))
            with self.store.database.reading() as session:
                found.update({row.id: row for row in session.execute(query)})
        for place, item in enumerate(self._items):
            row = found.get(item.job_id)
            if row is not None:
                is_running = row.state == JobState.RUNNING and row.started_at
                seconds = (row.updated_at - row.started_at).total_seconds() if is_running else None
                self._items[place] = replace(
                    item, state=row.state, stage=row.stage, done=row.done, total=row.total, seconds=seconds
                )
        return {row.id: self.store.get(self.site, row.id) for row in found.values() if JobState(row.state).is_end}

    def _of_job(self, place: int, name: str, treatment_site: str, job: Job) -> ItemResult:
        item = item_of_job(name, treatment_site, job)
        if job.state is not JobState.DONE:
            return item
        kept = {artifact.name: artifact.sha256 for artifact in job.artifacts}
        if RESULT_FILE in kept:
            item = replace(item, goals=goals_in(json.loads(self.blobs.get(kept[RESULT_FILE]))))
        if REPORT_FILE in kept:
            report = f"{REPORTS}/{place + 1:03d}-{plain(name)}.html"
            page = self.blobs.get(kept[REPORT_FILE]).decode("utf-8")
            path = self.folder / report
            if not path.is_file() or path.read_text(encoding="utf-8") != page:
                write_document(page, path)
            item = replace(item, report=report)
        return item


def plain(name: str) -> str:
    """A name as part of a file's."""
    return _NOT_PLAIN.sub("-", name).strip("-.")[:_LONGEST_NAME] or "item"
