"""`doseeng demo`: a complete case made on the spot and evaluated like a clinic's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import err, out, print_json, progress_bar, staged_progress_bar
from cluster.cli.evaluate import show_result
from cluster.cli.options import Json, require_writable
from cluster.demo import GOALS, write_demo_case
from cluster.robustness import RobustnessRequest, run_robustness
from doseeng.dicom.case import read_case
from doseeng.engine import prepare
from robust.export import report_to_json


def demo(
    folder: Annotated[Path, typer.Option(help="Where the DICOM case is written.")] = Path("demo-case"),
    report: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("demo-output/report.html"),
    as_json: Json = False,
) -> None:
    """Make a synthetic lung case as DICOM, plan it, and evaluate 28 + 1 scenarios. No network, no input.

    The exit code is 0 whatever the verdict: here the plan is made to struggle.
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
        result, path = run_robustness(prepared, RobustnessRequest(site="lung", goals=GOALS), report, progress=bar)
    if as_json:
        print_json({**report_to_json(result), "report": str(path)})
        return
    show_result(result, path.resolve())
    out.print(f"DICOM case: {folder.resolve()} · {time.perf_counter() - start:.0f} s")
