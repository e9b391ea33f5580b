"""The course store: order, replacement, nothing counted twice, and folders that were damaged or are in use."""

import fcntl
import json
import multiprocessing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from cluster.adaptation import course as store
from cluster.adaptation.course import Course, CourseDay, as_earlier, course_day, day_dose, days_before, read_course
from cluster.adaptation.course import store_day as keep
from cluster.adaptation.result import Band, DayGoal, FractionReport, ImageMethod
from doseeng.errors import ConfigError
from doseeng.grid import Grid, Volume
from doseeng.waterpath import PathChange
from registration.result import GateResult
from robust.goals import Goal
from robust.result import Verdict

KEY, PLAN = "0123456789ab", "1.2.826.0.1.3680043.10.4711.1"
MONDAY = datetime(2026, 3, 2, 8, 15, 30, 250000)
OBLIQUE = Grid((3, 4, 5), (2.0, 2.5, 3.0), (-1.0, 2.0, -3.0), [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def a_day(number: int, **changes: object) -> CourseDay:
    """The fraction of a working day, with every kind of content."""
    day = CourseDay(
        acquired=MONDAY + timedelta(days=number),
        series_uid=f"1.2.3.{number}",
        verdict=Verdict.RED,
        verdict_alone=Verdict.AMBER,
        values={"CTV V95%": 98.25, "Cord D2%": float("nan")},
        low={"CTV V95%": 97.0, "Cord D2%": float("nan")},
        high={"CTV V95%": 99.0, "Cord D2%": float("nan")},
        statuses={"CTV V95%": Verdict.AMBER, "Cord D2%": Verdict.UNEVALUABLE},
        reasons=("two AMBERs in a row",),
        gates=(GateResult("inverse-consistency", "CTV", float("nan"), 2.0, "mm", False, "could not be measured"),),
        path_changes=(PathChange(1, "G0", 1.5, -0.5, 3.5, 4.25),),
        seconds={"registration": 12.5},
        provenance={"code_version": "1", "settings": {"spacing_mm": [3.0, 3.0, 3.0]}},
        fraction=number + 1,
    )
    return replace(day, **changes)


def a_dose(value: float) -> Volume:
    return Volume(OBLIQUE, np.random.default_rng(int(value)).random(OBLIQUE.shape, np.float32) + np.float32(value))


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return read_course(tmp_path / "course", KEY, PLAN)


def again(course: Course) -> Course:
    return read_course(course.folder, KEY, PLAN)


def acquired(course: Course) -> list[int]:
    return [(day.acquired - MONDAY).days for day in course.days]


def test_a_new_course_is_empty_and_leaves_no_trace(course: Course) -> None:
    assert (course.days, course.notices) == ((), ())
    assert not course.folder.exists()


def test_a_day_comes_back_as_it_was(course: Course) -> None:
    keep(course, a_day(0), a_dose(60))
    (day,) = again(course).days
    assert repr(replace(day, dose_file="")) == repr(a_day(0))  # NaN is not equal to itself
    dose = day_dose(course, day)
    assert dose is not None
    assert dose.grid.is_same(OBLIQUE)
    np.testing.assert_array_equal(dose.values, a_dose(60).values)
    earlier = as_earlier(day)
    assert (earlier.verdict, earlier.statuses["CTV V95%"], earlier.high["CTV V95%"]) == (Verdict.RED, Verdict.AMBER, 99)


def test_what_is_stored_is_json_of_the_standard(course: Course) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    keep(course, a_day(0))
    for path in course.folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_fractions_are_in_order_of_acquisition_whatever_the_order_of_evaluation(course: Course) -> None:
    for number in (3, 0, 2, 1):
        course = keep(course, a_day(number, series_uid=f"1.2.{9 - number}"))
    assert acquired(course) == [0, 1, 2, 3]
    assert course.notices == ()
    assert [day.series_uid for day in days_before(course, MONDAY + timedelta(days=2))] == ["1.2.9", "1.2.8"]


def test_reprocessing_a_day_replaces_it(course: Course) -> None:
    keep(course, a_day(0), a_dose(60))
    keep(course, a_day(1), a_dose(70))
    keep(course, a_day(0, verdict=Verdict.GREEN), a_dose(50))
    found = keep(course, a_day(0, verdict=Verdict.GREEN), a_dose(40))
    assert acquired(found) == [0, 1]
    assert found.days[0].verdict is Verdict.GREEN
    assert [n.code for n in found.notices] == ["day-replaced"]
    assert [float(np.floor(day_dose(found, day).values.min())) for day in found.days] == [40, 70]
    assert len(list(course.folder.glob("*.npz"))) == 2


def test_two_images_of_one_session_are_one_fraction(course: Course) -> None:
    """A repeated cone-beam CT counts once, the second fraction of a twice-daily treatment counts too."""
    keep(course, a_day(0), a_dose(60))
    repeated = a_day(0, series_uid="1.2.4", acquired=MONDAY + timedelta(minutes=20))
    afternoon = a_day(0, series_uid="1.2.5", acquired=MONDAY + timedelta(hours=6))
    found = keep(course, repeated)
    assert [n.code for n in found.notices] == ["day-replaced"]
    assert "2026-03-02 08:35" in found.notices[0].message
    found = keep(course, afternoon)
    assert [day.series_uid for day in found.days] == ["1.2.4", "1.2.5"]
    assert list(course.folder.glob("*.npz")) == []
    assert [day.series_uid for day in days_before(found, afternoon.acquired)] == ["1.2.4"]
    assert days_before(found, repeated.acquired - timedelta(hours=1)) == ()


def test_the_window_of_a_session_can_be_chosen(tmp_path: Path) -> None:
    course = read_course(tmp_path / "course", KEY, PLAN, session_window=timedelta(minutes=10))
    course = keep(course, a_day(0))
    course = keep(course, a_day(0, series_uid="1.2.4", acquired=MONDAY + timedelta(minutes=20)))
    assert len(course.days) == 2
    wider = again(course)
    assert [day.series_uid for day in wider.days] == ["1.2.4"]
    assert [n.code for n in wider.notices] == ["day-superseded"]


def test_a_writer_stopped_half_way_leaves_nothing_counted_twice(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(course, a_day(0), a_dose(60))
    repeated = a_day(0, series_uid="1.2.4", acquired=MONDAY + timedelta(minutes=20))

    def stop(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", lambda path, content: path.write_bytes(content))
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            keep(course, repeated, a_dose(50))
    found = again(course)
    assert [day.series_uid for day in found.days] == ["1.2.4"]
    assert [n.code for n in found.notices] == ["day-superseded"]
    assert [n.code for n in keep(found, repeated).notices] == ["day-replaced", "day-replaced"]
    assert [day.series_uid for day in again(course).days] == ["1.2.4"]
    assert again(course).notices == ()


def test_a_failed_write_leaves_the_old_day(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(course, a_day(0), a_dose(60))
    before = sorted(p.name for p in course.folder.iterdir())

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(ConfigError, match="No space left on device; check space and permissions"):
            keep(course, a_day(0, verdict=Verdict.GREEN), a_dose(50))
    (day,) = again(course).days
    assert day.verdict is Verdict.RED
    assert day_dose(course, day) is not None
    assert sorted(p.name for p in course.folder.iterdir()) == before


@pytest.mark.parametrize(
    "content", [b"", b'{"schema_version": 1', b"[]", b"\xff\x00", b'{"schema_version": 1, "patient": "x"}']
)
def test_a_damaged_entry_is_named_and_the_others_kept(course: Course, content: bytes) -> None:
    keep(course, a_day(0))
    (damaged,) = course.folder.glob("day-*.json")
    keep(course, a_day(1))
    damaged.write_bytes(content)
    found = again(course)
    assert acquired(found) == [1]
    assert [(n.code, n.where) for n in found.notices] == [("day-unreadable", damaged.name)]
    assert acquired(keep(found, a_day(0))) == [0, 1]
    assert again(course).notices == ()


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"plan_uid": "1.2.9"}])
def test_entries_of_others_do_not_count(course: Course, change: dict[str, object]) -> None:
    keep(course, a_day(0))
    (path,) = course.folder.glob("day-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert [n.code for n in again(course).notices] == ["day-unreadable"]
    assert again(course).days == ()


def test_a_missing_dose_is_named_and_the_goals_still_count(course: Course) -> None:
    keep(course, a_day(0), a_dose(60))
    (path,) = course.folder.glob("*.npz")
    path.unlink()
    found = again(course)
    assert [n.code for n in found.notices] == ["day-without-dose"]
    assert found.days[0].values["CTV V95%"] == 98.25
    assert day_dose(found, found.days[0]) is None


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_damaged_dose_is_an_error_that_names_the_file(course: Course, cut: int) -> None:
    (day,) = keep(course, a_day(0), a_dose(60)).days
    path = course.folder / day.dose_file
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=f"2026-03-02 08:15 \\('{day.dose_file}'"):
        day_dose(course, day)


@pytest.mark.parametrize(("key", "plan"), [("ffffffffffff", PLAN), (KEY, "1.2.9")])
def test_another_plans_course_is_refused(course: Course, key: str, plan: str) -> None:
    keep(course, a_day(0))
    with pytest.raises(ConfigError, match=f"belongs to plan {PLAN} of case {KEY}, not to plan {plan} of case {key}"):
        read_course(course.folder, key, plan)
    with pytest.raises(ConfigError, match="belongs to plan"):
        keep(replace(course, case_key=key, plan_uid=plan), a_day(1))
    assert acquired(again(course)) == [0]


def test_a_course_that_lost_or_changed_its_header_is_refused(course: Course) -> None:
    keep(course, a_day(0))
    header = course.folder / "course.json"
    content = json.loads(header.read_text())
    for broken, message in (
        ("{", "is damaged or no course file"),
        (json.dumps({**content, "extra": 1}), "is damaged or no course file"),
        (json.dumps({**content, "schema_version": 9}), "has schema version 9, this doseeng knows up to 1"),
    ):
        header.write_text(broken)
        with pytest.raises(ConfigError, match=message):
            again(course)
    header.unlink()
    with pytest.raises(ConfigError, match=r"holds days but no course\.json"):
        again(course)


def test_a_time_zone_is_refused(course: Course) -> None:
    with pytest.raises(ConfigError, match="without time zone"):
        keep(course, a_day(0, acquired=MONDAY.replace(tzinfo=UTC)))


def test_a_folder_that_cannot_be_made_is_named(course: Course) -> None:
    course.folder.write_text("a file")
    with pytest.raises(ConfigError, match="cannot write to the course folder"):
        keep(course, a_day(0))


def test_a_second_writer_waits_and_then_says_why(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    course = keep(course, a_day(0))
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.1)
    with (course.folder / ".lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"another program has been writing .* for 0\.1 s"):
            keep(course, a_day(1))
    assert acquired(keep(course, a_day(1))) == [0, 1]


def _keep_three(folder: Path, first: int) -> None:
    course = read_course(folder, KEY, PLAN)
    for number in range(first, first + 3):
        keep(course, a_day(number), a_dose(number))


def test_writers_at_the_same_time_lose_nothing(course: Course) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_keep_three, args=(course.folder, first)) for first in (0, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = again(course)
    assert acquired(found) == [0, 1, 2, 3, 4, 5]
    assert found.notices == ()
    assert sorted(json.loads(p.read_text())["sequence"] for p in course.folder.glob("day-*.json")) == [1, 2, 3, 4, 5, 6]


def test_names_hold_no_identity(course: Course) -> None:
    keep(course, a_day(0), a_dose(60))
    names = sorted(p.name for p in course.folder.iterdir())
    assert not any("1.2.3" in name or KEY in name or PLAN in name for name in names)
    assert names[:2] == [".lock", "course.json"]


def test_a_report_becomes_a_day() -> None:
    """Of two goals of one name, the day remembers the worse status."""
    band = Band(0.1, 0.2, 0.3, 92.0, 94.0)
    at_least, at_most = (Goal("CTV", "V95%", r, 95.0, "%", 60.0) for r in (">=", "<="))
    goals = (
        DayGoal(at_least, 98.0, 93.0, band, Verdict.RED, "misses"),
        DayGoal(at_most, 98.0, 93.0, band, Verdict.GREEN, "keeps"),
    )
    gate = GateResult("folding", "CTV", 0.0, 0.0, "%", True, "none")
    report = FractionReport(
        case_key=KEY,
        plan_label="P",
        acquired=MONDAY,
        series_uid="1.2.3",
        fraction=4,
        fractions=30,
        verdict=Verdict.RED,
        verdict_alone=Verdict.AMBER,
        reasons=("because",),
        goals=goals,
        gates=(gate,),
        path_changes=(),
        structure_changes=(),
        couch_shift_mm=(1.0, 2.0, 3.0),
        couch_rotation_deg=0.5,
        residual_rotation_deg=0.1,
        image_method=ImageMethod.VIRTUAL_CT,
        seconds={"dose": 3.0},
        provenance={"seed": 1},
    )
    day = course_day(report)
    assert (day.acquired, day.series_uid, day.verdict, day.verdict_alone) == (
        MONDAY,
        "1.2.3",
        Verdict.RED,
        Verdict.AMBER,
    )
    assert (day.values, day.low, day.high) == ({"CTV V95%": 93.0}, {"CTV V95%": 92.0}, {"CTV V95%": 94.0})
    assert (day.fraction, day.statuses) == (4, {"CTV V95%": Verdict.RED})
    assert (day.reasons, day.gates, day.seconds, day.provenance) == (("because",), (gate,), {"dose": 3.0}, {"seed": 1})
