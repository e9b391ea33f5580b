"""The demo case: a phantom with the right sizes, and a DICOM folder that reads back as the plan that was made."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from cluster.demo import treatment, write_demo_case
from cluster.demo.phantom import GRID, contours_of, make_anatomy, make_ct, make_structures
from cluster.demo.shapes import capsule, ellipsoid, space_of
from doseeng.dicom.case import read_case
from doseeng.dose import Quantity
from doseeng.dvh import sample_dose, sample_points
from doseeng.engine import prepare, scenario_dose
from doseeng.grid import Grid
from doseeng.masks import mask, volume_cm3
from doseeng.metrics import evaluate_metric
from doseeng.structures import Structure


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy()


@pytest.fixture(scope="module")
def ct(anatomy):
    return make_ct(anatomy, GRID)


@pytest.fixture(scope="module")
def structures(anatomy):
    return {s.name: s for s in make_structures(anatomy, GRID)}


@pytest.fixture(scope="module")
def quick():
    """Planning for the nominal scenario with few iterations: seconds in place of half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treatment, "SCENARIOS", treatment.SCENARIOS[:1])
        patch.setattr(treatment, "ROUGH", replace(treatment.ROUGH, iterations=30))
        patch.setattr(treatment, "FINAL", replace(treatment.FINAL, iterations=40))
        yield


@pytest.fixture(scope="module")
def written(quick, tmp_path_factory):
    """The folder of a case, and the progress that was told while it was written."""
    seen = []
    return write_demo_case(tmp_path_factory.mktemp("demo") / "new", lambda *step: seen.append(step)), seen


@pytest.fixture(scope="module")
def case(written):
    return read_case(written[0])


def test_shapes_have_the_volume_and_the_contours_of_their_formula():
    grid = Grid((60, 60, 60), (1.0, 1.0, 1.0), (-29.5, -29.5, -29.5))
    space = space_of(grid)
    egg = ellipsoid(space, (0.0, 0.0, 0.0), (20.0, 15.0, 10.0), 30.0)
    exact = 4 / 3 * np.pi * 20 * 15 * 10 / 1000
    assert np.count_nonzero(egg > 0) / 1000 == pytest.approx(exact, rel=0.01)
    drawn = Structure(1, "egg", "ORGAN", contours_of(egg, grid))
    assert volume_cm3(drawn) == pytest.approx(exact, rel=0.01)
    rod = capsule(space, (0, 0, -15), (0, 0, 15), 6.0, 6.0)
    exact = (np.pi * 36 * 30 + 4 / 3 * np.pi * 216) / 1000
    assert np.count_nonzero(rod > 0) / 1000 == pytest.approx(exact, rel=0.02)


def test_organs_have_human_sizes(structures):
    volumes = {name: volume_cm3(s) for name, s in structures.items()}
    assert 18 < volumes["GTV"] < 33  # a ball of 33 to 40 mm
    assert 800 < volumes["Lung_R"] < 3000
    assert 700 < volumes["Lung_L"] < volumes["Lung_R"]
    assert 400 < volumes["Heart"] < 800
    assert volumes["CTV"] > 1.5 * volumes["GTV"]
    assert volumes["Lungs-GTV"] < volumes["Lung_L"] + volumes["Lung_R"]


def test_tissues_have_their_ct_numbers(ct, structures):
    def mean(name):
        return ct.values[mask(structures[name], GRID).values > 0.999].mean()

    assert -850 < mean("Lung_R") < -650
    assert -850 < mean("Lung_L") < -650
    for name in ("GTV", "Heart", "SpinalCord", "Esophagus"):
        assert 10 < mean(name) < 70
    outside = mask(structures["BODY"], GRID).values == 0
    assert ct.values[outside].max() <= -950


def test_the_phantom_is_the_same_every_time(ct, anatomy):
    assert np.array_equal(ct.values, make_ct(anatomy, GRID).values)


def test_the_case_reads_back_without_a_notice(case):
    assert case.notices == ()
    assert case.plan.modality == "proton"
    assert case.structures.names == (
        "BODY", "GTV", "CTV", "Lung_R", "Lung_L", "Lungs-GTV", "Heart", "SpinalCord", "Esophagus",
    )  # fmt: skip
    assert case.structures.external().name == "BODY"
    target = case.structures.by_number(case.plan.prescriptions[0].roi_number)
    assert (target.name, case.plan.prescriptions[0].dose_gy) == ("CTV", 60.0)
    assert [(b.name, b.fractions) for b in case.plan.beams] == [("RL", 30), ("RPO", 30), ("PA", 30)]


def test_every_spot_is_deliverable(case):
    for beam in case.plan.beams:
        assert 200 < len(beam.spot_mu) < 2000
        assert beam.spot_mu.min() >= treatment.MIN_SPOT_MU


def test_the_dose_in_the_case_is_the_engines(case):
    stored = case.doses[0]
    assert stored.quantity is Quantity.RBE_WEIGHTED
    assert "doseeng" in stored.comment
    prepared = prepare(case)
    assert prepared.notices == ()
    computed = scenario_dose(prepared).volume.values
    np.testing.assert_allclose(stored.volume.values, computed, atol=1e-4)


def test_the_nominal_plan_meets_its_goals(case):
    dose = case.doses[0].volume

    def metric(structure, name):
        points = sample_points(case.structures.by_name(structure), dose.grid.spacing_mm)
        return evaluate_metric(sample_dose(points, dose), name, 60.0)

    assert metric("CTV", "D50%") == pytest.approx(60.0, abs=0.05)
    assert metric("CTV", "V95%") > 98.0
    assert metric("CTV", "D2%") < 1.07 * 60.0
    assert metric("SpinalCord", "Dmax") < 45.0
    assert metric("Heart", "Dmean") < 5.0
    assert metric("Lungs-GTV", "Dmean") < 10.0
    assert metric("Lungs-GTV", "V20Gy") < 20.0


def test_planning_again_gives_the_same_case(quick, case, ct):
    structures = case.structures
    again = treatment.plan_treatment(ct, structures, case.plan.label, case.plan.uid, lambda *_: None)
    assert np.array_equal(ct.values, case.ct.values)
    for one, other in zip(case.plan.beams, again.beams, strict=True):
        assert np.array_equal(one.spot_mu, other.spot_mu)
        assert np.array_equal(one.spot_uv_mm, other.spot_uv_mm)
        assert np.array_equal(one.spot_energy_mev, other.spot_energy_mev)


def test_nobody_is_named(written):
    for path in written[0].iterdir():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert (str(dataset.PatientName), dataset.PatientID) == ("doseeng^demo", "doseeng-demo")


def test_progress_names_every_stage_and_ends_each(written):
    seen = written[1]
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages[0] == "phantom"
    assert stages[-1] == "write"
    for stage, done, total in seen:
        assert 0 <= done <= total, stage
    for stage in ("phantom", "influence", "engine correction", "final dose", "write"):
        assert any(s == stage and done == total for s, done, total in seen)
