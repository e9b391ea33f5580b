"""From Hounsfield units to what protons and photons feel, with the body outline and overrides of a structure set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng import photonphysics, protonphysics
from doseeng.errors import MaterialError, Notice, StructureError
from doseeng.grid import Grid, Volume, resample
from doseeng.hutable import DEFAULT_TABLE, HU_MAX, HU_MIN, Curve, HuTable, read_hu_table, which_composition
from doseeng.masks import mask
from doseeng.structures import PhysicalOverride, Structure, StructureSet

__all__ = [
    "DEFAULT_TABLE",
    "HU_MAX",
    "HU_MIN",
    "HuTable",
    "MaterialMaps",
    "PhotonCurves",
    "PhotonMaps",
    "material_maps",
    "override_photon_material",
    "override_powers",
    "photon_curves",
    "photon_maps",
    "read_hu_table",
]

Replacement = tuple[tuple[float, ...], Notice]
"""What a structure puts in place of the image: one value per map, and the notice about it."""

INSIDE: Final = 0.5
"""A voxel belongs to a structure when at least half of it lies inside."""
SAME_DENSITY: Final = 1e-6
"""An override of exactly the density or stopping power of water means water."""
SMALLEST: Final = 1e-6
"""Guards divisions by the density or stopping power of a table that begins with vacuum."""
MATTER: Final = 0.05
"""Relative stopping power or attenuation above which a voxel holds more than air."""
WATER_MATERIAL: Final = (1.0, 1.0, 1.0, 1.0)
"""Attenuation, electron density, density and water ratio of water."""
FIXED_KINDS: Final = frozenset({"SUPPORT", "FIXATION", "BOLUS"})
"""Structures that beams pass although they lie outside the body (DICOM RT ROI Interpreted Type)."""


@dataclass(frozen=True, slots=True, eq=False)
class MaterialMaps:
    """Relative stopping power and relative scattering power of every voxel of the image; notices from making them."""

    rsp: Volume
    scattering: Volume
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PhotonCurves:
    """What photons and their electrons feel, for every HU from HU_MIN to HU_MAX, at one photon energy.

    attenuation: per length, relative to water: depth, and energy set free per volume. electron_density: electrons per
    volume, relative to water: distances over which kernels carry energy (Ahnesjö, Med Phys 16 (1989) 577).
    density_gcm3: energy deposited per volume over it is dose to medium. water_ratio: dose to water over dose to medium.
    """

    energy_mev: float
    attenuation: Curve
    electron_density: Curve
    density_gcm3: Curve
    water_ratio: Curve


@dataclass(frozen=True, slots=True, eq=False)
class PhotonMaps:
    """The quantities of `PhotonCurves` in every voxel of the image; notices from making them."""

    attenuation: Volume
    electron_density: Volume
    density_gcm3: Volume
    water_ratio: Volume
    notices: tuple[Notice, ...] = ()

    def dose_factor(self, grid: Grid, to_water: bool) -> npt.NDArray[np.float32]:
        """(grid.shape) dose over energy deposited per electron, both relative to water: dose to medium or to water.

        Energy per electron hardly changes from one medium to the next, so it is what may be interpolated between grids;
        this factor stays near one, in air too.
        """
        electrons, density = self.electron_density.values, self.density_gcm3.values
        factor = np.divide(electrons, density, out=np.ones_like(density), where=density > 0)
        if to_water:
            factor *= self.water_ratio.values
        return resample(Volume(self.density_gcm3.grid, factor), grid, 1.0).values


def material_maps(ct: Volume, table: HuTable, structures: StructureSet | None = None) -> MaterialMaps:
    """Stopping and scattering power maps of a CT, with ROI overrides and air outside the body.

    Voxels outside the EXTERNAL structure (if there is one) and outside SUPPORT, FIXATION and BOLUS structures become
    air, as planning systems do. Overrides apply in file order, body first, so that an inner structure wins.
    """

    def replacement(structure: Structure) -> Replacement | None:
        if not structure.overrides:
            return None
        powers = override_powers(structure.overrides, table, f"structure '{structure.name}'")
        density = next((f", density {o.value:g}" for o in structure.overrides if o.property == "REL_MASS_DENSITY"), "")
        text = f"the plan's material replaces the CT: RSP {powers[0]:.3f}{density}"
        return powers, Notice("override", structure.name, text)

    (rsp, scattering), notices = _voxel_maps(ct, (table.rsp, table.scattering), structures, replacement)
    return MaterialMaps(rsp, scattering, notices)


def photon_maps(
    ct: Volume,
    table: HuTable,
    structures: StructureSet | None = None,
    *,
    mean_energy_mev: float,
    bolus_rois: Collection[int] = (),
) -> PhotonMaps:
    """Photon maps of a CT, with structures and overrides as in `material_maps`.

    mean_energy_mev: photon energy of the attenuation (`photonphysics.effective_energy_mev` of the beam). bolus_rois:
    ROI numbers of boluses that the plan puts on the patient; they are water where they have no density override.
    Raises what `material_maps` raises, and StructureError for a bolus that is missing or has no contour.
    """
    curves = photon_curves(table, mean_energy_mev)
    _require_contoured(bolus_rois, structures)

    def replacement(structure: Structure) -> Replacement | None:
        if structure.overrides:
            material = override_photon_material(structure.overrides, curves, f"structure '{structure.name}'")
            text = f"electron density {material[1]:.3f}, density {material[2]:.3f} g/cm3"
            return material, Notice("override", structure.name, f"the plan's material replaces the CT: {text}")
        if structure.number in bolus_rois:
            text = "a bolus of the plan without a density override: it is water inside its contour"
            return WATER_MATERIAL, Notice("bolus-is-water", structure.name, text)
        return None

    by_hu = (curves.attenuation, curves.electron_density, curves.density_gcm3, curves.water_ratio)
    (attenuation, electron_density, density, water_ratio), notices = _voxel_maps(ct, by_hu, structures, replacement)
    return PhotonMaps(attenuation, electron_density, density, water_ratio, notices)


def densities(ct: Volume, table: HuTable) -> Volume:
    """Mass density in g/cm3 of every voxel, from its HU alone: no body outline, no overrides."""
    index = np.clip(np.rint(ct.values), HU_MIN, HU_MAX).astype(np.intp) - HU_MIN
    return Volume(ct.grid, table.density_gcm3[index])


def photon_curves(table: HuTable, energy_mev: float) -> PhotonCurves:
    """The photon quantities of a HU table from its densities and compositions; MaterialError where it has none."""
    if not table.compositions:
        raise MaterialError(f"HU table '{table.name}' has no compositions; the attenuation of photons needs them")
    compositions = [composition for _, composition in table.compositions]
    which = which_composition(table.compositions)
    density = table.density_gcm3.astype(np.float64)
    attenuation = np.array([photonphysics.relative_mass_attenuation(c, energy_mev) for c in compositions])
    electrons = np.array([photonphysics.relative_electrons_per_mass(c) for c in compositions])
    water_ratio = np.empty(len(density), dtype=np.float32)
    for index, composition in enumerate(compositions):
        here = which == index
        water_ratio[here] = photonphysics.water_dose_ratio(composition, density[here])
    return PhotonCurves(
        energy_mev,
        (density * attenuation[which]).astype(np.float32),
        (density * electrons[which]).astype(np.float32),
        table.density_gcm3,
        water_ratio,
    )


def override_powers(overrides: tuple[PhysicalOverride, ...], table: HuTable, where: str) -> tuple[float, float]:
    """(relative stopping power, relative scattering power) that the physical properties of a ROI stand for.

    In order of preference: REL_STOP_RATIO as it is; the Bethe formula on REL_MASS_DENSITY with ELEM_FRACTION (and
    MEAN_EXCI_ENERGY where given); REL_ELEC_DENSITY; the tissue of REL_MASS_DENSITY in the HU table. Scattering comes
    from the composition or else from that tissue. MaterialError when nothing of that is there.
    """
    value, composition = _override_values(overrides, where)
    mass = value.get("REL_MASS_DENSITY")
    excitation = value.get("MEAN_EXCI_ENERGY")
    if mass is not None and composition:
        rsp = protonphysics.relative_stopping_power(mass, composition, excitation)
        scattering = protonphysics.relative_scattering_power(mass, composition)
        return value.get("REL_STOP_RATIO", rsp), scattering
    electrons = value.get("REL_ELEC_DENSITY")
    if electrons is not None and excitation:
        water = protonphysics.mass_stopping_power(protonphysics.REFERENCE_ENERGY_MEV)
        other = protonphysics.mass_stopping_power(protonphysics.REFERENCE_ENERGY_MEV, excitation_ev=excitation)
        electrons *= float(other / water)
    rsp_given = value.get("REL_STOP_RATIO", electrons)
    if rsp_given is not None:
        return rsp_given, _of_tissue(table.scattering, table.rsp, rsp_given)
    if mass is None:
        raise MaterialError(
            f"{where}: override {', '.join(value)} says nothing about stopping power; "
            "expected REL_MASS_DENSITY, REL_ELEC_DENSITY or REL_STOP_RATIO"
        )
    return _of_tissue(table.rsp, table.density_gcm3, mass), _of_tissue(table.scattering, table.density_gcm3, mass)


def override_photon_material(
    overrides: tuple[PhysicalOverride, ...], curves: PhotonCurves, where: str
) -> tuple[float, float, float, float]:
    """(attenuation, electron density, density in g/cm3, water ratio) that the physical properties of a ROI stand for.

    What is given counts: REL_ELEC_DENSITY, REL_MASS_DENSITY. The rest follows from ELEM_FRACTION (and MEAN_EXCI_ENERGY)
    where given, else it is that of the tissue in the HU table with this electron density, or else this mass density.
    MaterialError when there is no density.
    """
    value, composition = _override_values(overrides, where)
    mass, electrons = value.get("REL_MASS_DENSITY"), value.get("REL_ELEC_DENSITY")
    given = mass if electrons is None else electrons
    if given is None:
        raise MaterialError(
            f"{where}: override {', '.join(value)} says nothing about the attenuation of photons; "
            "expected REL_MASS_DENSITY or REL_ELEC_DENSITY"
        )
    if composition:
        per_mass = photonphysics.relative_electrons_per_mass(composition)
        density = given / per_mass if mass is None else mass
        attenuation = density * photonphysics.relative_mass_attenuation(composition, curves.energy_mev)
        ratio = float(photonphysics.water_dose_ratio(composition, density, value.get("MEAN_EXCI_ENERGY")))
        return attenuation, density * per_mass if electrons is None else electrons, density, ratio
    known = curves.density_gcm3 if electrons is None else curves.electron_density
    is_water = abs(given - 1.0) < SAME_DENSITY
    return (
        _of_tissue(curves.attenuation, known, given),
        _of_tissue(curves.electron_density, known, given) if electrons is None else electrons,
        _of_tissue(curves.density_gcm3, known, given) if mass is None else mass,
        1.0 if is_water else float(curves.water_ratio[_nearest(known, given)]),
    )


def _override_values(
    overrides: tuple[PhysicalOverride, ...], where: str
) -> tuple[dict[str, float], dict[str, float] | None]:
    """Property -> value, and the composition if there is one; MaterialError for what has no meaning."""
    value = {o.property: o.value for o in overrides}
    for key, number in value.items():
        if not np.isfinite(number) or number < 0:
            raise MaterialError(f"{where}: override {key} of {number} has no meaning; correct it and export again")
    pairs = next((o.composition for o in overrides if o.composition), ())
    return value, _composition_of(pairs, where) if pairs else None


def _of_tissue(wanted: Curve, given: Curve, value: float) -> float:
    """`wanted` for the tissue of the table whose `given` is nearest to `value`, scaled to it."""
    if abs(value - 1.0) < SAME_DENSITY:
        return 1.0
    nearest = _nearest(given, value)
    return float(wanted[nearest]) * value / max(float(given[nearest]), SMALLEST)


def _nearest(curve: Curve, value: float) -> int:
    return int(np.argmin(np.abs(curve - value)))


def _require_contoured(bolus_rois: Collection[int], structures: StructureSet | None) -> None:
    if structures is None:
        if bolus_rois:
            raise StructureError(f"the plan has a bolus, ROI number {min(bolus_rois)}, but there is no structure set")
        return
    for bolus in map(structures.by_number, bolus_rois):
        if bolus.is_empty:
            raise StructureError(f"bolus '{bolus.name}' has no contour; contour it or take it off the beams")


def _voxel_maps(
    ct: Volume,
    curves: tuple[Curve, ...],
    structures: StructureSet | None,
    replacement: Callable[[Structure], Replacement | None],
) -> tuple[tuple[Volume, ...], tuple[Notice, ...]]:
    """Curves over HU as maps, air outside the body, structures filled with their `replacement`; notices.

    curves: the first tells matter from air. replacement: None for a structure that leaves the image as it is.
    """
    if not np.all(np.isfinite(ct.values)):
        raise MaterialError("the image holds NaN or infinite HU values; export the CT again")
    index = np.clip(np.rint(ct.values), HU_MIN, HU_MAX).astype(np.int32) - HU_MIN
    maps = [curve[index] for curve in curves]
    notices = []
    clipped = int(np.count_nonzero(ct.values > HU_MAX + 0.5))
    if clipped:
        text = f"{clipped} voxels above {HU_MAX} HU were taken as {HU_MAX} HU; consider a density override for metal"
        notices.append(Notice("hu-above-table", "CT", text))
    if structures is not None:
        notices += _clear_outside(ct, structures, curves, maps)
        notices += _fill(ct, structures, maps, replacement)
    return tuple(Volume(ct.grid, values) for values in maps), tuple(notices)


def _clear_outside(
    ct: Volume, structures: StructureSet, curves: tuple[Curve, ...], maps: list[npt.NDArray[np.float32]]
) -> list[Notice]:
    body = structures.external()
    if body is None:
        return [Notice("no-external", "", "no EXTERNAL structure: everything in the CT image counts, couch included")]
    keep = mask(body, ct.grid).values >= INSIDE
    for structure in structures.structures:
        if structure.kind.upper() in FIXED_KINDS and not structure.is_empty:
            keep |= mask(structure, ct.grid).values >= INSIDE
    removed = int(np.count_nonzero(~keep & (maps[0] > MATTER)))
    for values, curve in zip(maps, curves, strict=True):
        values[~keep] = curve[-1000 - HU_MIN]
    if not removed:
        return []
    volume = removed * ct.grid.voxel_volume_cm3
    text = f"{volume:.0f} cm3 of material outside the body and support structures was taken as air"
    return [Notice("material-outside-body", body.name, text)]


def _fill(
    ct: Volume,
    structures: StructureSet,
    maps: list[npt.NDArray[np.float32]],
    replacement: Callable[[Structure], Replacement | None],
) -> list[Notice]:
    notices = []
    for structure in sorted(structures.structures, key=lambda s: s.kind.upper() != "EXTERNAL"):
        if structure.overrides and structure.is_empty:
            raise StructureError(f"structure '{structure.name}' has a density override but no contour; remove one")
        replaced = replacement(structure)
        if replaced is None:
            continue
        inside = mask(structure, ct.grid).values >= INSIDE
        for values, value in zip(maps, replaced[0], strict=True):
            values[inside] = value
        notices.append(replaced[1])
    return notices


def _composition_of(pairs: tuple[tuple[int, float], ...], where: str) -> dict[str, float]:
    by_number = {z: symbol for symbol, (z, _, _) in protonphysics.ELEMENTS.items()}
    unknown = [z for z, _ in pairs if z not in by_number]
    if unknown:
        raise MaterialError(f"{where}: composition holds element Z = {unknown[0]}, which is not in the element table")
    total = sum(w for _, w in pairs)
    if total <= 0 or any(w < 0 for _, w in pairs):
        raise MaterialError(f"{where}: mass fractions of the composition must be positive, found a sum of {total:g}")
    return {by_number[z]: w / total for z, w in pairs}
