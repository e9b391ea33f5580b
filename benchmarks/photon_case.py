"""Monte Carlo references for photons, the files of `photon_mc/`, as beams, materials and doses.

Every beam is an open square field at 1000 mm from a point to the surface of a phantom of 300 mm each way. Two kinds of
reference, both in Gy cm2 per photon, so that all of one beam quality are absolute against each other:

* direct (`direct_*.npz`): the field itself, scored in bins; 2 to 6 % of noise (1 sigma) per bin.
* pencils (`pencil_*.npz`): a parallel pencil beam in slabs, from which fields are summed up by `axis_cases`: the square
  that the diverging field has at each depth, times the inverse square of the distance. Exact for slabs but for what a
  particle diverges between interaction and deposit; agrees with `direct` within its noise, and has 0.2 % of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.mohan import energy_fluence
from doseeng import photonphysics
from doseeng.grid import Grid, Volume
from doseeng.machines.pencilmodes import modes_of
from doseeng.machines.photonmodel import Electrons, Jaws, Modes, PhotonMachine, Reference, Source
from doseeng.machines.pointkernels import cones_of
from doseeng.materials import PhotonMaps
from doseeng.photonkernels import transport_tables
from doseeng.plan import PhotonBeam

Array = npt.NDArray[np.float64]

SSD_MM = 1000.0
SIDE_MM = 300.0
"""Extent of the phantom in every direction."""
AIR_MM = 24.0
"""Air of the image above the surface, as in any CT."""
IMAGE_MM = (2.5, 2.0, 2.5)
"""Voxels (x, y, z) of the image; the faces of the slabs fall between them. Depth is along patient y."""
MM_PER_CM = 10.0
SIDES_MM = (30.0, 50.0, 100.0, 200.0)
"""Fields that are summed up from pencils."""


@dataclass(frozen=True, slots=True)
class Material:
    """composition: element -> mass fraction."""

    density_gcm3: float
    composition: dict[str, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """A slab of a phantom between two depths."""

    material: str
    start_mm: float
    stop_mm: float


MATERIALS = {
    "air": Material(0.0012, {"N": 0.755, "O": 0.232, "Ar": 0.013}),
    "water": Material(1.0, {"H": 0.111894, "O": 0.888106}),
    # ICRU Report 44, lung.
    "lung": Material(0.26, {"H": 0.103, "C": 0.105, "N": 0.031, "O": 0.749, "Na": 0.002, "P": 0.002, "S": 0.003,
                            "Cl": 0.003, "K": 0.002}),
    # ICRP cortical bone, the bone of 1.85 g/cm3 in EGSnrc's tables.
    "bone": Material(1.85, {"H": 0.047234, "C": 0.14433, "N": 0.04199, "O": 0.446096, "Mg": 0.0022, "P": 0.10497,
                            "S": 0.00315, "Ca": 0.20993, "Zn": 0.0001}),
}  # fmt: skip
PHANTOMS = {
    "water": (Layer("water", 0.0, 300.0),),
    "lungslab": (Layer("water", 0.0, 50.0), Layer("lung", 50.0, 150.0), Layer("water", 150.0, 300.0)),
    "boneslab": (Layer("water", 0.0, 30.0), Layer("bone", 30.0, 50.0), Layer("water", 50.0, 300.0)),
}


@dataclass(frozen=True, slots=True)
class Field:
    """Who delivers what to which phantom. side_mm: at the surface, where the isocentre is."""

    phantom: str
    quality: str
    side_mm: float

    @property
    def name(self) -> str:
        """As the files are called."""
        return f"{self.phantom} {self.quality} {self.side_mm / MM_PER_CM:g}x{self.side_mm / MM_PER_CM:g}"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Slabs of the phantom, from the surface down."""
        return PHANTOMS[self.phantom]

    @property
    def slab(self) -> Layer | None:
        """The layer that is not water."""
        return next((layer for layer in self.layers if layer.material != "water"), None)


@dataclass(frozen=True, slots=True, eq=False)
class DirectCase:
    """A direct reference in the plane through the axis.

    depth_edge_mm (n_depth + 1,), x_edge_mm (n_x + 1,): bins, which reach half_mm to both sides. dose, sigma
    (n_depth, n_x): Gy cm2 per photon and its uncertainty (1 sigma).
    """

    field: Field
    depth_edge_mm: Array
    x_edge_mm: Array
    half_mm: float
    dose: Array
    sigma: Array


@dataclass(frozen=True, slots=True, eq=False)
class AxisCase:
    """A reference on the axis: depth_edge_mm (n + 1,), dose and sigma (n,) in Gy cm2 per photon."""

    field: Field
    depth_edge_mm: Array
    dose: Array
    sigma: Array


def direct_cases(folder: Path) -> Iterator[DirectCase]:
    """The files `direct_PHANTOM_QUALITY_WxW.npz`."""
    for path in sorted(folder.glob("direct_*.npz")):
        _, phantom, quality, size = path.stem.split("_")
        with np.load(path, allow_pickle=False) as data:
            x, y, z = (MM_PER_CM * data[f"{axis}_edges"] for axis in "xyz")
            middle = len(y) // 2 - 1
            yield DirectCase(
                Field(phantom, quality, MM_PER_CM * float(size.split("x")[0])), z, x, float(y[middle + 1]),
                data["dose_zyx_Gycm2"][:, middle], data["abs_unc"][:, middle],
            )  # fmt: skip


def axis_cases(folder: Path) -> Iterator[AxisCase]:
    """Fields of SIDES_MM from the files `pencil_PHANTOM_QUALITY.npz`."""
    for path in sorted(folder.glob("pencil_*.npz")):
        _, phantom, quality = path.stem.split("_")
        with np.load(path, allow_pickle=False) as data:
            edge_mm, radius_mm = MM_PER_CM * data["z_edges_cm"], MM_PER_CM * data["r_edges_cm"]
            dose, sigma = data["dose_Gy_per_photon"], data["abs_unc"]
        depth_mm = 0.5 * (edge_mm[1:] + edge_mm[:-1])
        magnification = 1.0 + depth_mm / SSD_MM
        for side_mm in SIDES_MM:
            covered = np.array([np.diff(circle_in_square_mm2(radius_mm, 0.5 * side_mm * m)) for m in magnification])
            covered *= (MM_PER_CM * magnification[:, None]) ** -2.0
            yield AxisCase(
                Field(phantom, quality, side_mm), edge_mm, (dose * covered).sum(axis=1),
                np.hypot.reduce(sigma * covered, axis=1),
            )  # fmt: skip


def circle_in_square_mm2(radius_mm: Array, half_mm: float) -> Array:
    """Area of circles (n,) that lies in a square of twice half_mm around the same centre."""
    radius = np.minimum(radius_mm, np.sqrt(2.0) * half_mm)
    cosine = np.minimum(half_mm / np.maximum(radius, half_mm), 1.0)
    outside = 4.0 * radius**2 * (np.arccos(cosine) - cosine * np.sqrt(1.0 - cosine**2))
    return np.pi * radius**2 - np.where(radius > half_mm, outside, 0.0)


def open_beam(field: Field) -> PhotonBeam:
    """100 MU of the field from gantry 0, isocentre at the origin, on the surface."""
    still, jaws = np.zeros(2), np.tile([-0.5 * field.side_mm, 0.5 * field.side_mm], (2, 1))
    return PhotonBeam(
        1, field.name, field.quality, _energy_mv(field.quality), "STANDARD", "STATIC", SSD_MM, 100.0,
        np.array([0.0, 1.0]), np.zeros((2, 3)), still, still, still, jaws, jaws,
    )  # fmt: skip


@cache
def reference_photon_machine(quality: str) -> PhotonMachine:
    """A point source of a known spectrum and flat fluence: no head, no electrons, jaws that close.

    Nothing is fitted to the references: kernels follow from the spectrum. Its dose per MU has no meaning.
    """
    energy_mev, weight = energy_fluence(quality)
    unfitted = Modes(np.ones((1, 3)), np.ones((1, 3)))
    machine = PhotonMachine(
        quality, "1", "point source of the Monte Carlo references", "Mohan et al., Med Phys 12 (1985) 592",
        energy_mv=_energy_mv(quality), fluence_mode="STANDARD", source_axis_mm=SSD_MM,
        reference=Reference(SSD_MM, 100.0, 100.0, 0.01), spectrum_mev=energy_mev, spectrum_weight=weight,
        softening=0.0, profile_mm=np.array([0.0, 500.0]), profile=np.ones(2),
        head=Source((0.0, 0.0), 0.0, 1.0, 100.0), electrons=Electrons(0.0, 10.0, 0.0), jaws=Jaws(0.0, 400.0, 300.0),
        leaves=(), wedges=(), cones=cones_of(energy_mev, weight), modes=unfitted,
    )  # fmt: skip
    released = transport_tables(machine)
    primary, scatter = (table.astype(np.float64) for table in (released.primary, released.scatter))
    return replace(machine, modes=modes_of(machine.cones, primary, scatter))


def _energy_mv(quality: str) -> float:
    return float(quality.removeprefix("mohan"))


def image_grid(spacing_mm: tuple[float, float, float]) -> Grid:
    """The phantom and the air above it; the surface is at y = 0."""
    dx, dy, dz = spacing_mm
    shape = (round(SIDE_MM / dz), round((SIDE_MM + AIR_MM) / dy), round(SIDE_MM / dx))
    return Grid(shape, spacing_mm, (0.5 * (dx - SIDE_MM), 0.5 * dy - AIR_MM, 0.5 * (dz - SIDE_MM)))


@cache
def phantom_maps(phantom: str, quality: str, spacing_mm: tuple[float, float, float] = IMAGE_MM) -> PhotonMaps:
    """What photons of a quality feel of a phantom, from the composition of its materials."""
    machine = reference_photon_machine(quality)
    energy_mev = photonphysics.effective_energy_mev(machine.spectrum_mev, machine.spectrum_weight)
    grid = image_grid(spacing_mm)
    depth_mm = grid.origin_mm[1] + grid.spacing_mm[1] * np.arange(grid.shape[1])
    values = np.empty((4, len(depth_mm)))
    for layer in (Layer("air", -AIR_MM, 0.0), *PHANTOMS[phantom]):
        inside = (depth_mm > layer.start_mm) & (depth_mm < layer.stop_mm)
        values[:, inside] = _felt(MATERIALS[layer.material], energy_mev)[:, None]
    full = np.broadcast_to(values[:, None, :, None], (4, *grid.shape)).astype(np.float32)
    return PhotonMaps(*(Volume(grid, volume) for volume in full))


def _felt(material: Material, energy_mev: float) -> Array:
    """Attenuation and electron density relative to water, density, dose to water over dose to medium."""
    density, composition = material.density_gcm3, material.composition
    return np.array([
        density * photonphysics.relative_mass_attenuation(composition, energy_mev),
        density * photonphysics.relative_electrons_per_mass(composition),
        density,
        float(photonphysics.water_dose_ratio(composition, density)[()]),
    ])  # fmt: skip
