"""`doseeng adapt` as people and programs meet it. The registration is faked (see conftest): it is tested elsewhere."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid

from cluster.adaptation.settings import site_settings
from cluster.report.fraction import write_fraction_report
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.errors import ConfigError
from doseeng.transforms import RigidTransform
from registration.result import GateResult

Run = Callable[..., Any]
FIRST = datetime(2025, 1, 6, 8, 30)
MOVED = (0.0, 0.0, 16.0)
FAILED = GateResult("coverage", "CTV", 0.4, 0.9, "", False, "60 % of the target lie outside the image.")


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds that the pictures of a page take."""

    def write(_report: Any, _case: Any, path: Path) -> Path:
        path.write_text("<html>")
        return path

    monkeypatch.setattr("cluster.cli.adapt.write_fraction_report", write)


@pytest.fixture(scope="session")
def images(water_case: Any, course_case: Case, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three days of the patient, a day apart."""
    folders = []
    for number in range(3):
        folder = tmp_path_factory.mktemp(f"day{number + 1}")
        context = DicomContext(
            str(generate_uid()),
            {"PatientName": "Quatermain^Zebulon", "PatientID": "QZ-4711"},
            {"StudyInstanceUID": str(generate_uid())},
        )
        write_ct(folder, course_case.ct, context, acquired=FIRST + timedelta(days=number))
        folders.append(folder)
    return folders


def test_a_good_day_is_green(doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path) -> None:
    done = doseeng("adapt", course_dir, "--image", images[0])
    assert done.code == 0, done.err
    assert "Fraction 1 of 10" in done.out
    assert "GREEN" in done.out
    (page,) = tmp_path.glob("doseeng-fraction-*-20250106-0830.html")
    assert page.name in done.out
    assert len(list(tmp_path.glob("doseeng-course-*/day-*.json"))) == 1
    assert not list(tmp_path.glob("doseeng-replan-*"))


def test_programs_read_json_alone(doseeng: Run, truth: Any, course_dir: Path, images: list[Path]) -> None:
    done = doseeng("adapt", course_dir, "--image", images[0], "--json")
    assert done.code == 0
    (day,) = done.result["days"]
    assert day["verdict"] == "GREEN"
    assert {goal["metric"] for goal in day["goals"]} == {"V95%", "D95%"}
    assert day["goals"][0]["band"]["low"] <= day["goals"][0]["value"] <= day["goals"][0]["band"]["high"]
    assert day["couch_shift_mm"] == [0.0, 0.0, 0.0]
    assert done.result["errors"] == []
    assert day["provenance"]["day"]["series_uid"] == day["series_uid"]


def test_days_go_in_order_of_acquisition_and_the_latest_decides(
    doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    truth.moved_mm = MOVED
    both = ("--image", images[2], "--image", images[0])
    done = doseeng("adapt", course_dir, *both, "--package", tmp_path / "to", "--report", "page.html", "--json")
    assert done.code == 2
    first, last = done.result["days"]
    assert (first["fraction"], last["fraction"]) == (1, 2)
    assert first["acquired"] < last["acquired"]
    assert [day["acquired"] for day in last["earlier"]] == [first["acquired"]]
    assert [day["report"] for day in (first, last)] == ["page-20250106-0830.html", "page-20250108-0830.html"]
    assert Path(last["package"]).parent == tmp_path / "to"
    assert {"RS.dcm", "RD.dcm", "REG.dcm", "CT.0001.dcm"} <= {p.name for p in Path(last["package"]).iterdir()}
    # The latest day decides, whatever came before it.
    truth.moved_mm = (0.0, 0.0, 0.0)
    assert doseeng("adapt", course_dir, "--image", images[2], "--package-when", "never").code == 0


def test_a_failed_gate_ends_unevaluable_without_package(
    doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    truth.gates = (FAILED,)
    done = doseeng("adapt", course_dir, "--image", images[0], "--package-when", "always")
    assert done.code == 3
    assert "coverage [CTV]: 60 % of the target lie outside the image." in done.out
    assert not list(tmp_path.glob("doseeng-replan-*"))
    truth.error = "the image holds air alone"
    again = doseeng("adapt", course_dir, "--image", images[0])
    assert again.code == 3
    assert "the image holds air alone" in again.out


def test_an_image_that_cannot_be_read_is_an_error_and_the_others_go_on(
    doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = doseeng("adapt", course_dir, "--image", tmp_path / "empty", "--image", images[0], "--json")
    assert done.code == 4
    assert [day["verdict"] for day in done.result["days"]] == ["GREEN"]
    (error,) = done.result["errors"]
    assert error["type"] == "DicomError"
    assert error["image"].endswith("empty")
    alone = doseeng("adapt", course_dir, "--image", tmp_path / "empty", "--json")
    assert alone.code == 4
    assert alone.result["error"]["type"] == "DicomError"


def test_two_doubtful_days_are_red(
    doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    truth.moved_mm = MOVED
    goals = tmp_path / "goals.toml"
    rows = 'coverage = []\n[[goal]]\nstructure = "CTV"\nmetric = "Dmean"\nrelation = ">="\nunit = "Gy"\nlimit = '
    goals.write_text(f"{rows}1.0")
    common = ("--goals", goals, "--package-when", "never", "--json")
    found = doseeng("adapt", course_dir, "--image", images[0], *common).result["days"][0]["goals"][0]
    assert found["planned"] > found["band"]["high"] + 0.1
    goals.write_text(f"{rows}{found['value'] + 0.01:.3f}")
    assert doseeng("adapt", course_dir, "--image", images[0], *common).code == 1
    second = doseeng("adapt", course_dir, "--image", images[1], *common)
    assert second.code == 2
    assert second.result["days"][0]["verdict_alone"] == "AMBER"
    # The first day again is still the first: nothing lies before it.
    assert doseeng("adapt", course_dir, "--image", images[0], *common).code == 1


def test_options_that_make_no_sense_are_refused(
    doseeng: Run, truth: Any, course_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    both = ("--image", images[0], "--image", images[1])
    done = doseeng("adapt", course_dir, *both, "--fraction", 3)
    assert (done.code, "--fraction 3" in done.err) == (4, True)
    inside = doseeng("adapt", course_dir, "--image", images[0], "--package", course_dir / "replan")
    assert (inside.code, "choose a place outside" in inside.err) == (4, True)
    site = doseeng("adapt", course_dir, "--image", images[0], "--site", "hed_neck")
    assert (site.code, "did you mean 'head_neck'" in site.err) == (4, True)
    late = doseeng("adapt", course_dir, "--image", images[0], "--fraction", 11)
    assert (late.code, "course of 10" in late.err.replace("\n", " ")) == (4, True)


def test_nothing_tells_who_the_patient_is(
    doseeng: Run,
    truth: Any,
    water_case: Any,
    course_dir: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.cli.adapt.write_fraction_report", write_fraction_report)
    truth.couch = RigidTransform(np.eye(3), np.array([1.0, 0.0, 0.0]), np.zeros(3))
    truth.moved_mm = MOVED
    done = doseeng("adapt", course_dir, "--image", images[0])
    assert done.code == 2
    assert len(list(tmp_path.glob("*.html"))) == 1
    texts = [done.out, done.err, *(str(p) for p in tmp_path.rglob("*"))]
    texts += [p.read_text() for p in tmp_path.rglob("*") if p.suffix in (".json", ".txt", ".html")]
    assert not [secret for secret in water_case.secrets if any(secret in text for text in texts)]


def test_a_clinics_own_values_replace_those_of_its_site_alone(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[site.lung]\nimage_method = "corrected"\n[site.mine]\ndose_percent = 3.0\n')
    assert site_settings("lung", own).image_method.value == "corrected"
    assert site_settings("lung", own).registration_sigma_mm == site_settings("lung").registration_sigma_mm
    assert site_settings("mine", own).dose_percent == 3.0
    assert site_settings("head_neck").image_method.value == "corrected"
    assert site_settings("pelvis").image_method.value == site_settings("thorax").image_method.value == "virtual-ct"
    own.write_text("[site.lung]\nregistration_sigma_mm = 9.0\n")
    with pytest.raises(ConfigError, match=r"'lung': registration_sigma_mm 9 .* folds"):
        site_settings("lung", own)
    own.write_text('[site.lung]\nimage_metod = "corrected"\n')
    with pytest.raises(ConfigError, match=r"own\.toml: site\.lung\.image_metod.*'image_method'"):
        site_settings("lung", own)
