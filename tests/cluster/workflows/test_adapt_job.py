"""The adapt job: a day, its course through artifacts, its package. The registration is faked (see conftest)."""

import json
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread

from cluster.jobs.context import Cancelled
from cluster.jobs.model import JobResult, JobSpec
from cluster.report.fraction import write_fraction_report
from cluster.workflows import adaptation
from cluster.workflows.options import AdaptOptions
from cluster.workflows.run import run_job
from cluster.workflows.specs import adapt_spec

PLAN = "1.2.826.0.1.3680043.10.4711.1"
MOVED = (0.0, 0.0, 16.0)
ROWS = 'coverage = []\n[[goal]]\nstructure = "CTV"\nmetric = "Dmean"\nrelation = ">="\nunit = "Gy"\nlimit = '


FEW = "[site.default]\nperturbed_deformations = 4\n"


def spec_of(hospital: Any, day: int, **options: Any) -> JobSpec:
    options = {"settings": FEW, "package_when": "never", **options}
    return adapt_spec(hospital.library, hospital.site, PLAN, hospital.days[day], AdaptOptions(**options))


def names(result: JobResult) -> set[str]:
    return {artifact.name for artifact in result.artifacts}


def test_a_good_day(hospital: Any, truth: Any) -> None:
    spec = spec_of(hospital, 0)
    result = run_job(spec, hospital.context())
    assert result.verdict == "GREEN"
    found = names(result)
    assert {"result.json", "report.html", "RD.dcm", "SR.dcm", "summary.pdf", "PDF.dcm", "course/course.json"} <= found
    assert sum(name.startswith("course/day-") for name in found) == 2
    assert not found & {"RS.dcm", "REG.dcm"}
    summary = result.summary
    assert (summary["fraction"], summary["fractions"], summary["acquired"]) == (1, 10, "2025-01-06T08:30:00")
    assert {goal["name"] for goal in summary["goals"]} == {"CTV V95%", "CTV D95%"}
    assert {goal["status"] for goal in summary["goals"]} == {"GREEN"}
    assert result.case_key == summary["case"] == hospital.library.case_objects("north", PLAN).case_key
    # Without a package the dose lies on the planning CT.
    dose = dcmread(BytesIO(hospital.data(result, "RD.dcm")))
    plan = dcmread(BytesIO(hospital.library.data("north", PLAN)))
    structures = dcmread(BytesIO(hospital.library.data("north", "1.2.826.0.1.3680043.10.4711.2")))
    assert dose.StudyInstanceUID == plan.StudyInstanceUID
    assert dose.FrameOfReferenceUID == structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    assert hospital.stages[-1] == "report"
    assert "dose today" in hospital.stages


def test_a_job_that_runs_again_finds_the_same_bytes(hospital: Any, truth: Any) -> None:
    first = run_job(spec_of(hospital, 0), hospital.context())
    truth.moved_mm = (0.0, 0.0, 4.0)
    results = [run_job(spec_of(hospital, 1), hospital.context(first)) for _ in range(2)]
    one, other = (hospital.data(result, "result.json") for result in results)
    assert one == other
    assert results[0].summary == results[1].summary
    doses = [[a.sha256 for a in result.artifacts if a.name.endswith(".npz")] for result in results]
    assert doses[0] == doses[1] != []


def test_the_course_is_built_up_by_artifacts(hospital: Any, truth: Any) -> None:
    truth.moved_mm = MOVED
    probe = run_job(spec_of(hospital, 0, goals=f"{ROWS}1.0"), hospital.context())
    (goal,) = probe.summary["goals"]
    doubtful = f"{ROWS}{goal['value'] + 0.01:.3f}"
    first = run_job(spec_of(hospital, 0, goals=doubtful), hospital.context())
    assert first.verdict == "AMBER"
    second = run_job(spec_of(hospital, 1, goals=doubtful), hospital.context(first))
    assert (second.verdict, second.summary["verdict_alone"], second.summary["fraction"]) == ("RED", "AMBER", 2)
    third = run_job(spec_of(hospital, 2, goals=doubtful), hospital.context(first, second))
    found = json.loads(hospital.data(third, "result.json"))
    assert [day["acquired"][:10] for day in found["earlier"]] == ["2025-01-06", "2025-01-07"]
    assert third.summary["fraction"] == 3
    # A job keeps its own day alone.
    assert sum(name.endswith(".npz") for name in names(third)) == 1
    # A day that was judged again stands as it was judged last.
    again = run_job(spec_of(hospital, 2, goals=doubtful), hospital.context(probe, first, second))
    assert hospital.data(again, "result.json") == hospital.data(third, "result.json")


def test_a_red_day_gets_a_package(hospital: Any, truth: Any) -> None:
    truth.moved_mm = MOVED
    result = run_job(spec_of(hospital, 0, package_when="red"), hospital.context())
    assert result.verdict == "RED"
    assert {"RS.dcm", "RD.dcm", "REG.dcm", "CT/0001.dcm"} <= names(result)
    slices = sorted(name for name in names(result) if name.startswith("CT/"))
    assert len(slices) == len(set(slices)) == 30
    image = dcmread(BytesIO(hospital.data(result, slices[0])))
    dose = dcmread(BytesIO(hospital.data(result, "RD.dcm")))
    assert dose.FrameOfReferenceUID == image.FrameOfReferenceUID
    report = dcmread(BytesIO(hospital.data(result, "SR.dcm")))
    named = {
        instance.ReferencedSOPInstanceUID
        for study in report.PertinentOtherEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert {PLAN, dose.SOPInstanceUID} <= named


def test_what_cannot_be_registered_is_unevaluable(hospital: Any, truth: Any) -> None:
    truth.error = "the image holds air alone"
    result = run_job(spec_of(hospital, 0, package_when="always"), hospital.context())
    assert result.verdict == "UNEVALUABLE"
    assert "the image holds air alone" in result.summary["reasons"][0]
    assert not names(result) & {"RD.dcm", "RS.dcm", "REG.dcm"}
    assert {"result.json", "report.html", "SR.dcm"} <= names(result)


def test_cancelling_stops_between_stages(hospital: Any, truth: Any) -> None:
    told: list[str] = []

    def progress(stage: str, _done: int, _total: int) -> None:
        told.append(stage)
        if stage == "dose today":
            raise Cancelled("the job was cancelled")

    with pytest.raises(Cancelled):
        run_job(spec_of(hospital, 0), hospital.context(progress=progress))
    assert told[-1] == "dose today"


def test_nothing_but_dicom_tells_who_the_patient_is(
    hospital: Any, truth: Any, water_case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "write_fraction_report", write_fraction_report)
    truth.moved_mm = MOVED
    spec = spec_of(hospital, 0)
    result = run_job(spec, hospital.context())
    texts = [json.dumps(spec.to_json()), json.dumps(result.summary), *hospital.stages, *sorted(names(result))]
    found = [text.encode() for text in texts]
    found += [hospital.blobs.get(a.sha256) for a in result.artifacts if a.media_type != "application/dicom"]
    assert len(found) > len(texts) + 4
    assert not [secret for secret in water_case.secrets if any(secret.encode() in data for data in found)]
