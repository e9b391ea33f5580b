"""`doseeng adapt`: the images of treatment days against the plan and the course so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cluster.adaptation.basis import Basis, make_basis
from cluster.adaptation.course import Course, read_course
from cluster.adaptation.export import fraction_to_json
from cluster.adaptation.oneday import PackageWhen, evaluate_in_course, wants_package
from cluster.adaptation.package import package_name, require_package_place, write_package
from cluster.adaptation.result import DayGoal, FractionReport, ImageMethod
from cluster.adaptation.settings import DEFAULT_SITE, site_settings
from cluster.adaptation.stages import Progress
from cluster.cli import options
from cluster.cli.console import (
    ExitCode,
    badge,
    err,
    out,
    print_json,
    show_error,
    show_line,
    show_notices,
    staged_progress_bar,
)
from cluster.report.fraction import write_fraction_report
from doseeng.case import Case
from doseeng.dicom.day import DayImage, read_day_image
from doseeng.engine import EngineSettings, Prepared
from doseeng.errors import ConfigError, DicomError, DoseengError, Notice
from doseeng.grid import Grid
from doseeng.materials import read_hu_table
from doseeng.photon import Algorithm
from registration.gatesettings import read_limits
from robust.result import Verdict

Images = Annotated[
    list[Path],
    typer.Option(
        "--image",
        help="Folder or .zip with the image of a day (cone-beam CT, in-room CT, CT made from MR); repeatable. Days are "
        "evaluated in the order in which they were acquired.",
    ),
]
CourseFolder = Annotated[
    Path | None,
    typer.Option("--course", help="Folder that keeps the days of this plan; without it doseeng-course-CASE here."),
]
Site = Annotated[str, typer.Option(help="Treatment site that sets image method and uncertainties (head_neck, ...).")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="TOML with your own values for sites.")]
GatesFile = Annotated[Path | None, typer.Option("--gates", help="TOML with your own limits of quality gates.")]
Method = Annotated[
    ImageMethod | None, typer.Option(help="Image that today's dose is computed on, instead of the site's.")
]
Goals = Annotated[Path | None, typer.Option(help="Goals as TOML; without it V95% and D95% of every prescribed target.")]
Report = Annotated[
    Path | None,
    typer.Option(
        help="HTML report instead of doseeng-fraction-CASE-TIME.html here; with several images the time of each is "
        "added to its name."
    ),
]
Package = Annotated[
    Path | None,
    typer.Option(
        "--package",
        help="Folder in which replan packages are written, each in a folder of its own, without it here: image, "
        "contours, dose and registration of the day as DICOM.",
    ),
]
When = Annotated[PackageWhen, typer.Option("--package-when", help="When a replan package is written.")]
Robust = Annotated[bool, typer.Option("--robust", help="Also evaluate residual setup and range errors on each image.")]
FractionNumber = Annotated[
    int | None,
    typer.Option("--fraction", min=1, help="Number of the fraction, for one image; without it the next in the course."),
]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results of days go. many: several days, so that file names tell them apart."""

    report: Path | None
    package: Path
    when: PackageWhen
    many: bool

    def report_path(self, found: FractionReport) -> Path:
        """The HTML file of a day."""
        moment = f"{found.acquired:%Y%m%d-%H%M}"
        if self.report is None:
            return Path(f"doseeng-fraction-{found.case_key}-{moment}.html")
        return self.report.with_stem(f"{self.report.stem}-{moment}") if self.many else self.report


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """What came of one image. package: None where none was written."""

    report: FractionReport
    report_path: Path
    package: Path | None


def adapt(
    case_dir: options.CaseDir,
    image: Images,
    course: CourseFolder = None,
    site: Site = DEFAULT_SITE,
    settings: SettingsFile = None,
    gates: GatesFile = None,
    method: Method = None,
    goals: Goals = None,
    report: Report = None,
    package: Package = None,
    package_when: When = PackageWhen.RED,
    robust: Robust = False,
    fraction: FractionNumber = None,
    plan: options.PlanUid = None,
    machine: options.Machine = None,
    machine_folder: options.MachineFolder = None,
    hu_table: options.HuTableOption = options.DEFAULT_HU_TABLE,
    spacing: options.Spacing = 3.0,
    algorithm: options.AlgorithmOption = None,
    accept_patient_mismatch: options.AcceptMismatch = False,
    backend: options.BackendOption = "auto",
    as_json: options.Json = False,
) -> None:
    """Does today's anatomy still get its dose? Registration, dose on today's image, goals, course, verdict, report.

    The exit code is the verdict of the day acquired last: 0 GREEN, 1 AMBER, 2 RED, 3 UNEVALUABLE. It is 4 when any of
    the images could not be read or evaluated, since that may be the latest; the other days are evaluated all the same.
    Two days in a row that are AMBER make the second RED. Days are kept in the course folder, and a day that is
    evaluated again takes the place of what was found before.
    """
    if fraction is not None and len(image) > 1:
        raise ConfigError(
            f"--fraction {fraction}: numbers one image, {len(image)} were given; leave it out or give one"
        )
    outputs = Outputs(report, package or Path(), package_when, len(image) > 1)
    if package_when is not PackageWhen.NEVER:
        options.require_outside(case_dir, outputs.package)
    options.require_writable(report)
    site_values, limits = site_settings(site, settings, method), read_limits(gates)
    with err.status("Reading the case and computing its dose", spinner="dots"):
        case = options.load_case(case_dir, plan, accept_patient_mismatch, None)
        photon = options.photon_settings(case, algorithm, Algorithm.PENCIL)
        engine = EngineSettings(spacing_mm=spacing, photon=photon)

        def prepared(of: Case, grid: Grid | None = None) -> Prepared:
            return options.prepare_case(of, machine, machine_folder, hu_table, engine, backend, grid)

        store = read_course(course or Path(f"doseeng-course-{case.key}"), case.key, case.plan.uid)
        basis = make_basis(prepared(case), prepared, site_values, goals, read_hu_table(hu_table), limits)
        days, failures = read_days(image, case, accept_patient_mismatch)
    found, failed = evaluate_days(basis, days, store, outputs, fraction=fraction, robust=robust, as_json=as_json)
    finish(found, failures + failed, as_json)


def read_days(
    images: Iterable[Path], case: Case, accept_patient_mismatch: bool = False
) -> tuple[list[DayImage], list[tuple[str, DoseengError]]]:
    """The images that can be read, by time of acquisition, and the names of those that cannot with their errors.

    DicomError when the case is not from DICOM.
    """
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; nothing tells whether an image belongs to it")
    days, failures = [], []
    for path in images:
        try:
            days.append(read_day_image(path, case.dicom, accept_patient_mismatch=accept_patient_mismatch))
        except DoseengError as error:
            failures.append((str(path), error))
    return sorted(days, key=lambda day: day.acquired), failures


def evaluate_days(
    basis: Basis,
    days: list[DayImage],
    course: Course,
    outputs: Outputs,
    *,
    fraction: int | None = None,
    robust: bool = False,
    as_json: bool = False,
) -> tuple[list[Day], list[tuple[str, DoseengError]]]:
    """Every day in turn, shown as it is done; those that end in an error are named and the others go on."""
    found, failures = [], []
    told: set[Notice] = set()
    for day in days:
        moment = f"{day.acquired:%Y-%m-%d %H:%M}"
        try:
            with staged_progress_bar(quiet=as_json) as bar:
                told_of = _of_day(moment, bar)
                done = evaluate_in_course(basis, day, course, fraction=fraction, robust=robust, progress=told_of)
            course = done.course
            result = _written(done.report, basis.case, outputs)
        except DoseengError as error:
            failures.append((moment, error))
            continue
        found.append(result)
        if not as_json:
            notices = [n for n in (*result.report.notices, *done.notices) if n not in told]
            told.update(notices)
            show_notices(notices)
            show_day(result)
    return found, failures


def finish(found: list[Day], failures: list[tuple[str, DoseengError]], as_json: bool) -> None:
    """JSON or the errors, then the exit code; the error itself when no day could be evaluated."""
    if not found and failures:
        raise failures[0][1]
    if as_json:
        print_json(days_to_json(found, failures))
    else:
        for name, error in failures:
            show_error(type(error).__name__, f"{name}: {error}", as_json=False)
    raise typer.Exit(ExitCode.ERROR if failures else ExitCode[found[-1].report.verdict.value])


def days_to_json(found: list[Day], failures: list[tuple[str, DoseengError]]) -> dict[str, Any]:
    """What programs read: the days by time of acquisition, and the images that ended in an error."""
    return {
        "days": [
            {
                **fraction_to_json(day.report),
                "report": str(day.report_path),
                "package": None if day.package is None else str(day.package),
            }
            for day in found
        ],
        "errors": [{"image": name, "type": type(error).__name__, "message": str(error)} for name, error in failures],
    }


def show_day(day: Day) -> None:
    """The table of a day, its failed gates and its verdict."""
    report = day.report
    at = f"Fraction {report.fraction} of {report.fractions} · {report.acquired:%Y-%m-%d %H:%M}"
    if report.goals:
        table = Table(title=escape(f"{at} · plan '{report.plan_label}'"), title_justify="left")
        table.add_column("goal")
        for heading in ("planned", "today", "band", "course"):
            table.add_column(heading, justify="right")
        table.add_column("status")
        for goal in report.goals:
            table.add_row(*_cells(goal))
        out.print(table)
    else:
        show_line(out, escape(at))
    out.print(f"Verdict {badge(report.verdict)}")
    # The table has the rest.
    met = {goal.reason for goal in report.goals if goal.status is Verdict.GREEN}
    for reason in [r for r in report.reasons if r not in met] or report.reasons[:1]:
        show_line(out, f"  • {escape(reason)}")
    out.print("[dim]Research and quality-assurance tool: it does not release a treatment.[/dim]")
    show_line(out, f"Report: {escape(str(day.report_path))} · {sum(report.seconds.values()):.0f} s")
    if day.package is not None:
        show_line(out, f"Replan package: {escape(str(day.package))}")


def _of_day(moment: str, bar: Progress) -> Progress:
    """Progress that says which day it is about."""
    return lambda stage, done, total: bar(f"{moment}: {stage}", done, total)


def _cells(day: DayGoal) -> tuple[str, ...]:
    goal = day.goal
    return (
        escape(f"{goal.name} {goal.relation} {goal.limit:g} {goal.unit}"),
        f"{day.planned:.2f}",
        f"{day.value:.2f}",
        f"{day.band.low:.2f} to {day.band.high:.2f}",
        f"{day.course:.2f}",
        "[dim]no answer[/dim]" if day.status is Verdict.UNEVALUABLE else badge(day.status),
    )


def _written(report: FractionReport, case: Case, outputs: Outputs) -> Day:
    package = outputs.package / package_name(report) if wants_package(report, outputs.when) else None
    if package is not None:
        require_package_place(package)
        write_package(report, case, package)
    return Day(report, write_fraction_report(report, case, outputs.report_path(report)), package)
