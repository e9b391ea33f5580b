"""A day of the demo and a useless image through `doseeng adapt`, everything real: from DICOM folders to the verdict."""

import json

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.demo import treatment
from cluster.demo.case import write_demo_case
from cluster.demo.days import write_demo_days


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is said of the good and of the truncated day, on a plan made for the nominal scenario in a few seconds."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treatment, "SCENARIOS", treatment.SCENARIOS[:1])
        write_demo_case(folder / "case")
        patch.chdir(folder)
        good, _, truncated = write_demo_days(folder / "days")
        images = ["--image", str(good), "--image", str(truncated)]
        done = CliRunner().invoke(app, ["adapt", str(folder / "case"), *images, "--site", "lung", "--json"])
    assert done.exit_code == 3, done.output
    return json.loads(done.stdout)["days"], folder


def test_a_good_image_passes_every_gate_and_is_judged(found):
    day, _ = found[0]
    assert len(day["gates"]) > 20
    assert all(gate["passed"] for gate in day["gates"])
    assert day["verdict"] != "UNEVALUABLE"
    assert {goal["status"] for goal in day["goals"]} <= {"GREEN", "AMBER", "RED"}


def test_an_image_that_hardly_shows_the_target_is_no_pass(found):
    _, day = found[0]
    assert day["verdict"] == "UNEVALUABLE"
    assert {"target-seen", "couch-shift"} <= {gate["name"] for gate in day["gates"] if not gate["passed"]}
    assert {goal["status"] for goal in day["goals"]} == {"UNEVALUABLE"}


def test_every_day_leaves_its_report(found):
    assert len(list(found[1].glob("doseeng-fraction-*.html"))) == 2
