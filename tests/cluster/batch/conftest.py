"""A folder of small cases, and a computation that is quick and depends on nothing but what it is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

import cluster.batch.run
from cluster.jobs.context import JobContext
from cluster.jobs.model import Artifact, JobResult, JobSpec
from cluster.service.config import ExecutorConfig
from doseeng.case import Case
from doseeng.errors import PlanError
from tests.conftest import WaterCase

COMPUTING = ExecutorConfig()


@pytest.fixture(scope="session")
def case_template(water_case: WaterCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small case as DICOM, without doses."""
    case: Case = replace(water_case.case, doses=())
    return water_case.write(tmp_path_factory.mktemp("template") / "case", case)


@pytest.fixture
def make_case(case_template: Path) -> Callable[..., Path]:
    """`make_case(folder, "W2")`: a copy of the template with another plan label (and so other bytes)."""

    def make(folder: Path, label: str = "W1") -> Path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(case_template, folder)
        plan = pydicom.dcmread(folder / "rp.dcm")
        plan.RTPlanLabel = label
        plan.save_as(folder / "rp.dcm")
        return folder

    return make


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the dose engine: plan labels in the order in which they were computed. Labels choose the verdict."""
    done: list[str] = []

    def run_job(spec: JobSpec, context: JobContext) -> JobResult:
        plan = plan_in(spec, context)
        label = str(plan.RTPlanLabel)
        done.append(label)
        context.progress("scenario doses", 1, 2)
        if label.startswith("crash"):
            raise PlanError("beam 1 has no spots; export the plan again")
        return quick_result(label, spec, context)

    monkeypatch.setattr(cluster.batch.run, "run_job", run_job)
    return done


def quick_result(label: str, spec: JobSpec, context: JobContext) -> JobResult:
    """Verdict by the first letter of the plan's label; one goal, whose limit is in the options."""
    verdict = {"R": "RED", "A": "AMBER", "U": "UNEVALUABLE"}.get(label[0], "GREEN")
    worst = {"RED": 88.25, "AMBER": 94.9, "UNEVALUABLE": None}.get(verdict, 97.125)
    goal = {
        "structure": "CTV",
        "metric": "V95%",
        "relation": ">=",
        "limit": 90.0 if "limit = 90" in spec.options.get("goals", "") else 95.0,
        "unit": "%",
        "status": verdict,
        "reason": "",
        "nominal": 99.5,
        "worst": worst,
        "worst_scenario": "x+5 mm",
        "band": 0.5,
        "passed_percent": 75.0,
    }
    result = json.dumps({"verdict": verdict, "goals": [goal], "plan": label}).encode()
    page = f"<!doctype html><title>{label}</title>".encode()
    kept = []
    for name, media_type, data in (("result.json", "application/json", result), ("report.html", "text/html", page)):
        blob = context.blobs.put(data)
        kept.append(Artifact(name, media_type, blob.sha256, blob.size))
    reasons = [] if verdict == "GREEN" else [f"CTV V95% is {worst} %"]
    summary = {"case": "k" + label, "plan": label, "reasons": reasons}
    return JobResult(verdict, summary, tuple(kept), "k" + label)


def plan_in(spec: JobSpec, context: JobContext) -> pydicom.Dataset:
    """The plan among a job's objects."""
    for number, sha256 in enumerate(spec.objects):
        path = context.blobs.copy_to(sha256, context.scratch / f"{number}.dcm")
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if dataset.Modality == "RTPLAN":
            return dataset
    raise AssertionError("the job has no plan")
