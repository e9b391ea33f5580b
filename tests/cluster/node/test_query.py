"""Matching of query keys, PS3.4 section C.2.2.2."""

import pytest
from pydicom.dataset import Dataset

from cluster.node.query import answer_to, matches


def dataset(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


STUDY = dataset(
    PatientName="Müller^Änne",
    PatientID="AB-12",
    StudyDate="20260106",
    StudyTime="103015",
    StudyInstanceUID="1.2.3",
    ModalitiesInStudy=["CT", "RTPLAN"],
    StudyDescription="Head (neck)",
)


@pytest.mark.parametrize(
    ("keyword", "key", "fits"),
    [
        ("PatientID", "", True),
        ("PatientID", "AB-12", True),
        ("PatientID", "AB-1", False),
        ("PatientID", "AB*", True),
        ("PatientID", "AB-1?", True),
        ("PatientID", "?B-1", False),
        ("PatientName", "müller^änne", True),
        ("PatientName", "MÜLLER*", True),
        ("PatientName", "Meier*", False),
        ("StudyDescription", "Head (*", True),
        ("StudyDescription", "Head .neck.", False),
        ("StudyDate", "20260106", True),
        ("StudyDate", "20260105", False),
        ("StudyDate", "20260101-20260131", True),
        ("StudyDate", "20260107-", False),
        ("StudyDate", "-20260106", True),
        ("StudyTime", "1000-1030", True),
        ("StudyTime", "1031-", False),
        ("StudyInstanceUID", "1.2.3", True),
        ("StudyInstanceUID", "1.2", False),
        ("StudyInstanceUID", ["1.2.9", "1.2.3"], True),
        ("ModalitiesInStudy", "RTPLAN", True),
        ("ModalitiesInStudy", "MR", False),
        ("AccessionNumber", "", True),
        ("AccessionNumber", "7", False),
        ("AccessionNumber", "*", False),
    ],
)
def test_keys(keyword: str, key: object, fits: bool) -> None:
    wanted = dataset(**{keyword: key})
    assert matches(wanted[keyword], STUDY) == fits


def test_a_pattern_is_no_regular_expression() -> None:
    wanted = dataset(PatientID="(" * 8 + "a+" * 20 + "*")
    assert not matches(wanted["PatientID"], STUDY)


def test_an_answer_holds_what_was_asked_for_and_nothing_else() -> None:
    wanted = dataset(QueryRetrieveLevel="STUDY", PatientName="", AccessionNumber="", StudyInstanceUID="")
    answer = answer_to(wanted, STUDY)
    assert {element.keyword for element in answer} == {"PatientName", "AccessionNumber", "StudyInstanceUID"}
    assert answer.PatientName == STUDY.PatientName
    assert not answer.AccessionNumber


def test_a_sequence_matches_when_one_item_does() -> None:
    item = dataset(ScheduledProcedureStepID="7")
    found = dataset(RequestAttributesSequence=[dataset(ScheduledProcedureStepID="6"), item])
    assert matches(dataset(RequestAttributesSequence=[item])["RequestAttributesSequence"], found)
    assert not matches(dataset(RequestAttributesSequence=[item])["RequestAttributesSequence"], STUDY)
