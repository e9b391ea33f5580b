"""The beam table of a plan, for proton and photon plans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.report.text import number
from doseeng.plan import PhotonBeam, Plan, ProtonBeam


@dataclass(frozen=True, slots=True)
class BeamTable:
    """Column headings and one row of text per beam."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def beam_table(plan: Plan) -> BeamTable:
    """What a physicist compares with the plan sheet. Meterset is that of one fraction."""
    start = ("Beam", "Machine", "Gantry (°)", "Couch (°)")
    if plan.modality == "proton":
        headings = (*start, "Energy (MeV)", "Layers", "Spots", "MU / fraction", "Fractions", "Range shifter")
        return BeamTable(headings, tuple(_proton_row(beam) for beam in plan.proton_beams))
    headings = (*start, "Energy (MV)", "Technique", "Control points", "MU / fraction", "Fractions", "Bolus")
    return BeamTable(headings, tuple(_photon_row(beam) for beam in plan.photon_beams))


def _proton_row(beam: ProtonBeam) -> tuple[str, ...]:
    energies = beam.spot_energy_mev
    shifter = beam.range_shifter
    return (
        _name(beam),
        beam.machine,
        number(beam.gantry_deg),
        number(beam.couch_deg),
        _range(energies),
        str(len(np.unique(energies))),
        str(len(energies)),
        number(float(beam.spot_mu.sum())),
        str(beam.fractions),
        f"{shifter.id} ({shifter.wet_mm:g} mm water)" if shifter else "none",
    )


def _photon_row(beam: PhotonBeam) -> tuple[str, ...]:
    return (
        _name(beam),
        beam.machine,
        _arc(beam.gantry_deg),
        _range(beam.couch_deg),
        f"{beam.energy_mv:g} {beam.fluence_mode}".strip(),
        beam.technique.lower(),
        str(len(beam.gantry_deg)),
        number(beam.meterset_mu),
        str(beam.fractions),
        ", ".join(beam.bolus) or "none",
    )


def _name(beam: ProtonBeam | PhotonBeam) -> str:
    return beam.name if beam.name == str(beam.number) else f"{beam.number} {beam.name}".strip()


def _arc(gantry_deg: npt.NDArray[np.float64]) -> str:
    """First and last angle of a gantry; IEC 61217 angles grow clockwise for a viewer who faces the gantry."""
    first, last = float(gantry_deg[0]), float(gantry_deg[-1])
    if first == last:
        return number(first % 360.0)
    return f"{number(first % 360.0)} to {number(last % 360.0)} {'CW' if last > first else 'CCW'}"


def _range(values: npt.NDArray[np.float64]) -> str:
    low, high = number(float(values.min())), number(float(values.max()))
    return low if low == high else f"{low} to {high}"
