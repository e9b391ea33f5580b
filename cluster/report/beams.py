"""The beam table of a plan, for proton and photon plans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster import photonbeams
from cluster.report.text import number
from doseeng.plan import PhotonBeam, Plan, ProtonBeam


@dataclass(frozen=True, slots=True)
class BeamTable:
    """Column headings and one row of text per beam."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def beam_table(plan: Plan) -> BeamTable:
    """What a physicist compares with the plan sheet. Meterset is that of one fraction."""
    if plan.modality == "proton":
        angles: tuple[str, ...] = ("Gantry (°)", "Couch (°)")
        delivery: tuple[str, ...] = ("Energy (MeV)", "Layers", "Spots", "MU / fraction", "Fractions", "Range shifter")
        rows = tuple(_proton_row(beam) for beam in plan.proton_beams)
    else:
        angles = ("Gantry (°)", "Collimator (°)", "Couch (°)")
        delivery = ("Energy", "Technique", "Field (cm)", "Points", "MU / fraction", "Fractions", "Accessories")
        rows = tuple(_photon_row(beam) for beam in plan.photon_beams)
    return BeamTable(("Beam", "Machine", *angles, *delivery), rows)


def _proton_row(beam: ProtonBeam) -> tuple[str, ...]:
    energies = beam.spot_energy_mev
    shifter = beam.range_shifter
    return (
        beam_name(beam),
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
        beam_name(beam),
        beam.machine,
        photonbeams.gantry(beam),
        photonbeams.span(beam.collimator_deg),
        photonbeams.span(beam.couch_deg),
        photonbeams.energy(beam),
        photonbeams.technique(beam),
        photonbeams.field_cm(beam),
        str(len(beam.gantry_deg)),
        number(beam.meterset_mu),
        str(beam.fractions),
        photonbeams.accessories(beam) or "none",
    )


def beam_name(beam: ProtonBeam | PhotonBeam) -> str:
    """Number and name of a beam."""
    return field_name(beam.number, beam.name)


def field_name(number: int, name: str) -> str:
    """Number and name, once where they are the same."""
    return name if name == str(number) else f"{number} {name}".strip()


def _range(values: npt.NDArray[np.float64]) -> str:
    low, high = number(float(values.min())), number(float(values.max()))
    return low if low == high else f"{low} to {high}"
