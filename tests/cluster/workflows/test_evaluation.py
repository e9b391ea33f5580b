"""The evaluate job in this process: what it leaves, and that blocks and their order change nothing."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.executor.inprocess import InProcessExecutor
from cluster.executor.protocol import Handle
from cluster.jobs.context import Cancelled
from cluster.jobs.model import JobResult, JobSpec
from cluster.robustness import RobustnessRequest, run_robustness
from cluster.storage.files import FileBlobs
from cluster.workflows import evaluation, studies
from cluster.workflows.evaluation import evaluate_in_blocks, run_evaluation
from cluster.workflows.options import EvaluateOptions
from cluster.workflows.specs import evaluate_spec
from doseeng.dicom.case import read_case
from doseeng.dicom.rtdose import read_dose
from doseeng.engine import prepare
from doseeng.errors import ConfigError, DicomError, JobError
from robust.export import finite, report_to_json
from tests.cluster.workflows.conftest import PLAN, Hospital

AT_ONCE, IN_BLOCKS = 1e6, 0.0
FAST = {"scenarios": "6", "setup_mm": 3.0}


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has its own tests, and its pictures take seconds."""

    def write(_report: Any, _case: Any, path: Path, **_: Any) -> Path:
        path.write_text("<html>")
        return path

    monkeypatch.setattr(evaluation, "write_report", write)


def spec_of(hospital: Hospital, **options: Any) -> JobSpec:
    return evaluate_spec(hospital.library, hospital.site, PLAN, EvaluateOptions(**{**FAST, **options}))


def result_json(hospital: Hospital, result: JobResult) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(hospital.data(result, "result.json"))
    return values


def test_it_says_what_the_command_line_says(hospital: Hospital, tmp_path: Path) -> None:
    spec = spec_of(hospital)
    result = run_evaluation(spec, hospital.context())
    names = ["result.json", "report.html", "RD.dcm", "SR.dcm", "summary.pdf", "PDF.dcm"]
    assert [artifact.name for artifact in result.artifacts] == names
    folder = tmp_path / "case"
    folder.mkdir()
    for sha256 in spec.objects:
        hospital.blobs.copy_to(sha256, folder / f"{sha256}.dcm")
    prepared = prepare(read_case(folder, PLAN))
    report, _ = run_robustness(prepared, RobustnessRequest("6", setup_mm=3.0), tmp_path / "r.html")
    expected = json.loads(json.dumps(finite(report_to_json(report)), default=str))
    found = result_json(hospital, result)
    for key in ("verdict", "reasons", "goals", "scenarios", "worst_scenario", "structures", "notices"):
        assert found[key] == expected[key], key
    assert result.verdict == report.verdict.value
    assert result.summary["reasons"] == list(report.reasons)
    assert result.case_key == report.case_key
    assert found["provenance"]["request"]["options"]["setup_mm"] == 3.0
    path = hospital.blobs.copy_to(next(a for a in result.artifacts if a.name == "RD.dcm").sha256, tmp_path / "rd.dcm")
    assert read_dose(path).plan_uid == PLAN
    assert read_dose(path).volume.values == pytest.approx(report.nominal.volume.values, abs=1e-3)


def test_where_the_first_unit_stops_changes_no_byte(hospital: Hospital) -> None:
    spec = spec_of(hospital)
    steps: list[tuple[int, int]] = []
    at_once = evaluate_in_blocks(spec, hospital.context(), AT_ONCE)
    in_blocks = evaluate_in_blocks(
        spec, hospital.context(progress=lambda _stage, done, total: steps.append((done, total))), IN_BLOCKS
    )
    assert hospital.data(at_once, "result.json") == hospital.data(in_blocks, "result.json")
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (7, 7)
    assert not list(hospital.folder.rglob("unit-*"))
    assert {3, 5, 7} <= {done for done, _ in steps}


def test_goals_and_scenarios_may_be_given_as_text(hospital: Hospital) -> None:
    goals = '[[goal]]\nstructure = "Cord"\nmetric = "Dmean"\nrelation = "<="\nlimit = 0.0001\nunit = "Gy"\n'
    scenarios = '[[scenario]]\nname = "up"\nshift_mm = [0.0, -4.0, 0.0]\n'
    result = run_evaluation(spec_of(hospital, goals=goals, scenarios=scenarios, setup_mm=None), hospital.context())
    assert result.summary["scenarios"] == 2
    assert "Cord Dmean" in [goal["name"] for goal in result.summary["goals"]]
    options = result_json(hospital, result)["provenance"]["request"]["options"]
    assert options["goals"].startswith("sha256:")


def test_what_cannot_be_is_refused(hospital: Hospital) -> None:
    spec = spec_of(hospital)
    for options, kind, message in (
        ({"scenarios": "no-such-set"}, ConfigError, "no-such-set"),
        ({"algorithm": "pencil"}, ConfigError, "proton beams"),
        ({"colour": "red"}, ConfigError, "colour"),
    ):
        with pytest.raises(kind, match=message):
            run_evaluation(replace(spec, options={**spec.options, **options}), hospital.context())
    with pytest.raises(DicomError):
        run_evaluation(replace(spec, plan_uid="1.2.3"), hospital.context())
    with pytest.raises(JobError):
        run_evaluation(replace(spec, objects=("0" * 64,)), hospital.context())


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_cancelled_job_stops(hospital: Hospital, after: int) -> None:
    def progress(_stage: str, done: int, _total: int) -> None:
        if done >= after:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluate_in_blocks(spec_of(hospital), hospital.context(progress=progress), IN_BLOCKS)


class Cluster(InProcessExecutor):
    """Says that it has four workers, and how many of them are idle whenever it is asked; counts units by name."""

    def __init__(self, *idle: int) -> None:
        self._idle = list(idle)
        self.units: list[str] = []

    @property
    def workers(self) -> int:
        return 4

    @property
    def idle(self) -> int:
        return self._idle.pop(0)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        self.units.append(function.__name__)
        return super().call(function, *arguments)


@pytest.mark.parametrize(
    ("idle", "units"),
    [
        # While nobody is idle the job goes on in turns; 3 blocks of 7 scenarios, and none in the first turn of 0 s.
        ((0, 1, 0), ["_turn"] * 4),
        ((0, 4), ["_turn"] * 2 + ["_block", "_merged"] * 2 + ["_judge"]),
        ((4,), ["_turn"] + ["_block", "_merged"] * 3 + ["_judge"]),
    ],
)
def test_work_is_spread_when_workers_are_idle(hospital: Hospital, idle: tuple[int, ...], units: list[str]) -> None:
    spec = spec_of(hospital)
    expected = evaluate_in_blocks(spec, hospital.context(), AT_ONCE)
    executor = Cluster(*idle)
    found = evaluate_in_blocks(spec, hospital.context(executor=executor), IN_BLOCKS)
    assert executor.units == units
    assert hospital.data(found, "result.json") == hospital.data(expected, "result.json")


class Scales(InProcessExecutor):
    """Weighs what the driver brings to itself, and pickles what it passes on, as another process would."""

    def __init__(self) -> None:
        self.heaviest = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        kept = [pickle.loads(pickle.dumps(a)) if isinstance(a, JobSpec | FileBlobs) else a for a in arguments]
        return super().call(function, *kept)

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        found = super().result(handle, wanted)
        self.heaviest = max(self.heaviest, len(pickle.dumps(found)))
        return found


def test_no_volume_passes_through_the_driver(hospital: Hospital) -> None:
    executor = Scales()
    run = hospital.context(executor=executor)
    evaluate_in_blocks(spec_of(hospital), run, IN_BLOCKS)
    assert 0 < executor.heaviest < 20_000


def test_a_worker_reads_a_case_once_and_keeps_few(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    kept = studies.Studies(most=2)
    real = studies.ready_study

    def counted(spec: JobSpec, at: studies.Workshop) -> studies.ReadyStudy:
        made.append(spec.options["setup_mm"])
        return real(spec, at)

    monkeypatch.setattr(studies, "ready_study", counted)
    monkeypatch.setattr(evaluation, "_studies", kept)
    evaluate_in_blocks(spec_of(hospital), hospital.context(), IN_BLOCKS)
    assert made == [3.0]
    assert not kept._kept  # the job has ended
    made.clear()
    at = studies.Workshop(hospital.blobs, hospital.folder)
    for setup_mm in (1.0, 2.0, 1.0, 3.0, 2.0):
        kept.of(spec_of(hospital, setup_mm=setup_mm), at)
    assert made == [1.0, 2.0, 3.0, 2.0]
    assert len(kept._kept) == 2


def test_sites_share_no_prepared_case(hospital: Hospital) -> None:
    spec = spec_of(hospital)
    assert replace(spec, site="south").content_key != spec.content_key


def test_results_tell_nobody_who_it_is(hospital: Hospital, water_case: Any) -> None:
    result = run_evaluation(spec_of(hospital), hospital.context())
    told = json.dumps(result.summary) + hospital.data(result, "result.json").decode()
    for secret in water_case.secrets:
        assert secret not in told
