"""Gantry angles of proton and photon beams alike: where a beam starts, and the same beam from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from doseeng.plan import PhotonBeam, ProtonBeam

Beam = TypeVar("Beam", bound=ProtonBeam | PhotonBeam)


def start_deg(beam: ProtonBeam | PhotonBeam) -> float:
    """IEC 61217 gantry angle in [0, 360) of a beam; of an arc that of its first control point."""
    first = beam.gantry_deg if isinstance(beam, ProtonBeam) else float(beam.gantry_deg[0])
    return first % 360.0


def starting_at(beam: Beam, gantry_deg: float) -> Beam:
    """The beam with its gantry at another angle; an arc turns as a whole, so that it starts there."""
    if isinstance(beam, ProtonBeam):
        return replace(beam, gantry_deg=gantry_deg)
    return replace(beam, gantry_deg=beam.gantry_deg + (gantry_deg - beam.gantry_deg[0]))
