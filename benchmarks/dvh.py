"""DVHs against planning systems: `python -m benchmarks.dvh DATA_DIR [--json]`.

DATA_DIR holds dicom/eclipse_prostate_dvh.zip (contours, dose and DVH tables of an Eclipse plan) and
dicom/breast_imrt_embedded_dvh.zip (an RTDOSE with nine embedded DVHs). Differences are doseeng minus planning system:
volumes in percent, doses in percent of the prescription. Eclipse states volumes to 0.1 cm3.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from doseeng.dicom.files import read_file
from doseeng.dicom.rtdose import dose_from, embedded_dvhs
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.dvh import sample_dose, sample_points
from doseeng.grid import Grid, Volume
from doseeng.metrics import evaluate_metric
from doseeng.structures import Structure

PRESCRIPTION_GY = {"eclipse_prostate_dvh": 46.0, "breast_imrt_embedded_dvh": 14.0}
METRICS = ("D95%", "D50%", "D2%", "Dmean")


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A cumulative DVH of a planning system: percent (n,) of volume_cm3 that receives at least dose_gy (n,)."""

    structure: Structure
    volume_cm3: float
    dose_gy: npt.NDArray[np.float64]
    percent: npt.NDArray[np.float64]

    def value(self, metric: str) -> float:
        """Dmean, or D at a volume percentage."""
        if metric == "Dmean":
            middle = (self.dose_gy[1:] + self.dose_gy[:-1]) / 2
            return float(np.sum(-np.diff(self.percent) * middle) / 100 + self.dose_gy[-1] * self.percent[-1] / 100)
        return float(np.interp(-float(metric[1:-1]), -self.percent, self.dose_gy))


def main(arguments: list[str] | None = None) -> int:
    """Print one row for each structure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dvh", description=__doc__)
    parser.add_argument("folder", type=Path, help="reference data, such as ../shared/data")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    rows = []
    for name, read in (("eclipse_prostate_dvh", read_eclipse), ("breast_imrt_embedded_dvh", read_breast)):
        with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(options.folder / "dicom" / f"{name}.zip") as z:
            z.extractall(unpacked)
            dose, references = read(Path(unpacked))
        rows += [compare(dose, reference, PRESCRIPTION_GY[name]) for reference in references]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        Console(width=150).print(_as_table(rows))
    return 0


def read_eclipse(folder: Path) -> tuple[Volume, list[Reference]]:
    """Dose (NRRD, LPS) and the DVH table that Eclipse exported."""
    image = sitk.ReadImage(str(next(folder.rglob("*_Dose.nrrd"))))
    dose = Volume(
        Grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), np.reshape(image.GetDirection(), (3, 3))),
        sitk.GetArrayFromImage(image),
    )
    with next(folder.rglob("*_DvhTable_Eclipse.csv")).open() as file:
        head, *lines = csv.reader(file)
    references = []
    for structure in structure_set_from(read_file(next(folder.rglob("RS*.dcm"))), "RTSTRUCT").structures:
        title = f"{structure.name.replace(' ', '')}_DvhArray Dose (Gy)"
        if title in head:
            column = head.index(title)
            table = np.array([line[column : column + 2] for line in lines if line[column]], dtype=float)
            cm3 = float(head[column + 1].split("% of ")[1].split()[0])
            references.append(Reference(structure, cm3, table[:, 0], table[:, 1]))
    return dose, references


def read_breast(folder: Path) -> tuple[Volume, list[Reference]]:
    """Dose and its embedded DVHs."""
    structures = structure_set_from(read_file(next(folder.rglob("rtss.dcm"))), "RTSTRUCT")
    dataset = read_file(next(folder.rglob("rtdose.dcm")))
    references = []
    for stored in embedded_dvhs(dataset):
        # The stored means show that the volume of a bin belongs to the middle of the bin.
        middle = (stored.dose_edges[1:] + stored.dose_edges[:-1]) / 2
        percent = 100 * stored.volume / stored.volume[0]
        references.append(Reference(structures.by_number(stored.roi_number), stored.volume[0], middle, percent))
    return dose_from(dataset, "RTDOSE").volume, references


def compare(dose: Volume, reference: Reference, prescription_gy: float) -> dict[str, float | str]:
    """Differences of one structure, and the seconds to make its points and to sample one dose."""
    start = time.perf_counter()
    points = sample_points(reference.structure, dose.grid.spacing_mm)
    made = time.perf_counter()
    samples = sample_dose(points, dose)
    done = time.perf_counter()
    row: dict[str, float | str] = {
        "structure": reference.structure.name,
        "system cm3": reference.volume_cm3,
        "doseeng cm3": samples.volume_cm3,
        "volume %": 100 * (samples.volume_cm3 / reference.volume_cm3 - 1),
    }
    for metric in METRICS:
        row[f"{metric} %Rx"] = 100 * (evaluate_metric(samples, metric) - reference.value(metric)) / prescription_gy
    return {**row, "points s": made - start, "dose s": done - made}


def _as_table(rows: list[dict[str, float | str]]) -> Table:
    table = Table(title="DVHs against planning systems (doseeng minus system)")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "structure" else "right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
