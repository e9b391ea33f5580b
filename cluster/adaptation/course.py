"""The course store: what was found on each treatment day of one plan, kept as plain files in one folder.

    course.json                  schema version, plan UID, case key: a course belongs to one plan
    day-<key>.json               one evaluated fraction; <key> is made from the Series Instance UID of its image
    day-<key>-<n>.npz            its dose carried to the planning CT, named by the JSON file

One treatment session is one fraction, so that nothing is counted twice: a day takes the place of every stored day of
the same image series and of every stored day acquired within `session_window` of it (a repeated cone-beam CT before the
same treatment); whichever was evaluated last stands. Names hold no patient identity. Files appear complete or not at
all, and one writer at a time is let in.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.adaptation.judge import SEVERITY
from cluster.adaptation.result import EarlierDay, FractionReport
from doseeng.errors import ConfigError, DoseengError, Notice
from doseeng.grid import Grid, Volume
from doseeng.waterpath import PathChange
from registration.result import GateResult
from robust.result import Verdict

SCHEMA_VERSION: Final = 1
SESSION_WINDOW: Final = timedelta(hours=3)
"""Images closer than this are of one session: repeats follow within the hour, twice-daily fractions are 6 h apart."""
LOCK_TIMEOUT_S: Final = 30.0
LOCK_POLL_S: Final = 0.05
KEY_LENGTH: Final = 16
HEADER: Final = "course.json"


@dataclass(frozen=True, slots=True)
class CourseDay:
    """One evaluated fraction.

    acquired: when its image was taken, scanner's local time without zone. verdict_alone: without the rule of two AMBERs
    in a row. values, low, high, statuses: by goal name. fraction: its number, 0 where it was not told. dose_file: set
    by the store, "" where no dose was stored.
    """

    acquired: datetime
    series_uid: str
    verdict: Verdict
    verdict_alone: Verdict
    values: dict[str, float] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, Verdict] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    path_changes: tuple[PathChange, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    fraction: int = 0
    dose_file: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """What the folder held when it was read. days: by time of acquisition. notices: entries that could not be read."""

    folder: Path
    case_key: str
    plan_uid: str
    days: tuple[CourseDay, ...] = ()
    notices: tuple[Notice, ...] = ()
    session_window: timedelta = SESSION_WINDOW


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    schema_version: int
    plan_uid: str
    case_key: str


class _Entry(BaseModel):
    # Not strict: JSON has no NaN (a value that does not exist), so that it is written as the string "NaN".
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    schema_version: int
    plan_uid: str
    sequence: int
    """Counts evaluations: of two days of one session the higher one stands."""
    day: CourseDay


def course_day(report: FractionReport) -> CourseDay:
    """What the store keeps of a fraction's report. Of goals of one name the worst status counts."""
    statuses: dict[str, Verdict] = {}
    for day in report.goals:
        known = statuses.get(day.goal.name, day.status)
        statuses[day.goal.name] = max(known, day.status, key=SEVERITY.index)
    return CourseDay(
        acquired=report.acquired,
        series_uid=report.series_uid,
        verdict=report.verdict,
        verdict_alone=report.verdict_alone,
        values={day.goal.name: float(day.value) for day in report.goals},
        low={day.goal.name: float(day.band.low) for day in report.goals},
        high={day.goal.name: float(day.band.high) for day in report.goals},
        statuses=statuses,
        reasons=report.reasons,
        gates=report.gates,
        path_changes=report.path_changes,
        seconds=dict(report.seconds),
        provenance=dict(report.provenance),
        fraction=report.fraction,
    )


def as_earlier(day: CourseDay) -> EarlierDay:
    """A stored day as reports draw trends from it."""
    return EarlierDay(day.acquired, day.series_uid, day.verdict, day.values, day.low, day.high, day.statuses)


def days_before(course: Course, acquired: datetime) -> tuple[CourseDay, ...]:
    """The fractions before the session of an image acquired at that time, oldest first."""
    return tuple(day for day in course.days if day.acquired < acquired - course.session_window)


def read_course(folder: Path, case_key: str, plan_uid: str, session_window: timedelta = SESSION_WINDOW) -> Course:
    """The course of a plan as its folder holds it; without days when the folder is empty or absent.

    Entries that cannot be read are named in notices and left out; so is the dose of a day whose file is missing.
    ConfigError when the folder holds another plan's course, one of a newer doseeng, or one that lost its course.json.
    """
    empty = Course(folder, case_key, plan_uid, session_window=session_window)
    if not _belongs(empty):
        return empty
    entries, notices = _entries(empty)
    kept: list[_Entry] = []
    for entry in sorted(entries, key=lambda e: e.sequence, reverse=True):
        if any(_is_same_session(entry.day, later.day, session_window) for later in kept):
            # Left behind by a writer that was stopped between storing a day and taking the old one away.
            found = "a later evaluation of the same session stands; this one is not counted"
            notices.append(Notice("day-superseded", _name(entry.day), found))
        else:
            kept.append(entry)
    days = sorted((e.day for e in kept), key=lambda day: day.acquired)
    return replace(empty, days=tuple(days), notices=tuple(notices))


def store_day(course: Course, day: CourseDay, dose: Volume | None = None) -> Course:
    """Put an evaluated day into its course and return the course as it is then.

    dose: Gy, the day's dose carried to the planning CT, for the whole course as if every fraction were this day's.
    Days of the same session are replaced; the returned course has a notice for each. ConfigError as in `read_course`,
    when the folder cannot be written, and when another program has been writing to it for LOCK_TIMEOUT_S.
    """
    if day.acquired.tzinfo is not None:
        raise ConfigError("days are ordered by the scanner's local time; give the acquisition time without time zone")
    try:
        course.folder.mkdir(parents=True, exist_ok=True)
        with _locked(course.folder):
            return _store(course, day, dose)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the course folder '{course.folder}': {error.strerror or error}; check space and "
            "permissions"
        ) from error


def day_dose(course: Course, day: CourseDay) -> Volume | None:
    """The day's dose on the planning CT in Gy (see `store_day`), None when the day has none.

    ConfigError naming the file when it is gone or damaged.
    """
    if not day.dose_file:
        return None
    try:
        with np.load(course.folder / day.dose_file, allow_pickle=False) as held:
            values, spacing, origin = held["dose_gy"], held["spacing_mm"], held["origin_mm"]
            grid = Grid(values.shape, tuple(spacing), tuple(origin), held["direction"])
            return Volume(grid, values)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, DoseengError) as error:
        raise ConfigError(
            f"the dose of the day of {_name(day)} ('{day.dose_file}' in the course folder) is missing or damaged; "
            "evaluate that day again"
        ) from error


def _store(course: Course, day: CourseDay, dose: Volume | None) -> Course:
    """The work of `store_day`, inside the lock."""
    if not _belongs(course):
        header = _Header(schema_version=SCHEMA_VERSION, plan_uid=course.plan_uid, case_key=course.case_key)
        _write(course.folder / HEADER, header.model_dump_json(indent=1).encode())
    entries, _ = _entries(course)
    replaced = [e.day for e in entries if _is_same_session(e.day, day, course.session_window)]
    sequence, key = max((e.sequence for e in entries), default=0) + 1, _key(day.series_uid)
    dose_file = "" if dose is None else f"day-{key}-{sequence}.npz"
    entry = _Entry(
        schema_version=SCHEMA_VERSION,
        plan_uid=course.plan_uid,
        sequence=sequence,
        day=replace(day, dose_file=dose_file),
    )
    text = entry.model_dump_json(indent=1).encode()
    if dose is not None:
        _write(course.folder / dose_file, _packed(dose))
    # From here on the new day stands; what it replaces is only cleared away.
    _write(course.folder / f"day-{key}.json", text)
    for old in {key, *(_key(d.series_uid) for d in replaced)}:
        if old != key:
            (course.folder / f"day-{old}.json").unlink(missing_ok=True)
        for path in course.folder.glob(f"day-{old}-*.npz"):
            if path.name != dose_file:
                path.unlink(missing_ok=True)
    stored = read_course(course.folder, course.case_key, course.plan_uid, course.session_window)
    return replace(stored, notices=(*stored.notices, *(_replaced_notice(old, day) for old in replaced)))


def _replaced_notice(old: CourseDay, new: CourseDay) -> Notice:
    if old.series_uid == new.series_uid:
        return Notice("day-replaced", _name(old), "the same image was evaluated before; the new evaluation replaces it")
    found = (
        f"an image of the same session, {_name(new)}, was evaluated now and replaces it: one session is one fraction"
    )
    return Notice("day-replaced", _name(old), found)


def _belongs(course: Course) -> bool:
    """True when the folder holds this plan's course, False when it holds none; ConfigError for any other."""
    path = course.folder / HEADER
    try:
        header = _Header.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        if next(course.folder.glob("day-*.json"), None) is None:
            return False
        raise ConfigError(
            f"the course folder '{course.folder}' holds days but no {HEADER}; restore that file or use a new folder"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; check the folder and its permissions") from error
    except ValidationError as error:
        raise ConfigError(f"'{path}' is damaged or no course file; restore it or use a new folder") from error
    if header.schema_version > SCHEMA_VERSION:
        raise ConfigError(
            f"'{path}' has schema version {header.schema_version}, this doseeng knows up to {SCHEMA_VERSION}; update it"
        )
    if (header.plan_uid, header.case_key) != (course.plan_uid, course.case_key):
        raise ConfigError(
            f"the course folder '{course.folder}' belongs to plan {header.plan_uid} of case {header.case_key}, not to "
            f"plan {course.plan_uid} of case {course.case_key}; a new plan starts a new course: give another folder"
        )
    return True


def _entries(course: Course) -> tuple[list[_Entry], list[Notice]]:
    entries: list[_Entry] = []
    notices: list[Notice] = []
    for path in sorted(course.folder.glob("day-*.json")):
        try:
            entry = _Entry.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue  # replaced by another writer since the folder was listed
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"{error.error_count()} errors in its content"
            found = f"cannot be read ({reason}); that day is missing from the course: evaluate it again"
            notices.append(Notice("day-unreadable", path.name, found))
            continue
        if entry.schema_version > SCHEMA_VERSION or entry.plan_uid != course.plan_uid or entry.day.acquired.tzinfo:
            found = "was written by a newer doseeng, for another plan or with a time zone; that day is not counted"
            notices.append(Notice("day-unreadable", path.name, found))
            continue
        if entry.day.dose_file and not (course.folder / entry.day.dose_file).is_file():
            found = f"its dose '{entry.day.dose_file}' is missing; its goals still count: evaluate that day again"
            notices.append(Notice("day-without-dose", path.name, found))
            entry = entry.model_copy(update={"day": replace(entry.day, dose_file="")})
        entries.append(entry)
    return entries, notices


def _is_same_session(one: CourseDay, other: CourseDay, window: timedelta) -> bool:
    return one.series_uid == other.series_uid or abs(one.acquired - other.acquired) <= window


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one writer in; the lock goes with its process, however that ends."""
    import fcntl  # not on every system; only who writes needs it

    with (folder / ".lock").open("wb") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"another program has been writing to the course folder '{folder}' for {LOCK_TIMEOUT_S:g} s; "
                        "wait for it and try again"
                    ) from error
                time.sleep(LOCK_POLL_S)
        yield


def _packed(dose: Volume) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        dose_gy=dose.values,
        spacing_mm=np.asarray(dose.grid.spacing_mm),
        origin_mm=np.asarray(dose.grid.origin_mm),
        direction=dose.grid.direction,
    )
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """A reader sees the old file or the complete new one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _key(series_uid: str) -> str:
    return hashlib.sha256(series_uid.encode()).hexdigest()[:KEY_LENGTH]


def _name(day: CourseDay) -> str:
    return f"{day.acquired:%Y-%m-%d %H:%M}"
