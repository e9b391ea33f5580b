"""A photon machine taken to one point: what is asked for comes out, what output cannot explain is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from doseeng.adjustment import adjust_to_point, planned_dose_gy
from doseeng.engine import Prepared, prepare, scenario_dose
from doseeng.errors import ConfigError, MachineError, PlanError
from doseeng.grid import Grid, Volume, resample
from doseeng.machines.photoncommission import adjusted
from doseeng.machines.photonfile import write_photon_machine
from doseeng.machines.photonmodel import PhotonMachine

CENTRE = (0.0, 0.0, 0.0)
OFF_VOXELS = (3.0, -5.0, 1.0)


@pytest.fixture(scope="module")
def prepared(photon_case: Any) -> Prepared:
    return prepare(photon_case.case, machine_folders=[photon_case.folder])


def dose_at(volume: Volume, point_mm: tuple[float, float, float]) -> float:
    return float(resample(volume, Grid((1, 1, 1), (1.0, 1.0, 1.0), point_mm), np.nan).values[0, 0, 0])


def recomputed(photon_case: Any, machine: PhotonMachine, folder: Any, point: tuple[float, float, float]) -> float:
    """The dose at a point as `doseeng dose` computes it, from the machine's file."""
    write_photon_machine(replace(machine, name="adjusted"), folder / "adjusted.toml")
    dose = scenario_dose(prepare(photon_case.case, machine="adjusted", machine_folders=[folder]))
    return dose_at(dose.volume, point)


def test_the_dose_asked_for_comes_out(photon_case: Any, prepared: Prepared, tmp_path: Any) -> None:
    done = adjust_to_point(prepared, OFF_VOXELS, 2.5)
    assert done.start.name == done.machine.name == "L6"
    assert done.before_gy == done.gap_gy == pytest.approx(dose_at(photon_case.case.doses[0].volume, OFF_VOXELS), 1e-4)
    assert done.machine.reference.gy_per_mu == pytest.approx(0.01 * 2.5 / done.before_gy)
    assert recomputed(photon_case, done.machine, tmp_path, OFF_VOXELS) == pytest.approx(2.5, rel=1e-4)


def test_the_leaf_gap_comes_first(photon_case: Any, prepared: Prepared, tmp_path: Any) -> None:
    """Leaf ends farther open give more dose, which the output then takes back."""
    done = adjust_to_point(prepared, CENTRE, 2.0, leaf_gap_mm=4.0)
    assert done.leaves == ("MLC",)
    assert done.machine.leaves[0].tip_offset_mm == 2.0
    assert 1.001 * done.before_gy < done.gap_gy < 1.03 * done.before_gy
    assert recomputed(photon_case, done.machine, tmp_path, CENTRE) == pytest.approx(2.0, rel=1e-4)
    unchanged = adjust_to_point(prepared, CENTRE, 2.0, leaf_gap_mm=1.0)
    assert unchanged.gap_gy == pytest.approx(unchanged.before_gy, rel=1e-6)


def test_only_output_and_the_gap_of_the_leaves_named_change(photon_case: Any) -> None:
    machine = photon_case.machine
    two = replace(machine, leaves=(machine.leaves[0], replace(machine.leaves[0], id="OTHER")))
    made = adjusted(two, 1.1, 3.0, ("OTHER",))
    assert [leaf.tip_offset_mm for leaf in made.leaves] == [0.5, 1.5]
    assert made.reference == replace(machine.reference, gy_per_mu=0.01 * 1.1)
    back = replace(made, reference=two.reference, leaves=two.leaves)
    assert all(getattr(back, name) is getattr(two, name) for name in ("spectrum_mev", "profile", "head", "cones"))
    with pytest.raises(MachineError, match="'L6' has no leaves 'NONE'"):
        adjusted(two, 1.0, 1.0, ("NONE",))


def test_a_point_in_a_gradient_is_named(prepared: Prepared) -> None:
    assert adjust_to_point(prepared, CENTRE, 2.0).notices == ()
    edge = (30.0, 0.0, 0.0)
    (notice,) = adjust_to_point(prepared, edge, planned_dose_gy(prepared.case, edge)).notices
    assert notice.code == "point-in-gradient"
    assert notice.where == "point (30, 0, 0) mm"


@pytest.mark.parametrize("wanted_gy", [0.9, 4.2])
def test_what_output_cannot_explain_is_refused(prepared: Prepared, wanted_gy: float) -> None:
    with pytest.raises(MachineError, match=r"'L6' gives 2\.0\d\d Gy at point \(0, 0, 0\) mm.*expected 0\.5 to 2"):
        adjust_to_point(prepared, CENTRE, wanted_gy)


def test_points_without_dose(photon_case: Any, prepared: Prepared) -> None:
    outside = (0.0, 0.0, 500.0)
    with pytest.raises(ConfigError, match=r"point \(0, 0, 500\) mm lies outside the dose grid, .*z -60 to 60 mm"):
        adjust_to_point(prepared, outside, 2.0)
    with pytest.raises(ConfigError, match="lies outside the planning system's dose"):
        planned_dose_gy(photon_case.case, outside)
    air = (-78.0, 78.0, 58.0)
    with pytest.raises(ConfigError, match="plan gives no dose at"):
        adjust_to_point(prepared, air, 2.0)
    with pytest.raises(ConfigError, match="the planning system's dose is zero"):
        planned_dose_gy(photon_case.case, air)
    with pytest.raises(ConfigError, match="state the dose with --dose"):
        planned_dose_gy(replace(photon_case.case, doses=()), CENTRE)


def test_plans_that_cannot_tell_an_output(water_case: Any, photon_case: Any, prepared: Prepared) -> None:
    with pytest.raises(PlanError, match="given by protons"):
        adjust_to_point(prepare(water_case.case), CENTRE, 2.0)
    two = (photon_case.machine, replace(photon_case.machine, energy_mv=10.0))
    with pytest.raises(PlanError, match="'L6' 6 MV STANDARD, 'L6' 10 MV STANDARD; one point tells one output"):
        adjust_to_point(replace(prepared, machines=two), CENTRE, 2.0)
    jaws_only = replace(photon_case.case, plan=replace(photon_case.case.plan, beams=photon_case.case.plan.beams[:1]))
    with pytest.raises(ConfigError, match="no multileaf collimator"):
        adjust_to_point(prepare(jaws_only, machine_folders=[photon_case.folder]), CENTRE, 1.0, leaf_gap_mm=1.0)
