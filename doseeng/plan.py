"""Treatment plans as plain data: prescriptions, beams, spots. Photon beams join here with their engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from doseeng.errors import PlanError


@dataclass(frozen=True, slots=True)
class RangeShifter:
    """A slab in the beam path. wet_mm: water-equivalent thickness; downstream_face_mm: isocentre to its patient-side
    face along the beam axis; density_gcm3: physical density of the slab (its thickness is wet_mm / RSP)."""

    id: str
    wet_mm: float
    downstream_face_mm: float
    density_gcm3: float = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class ProtonBeam:
    """One pencil-beam-scanning proton field, angles in IEC 61217 degrees.

    isocenter_mm: patient coordinates. spot_uv_mm (n, 2): position in the isocentre plane of the gantry frame (X, Y).
    spot_energy_mev (n,): nominal energy. spot_mu (n,): meterset of one fraction. fractions: how often the beam is
    given. Spots with equal energy form a layer; order is delivery order.
    """

    number: int
    name: str
    machine: str
    isocenter_mm: tuple[float, float, float]
    gantry_deg: float
    couch_deg: float
    spot_uv_mm: npt.NDArray[np.float64]
    spot_energy_mev: npt.NDArray[np.float64]
    spot_mu: npt.NDArray[np.float64]
    fractions: int = 1
    fraction_group: int = 1
    snout_position_mm: float | None = None
    range_shifter: RangeShifter | None = None

    def __post_init__(self) -> None:
        uv = _read_only(self.spot_uv_mm)
        energy = _read_only(self.spot_energy_mev)
        mu = _read_only(self.spot_mu)
        where = f"beam {self.number} '{self.name}'"
        n = len(energy)
        if uv.shape != (n, 2) or energy.shape != (n,) or mu.shape != (n,):
            raise PlanError(
                f"{where}: spot arrays disagree: positions {uv.shape}, energies {energy.shape}, meterset {mu.shape}"
            )
        if n == 0:
            raise PlanError(f"{where}: has no spots; remove the beam or export the plan again")
        for label, values in (("position", uv), ("energy", energy), ("meterset", mu)):
            if not np.all(np.isfinite(values)):
                bad = int(np.argwhere(~np.isfinite(values))[0][0])
                raise PlanError(f"{where}: spot {bad} has a {label} of NaN or infinity")
        if np.any(mu < 0):
            raise PlanError(f"{where}: spot {int(np.argmax(mu < 0))} has a negative meterset of {mu.min():g} MU")
        if np.any(energy <= 0):
            raise PlanError(f"{where}: spot {int(np.argmax(energy <= 0))} has an energy of {energy.min():g} MeV")
        if self.fractions < 1:
            raise PlanError(f"{where}: is given in {self.fractions} fractions; expected at least one")
        object.__setattr__(self, "spot_uv_mm", uv)
        object.__setattr__(self, "spot_energy_mev", energy)
        object.__setattr__(self, "spot_mu", mu)


@dataclass(frozen=True, slots=True)
class Prescription:
    """Dose to a target for the whole course in Gy (RBE-weighted for protons), by ROI number."""

    roi_number: int
    dose_gy: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be delivered.

    uid: SOP Instance UID of the DICOM plan; structure_set_uid: the structure set it refers to.
    """

    label: str
    uid: str
    patient_position: str
    beams: tuple[ProtonBeam, ...]
    prescriptions: tuple[Prescription, ...] = ()
    structure_set_uid: str = ""
    approval: str = ""
    setup_beams: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.beams:
            raise PlanError(f"plan '{self.label}': has no treatment beam")


def _read_only(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
