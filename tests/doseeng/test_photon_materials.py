"""Photon maps of an image: materials, structures, overrides and boluses."""

import numpy as np
import pytest

from doseeng import photonphysics, protonphysics
from doseeng.errors import MaterialError, StructureError
from doseeng.grid import Grid, Volume, resampled_grid
from doseeng.materials import (
    HU_MIN,
    HuTable,
    PhotonCurves,
    PhotonMaps,
    material_maps,
    override_photon_material,
    photon_curves,
    photon_maps,
    read_hu_table,
)
from doseeng.structures import PhysicalOverride, Structure, StructureSet

AIR, LUNG, SOFT, BONE = -1000, -700, 40, 1000
ENERGY_MEV = 2.0
PMMA_PAIRS = ((1, 0.080538), (6, 0.599848), (8, 0.319614))

# A 40 x 40 x 40 mm image of 4 mm voxels centred on the origin.
GRID = Grid((10, 10, 10), (4.0, 4.0, 4.0), (-18.0, -18.0, -18.0))


@pytest.fixture(scope="module")
def table() -> HuTable:
    return read_hu_table()


@pytest.fixture(scope="module")
def curves(table: HuTable) -> PhotonCurves:
    return photon_curves(table, ENERGY_MEV)


def at(values: np.ndarray, hu: int) -> float:
    return float(values[hu - HU_MIN])


def override(name: str, value: float, composition: tuple[tuple[int, float], ...] = ()) -> PhysicalOverride:
    return PhysicalOverride(name, value, composition)


def box(number: int, kind: str, x: tuple[float, float], overrides: tuple = (), name: str = "") -> Structure:
    """From x[0] to x[1], all of y and z; contours on every slice."""
    corners = [(x[0], -30.0), (x[1], -30.0), (x[1], 30.0), (x[0], 30.0)]
    contours = tuple(np.array([(u, v, z) for u, v in corners]) for z in np.arange(-22.0, 23.0, 4.0))
    return Structure(number, name or kind.title(), kind, contours, overrides=overrides)


def maps_of(hu: float, table: HuTable, *structures: Structure, bolus: tuple[int, ...] = ()) -> PhotonMaps:
    image = Volume(GRID, np.full(GRID.shape, hu))
    these = StructureSet("S", "1", "2", structures) if structures else None
    return photon_maps(image, table, these, mean_energy_mev=ENERGY_MEV, bolus_rois=bolus)


def row(maps: PhotonMaps) -> np.ndarray:
    """(4 quantities, 10) along x through the middle."""
    parts = (maps.attenuation, maps.electron_density, maps.density_gcm3, maps.water_ratio)
    return np.array([part.values[5, 5] for part in parts])


def tissue(curves: PhotonCurves, hu: int) -> np.ndarray:
    parts = (curves.attenuation, curves.electron_density, curves.density_gcm3, curves.water_ratio)
    return np.array([at(part, hu) for part in parts])


def test_water_is_one_of_everything(curves: PhotonCurves) -> None:
    for hu in (-10, 0, 7):
        np.testing.assert_allclose(tissue(curves, hu), 1.0, rtol=1e-6)


def test_curves_of_tissues(curves: PhotonCurves, table: HuTable) -> None:
    assert len(curves.attenuation) == len(table.density_gcm3)
    np.testing.assert_array_equal(curves.density_gcm3, table.density_gcm3)
    # Schneider's last bone is the ICRU's cortical bone: NIST has 0.04607 cm2/g at 2 MeV, water 0.04942; Z/A 0.5148.
    bone = tissue(curves, 1550)
    assert bone[0] / bone[2] == pytest.approx(0.04607 / 0.04942, rel=2e-3)
    assert bone[1] / bone[2] == pytest.approx(0.5148 / 0.5551, rel=2e-3)
    assert bone[3] == pytest.approx(1.13, abs=0.01)
    lung = tissue(curves, -745)
    assert lung[2] == pytest.approx(0.265, abs=0.005)
    np.testing.assert_allclose(lung[:2] / lung[2], 0.991, atol=0.002)
    assert lung[3] == pytest.approx(0.999, abs=0.006)
    assert tissue(curves, AIR)[0] == pytest.approx(0.00109, abs=1e-5)


def test_pairs_make_bone_thicker_at_high_energy(curves: PhotonCurves, table: HuTable) -> None:
    hard = photon_curves(table, 10.0)
    assert at(hard.attenuation, BONE) > 1.04 * at(curves.attenuation, BONE)
    np.testing.assert_array_equal(hard.electron_density, curves.electron_density)


def test_a_table_without_compositions_is_refused(table: HuTable) -> None:
    bare = HuTable("bare", "1", table.density_gcm3, table.rsp, table.scattering)
    with pytest.raises(MaterialError, match="HU table 'bare' has no compositions"):
        photon_curves(bare, ENERGY_MEV)


def test_every_voxel_takes_its_hu(curves: PhotonCurves, table: HuTable) -> None:
    hu = np.full(GRID.shape, AIR)
    hu[5, 5, :4] = LUNG, SOFT, BONE, 8000
    maps = photon_maps(Volume(GRID, hu), table, mean_energy_mev=ENERGY_MEV)
    expected = np.array([tissue(curves, h) for h in (LUNG, SOFT, BONE, 3071, AIR)]).T
    np.testing.assert_array_equal(row(maps)[:, :5], expected)
    assert [n.code for n in maps.notices] == ["hu-above-table"]
    assert maps.attenuation.values.dtype == np.float32


def test_structures_are_handled_as_for_protons(curves: PhotonCurves, table: HuTable) -> None:
    couch, body = box(2, "SUPPORT", (12, 20)), box(1, "EXTERNAL", (-10, 10), name="Skin")
    maps = maps_of(SOFT, table, body, couch)
    image = Volume(GRID, np.full(GRID.shape, SOFT))
    protons = material_maps(image, table, StructureSet("S", "1", "2", (body, couch)))
    matter = protons.rsp.values[5, 5] > 0.5
    assert 0 < np.count_nonzero(matter) < 10
    np.testing.assert_array_equal(row(maps)[:, matter].T, [tissue(curves, SOFT)] * np.count_nonzero(matter))
    np.testing.assert_array_equal(row(maps)[:, ~matter].T, [tissue(curves, AIR)] * np.count_nonzero(~matter))
    assert maps.notices == protons.notices
    assert [n.code for n in maps.notices] == ["material-outside-body"]


def test_a_bolus_of_the_plan_is_water_inside_its_contour(curves: PhotonCurves, table: HuTable) -> None:
    body, bolus = box(1, "EXTERNAL", (-20, 0)), box(7, "BOLUS", (0, 8), name="Flab")
    maps = maps_of(AIR, table, body, bolus, bolus=(7,))
    np.testing.assert_array_equal(row(maps)[:, 5:7], 1.0)
    np.testing.assert_array_equal(row(maps)[:, 4], tissue(curves, AIR))
    np.testing.assert_array_equal(row(maps)[:, 7], tissue(curves, AIR))
    assert [(n.code, n.where) for n in maps.notices] == [("bolus-is-water", "Flab")]
    # Of any kind, and nothing where the plan does not put it.
    odd = maps_of(AIR, table, body, box(7, "ORGAN", (0, 8)), bolus=(7,))
    np.testing.assert_array_equal(row(odd), row(maps))
    assert maps_of(AIR, table, body, bolus).notices == ()


def test_a_bolus_with_a_density_override_keeps_it(table: HuTable) -> None:
    wax = box(7, "BOLUS", (0, 8), (override("REL_ELEC_DENSITY", 0.93),), "Wax")
    maps = maps_of(AIR, table, box(1, "EXTERNAL", (-20, 0)), wax, bolus=(7,))
    np.testing.assert_allclose(row(maps)[1, 5:7], 0.93)
    [notice] = maps.notices
    assert (notice.code, notice.where) == ("override", "Wax")
    assert "electron density 0.930, density 0.9" in notice.message


def test_a_bolus_that_is_not_there_is_an_error(table: HuTable) -> None:
    body = box(1, "EXTERNAL", (-20, 0))
    with pytest.raises(StructureError, match="ROI number 7 is not in structure set"):
        maps_of(AIR, table, body, bolus=(7,))
    with pytest.raises(StructureError, match="bolus 'Flab' has no contour"):
        maps_of(AIR, table, body, Structure(7, "Flab", "BOLUS", ()), bolus=(7,))
    with pytest.raises(StructureError, match="a bolus, ROI number 7, but there is no structure set"):
        maps_of(AIR, table, bolus=(7,))


def test_mass_density_with_composition_says_everything(curves: PhotonCurves) -> None:
    pmma = protonphysics.PMMA
    given = (override("REL_MASS_DENSITY", 1.19), override("ELEM_FRACTION", 0.0, PMMA_PAIRS))
    attenuation, electrons, density, ratio = override_photon_material(given, curves, "PMMA")
    # Z/A of PMMA is 0.53937, its mu/rho at 2 MeV 0.04801 cm2/g (NIST).
    assert attenuation == pytest.approx(1.19 * 0.04801 / 0.04942, rel=1e-3)
    assert electrons == pytest.approx(1.19 * 0.53937 / 0.55508, rel=1e-3)
    assert density == 1.19
    assert ratio == pytest.approx(photonphysics.water_dose_ratio(pmma, 1.19))
    higher = override_photon_material((*given, override("MEAN_EXCI_ENERGY", 90.0)), curves, "PMMA")
    assert higher[3] > ratio
    assert higher[:3] == (attenuation, electrons, density)


def test_electron_density_with_composition_gives_the_mass(curves: PhotonCurves) -> None:
    composition = override("ELEM_FRACTION", 0.0, PMMA_PAIRS)
    by_mass = override_photon_material((override("REL_MASS_DENSITY", 1.19), composition), curves, "PMMA")
    by_electrons = override_photon_material((override("REL_ELEC_DENSITY", by_mass[1]), composition), curves, "PMMA")
    np.testing.assert_allclose(by_electrons, by_mass, rtol=1e-6)
    both = (override("REL_MASS_DENSITY", 1.19), override("REL_ELEC_DENSITY", 1.1), composition)
    assert override_photon_material(both, curves, "PMMA") == (by_mass[0], 1.1, by_mass[2], by_mass[3])


@pytest.mark.parametrize(("name", "index"), [("REL_ELEC_DENSITY", 1), ("REL_MASS_DENSITY", 2)])
def test_a_density_alone_takes_the_tissue_that_has_it(curves: PhotonCurves, name: str, index: int) -> None:
    for hu in (LUNG, 800):
        wanted = tissue(curves, hu)
        found = override_photon_material((override(name, float(wanted[index])),), curves, "ROI")
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert override_photon_material((override(name, 1.0),), curves, "ROI") == (1.0, 1.0, 1.0, 1.0)
    # Heavier than anything in the table: its last tissue, scaled.
    last = tissue(curves, 3071)
    found = override_photon_material((override(name, 4.5),), curves, "ROI")
    np.testing.assert_allclose(found, [*(4.5 * last[:3] / last[index]), last[3]], rtol=1e-6)
    assert override_photon_material((override(name, 0.0),), curves, "ROI")[:3] == (0.0, 0.0, 0.0)


def test_both_densities_are_kept(curves: PhotonCurves) -> None:
    both = (override("REL_MASS_DENSITY", 1.2), override("REL_ELEC_DENSITY", 1.15))
    found = override_photon_material(both, curves, "ROI")
    assert found[1:3] == (1.15, 1.2)
    assert found[0] == override_photon_material(both[1:], curves, "ROI")[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((override("REL_STOP_RATIO", 1.1),), "REL_STOP_RATIO says nothing about the attenuation of photons"),
        ((override("ELEM_FRACTION", 0.0, PMMA_PAIRS),), "says nothing about the attenuation"),
        ((override("REL_MASS_DENSITY", np.nan),), "REL_MASS_DENSITY of nan"),
        ((override("REL_MASS_DENSITY", 1.1), override("ELEM_FRACTION", 0, ((94, 1.0),))), "Z = 94"),
    ],
)
def test_overrides_without_material_meaning_are_refused(curves: PhotonCurves, given: tuple, message: str) -> None:
    with pytest.raises(MaterialError, match=f"structure 'X': .*{message}"):
        override_photon_material(given, curves, "structure 'X'")


def test_dose_factor_to_medium_and_to_water(curves: PhotonCurves, table: HuTable) -> None:
    hu = np.full(GRID.shape, SOFT)
    hu[:, :, :2], hu[:, :, 8:] = BONE, AIR
    maps = photon_maps(Volume(GRID, hu), table, mean_energy_mev=ENERGY_MEV)
    medium, water = maps.dose_factor(GRID, to_water=False), maps.dose_factor(GRID, to_water=True)
    for index, hounsfield in ((0, BONE), (5, SOFT), (9, AIR)):
        _, electrons, density, ratio = tissue(curves, hounsfield)
        assert medium[5, 5, index] == pytest.approx(electrons / density, rel=1e-6)
        assert water[5, 5, index] == pytest.approx(electrons / density * ratio, rel=1e-6)
    coarse = resampled_grid(GRID, (8.0, 8.0, 8.0))
    assert maps.dose_factor(coarse, to_water=False).shape == coarse.shape
    assert maps.dose_factor(coarse, to_water=False)[2, 2, 0] == pytest.approx(medium[5, 5, 0])


def test_dose_factor_of_a_vacuum_is_one(table: HuTable) -> None:
    vacuum = box(2, "ORGAN", (-20, 20), (override("REL_MASS_DENSITY", 0.0),))
    maps = maps_of(SOFT, table, box(1, "EXTERNAL", (-20, 20)), vacuum)
    np.testing.assert_array_equal(maps.dose_factor(GRID, to_water=False), 1.0)
