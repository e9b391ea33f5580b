"""Treatment plans as plain data: prescriptions, proton beams made of spots, photon beams made of control points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from doseeng.errors import PlanError

FARTHEST_MM: Final = 400.0
"""No collimator reaches farther in the isocentre plane; a position beyond it is in another unit or broken."""
CROSSING_TOLERANCE_MM: Final = 0.1
"""Leaf ends and jaws that meet may overlap by what planning systems round away."""
NEAREST_TRAY_MM: Final = 100.0
"""No block can be nearer to the source; a smaller distance is in another unit or broken."""
LARGEST_METERSET_MU: Final = 1e5
"""Of one beam in one fraction; high-dose stereotactic arcs have about a tenth of it."""


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
        where = f"MLC{self.axis}"
        if boundary.ndim != 1 or len(boundary) < 2 or leaf.ndim != 3 or leaf.shape[1:] != (2, len(boundary) - 1):
            raise PlanError(f"{where}: {boundary.shape} leaf boundaries do not fit leaf positions {leaf.shape}")
        if not (np.all(np.isfinite(leaf)) and np.all(np.isfinite(boundary)) and np.all(np.diff(boundary) > 0)):
            raise PlanError(f"{where}: leaf positions must be finite and leaf boundaries finite and ascending")
        if np.abs(boundary).max() > FARTHEST_MM:
            raise PlanError(
                f"{where}: a leaf boundary is at {boundary[np.abs(boundary).argmax()]:g} mm; expected no more than "
                f"{FARTHEST_MM:g} mm from the axis in the isocentre plane; check the units"
            )
        for control_point, bank, pair in np.argwhere(np.abs(leaf) > FARTHEST_MM)[:1]:
            raise PlanError(
                f"{where}: control point {control_point}, leaf pair {pair + 1} is at "
                f"{leaf[control_point, bank, pair]:g} mm; expected no more than {FARTHEST_MM:g} mm from the axis in "
                "the isocentre plane; check the units"
            )
        for control_point, pair in np.argwhere(leaf[:, 0] > leaf[:, 1] + CROSSING_TOLERANCE_MM)[:1]:
            low, high = leaf[control_point, :, pair]
            raise PlanError(
                f"{where}: control point {control_point}, leaf pair {pair + 1} is crossed: the lower bank at {low:g} "
                f"mm lies beyond the upper bank at {high:g} mm; export the plan again"
            )
        object.__setattr__(self, "leaf_boundary_mm", boundary)
        object.__setattr__(self, "leaf_mm", leaf)


@dataclass(frozen=True, slots=True, eq=False)
class Wedge:
    """A wedge in the beam. kind: a wedge of metal put in by hand (STANDARD) or by motor (MOTORIZED), or a jaw that
    moves during the beam (DYNAMIC).

    orientation_deg: IEC 61217 wedge filter system turned in the beam limiting device system, counter-clockwise seen
    from the source; at 0 the toe (thin end) is on +Y. inside (n_cp,): whether it is in the beam from a control point
    on.
    """

    id: str
    kind: Literal["STANDARD", "MOTORIZED", "DYNAMIC"]
    angle_deg: float
    orientation_deg: float
    inside: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.angle_deg) and 0 < self.angle_deg < 90 and np.isfinite(self.orientation_deg)):
            raise PlanError(
                f"wedge '{self.id}': has an angle of {self.angle_deg:g} and an orientation of {self.orientation_deg:g} "
                "degrees; expected a wedge angle between 0 and 90 and a finite orientation"
            )
        inside = np.array(self.inside, dtype=np.bool_)
        inside.setflags(write=False)
        object.__setattr__(self, "inside", inside)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block on a tray. polygon_mm (n, 2): its outline projected to the isocentre plane of the beam limiting device
    system.

    kind: SHIELDING (the material is inside the outline) or APERTURE (outside). transmission: through the material.
    divergent: its edges point to the source. tray_mm: source to tray.
    """

    name: str
    kind: Literal["SHIELDING", "APERTURE"]
    polygon_mm: npt.NDArray[np.float64]
    transmission: float
    divergent: bool
    tray_mm: float

    def __post_init__(self) -> None:
        polygon = _read_only(self.polygon_mm)
        where = f"block '{self.name}'"
        if polygon.ndim != 2 or polygon.shape[1:] != (2,) or len(polygon) < 3:
            raise PlanError(f"{where}: its outline has shape {polygon.shape}; expected (x, y) of at least three points")
        if not np.all(np.abs(polygon) <= FARTHEST_MM):
            raise PlanError(
                f"{where}: its outline must lie within {FARTHEST_MM:g} mm of the axis in the isocentre plane"
            )
        if not 0.0 <= self.transmission <= 1.0:
            raise PlanError(f"{where}: has a transmission of {self.transmission:g}; expected a number from 0 to 1")
        if not NEAREST_TRAY_MM <= self.tray_mm < np.inf:
            raise PlanError(
                f"{where}: has its tray {self.tray_mm:g} mm from the source; expected at least {NEAREST_TRAY_MM:g} mm"
            )
        object.__setattr__(self, "polygon_mm", polygon)


@dataclass(frozen=True, slots=True, eq=False)
class PhotonBeam:
    """One photon beam as n_cp control points; between two of them everything moves linearly with meterset.

    energy_mv: nominal accelerating potential. fluence_mode: STANDARD, FFF or SRS, "" when the plan does not say.
    technique: STATIC or DYNAMIC. source_axis_mm: source to isocentre. meterset_mu: of one fraction.
    meterset_fraction (n_cp,): cumulative, from 0 to 1. isocenter_mm (n_cp, 3): patient coordinates.
    gantry_deg, collimator_deg, couch_deg (n_cp,): IEC 61217, continuous (an arc through 0 goes on beyond 360 or below
    0). jaw_x_mm, jaw_y_mm (n_cp, 2): lower and upper edge in the isocentre plane of the beam limiting device system,
    infinite where the machine has no such jaw. mlcs: none, one, or layers one above the other whose leaves move along
    the same axis. block_tray_factor: transmission of the trays, None when the plan does not say. bolus, bolus_rois:
    names and ROI numbers of boluses the plan puts on the patient.
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
    mlcs: tuple[Mlc, ...] = ()
    wedges: tuple[Wedge, ...] = ()
    blocks: tuple[Block, ...] = ()
    block_tray_factor: float | None = None
    bolus: tuple[str, ...] = ()
    bolus_rois: tuple[int, ...] = ()
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
        for mlc in self.mlcs:
            if len(mlc.leaf_mm) != n:
                raise PlanError(f"{where}: leaf positions for {len(mlc.leaf_mm)} control points; expected {n}")
        if not 0 < self.meterset_mu <= LARGEST_METERSET_MU:
            raise PlanError(
                f"{where}: has a meterset of {self.meterset_mu:g} MU; expected a positive number up to "
                f"{LARGEST_METERSET_MU:g}"
            )
        if not (0 < self.energy_mv < np.inf and 0 < self.source_axis_mm < np.inf):
            raise PlanError(
                f"{where}: energy {self.energy_mv:g} MV and SAD {self.source_axis_mm:g} mm must be positive"
            )
        if self.fractions < 1:
            raise PlanError(f"{where}: is given in {self.fractions} fractions; expected at least one")
        self._require_bounded(where)
        self._require_accessories(where)

    def _require_bounded(self, where: str) -> None:
        axes = {mlc.axis for mlc in self.mlcs}
        if len(axes) > 1:
            raise PlanError(
                f"{where}: has leaves that move along X and leaves that move along Y; one axis is supported"
            )
        for axis, jaw in (("X", self.jaw_x_mm), ("Y", self.jaw_y_mm)):
            if np.isinf(jaw).any():
                if not (self.mlcs and np.all(jaw == (-np.inf, np.inf))):
                    raise PlanError(f"{where}: neither jaws nor leaves limit the beam along {axis}")
                continue
            for control_point in np.flatnonzero(np.any(np.abs(jaw) > FARTHEST_MM, axis=1))[:1]:
                raise PlanError(
                    f"{where}: control point {control_point} has {axis} jaws at {jaw[control_point].tolist()} mm; "
                    f"expected no more than {FARTHEST_MM:g} mm from the axis in the isocentre plane; check the units"
                )
            for control_point in np.flatnonzero(jaw[:, 0] > jaw[:, 1] + CROSSING_TOLERANCE_MM)[:1]:
                low, high = jaw[control_point]
                raise PlanError(
                    f"{where}: control point {control_point} has crossed {axis} jaws: {low:g} mm lies beyond "
                    f"{high:g} mm; export the plan again"
                )

    def _require_accessories(self, where: str) -> None:
        given = np.diff(self.meterset_fraction) > 0
        for wedge in self.wedges:
            if wedge.inside.shape != self.meterset_fraction.shape:
                raise PlanError(f"{where}: wedge '{wedge.id}' is stated for {wedge.inside.shape} control points")
            for control_point in np.flatnonzero(given & (wedge.inside[1:] != wedge.inside[:-1]))[:1]:
                raise PlanError(
                    f"{where}: wedge '{wedge.id}' moves in or out between control points {control_point} and "
                    f"{control_point + 1} while meterset is given; expected it to move between two segments"
                )
        if sum(block.kind == "APERTURE" for block in self.blocks) > 1:
            names = ", ".join(f"'{block.name}'" for block in self.blocks if block.kind == "APERTURE")
            raise PlanError(f"{where}: has more than one aperture block: {names}; at most one is supported")
        for block in self.blocks:
            if block.tray_mm >= self.source_axis_mm:
                raise PlanError(
                    f"{where}: block '{block.name}' has its tray {block.tray_mm:g} mm from the source, beyond the "
                    "isocentre"
                )
        factor = self.block_tray_factor
        if factor is not None and not 0.0 < factor <= 1.0:
            raise PlanError(f"{where}: has a block tray factor of {factor:g}; expected a number up to 1")


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
