"""Scenarios: what counts as an error, and which errors a modality knows."""

from dataclasses import replace

import pytest

from doseeng.errors import ConfigError
from doseeng.scenario import NOMINAL, Scenario, require_possible

ERRORS = {
    "isocenter_shift_mm": (0.0, 0.0, 0.1),
    "rsp_scale": 1.01,
    "gantry_deg": 0.1,
    "collimator_deg": -0.1,
    "couch_deg": 0.1,
    "leaf_opening_mm": -0.1,
}


@pytest.mark.parametrize(("name", "value"), ERRORS.items())
def test_any_error_makes_a_scenario_other_than_nominal(name: str, value: object) -> None:
    assert not replace(NOMINAL, **{name: value}).is_nominal
    assert Scenario("as planned").is_nominal


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_errors_are_finite(name: str, value: float) -> None:
    wrong = (0.0, value, 0.0) if name == "isocenter_shift_mm" else value
    with pytest.raises(ConfigError, match="scenario 's': has an error of NaN or infinity"):
        Scenario("s", **{name: wrong})


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_materials_are_scaled_by_a_positive_number(scale: float) -> None:
    with pytest.raises(ConfigError, match="scenario 's': scales the materials by"):
        Scenario("s", rsp_scale=scale)


@pytest.mark.parametrize("name", ERRORS)
def test_photons_know_every_error_and_protons_no_collimator(name: str) -> None:
    scenario = Scenario("s", **{name: ERRORS[name]})
    require_possible(scenario, "photon")
    if name in ("collimator_deg", "leaf_opening_mm"):
        with pytest.raises(
            ConfigError, match=r"scenario 's': has a .* error, but scanned proton beams have no collimator"
        ):
            require_possible(scenario, "proton")
    else:
        require_possible(scenario, "proton")
