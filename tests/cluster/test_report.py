"""The HTML report, made from a synthetic thorax: no engine, no DICOM, no reference data."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cluster.report import colors, plots, text, write_report
from cluster.report.beams import beam_table
from cluster.report.slices import SOFT_TISSUE, THORAX, choose_window, draw, make_scene
from cluster.report.view import Plane, make_view
from doseeng.case import Case, DicomContext
from doseeng.dose import Dose, Quantity
from doseeng.errors import Notice, PlanError
from doseeng.grid import Grid, Volume
from doseeng.plan import PhotonBeam, Plan, Prescription, ProtonBeam, RangeShifter
from doseeng.scenario import Scenario
from doseeng.structures import Structure, StructureSet
from robust.goals import Goal
from robust.result import CourseProbability, DvhBand, GoalResult, RobustReport, Verdict

Array = npt.NDArray[np.float64]

PRESCRIPTION_GY = 60.0
TARGET_MM = (70.0, -10.0, 0.0)
HOSTILE = "<script>alert('x')</script>"
SECRET = "Nightingale^Florence"
WRITTEN = datetime(2026, 3, 14, 9, 26, tzinfo=UTC)

# Name: kind, centre (mm), half axes (mm), colour.
BODIES: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float], tuple[int, int, int] | None]] = {
    "BODY": ("EXTERNAL", (0, 0, 0), (175, 115, 400), None),
    "Lung_L": ("ORGAN", (75, -5, 0), (55, 75, 110), (90, 170, 255)),
    "Lung_R": ("ORGAN", (-75, -5, 0), (55, 75, 110), (120, 220, 160)),
    "SpinalCord": ("ORGAN", (0, 75, 0), (8, 8, 400), (255, 255, 0)),
    "CTV": ("CTV", TARGET_MM, (20, 20, 20), (255, 60, 60)),
    HOSTILE: ("ORGAN", (0, -45, 0), (28, 28, 40), None),
}
HU = {"BODY": 20.0, "Lung_L": -760.0, "Lung_R": -760.0, "SpinalCord": 45.0, "CTV": 35.0, HOSTILE: 50.0}
CT_GRID = Grid((48, 80, 126), (3.0, 3.0, 3.0), (-187.5, -118.5, -70.5))
DOSE_GRID = Grid((36, 66, 90), (4.0, 4.0, 4.0), (-178.0, -130.0, -70.0))
SCENARIOS = (
    Scenario("nominal"),
    *(
        Scenario(f"{axis}{sign}5 mm", tuple(5.0 * s * (i == k) for k in range(3)))
        for i, axis in enumerate(("left", "posterior", "superior"))
        for sign, s in (("+", 1), ("-", -1))
    ),
    Scenario("range +3.5 %", rsp_scale=1.035),
    Scenario("range -3.5 %", rsp_scale=0.965),
)


def points(grid: Grid) -> Array:
    """(nz, ny, nx, 3) patient points of all voxels."""
    k, j, i = np.indices(grid.shape)
    return grid.to_patient(np.stack([i, j, k], axis=-1))


def inside(name: str, at: Array) -> npt.NDArray[np.bool_]:
    _, centre, half, _ = BODIES[name]
    return np.sum(((at - np.array(centre)) / np.array(half)) ** 2, axis=-1) <= 1.0


def ring_contours(name: str) -> tuple[Array, ...]:
    _, centre, half, _ = BODIES[name]
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rings = []
    for z in np.arange(-69.0, 71.0, 3.0):
        scale = 1 - ((z - centre[2]) / half[2]) ** 2
        if scale > 0.02:
            x = centre[0] + half[0] * np.sqrt(scale) * np.cos(angle)
            y = centre[1] + half[1] * np.sqrt(scale) * np.sin(angle)
            rings.append(np.column_stack([x, y, np.full_like(x, z)]))
    return tuple(rings)


def scenario_dose(scenario: Scenario) -> npt.NDArray[np.float32]:
    """A ball of dose about the target and an entrance channel from the patient's left, in Gy."""
    at = points(DOSE_GRID) - np.array(TARGET_MM) - np.array(scenario.isocenter_shift_mm)
    at[..., 0] -= 190.0 * (scenario.rsp_scale - 1.0)
    radius = np.sqrt(np.sum(at**2, axis=-1))
    ripple = 0.935 + 0.015 * np.cos(at[..., 0] / 7) * np.cos(at[..., 1] / 9) * np.cos(at[..., 2] / 8)
    ball = ripple / (1 + np.exp((radius - 28.0) / 1.6)) + 0.08 * np.exp(-((radius / 70) ** 2))
    tube = 0.35 / (1 + np.exp((np.hypot(at[..., 1], at[..., 2]) - 24.0) / 2.0)) / (1 + np.exp(-at[..., 0] / 4.0))
    skin = inside("BODY", points(DOSE_GRID))
    return (PRESCRIPTION_GY * np.maximum(ball, tube) * skin).astype(np.float32)


def make_case(key: str = "case-7f3a") -> Case:
    ct = np.full(CT_GRID.shape, -1000.0, dtype=np.float32)
    for name, hu in HU.items():
        ct[inside(name, points(CT_GRID))] = hu
    ct += np.random.default_rng(1).normal(0, 12, ct.shape).astype(np.float32)
    structures = tuple(
        Structure(number, name, kind, ring_contours(name), color)
        for number, (name, (kind, _, _, color)) in enumerate(BODIES.items(), start=1)
    )
    spots = np.random.default_rng(2).uniform(-25, 25, (240, 2))
    beams = tuple(
        ProtonBeam(
            number,
            f"G{gantry:03d}",
            "GANTRY1",
            TARGET_MM,
            float(gantry),
            0.0,
            spots,
            np.repeat(np.linspace(80, 140, 12), 20),
            np.full(240, 0.75),
            fractions=30,
            range_shifter=shifter,
        )
        for number, gantry, shifter in ((1, 90, RangeShifter("RS_40", 40.0, 120.0)), (2, 45, None))
    )
    return Case(
        key=key,
        ct=Volume(CT_GRID, ct),
        structures=StructureSet("planning", "1.2.3", "1.2.4", structures),
        plan=Plan("Lung left 30x2", "1.2.5", "HFS", beams, (Prescription(5, PRESCRIPTION_GY),), approval="APPROVED"),
        dicom=DicomContext("1.2.4", patient={"PatientName": SECRET}),
        notices=(Notice("hu-table-assumed", "CT", f"no table named for scanner {HOSTILE}; the default is used"),),
    )


def dvh_band(name: str, doses: list[Array]) -> DvhBand:
    axis = np.linspace(0, 70, 500)
    voxels = inside(name, points(DOSE_GRID))
    volume = np.array([[100.0 * np.mean(d[voxels] >= g) for g in axis] for d in doses])
    return DvhBand(name, float(voxels.sum() * DOSE_GRID.voxel_volume_cm3), axis, volume)


def goal_result(goal: Goal, values: Array, band: float, status: Verdict) -> GoalResult:
    met = values >= goal.limit if goal.relation == ">=" else values <= goal.limit
    worst = int(np.argmin(values) if goal.relation == ">=" else np.argmax(values))
    reason = f"{goal.name} is {values[worst]:.1f} in '{SCENARIOS[worst].name}'."
    return GoalResult(goal, values, worst, band, float(met.mean()), status, reason, float(values[worst]) - 0.5)


def make_report(case: Case) -> RobustReport:
    doses = [scenario_dose(s) for s in SCENARIOS]
    bands = tuple(dvh_band(name, doses) for name in ("CTV", "Lung_L", "Lung_R", "SpinalCord", HOSTILE, "BODY"))
    by_name = {band.structure: band for band in bands}

    def volume_at(name: str, gy: float) -> Array:
        return np.array([np.interp(gy, by_name[name].dose_gy, row) for row in by_name[name].volume_percent])

    d95 = 100 * plots.dose_to_volume(by_name["CTV"], 95.0) / PRESCRIPTION_GY
    goals = (
        goal_result(Goal("CTV", "V95%", ">=", 95.0, "%", PRESCRIPTION_GY), volume_at("CTV", 57.0), 1.2, Verdict.RED),
        goal_result(Goal("CTV", "D95%", ">=", 95.0, "%", PRESCRIPTION_GY), d95, 1.5, Verdict.AMBER),
        goal_result(Goal("Lung_L", "V20Gy", "<=", 35.0, "%"), volume_at("Lung_L", 20.0), 0.6, Verdict.GREEN),
        goal_result(Goal("SpinalCord", "D2%", "<=", 45.0, "Gy"), np.full(9, 2.5), 0.3, Verdict.GREEN),
        goal_result(Goal(HOSTILE, "Dmean", "<=", 26.0, "Gy"), np.linspace(3, 4, 9), 0.3, Verdict.GREEN),
    )
    worst = goals[0].worst_index
    stack = np.array(doses)

    def dose(values: npt.NDArray[np.float32]) -> Dose:
        return Dose(Volume(DOSE_GRID, values), Quantity.RBE_WEIGHTED)

    return RobustReport(
        case_key=case.key,
        plan_label=case.plan.label,
        verdict=Verdict.RED,
        reasons=tuple(g.reason for g in goals),
        scenarios=SCENARIOS,
        goals=goals,
        bands=bands,
        nominal=dose(doses[0]),
        worst=dose(doses[worst]),
        worst_index=worst,
        voxel_min=Volume(DOSE_GRID, stack.min(axis=0)),
        voxel_max=Volume(DOSE_GRID, stack.max(axis=0)),
        notices=(Notice("dose-grid-coarse", "", "The dose grid has 4 mm voxels."),),
        provenance={
            "doseeng_version": "0.1.0",
            "machine": {"name": "GANTRY1", "hash": "9f2c6a41d0"},
            "backend": "cpu",
            "settings": {"scenario_set": "9-worst-case", "setup_mm": 5.0, "range_percent": 3.5},
            "missing": float("nan"),
            "note": HOSTILE,
        },
    )


class Page(HTMLParser):
    """The elements, attributes and texts of a document."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def visible(self) -> str:
        """All text a person reads, with single blanks."""
        return " ".join(" ".join(t for tag, t in self.texts if tag not in {"script", "style"}).split())

    def table_rows(self, html: str, css_class: str) -> list[list[str]]:
        """Texts of the cells of every row of the table bodies with a class."""
        rows = []
        for body in re.findall(rf'<tbody class="{css_class}">.*?</tbody>', html, re.DOTALL):
            row = re.search(r"<tr>(.*?)</tr>", body, re.DOTALL)
            assert row
            cells = re.findall(r"<t[hd][ >].*?</t[hd]>", row[1], re.DOTALL)
            rows.append([" ".join(Page(cell).visible.split()) for cell in cells])
        return rows


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


@pytest.fixture(scope="module")
def report(case: Case) -> RobustReport:
    return make_report(case)


@pytest.fixture(scope="module")
def html(report: RobustReport, case: Case, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new folder" / "report.html"
    assert write_report(report, case, path, written=WRITTEN, stack_size=3) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def short(report: RobustReport, case: Case, path: Path) -> str:
    """A report with the fewest pictures."""
    return write_report(report, case, path, written=WRITTEN, stack_size=1).read_text(encoding="utf-8")


def images(html: str) -> list[bytes]:
    return [base64.b64decode(i["src"].partition(",")[2]) for i in Page(html).all("img")]


def test_verdict_reasons_and_disclaimer_stand_on_the_page(page: Page, report: RobustReport) -> None:
    assert "Verdict: RED" in page.visible
    positions = [page.visible.index(reason) for reason in report.reasons]
    assert positions == sorted(positions)
    assert "Research and quality-assurance tool: it does not release a treatment." in page.visible
    assert "Lung left 30x2" in page.visible
    assert "case-7f3a" in page.visible
    assert "2026-03-14 09:26 UTC" in page.visible


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_word_and_its_own_shape(
    verdict: Verdict, report: RobustReport, case: Case, tmp_path: Path
) -> None:
    html = short(replace(report, verdict=verdict), case, tmp_path / "r.html")
    section = html[html.index('<section class="verdict') : html.index("</section>")]
    assert f"</span>{verdict.value}</h2>" in section
    assert f'href="#icon-{verdict.value.lower()}"' in section
    assert f'<symbol id="icon-{verdict.value.lower()}"' in html


def test_goal_table_shows_the_numbers_of_the_report(html: str, page: Page, report: RobustReport) -> None:
    rows = page.table_rows(html, "goal")
    assert len(rows) == len(report.goals)
    for row, result in zip(rows, report.goals, strict=True):
        name, limit, nominal, worst, voxelwise, _, passed, status = row
        assert name.startswith(result.goal.structure)
        assert limit.startswith(("≥ " if result.goal.relation == ">=" else "≤ ") + f"{result.goal.limit:g} ")
        assert float(nominal) == pytest.approx(result.values[0], abs=0.0501)
        assert float(worst.split()[0]) == pytest.approx(result.values[result.worst_index], abs=0.0501)
        assert worst.endswith(f"± {result.band:.2f} {report.scenarios[result.worst_index].name}")
        assert float(voxelwise) == pytest.approx(result.voxelwise, abs=0.0501)
        assert passed.startswith(f"{round(result.passed * 9)} of 9 ({100 * result.passed:.0f} %)")
        assert status == {"RED": "missed", "AMBER": "in doubt", "GREEN": "met"}[result.status.value]


def test_every_scenario_of_every_goal_is_readable_without_colour(html: str, report: RobustReport) -> None:
    cells = re.findall(r'<li class="(met|missed|none)".*?</li>', html, re.DOTALL)
    assert len(cells) == len(report.goals) * len(report.scenarios)
    assert cells.count("met") == sum(round(r.passed * len(r.values)) for r in report.goals)
    for cell in re.finditer(r'<li class="(met|missed)" .*?</li>', html, re.DOTALL):
        assert {"met": "✓", "missed": "✗"}[cell[1]] in cell[0]
        assert f'<span class="sr">{cell[1]}</span>' in cell[0]


def test_embedded_data_are_valid_json_and_equal_the_report(html: str, report: RobustReport) -> None:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert block
    data = json.loads(block[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["verdict"] == "RED"
    assert data["dose_unit"] == "Gy (RBE 1.1)"
    assert [s["name"] for s in data["scenarios"]] == [s.name for s in report.scenarios]
    for goal, result in zip(data["goals"], report.goals, strict=True):
        assert goal["values"] == result.values.tolist()
    ctv = data["dvh"]["curves"][0]
    band = report.bands[0]
    expected = [np.interp(data["dvh"]["dose_gy"], band.dose_gy, row, right=0.0) for row in band.volume_percent]
    assert ctv["nominal"] == pytest.approx(expected[0].tolist(), abs=0.06)
    assert ctv["lowest"] == pytest.approx(np.min(expected, axis=0).tolist(), abs=0.06)
    assert np.all(np.array(ctv["lowest"]) <= np.array(ctv["nominal"]))
    assert np.all(np.array(ctv["nominal"]) <= np.array(ctv["highest"]))


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'src="data:[^"]*"', "", html), re.IGNORECASE)
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "base", "audio", "video"} == set()
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(use["href"].startswith("#") for use in page.all("use"))
    policy = page.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(html.encode()) < 8e6


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
    assert all(image["alt"] for image in page.all("img"))


def test_beams_scenarios_notices_and_provenance_are_listed(page: Page, report: RobustReport) -> None:
    for words in (
        "1 G090 GANTRY1 90.0 0.0 80.0 to 140.0 12 240 180.0 30 RS_40 (40 mm water)",
        "2 G045 GANTRY1 45.0 0.0 80.0 to 140.0 12 240 180.0 30 none",
        "left-5 mm −5.0 0.0 0.0 0 % fixed",
        "0.0 0.0 0.0 +3.5 % (undershoot) fixed",
        "dose-grid-coarse The dose grid has 4 mm voxels.",
        "machine hash 9f2c6a41d0",
        '"scenario_set": "9-worst-case"',
    ):
        assert words in page.visible
    assert "hu-table-assumed CT no table named for scanner" in page.visible


def test_pictures_are_complete_and_differ_between_doses(html: str, page: Page) -> None:
    pictures = images(html)
    assert len(pictures) == (3 + 2) * 3
    assert all(p[:4] == b"RIFF" and len(p) > 3000 for p in pictures)
    assert len(set(pictures)) == len(pictures)
    assert {"nominal", "worst scenario: range +3.5 %", "lowest dose per voxel over all scenarios"} <= {
        text.strip() for tag, text in page.texts if tag == "figcaption"
    }


def test_pictures_change_with_the_dose_alone(report: RobustReport, case: Case, tmp_path: Path) -> None:
    half = Volume(DOSE_GRID, report.voxel_min.values / 2)
    before = images(short(report, case, tmp_path / "a.html"))
    after = images(short(replace(report, voxel_min=half), case, tmp_path / "b.html"))
    assert before[0:2] == after[0:2]
    assert before[2] != after[2]


def test_nominal_alone_is_shown_once(report: RobustReport, case: Case, tmp_path: Path) -> None:
    html = short(replace(report, worst_index=0, worst=report.nominal), case, tmp_path / "r.html")
    assert len(images(html)) == 3 * 2
    assert "worst scenario: " not in html


def test_no_goal_no_band_no_target_still_makes_a_page(report: RobustReport, case: Case, tmp_path: Path) -> None:
    bare = replace(
        case,
        structures=replace(case.structures, structures=()),
        plan=replace(case.plan, prescriptions=()),
    )
    html = short(replace(report, goals=(), bands=(), verdict=Verdict.UNEVALUABLE), bare, tmp_path / "r.html")
    assert "No goal was evaluated." in html
    assert "maximum of the nominal dose" in html


def test_a_goal_without_value_is_a_dash_and_no_pass(report: RobustReport, case: Case, tmp_path: Path) -> None:
    values = report.goals[0].values.copy()
    values[3] = np.nan
    lost = replace(report.goals[0], values=values, worst_index=3, status=Verdict.UNEVALUABLE, band=float("nan"))
    html = short(replace(report, goals=(lost,)), case, tmp_path / "r.html")
    row = Page(html).table_rows(html, "goal")[0]
    assert row[3].startswith("–")
    assert row[7] == "no answer"
    assert html.count('<li class="none"') == 1


def test_a_broken_nominal_dose_still_makes_a_report_that_says_so(
    report: RobustReport, case: Case, tmp_path: Path
) -> None:
    """What the evaluation hands over when the nominal dose holds NaN: no values, no DVH, UNEVALUABLE."""
    nothing = Dose(Volume(DOSE_GRID, np.full(DOSE_GRID.shape, np.nan)), Quantity.RBE_WEIGHTED)
    bands = tuple(
        replace(b, volume_percent=np.where(np.arange(9)[:, None], b.volume_percent, np.nan)) for b in report.bands
    )
    lost = replace(bands[1], volume_percent=np.full_like(bands[1].volume_percent, np.nan))
    broken = replace(report, nominal=nothing, bands=(bands[0], lost), verdict=Verdict.UNEVALUABLE)
    html = short(broken, case, tmp_path / "r.html")
    block = re.search(r'id="report-data">(.*?)</script>', html, re.DOTALL)
    assert block
    curves = json.loads(block[1])["dvh"]["curves"]
    assert [c["structure"] for c in curves] == ["CTV"]
    assert set(curves[0]["nominal"]) == {None}
    assert None not in curves[0]["lowest"]
    assert "Verdict: UNEVALUABLE" in Page(html).visible
    assert 'd="MNaN' not in html
    assert "nan," not in html


def test_probability_belongs_to_the_reason(report: RobustReport, case: Case, tmp_path: Path) -> None:
    probability = CourseProbability(97, 100, 0.924, 0.95)
    goal = replace(report.goals[0], probability=probability, reason=f"CTV holds. {probability}")
    html = short(replace(report, goals=(goal,)), case, tmp_path / "r.html")
    assert "in at least 92.4 % of treatment courses with 95 % confidence" in Page(html).visible


def test_report_of_another_case_is_refused(report: RobustReport, case: Case, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'case-7f3a', but the case given is 'other'"):
        write_report(report, replace(case, key="other"), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_report(
    report: RobustReport, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(report, case, path, stack_size=1)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_same_input_gives_the_same_file(report: RobustReport, case: Case, tmp_path: Path) -> None:
    assert short(report, case, tmp_path / "a.html") == short(report, case, tmp_path / "b.html")


def test_view_goes_through_the_target_on_a_ct_slice(report: RobustReport, case: Case) -> None:
    view = make_view(report, case, 15)
    assert view.centre_mm[:2] == pytest.approx(TARGET_MM[:2], abs=0.2)
    slices = CT_GRID.origin_mm[2] + 3.0 * np.arange(CT_GRID.shape[0])
    assert np.abs(slices - view.centre_mm[2]).min() < 1e-9
    assert abs(view.centre_mm[2] - TARGET_MM[2]) <= 1.5
    assert len(view.stack_mm) == 15
    assert view.stack_mm[7] == view.centre_mm[2]
    assert view.stack_mm[0] < -20
    assert view.stack_mm[-1] > 20
    assert view.reference_gy == PRESCRIPTION_GY


def test_view_of_a_turned_image_is_the_view_of_the_patient(report: RobustReport, case: Case) -> None:
    """The same CT stored with flipped x and y axes (a prone acquisition) gives the same pictures."""
    flipped = Grid(
        CT_GRID.shape,
        CT_GRID.spacing_mm,
        tuple(CT_GRID.to_patient((CT_GRID.shape[2] - 1, CT_GRID.shape[1] - 1, 0))),
        np.diag([-1.0, -1.0, 1.0]),
    )
    turned = replace(case, ct=Volume(flipped, case.ct.values[:, ::-1, ::-1]))
    one, other = make_view(report, case, 3), make_view(report, turned, 3)
    assert other.low_mm == pytest.approx(one.low_mm)
    assert other.plane_grid(Plane.AXIAL, 0.0).is_same(one.plane_grid(Plane.AXIAL, 0.0))


def test_window_shows_lung_only_around_lung_targets(report: RobustReport, case: Case) -> None:
    view = make_view(report, case, 1)
    assert choose_window(case, view) is THORAX
    pelvis = replace(case, ct=Volume(CT_GRID, np.full(CT_GRID.shape, 30.0)))
    assert choose_window(pelvis, view) is SOFT_TISSUE


@pytest.mark.parametrize(
    ("plane", "right", "up"),
    [(Plane.AXIAL, "left", "anterior"), (Plane.CORONAL, "left", "superior"), (Plane.SAGITTAL, "posterior", "superior")],
)
def test_pictures_follow_the_radiological_convention(
    plane: Plane, right: str, up: str, report: RobustReport, case: Case
) -> None:
    """A hot spot 30 mm from the centre of the view, towards one side of the patient, appears on that side."""
    towards = {"left": (30, 0, 0), "anterior": (0, -30, 0), "posterior": (0, 30, 0), "superior": (0, 0, 30)}
    view = make_view(report, case, 1)
    scene, _ = make_scene(case, view, plane, view.centre_mm[plane.axis], (), {})
    middle = (view.low_mm + view.high_mm) / 2
    middle[plane.axis] = view.centre_mm[plane.axis]

    def picture(gray: npt.NDArray[np.float64]) -> Array:
        webp = draw(scene, Volume(DOSE_GRID, gray), PRESCRIPTION_GY, THORAX)
        return np.asarray(Image.open(io.BytesIO(webp)).convert("RGB"), dtype=np.float64)

    for side, axis, sign in ((right, 1, 1), (up, 0, -1)):
        distance = np.linalg.norm(points(DOSE_GRID) - middle - np.array(towards[side]), axis=-1)
        changed = np.abs(picture(60.0 * (distance < 14)) - picture(np.zeros(DOSE_GRID.shape))).sum(axis=2) > 60
        assert changed.any()
        offset = np.argwhere(changed).mean(axis=0) - np.array(changed.shape) / 2
        assert sign * offset[axis] == pytest.approx(
            30 / view.pixel_mm * changed.shape[1] / len(scene.columns_mm), rel=0.15
        )
        assert abs(offset[1 - axis]) < 8


def test_structures_of_a_single_plane_or_out_of_plane_are_drawn_or_named(report: RobustReport, case: Case) -> None:
    view = make_view(report, case, 1)
    square = np.array([[60.0, -20.0, 1.5], [80.0, -20.0, 1.5], [80.0, 0.0, 1.5], [60.0, 0.0, 1.5]])
    flat = Structure(1, "flat", "ORGAN", (square,), None)
    bent = Structure(2, "bent", "ORGAN", (square + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 9]]),), None)
    shades = colors.structure_colors((flat, bent))
    scene, notices = make_scene(case, view, Plane.AXIAL, 1.5, (flat, bent), shades)
    assert [color for color, _ in scene.outlines] == [shades["flat"].on_dark]
    assert [(n.code, n.where) for n in notices] == [("contour-not-drawn", "bent")]
    far, _ = make_scene(case, view, Plane.AXIAL, 7.5, (flat,), shades)
    assert far.outlines == ()
    cut, _ = make_scene(case, view, Plane.SAGITTAL, 70.0, (flat,), shades)
    (line,) = cut.outlines[0][1].to_polygons(closed_only=False)
    assert np.ptp(line[:, 0]) == pytest.approx(20.0, abs=2.5)
    assert np.ptp(line[:, 1]) == pytest.approx(3.0, abs=2.5)


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        (94.97, 95.0, "94.97"),
        (94.99996, 95.0, "94.99996"),
        (95.0, 95.0, "95.0"),
        (95.04, 95.0, "95.04"),
        (12.34, 95.0, "12.3"),
        (-0.01, 5.0, "0.0"),
        (-3.21, 5.0, "−3.2"),
        (float("nan"), 95.0, "–"),
    ],
)
def test_rounding_never_contradicts_the_verdict(value: float, limit: float, expected: str) -> None:
    assert text.against_limit(value, limit) == expected


def test_metrics_are_written_with_index_and_unit() -> None:
    assert text.metric_parts("V95%") == ("V", "95 %")
    assert text.metric_parts("D0.03cm3") == ("D", "0.03 cm³")
    assert text.metric_parts("Dmean") == ("D", "mean")
    assert text.metric_parts("something") == ("something", "")


def test_beam_table_of_an_arc() -> None:
    angle = np.array([181.0, 270.0, 539.0])
    zero, open_jaw = np.zeros(3), np.tile([-50.0, 50.0], (3, 1))
    arc = PhotonBeam(
        *(1, "1", "LINAC", 6.0, "FFF", "DYNAMIC", 1000.0, 212.5, np.array([0.0, 0.4, 1.0]), np.zeros((3, 3))),
        *(angle, zero, zero, open_jaw, open_jaw),
        fractions=20,
    )
    table = beam_table(Plan("p", "1.2", "HFS", (arc,)))
    angles, delivery = (
        ("181.0 to 179.0 CW", "0.0", "0.0"),
        ("6 MV FFF", "arc", "10.0 x 10.0", "3", "212.5", "20", "none"),
    )
    assert table.rows == (("1", "LINAC", *angles, *delivery),)
    assert len(table.headings) == len(table.rows[0])


def test_dvh_figures_of_a_linear_dvh() -> None:
    """Volume falls linearly from 100 % at 0 to 0 at 50 Gy: D98 = 1, D50 = 25, mean = 25."""
    dose = np.linspace(0, 60, 61)
    band = DvhBand("x", 1.0, dose, np.maximum(100 - 2 * dose, 0)[None])
    assert plots.dose_to_volume(band, 98.0) == pytest.approx([1.0])
    assert plots.dose_to_volume(band, 50.0) == pytest.approx([25.0])
    assert plots.mean_dose(band) == pytest.approx([25.0])


def test_thinned_paths_stay_on_the_curve() -> None:
    dose = np.linspace(0, 70, 700)
    volume = 100 / (1 + np.exp((dose - 50) / 2))
    plot = plots.dvh_plot((DvhBand("x", 1.0, dose, volume[None]),), 60.0)
    xy = np.array([[float(c) for c in p.split(",")] for p in plot.curves[0].nominal_line[1:].split("L")])
    assert len(xy) < 100
    back = (xy[:, 0] - plots.LEFT) / (plots.RIGHT - plots.LEFT) * plot.dose_gy[-1]
    percent = (plots.BOTTOM - xy[:, 1]) / (plots.BOTTOM - plots.TOP) * 100
    assert np.interp(dose, back, percent)[dose < 69] == pytest.approx(volume[dose < 69], abs=0.35)


def test_spread_places_limit_values_and_band() -> None:
    goal = Goal("CTV", "V95%", ">=", 95.0, "%", 60.0)
    spread = plots.spread(GoalResult(goal, np.array([99.0, 91.0]), 1, 2.0, 0.5, Verdict.RED, ""))
    assert spread
    assert spread.worst < spread.worst_with_band < spread.limit < spread.nominal
    assert spread.limit == pytest.approx(50.0)
    assert plots.spread(GoalResult(goal, np.array([99.0, np.nan]), 1, 0.0, 0.5, Verdict.RED, "")) is None


@pytest.mark.parametrize("color", ["#ffff00", "#ffffff", "#000000", "#00ff00", "#202080"])
def test_structure_colours_can_be_told_from_the_ground(color: str) -> None:
    for ground in ((1.0, 1.0, 1.0), (0.08, 0.1, 0.13)):
        mixed = colors.readable(color, ground, 3.0)
        rgb = tuple(int(mixed[i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert colors.contrast(rgb, ground) >= 2.95
    assert colors.contrast((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) == pytest.approx(21.0)
