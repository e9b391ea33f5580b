"""The table of attribute actions, and what counts as identity in a text."""

import pytest
from pydicom.dataset import Dataset

from cluster.security.confidentiality import Action, action_of
from cluster.security.elements import vr_of
from cluster.security.identity import identity_of, looks_like_identifier


@pytest.mark.parametrize(
    ("keyword", "vr", "action"),
    [
        ("PatientID", "LO", Action.PSEUDONYM),
        ("PatientName", "PN", Action.PSEUDONYM),
        ("PatientBirthDate", "DA", Action.EMPTY),
        ("PatientAddress", "LO", Action.REMOVE),
        ("InstitutionName", "LO", Action.DUMMY),
        ("StudyDate", "DA", Action.SHIFT),
        ("AcquisitionTime", "TM", Action.SHIFT),
        ("SOPInstanceUID", "UI", Action.UID),
        ("SOPClassUID", "UI", Action.KEEP),
        ("TreatmentMachineName", "SH", Action.NAME),
        ("RescaleType", "LO", Action.TERM),
        ("ROIName", "LO", Action.DESCRIPTION),
        ("PatientComments", "LT", Action.REMOVE),
        ("OriginalAttributesSequence", "SQ", Action.REMOVE),
        ("ReferencedStudySequence", "SQ", Action.EMPTY),
        ("ContentSequence", "SQ", Action.RECURSE),
        ("PersonIdentificationCodeSequence", "SQ", Action.EMPTY),
        ("IonBeamSequence", "SQ", Action.RECURSE),
        ("ContourData", "DS", Action.NUMBERS),
        ("Modality", "CS", Action.CODED),
        ("PixelData", "OB", Action.KEEP),
        ("EncapsulatedDocument", "OB", Action.DUMMY),
        ("TextValue", "UT", Action.DUMMY),
        ("Occupation", "SH", Action.REMOVE),
        ("PatientBirthDateInAlternativeCalendar", "LO", Action.EMPTY),
    ],
)
def test_actions_of_the_table(keyword: str, vr: str, action: Action) -> None:
    made = Dataset()
    setattr(made, keyword, [] if vr == "SQ" else None)
    (tag,) = made.keys()
    assert vr_of(made, tag) == vr
    assert action_of(tag, vr) is action


def test_short_names_count_as_words_only() -> None:
    made = Dataset()
    made.PatientName = "Li^Bo=李^波"
    made.PatientID = "4711"
    identity = identity_of([made])
    assert identity.is_in("PTV Li")
    assert identity.is_in("ptv_LI_2")
    assert identity.is_in("x4711y")
    assert not identity.is_in("Liver")
    assert not identity.is_in("Bowel")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("CT 20240229", True), ("29.2.2024", True), ("1234567", True), ("PTV_5040", False), ("Lung 4D 50%", False)],
)
def test_what_looks_like_an_identifier(text: str, is_one: bool) -> None:
    assert looks_like_identifier(text) is is_one
