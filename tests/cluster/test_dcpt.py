"""A real proton plan, from its beam model to the comparison with its planning system, by the commands a person types.

The reference is a RayStation Monte Carlo dose, RBE 1.1, with about 1 % of noise per voxel; nothing is normalised.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dcpt import BEAM_MODEL, PLAN, axis_figures, edge_figures, prepared_plan
from doseeng.dicom.rtdose import read_dose
from doseeng.engine import single_beam_dose

PLAN_DOSE = "RD1.2.752.243.1.1.20250523160113556.3000.73252.dcm"


@pytest.fixture
def machine(doseeng: Callable[..., Any], unzipped: Callable[[str], Path]) -> tuple[str, ...]:
    """The published beam model as a machine called like the plan's treatment room; options that make it known."""
    model = unzipped("dcpt_proton_slab") / "beam_model" / BEAM_MODEL
    arguments = (model, "--source-distance-mm", "2000", "2560", "--alias", "TR3", "--out", "machines/dcpt.toml")
    done = doseeng("machine", "import", "dcpt", *arguments)
    assert done.code == 0, done.err
    assert "depth-dose-of-base" in done.err
    return ("--machine-folder", "machines", "--accept-patient-mismatch", "--out", "rd.dcm")


def test_plan_agrees_with_the_planning_system(
    doseeng: Callable[..., Any], unzipped: Callable[[str], Path], machine: tuple[str, ...]
) -> None:
    folder = unzipped("dcpt_proton_slab") / PLAN
    done = doseeng("dose", folder, "--gantry", "1=0", "--gantry", "2=180", *machine)
    assert done.code == 0, done.out + done.err
    assert "RBE 1.1" in done.out
    rates = dict(re.findall(r"│ (plan|beam \d)[^│]*│ +([\d.]+) % │", done.out))
    assert set(rates) == {"plan", "beam 1", "beam 2"}
    assert min(map(float, rates.values())) >= 97.0
    for code in ("gantry-overridden", "patient-mismatch", "phantom-without-ct"):
        assert code in done.err
    reference, computed = read_dose(folder / PLAN_DOSE), read_dose(Path("rd.dcm"))
    axis = axis_figures(reference, computed)
    assert axis.plateau_ratio == pytest.approx(1.0, abs=0.02)
    assert axis.high_dose_ratio == pytest.approx(1.0, abs=0.02)
    assert abs(axis.worst_percent) < 3.0


def test_wrong_gantry_angles_are_noticed_and_named(
    doseeng: Callable[..., Any], unzipped: Callable[[str], Path], machine: tuple[str, ...]
) -> None:
    done = doseeng("dose", unzipped("dcpt_proton_slab") / PLAN, *machine, "--json")
    assert done.code == 2
    rates = {c["what"]: c["gamma_percent"] for c in done.result["comparisons"]}
    assert max(rates.values()) < 60.0
    named = {n["where"]: n["message"] for n in done.result["notices"] if n["code"] == "plan-dose-mismatch"}
    assert set(named) == {"beam 1 'b1'", "beam 2 'b2'", "plan"}
    assert "100.0 % with the gantry at 0 / 180 degrees instead of the plan's 90 / 270" in named["plan"]


def test_fields_stop_where_they_should(unzipped: Callable[[str], Path], tmp_path: Path) -> None:
    prepared = prepared_plan(unzipped("dcpt_proton_slab"), tmp_path)
    references = {d.beam_numbers: d for d in prepared.case.doses}
    for i, beam in enumerate(prepared.beams):
        edges = edge_figures(references[(beam.number,)], single_beam_dose(prepared, i), beam.gantry_deg)
        assert max(map(abs, edges.edge_mm)) < 1.0
        assert max(map(abs, edges.ramp_mm)) < 1.0
