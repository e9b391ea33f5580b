"""A case full of identity, as a clinic's systems export it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

SECRETS = (
    "Quatermain",
    "QUATERMAIN",
    "Zebulon",
    "QZ-4711",
    "19470812",
    "1947-08-12",
    "ACC-990817",
    "Saint Mungo",
    "Wizard Lane",
    "Pomfrey",
    "Hippocrates",
    "Smethwyck",
    "STUDY-31",
    "hidden in a private tag",
    "+44 20",
    "ENC-55821",
)
"""What must not be found anywhere, in any encoding that DICOM text has."""


@dataclass(frozen=True)
class IdentifiedCase:
    """A folder of DICOM objects that name their patient everywhere. uids: all of its instance UIDs."""

    folder: Path
    uids: frozenset[str]


def item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def identify(ds: Dataset) -> None:
    """Name the patient in every way that systems do."""
    ds.PatientBirthDate = "19470812"
    ds.PatientSex = "M"
    ds.PatientAge = "077Y"
    ds.OtherPatientIDs = "QZ-4711-OLD"
    ds.PatientComments = "Mr Quatermain dislikes needles"
    ds.PatientTelephoneNumbers = "+44 20 7946 0999"
    ds.AccessionNumber = "ACC-990817"
    ds.StudyID = "STUDY-31"
    ds.StudyDescription = "Lung QUATERMAIN"
    ds.SeriesDescription = "planning, 1947-08-12"
    ds.ReferringPhysicianName = "Pomfrey^Poppy^^Dr"
    ds.PhysiciansOfRecord = "Smethwyck^Hippocrates"
    ds.OperatorsName = "Smethwyck^H"
    ds.InstitutionName = "Saint Mungo"
    ds.InstitutionAddress = "1 Wizard Lane, London"
    ds.StationName = "Saint Mungo CT"
    ds.DeviceSerialNumber = "SN-123456789"
    ds.ManufacturerModelName = "Scanner 5"
    ds.InstanceCreationDate = "20240229"
    ds.AcquisitionDate, ds.AcquisitionTime = "20240229", "101530.25"
    ds.AcquisitionDateTime = "20240229101530.250000+0100"
    ds.StudyDate = "20240229"
    ds.SeriesDate = "20240301"
    ds.RequestAttributesSequence = [item(RequestedProcedureID="ENC-55821", RequestedProcedureDescription="Quatermain")]
    ds.ReferencedPatientSequence = [
        item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.1.1", ReferencedSOPInstanceUID="9.8.7")
    ]
    ds.OriginalAttributesSequence = [item(ModifiedAttributesSequence=[item(PatientID="QZ-4711")])]
    ds.ProcedureCodeSequence = [item(CodeValue="C1", CodingSchemeDesignator="99X", CodeMeaning="CT for Quatermain")]
    block = ds.private_block(0x0029, "CLINIC", create=True)
    block.add_new(0x10, "LO", "hidden in a private tag")
    block.add_new(0x20, "SQ", Sequence([item(PatientName="Quatermain^Zebulon")]))
    ds.preamble = b"Zebulon Quatermain".ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = "Saint Mungo"
    if "StructureSetROISequence" in ds:
        ds.StructureSetROISequence[2].ROIName = "Cord Quatermain"
        ds.StructureSetROISequence[2].ROIDescription = "drawn by Dr Pomfrey"
        ds.RTROIObservationsSequence[0].ROIInterpreter = "Pomfrey^Poppy"
        ds.StructureSetDate = "20240301"
        ds.StructureSetROISequence[1].private_block(0x3287, "CLINIC", create=True).add_new(1, "LO", "Zebulon")
    if ds.Modality == "RTPLAN":
        ds.RTPlanLabel = "Zebulon 1"
        ds.RTPlanDescription = "for Mr Quatermain"
        ds.RTPlanDate = "20240302"
        ds.ApprovalStatus = "APPROVED"
        ds.ReviewerName = "Smethwyck^Hippocrates"
        ds.IonBeamSequence[0].BeamDescription = "Zebulon's beam"


@pytest.fixture(scope="session")
def identified_case(water_case: Any, tmp_path_factory: pytest.TempPathFactory) -> IdentifiedCase:
    folder = water_case.write(tmp_path_factory.mktemp("clinic") / "Quatermain")
    for path in folder.glob("*.dcm"):
        ds = dcmread(path)
        identify(ds)
        ds.save_as(path)
    return IdentifiedCase(folder, frozenset(uids_of(folder)))


def uids_of(folder: Path) -> set[str]:
    """All UIDs of instances in a folder: those of the standard begin otherwise."""
    found = set()
    for path in folder.rglob("*.dcm"):
        ds = dcmread(path)
        found |= {str(e.value) for e in ds.iterall() if e.VR == "UI" and e.VM == 1}
    return {uid for uid in found if uid and not uid.startswith("1.2.840.10008.")}
