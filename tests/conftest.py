"""Fixtures every package uses."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from cluster.cli import main
from doseeng.case import Case
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.engine import prepare, single_beam_dose
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.structures import Structure, StructureSet

ENERGIES_MEV = (102.0, 98.0, 94.0, 90.0, 86.0, 82.0, 78.0)
"""Peaks from 79 to 49 mm depth: round the CTV of the water case."""


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The reference data folder; tests that need it skip where it is absent."""
    path = Path(os.environ.get("DOSEENG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("reference data not found: set DOSEENG_DATA or put it in ../shared/data")
    return path


@pytest.fixture(scope="session")
def unzipped(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`unzipped("dcpt_proton_slab")`: the folder of one zip of `dicom/`, unpacked once per session."""
    done: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in done:
            archive = data_dir / "dicom" / f"{name}.zip"
            if not archive.is_file():
                pytest.skip(f"reference data has no dicom/{name}.zip")
            done[name] = tmp_path_factory.mktemp(name)
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(done[name])
        return done[name]

    return unpack


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        """What a program reads: standard output is JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def doseeng(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """`doseeng("dose", folder, ...)`: the command line, run in this process in `tmp_path`, no machines installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DOSEENG_MACHINES", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["doseeng", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class WaterCase:
    """A proton case in a box of water: two fields that cover a CTV, with the engine's own doses as the reference.

    secrets: pieces of the patient's name and ID, which must never turn up outside DICOM objects.
    """

    case: Case
    secrets: tuple[str, ...] = ("Quatermain", "Zebulon", "QZ-4711")

    def write(self, folder: Path, case: Case | None = None) -> Path:
        """Write `case` (by default the whole case as it is) as DICOM objects into a new folder."""
        case = case or self.case
        folder.mkdir(parents=True)
        context = write_ct(folder, case.ct, new_context("Quatermain^Zebulon", "QZ-4711"))
        structures = replace(
            case.structures,
            frame_of_reference_uid=context.frame_of_reference_uid,
            referenced_series_uid=context.series_uid,
        )
        save(structure_set_to_dataset(structures, context), folder / "rs.dcm")
        save(ion_plan_to_dataset(case.plan, context, source_distance_mm=(2234.8, 1859.1)), folder / "rp.dcm")
        for dose in case.doses:
            name = "".join(["rd", *map(str, dose.beam_numbers)])
            write_dose(folder / f"{name}.dcm", dose, context, case.plan)
        return folder


@pytest.fixture(scope="session")
def water_case() -> WaterCase:
    """12 x 12 x 9 cm of water in air, 4 mm voxels; 2 Gy to a CTV of 24 mm from gantry 0 and 90."""
    grid = Grid((30, 40, 40), (4.0, 4.0, 4.0), (-78.0, -78.0, -58.0))
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[4:26, 5:35, 5:35] = 0.0
    structures = StructureSet(
        "water",
        "1.2.826.0.1.3680043.10.4711.2",
        "",
        (
            Structure(1, "BODY", "EXTERNAL", _box((60.0, 60.0, 44.0), (0.0, 0.0, 0.0))),
            Structure(2, "CTV", "CTV", _box((12.0, 12.0, 12.0), (0.0, 0.0, 0.0))),
            Structure(3, "Cord", "ORGAN", _box((6.0, 6.0, 24.0), (-40.0, 40.0, 0.0))),
        ),
    )
    layers = tuple(_layer(number, energy) for number, energy in enumerate(ENERGIES_MEV))
    plan = Plan("W1", "1.2.826.0.1.3680043.10.4711.1", "HFS", layers, (Prescription(2, 2.0),), structures.uid)
    case = Case("water", Volume(grid, hu), structures, plan)
    by_layer = prepare(case, grid=grid)
    along = [
        single_beam_dose(by_layer, i).volume.values[13:17, 16:24, 18:22].mean(axis=(0, 2)) for i in range(len(layers))
    ]
    mu = nnls(np.column_stack(along), np.ones(8))[0]
    beams = tuple(_field(number, gantry, layers, mu) for number, gantry in ((1, 0.0), (2, 90.0)))
    prepared = prepare(replace(case, plan=replace(plan, beams=beams)), grid=grid)
    fields = [replace(single_beam_dose(prepared, i), plan_uid=plan.uid) for i in range(2)]
    total = Volume(grid, fields[0].volume.values + fields[1].volume.values)
    doses = (replace(fields[0], volume=total, summation="PLAN", beam_numbers=()), *fields)
    return WaterCase(replace(prepared.case, doses=doses))


def _box(half_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Contours on the CT slices of a box that ends half a slice beyond the outer ones."""
    x, y, z = centre_mm
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half_mm[:2] + (x, y)
    planes = z + np.arange(-half_mm[2] + 2.0, half_mm[2], 4.0)
    return tuple(np.column_stack([square, np.full(4, plane)]) for plane in planes)


def _layer(number: int, energy_mev: float) -> ProtonBeam:
    """One energy from gantry 0, 1 MU in each spot of a square of 48 mm."""
    side = np.arange(-24.0, 25.0, 6.0)
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    energy = np.full(len(uv), energy_mev)
    return ProtonBeam(number, "L", "generic-pbs", (0.0, 0.0, 0.0), 0.0, 0.0, uv, energy, np.ones(len(uv)))


def _field(number: int, gantry_deg: float, layers: tuple[ProtonBeam, ...], mu: np.ndarray) -> ProtonBeam:
    """All layers with their weights, from another side."""
    return replace(
        layers[0],
        number=number,
        name=f"F{number}",
        gantry_deg=gantry_deg,
        spot_uv_mm=np.concatenate([b.spot_uv_mm for b in layers]),
        spot_energy_mev=np.concatenate([b.spot_energy_mev for b in layers]),
        spot_mu=np.concatenate([b.spot_mu * w for b, w in zip(layers, mu, strict=True)]),
    )
