"""The adapt job: the image of a treatment day against its plan and the course so far.

The course store is a folder (`cluster.adaptation.course`); here it is made from the artifacts of the earlier jobs of
the lane, so that a job depends on nothing but its spec and these, and may run on any machine.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.adaptation.basis import Basis, make_basis
from cluster.adaptation.course import read_course
from cluster.adaptation.export import fraction_to_json
from cluster.adaptation.oneday import DayInCourse, evaluate_in_course, wants_package
from cluster.adaptation.package import write_package
from cluster.adaptation.result import FractionReport
from cluster.adaptation.workflow import STAGES
from cluster.jobs.context import JobContext
from cluster.jobs.model import Artifact, JobKind, JobResult, JobSpec
from cluster.report.fraction import write_fraction_report
from cluster.report.summary import summary_of_fraction
from cluster.storage.blobs import BlobStore
from cluster.workflows.artifacts import (
    DOSE,
    IMAGES,
    REGISTRATION,
    REPORT,
    RESULT,
    STRUCTURES,
    compact_goals,
    kept,
    kept_json,
)
from cluster.workflows.coursefiles import kept_course, put_back
from cluster.workflows.documents import document_artifacts
from cluster.workflows.inputs import engine_inputs, goals_file, limits_of, settings_of
from cluster.workflows.materialize import case_from, day_from, files_of
from cluster.workflows.options import AdaptOptions, options_from
from cluster.workflows.unit import Workplace, run_as_unit
from doseeng.case import Case
from doseeng.dicom.rtdose import write_dose
from doseeng.engine import EngineSettings, Prepared
from doseeng.grid import Grid
from doseeng.photon import Algorithm

ON_PLANNING_CT = "doseeng: dose of the day on the planning CT"
BEFORE = 2
"""Steps before the stages of the day: reading, and the plan's own dose."""


def run_adaptation(spec: JobSpec, context: JobContext) -> JobResult:
    """result.json, report.html, the course's files, the documents and, where the day has a dose, RD.dcm.

    RD.dcm is the day's dose on the planning CT; with a replan package (CT/, RS.dcm, REG.dcm) it is that of the package,
    on the image of the day. An image that cannot be registered is no error but UNEVALUABLE. Errors as `read_case`,
    `read_day_image` and the engine; Cancelled when the job is no longer wanted.
    """
    return run_as_unit(spec, context, evaluate_day)


def evaluate_day(spec: JobSpec, workplace: Workplace, folder: Path) -> JobResult:
    """The work of `run_adaptation`, where the executor puts it."""
    options = options_from(JobKind.ADAPT, spec.options)
    assert isinstance(options, AdaptOptions)
    blobs, tell = workplace.blobs, workplace.progress
    total = BEFORE + len(STAGES) + options.robust + 1
    tell("reading the case", 0, total)
    case = case_from(spec, blobs, folder)
    day = day_from(spec, case, blobs, folder)
    before = put_back(workplace.earlier, blobs, folder / "course")
    course = read_course(folder / "course", case.key, case.plan.uid)
    tell("dose of the plan", 1, total)
    basis = _basis(options, case, blobs, folder)
    found = evaluate_in_course(
        basis,
        day,
        course,
        fraction=options.fraction,
        robust=options.robust,
        progress=lambda stage, done, _stages: tell(stage, BEFORE + done, total),
    )
    tell("report", total - 1, total)
    artifacts = (
        kept_json(blobs, RESULT, _result_json(found)),
        kept(blobs, REPORT, write_fraction_report(found.report, case, folder / REPORT)),
        *kept_course(folder / "course", before, blobs),
        *_objects(found, case, options, blobs, folder),
    )
    made = [path for path in folder.glob("*.dcm") if path.name in (DOSE, STRUCTURES, REGISTRATION)]
    brief = summary_of_fraction(found.report, datetime.now().astimezone())
    documents = document_artifacts(brief, case, blobs, folder, [*files_of(folder), *made])
    summary = {**_summary(spec, found.report), "rbe_weighted": brief.rbe_weighted}
    return JobResult(found.report.verdict.value, summary, (*artifacts, *documents), case_key=case.key)


def _basis(options: AdaptOptions, case: Case, blobs: BlobStore, folder: Path) -> Basis:
    inputs = engine_inputs(options, blobs, folder)
    engine = EngineSettings(spacing_mm=options.spacing_mm, photon=inputs.photon(case, Algorithm.PENCIL))

    def prepared(of: Case, grid: Grid | None = None) -> Prepared:
        return inputs.prepare(of, engine, grid)

    settings, limits = settings_of(options, folder), limits_of(options, folder)
    return make_basis(prepared(case), prepared, settings, goals_file(options, folder), inputs.hu_table, limits)


def _result_json(found: DayInCourse) -> dict[str, Any]:
    """Without times of the clock: a job that runs again gives the same bytes."""
    values = fraction_to_json(found.report)
    del values["seconds"]
    return {**values, "course_notices": [asdict(notice) for notice in found.notices]}


def _objects(
    found: DayInCourse, case: Case, options: AdaptOptions, blobs: BlobStore, folder: Path
) -> tuple[Artifact, ...]:
    """The package of a day that gets one, else the dose of the day where there is one."""
    report = found.report
    if wants_package(report, options.package):
        package = write_package(report, case, folder / "package")
        for name in (DOSE, STRUCTURES, REGISTRATION):
            (package / name).rename(folder / name)
        images = [
            kept(blobs, f"{IMAGES}{path.name.removeprefix('CT.')}", path) for path in sorted(package.glob("CT.*.dcm"))
        ]
        return (*(kept(blobs, name, folder / name) for name in (DOSE, STRUCTURES, REGISTRATION)), *images)
    carried = found.evaluated.carried
    if carried is None or report.dose is None or case.dicom is None:
        return ()
    on_planning_ct = replace(report.dose, volume=carried, uid="")
    write_dose(folder / DOSE, on_planning_ct, case.dicom, case.plan, ON_PLANNING_CT)
    return (kept(blobs, DOSE, folder / DOSE),)


def _summary(spec: JobSpec, report: FractionReport) -> dict[str, Any]:
    return {
        "case": report.case_key,
        "plan": report.plan_label,
        "plan_uid": spec.plan_uid,
        "reasons": list(report.reasons),
        "fraction": report.fraction,
        "fractions": report.fractions,
        "acquired": report.acquired.isoformat(),
        "series_uid": report.series_uid,
        "verdict_alone": report.verdict_alone.value,
        "goals": compact_goals(fraction_to_json(report)["goals"], "value"),
    }
