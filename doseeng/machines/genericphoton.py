"""The generic photon machines that ship with doseeng: published open-field values on an average linear accelerator.

    python -m doseeng.machines.genericphoton doseeng/data/machines

makes all of them again from the comma-separated files in `data/photons/published`. They stand for no one's machine: a
clinic commissions its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from doseeng.machines.photoncommission import commission_photon, with_spectrum
from doseeng.machines.photonfile import write_photon_machine
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
from doseeng.machines.scans import read_scans

PUBLISHED: Final = Path(__file__).resolve().parent.parent / "data" / "photons" / "published"
VERSION: Final = "1"
REFERENCE: Final = Reference(ssd_mm=900.0, depth_mm=100.0, field_mm=100.0, gy_per_mu=0.01)
"""1 cGy per monitor unit at the isocentre, 10 cm deep: the isocentric calibration."""
LEAVES: Final = (
    LeafModel("Agility", ((80, 5.0),), 353.0, 0.005, 0.007, 0.5, 0.3),
    LeafModel("Millennium 120", ((10, 10.0), (40, 5.0), (10, 10.0)), 509.0, 0.015, 0.02, 0.8, 0.5),
    LeafModel("HD120", ((14, 5.0), (32, 2.5), (14, 5.0)), 509.0, 0.013, 0.018, 0.5, 0.4),
    LeafModel("MLCi", ((40, 10.0),), 336.0, 0.015, 0.02, 0.7, 0.6),
    LeafModel("Halcyon distal", ((28, 10.0),), 384.0, 0.005, 0.007, 0.05, 0.4),
    LeafModel("Halcyon proximal", ((29, 10.0),), 298.0, 0.005, 0.007, 0.05, 0.4),
)
"""Distances and transmissions are rounded from published commissioning reports; a clinic measures its own."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A beam quality: folder of its published values, nominal energy, and what open fields alone do not tell."""

    folder: str
    energy_mv: float
    fluence_mode: str
    electrons: Electrons

    @property
    def name(self) -> str:
        """Of the machine."""
        return f"generic-{self.folder}"


QUALITIES: Final = (
    Quality("6mv", 6.0, "STANDARD", Electrons(0.10, 4.0, 25.0)),
    Quality("10mv", 10.0, "STANDARD", Electrons(0.12, 7.0, 25.0)),
    Quality("15mv", 15.0, "STANDARD", Electrons(0.15, 9.0, 25.0)),
    Quality("6mv-fff", 6.0, "FFF", Electrons(0.12, 4.0, 25.0)),
    Quality("10mv-fff", 10.0, "FFF", Electrons(0.14, 7.0, 25.0)),
)
"""Contaminant electrons fall off within the build-up of each quality; their share brings surface doses to 20-30 %."""


def generic_start(quality: Quality) -> PhotonMachine:
    """The machine before it is fitted: an average head, a usual spectrum and no modes yet."""
    none = np.ones((1, 3))
    bare = PhotonMachine(
        name=quality.name,
        version=VERSION,
        description=f"Average linear accelerator, {quality.energy_mv:g} MV {quality.fluence_mode.lower()}",
        source=f"published open-field values, data/photons/published/{quality.folder}",
        energy_mv=quality.energy_mv,
        fluence_mode=quality.fluence_mode,
        source_axis_mm=1000.0,
        reference=REFERENCE,
        spectrum_mev=np.array([1.0, 2.0]),
        spectrum_weight=np.array([0.5, 0.5]),
        softening=1.0 if quality.fluence_mode == "STANDARD" else 0.0,
        profile_mm=np.array([0.0, 300.0]),
        profile=np.array([1.0, 1.0]),
        head=Source((0.8, 0.8), 0.06 if quality.fluence_mode == "STANDARD" else 0.03, 22.0, 125.0),
        electrons=quality.electrons,
        jaws=Jaws(0.005, 410.0, 350.0),
        leaves=LEAVES,
        wedges=(),
        cones=Cones(np.array([0.0, 180.0]), np.ones((1, 2)), np.ones((1, 2))),
        modes=Modes(none, none),
        aliases=("generic",),
    )
    return with_spectrum(bare, 1.5, 2.5)


def main(arguments: list[str]) -> int:
    """Commission every generic machine and write it into a folder."""
    (folder,) = arguments
    for quality in QUALITIES:
        machine, _, _ = commission_photon(read_scans(PUBLISHED / quality.folder), generic_start(quality))
        write_photon_machine(machine, Path(folder) / f"{quality.name}.toml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
