"""HU tables and overrides against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from doseeng import protonphysics
from doseeng.errors import MaterialError, StructureError
from doseeng.grid import Grid, Volume
from doseeng.materials import HU_MIN, HuTable, MaterialMaps, densities, material_maps, override_powers, read_hu_table
from doseeng.structures import PhysicalOverride, Structure, StructureSet

AIR, SOFT, BONE = -1000, 40, 1000

MINIMAL = """
format = "doseeng hu table 1"
name = "two points"
version = "7"

[density]
hu = [-1000, 1000]
g_cm3 = [0.0, 2.0]

[[composition]]
hu = -1024
percent = { H = 11.1894, O = 88.8106 }
"""
PMMA_PAIRS = ((1, 0.080538), (6, 0.599848), (8, 0.319614))


@pytest.fixture(scope="module")
def table() -> HuTable:
    return read_hu_table()


def at(values: np.ndarray, hu: int) -> float:
    return float(values[hu - HU_MIN])


def write(folder: Path, text: str) -> Path:
    path = folder / "clinic.toml"
    path.write_text(text, encoding="utf-8")
    return path


def override(name: str, value: float, composition: tuple[tuple[int, float], ...] = ()) -> PhysicalOverride:
    return PhysicalOverride(name, value, composition)


# A 40 x 40 x 40 mm image of 4 mm voxels centred on the origin.
GRID = Grid((10, 10, 10), (4.0, 4.0, 4.0), (-18.0, -18.0, -18.0))


def box(number: int, kind: str, x: tuple[float, float], overrides: tuple = (), name: str = "") -> Structure:
    """From x[0] to x[1], all of y and z; contours on every slice."""
    corners = [(x[0], -30.0), (x[1], -30.0), (x[1], 30.0), (x[0], 30.0)]
    contours = tuple(np.array([(u, v, z) for u, v in corners]) for z in np.arange(-22.0, 23.0, 4.0))
    return Structure(number, name or kind.title(), kind, contours, overrides=overrides)


def maps_of(hu: float, table: HuTable, *structures: Structure) -> MaterialMaps:
    image = Volume(GRID, np.full(GRID.shape, hu))
    return material_maps(image, table, StructureSet("S", "1", "2", structures) if structures else None)


def test_default_table_has_sensible_tissues(table: HuTable) -> None:
    assert at(table.density_gcm3, AIR) == pytest.approx(0.00121)
    assert at(table.rsp, AIR) == pytest.approx(0.00107, abs=2e-5)
    # ICRU 44 lung at a third of water: stopping power per density within 1 % of water.
    assert at(table.rsp, -700) / at(table.density_gcm3, -700) == pytest.approx(0.99, abs=0.01)
    assert at(table.rsp, SOFT) == pytest.approx(1.045, abs=0.01)
    assert at(table.rsp, BONE) == pytest.approx(1.46, abs=0.03)
    # Fat scatters less than water, bone more per stopping power: calcium and phosphorus.
    assert at(table.scattering, -90) / at(table.rsp, -90) < 0.9
    assert at(table.scattering, BONE) / at(table.rsp, BONE) > 1.3


def test_default_table_rises_except_where_it_is_published_to_fall(table: HuTable) -> None:
    # Schneider (2000) joins soft tissue and skeleton with a step from 1.120 down to 1.077 g/cm3 behind 100 HU; the
    # table's own water begins with one from 1.008 down to 1 behind -11 HU.
    falls = np.flatnonzero(np.diff(table.density_gcm3) < 0) + HU_MIN
    np.testing.assert_array_equal(falls, [-11, 100])
    for values in (table.density_gcm3, table.rsp, table.scattering):
        assert values.shape == (4096,)
        assert values.dtype == np.float32
        assert np.all(values > 0)


def test_default_table_holds_water_at_zero(table: HuTable) -> None:
    for values in (table.density_gcm3, table.rsp, table.scattering):
        np.testing.assert_allclose([at(values, hu) for hu in (-10, 0, 7)], 1.0, rtol=1e-6)


def test_table_from_file(tmp_path: Path) -> None:
    table = read_hu_table(write(tmp_path, MINIMAL))
    assert (table.name, table.version) == ("two points", "7")
    # Density H / 1000 + 1, all of it water; beyond the ends the ends hold.
    np.testing.assert_allclose([at(table.density_gcm3, h) for h in (-1024, -500, 0, 250, 3000)], [0, 0.5, 1, 1.25, 2])
    np.testing.assert_allclose(table.rsp, table.density_gcm3, rtol=1e-6)
    np.testing.assert_allclose(table.scattering, table.density_gcm3, rtol=1e-6)
    assert table.compositions[0][1]["O"] == pytest.approx(0.888106)


def test_a_measured_curve_replaces_stopping_power_alone(tmp_path: Path) -> None:
    table = read_hu_table(write(tmp_path, MINIMAL + "\n[rsp]\nhu = [-1000, 0, 1000]\nvalue = [0.0, 1.02, 1.6]\n"))
    assert at(table.rsp, -500) == pytest.approx(0.51)
    assert at(table.rsp, 1000) == pytest.approx(1.6)
    assert at(table.scattering, 1000) == pytest.approx(2.0)


def test_digest_tells_tables_apart(tmp_path: Path, table: HuTable) -> None:
    assert table.digest == read_hu_table("schneider-2000").digest
    assert read_hu_table(write(tmp_path, MINIMAL)).digest != table.digest
    changed = read_hu_table(write(tmp_path, MINIMAL.replace("2.0]", "2.01]"))).digest
    assert changed != read_hu_table(write(tmp_path, MINIMAL)).digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hu table 1", "hu table 2", r"format is 'doseeng hu table 2'"),
        ('format = "doseeng hu table 1"', "", "format is None"),
        ("version", "versoin", "unknown key 'versoin'"),
        ("[density]", "[densities]", "unknown key 'densities'"),
        ("g_cm3 =", "kg_m3 =", r"\[density\] must hold exactly"),
        ("[-1000, 1000]", "[-1000, 1000, 2000]", r"\[density\] needs two or more"),
        ("[-1000, 1000]", "[1000, -1000]", "ascending"),
        ("[-1000, 1000]", "[-1000, -1000]", "ascending"),
        ("[-1000, 1000]", "[-1000, nan]", r"\[density\] 'hu' must be a list of finite"),
        ("[-1000, 1000]", "-1000", r"\[density\] 'hu' must be a list"),
        ("[0.0, 2.0]", "[0.0, -2.0]", "not be negative, found -2"),
        ("[0.0, 2.0]", "[0.0, inf]", r"\[density\] 'g_cm3' must be a list of finite"),
        ("[0.0, 2.0]", '["0.0", "2.0"]', r"\[density\] 'g_cm3' must be a list of finite"),
        ("[0.0, 2.0]", "[0.0, [2.0]]", r"\[density\] 'g_cm3' must be a list of finite"),
        ("[[composition]]", "[composition]", r"no \[\[composition\]\]"),
        ("percent =", "percents =", r"composition\[0\] must hold 'hu' and 'percent'"),
        ("hu = -1024\n", "", r"composition\[0\] must hold 'hu' and 'percent'"),
        ("hu = -1024", 'hu = "air"', r"composition\[0\]\.hu is 'air'"),
        ("hu = -1024", "hu = -1024\ncolour = 3", r"composition\[0\] must hold"),
        ("H = 11.1894", "Hy = 11.1894", "unknown element 'Hy'"),
        ("H = 11.1894", 'H = "11"', r"composition\[0\]\.percent must give a number"),
        ("H = 11.1894", "H = -11.1894, N = 22.3788", r"composition\[0\]\.percent must give a number"),
        ("H = 11.1894", "H = 1.11894", "sums to 89.9"),
        ("{ H = 11.1894, O = 88.8106 }", "{}", "sums to 0"),
        ("{ H = 11.1894, O = 88.8106 }", "100", r"composition\[0\]\.percent must give"),
        ("name =", "name", "not a readable TOML file"),
    ],
)
def test_malformed_tables_name_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MINIMAL
    with pytest.raises(MaterialError, match=rf"clinic\.toml: .*{message}|clinic\.toml: {message}"):
        read_hu_table(write(tmp_path, MINIMAL.replace(old, new, 1)))


def test_malformed_measured_curve_and_repeated_composition(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match=r"\[rsp\] must hold exactly the arrays 'hu' and 'value'"):
        read_hu_table(write(tmp_path, MINIMAL + "\n[rsp]\nhu = [0, 1]\n"))
    again = MINIMAL[MINIMAL.index("[[composition]]") :]
    with pytest.raises(MaterialError, match=r"composition\[1\]\.hu is -1024"):
        read_hu_table(write(tmp_path, MINIMAL + again))


def test_unknown_and_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="'scanner-3' not found; shipped tables: schneider-2000"):
        read_hu_table("scanner-3")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe9"')
    with pytest.raises(MaterialError, match=r"latin\.toml: not a readable"):
        read_hu_table(path)


def test_maps_look_up_every_voxel(table: HuTable) -> None:
    hu = np.linspace(-1100, 3000, np.prod(GRID.shape)).reshape(GRID.shape)
    maps = material_maps(Volume(GRID, hu), table)
    for index in [(0, 0, 0), (3, 4, 5), (9, 9, 9)]:
        nearest = max(round(float(np.float32(hu[index]))), HU_MIN)
        assert maps.rsp.values[index] == at(table.rsp, nearest)
        assert maps.scattering.values[index] == at(table.scattering, nearest)
    assert maps.notices == ()


def test_metal_above_the_table_is_named(table: HuTable) -> None:
    hu = np.zeros(GRID.shape)
    hu[0, 0, :3] = 8000
    maps = material_maps(Volume(GRID, hu), table)
    assert [n.code for n in maps.notices] == ["hu-above-table"]
    assert "3 voxels" in maps.notices[0].message
    assert maps.rsp.values[0, 0, 0] == table.rsp[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_the_image_is_an_error(table: HuTable, bad: float) -> None:
    hu = np.zeros(GRID.shape)
    hu[1, 2, 3] = bad
    with pytest.raises(MaterialError, match="NaN or infinite HU"):
        material_maps(Volume(GRID, hu), table)


def test_outside_the_body_is_air(table: HuTable) -> None:
    maps = maps_of(SOFT, table, box(1, "EXTERNAL", (-10, 10), name="Skin"))
    # Voxel centres at -18, -14 ... 18: those at -6 to 6 lie inside whole, those at -10 and 10 by half.
    inside = np.abs(GRID.to_patient([(i, 0, 0) for i in range(10)])[:, 0]) <= 10
    np.testing.assert_array_equal(maps.rsp.values[5, 5] == at(table.rsp, SOFT), inside)
    np.testing.assert_array_equal(maps.rsp.values[5, 5] == at(table.rsp, AIR), ~inside)
    np.testing.assert_array_equal(maps.scattering.values[5, 5] == at(table.scattering, AIR), ~inside)
    [notice] = maps.notices
    assert (notice.code, notice.where) == ("material-outside-body", "Skin")
    # Four voxels of 0.064 cm3 on each of 100 lines.
    assert notice.message.startswith("26 cm3")


def test_air_outside_the_body_is_no_news(table: HuTable) -> None:
    assert maps_of(AIR, table, box(1, "EXTERNAL", (-10, 10))).notices == ()


@pytest.mark.parametrize("kind", ["SUPPORT", "FIXATION", "BOLUS", "support"])
def test_couch_and_bolus_stay(table: HuTable, kind: str) -> None:
    maps = maps_of(SOFT, table, box(1, "EXTERNAL", (-10, 10)), box(2, kind, (12, 20)))
    assert maps.rsp.values[5, 5, -1] == at(table.rsp, SOFT)
    assert maps.rsp.values[5, 5, 0] == at(table.rsp, AIR)


def test_without_a_body_everything_counts_and_a_notice_says_so(table: HuTable) -> None:
    maps = maps_of(SOFT, table, box(1, "PTV", (-10, 10)))
    assert [n.code for n in maps.notices] == ["no-external"]
    assert np.all(maps.rsp.values == at(table.rsp, SOFT))


def test_override_replaces_the_image_inside(table: HuTable) -> None:
    overrides = (override("REL_STOP_RATIO", 1.5),)
    maps = maps_of(SOFT, table, box(1, "EXTERNAL", (-20, 20)), box(2, "ORGAN", (0, 20), overrides, "Implant"))
    np.testing.assert_allclose(maps.rsp.values[5, 5, 5:], 1.5)
    np.testing.assert_array_equal(maps.rsp.values[5, 5, :5], at(table.rsp, SOFT))
    [notice] = maps.notices
    assert (notice.code, notice.where) == ("override", "Implant")
    assert "RSP 1.500" in notice.message


def test_an_inner_override_wins_over_the_body(table: HuTable) -> None:
    inner = box(1, "ORGAN", (0, 20), (override("REL_STOP_RATIO", 1.5),))
    body = box(2, "EXTERNAL", (-20, 20), (override("REL_MASS_DENSITY", 1.0),))
    maps = maps_of(300, table, inner, body)
    np.testing.assert_allclose(maps.rsp.values[5, 5], [1.0] * 5 + [1.5] * 5)


def test_override_of_a_structure_without_contour_is_refused(table: HuTable) -> None:
    empty = Structure(3, "Implant", "ORGAN", (), overrides=(override("REL_STOP_RATIO", 1.5),))
    with pytest.raises(StructureError, match="'Implant' has a density override but no contour"):
        maps_of(SOFT, table, box(1, "EXTERNAL", (-20, 20)), empty)


def test_mass_density_with_composition_uses_the_bethe_formula(table: HuTable) -> None:
    powers = override_powers(
        (override("REL_MASS_DENSITY", 1.19), override("ELEM_FRACTION", 0.0, PMMA_PAIRS)), table, "PMMA"
    )
    assert powers[0] == pytest.approx(protonphysics.relative_stopping_power(1.19, protonphysics.PMMA))
    assert powers[1] == pytest.approx(protonphysics.relative_scattering_power(1.19, protonphysics.PMMA))


def test_given_excitation_energy_and_stopping_ratio_take_precedence(table: HuTable) -> None:
    base = (override("REL_MASS_DENSITY", 1.19), override("ELEM_FRACTION", 0.0, PMMA_PAIRS))
    rsp, _ = override_powers((*base, override("MEAN_EXCI_ENERGY", 74.0)), table, "PMMA")
    assert rsp == pytest.approx(protonphysics.relative_stopping_power(1.19, protonphysics.PMMA, 74.0))
    rsp, scattering = override_powers((*base, override("REL_STOP_RATIO", 1.17)), table, "PMMA")
    assert rsp == 1.17
    assert scattering == pytest.approx(protonphysics.relative_scattering_power(1.19, protonphysics.PMMA))


def test_electron_density_with_and_without_excitation_energy(table: HuTable) -> None:
    plain, _ = override_powers((override("REL_ELEC_DENSITY", 1.2),), table, "ROI")
    assert plain == pytest.approx(1.2)
    # ln(2 m c^2 beta^2 gamma^2 / I) - beta^2 is 7.87 for water at 100 MeV.
    rsp, _ = override_powers((override("REL_ELEC_DENSITY", 1.2), override("MEAN_EXCI_ENERGY", 90.0)), table, "ROI")
    assert rsp == pytest.approx(1.2 * (1 - np.log(90 / 75) / 7.87), rel=1e-3)


@pytest.mark.parametrize("name", ["REL_MASS_DENSITY", "REL_ELEC_DENSITY", "REL_STOP_RATIO"])
def test_one_means_water(table: HuTable, name: str) -> None:
    assert override_powers((override(name, 1.0),), table, "ROI") == (1.0, 1.0)


def test_mass_density_alone_takes_the_tissue_of_that_density(table: HuTable) -> None:
    hu = 800
    rsp, scattering = override_powers((override("REL_MASS_DENSITY", at(table.density_gcm3, hu)),), table, "ROI")
    assert rsp == pytest.approx(at(table.rsp, hu))
    assert scattering == pytest.approx(at(table.scattering, hu))
    # Heavier than anything in the table: its last tissue, scaled.
    rsp, _ = override_powers((override("REL_MASS_DENSITY", 4.5),), table, "ROI")
    assert rsp == pytest.approx(4.5 * table.rsp[-1] / table.density_gcm3[-1])
    vacuum = override_powers((override("REL_MASS_DENSITY", 0.0),), table, "ROI")
    assert vacuum == (0.0, 0.0)


def test_a_table_that_begins_with_vacuum_divides_by_nothing(tmp_path: Path) -> None:
    table = read_hu_table(write(tmp_path, MINIMAL))
    assert override_powers((override("REL_MASS_DENSITY", 1e-5),), table, "ROI") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((override("EFFECTIVE_Z", 7.4),), "EFFECTIVE_Z says nothing about stopping power"),
        ((override("MEAN_EXCI_ENERGY", 75.0),), "says nothing about stopping power"),
        ((override("REL_MASS_DENSITY", np.nan),), "REL_MASS_DENSITY of nan"),
        ((override("REL_STOP_RATIO", -1.0),), "REL_STOP_RATIO of -1"),
        ((override("REL_MASS_DENSITY", 1.1), override("ELEM_FRACTION", 0, ((94, 1.0),))), "Z = 94"),
        ((override("REL_MASS_DENSITY", 1.1), override("ELEM_FRACTION", 0, ((1, 0.0),))), "must be positive"),
        ((override("REL_MASS_DENSITY", 1.1), override("ELEM_FRACTION", 0, ((1, -1.0), (8, 2.0)))), "must be positive"),
    ],
)
def test_overrides_without_material_meaning_are_refused(table: HuTable, overrides: tuple, message: str) -> None:
    with pytest.raises(MaterialError, match=f"structure 'X': .*{message}"):
        override_powers(overrides, table, "structure 'X'")


def test_densities_come_from_hu_alone():
    grid = Grid((1, 1, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    table = read_hu_table()
    found = densities(Volume(grid, np.array([[[-1000.0, 0.0, 9999.0]]], np.float32)), table).values[0, 0]
    assert found[0] < 0.01
    assert found[1] == pytest.approx(1.0, abs=0.02)
    assert found[2] == table.density_gcm3[-1]
