"""Importers: from files written here with known content, then from the reference data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from doseeng.errors import MachineError
from doseeng.machines.bortfeld import bragg_curve, bragg_range_mm, range_sigma_mm
from doseeng.machines.depthdose import DEPTH_FRACTION, GY_MM2_PER_1E9_PROTONS
from doseeng.machines.file import machine_hash, read_machine, write_machine
from doseeng.machines.importers import import_dcpt, import_matrad, import_mcsquare
from doseeng.machines.importers.dcpt import AIR_RSP, respread
from doseeng.machines.model import ProtonMachine

BDL = """--UPenn beam model (double gaussian)--
# a comment
Nozzle exit to Isocenter distance
410.0

SMX to Isocenter distance
2234.8
SMY to Isocenter distance
1859.1

Range Shifter parameters
RS_ID = RS1   # as in the plan
RS_type = binary
RS_density = 1.20
RS_WET = 74.1
RS_ID = RS2
RS_density = 1.0
RS_WET = 40

Beam parameters
3 energies

{table}"""
TWO_GAUSSIANS = """NominalEnergy MeanEnergy EnergySpread ProtonsMU Weight1 SpotSize1x Divergence1x Correlation1x \
SpotSize1y Divergence1y Correlation1y Weight2 SpotSize2x Divergence2x Correlation2x SpotSize2y Divergence2y \
Correlation2y
80 80.5 1.0 8e7 0.9 4 0.004 0.1 5 0.005 0.2 0.1 14 0.014 0.3 15 0.015 0.4
140 140.5 0.5 1e8 0.9 2 0.002 -0.1 3 0.003 -0.2 0.1 12 0.012 -0.3 13 0.013 -0.4
220 220.5 0.5 2e8 0.9 2 0.002 -0.1 3 0.003 -0.2 0.1 12 0.012 -0.3 13 0.013 -0.4
"""
ONE_GAUSSIAN = """NominalEnergy Correlation1y MeanEnergy EnergySpread ProtonsMU SpotSize1x Divergence1x Correlation1x \
SpotSize1y Divergence1y
80 0.2 80.5 1.0 8e7 4 0.004 0.1 5 0.005
140 0.2 140.5 1.0 8e7 4 0.004 0.1 5 0.005
"""


def bragg(depth: np.ndarray, energy: float) -> np.ndarray:
    r0 = float(bragg_range_mm(energy))
    return bragg_curve(depth, r0, float(range_sigma_mm(r0, energy, 0.006 * energy)))


@pytest.fixture
def depth_doses(tmp_path: Path) -> Path:
    """Curves of the mean energies 80.5 to 160.5, as a text table named by nominal energy."""
    nominal = np.arange(80.0, 161.0, 10.0)
    depth = np.arange(0.0, 230.0, 0.5)
    table = np.column_stack([depth, *(bragg(depth, e + 0.5) for e in nominal)])
    path = tmp_path / "idd.csv"
    np.savetxt(path, table, delimiter=",", header=",".join(["depth_mm", *(f"{e:g}" for e in nominal)]), comments="")
    return path


def bdl_file(folder: Path, table: str) -> Path:
    path = folder / "bdl.txt"
    path.write_text(BDL.format(table=table))
    return path


def test_mcsquare_beam_data(tmp_path: Path, depth_doses: Path) -> None:
    machine, notices = import_mcsquare(bdl_file(tmp_path, TWO_GAUSSIANS), depth_doses, name="M")
    np.testing.assert_array_equal(machine.energy_mev, np.arange(80.0, 161.0, 10.0))
    assert {n.code for n in notices} == {"energies-without-depth-dose", "analytic-halo"}
    assert "220 MeV left out" in str(notices[0])
    assert (machine.name, machine.source_distance_mm, machine.optics.plane_mm) == ("M", (2234.8, 1859.1), 410.0)
    assert [(r.id, r.wet_mm, r.density_gcm3) for r in machine.range_shifters] == [
        ("RS1", 74.1, 1.2),
        ("RS2", 40.0, 1.0),
    ]
    at110 = 3  # half-way between the rows of 80 and 140 MeV
    assert machine.mean_energy_mev[at110] == pytest.approx(110.5)
    assert machine.energy_spread_mev[0] == pytest.approx(0.8)
    assert machine.energy_spread_mev[at110] == pytest.approx(0.0075 * 110.0)
    assert machine.protons_per_mu[at110] == pytest.approx(9e7)
    np.testing.assert_allclose(machine.optics.weight, 0.1)
    np.testing.assert_allclose(machine.optics.sigma_mm[at110], [[3, 4], [13, 14]])
    np.testing.assert_allclose(machine.optics.divergence_rad[at110], [[0.003, 0.004], [0.013, 0.014]])
    np.testing.assert_allclose(machine.optics.correlation[0], [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_allclose(machine.range_mm, bragg_range_mm(machine.mean_energy_mev), atol=0.05)
    truth = bragg(DEPTH_FRACTION * machine.range_mm[at110], 110.5)
    assert np.max(np.abs(machine.idd[at110] - truth)) < 2e-3 * truth.max()


def test_mcsquare_single_gaussian_in_any_column_order(tmp_path: Path, depth_doses: Path) -> None:
    machine, _ = import_mcsquare(bdl_file(tmp_path, ONE_GAUSSIAN), depth_doses)
    assert machine.energy_mev[-1] == 140.0
    assert np.all(machine.optics.weight == 0.0)
    np.testing.assert_allclose(machine.optics.correlation[0], [[0.1, 0.2], [0.1, 0.2]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("80 80.5 1.0", "80 80.5"), r"bdl\.txt line 24: 17 values, but the header has 18"),
        (lambda t: t.replace("80 80.5 1.0", "80 80.5 one"), r"line 24: 'one' is not a number"),
        (lambda t: t.replace("ProtonsMU", "Protons"), "header lacks ProtonsMU"),
        (lambda t: t.replace("Weight2", "W2"), "header lacks Weight2"),
        (lambda t: t.replace("SMX to Isocenter distance\n2234.8\n", ""), "missing: smx_mm"),
        (lambda t: t.replace("SMX to", "Source to"), r"line 6: 'Source to Isocenter distance' is not part"),
        (lambda t: t.replace("RS_type = binary", "RS_type = analog"), "RS1: RS_type 'analog' is not supported"),
        (lambda t: t.replace("140 140.5", "80 140.5"), "a nominal energy occurs twice"),
        (lambda t: t.split("80 80.5")[0], "has no rows"),
    ],
)
def test_mcsquare_bad_lines_are_named(
    tmp_path: Path, depth_doses: Path, edit: Callable[[str], str], message: str
) -> None:
    path = bdl_file(tmp_path, TWO_GAUSSIANS)
    path.write_text(edit(path.read_text()))
    with pytest.raises(MachineError, match=message):
        import_mcsquare(path, depth_doses)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth,80,90\n0,1,2\n", "first line must be a header 'depth_mm'"),
        ("depth_mm,80,90\n0,1,2\n1,1\n", "line 3: 2 values"),
        ("depth_mm,80,90\n0,1,2\n1,1,x\n", "line 3: 'x' is not a number"),
        ("depth_mm,80,90\n", "has no rows"),
        ("depth_mm 80\n" + "\n".join(f"{i} 1" for i in range(20)), "does not fall to 80%"),
    ],
)
def test_bad_depth_dose_text_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "idd.txt"
    path.write_text(text)
    with pytest.raises(MachineError, match=message):
        import_mcsquare(bdl_file(tmp_path, TWO_GAUSSIANS), path)


def test_mcsquare_reference_ranges_against_independent_energies(data_dir: Path) -> None:
    """Interpolated depth doses against Monte Carlo at energies the table does not hold."""
    folder = data_dir / "proton_mc"
    machine, _ = import_mcsquare(folder / "BDL_DN.txt", folder / "commissioning_DN.npz")
    truth, _ = import_mcsquare(folder / "BDL_DN.txt", folder / "idd_fine_DN.npz")
    common = np.isin(truth.energy_mev, machine.energy_mev)
    assert np.sum(common) == len(machine.energy_mev)
    np.testing.assert_allclose(machine.range_mm, truth.range_mm[common], atol=0.1)
    peak = truth.idd[common].max(axis=1, keepdims=True)
    assert np.max(np.abs(machine.idd - truth.idd[common]) / peak) < 0.02


def mat_file(path: Path, *, double: bool = True, particle: str = "protons") -> Path:
    """A matRad file of Bragg curves whose spot in air is an exact drift of 4 mm, 3 mrad, correlation -0.3."""
    z = np.linspace(0.0, 2000.0, 9)
    size = np.sqrt(16.0 + 2 * -0.3 * 4.0 * 3e-3 * z + (3e-3 * z) ** 2)
    data = []
    for energy in (100.0, 120.0, 150.0):
        depth = np.arange(0.0, 1.2 * float(bragg_range_mm(energy)), 0.25)
        row = {
            "energy": energy,
            "range": float(bragg_range_mm(energy)),
            "depths": depth,
            "Z": bragg(depth, energy) / GY_MM2_PER_1E9_PROTONS,
            "offset": 0.0,
            "energySpectrum": {"type": "gaussian", "mean": energy - 0.5, "sigma": 0.8},
            "initFocus": {"dist": z + 9000.0, "sigma": size},
        }
        if double:
            row |= {"sigma1": depth * 0.01, "sigma2": 20.0 + 0.1 * depth, "weight": depth / 1000.0}
        data.append(row)
    meta = {"name": "Test", "radiationMode": particle, "SAD": 10000.0, "created_on": "today"}
    savemat(path, {"machine": {"meta": meta, "data": np.array(data, dtype=object)}})
    return path


def test_matrad_double_gaussian(tmp_path: Path) -> None:
    machine, notices = import_matrad(mat_file(tmp_path / "protons_Test.mat"))
    assert notices == []
    assert (machine.name, machine.version, machine.source) == ("matRad Test", "today", "protons_Test.mat")
    np.testing.assert_array_equal(machine.protons_per_mu, 1e6)
    np.testing.assert_allclose(machine.energy_spread_mev, 0.008 * (machine.energy_mev - 0.5))
    np.testing.assert_allclose(machine.range_mm, bragg_range_mm(machine.energy_mev), atol=0.05)
    truth = bragg(DEPTH_FRACTION * machine.range_mm[1], 120.0)
    assert np.max(np.abs(machine.idd[1] - truth)) < 1e-3 * truth.max()
    assert machine.optics.plane_mm == pytest.approx(1000.0)
    np.testing.assert_allclose(machine.optics.sigma_mm, 4.0, rtol=1e-4)
    np.testing.assert_allclose(machine.optics.divergence_rad, 3e-3, rtol=1e-4)
    np.testing.assert_allclose(machine.optics.correlation, -0.3, rtol=1e-3)
    depth = machine.halo.depth_fraction * machine.range_mm[2]
    np.testing.assert_allclose(machine.halo.fraction[2], depth / 1000.0, atol=1e-9)
    np.testing.assert_allclose(machine.halo.sigma_mm[2], 20.0 + 0.1 * depth, atol=1e-6)


def test_matrad_single_gaussian_gets_an_analytic_halo(tmp_path: Path) -> None:
    machine, notices = import_matrad(mat_file(tmp_path / "m.mat", double=False))
    assert [n.code for n in notices] == ["analytic-halo"]
    # Soukup 2005 at z = 10 cm, R = 15.6 cm: a few percent, some 3 cm wide.
    i = int(np.argmin(np.abs(machine.halo.depth_fraction * machine.range_mm[2] - 100.0)))
    assert 0.005 < machine.halo.fraction[2, i] < 0.05
    assert 30.0 < machine.halo.sigma_mm[2, i] < 40.0


def test_matrad_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="radiationMode is 'carbon', expected 'protons'"):
        import_matrad(mat_file(tmp_path / "c.mat", particle="carbon"))
    with pytest.raises(MachineError, match="focus 1 not found at 100 MeV; the file has 1"):
        import_matrad(mat_file(tmp_path / "m.mat"), focus=1)
    savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(MachineError, match="no variable 'machine'"):
        import_matrad(tmp_path / "other.mat")
    (tmp_path / "text.mat").write_text("not a mat file")
    with pytest.raises(MachineError, match=r"text\.mat: cannot read"):
        import_matrad(tmp_path / "text.mat")


DCPT = """#"DCPT beam model",,,,,,,,,
#"BMODPOS 600.0 mm",,,,,,,,,
#"Energy nominal [MeV]","# E real [MeV]","# E real sigma [MeV]","# protons/MU","# sigma x [mm]","# sigma y [mm]",\
"# sigma x' [rad]","# sigma y' [rad]","# cor(x x')","# cor(y y')"
"""


def dcpt_file(path: Path, spread: float = 0.006) -> Path:
    rows = [
        f"{e:.1f},{e + 0.5:.3f},{spread * (e + 0.5):.5f},{1000 * e},4,5,0.004,0.005,0.1,0.2"
        for e in np.arange(70, 230, 0.5)
    ]
    path.write_text(DCPT + "\n".join(rows) + "\n")
    return path


def test_dcpt_takes_depth_doses_of_the_base_at_the_real_energy(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    machine, notices = import_dcpt(
        dcpt_file(tmp_path / "dcpt.csv"), base=bragg_machine, source_distance_mm=(2000.0, 2500.0), step_mev=4.0
    )
    assert [n.code for n in notices] == ["depth-dose-of-base", "energies-without-depth-dose"]
    assert machine.energy_mev[0] == 79.5
    assert machine.energy_mev[-1] == 199.5
    assert np.diff(machine.energy_mev).max() == 4.0
    np.testing.assert_allclose(machine.mean_energy_mev, machine.energy_mev + 0.5)
    np.testing.assert_allclose(machine.protons_per_mu, 1000 * machine.energy_mev)
    assert np.all(machine.optics.weight == 0.0)
    assert (machine.optics.plane_mm, machine.source_distance_mm) == (600.0, (2000.0, 2500.0))
    np.testing.assert_allclose(machine.optics.sigma_mm[3], [[4, 5], [4, 5]])
    np.testing.assert_allclose(machine.optics.correlation[3], [[0.1, 0.2], [0.1, 0.2]])
    air_mm = AIR_RSP * (600.0 - 410.0)
    np.testing.assert_allclose(machine.range_mm, bragg_range_mm(machine.mean_energy_mev) - air_mm, atol=0.05)
    np.testing.assert_allclose(machine.idd[0], bragg_machine.idd[0], rtol=1e-5, atol=2e-3 * bragg_machine.idd[0].max())


@pytest.mark.parametrize("spread", [0.002, 0.006, 0.012])
def test_dcpt_respreads_the_peak(bragg_machine: ProtonMachine, tmp_path: Path, spread: float) -> None:
    machine, _ = import_dcpt(
        dcpt_file(tmp_path / "dcpt.csv", spread), base=bragg_machine, source_distance_mm=(2000.0, 2500.0), step_mev=10.0
    )
    for i, energy in enumerate(machine.mean_energy_mev):
        r0 = float(bragg_range_mm(energy))
        truth = bragg_curve(DEPTH_FRACTION * r0, r0, float(range_sigma_mm(r0, energy, spread * energy)))
        assert np.max(np.abs(machine.idd[i] - truth)) < 0.012 * truth.max()


def test_respreading_there_and_back_is_the_identity_above_the_held_tail() -> None:
    r0 = 150.0
    idd = bragg_curve(DEPTH_FRACTION * r0, r0, 2.0) * (1.0 + 0.1 * DEPTH_FRACTION)
    back = respread(DEPTH_FRACTION, respread(DEPTH_FRACTION, idd, r0, 2.0, 3.0), r0, 3.0, 2.0)
    np.testing.assert_allclose(back, idd, atol=2e-3 * idd.max())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("BMODPOS", "PLANE"), "no line 'BMODPOS"),
        (lambda t: t.replace("protons/MU", "MU"), "columns are"),
        (lambda t: t.replace("90.0,90.500", "90.0"), r"dcpt\.csv line 44: 9 values, expected 10"),
        (lambda t: t.replace("90.0,90.500", "90.0,ninety"), r"line 44: could not convert"),
    ],
)
def test_dcpt_wrong_files_are_named(
    bragg_machine: ProtonMachine, tmp_path: Path, edit: Callable[[str], str], message: str
) -> None:
    path = dcpt_file(tmp_path / "dcpt.csv")
    path.write_text(edit(path.read_text()))
    with pytest.raises(MachineError, match=message):
        import_dcpt(path, base=bragg_machine, source_distance_mm=(2000.0, 2500.0))


def test_dcpt_reference_files_survive_the_machine_file(
    bragg_machine: ProtonMachine, unzipped: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = unzipped("dcpt_proton_slab") / "beam_model"
    for version, plane_mm in (("v2", 500.0), ("v5", 600.0)):
        path = folder / f"DCPT_beam_model__{version}.csv"
        machine, _ = import_dcpt(path, base=bragg_machine, source_distance_mm=(2000.0, 2500.0))
        assert machine.optics.plane_mm == plane_mm
        write_machine(machine, tmp_path / "m.toml")
        assert machine_hash(read_machine(tmp_path / "m.toml")) == machine_hash(machine)
