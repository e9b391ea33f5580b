"""The photon beam model as plain data: spectrum, source, head, collimators and the kernels that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from doseeng.errors import MachineError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the dose per monitor unit is stated: on the axis in water, field_mm: side of the square field at the
    isocentre plane."""

    ssd_mm: float
    depth_mm: float
    field_mm: float
    gy_per_mu: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where photons come from. focal_mm: (x, y) sigma of the focal spot at the target. scatter_share: energy fluence of
    an extra-focal source, fully seen, over the focal one's on the axis; scatter_sigma_mm: its width, scatter_plane_mm:
    its distance from the target."""

    focal_mm: tuple[float, float]
    scatter_share: float
    scatter_sigma_mm: float
    scatter_plane_mm: float


@dataclass(frozen=True, slots=True)
class Electrons:
    """Contaminant electrons. share: their dose at the surface of the reference field over the largest photon dose;
    depth_mm: water in which they fall to 1/e; sigma_mm: how far they spread across, in the isocentre plane."""

    share: float
    depth_mm: float
    sigma_mm: float


@dataclass(frozen=True, slots=True)
class Jaws:
    """transmission: of a closed jaw. x_plane_mm, y_plane_mm: target to the middle of the jaws."""

    transmission: float
    x_plane_mm: float
    y_plane_mm: float


@dataclass(frozen=True, slots=True)
class LeafModel:
    """A multileaf collimator of the machine, found in plans by its leaf widths.

    widths: ((number of leaves, width in mm at the isocentre plane), ...) along a bank. plane_mm: target to its middle.
    transmission: through leaves, interleaf_transmission: more of it within tongue_mm of a leaf's side where both
    neighbours are closed. tip_offset_mm: how much farther open a leaf end is than its stated position (half of the
    dosimetric leaf gap). tongue_mm: strip along a leaf's side that its neighbour's tongue covers, isocentre plane.
    """

    id: str
    widths: tuple[tuple[int, float], ...]
    plane_mm: float
    transmission: float
    interleaf_transmission: float
    tip_offset_mm: float
    tongue_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class WedgeModel:
    """A wedge. id, angle_deg: as plans name it. position_mm (n,): distance from the axis in the isocentre plane,
    towards the toe positive, ascending; transmission (n,): energy fluence behind it over without it."""

    id: str
    angle_deg: float
    position_mm: Array
    transmission: Array


@dataclass(frozen=True, slots=True, eq=False)
class Cones:
    """Point kernel in water: energy per steradian and g/cm2 of radius r at an angle to the photon, share / (2 pi (cos
    edge0 - cos edge1)) * per_gcm2 * exp(-per_gcm2 r), for primary electrons and for scattered photons.

    edge_deg: (n + 1,) polar angles between cones, 0 to 180. primary, scatter: (n, 2) rows of share and per_gcm2. Shares
    of primary energy sum to 1; those of scatter are amplitudes within 30 cm and sum to more. Collapsed cone kernels:
    Ahnesjö, Med Phys 16 (1989) 577.
    """

    edge_deg: Array
    primary: Array
    scatter: Array


@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """Pencil kernel in water as modes: energy set free along a ray moves on along it, is deposited exponentially and
    spreads across as a Gaussian.

    primary, scatter: (n, 3) rows of share (as for cones), per_gcm2 (deposited per g/cm2 of ray) and spread (variance
    across over the mean square of the distance along the ray).
    """

    primary: Array
    scatter: Array


@dataclass(frozen=True, slots=True, eq=False)
class PhotonMachine:
    """A photon beam of a linear accelerator.

    energy_mv: nominal; fluence_mode: STANDARD or FFF. source_axis_mm: target to isocentre. spectrum_mev (n,): photon
    energies, spectrum_weight (n,): their share of the energy fluence on the axis. softening: 1 when the flattening
    filter softens the beam off the axis, 0 when not. profile_mm (m,): distance from the axis in the isocentre plane,
    profile (m,): what the open beam has to be multiplied with there; with softening this is less than the energy
    fluence in air over that on the axis, because softer photons set more energy free.
    """

    name: str
    version: str
    description: str
    source: str
    energy_mv: float
    fluence_mode: str
    source_axis_mm: float
    reference: Reference
    spectrum_mev: Array
    spectrum_weight: Array
    softening: float
    profile_mm: Array
    profile: Array
    head: Source
    electrons: Electrons
    jaws: Jaws
    leaves: tuple[LeafModel, ...]
    wedges: tuple[WedgeModel, ...]
    cones: Cones
    modes: Modes
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pairs = (
            ("spectrum", self.spectrum_mev, self.spectrum_weight),
            ("profile", self.profile_mm, self.profile),
            *((f"wedge '{w.id}'", w.position_mm, w.transmission) for w in self.wedges),
        )
        for what, x, y in pairs:
            if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or np.any(np.diff(x) <= 0):
                raise MachineError(f"machine '{self.name}': {what} needs ascending positions and as many values")
            if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))) or np.any(y < 0):
                raise MachineError(f"machine '{self.name}': {what} holds a value that is negative or not finite")
