"""De-identification: nothing of the patient leaves, everything that the dose needs does, and the way back."""

import copy
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cluster.database.connection import Database
from cluster.security.deidentify import deidentify, shifted
from cluster.security.identity import identity_of
from cluster.security.pseudonyms import Pseudonyms
from cluster.security.reidentify import reidentify
from doseeng.case import Case
from doseeng.dicom.case import read_case
from doseeng.dicom.structured_report import structured_report_to_dataset
from doseeng.dicom.writing import save
from doseeng.engine import compute_dose
from doseeng.errors import DicomError
from doseeng.summary import ReportSummary

from .conftest import SECRETS, IdentifiedCase, item, uids_of

SECRET = b"s" * 32


@pytest.fixture
def pseudonyms(sqlite_database: Database) -> Pseudonyms:
    return Pseudonyms(sqlite_database, "north", SECRET)


def read_all(folder: Path) -> dict[str, FileDataset]:
    return {path.name: dcmread(path) for path in sorted(folder.glob("*.dcm"))}


def one(case: IdentifiedCase, modality: str) -> FileDataset:
    return next(ds for ds in read_all(case.folder).values() if ds.Modality == modality)


def leave(case: IdentifiedCase, pseudonyms: Pseudonyms, target: Path) -> dict[str, FileDataset]:
    """De-identify a folder into another one."""
    target.mkdir()
    objects = read_all(case.folder)
    identity = identity_of(objects.values())
    for name, ds in objects.items():
        save(deidentify(ds, pseudonyms, identity).dataset, target / name)
    return read_all(target)


def assert_nothing_of(secrets: tuple[str, ...] | frozenset[str], folder: Path) -> None:
    for path in folder.rglob("*"):
        data = path.read_bytes()
        for secret in secrets:
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                assert secret.encode(encoding) not in data, f"{secret} in {path.name}"


def test_no_byte_of_identity_leaves(identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path) -> None:
    assert len(identified_case.uids) > 40
    with pytest.raises(AssertionError):
        assert_nothing_of(SECRETS, identified_case.folder)
    made = leave(identified_case, pseudonyms, tmp_path / "out")
    assert_nothing_of(SECRETS, tmp_path / "out")
    assert_nothing_of(identified_case.uids, tmp_path / "out")
    for ds in made.values():
        assert not any(e.tag.is_private for e in ds.iterall())
        assert ds.preamble == b"\0" * 128


def test_no_byte_leaves_of_implicit_vr_either(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    folder = tmp_path / "implicit"
    folder.mkdir()
    for name, ds in read_all(identified_case.folder).items():
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(folder / name, implicit_vr=True)
    leave(IdentifiedCase(folder, identified_case.uids), pseudonyms, tmp_path / "out")
    assert_nothing_of(SECRETS, tmp_path / "out")
    assert_nothing_of(identified_case.uids, tmp_path / "out")
    assert read_case(tmp_path / "out").structures.structures[1].name == "CTV"


def test_the_dose_is_the_same_bit_for_bit(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    leave(identified_case, pseudonyms, tmp_path / "out")
    before, after = read_case(identified_case.folder), read_case(tmp_path / "out")
    assert before.key != after.key
    assert _shape(before) == _shape(after)
    np.testing.assert_array_equal(before.ct.values, after.ct.values)
    np.testing.assert_array_equal(compute_dose(before).volume.values, compute_dose(after).volume.values)
    for one, other in zip(before.doses, after.doses, strict=True):
        np.testing.assert_array_equal(one.volume.values, other.volume.values)


def _shape(case: Case) -> tuple[object, ...]:
    beams = [(b.number, b.name, b.machine, b.gantry_deg) for b in case.plan.beams]
    structures = [(s.number, s.kind, len(s.contours)) for s in case.structures.structures]
    return beams, structures, case.plan.prescriptions, [(d.summation, d.beam_numbers) for d in case.doses]


def test_labels_stay_unless_they_hold_identity(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    result = deidentify(one(identified_case, "RTSTRUCT"), pseudonyms)
    assert [roi.ROIName for roi in result.dataset.StructureSetROISequence] == ["BODY", "CTV", "ROI 3"]
    assert "ROI 3" in [n.where for n in result.notices]
    assert not any(secret in str(n) for n in result.notices for secret in SECRETS)
    plan = deidentify(one(identified_case, "RTPLAN"), pseudonyms).dataset
    assert plan.RTPlanLabel == "REMOVED"
    assert plan.IonBeamSequence[0].TreatmentMachineName == "generic-pbs"
    assert "BeamDescription" not in plan.IonBeamSequence[0]
    assert plan.ApprovalStatus == "APPROVED"
    ct = deidentify(one(identified_case, "CT"), pseudonyms).dataset
    assert ct.DeviceSerialNumber == "SN-123456789"
    assert "StationName" not in ct or "Mungo" not in ct.StationName
    assert "SeriesDescription" not in ct


def test_it_says_that_and_how_it_was_done(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    ds = deidentify(one(identified_case, "CT"), pseudonyms).dataset
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [(c.CodeValue, c.CodingSchemeDesignator) for c in ds.DeidentificationMethodCodeSequence]
    assert codes == [("113100", "DCM"), ("113105", "DCM"), ("113107", "DCM"), ("113109", "DCM")]
    assert ds.PatientID == ds.PatientName == pseudonyms.patient("QZ-4711")
    assert ds.PatientBirthDate == ds.PatientSex == ds.AccessionNumber == ""
    assert "PatientAge" not in ds
    assert "RequestAttributesSequence" not in ds
    assert ds.ProcedureCodeSequence[0].CodeMeaning == "REMOVED"


def test_references_between_objects_hold(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    leave(identified_case, pseudonyms, tmp_path / "out")
    before, after = uids_of(identified_case.folder), uids_of(tmp_path / "out")
    assert {pseudonyms.uid(uid) for uid in before} >= after
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in after)
    for path in (tmp_path / "out").iterdir():
        ds = dcmread(path)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert set(ds.file_meta.keys()) <= {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}  # fmt: skip  # noqa: E501


def test_dates_move_by_the_same_number_of_days(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    days = pseudonyms.shift_days("QZ-4711")
    ct = deidentify(one(identified_case, "CT"), pseudonyms).dataset
    plan = deidentify(one(identified_case, "RTPLAN"), pseudonyms).dataset
    acquired = date.fromisoformat(ct.AcquisitionDate)
    assert (date(2024, 2, 29) - acquired).days == days >= 1
    assert (date.fromisoformat(plan.RTPlanDate) - acquired).days == 2
    assert (date.fromisoformat(ct.SeriesDate) - acquired).days == 1
    assert ct.AcquisitionDateTime == f"{acquired:%Y%m%d}101530.250000+0100"
    assert ct.AcquisitionTime == "101530.25"


@pytest.mark.parametrize(
    ("value", "vr", "moved"),
    [
        ("20240301", "DA", "20240229"),
        ("20240301101112.5+0100", "DT", "20240229101112.5+0100"),
        ("20240301-0500", "DT", "20240229-0500"),
        ("101112.000123", "TM", "101112.000123"),
        ("2024", "DT", ""),
        ("20240230", "DA", ""),
        ("00010101", "DA", ""),
        ("Quatermain", "DA", ""),
        ("20240301 Quatermain", "DT", ""),
        ("10:11 Q", "TM", ""),
        ("", "DA", ""),
    ],
)
def test_a_day_back(value: str, vr: str, moved: str) -> None:
    assert shifted(value, vr, -1) == moved


def test_pseudonyms_are_of_the_patient_and_the_site(sqlite_database: Database) -> None:
    north = Pseudonyms(sqlite_database, "north", SECRET)
    south = Pseudonyms(sqlite_database, "south", b"t" * 32)
    ids = [f"patient {n}" for n in range(20)]
    assert len({north.patient(i) for i in ids}) == 20
    assert len({north.shift_days(i) for i in ids}) > 15
    assert all(1 <= north.shift_days(i) <= 3652 for i in ids)
    again = Pseudonyms(sqlite_database, "north", SECRET)
    assert again.patient(" patient 1 ") == north.patient("patient 1")
    assert again.shift_days("patient 1") == north.shift_days("patient 1")
    assert again.uid("1.2.3") == north.uid("1.2.3")
    assert south.patient("patient 1") != north.patient("patient 1")
    assert south.uid("1.2.3") != north.uid("1.2.3")
    assert south.shift_days("patient 1") != north.shift_days("patient 1")


def test_the_round_trip_restores(identified_case: IdentifiedCase, database: Database) -> None:
    pseudonyms = Pseudonyms(database, "north", SECRET)
    made = {n: deidentify(ds, pseudonyms).dataset for n, ds in read_all(identified_case.folder).items()}
    later = Pseudonyms(database, "north", SECRET)
    for name, original in read_all(identified_case.folder).items():
        back = reidentify(made[name], later)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                        "StudyDescription", "ReferringPhysicianName", "StudyDate", "StudyTime", "SeriesDate",
                        "AcquisitionDateTime", "RTPlanDate", "StructureSetDate"):  # fmt: skip
            assert back.get(keyword) == original.get(keyword), keyword
        kept = {str(e.value) for e in back.iterall() if e.VR == "UI" and e.VM == 1}
        known = {str(e.value) for e in original.iterall() if e.VR == "UI" and e.VM == 1}
        assert kept <= known
        assert (back.SOPInstanceUID, back.StudyInstanceUID) == (original.SOPInstanceUID, original.StudyInstanceUID)
        assert back.file_meta.MediaStorageSOPInstanceUID == original.SOPInstanceUID
        assert "PatientIdentityRemoved" not in back
        assert "DeidentificationMethodCodeSequence" not in back


def test_a_result_made_elsewhere_comes_home(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    plan = deidentify(one(identified_case, "RTPLAN"), pseudonyms).dataset
    result = deidentify(one(identified_case, "RTDOSE"), pseudonyms).dataset
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
                    "LongitudinalTemporalInformationModified"):  # fmt: skip
        del result[keyword]
    new_uid = generate_uid()
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = new_uid
    result.InstanceCreationDate = "20260102"
    home = reidentify(result, pseudonyms)
    original = one(identified_case, "RTPLAN")
    assert home.SOPInstanceUID == home.file_meta.MediaStorageSOPInstanceUID == new_uid
    assert home.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID != plan.SOPInstanceUID
    assert (home.PatientName, home.PatientID) == ("Quatermain^Zebulon", "QZ-4711")
    assert home.InstanceCreationDate == "20260102"
    assert home.AcquisitionDate == "20240229"
    assert home.StudyDate == "20240229"


def test_the_time_of_the_image_in_our_report_comes_home(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    leave(identified_case, pseudonyms, tmp_path / "out")
    days = pseudonyms.shift_days("QZ-4711")
    away = datetime(2024, 3, 4, 8, 15) - timedelta(days=days)
    summary = ReportSummary("Today", "GREEN", "Plan", "c", ("fine",), datetime(2026, 1, 2), acquired=away)
    report = structured_report_to_dataset(summary, read_case(tmp_path / "out").dicom)
    home = reidentify(report, pseudonyms)
    texts = [str(e.value) for e in home.iterall() if e.keyword == "TextValue"]
    assert "2024-03-04 08:15" in texts
    assert (home.PatientName, home.AccessionNumber) == ("Quatermain^Zebulon", "ACC-990817")
    assert home.ContentDate == "20260102"


def test_another_sites_pseudonym_does_not_come_home(identified_case: IdentifiedCase, sqlite_database: Database) -> None:
    made = deidentify(one(identified_case, "CT"), Pseudonyms(sqlite_database, "north", SECRET)).dataset
    with pytest.raises(DicomError, match="no pseudonym of site 'south'"):
        reidentify(made, Pseudonyms(sqlite_database, "south", b"t" * 32))
    made.PatientID = "QZ-4711"
    with pytest.raises(DicomError, match="no pseudonym of site 'north'"):
        reidentify(made, Pseudonyms(sqlite_database, "north", SECRET))


def test_the_given_object_is_left_as_it_was(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    ds = one(identified_case, "RTSTRUCT")
    before = copy.deepcopy(ds)
    made = deidentify(ds, pseudonyms).dataset
    assert ds == before
    away = copy.deepcopy(made)
    reidentify(made, pseudonyms)
    assert made == away


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned into its pixels"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary capture"),
        ({"ConversionType": "WSD"}, "secondary capture"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "Secondary Capture Image Storage object cannot"),
        ({"SOPClassUID": "1.2.3.4"}, "object cannot be de-identified"),
        ({"PatientID": ""}, "no Patient ID"),
        ({"SOPInstanceUID": ""}, "no SOP Instance UID"),
        ({"PatientID": "x" * 300}, "longer than any may be"),
    ],
)
def test_what_may_show_identity_is_refused(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, change: dict[str, object], says: str
) -> None:
    ds = one(identified_case, "CT")
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    with pytest.raises(DicomError, match=says) as refused:
        deidentify(ds, pseudonyms)
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_no_burned_in_annotation_is_said_to_be_fine(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    ds = one(identified_case, "CT")
    ds.BurnedInAnnotation = "NO"
    assert deidentify(ds, pseudonyms).dataset.BurnedInAnnotation == "NO"


def test_structured_content_is_cleaned_item_by_item(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    ds = one(identified_case, "RTDOSE")
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    ds.ContentSequence = [
        item(ValueType="TEXT", TextValue="Mr Quatermain"),
        item(ValueType="PNAME", PersonName="Pomfrey^Poppy"),
        item(ValueType="DATE", Date="20240229"),
        item(ValueType="UIDREF", UID="1.2.3.4.5"),
        item(ValueType="NUM", MeasuredValueSequence=[item(NumericValue="95.5")]),
    ]
    made = deidentify(ds, pseudonyms).dataset
    text, person, day, uid, number = made.ContentSequence
    assert (text.TextValue, person.PersonName, uid.UID) == ("REMOVED", "REMOVED", pseudonyms.uid("1.2.3.4.5"))
    assert day.Date == shifted("20240229", "DA", -pseudonyms.shift_days("QZ-4711"))
    assert number.MeasuredValueSequence[0].NumericValue == "95.5"
    assert "113104" in [c.CodeValue for c in made.DeidentificationMethodCodeSequence]


def test_a_patient_named_as_a_term_is_still_computed(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    ds = one(identified_case, "CT")
    ds.PatientName = "Hu^Axial"
    ds.RescaleType = "HU"
    made = deidentify(ds, pseudonyms).dataset
    assert made.RescaleType == "HU"
    assert list(made.ImageType) == list(ds.ImageType)


def test_text_hidden_in_numbers_and_unknown_tags_goes(
    identified_case: IdentifiedCase, pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    ds = one(identified_case, "CT")
    ds.add_new(0x00189999, "LO", "Quatermain")  # public, but in no dictionary
    ds.add_new(0x60003000, "OW", b"Quatermain")
    ds.add_new(0x60004000, "LT", "Quatermain")
    ds.BodyPartExamined = "Lung of Quatermain"
    ds.save_as(tmp_path / "in.dcm")
    data = (tmp_path / "in.dcm").read_bytes()
    kvp = b"\x18\x00\x60\x00DS\x04\x00"
    assert kvp not in data
    at = data.index(b"\x18\x00\x50\x00DS")  # slice thickness, before which KVP does not belong but is read
    (tmp_path / "in.dcm").write_bytes(data[:at] + b"\x18\x00\x45\x00DS\x0a\x00Quatermain" + data[at:])
    save(deidentify(dcmread(tmp_path / "in.dcm"), pseudonyms).dataset, tmp_path / "out.dcm")
    assert b"Quatermain" not in (tmp_path / "out.dcm").read_bytes()


def test_every_element_that_the_engine_reads_stays(identified_case: IdentifiedCase, pseudonyms: Pseudonyms) -> None:
    """But for names, dates and UIDs, of which there are new ones, and text that says nothing to the engine."""
    for ds in read_all(identified_case.folder).values():
        made = deidentify(ds, pseudonyms).dataset
        lost = {e.keyword for e in ds.iterall()} - {e.keyword for e in made.iterall()}
        assert not {
            k for k in lost if vr_of_keyword(ds, k) in ("DS", "IS", "FL", "FD", "US", "CS", "UI", "OW", "OF")
        } - {
            "ReferencedSOPClassUID",
            "ReferencedSOPInstanceUID",
        }


def vr_of_keyword(ds: Dataset, keyword: str) -> str:
    return next((str(e.VR) for e in ds.iterall() if e.keyword == keyword and keyword), "")
