"""Photon speed beside peers: `python -m benchmarks.speed photon [--json]`.

Same machine, one engine after the other, only dose computation is timed: no imports, no file reading, no conversion of
the CT; every engine first computes something, so that none pays for compiling. Memory is the largest of the process.

* arc: a VMAT arc of 76 control points in an Alderson phantom, voxels of 3 mm, beside PyDoseRT with the preset that its
  authors made for that linac, and its faster convolution. It computes the whole CT (2.9 million voxels), doseeng the
  dose grid of the plan (0.95 million) with its generic machine. Gamma is against the dose of the planning system.
* field: an open field of 10 x 10 cm on a box of water of 30 cm, voxels of 3 mm, beside pyRadPlan's pencil beam, which
  takes the field as one bixel; as bixels of 5 mm it costs many times as much (`--bixels`).
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.cost import Cost, measured
from benchmarks.peers.pydosert_env import run_case
from benchmarks.peers.pyradplan_env import run_open_fields
from benchmarks.photon_case import Field, open_beam, phantom_maps, reference_photon_machine
from benchmarks.tg119 import MATRAD_HU, MATRAD_RSP
from doseeng.backend import Materials
from doseeng.case import Case
from doseeng.cpu import cpu
from doseeng.dicom.case import read_case
from doseeng.dicom.files import opened_folder
from doseeng.engine import EngineSettings, Prepared, prepare, scenario_dose
from doseeng.gamma import gamma
from doseeng.grid import Volume, resample
from doseeng.photon import Algorithm, PhotonSettings, prepare_photon_beam

Row = dict[str, Any]

PRESET = "elekta_10MV"
PEER_ENGINES = ("DoseEngine", "PencilDepthEngine")
MACHINE = "generic-10mv"
VOXEL_MM = 3.0
FIELD = Field("water", "mohan6", 100.0)
BIXEL_MM = 5.0
NEAR_MM = 15.0
"""Doses are compared within so far of the isocentre: inside the target, where interpolation changes little."""


def report(data: Path, as_json: bool, with_bixels: bool) -> int:
    """Run both plans and print what they cost."""
    rows = {"arc": arc(data / "dicom" / "alderson_vmat.zip"), "field": field(with_bixels)}
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for title, of_plan in rows.items():
        Console(width=130).print(_as_table(title, of_plan))
    return 0


def arc(path: Path) -> list[Row]:
    """The arc with both engines of PyDoseRT and both algorithms of doseeng."""
    with opened_folder(path) as folder:
        case = read_case(folder)
        peers = [(engine, *run_case(folder, PRESET, engine, VOXEL_MM)) for engine in PEER_ENGINES]
    reference = next(dose.volume for dose in case.doses if not dose.beam_numbers)
    (beam,) = case.plan.photon_beams
    isocenter_mm = beam.isocenter_mm[0]
    rows = [
        _row(Cost(f"PyDoseRT {name}", **cost), Volume(dose.grid, beam.fractions * dose.values), reference, isocenter_mm)
        for name, dose, cost in peers
    ]
    for algorithm in Algorithm:
        scenario_dose(_prepared(case, algorithm))  # compiles kernels, or loads them from the cache
        fresh = _prepared(case, algorithm)
        dose, cost = measured(f"doseeng {algorithm.value}", partial(scenario_dose, fresh))
        rows.append(_row(cost, dose.volume, reference, isocenter_mm))
    return rows


def _prepared(case: Case, algorithm: Algorithm) -> Prepared:
    return prepare(case, machine=MACHINE, settings=EngineSettings(photon=PhotonSettings(algorithm)))


def _row(cost: Cost, dose: Volume, reference: Volume, isocenter_mm: npt.NDArray[np.float64]) -> Row:
    row = _cost_row(cost)
    for percent, distance in ((3, 3), (2, 2)):
        result = gamma(reference, dose, dose_percent=percent, distance_mm=distance)
        row[f"γ {percent} %/{distance} mm %"] = round(result.pass_rate_percent, 2)
    index = np.moveaxis(np.indices(reference.grid.shape)[::-1], 0, -1)
    near = np.linalg.norm(reference.grid.to_patient(index) - isocenter_mm, axis=-1) < NEAR_MM
    found, expected = resample(dose, reference.grid, 0.0).values[near], reference.values[near]
    row["ratio at isocentre"] = round(float(found.sum() / expected.sum()), 4)
    return row


def field(with_bixels: bool) -> list[Row]:
    """The open field with pyRadPlan and both algorithms of doseeng."""
    maps = phantom_maps(FIELD.phantom, FIELD.quality, (VOXEL_MM,) * 3)
    grid = maps.attenuation.grid
    hu = Volume(grid, np.interp(maps.electron_density.values, MATRAD_RSP, MATRAD_HU).astype(np.float32))
    rows = []
    for bixel_mm in (0.0, BIXEL_MM) if with_bixels else (0.0,):
        _, cost = run_open_fields(hu, (FIELD.side_mm,), bixel_mm)
        name = f"pyRadPlan, bixels of {bixel_mm:g} mm" if bixel_mm else "pyRadPlan, one bixel"
        rows.append(_cost_row(Cost(name, cost["wall_s"][0], cost["cpu_s"][0], cost["peak_mb"])))
    backend, machine = cpu(), reference_photon_machine(FIELD.quality)
    materials = Materials(backend.put(maps.attenuation.values), backend.put(maps.electron_density.values))
    for algorithm in Algorithm:
        settings = PhotonSettings(algorithm)

        def compute(settings: PhotonSettings = settings) -> None:
            beam = open_beam(FIELD)
            prepare_photon_beam(beam, machine, maps, grid, "HFS", settings, backend, materials).dose()

        compute()  # compiles kernels, or loads them from the cache
        rows.append(_cost_row(measured(f"doseeng {algorithm.value}", compute)[1]))
    return rows


def _cost_row(cost: Cost) -> Row:
    return {
        "engine": cost.name,
        "wall s": round(cost.wall_s, 2),
        "CPU s": round(cost.cpu_s, 2),
        "peak MB": round(cost.peak_mb),
    }


def _as_table(title: str, rows: list[Row]) -> Table:
    table = Table(title=f"Photon speed: {title}")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
