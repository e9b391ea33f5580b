"""The report of a treatment day, made from a synthetic head: no engine, no registration, no DICOM."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cluster.adaptation.result import (
    Band,
    DayGoal,
    EarlierDay,
    FractionReport,
    ImageMethod,
    PathChange,
    StructureChange,
)
from cluster.report import fractionplots
from cluster.report.fraction import write_fraction_report
from doseeng.case import Case, DicomContext
from doseeng.dose import Dose, Quantity
from doseeng.errors import Notice, PlanError
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.scenario import Scenario
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import DisplacementField, RigidTransform, warped
from registration.result import DayRegistration, GateResult
from robust.goals import Goal
from robust.result import DvhBand, GoalResult, RobustReport, Verdict

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PRESCRIPTION_GY = 70.0
TARGET_MM = (22.0, -12.0, 0.0)
HOSTILE = "<script>alert('x')</script>"
SECRET = "Nightingale^Florence"
WRITTEN = datetime(2026, 3, 20, 8, 5, tzinfo=UTC)
TODAY = datetime(2026, 3, 20, 7, 41)
NAN = float("nan")

# Name: kind, centre (mm), half axes (mm), colour, HU.
BODIES: dict[str, tuple[str, Array, Array, tuple[int, int, int] | None, float]] = {
    name: (kind, np.array(centre, dtype=float), np.array(half, dtype=float), color, hu)
    for name, kind, centre, half, color, hu in (
        ("BODY", "EXTERNAL", (0, 0, 0), (82, 98, 300), None, 20.0),
        ("Bone", "ORGAN", (0, 62, 0), (16, 14, 300), (230, 230, 200), 700.0),
        ("SpinalCord", "ORGAN", (0, 60, 0), (6, 6, 300), (255, 255, 0), 40.0),
        ("CTV", "CTV", TARGET_MM, (22, 20, 24), (255, 60, 60), 45.0),
        ("Parotid_L", "ORGAN", (58, 14, 6), (12, 18, 22), (90, 170, 255), -15.0),
        (HOSTILE, "ORGAN", (-58, 14, 6), (12, 18, 22), None, -15.0),
    )
}
GRID = Grid((40, 76, 66), (3.0, 3.0, 3.0), (-97.5, -112.5, -58.5))


def points(grid: Grid) -> Array:
    """(nz, ny, nx, 3) patient points of all voxels."""
    k, j, i = np.indices(grid.shape)
    return grid.to_patient(np.stack([i, j, k], axis=-1))


def inside(name: str, at: Array) -> npt.NDArray[np.bool_]:
    _, centre, half, _, _ = BODIES[name]
    return np.asarray(np.sum(((at - centre) / half) ** 2, axis=-1) <= 1.0)


def contours(name: str, moved: Callable[[Array], Array]) -> tuple[Array, ...]:
    _, centre, half, _, _ = BODIES[name]
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rings = []
    for z in np.arange(-57.0, 58.0, 3.0):
        scale = 1 - ((z - centre[2]) / half[2]) ** 2
        if scale > 0.02:
            x = centre[0] + half[0] * np.sqrt(scale) * np.cos(angle)
            y = centre[1] + half[1] * np.sqrt(scale) * np.sin(angle)
            ring = moved(np.column_stack([x, y, np.full_like(x, z)]))
            ring[:, 2] = z
            rings.append(ring)
    return tuple(rings)


def structure_set(moved: Callable[[Array], Array]) -> StructureSet:
    return StructureSet(
        "planning",
        "1.2.3",
        "1.2.4",
        tuple(
            Structure(number, name, kind, contours(name, moved), color)
            for number, (name, (kind, _, _, color, _)) in enumerate(BODIES.items(), start=1)
        ),
    )


def make_case() -> Case:
    ct = np.full(GRID.shape, -1000.0, dtype=np.float32)
    for name, (*_, hu) in BODIES.items():
        ct[inside(name, points(GRID))] = hu
    ct += np.random.default_rng(1).normal(0, 10, ct.shape).astype(np.float32)
    spots = np.random.default_rng(2).uniform(-25, 25, (60, 2))
    beams = tuple(
        ProtonBeam(
            *(number, f"G{gantry:03d}", "GANTRY1", TARGET_MM, float(gantry), 0.0, spots),
            *(np.repeat(np.linspace(80, 140, 12), 5), np.full(60, 0.75)),
            fractions=35,
        )
        for number, gantry in ((1, 60), (2, 180), (3, 300))
    )
    return Case(
        key="case-7f3a",
        ct=Volume(GRID, ct),
        structures=structure_set(lambda p: p),
        plan=Plan("Oropharynx 35x2", "1.2.5", "HFS", beams, (Prescription(4, PRESCRIPTION_GY),), approval="APPROVED"),
        dicom=DicomContext("1.2.4", patient={"PatientName": SECRET}),
        notices=(Notice("hu-table-assumed", "CT", f"no table named for scanner {HOSTILE}; the default is used"),),
    )


def pull(at: Array, drift_mm: float, thinner: float) -> Array:
    """Displacements (..., 3) to the plan: the target has drifted to the left, the neck has become thinner."""
    near = np.exp(-np.sum(((at - np.array(TARGET_MM)) / 42.0) ** 2, axis=-1))
    out = np.zeros_like(at)
    out[..., 0] = -drift_mm * near + thinner * at[..., 0]
    out[..., 1] = thinner * at[..., 1]
    return out


def make_registration(case: Case, drift_mm: float, thinner: float, seen_z_mm: float) -> DayRegistration:
    """Today's image: the planning CT deformed, 30 HU too bright, noisier, without the slices beyond seen_z_mm."""
    at = points(GRID)
    back = pull(at, drift_mm, thinner)
    pullback = DisplacementField(GRID, back.astype(np.float32))
    pushforward = DisplacementField(GRID, -back.astype(np.float32))
    seen = (np.hypot(at[..., 0], at[..., 1]) < 105) & (at[..., 2] < seen_z_mm)
    day = warped(case.ct, pullback, -1000.0).values + 30.0
    day = day + np.random.default_rng(3).normal(0, 25, day.shape).astype(np.float32)
    turned = np.deg2rad(1.2)
    rotation = np.array([[np.cos(turned), -np.sin(turned), 0], [np.sin(turned), np.cos(turned), 0], [0, 0, 1]])
    rigid = RigidTransform(rotation, np.array([1.0, -3.2, 0.6]), np.array(TARGET_MM))
    return DayRegistration(
        *(rigid, rigid, pullback, pushforward),
        day=Volume(GRID, np.where(seen, day, -1000.0)),
        seen=Volume(GRID, seen),
        planning=case.ct,
        seconds={"rigid": 4.1, "deformable": 38.6, "inverse": 3.3},
        notices=(Notice("field-of-view-truncated", "CBCT", "The shoulders lie outside today's image."),),
    )


def dose_on(shrink_mm: float) -> Dose:
    """A ball of dose about the planned target and three entrance channels; shrink_mm: lost on the right side."""
    at = points(GRID) - np.array(TARGET_MM)
    radius = np.sqrt(np.sum((at / (29, 27, 31)) ** 2, axis=-1)) * 29
    radius = radius + shrink_mm * np.clip(at[..., 0] / 20, 0, 1)
    ball = 1.01 / (1 + np.exp((radius - 29.0) / 1.5))
    tubes = np.zeros(GRID.shape)
    for angle in np.deg2rad([60, 180, 300]):
        along = at[..., 0] * np.sin(angle) - at[..., 1] * np.cos(angle)
        aside = np.hypot(at[..., 0] * np.cos(angle) + at[..., 1] * np.sin(angle), at[..., 2])
        tubes += 0.3 / (1 + np.exp((aside - 22.0) / 2.0)) / (1 + np.exp(-along / 4.0))
    values = PRESCRIPTION_GY * np.maximum(ball, tubes) * inside("BODY", points(GRID))
    return Dose(Volume(GRID, values), Quantity.RBE_WEIGHTED)


def dvh_band(name: str, planned: Dose, today: Dose | None, pullback_mm: Array) -> DvhBand:
    axis = np.linspace(0, 80, 400)
    here = points(GRID)
    rows = [planned.volume.values[inside(name, here)]]
    rows += [today.volume.values[inside(name, here + pullback_mm)]] if today else []
    volume = [[100.0 * np.mean(row >= g) for g in axis] for row in rows] + [[NAN] * len(axis)] * (2 - len(rows))
    return DvhBand(name, float(len(rows[0]) * GRID.voxel_volume_cm3), axis, np.array(volume))


def day_goal(
    goal: Goal, planned: float, value: float, half: tuple[float, float, float], status: Verdict, course: float
) -> DayGoal:
    whole = float(np.hypot.reduce(half))
    reason = f"{goal.name} is {value:.1f} today, planned {planned:.1f}; the limit is {goal.limit:g}."
    return DayGoal(goal, planned, value, Band(*half, value - whole, value + whole), status, reason, course=course)


COVERAGE = Goal("CTV", "V95%", ">=", 95.0, "%", PRESCRIPTION_GY)
GOALS = (
    COVERAGE,
    Goal("CTV", "D2%", "<=", 107.0, "%", PRESCRIPTION_GY),
    Goal("SpinalCord", "D0.03cm3", "<=", 45.0, "Gy"),
    Goal("Parotid_L", "Dmean", "<=", 26.0, "Gy"),
    Goal(HOSTILE, "Dmean", "<=", 26.0, "Gy"),
)
VALUES = {
    Verdict.GREEN: ((99.1, 98.4), (103.0, 103.2), (31.0, 31.6), (21.0, 21.8), (9.0, 9.1)),
    Verdict.RED: ((99.1, 88.2), (103.0, 105.9), (31.0, 34.4), (21.0, 25.4), (9.0, 8.2)),
}
STATUSES = {
    Verdict.GREEN: (Verdict.GREEN,) * 5,
    Verdict.RED: (Verdict.RED, Verdict.GREEN, Verdict.GREEN, Verdict.AMBER, Verdict.GREEN),
}


def day_goals(verdict: Verdict) -> tuple[DayGoal, ...]:
    half = ((0.8, 0.6, 0.3), (0.4, 0.2, 0.5), (0.6, 1.1, 0.4), (0.9, 1.2, 0.3), (0.2, 0.3, 0.1))
    return tuple(
        day_goal(goal, planned, value, parts, status, 0.2 * planned + 0.8 * value)
        for goal, (planned, value), parts, status in zip(GOALS, VALUES[verdict], half, STATUSES[verdict], strict=True)
    )


def earlier_days(count: int) -> tuple[EarlierDay, ...]:
    """Days on which coverage falls slowly; the last but one could not be evaluated."""
    days = []
    for i in range(count):
        lost = i == count - 2
        value = {
            g.name: NAN if lost else p + (v - p) * i / count
            for g, (p, v) in zip(GOALS, VALUES[Verdict.RED], strict=True)
        }
        verdict = Verdict.UNEVALUABLE if lost else Verdict.AMBER if i == count - 1 else Verdict.GREEN
        days.append(
            EarlierDay(
                *(TODAY - timedelta(days=7 * (count - i)), f"1.9.{i}", verdict, value),
                {name: v - 1.2 for name, v in value.items()},
                {name: v + 1.2 for name, v in value.items()},
                {name: verdict if name == COVERAGE.name or lost else Verdict.GREEN for name in value},
            )
        )
    return tuple(days)


def gates(*failed: str) -> tuple[GateResult, ...]:
    listed = (
        ("image-similarity", "CTV", 0.91, 0.6, "", "Today's image and the deformed planning CT look alike there."),
        (
            "image-similarity",
            "Parotid_L",
            0.83,
            0.6,
            "",
            "Today's image and the deformed planning CT look alike there.",
        ),
        ("folding", "deformation", 0.0, 0.0, "%", "The deformation folds nowhere."),
        ("volume-change", "CTV", 1.04, 1.6, "", "The volume changes plausibly."),
        ("inverse-consistency", "deformation", 0.3, 2.0, "mm", "There and back leads to the same point."),
        ("bone-rigidity", "Bone", 0.4, 2.0, "mm", "Bone stays rigid."),
        ("field-of-view", "CTV", 100.0, 99.0, "%", "Today's image shows the target."),
        ("field-of-view", "beam 2 G180", 97.5, 95.0, "%", "Today's image shows the path of the beam."),
    )
    bad = {
        "field-of-view": (61.0, "Today's image ends inside it; scan a longer range."),
        "image-similarity": (0.12, "Unlike."),
    }
    return tuple(
        GateResult(name, where, bad[name][0], limit, unit, False, bad[name][1], ">=")
        if name in failed
        else GateResult(name, where, value, limit, unit, True, message, ">=" if name in bad else "<=")
        for name, where, value, limit, unit, message in listed
    )


def robust_report(planned: Dose, today: Dose) -> RobustReport:
    scenarios = (Scenario("nominal"), Scenario("left+2 mm", (2.0, 0.0, 0.0)), Scenario("range +2 %", rsp_scale=1.02))
    result = GoalResult(COVERAGE, np.array([88.2, 84.9, 86.0]), 1, 1.0, 0.0, Verdict.RED, "Coverage is lost.", 82.0)
    return RobustReport(
        *("case-7f3a", "Oropharynx 35x2", Verdict.RED, ("Coverage is lost.",), scenarios, (result,), ()),
        *(today, today, 1, planned.volume, today.volume),
        notices=(Notice("few-scenarios", "", "Three scenarios only."),),
    )


def make_report(case: Case, verdict: Verdict) -> FractionReport:
    """GREEN: little has changed. RED: the target has drifted by 9 mm and the neck is thinner."""
    red = verdict is Verdict.RED
    drift_mm, thinner = (9.0, 0.05) if red else (1.0, 0.0)
    planned, today = dose_on(0.0), dose_on(4.0 if red else 0.3)
    registration = make_registration(case, drift_mm, thinner, 48.0)
    back = pull(points(GRID), drift_mm, thinner)
    goals = day_goals(verdict)
    return FractionReport(
        case_key=case.key,
        plan_label=case.plan.label,
        acquired=TODAY,
        series_uid="1.2.840.77",
        fraction=18,
        fractions=35,
        verdict=verdict,
        verdict_alone=verdict,
        reasons=tuple(g.reason for g in sorted(goals, key=lambda g: g.status is Verdict.GREEN))[: 2 if red else 1],
        goals=goals,
        gates=gates(),
        path_changes=tuple(
            PathChange(n, f"G{a:03d}", *(drift_mm * np.array([m, m - 0.4, m + 0.4, m + np.sign(m) * 0.7])).tolist())
            for n, a, m in ((1, 60, 0.6), (2, 180, -0.2), (3, 300, -0.5))
        ),
        structure_changes=tuple(
            StructureChange(name, 40.0 + 9 * i, 38.5 + 9 * i, (drift_mm / (i + 1), -0.4, 0.2), 0.8, 0.93 - 0.02 * i)
            for i, name in enumerate(("CTV", "Parotid_L", HOSTILE, "SpinalCord"))
        ),
        couch_shift_mm=(1.0, -3.2, 0.6),
        couch_rotation_deg=0.4,
        residual_rotation_deg=1.1,
        image_method=ImageMethod.VIRTUAL_CT,
        earlier=earlier_days(5) if red else (),
        registration=registration,
        image=warped(case.ct, registration.pullback, -1000.0),
        structures=structure_set(lambda p: p - pull(p, drift_mm, thinner)),
        planned_dose=planned,
        dose=today,
        bands=tuple(dvh_band(name, planned, today, back) for name in BODIES),
        robust=robust_report(planned, today) if red else None,
        notices=(Notice("dose-grid-coarse", "", "The dose grid has 3 mm voxels."),),
        seconds={"read": 2.1, "register": 46.0, "pre-screen": 1.4, "dose": 28.2, "uncertainty": 51.9, "report": 4.0},
        provenance={"doseeng_version": "0.1.0", "machine": {"name": "GANTRY1"}, "missing": NAN, "note": HOSTILE},
    )


def refused(report: FractionReport) -> FractionReport:
    """The same day, when the image ends inside the target: gates fail, and no dose of today is computed."""
    return replace(
        report,
        verdict=Verdict.UNEVALUABLE,
        verdict_alone=Verdict.UNEVALUABLE,
        reasons=("Gate field-of-view failed for CTV: today's image ends inside the target.",),
        goals=tuple(lost(g) for g in report.goals),
        gates=gates("field-of-view"),
        path_changes=tuple(PathChange(c.beam_number, c.beam_name, NAN, NAN, NAN, NAN) for c in report.path_changes),
        dose=None,
        image=None,
        robust=None,
        bands=tuple(replace(b, volume_percent=b.volume_percent * [[1.0], [NAN]]) for b in report.bands),
    )


def lost(goal: DayGoal) -> DayGoal:
    """A goal on a day without an answer."""
    band = Band(NAN, NAN, NAN, NAN, NAN)
    return replace(goal, value=NAN, band=band, status=Verdict.UNEVALUABLE, reason="No dose of today.", course=NAN)


def nothing(report: FractionReport) -> FractionReport:
    """A day whose image could not be registered at all."""
    bare = refused(report)
    return replace(
        bare,
        reasons=("The image of the day is empty.",),
        gates=(),
        path_changes=(),
        structure_changes=(),
        couch_shift_mm=(NAN, NAN, NAN),
        couch_rotation_deg=NAN,
        residual_rotation_deg=NAN,
        registration=None,
        structures=None,
        planned_dose=None,
        bands=(),
        seconds={},
    )


class Page(HTMLParser):
    """The elements, attributes and texts of a document."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._silent = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._silent = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def visible(self) -> str:
        """All text a person reads, with single blanks."""
        return " ".join(" ".join(self.texts).split())


def section(html: str, name: str) -> str:
    start = html.index(f'aria-labelledby="{name}"')
    return html[start : html.index("</section>", start)]


def rows(html: str) -> list[list[str]]:
    """Texts of the cells of all rows of the bodies of the tables in a piece of a page."""
    bodies = "".join(re.findall(r"<tbody.*?</tbody>", html, re.DOTALL))
    cells = [
        re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", bodies, re.DOTALL)
    ]
    return [[Page(cell).visible for cell in row] for row in cells]


def images(html: str) -> list[bytes]:
    return [base64.b64decode(i["src"].partition(",")[2]) for i in Page(html).all("img")]


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


@pytest.fixture(scope="module")
def report(case: Case) -> FractionReport:
    return make_report(case, Verdict.RED)


@pytest.fixture(scope="module")
def html(report: FractionReport, case: Case, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new folder" / "fraction.html"
    assert write_fraction_report(report, case, path, written=WRITTEN, stack_size=3) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def short(report: FractionReport, case: Case, path: Path) -> str:
    """A report with the fewest pictures."""
    return write_fraction_report(report, case, path, written=WRITTEN, stack_size=1).read_text(encoding="utf-8")


def test_head_of_the_page_answers_the_question(page: Page, report: FractionReport) -> None:
    for words in (
        "Oropharynx 35x2 fraction 18 of 35",
        "Image acquired 2026-03-20 07:41",
        "Dose computed on planning CT deformed to today",
        "Verdict: RED Today's anatomy misses a goal",
        "Research and quality-assurance tool: it does not release a treatment.",
        "Coverage: CTV V 95 % 88.2 % missed today; 87.2 to 89.2; plan 99.1; goal ≥ 95",
        "Worst organ goal: Parotid_L D mean 25.4 Gy (RBE 1.1) in doubt",
        "Couch shift 3.4 mm left +1.0, posterior −3.2, superior +0.6 mm; turned by 0.4°, 1.1° remain",
        "Quality gates passed 8 of 8",
        "Worst path change +11.7 mm more water in the way of field 1 G060; +5.4 mm on average",
    ):
        assert words in page.visible
    positions = [page.visible.index(reason) for reason in report.reasons]
    assert positions == sorted(positions)


def test_goal_table_shows_the_numbers_of_the_report(html: str, report: FractionReport) -> None:
    table = rows(section(html, "goals"))
    lines, reasons = table[::2], table[1::2]
    for line, reason, day in zip(lines, reasons, report.goals, strict=True):
        name, limit, planned, today, bar, course, status = line
        assert name.startswith(day.goal.structure)
        assert limit.startswith(("≥" if day.goal.relation == ">=" else "≤") + f" {day.goal.limit:g}")
        assert float(planned) == pytest.approx(day.planned, abs=0.0501)
        found = re.fullmatch(r"(\S+) \((\S+)\) \[(\S+) to (\S+)\]", today)
        assert found
        numbers = [float(n.replace("−", "-")) for n in found.groups()]
        wanted = [day.value, day.value - day.planned, day.band.low, day.band.high]
        assert numbers == pytest.approx(wanted, abs=0.0501)
        assert bar == ""
        assert float(course.split()[0]) == pytest.approx(day.course, abs=0.0501)
        assert status == {"RED": "missed", "AMBER": "in doubt", "GREEN": "met"}[day.status.value]
        assert reason == [day.reason]
    assert lines[0][5].endswith("misses it")
    assert lines[1][5].endswith("meets it")


def test_a_goal_the_plan_itself_misses_says_so(report: FractionReport, case: Case, tmp_path: Path) -> None:
    accepted = replace(report.goals[0], planned=94.0, accepted_in_plan=True)
    html = short(replace(nothing(report), goals=(accepted,)), case, tmp_path / "r.html")
    assert rows(section(html, "goals"))[0][2] == "94.0 misses the limit, accepted in the plan"


def test_failed_gates_come_first_and_stay_in_sight(report: FractionReport, case: Case, tmp_path: Path) -> None:
    html = short(replace(nothing(report), gates=gates("field-of-view")), case, tmp_path / "r.html")
    gate_section = section(html, "gates")
    table = rows(gate_section)
    assert table[0] == ["field-of-view", "CTV", "61.0 %", "≥ 99 %", "failed", table[0][5]]
    assert [row[4] for row in table] == ["failed"] * 2 + ["passed"] * 6
    assert {row[0]: row[3] for row in table}["inverse-consistency"] == "≤ 2 mm"
    assert gate_section.index("failed") < gate_section.index("<details") < gate_section.index("image-similarity")
    assert "Quality gates passed 6 of 8 failed: field-of-view" in Page(html).visible


def test_other_tables_show_the_numbers_of_the_report(html: str) -> None:
    paths = rows(section(html, "paths"))
    assert paths[0] == ["1 G060", "+5.4", "+1.8 to +9.0", "+11.7", ""]
    assert paths[2] == ["3 G300", "−4.5", "−8.1 to −0.9", "−10.8", ""]
    changes = rows(section(html, "changes"))
    assert changes[0] == ["CTV", "40.0", "38.5", "−3.7", "+9.0", "−0.4", "+0.2", "9.0", "0.8", "0.93"]
    uncertainty = rows(section(html, "uncertainty"))
    assert uncertainty[0] == ["CTV V 95 %", "0.80", "0.60", "0.30", "88.2", "87.2 to 89.2", "%"]
    assert '<td class="num strong">0.80</td><td class="num">0.60</td>' in section(html, "uncertainty")
    timings = rows(section(html, "timings"))
    assert ["dose", "28.2 s", ""] in timings
    assert ["deformable", "38.6 s", ""] in timings
    assert "133.6 s in all" in section(html, "timings")
    robust = rows(section(html, "robust"))
    assert robust == [["CTV V 95 %", "≥ 95 %", "88.2", "84.9", "left+2 mm", "0 of 3", "missed"]]


def test_notices_of_every_part_are_listed_once(page: Page) -> None:
    for code in ("hu-table-assumed", "field-of-view-truncated", "dose-grid-coarse", "few-scenarios"):
        assert page.visible.count(code) == 1
    assert "image series UID 1.2.840.77" in page.visible


def test_the_rule_of_two_days_is_explained(report: FractionReport, case: Case, tmp_path: Path) -> None:
    day = replace(nothing(report), verdict=Verdict.RED, verdict_alone=Verdict.RED)
    html = short(replace(day, verdict_alone=Verdict.AMBER), case, tmp_path / "r.html")
    assert "This day alone would be AMBER The days before it make it RED." in Page(html).visible
    assert "A limit has lain within the uncertainty of a value once more" in Page(html).visible
    assert "This day alone" not in Page(short(day, case, tmp_path / "s.html")).visible


def test_course_shows_every_day_and_a_trend_per_goal(html: str, page: Page, report: FractionReport) -> None:
    course = section(html, "course")
    assert [Page(li).visible for li in re.findall(r"<li.*?</li>", course, re.DOTALL)] == [
        "2026-02-13 GREEN",
        "2026-02-20 GREEN",
        "2026-02-27 GREEN",
        "2026-03-06 UNEVALUABLE",
        "2026-03-13 AMBER",
        "2026-03-20 RED",
    ]
    assert course.count('class="trend"') == len(report.goals)
    assert "CTV V 95 % over the course: plan: 99.1; 2026-02-13: 99.1 (97.9 to 100.3); " in course
    assert "first evaluated day" not in page.visible


def test_first_day_of_a_course_says_that_it_is_the_first(case: Case, tmp_path: Path) -> None:
    html = short(make_report(case, Verdict.GREEN), case, tmp_path / "r.html")
    assert "is 98.4 today, planned 99.1" in html
    visible = Page(html).visible
    assert "Verdict: GREEN Every goal holds on today's anatomy" in visible
    assert "This is the first evaluated day of the course: a trend begins here." in visible
    assert 'aria-labelledby="robust"' not in html


def test_trend_places_values_limit_and_gaps(report: FractionReport) -> None:
    """Coverage in SVG units: y falls with the value, the lost day is a gap, the side below the limit is shaded."""
    trend = fractionplots.trend(report.goals[0], report.earlier, report.acquired)
    assert len(trend.points) == 1 + 5 + 1
    assert trend.points[0].status is None
    assert trend.points[4].y is None
    assert trend.points[4].status is Verdict.UNEVALUABLE
    assert trend.line.count("M") == 2
    assert trend.missed == (trend.limit, fractionplots.BOTTOM)
    known = {p.words: p for p in trend.points if p.y is not None}
    today = trend.points[-1]
    assert today.y is not None
    assert today.low is not None
    assert today.high is not None
    assert today.high < today.y < today.low
    assert today.y > trend.limit > (trend.points[0].y or 0.0)
    ticks = {t.label: t.at for t in trend.value_ticks}
    per_unit = (ticks["90"] - ticks["95"]) / 5.0
    assert ticks["95"] == pytest.approx(trend.limit, abs=0.1)
    assert today.y == pytest.approx(trend.limit + (95.0 - 88.2) * per_unit, abs=0.2)
    assert all(fractionplots.TOP <= (p.y or 50.0) <= fractionplots.BOTTOM for p in known.values())


def test_trend_of_a_long_course_has_few_dates_and_always_today(report: FractionReport) -> None:
    days = tuple(replace(report.earlier[0], acquired=TODAY - timedelta(days=30 - i)) for i in range(30))
    trend = fractionplots.trend(report.goals[0], days, TODAY)
    labels = [t.label for t in trend.date_ticks]
    assert len(labels) <= 7
    assert labels[0] == "plan"
    assert labels[-1] == "20 Mar"
    assert np.diff([t.at for t in trend.date_ticks]).min() > 30


def test_bars_keep_their_order(report: FractionReport) -> None:
    bar = fractionplots.day_bar(report.goals[0])
    assert bar is not None
    assert bar.low is not None
    assert bar.value is not None
    assert bar.high is not None
    assert bar.planned is not None
    assert 0 < bar.low < bar.value < bar.high < bar.limit < bar.planned < 100
    blank = fractionplots.day_bar(lost(report.goals[0]))
    assert blank is not None
    assert (blank.value, blank.low, blank.high) == (None, None, None)
    assert fractionplots.day_bar(replace(lost(report.goals[0]), planned=NAN)) is None
    reach = fractionplots.path_reach_mm(report.path_changes)
    bars = [fractionplots.path_bar(c, reach) for c in report.path_changes]
    assert reach == pytest.approx(11.7)
    assert all(b is not None and 0 < b.low < b.mean < b.high < 100 for b in bars)
    assert bars[0] is not None
    assert bars[0].worst > bars[0].high > 50 > (bars[2].mean if bars[2] else 100)
    still = replace(report.path_changes[0], mean_mm=0.1, p05_mm=0.0, p95_mm=0.2, worst_mm=0.3)
    assert fractionplots.path_reach_mm([still]) == 3.0


def test_embedded_data_are_valid_json_and_hold_both_histograms(html: str, report: FractionReport) -> None:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert block
    data = json.loads(block[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    band = next(b for b in report.bands if b.structure == "CTV")
    curve = next(c for c in data["dvh"]["curves"] if c["structure"] == "CTV")
    planned, today = (np.interp(data["dvh"]["dose_gy"], band.dose_gy, row, right=0.0) for row in band.volume_percent)
    assert curve["planned"] == pytest.approx(planned.tolist(), abs=0.06)
    assert curve["nominal"] == pytest.approx(today.tolist(), abs=0.06)
    assert data["dose_unit"] == "Gy (RBE 1.1)"


def test_doses_read_from_the_curves_are_todays_then_the_plans(html: str) -> None:
    ctv = next(row for row in rows(section(html, "dvh")) if row[0] == "CTV" and len(row) == 6)
    today, planned = ctv[2].split()
    assert float(today) < 60 < float(planned)


def test_pictures_are_complete_and_differ(html: str) -> None:
    pictures = images(html)
    assert len(pictures) == (3 + 2) * (4 + 3) + 3
    assert all(p[:4] == b"RIFF" and len(p) > 2000 for p in pictures)
    assert len(set(pictures)) == len(pictures)
    assert all(i["alt"] for i in Page(html).all("img"))


def picture_named(html: str, caption: str) -> Array:
    """The first picture with a caption, RGB."""
    match = re.search(rf'<img src="data:image/webp;base64,([^"]*)"[^>]*>\s*<figcaption>{caption}<', html)
    assert match
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))).convert("RGB"), dtype=float)


def tint(picture: Array) -> float:
    """Share of clearly coloured pixels."""
    return float(np.mean(np.ptp(picture, axis=2) > 60))


def test_deformation_takes_the_colour_out_of_the_overlay(html: str) -> None:
    before, after = picture_named(html, "both, not deformed"), picture_named(html, "both, planning CT deformed")
    assert tint(before) > 0.03
    assert tint(after) < 0.4 * tint(before)


def test_a_wrong_deformation_leaves_colour_in_the_overlay(report: FractionReport, case: Case, tmp_path: Path) -> None:
    assert report.registration
    none = DisplacementField(GRID, np.zeros((*GRID.shape, 3), dtype=np.float32))
    html = short(replace(report, registration=replace(report.registration, pullback=none)), case, tmp_path / "r.html")
    before, after = picture_named(html, "both, not deformed"), picture_named(html, "both, planning CT deformed")
    assert tint(after) == pytest.approx(tint(before), abs=0.01)
    assert "at most 0.0 mm" in html


def test_arrows_and_bands_show_where_the_tissue_went(report: FractionReport, case: Case, tmp_path: Path) -> None:
    """A shift of the whole patient by 12 mm is one band everywhere, with the largest motion in the caption."""
    assert report.registration
    shift = np.zeros((*GRID.shape, 3), dtype=np.float32)
    shift[..., 0] = -12.0
    moved = replace(report.registration, pullback=DisplacementField(GRID, shift))
    html = short(replace(report, registration=moved), case, tmp_path / "r.html")
    assert html.count("at most 12.0 mm</figcaption>") == 3


def test_dose_difference_is_blue_where_dose_is_lost(report: FractionReport, case: Case, tmp_path: Path) -> None:
    assert report.dose
    assert report.planned_dose
    page = short(report, case, tmp_path / "a.html")
    lost = picture_named(page, "today minus planned")
    planned, today = report.planned_dose.volume.values, report.dose.volume.values
    worst = 100 * float((today - planned).min()) / PRESCRIPTION_GY
    written = re.search(r"Axial plane at z = 1.5 mm, today minus planned: −(\S+) % to 0.0 %", page)
    assert written
    assert -float(written[1]) == pytest.approx(worst, rel=0.1)
    swapped = replace(report, dose=report.planned_dose, planned_dose=report.dose)
    gained = picture_named(short(swapped, case, tmp_path / "b.html"), "today minus planned")

    def pixels(picture: Array, more: int, less: int) -> float:
        return float(np.mean(picture[..., more] - picture[..., less] > 60))

    assert pixels(lost, 2, 0) > 3 * pixels(gained, 2, 0)
    assert pixels(gained, 0, 2) > 3 * pixels(lost, 0, 2)


def test_a_brighter_image_of_the_day_is_shown_in_a_moved_window(page: Page) -> None:
    found = re.search(r"for today's image it is moved by \+(\d+) HU to match", page.visible)
    assert found
    assert float(found[1]) == pytest.approx(30, abs=3)


def test_a_refused_day_shows_why_and_what_exists(report: FractionReport, case: Case, tmp_path: Path) -> None:
    html = short(refused(report), case, tmp_path / "r.html")
    visible = Page(html).visible
    assert "Verdict: UNEVALUABLE Image or registration cannot be trusted" in visible
    assert "Gate field-of-view failed for CTV" in visible
    assert "No dose of today was computed." in visible
    assert "Dose computed on nothing: not computed" in visible
    assert "No goal has a value today." in visible
    assert len(images(html)) == 3 * (4 + 1) + 3
    assert all(row[3] == "–" and row[6] == "no answer" for row in rows(section(html, "goals"))[::2])
    assert all(row[1:] == ["–", "–", "–", "–"] for row in rows(section(html, "paths")))
    assert not re.search(r"\bnan\b|NaN", re.sub(r'src="data:[^"]*"|id="provenance".*', "", html, flags=re.DOTALL))


def test_a_day_without_registration_is_a_page_without_pictures(
    report: FractionReport, case: Case, tmp_path: Path
) -> None:
    html = short(nothing(report), case, tmp_path / "r.html")
    visible = Page(html).visible
    assert images(html) == []
    for words in (
        "The image of the day is empty.",
        "There is no registration to look at",
        "No dose of today was computed.",
        "No gate was measured.",
        "Not screened.",
        "No structure was carried to today's image.",
        "Couch shift – not found",
    ):
        assert words in visible


def test_no_goal_and_no_structure_still_make_a_page(report: FractionReport, case: Case, tmp_path: Path) -> None:
    bare_case = replace(
        case, structures=replace(case.structures, structures=()), plan=replace(case.plan, prescriptions=())
    )
    html = short(replace(nothing(report), goals=()), bare_case, tmp_path / "r.html")
    assert "No goal was evaluated." in html


def test_nothing_is_loaded_from_elsewhere_and_the_file_is_small(
    page: Page, html: str, report: FractionReport, case: Case, tmp_path: Path
) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'src="data:[^"]*"', "", html), re.IGNORECASE)
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "base", "audio", "video"} == set()
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert page.all("meta")[1]["content"].startswith("default-src 'none'; img-src data:;")
    assert write_fraction_report(report, case, tmp_path / "whole.html").stat().st_size < 3e6


def test_names_from_files_never_become_markup(html: str, page: Page) -> None:
    assert "alert('x')</script>" not in html
    assert HOSTILE in page.visible
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_only_the_script_of_the_report_may_run(html: str) -> None:
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html


def test_identity_of_the_patient_stays_out(html: str) -> None:
    assert SECRET not in html
    assert "Nightingale" not in html


def test_references_inside_the_page_lead_somewhere(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {use["href"].lstrip("#") for use in page.all("use")}
    wanted |= {
        a[name] for _, a in page.elements for name in ("aria-labelledby", "aria-describedby", "for") if name in a
    }
    assert wanted <= set(ids)


def test_report_of_another_case_is_refused(report: FractionReport, case: Case, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'case-7f3a', but the case given is 'other'"):
        write_fraction_report(report, replace(case, key="other"), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_same_input_gives_the_same_file(html: str, report: FractionReport, case: Case, tmp_path: Path) -> None:
    again = write_fraction_report(report, case, tmp_path / "r.html", written=WRITTEN, stack_size=3)
    assert again.read_text(encoding="utf-8") == html
