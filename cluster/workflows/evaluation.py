"""The evaluate job: blocks of scenarios wherever the executor puts them, merged and judged there, a small result back.

A job begins as one unit, which prepares the case and takes blocks for a while; a small case is done with that. Of a
larger one the remaining blocks become units of their own when workers have nothing else to do, and their statistics
merge in the order of the blocks. While all workers are busy the job goes on in turns of one unit each, so that a batch
does not prepare every case on every worker. Where turns ended, how many workers there were and which of them died
changes no byte of the statistics. No volume passes through the driver.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cluster.executor.placement import on_device
from cluster.executor.protocol import Handle
from cluster.jobs.context import Cancelled, JobContext
from cluster.jobs.model import JobResult, JobSpec
from cluster.report import write_report
from cluster.report.summary import summary_of_plan
from cluster.robustness import agreement, without_leaves
from cluster.storage.blobs import BlobStore
from cluster.workflows.artifacts import DOSE, REPORT, RESULT, compact_goals, kept, kept_json
from cluster.workflows.documents import document_artifacts
from cluster.workflows.studies import ReadyStudy, Studies, Workshop
from doseeng.dicom.rtdose import write_dose
from doseeng.errors import DicomError, JobError
from robust.evaluate import judged, require_nominal_first
from robust.export import report_to_json
from robust.result import RobustReport
from robust.tally import Tally, blocks, empty_tally, take_block

TURN_S: Final = 3.0
"""The first turn takes no further block after so much processor time: a small case is done by then, and spared what
units of its own would cost, reading and preparing it on several workers."""
SHORT_TURN_S: Final = 1.0
"""The same where workers are idle, who wait for this turn to end."""
LONGER: Final = 2.0
"""Each turn is longer than the one before by this factor: another worker may have to prepare the case again."""
_studies = Studies()


@dataclass(frozen=True, slots=True)
class Turn:
    """How far a job is after a turn: scenarios taken and in all, blocks taken and in all. result: where it is done."""

    scenarios: tuple[int, int]
    blocks: tuple[int, int]
    result: JobResult | None = None


def run_evaluation(spec: JobSpec, context: JobContext) -> JobResult:
    """result.json, report.html, RD.dcm (the nominal dose) and the documents. The verdict is that of `doseeng evaluate`.

    Errors as `read_case`, the engine and `robust.evaluate`; Cancelled when the job is no longer wanted.
    """
    return evaluate_in_blocks(spec, context, SHORT_TURN_S if context.executor.idle > 1 else TURN_S)


def evaluate_in_blocks(spec: JobSpec, context: JobContext, turn_s: float) -> JobResult:
    """`run_evaluation`, with a first turn that takes no further block after turn_s of processor time."""
    executor, at = context.executor, Workshop(context.blobs, context.scratch)
    stage, done, total = "reading the case", 0, 1

    def is_wanted() -> bool:
        context.progress(stage, done, total)
        return True

    whole: Handle | None = None
    while True:
        small, whole = executor.split(_turn, 2, spec, at, whole, turn_s)
        turn: Turn = executor.result(small, is_wanted)
        stage, (done, total) = "scenarios", turn.scenarios
        is_wanted()
        if turn.result is not None:
            return turn.result
        if executor.workers == 1 or executor.idle > 1:
            break
        turn_s *= LONGER
    after = [block.stop for block in blocks(total)]
    left = deque(range(*turn.blocks))
    for handle in executor.each(_block, (spec, at), tuple(left), is_wanted):
        whole = executor.call(_merged, whole, handle)
        done = after[left.popleft()]
    if left:
        raise Cancelled("the job was cancelled while its scenarios were computed")
    stage = "results"
    is_wanted()
    result: JobResult = executor.result(executor.call(_judge, spec, at, whole), is_wanted)
    return result


@on_device
def _turn(spec: JobSpec, at: Workshop, whole: Tally | None, turn_s: float) -> tuple[Turn, Tally | None]:
    """As many of the next blocks as fit into turn_s, and the result where that were all. Every turn but the first takes
    one at least."""
    until = time.process_time() + turn_s
    ready = _studies.of(spec, at)
    scenarios = ready.basis.scenarios
    require_nominal_first(scenarios)
    every = blocks(len(scenarios))
    tally = whole or empty_tally(ready.basis)
    taken = sum(block.stop <= tally.end for block in every)
    least = taken if whole is None else taken + 1
    while taken < len(every) and (taken < least or time.process_time() < until):
        take_block(tally, ready.basis, every[taken], ready.dose_of)
        taken += 1
    where = (tally.end, len(scenarios)), (taken, len(every))
    if taken < len(every):
        return Turn(*where), tally
    return Turn(*where, _judge(spec, at, tally)), None


@on_device
def _block(spec: JobSpec, at: Workshop, index: int) -> Tally:
    """The partial statistics of one block."""
    ready = _studies.of(spec, at)
    block = blocks(len(ready.basis.scenarios))[index]
    tally = empty_tally(ready.basis, block.start)
    take_block(tally, ready.basis, block, ready.dose_of)
    return tally


def _merged(whole: Tally, later: Tally) -> Tally:
    """The partial statistics of neighbouring scenarios as one."""
    whole.merge(later)
    return whole


@on_device
def _judge(spec: JobSpec, at: Workshop, whole: Tally) -> JobResult:
    """Verdict, report and DICOM objects."""
    ready = _studies.of(spec, at)
    _studies.forget(spec)
    report = _report(ready, whole)
    with at.folder() as folder:
        return _kept(spec, at.blobs, ready, report, folder)


def _report(ready: ReadyStudy, whole: Tally) -> RobustReport:
    study = ready.study
    if whole.nominal is None:
        raise JobError("the nominal scenario is missing in the statistics of the job")
    gates, found = agreement(study.prepared, whole.nominal)
    return judged(
        study.prepared.case,
        ready.basis,
        whole,
        gates=gates,
        notices=(*study.notices, *found, *without_leaves(study.prepared, study.scenarios)),
        provenance={
            **study.prepared.provenance,
            "request": ready.asked,
            **study.settings.record(len(study.scenarios)),
        },
    )


def _kept(spec: JobSpec, blobs: BlobStore, ready: ReadyStudy, report: RobustReport, folder: Path) -> JobResult:
    case = ready.study.prepared.case
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    made = datetime.now().astimezone()
    write_report(report, case, folder / REPORT, written=made)
    write_dose(folder / DOSE, report.nominal, case.dicom, case.plan, "doseeng nominal")
    values: dict[str, Any] = report_to_json(report)
    artifacts = (
        kept_json(blobs, RESULT, values),
        kept(blobs, REPORT, folder / REPORT),
        kept(blobs, DOSE, folder / DOSE),
        *document_artifacts(summary_of_plan(report, made), case, blobs, folder, _evidence(spec, blobs, folder)),
    )
    return JobResult(
        verdict=report.verdict.value,
        summary={
            "case": case.key,
            "plan": case.plan.label,
            "plan_uid": spec.plan_uid,
            "reasons": list(report.reasons),
            "goals": compact_goals(values["goals"], "worst"),
            "scenarios": len(report.scenarios),
            "worst_scenario": values["worst_scenario"],
        },
        artifacts=artifacts,
        case_key=case.key,
    )


def _evidence(spec: JobSpec, blobs: BlobStore, folder: Path) -> list[Path]:
    """The DICOM objects that the result rests on, and the dose that was made."""
    sources = folder / "sources"
    sources.mkdir()
    return [*(blobs.copy_to(sha256, sources / f"{sha256}.dcm") for sha256 in spec.objects), folder / DOSE]
