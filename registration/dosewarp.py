"""Dose of a day carried to the planning CT, two ways.

*Direct mapping* takes to each planning voxel the dose at the point where its tissue lies today. *Energy/mass transfer*
(EMT; Siebers and Zhong, Med Phys 35 (2008) 4226; Zhong and Siebers, PMB 54 (2009) 5815) takes each part of the day's
dose grid, with its energy dose x density x volume and its mass, to where its tissue lies in the planning CT, and
divides the energy by the mass that arrive in a voxel.

Both agree where dose and deformation vary little within a voxel. Where tissue is compressed, several voxels of today
share one planning voxel: EMT gives their mean by mass, direct mapping the dose of one point. Where the images do not
conserve mass (lung that fills without its HU following, gas, weight loss), both still give dose to tissue: EMT weighs
by the mass of today, which it carries along, and never divides by the planning CT's. `EnergyBalance` then shows that
the same dose on the planning CT's own mass means another energy; no mapping of dose can mend that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.transport import carry_energy_mass
from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume, resample
from doseeng.transforms import DisplacementField, as_field, warped

PARTS_PER_AXIS: Final = 2
"""A dose voxel of 2 mm goes in parts of 1 mm, about the voxels of a CT. Parts are boxes, so no gaps open between
them, and a translation or a stretch along the axes is exact however few they are."""
JOULE_PER_GY_G: Final = 1e-3


@dataclass(frozen=True, slots=True)
class EnergyBalance:
    """Energy in J and mass in kg of a dose carried by energy/mass transfer.

    source: in the day's dose grid. carried: on the planning grid, as the carried dose times the carried mass. left:
    what the deformation takes out of the planning grid. image: the carried dose times the planning CT's own mass where
    dose was carried to; it differs from `carried` as far as the images do not conserve mass.
    """

    source_j: float
    carried_j: float
    left_j: float
    image_j: float
    source_kg: float
    carried_kg: float
    left_kg: float
    image_kg: float

    @property
    def error(self) -> float:
        """Energy that is neither carried nor known to have left, as a share of the source's; 0 without energy."""
        return (self.carried_j + self.left_j) / self.source_j - 1.0 if self.source_j > 0 else 0.0

    @property
    def mass_ratio(self) -> float:
        """Carried mass over the planning CT's where dose was carried to: 1 where the images conserve mass."""
        return self.carried_kg / self.image_kg if self.image_kg > 0 else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class CarriedDose:
    """A dose on the planning grid in Gy, and where its energy went. filled: voxels that no mass reached, mapped."""

    dose: Volume
    balance: EnergyBalance
    filled: int


def direct(dose: Volume, to_dose: DisplacementField, grid: Grid | None = None) -> Volume:
    """Direct dose mapping: trilinear dose in Gy where to_dose takes each voxel of `grid`, 0 outside the dose grid.

    dose: in the treatment frame. to_dose: planning points -> treatment points (the pushforward of a day). grid: in the
    planning frame, by default that of the dose, whose axes both frames share.
    """
    return warped(dose, as_field(grid or dose.grid, to_dose), 0.0)


def energy_mass(
    dose: Volume,
    density_there: Volume,
    density_here: Volume,
    pullback: DisplacementField,
    pushforward: DisplacementField,
    grid: Grid | None = None,
) -> CarriedDose:
    """Energy/mass transfer of a dose in the treatment frame to `grid` (by default that of the dose).

    dose: Gy. density_there: g/cm3 of the day's image, treatment frame; density_here: of the planning CT, for the
    balance alone. pullback: treatment points -> planning points; pushforward: the way back, with which voxels that no
    mass reaches (tears, vacuum) are mapped directly. RegistrationError when there is no mass under the dose.
    """
    target = grid or dose.grid
    energy, mass = np.zeros(target.shape), np.zeros(target.shape)
    points = dose.grid.index_to_patient_matrix
    to_density = density_there.grid.patient_to_index_matrix
    to_density = np.column_stack(
        [to_density[:, :3] @ points[:, :3], to_density[:, :3] @ points[:, 3] + to_density[:, 3]]
    )
    vectors = as_field(dose.grid, pullback).vectors_mm
    totals = carry_energy_mass(
        dose.values,
        density_there.values,
        to_density,
        vectors,
        points,
        np.ascontiguousarray(points[:, :3]),
        target.patient_to_index_matrix,
        PARTS_PER_AXIS,
        energy,
        mass,
    )
    if totals[2] <= 0.0:
        raise RegistrationError(
            "energy/mass transfer: the day's image has no mass inside the dose grid; check that dose and densities are "
            "in the treatment frame and in g/cm3"
        )
    reached = mass > 0.0
    values = np.divide(energy, mass, out=np.zeros_like(energy), where=reached).astype(np.float32)
    own = resample(density_here, target, 0.0).values * np.float32(target.voxel_volume_cm3)
    balance = _balance(totals, values, mass, np.where(reached, own, 0.0))
    missing = ~reached
    if missing.any():
        values[missing] = direct(dose, pushforward, target).values[missing]
    return CarriedDose(Volume(target, values), balance, int(missing.sum()))


def _balance(
    totals: tuple[float, float, float, float],
    dose_gy: npt.NDArray[np.floating],
    carried_g: npt.NDArray[np.floating],
    own_g: npt.NDArray[np.floating],
) -> EnergyBalance:
    energy, landed_energy, mass, landed_mass = totals
    return EnergyBalance(
        source_j=energy * JOULE_PER_GY_G,
        carried_j=float((dose_gy * carried_g).sum(dtype=np.float64)) * JOULE_PER_GY_G,
        left_j=(energy - landed_energy) * JOULE_PER_GY_G,
        image_j=float((dose_gy * own_g).sum(dtype=np.float64)) * JOULE_PER_GY_G,
        source_kg=mass / 1000.0,
        carried_kg=float(carried_g.sum()) / 1000.0,
        left_kg=(mass - landed_mass) / 1000.0,
        image_kg=float(own_g.sum(dtype=np.float64)) / 1000.0,
    )
