"""A photon machine and photon beams for tests: ideal until a test asks for more."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from doseeng.machines.photonmodel import (
    Cones,
    Electrons,
    Jaws,
    LeafModel,
    Modes,
    PhotonMachine,
    Reference,
    Source,
)
from doseeng.plan import Mlc, PhotonBeam

LEAVES = LeafModel(
    "20 x 5 mm", ((20, 5.0),), 400.0, transmission=0.0, interleaf_transmission=0.0, tip_offset_mm=0.0, tongue_mm=0.0
)


@pytest.fixture
def linac() -> PhotonMachine:
    """6 MV with a point source, a flat profile, no extra-focal source and collimators that are opaque and sharp."""
    one = np.ones((1, 2))
    return PhotonMachine(
        name="linac",
        version="1",
        description="",
        source="",
        energy_mv=6.0,
        fluence_mode="STANDARD",
        source_axis_mm=1000.0,
        reference=Reference(900.0, 100.0, 100.0, 0.01),
        spectrum_mev=np.array([1.0, 6.0]),
        spectrum_weight=np.array([1.0, 0.0]),
        softening=0.0,
        profile_mm=np.array([0.0, 300.0]),
        profile=np.ones(2),
        head=Source((0.0, 0.0), 0.0, 20.0, 120.0),
        electrons=Electrons(0.0, 10.0, 10.0),
        jaws=Jaws(0.0, 400.0, 320.0),
        leaves=(LEAVES,),
        wedges=(),
        cones=Cones(np.array([0.0, 180.0]), one, one),
        modes=Modes(np.ones((1, 3)), np.ones((1, 3))),
    )


@pytest.fixture
def beam_of() -> Callable[..., PhotonBeam]:
    """`beam_of(jaw_x, jaw_y, leaves, fraction, **others)`: a beam of 100 MU.

    Jaws are one (lower, upper) for all control points or one for each. leaves: (n_cp, 2, 20) of 20 pairs of 5 mm along
    X, or a tuple of Mlc. fraction: cumulative meterset, (0, 1) when None.
    """

    def make(
        jaw_x: Any = (-200.0, 200.0),
        jaw_y: Any = (-200.0, 200.0),
        leaves: Any = (),
        fraction: Any = (0.0, 1.0),
        **others: Any,
    ) -> PhotonBeam:
        n = len(fraction)
        mlcs = leaves if isinstance(leaves, tuple) else (Mlc("X", np.linspace(-50.0, 50.0, 21), np.asarray(leaves)),)
        values: dict[str, Any] = {
            "number": 1,
            "name": "field",
            "machine": "linac",
            "energy_mv": 6.0,
            "fluence_mode": "STANDARD",
            "technique": "DYNAMIC",
            "source_axis_mm": 1000.0,
            "meterset_mu": 100.0,
            "meterset_fraction": np.asarray(fraction),
            "isocenter_mm": np.zeros((n, 3)),
            "gantry_deg": np.zeros(n),
            "collimator_deg": np.zeros(n),
            "couch_deg": np.zeros(n),
            "jaw_x_mm": np.broadcast_to(jaw_x, (n, 2)),
            "jaw_y_mm": np.broadcast_to(jaw_y, (n, 2)),
            "mlcs": mlcs,
        }
        return PhotonBeam(**{**values, **others})

    return make
