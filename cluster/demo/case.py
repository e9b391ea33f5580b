"""The demo case as the DICOM folder a planning system would export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydicom.uid import generate_uid

from cluster.demo.phantom import GRID, make_anatomy, make_ct, make_structures
from cluster.demo.treatment import MACHINE, PATIENT_POSITION, plan_treatment
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import save
from doseeng.engine import prepare, scenario_dose
from doseeng.machines.library import find_machine
from doseeng.structures import StructureSet

PATIENT_NAME: Final = "doseeng^demo"
PATIENT_ID: Final = "doseeng-demo"
STUDY_DATE: Final = "20250101"
LABEL: Final = "lung demo"
DOSE_COMMENT: Final = "synthetic demo case; dose computed by doseeng, not by a TPS"
"""Fits the 64 characters of a DICOM dose comment."""


def write_demo_case(folder: Path, progress: Callable[[str, int, int], None] | None = None) -> Path:
    """Write CT, structure set, RT Ion Plan and RT Dose of a synthetic lung patient into `folder`, and return it.

    The case is the same every time, identifiers of the image, structures, plan and dose included. The folder is made
    when it does not exist. progress: called with (stage, steps done, steps in all).
    """
    report = progress or (lambda stage, done, total: None)
    report("phantom", 0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    anatomy = make_anatomy()
    ct = make_ct(anatomy, GRID)
    context = write_ct(folder, ct, _context(), PATIENT_POSITION)
    structures = StructureSet(
        LABEL, _uid("structures"), context.frame_of_reference_uid, make_structures(anatomy, GRID), context.series_uid
    )
    report("phantom", 1, 1)
    plan = plan_treatment(ct, structures, LABEL, _uid("plan"), report)
    report("write", 0, 1)
    save(structure_set_to_dataset(structures, context), folder / "RS.dcm")
    distance = find_machine(MACHINE).source_distance_mm
    save(ion_plan_to_dataset(plan, context, source_distance_mm=distance), folder / "RN.dcm")
    dose = scenario_dose(prepare(Case(PATIENT_ID, ct, structures, plan, dicom=context)))
    write_dose(folder / "RD.dcm", replace(dose, uid=_uid("dose"), comment=DOSE_COMMENT), context, plan, LABEL)
    report("write", 1, 1)
    return folder


def _context() -> DicomContext:
    return DicomContext(
        frame_of_reference_uid=_uid("frame of reference"),
        patient={"PatientName": PATIENT_NAME, "PatientID": PATIENT_ID, "PatientBirthDate": "", "PatientSex": "O"},
        study={
            "StudyInstanceUID": _uid("study"),
            "StudyDate": STUDY_DATE,
            "StudyTime": "120000",
            "StudyID": "1",
            "StudyDescription": "synthetic lung patient",
        },
        series_uid=_uid("CT series"),
        image_sop_instance_uids=tuple(_uid(f"CT slice {k}") for k in range(GRID.shape[0])),
    )


def _uid(what: str) -> str:
    return str(generate_uid(entropy_srcs=["doseeng demo case 1", what]))
