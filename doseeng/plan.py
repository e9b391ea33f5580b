"""Treatment plans as plain data: prescriptions, proton beams made of spots, photon beams made of control points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn

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


@dataclass(frozen=True, slots=True, eq=False)
class Mlc:
    """A multileaf collimator, positions in the isocentre plane of the IEC 61217 beam limiting device system.

    axis: "X" or "Y", along which the leaves move (DICOM MLCX, MLCY). leaf_boundary_mm (n_leaf + 1,): ascending edges
    of the leaf pairs along the other axis. leaf_mm (n_cp, 2, n_leaf): positions of the lower ([:, 0]) and the upper
    ([:, 1]) bank per control point.
    """

    axis: Literal["X", "Y"]
    leaf_boundary_mm: npt.NDArray[np.float64]
    leaf_mm: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        boundary, leaf = _read_only(self.leaf_boundary_mm), _read_only(self.leaf_mm)
        if boundary.ndim != 1 or leaf.ndim != 3 or leaf.shape[1:] != (2, len(boundary) - 1):
            raise PlanError(f"MLC{self.axis}: {boundary.shape} leaf boundaries do not fit leaf positions {leaf.shape}")
        if not np.all(np.isfinite(leaf)) or not np.all(np.diff(boundary) > 0):
            raise PlanError(f"MLC{self.axis}: leaf positions must be finite and leaf boundaries ascending")
        object.__setattr__(self, "leaf_boundary_mm", boundary)
        object.__setattr__(self, "leaf_mm", leaf)


@dataclass(frozen=True, slots=True, eq=False)
class PhotonBeam:
    """One photon beam as n_cp control points; between two of them everything moves linearly with meterset.

    energy_mv: nominal accelerating potential. fluence_mode: STANDARD, FFF or SRS, "" when the plan does not say.
    technique: STATIC or DYNAMIC. source_axis_mm: source to isocentre. meterset_mu: of one fraction.
    meterset_fraction (n_cp,): cumulative, from 0 to 1. isocenter_mm (n_cp, 3): patient coordinates.
    gantry_deg, collimator_deg, couch_deg (n_cp,): IEC 61217, continuous (an arc through 0 goes on beyond 360 or below
    0). jaw_x_mm, jaw_y_mm (n_cp, 2): lower and upper edge in the isocentre plane of the beam limiting device system,
    infinite where the machine has no such jaw. bolus: names of boluses the plan puts on the patient.
    """

    number: int
    name: str
    machine: str
    energy_mv: float
    fluence_mode: str
    technique: str
    source_axis_mm: float
    meterset_mu: float
    meterset_fraction: npt.NDArray[np.float64]
    isocenter_mm: npt.NDArray[np.float64]
    gantry_deg: npt.NDArray[np.float64]
    collimator_deg: npt.NDArray[np.float64]
    couch_deg: npt.NDArray[np.float64]
    jaw_x_mm: npt.NDArray[np.float64]
    jaw_y_mm: npt.NDArray[np.float64]
    mlc: Mlc | None = None
    bolus: tuple[str, ...] = ()
    fractions: int = 1
    fraction_group: int = 1

    def __post_init__(self) -> None:
        where = f"beam {self.number} '{self.name}'"
        n = len(self.meterset_fraction)
        if n < 2:
            raise PlanError(f"{where}: has {n} control point(s); expected at least two")
        columns = {"isocenter_mm": (3,), "jaw_x_mm": (2,), "jaw_y_mm": (2,)}
        for name in ("meterset_fraction", "gantry_deg", "collimator_deg", "couch_deg", *columns):
            values = _read_only(getattr(self, name))
            if values.shape != (n, *columns.get(name, ())):
                raise PlanError(f"{where}: {name} has shape {values.shape}; expected one row for {n} control points")
            if np.any(np.isnan(values)) or not (name.startswith("jaw") or np.all(np.isfinite(values))):
                raise PlanError(f"{where}: {name} holds NaN or infinity")
            object.__setattr__(self, name, values)
        steps = self.meterset_fraction
        if steps[0] != 0.0 or steps[-1] != 1.0 or np.any(np.diff(steps) < 0):
            raise PlanError(f"{where}: cumulative meterset must rise from 0 to 1, found {steps[0]:g} to {steps[-1]:g}")
        if self.mlc is not None and len(self.mlc.leaf_mm) != n:
            raise PlanError(f"{where}: leaf positions for {len(self.mlc.leaf_mm)} control points; expected {n}")
        if not (np.isfinite(self.meterset_mu) and self.meterset_mu > 0):
            raise PlanError(f"{where}: has a meterset of {self.meterset_mu:g} MU; expected a positive number")
        if self.energy_mv <= 0 or self.source_axis_mm <= 0:
            raise PlanError(
                f"{where}: energy {self.energy_mv:g} MV and SAD {self.source_axis_mm:g} mm must be positive"
            )
        if self.fractions < 1:
            raise PlanError(f"{where}: is given in {self.fractions} fractions; expected at least one")


@dataclass(frozen=True, slots=True)
class Prescription:
    """Dose to a target for the whole course in Gy (RBE-weighted for protons), by ROI number."""

    roi_number: int
    dose_gy: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be delivered, all proton or all photon beams.

    uid: SOP Instance UID of the DICOM plan; structure_set_uid: the structure set it refers to. approval, intent: as
    DICOM states them, "" when it does not. setup_beams: names of beams that give no treatment dose.
    """

    label: str
    uid: str
    patient_position: str
    beams: tuple[ProtonBeam, ...] | tuple[PhotonBeam, ...]
    prescriptions: tuple[Prescription, ...] = ()
    structure_set_uid: str = ""
    approval: str = ""
    setup_beams: tuple[str, ...] = ()
    intent: str = ""

    def __post_init__(self) -> None:
        if not self.beams:
            raise PlanError(f"plan '{self.label}': has no treatment beam")
        if len({type(beam) for beam in self.beams}) > 1:
            raise PlanError(f"plan '{self.label}': mixes proton and photon beams; split it into one plan per modality")

    @property
    def modality(self) -> Literal["proton", "photon"]:
        """What the beams are made of."""
        return "proton" if isinstance(self.beams[0], ProtonBeam) else "photon"

    @property
    def proton_beams(self) -> tuple[ProtonBeam, ...]:
        """The beams of a proton plan; PlanError for a photon plan."""
        return tuple(beam for beam in self.beams if isinstance(beam, ProtonBeam)) or self._refuse("proton")

    @property
    def photon_beams(self) -> tuple[PhotonBeam, ...]:
        """The beams of a photon plan; PlanError for a proton plan."""
        return tuple(beam for beam in self.beams if isinstance(beam, PhotonBeam)) or self._refuse("photon")

    def _refuse(self, wanted: str) -> NoReturn:
        raise PlanError(f"plan '{self.label}': has {self.modality} beams; a {wanted} plan was expected")


def _read_only(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
