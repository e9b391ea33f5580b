"""The number of threads and the order of scenarios change no bit of a dose: jobs run anywhere and give equal bytes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from doseeng.case import Case
from doseeng.cpu import CpuBackend
from doseeng.engine import EngineSettings, prepare, scenario_dose
from doseeng.photon import Algorithm, PhotonSettings
from doseeng.scenario import NOMINAL, Scenario

MOVED = Scenario("moved", (3.0, -2.0, 4.0), 1.02)
BACK = Scenario("back", (3.0, -2.0, 4.0), 0.98)
"""The engine keeps what rays met for the next scenario with the same shift."""


def doses(
    case: Case, threads: int, order: tuple[Scenario, ...] = (NOMINAL, MOVED, BACK), **how: Any
) -> dict[str, np.ndarray]:
    prepared = prepare(case, backend=CpuBackend(threads=threads), **how)
    return {scenario.name: scenario_dose(prepared, scenario).volume.values for scenario in order}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert expected["nominal"].max() > 0.0


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_proton_doses(water_case: Any, threads: int) -> None:
    case = replace(water_case.case, doses=())
    assert_equal(doses(case, threads), doses(case, 1))
    assert_equal(doses(case, 1, (BACK, NOMINAL, MOVED)), doses(case, 1))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_photon_doses(photon_case: Any, algorithm: Algorithm) -> None:
    how = {
        "machine_folders": [photon_case.folder],
        "settings": EngineSettings(photon=PhotonSettings(algorithm=algorithm)),
    }
    case = replace(photon_case.case, doses=())
    assert_equal(doses(case, 3, **how), doses(case, 1, **how))
