"""The dose job: what `doseeng dose` finds, as artifacts."""

import json
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread

from cluster.jobs.context import Cancelled
from cluster.library.library import Library
from cluster.workflows.options import DoseOptions
from cluster.workflows.run import run_job
from cluster.workflows.specs import dose_spec
from doseeng.errors import ConfigError, JobError

PLAN = "1.2.826.0.1.3680043.10.4711.1"


def test_a_plan_is_recalculated_and_compared(hospital: Any, water_case: Any) -> None:
    spec = dose_spec(hospital.library, hospital.site, PLAN, DoseOptions())
    result = run_job(spec, hospital.context())
    names = {artifact.name for artifact in result.artifacts}
    assert names == {"result.json", "RD.dcm", "SR.dcm", "summary.pdf", "PDF.dcm"}
    assert result.verdict == "GREEN"
    assert result.case_key == result.summary["case"] == hospital.library.case_objects("north", PLAN).case_key
    assert result.summary["plan"] == "W1"
    assert "gamma 100.0 %" in result.summary["reasons"][-1]
    dose = dcmread(BytesIO(hospital.data(result, "RD.dcm")))
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == PLAN
    assert dose.PatientID == "QZ-4711"
    written = json.loads(hospital.data(result, "result.json"))
    assert written["comparisons"][0]["gamma_percent"] > 99.0
    assert hospital.data(result, "summary.pdf").startswith(b"%PDF")
    assert hospital.stages[0] == "reading the case"
    assert {"dose", "results"} <= set(hospital.stages)
    # A job that runs again finds the same.
    again = run_job(spec, hospital.context())
    assert hospital.data(again, "result.json") == hospital.data(result, "result.json")
    assert again.summary == result.summary
    for name in ("result.json", "summary.pdf"):
        assert not [s for s in water_case.secrets if s.encode() in hospital.data(result, name)]
    # Nothing of the patient's objects is left behind.
    assert not [path for path in hospital.folder.rglob("*.dcm") if path.is_file()]


def test_without_a_dose_to_compare_there_is_no_verdict(hospital: Any, water_case: Any, sqlite_database: Any) -> None:
    library = Library(sqlite_database, lambda _site: hospital.blobs)
    for path in sorted(water_case.write(hospital.folder / "bare", replace(water_case.case, doses=())).glob("*.dcm")):
        library.receive("north", path)
    spec = dose_spec(library, hospital.site, PLAN, DoseOptions(spacing_mm=6.0))
    result = run_job(spec, hospital.context())
    assert result.verdict == ""
    assert result.summary["reasons"] == [
        "The case brings no dose of the planning system; there is nothing to compare with."
    ]


def test_cancelling_stops_the_work(hospital: Any) -> None:
    told: list[str] = []

    def progress(stage: str, done: int, _total: int) -> None:
        told.append(stage)
        if stage == "dose" and done == 1:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run_job(dose_spec(hospital.library, hospital.site, PLAN, DoseOptions()), hospital.context(progress=progress))
    assert told[-1] == "dose"
    assert "results" not in told


def test_errors_say_what_is_wrong(hospital: Any) -> None:
    spec = dose_spec(hospital.library, hospital.site, PLAN, DoseOptions(algorithm="pencil"))
    with pytest.raises(ConfigError, match="algorithm pencil is for photon plans"):
        run_job(spec, hospital.context())
    lost = replace(spec, objects=(*spec.objects, "0" * 64))
    with pytest.raises(JobError, match="0000"):
        run_job(lost, hospital.context())
