"""A patient of 16 x 16 x 12 voxels as DICOM files: a plan with its CT and structures, and a cone-beam CT of a day.

Small enough to be made in a moment and sent many times; complete, so that every reader takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread

from doseeng.case import DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.structures import Structure, StructureSet

IMAGES: Final = 12
GRID: Final = Grid((IMAGES, 16, 16), (4.0, 4.0, 4.0), (-30.0, -30.0, -22.0))
NAME: Final = "Quatermain^Zebulon"
PATIENT_ID: Final = "QZ-4711"
PLANNED: Final = datetime(2026, 1, 5, 8)
TREATED: Final = datetime(2026, 1, 6, 9)
MANUFACTURER: Final = "Varian Medical Systems"


@dataclass(frozen=True, slots=True)
class SmallPatient:
    """case: folder of plan, structure set and planning CT. cbct: folder of today's image, in a study of its own.

    secrets: pieces of name and ID, which must never turn up outside DICOM objects.
    """

    case: Path
    cbct: Path
    plan_uid: str
    ct_uid: str
    cbct_uid: str
    study_uid: str
    secrets: tuple[str, ...]

    @property
    def case_files(self) -> list[Path]:
        """Files of the case by name."""
        return sorted(self.case.glob("*.dcm"))

    @property
    def cbct_files(self) -> list[Path]:
        """Files of the day's image by name."""
        return sorted(self.cbct.glob("*.dcm"))


def write_small_patient(folder: Path, name: str = NAME, patient_id: str = PATIENT_ID) -> SmallPatient:
    """Write the patient below `folder`; every one has UIDs of its own."""
    case, cbct = folder / "case", folder / "cbct"
    case.mkdir(parents=True)
    cbct.mkdir()
    planned = _image(case, new_context(name, patient_id), PLANNED, "Planning CT", 0.0)
    square = np.array([(-12.0, -12.0), (12.0, -12.0), (12.0, 12.0), (-12.0, 12.0)])
    contours = tuple(np.column_stack([square, np.full(4, z)]) for z in (-6.0, -2.0, 2.0, 6.0))
    uid = planned.study["StudyInstanceUID"][:58]
    structures = StructureSet(
        "S", f"{uid}.2", planned.frame_of_reference_uid, (Structure(1, "CTV", "CTV", contours),), planned.series_uid
    )
    save(structure_set_to_dataset(structures, planned), case / "rs.dcm")
    one = np.ones(1)
    beam = ProtonBeam(1, "F1", "generic-pbs", (0.0, 0.0, 0.0), 0.0, 0.0, np.zeros((1, 2)), 90.0 * one, one)
    plan = Plan("P1", f"{uid}.1", "HFS", (beam,), (Prescription(1, 2.0),), structures.uid)
    save(ion_plan_to_dataset(plan, planned, source_distance_mm=(2234.8, 1859.1)), case / "rp.dcm")
    day = _image(cbct, new_context(name, patient_id), TREATED, "CBCT head", 10.0)
    secrets = (*name.split("^"), patient_id)
    study_uid = planned.study["StudyInstanceUID"]
    return SmallPatient(case, cbct, plan.uid, planned.series_uid, day.series_uid, study_uid, secrets)


def _image(folder: Path, context: DicomContext, acquired: datetime, description: str, hu: float) -> DicomContext:
    volume = Volume(GRID, np.full(GRID.shape, hu, dtype=np.float32))
    written = write_ct(folder, volume, context, acquired=acquired, series_description=description)
    for path in folder.glob("*.dcm"):
        dataset = dcmread(path)
        dataset.Manufacturer = MANUFACTURER
        save(dataset, path)
    return written
