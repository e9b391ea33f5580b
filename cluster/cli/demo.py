"""`doseeng demo`: a complete case made on the spot, evaluated like a clinic's before treatment and on three days."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.adaptation.basis import make_basis
from cluster.adaptation.course import read_course
from cluster.adaptation.settings import site_settings
from cluster.cli.adapt import Day, Outputs, PackageWhen, days_to_json, evaluate_days, read_days
from cluster.cli.console import badge, err, out, print_json, progress_bar, staged_progress_bar
from cluster.cli.evaluate import show_result
from cluster.cli.options import Json, require_writable
from cluster.demo import GOALS, write_demo_case
from cluster.demo.days import write_demo_days
from cluster.robustness import RobustnessRequest, run_robustness
from doseeng.dicom.case import read_case
from doseeng.engine import Prepared, prepare
from robust.export import report_to_json

SITE: Final = "lung"


def demo(
    folder: Annotated[Path, typer.Option(help="Where the DICOM case is written; its days go beside it.")] = Path(
        "demo-case"
    ),
    report: Annotated[Path, typer.Option(help="HTML report to write; those of the days go beside it.")] = Path(
        "demo-output/report.html"
    ),
    days: Annotated[bool, typer.Option(help="Also evaluate three treatment days of the patient.")] = True,
    as_json: Json = False,
) -> None:
    """Make a synthetic lung case as DICOM, plan it, evaluate 28 + 1 scenarios, then three days. No network, no input.

    The exit code is 0 whatever the verdicts: here the plan is made to struggle, and the days are a good one, one on
    which the target has drifted away, and one whose image shows too little.
    """
    require_writable(folder / "RN.dcm", report)
    start = time.perf_counter()
    if not as_json:
        err.print(f"Making a synthetic thorax with a lung tumour and a three-field proton plan in {folder}/ ...")
    with staged_progress_bar(quiet=as_json) as tell:
        write_demo_case(folder, lambda stage, done, total: tell(f"Planning: {stage}", done, total))
    with err.status("Reading it back as any clinic's", spinner="dots"):
        prepared = prepare(read_case(folder))
    with progress_bar("Computing scenario doses", quiet=as_json) as bar:
        result, path = run_robustness(prepared, RobustnessRequest(site=SITE, goals=GOALS), report, progress=bar)
    if not as_json:
        show_result(result, path.resolve())
    found = _three_days(prepared, folder, report, as_json) if days else []
    if as_json:
        print_json({**report_to_json(result), "report": str(path), **days_to_json(found, [])})
        return
    if found:
        _show_days(found)
    out.print(f"DICOM case: {folder.resolve()} · {time.perf_counter() - start:.0f} s")


def _three_days(prepared: Prepared, folder: Path, report: Path, as_json: bool) -> list[Day]:
    """The demo's cone-beam images, written and evaluated as a clinic's would be."""
    case = prepared.case
    with err.status("Imaging the patient on three days", spinner="dots"):
        images, failures = read_days(write_demo_days(folder.with_name(f"{folder.name}-days")), case)
        basis = make_basis(prepared, lambda of, grid: prepare(of, grid=grid), site_settings(SITE), GOALS)
    course = read_course(report.parent / "course", case.key, case.plan.uid)
    outputs = Outputs(report.with_name("fraction.html"), report.parent, PackageWhen.RED, many=True)
    found, failed = evaluate_days(basis, images, course, outputs, as_json=as_json)
    for _, error in (*failures, *failed):
        raise error
    return found


def _show_days(found: list[Day]) -> None:
    table = Table(title="Three treatment days", title_justify="left")
    for heading in ("day", "verdict", "why"):
        table.add_column(heading)
    for day in found:
        report = day.report
        table.add_row(f"{report.acquired:%Y-%m-%d %H:%M}", badge(report.verdict), escape(report.reasons[0]))
    out.print(table)
