"""The dose job: a plan recalculated, its RTDOSE, and how it compares with the planning system's dose."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cluster.jobs.context import JobContext
from cluster.jobs.model import JobKind, JobResult, JobSpec
from cluster.recalculation import (
    DESCRIPTION,
    Recalculation,
    quantity_of,
    reasons_of,
    recalculate,
    recalculation_to_json,
)
from cluster.report.summary import summary_of_dose
from cluster.workflows.artifacts import DOSE, RESULT, kept, kept_json
from cluster.workflows.documents import document_artifacts
from cluster.workflows.inputs import engine_inputs
from cluster.workflows.materialize import case_from, files_of
from cluster.workflows.options import DoseOptions, options_from
from cluster.workflows.unit import Workplace, run_as_unit
from doseeng.case import Case
from doseeng.dicom.rtdose import write_dose
from doseeng.dose import Quantity
from doseeng.engine import EngineSettings, Prepared
from doseeng.errors import ConfigError, DicomError
from doseeng.photon import Algorithm


def run_dose(spec: JobSpec, context: JobContext) -> JobResult:
    """result.json, RD.dcm and the documents. The verdict is that of `doseeng dose`: the gamma pass rate by AAPM TG-218,
    "" for a case without a dose of the planning system. Errors as `read_case` and the engine."""
    return run_as_unit(spec, context, recalculate_case)


def recalculate_case(spec: JobSpec, workplace: Workplace, folder: Path) -> JobResult:
    """The work of `run_dose`, where the executor puts it."""
    workplace.progress("reading the case", 0, 1)
    case = case_from(spec, workplace.blobs, folder)
    prepared = _prepared(spec, case, workplace, folder)
    found = recalculate(prepared, lambda done, total: workplace.progress("dose", done, total))
    workplace.progress("results", 0, 1)
    return _result(spec, found, workplace, folder)


def _prepared(spec: JobSpec, case: Case, workplace: Workplace, folder: Path) -> Prepared:
    options = options_from(JobKind.DOSE, spec.options)
    assert isinstance(options, DoseOptions)
    if options.dose_to and case.plan.modality != "photon":
        raise ConfigError(
            f"dose_to {options.dose_to} is for photon plans, plan '{case.plan.label}' has proton beams; leave it out"
        )
    inputs = engine_inputs(options, workplace.blobs, folder)
    photon = inputs.photon(case, Algorithm.COLLAPSED_CONE, to_water=options.dose_to == "water")
    quantity = Quantity.PHYSICAL if options.physical else quantity_of(case)
    return inputs.prepare(case, EngineSettings(spacing_mm=options.spacing_mm, quantity=quantity, photon=photon))


def _result(spec: JobSpec, found: Recalculation, workplace: Workplace, folder: Path) -> JobResult:
    case, blobs = found.prepared.case, workplace.blobs
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    write_dose(folder / DOSE, found.dose, case.dicom, case.plan, DESCRIPTION)
    values, reasons = recalculation_to_json(found), reasons_of(found)
    verdict = found.verdict.value if found.verdict else ""
    made, provenance = datetime.now().astimezone(), dict(found.prepared.provenance)
    brief = summary_of_dose(found.dose, case.plan.label, case.key, provenance, made)
    summary = replace(brief, verdict=verdict, reasons=reasons, notices=tuple(map(str, found.notices)))
    artifacts = (
        kept_json(blobs, RESULT, {**values, "reasons": list(reasons)}),
        kept(blobs, DOSE, folder / DOSE),
        *document_artifacts(summary, case, blobs, folder, [*files_of(folder), folder / DOSE]),
    )
    return JobResult(
        verdict=verdict,
        summary={
            "case": case.key,
            "plan": case.plan.label,
            "plan_uid": spec.plan_uid,
            "reasons": list(reasons),
            "dose_max_gy": values["dose_max_gy"],
            "comparisons": values["comparisons"],
        },
        artifacts=artifacts,
        case_key=case.key,
    )
