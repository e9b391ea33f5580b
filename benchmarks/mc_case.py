"""Monte Carlo reference cases: the `.npz` files of `proton_mc/` as beams, materials and doses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reference import DATA
from doseeng import protonphysics
from doseeng.grid import Grid, Volume
from doseeng.machines.commission import commission_proton
from doseeng.machines.model import ProtonMachine
from doseeng.materials import HU_MIN, HuTable, MaterialMaps
from doseeng.plan import ProtonBeam, RangeShifter

SYMBOLS = {
    "hydrogen": "H", "carbon": "C", "nitrogen": "N", "oxygen": "O", "phosphorus": "P", "calcium": "Ca", "sodium": "Na",
    "magnesium": "Mg", "sulfur": "S", "chlorine": "Cl", "argon": "Ar", "potassium": "K",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class McCase:
    """One reference: beam, materials, dose; density (z, y, x) g/cm3; rel_unc (z, y, x) 1 sigma of the mean / dose."""

    name: str
    beam: ProtonBeam
    maps: MaterialMaps
    dose: Volume
    density: np.ndarray
    rel_unc: np.ndarray

    @property
    def is_single_spot(self) -> bool:
        """True when the case is one spot in water."""
        return len(self.beam.spot_mu) == 1


def is_case_file(path: Path) -> bool:
    """True for an .npz of the case format (it holds dose_gy, hu and spots)."""
    with np.load(path, allow_pickle=False) as data:
        return {"dose_gy", "hu", "spots", "isocenter_xyz"} <= set(data.files)


def read_mc_case(path: Path, table: HuTable) -> McCase:
    """One case file with its materials from `table`."""
    with np.load(path, allow_pickle=False) as data:
        d: dict[str, Any] = {key: data[key] for key in data.files}
    grid = Grid(d["dose_gy"].shape, tuple(d["spacing_xyz"]), tuple(d["origin_xyz"]))
    index = np.clip(d["hu"].astype(int) - HU_MIN, 0, len(table.rsp) - 1)
    shifter = d.get("range_shifter", np.empty(0))
    spots = d["spots"].astype(float)
    beam = ProtonBeam(
        1, path.stem, "benchmark", tuple(d["isocenter_xyz"]), float(d["gantry"]), float(d["couch"]),
        spots[:, 1:3], spots[:, 0], spots[:, 3],
        range_shifter=RangeShifter("RS", *(float(v) for v in shifter)) if shifter.size else None,
    )  # fmt: skip
    maps = MaterialMaps(Volume(grid, table.rsp[index]), Volume(grid, table.scattering[index]))
    return McCase(
        path.stem, beam, maps, Volume(grid, d["dose_gy"]), table.density_gcm3[index], d["rel_unc"].astype(np.float32)
    )


def find_tables(folder: Path) -> Path:
    """The folder that holds the beam data and HU table: the case folder itself, or the reference data's."""
    fallback = DATA / "proton_mc"
    for candidate in (folder, fallback):
        if (candidate / "hu_tables.npz").is_file() and list(candidate.glob("BDL*.txt")):
            return candidate
    raise SystemExit(f"no BDL*.txt and hu_tables.npz in {folder} or {fallback}")


def reference_machine(tables: Path) -> ProtonMachine:
    """The machine of the reference doses, commissioned from its beam data and water scans."""
    beam_data = next(iter(sorted(tables.glob("BDL*.txt"))))
    scans = next(iter(sorted(tables.glob("commissioning*.npz"))))
    machine, _, _ = commission_proton(beam_data, scans, "reference")
    return machine


def reference_hu_table(tables: Path) -> HuTable:
    """The HU table of the reference doses; scattering from the composition of each material label."""
    materials = json.loads((tables / "materials_used.json").read_text(encoding="utf-8"))
    scattering = {
        int(label): protonphysics.relative_scattering_power(
            1.0, {SYMBOLS[name]: percent / 100.0 for name, percent in entry["mass_percent"]}
        )
        for label, entry in materials.items()
    }
    with np.load(tables / "hu_tables.npz", allow_pickle=False) as data:
        density, rsp, label = data["density"], data["rsp"], data["material"]
    power = np.array([scattering[int(m)] for m in label]) * density
    return HuTable("reference", "1", density, rsp, power.astype(np.float32))
