"""The proton engine against Monte Carlo: absolute dose, nothing normalised, with the shipped machine.

The reference is noisy (0.3 to 0.7 % above half of the maximum), so a gamma rate is a lower bound.
"""

from pathlib import Path

import pytest

from benchmarks.accuracy import AIR_GCM3, single_spot
from benchmarks.mc_case import McCase, read_mc_case, reference_hu_table
from doseeng.gamma import gamma
from doseeng.grid import Volume
from doseeng.machines.library import find_machine
from doseeng.materials import HuTable
from doseeng.proton import beam_dose

SIMPLE_PERCENT, PATIENT_PERCENT = 99.0, 98.0
"""Points that must pass 2 % / 2 mm, in boxes of slabs and in patients."""
R80_MM, SIGMA_PERCENT = 0.2, 1.5
MEAN = 0.015
"""Mean dose above half of the maximum, relative."""


@pytest.fixture(scope="module")
def hu_table(data_dir: Path) -> HuTable:
    return reference_hu_table(data_dir / "proton_mc")


def computed(case: McCase) -> Volume:
    grid = case.dose.grid
    return Volume(grid, beam_dose(case.beam, find_machine("generic-pbs"), case.maps, grid, "HFS"))


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("water_sobp", SIMPLE_PERCENT),
        ("slab_bone_lung", SIMPLE_PERCENT),
        ("lateral_bone", SIMPLE_PERCENT),
        ("range_shifter", SIMPLE_PERCENT),
        ("lung_g45", PATIENT_PERCENT),
        ("hn_g60", PATIENT_PERCENT),
        ("pelvis_g90", PATIENT_PERCENT),
    ],
)
def test_gamma_of_plans(data_dir: Path, hu_table: HuTable, name: str, percent: float) -> None:
    case = read_mc_case(data_dir / "proton_mc" / f"{name}.npz", hu_table)
    dose = computed(case)
    result = gamma(case.dose, dose, dose_percent=2, distance_mm=2, mask=case.density >= AIR_GCM3)
    assert result.pass_rate_percent >= percent
    high = (case.density >= AIR_GCM3) & (case.dose.values > 0.5 * case.dose.values.max())
    assert dose.values[high].mean(dtype=float) == pytest.approx(case.dose.values[high].mean(dtype=float), rel=MEAN)


@pytest.mark.parametrize(
    "name", ["water_spot_100MeV", "water_spot_150MeV", "water_spot_150MeV_offaxis", "water_spot_200MeV"]
)
def test_range_and_width_of_single_spots(data_dir: Path, hu_table: HuTable, name: str) -> None:
    case = read_mc_case(data_dir / "proton_mc" / f"{name}.npz", hu_table)
    dose = computed(case)
    found = single_spot(case, dose)
    assert abs(found["r80_mm"]) <= R80_MM
    assert abs(found["sigma_percent"]) <= SIGMA_PERCENT
    assert gamma(case.dose, dose, dose_percent=2, distance_mm=2).pass_rate_percent >= SIMPLE_PERCENT
