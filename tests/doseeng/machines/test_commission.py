"""Commissioning: a halo that profiles were made with comes back, and the shipped machine is what the data give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

from doseeng.errors import MachineError
from doseeng.layers import TAIL_SHARE, TAIL_WIDTH
from doseeng.machines.commission import (
    HALO_END,
    HALO_NODES,
    WaterProfiles,
    commission_proton,
    fit_halo,
    read_water_profiles,
)
from doseeng.machines.depthdose import distal_range_mm
from doseeng.machines.file import read_machine
from doseeng.machines.importers import import_mcsquare
from doseeng.machines.library import SHIPPED
from doseeng.machines.lookup import depth_dose_at, optics_variance, water_scatter_variance
from doseeng.machines.model import Halo, ProtonMachine

ENERGIES = (100.0, 140.0)
BIN_MM, HALF_MM = 4.0, 80.0


def true_halo(machine: ProtonMachine) -> Halo:
    """Share rising from 3 to 15 % over 80 % of the range and zero at its end, width from 8 to 25 mm."""
    nodes = np.append(HALO_NODES, HALO_END)
    share = np.append(0.03 + 0.15 * np.minimum(HALO_NODES, 0.8), 0.0)
    sigma = 8.0 + 17.0 * np.minimum(nodes, HALO_NODES[-1])
    n = len(machine.energy_mev)
    return Halo(nodes, np.tile(share, (n, 1)), np.tile(sigma, (n, 1)))


def scans(machine: ProtonMachine, halo: Halo) -> WaterProfiles:
    """Profiles of the two-Gaussian beam with this halo, integrated over bins of the scanned box.

    Primaries scatter in water with a tail beside the core.
    """
    depth = np.arange(2.5, 160.0, 5.0)
    lateral = np.arange(-HALF_MM + BIN_MM / 2, HALF_MM, BIN_MM)
    edges = np.append(lateral - BIN_MM / 2, HALF_MM)
    x, y = np.zeros((2, len(ENERGIES), len(depth), len(lateral)))
    for n, energy in enumerate(ENERGIES):
        row = int(np.searchsorted(machine.energy_mev, energy))
        fraction = depth / machine.range_mm[row]
        share = np.interp(fraction, halo.depth_fraction, halo.fraction[row])
        sigma = np.interp(fraction, halo.depth_fraction, halo.sigma_mm[row])
        wide = machine.optics.weight[row]
        for d in np.flatnonzero(fraction < 1.02):
            idd = float(depth_dose_at(machine, energy, depth[d : d + 1])[0])
            scatter = water_scatter_variance(machine, energy, depth[d : d + 1])[0]
            for gaussian, weight in ((0, 1.0 - wide), (1, wide)):
                optics = optics_variance(machine, np.array([energy]), gaussian, -depth[d : d + 1])[0, 0]
                primary = 1.0 - share[d]
                for part, extra in (
                    (primary * (1.0 - TAIL_SHARE), scatter),
                    (primary * TAIL_SHARE, scatter * TAIL_WIDTH**2),
                    (share[d], sigma[d] ** 2),
                ):
                    bins = [np.diff(ndtr(edges / np.sqrt(v + extra))) for v in optics]
                    x[n, d] += weight * part * idd * bins[0] * bins[1].sum() / BIN_MM
                    y[n, d] += weight * part * idd * bins[1] * bins[0].sum() / BIN_MM
    return WaterProfiles(np.array(ENERGIES), depth, lateral, x, y, 2.5)


def test_a_known_halo_is_recovered(bragg_machine: ProtonMachine) -> None:
    halo = true_halo(bragg_machine)
    told = []
    fitted, residuals = fit_halo(
        bragg_machine, scans(bragg_machine, halo), lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
    rows = np.searchsorted(bragg_machine.energy_mev, ENERGIES)
    # The ends of the depth axis have few profiles; the smoothness keeps them near their neighbours.
    inner = slice(1, 8)
    np.testing.assert_allclose(fitted.halo.fraction[rows, inner], halo.fraction[rows, inner], atol=0.01)
    np.testing.assert_allclose(fitted.halo.sigma_mm[rows, inner], halo.sigma_mm[rows, inner], rtol=0.1)
    # Secondaries stop before primaries do.
    assert fitted.halo.depth_fraction[-1] == HALO_END
    assert not fitted.halo.fraction[:, -1].any()
    np.testing.assert_array_equal(fitted.halo.sigma_mm[:, -1], fitted.halo.sigma_mm[:, -2])
    assert [r.energy_mev for r in residuals] == list(ENERGIES)
    assert all(r.profile_percent < 0.2 for r in residuals)
    # Energies between and beyond those with profiles take what lies next to them.
    between = np.searchsorted(bragg_machine.energy_mev, 120.0)
    np.testing.assert_allclose(fitted.halo.fraction[between], fitted.halo.fraction[rows].mean(axis=0))
    np.testing.assert_array_equal(fitted.halo.fraction[0], fitted.halo.fraction[rows[0]])
    np.testing.assert_array_equal(fitted.halo.sigma_mm[-1], fitted.halo.sigma_mm[rows[1]])


def test_depth_doses_get_back_what_the_box_missed(bragg_machine: ProtonMachine) -> None:
    # What a box of +-80 mm captures of the depth dose is measured; the fit divides it out again.
    profiles = scans(bragg_machine, true_halo(bragg_machine))
    measured = profiles.x.sum(axis=2) * BIN_MM
    fitted, _ = fit_halo(bragg_machine, profiles)
    for n, energy in enumerate(ENERGIES):
        row = int(np.searchsorted(bragg_machine.energy_mev, energy))
        use = profiles.depth_mm < 0.9 * bragg_machine.range_mm[row]
        whole = depth_dose_at(bragg_machine, energy, profiles.depth_mm[use])
        missing = 1.0 - measured[n, use] / whole
        gained = depth_dose_at(fitted, energy, profiles.depth_mm[use]) / whole - 1.0
        np.testing.assert_allclose(gained, missing, atol=1e-3)
        assert missing.max() < 0.05


def test_unreadable_scans_name_file_and_array(tmp_path: Path) -> None:
    path = tmp_path / "scans.npz"
    path.write_text("not a zip")
    with pytest.raises(MachineError, match=r"scans\.npz: not a readable"):
        read_water_profiles(path)
    with pytest.raises(MachineError, match=r"none\.npz: not a readable"):
        read_water_profiles(tmp_path / "none.npz")
    arrays = {
        "energy_mev": np.array([100.0]),
        "profile_depth_mm": np.array([2.5, 7.5]),
        "lateral_mm": np.array([-1.0, 1.0]),
        "x_profile": np.ones((1, 2, 2)),
    }
    np.savez(path, **arrays)
    with pytest.raises(MachineError, match=r"scans\.npz: water scans need the array 'y_profile'; it holds energy_mev"):
        read_water_profiles(path)
    np.savez(path, **arrays, y_profile=np.ones((1, 2, 3)))
    with pytest.raises(MachineError, match=r"shapes \(1, 2, 2\) and \(1, 2, 3\), expected \(1, 2, 2\)"):
        read_water_profiles(path)


def test_the_shipped_machine_is_what_the_reference_data_give(data_dir: Path) -> None:
    folder = data_dir / "proton_mc"
    shipped = read_machine(SHIPPED / "generic-pbs.toml")
    imported, _ = import_mcsquare(folder / "BDL_DN.txt", folder / "commissioning_DN.npz", name="generic-pbs")
    for name in ("energy_mev", "mean_energy_mev", "energy_spread_mev", "range_mm", "protons_per_mu"):
        np.testing.assert_allclose(getattr(shipped, name), getattr(imported, name), rtol=1e-5, err_msg=name)
    for name in ("weight", "sigma_mm", "divergence_rad", "correlation"):
        given = getattr(imported.optics, name)
        np.testing.assert_allclose(getattr(shipped.optics, name), given, rtol=1e-5, atol=1e-9, err_msg=name)
    # The halo of three energies, fitted anew; a least-squares optimum has fewer digits than the arithmetic.
    scanned = read_water_profiles(folder / "commissioning_DN.npz")
    chosen = np.searchsorted(scanned.energy_mev, [70.0, 110.0, 150.0])
    part = replace(scanned, energy_mev=scanned.energy_mev[chosen], x=scanned.x[chosen], y=scanned.y[chosen])
    fitted, residuals = fit_halo(imported, part)
    rows = np.searchsorted(imported.energy_mev, part.energy_mev)
    np.testing.assert_allclose(shipped.halo.fraction[rows], fitted.halo.fraction[rows], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shipped.halo.sigma_mm[rows], fitted.halo.sigma_mm[rows], rtol=1e-3)
    np.testing.assert_allclose(shipped.idd[rows], fitted.idd[rows], rtol=1e-4, atol=1e-5)
    assert all(r.profile_percent < 0.5 and r.depth_dose_percent < 0.5 for r in residuals)


def test_commissioning_names_its_sources_and_keeps_the_measured_range(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "proton_mc"
    with np.load(folder / "commissioning_DN.npz") as data:
        arrays = {key: data[key] for key in data.files}
    three = np.searchsorted(arrays["energy_mev"], [70.0, 100.0])
    few = {k: v[three] if v.ndim and len(v) == len(arrays["energy_mev"]) else v for k, v in arrays.items()}
    np.savez(tmp_path / "few.npz", **few)
    machine, residuals, notices = commission_proton(folder / "BDL_DN.txt", tmp_path / "few.npz", "mine")
    assert machine.name == "mine"
    assert machine.source == "BDL_DN.txt + few.npz"
    assert len(residuals) == 2
    assert "analytic-halo" not in [n.code for n in notices]
    row = int(np.searchsorted(machine.energy_mev, 100.0))
    measured = distal_range_mm(arrays["depth_mm"], arrays["idd"][three[1]])
    assert machine.range_mm[row] == pytest.approx(measured, abs=0.3)
