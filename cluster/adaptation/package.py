"""What a planning system needs to replan on today's anatomy, as DICOM objects that refer to one another.

CT.0001.dcm ...  the image that today's dose was computed on: a CT series in a frame of reference of its own, the
                 treatment frame, in which the plan's isocentre holds
RS.dcm           the planned contours on today's anatomy
RD.dcm           today's dose, as if the whole course were given so, of the plan as it is
REG.dcm          deformable registration between the two images: where each point of today lies on the planning CT
README.txt, replan.json   why, and what has to be looked at before anyone plans on it
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydicom.uid import generate_uid

from cluster.adaptation.export import fraction_to_json
from cluster.adaptation.result import FractionReport
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.dicom.registration_out import deformable_registration_to_dataset
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import save
from doseeng.errors import ConfigError, DicomError

RECORD: Final = "replan.json"
"""By this file a folder is known as a package, which may be replaced when the day is evaluated again."""
DESCRIPTION: Final = "doseeng: today's anatomy"
README: Final = """\
Replan package made by doseeng, a research and quality-assurance tool. It does not release a treatment.

Plan '{plan}', image acquired {acquired:%Y-%m-%d %H:%M}, fraction {fraction} of {fractions}.
Verdict {verdict}:
{reasons}

CT.*.dcm   {method} image of the day; the isocentre of the plan holds in it
RS.dcm     planned contours, deformed to the day: unapproved, to be checked and corrected by a physician
RD.dcm     dose of the present plan on this image, for the whole course as if every fraction were like this one
REG.dcm    deformable registration to the planning CT
"""


def package_name(report: FractionReport) -> str:
    """The folder of one day: case and acquisition time, no identity."""
    return f"doseeng-replan-{report.case_key}-{report.acquired:%Y%m%d-%H%M}"


def require_package_place(folder: Path) -> None:
    """ConfigError when `folder` holds something else than a package made before."""
    if folder.exists() and not (folder.is_dir() and ((folder / RECORD).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"'{folder}' is no replan package made before, so it is not replaced; choose another place")


def write_package(report: FractionReport, case: Case, folder: Path) -> Path:
    """Write the package of a day into `folder` and return it; a package that is there already is replaced as a whole.

    DicomError: the case is not from DICOM, or the day has no image, contours, dose or registration (a day that could
    not be evaluated has none). ConfigError: the folder holds something else.
    """
    require_package_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    part.mkdir()
    try:
        _write_objects(report, case, part)
        _write_why(report, part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write_objects(report: FractionReport, case: Case, folder: Path) -> None:
    image, structures, dose, registration = report.image, report.structures, report.dose, report.registration
    if image is None or structures is None or dose is None or registration is None:
        raise DicomError(
            f"the day of {report.acquired:%Y-%m-%d %H:%M} has no image, contours, dose or registration to write: "
            "it could not be evaluated"
        )
    planning = case.dicom
    if planning is None:
        raise DicomError("the case was not read from DICOM; there is no patient and study to write a package for")
    context = write_ct(
        folder,
        image,
        DicomContext(str(generate_uid()), planning.patient, planning.study),
        case.plan.patient_position,
        acquired=report.acquired,
        series_description=DESCRIPTION,
    )
    here = replace(
        structures,
        label=f"today {report.acquired:%Y%m%d}",
        uid="",
        frame_of_reference_uid=context.frame_of_reference_uid,
        referenced_series_uid=context.series_uid,
    )
    save(structure_set_to_dataset(here, context), folder / "RS.dcm")
    write_dose(folder / "RD.dcm", replace(dose, uid=""), context, case.plan, DESCRIPTION)
    link = deformable_registration_to_dataset(context, planning, registration.pullback, "today to planning CT")
    save(link, folder / "REG.dcm")


def _write_why(report: FractionReport, folder: Path) -> None:
    reasons = "\n".join(f"  - {reason}" for reason in report.reasons)
    text = README.format(
        plan=report.plan_label,
        acquired=report.acquired,
        fraction=report.fraction,
        fractions=report.fractions,
        verdict=report.verdict.value,
        reasons=reasons,
        method=report.image_method.value,
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")
    record = json.dumps(fraction_to_json(report), indent=2, allow_nan=False, default=str)
    (folder / RECORD).write_text(f"{record}\n", encoding="utf-8")
