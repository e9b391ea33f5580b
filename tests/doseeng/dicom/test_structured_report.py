"""Structured reports and encapsulated PDFs: read back, and through dcmtk's and dicom3tools' eyes."""

import math
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, CTImageStorage, RTDoseStorage, RTPlanStorage, generate_uid

from doseeng.case import DicomContext
from doseeng.dicom.encapsulated_pdf import pdf_to_dataset
from doseeng.dicom.srcontent import SCHEME, SCHEME_UID, own
from doseeng.dicom.structured_report import Evidence, structured_report_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.errors import DicomError, MetricError
from doseeng.summary import STATEMENT, ReportSummary, SummaryRow, provenance_digest

MADE = datetime(2026, 7, 4, 9, 30)
PDF = b"%PDF-1.4\n%%EOF\n"


def row(metric: str = "D95%", unit: str = "%", value: float = 91.25, status: str = "RED") -> SummaryRow:
    return SummaryRow("CTV", metric, ">=", 95.0, unit, 98.5, value, value - 1, value + 1, status, "Both miss.")


def summary(*rows: SummaryRow, verdict: str = "RED", weighted: bool = False) -> ReportSummary:
    return ReportSummary(
        title="Dose of a treatment day",
        verdict=verdict,
        plan_label="Plan ä",
        case_key="c-1",
        reasons=("CTV D95% is 91.25 %.", "Two in a row."),
        made=MADE,
        rows=rows or (row(),),
        fraction=7,
        fractions=30,
        acquired=datetime(2026, 7, 4, 9, 12),
        facts=(("Quality gates", "11 of 11 passed"),),
        notices=("dose-grid-clips-target: by 3 mm",),
        rbe_weighted=weighted,
        provenance="ab" * 32,
    )


@pytest.fixture
def context() -> DicomContext:
    return new_context()


@pytest.fixture
def evidence(context: DicomContext) -> tuple[Evidence, ...]:
    study = context.study["StudyInstanceUID"]
    return (
        Evidence("plan", study, str(generate_uid()), str(RTPlanStorage), (str(generate_uid()),)),
        Evidence("dose", study, str(generate_uid()), str(RTDoseStorage), (str(generate_uid()),)),
        Evidence("image", str(generate_uid()), str(generate_uid()), str(CTImageStorage), tuple(map(str, range(1, 4)))),
    )


def saved(dataset: Dataset, folder: Path) -> Path:
    path = folder / "object.dcm"
    save(dataset, path)
    return path


def everything(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence", []):
        yield from everything(child)


def named(dataset: Dataset, meaning: str) -> list[Dataset]:
    return [i for i in everything(dataset) if i.ConceptNameCodeSequence[0].CodeMeaning == meaning]


def test_what_it_says_can_be_read_back(tmp_path: Path, context: DicomContext, evidence: tuple[Evidence, ...]) -> None:
    ds = dcmread(saved(structured_report_to_dataset(summary(), context, evidence), tmp_path))
    assert (ds.SOPClassUID, ds.Modality) == (ComprehensiveSRStorage, "SR")
    assert (ds.CompletionFlag, ds.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert ds.StudyInstanceUID == context.study["StudyInstanceUID"]
    assert "FrameOfReferenceUID" not in ds
    assert ds.AuthorObserverSequence[0].ObserverType == "DEV"
    assert "PersonName" not in ds.AuthorObserverSequence[0]
    (verdict,) = named(ds, "Verdict")
    assert verdict.ConceptCodeSequence[0].CodeValue == "RED"
    assert [item.TextValue for item in named(ds, "Conclusion")] == list(summary().reasons)
    assert named(ds, "RT Plan Label")[0].TextValue == "Plan ä"
    assert STATEMENT in [item.TextValue for item in named(ds, "Comment")]
    numbers = named(ds, "Dose that 95 % receive at least")
    assert [float(n.MeasuredValueSequence[0].NumericValue) for n in numbers] == [98.5, 91.25]
    assert [n.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning for n in numbers] == ["planned", "today"]
    (limit,) = named(ds, "Goal: at least")
    measured = limit.MeasuredValueSequence[0]
    assert float(measured.NumericValue) == 95.0
    unit = measured.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("%", "UCUM")


def test_all_that_it_refers_to_is_listed_as_evidence(
    tmp_path: Path, context: DicomContext, evidence: tuple[Evidence, ...]
) -> None:
    ds = dcmread(saved(structured_report_to_dataset(summary(), context, evidence), tmp_path))
    listed = {
        (study.StudyInstanceUID, series.SeriesInstanceUID): [
            i.ReferencedSOPInstanceUID for i in series.ReferencedSOPSequence
        ]
        for study in ds.PertinentOtherEvidenceSequence
        for series in study.ReferencedSeriesSequence
    }
    assert listed == {(e.study_uid, e.series_uid): list(e.sop_instance_uids) for e in evidence}
    assert len(ds.PertinentOtherEvidenceSequence) == 2
    composites = [
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in everything(ds) if i.ValueType == "COMPOSITE"
    ]
    assert composites == [*evidence[0].sop_instance_uids, *evidence[1].sop_instance_uids]
    (image,) = named(ds, "Image series that was used")
    assert evidence[2].series_uid == image.UID


def test_codes_come_from_schemes_that_are_identified(context: DicomContext, evidence: tuple[Evidence, ...]) -> None:
    ds = structured_report_to_dataset(summary(weighted=True), context, evidence)
    identified = {item.CodingSchemeDesignator for item in ds.CodingSchemeIdentificationSequence}
    used = {element.value for element in ds.iterall() if element.keyword == "CodingSchemeDesignator"}
    assert used <= identified
    (private,) = [i for i in ds.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator == SCHEME]
    assert private.CodingSchemeUID == SCHEME_UID


@pytest.mark.parametrize(
    ("metric", "unit", "weighted", "name", "gray"),
    [
        ("Dmax", "Gy", False, ("128531", "DCM"), "Gy"),
        ("Dmax", "Gy", True, ("Dmax", SCHEME), "Gy{RBE}"),
        ("D2cm3", "Gy", False, ("D2cm3", SCHEME), "Gy"),
        ("V20Gy[cm3]", "cm3", True, ("V20Gy[cm3]", SCHEME), "cm3"),
        ("gEUD-12.5", "Gy", True, ("gEUD-12.5", SCHEME), "Gy{RBE}"),
    ],
)
def test_absorbed_dose_is_named_by_dicom_and_weighted_dose_is_never_bare_gray(
    context: DicomContext, metric: str, unit: str, weighted: bool, name: tuple[str, str], gray: str
) -> None:
    ds = structured_report_to_dataset(summary(row(metric, unit), weighted=weighted), context)
    found = next(i for i in everything(ds) if i.ValueType == "NUM" and "ContentSequence" in i)
    concept = found.ConceptNameCodeSequence[0]
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == name
    assert found.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == gray


def test_a_value_that_does_not_exist_is_said_to_be_none(context: DicomContext) -> None:
    ds = structured_report_to_dataset(summary(row(value=math.nan, status="UNEVALUABLE")), context)
    planned, today = named(ds, "Dose that 95 % receive at least")
    assert len(planned.MeasuredValueSequence) == 1
    assert len(today.MeasuredValueSequence) == 0
    assert today.NumericValueQualifierCodeSequence[0].CodeValue == "114000"
    assert named(ds, "Lower end of the uncertainty") == []


def test_what_could_not_be_evaluated_is_partial(context: DicomContext) -> None:
    assert structured_report_to_dataset(summary(verdict="UNEVALUABLE"), context).CompletionFlag == "PARTIAL"


def test_what_cannot_be_written_is_refused(context: DicomContext) -> None:
    with pytest.raises(DicomError, match="no verdict"):
        structured_report_to_dataset(summary(verdict="BLUE"), context)
    with pytest.raises(DicomError, match="lacks a study, series"):
        structured_report_to_dataset(summary(), context, [Evidence("plan", "1.2", "", "1.2", ("1.2",))])
    with pytest.raises(DicomError, match="no StudyInstanceUID"):
        structured_report_to_dataset(summary(), DicomContext(""))
    with pytest.raises(DicomError, match="17 characters"):
        own("x" * 17, "too long")
    with pytest.raises(MetricError):
        structured_report_to_dataset(summary(row("Dwhatever")), context)


def test_the_same_identifiers_where_they_are_given(context: DicomContext) -> None:
    made = [
        structured_report_to_dataset(summary(), context, series_uid="1.2.3", sop_instance_uid="1.2.3.4")
        for _ in range(2)
    ]
    assert {(ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.file_meta.MediaStorageSOPInstanceUID) for ds in made} == {
        ("1.2.3", "1.2.3.4", "1.2.3.4")
    }


def test_a_pdf_comes_back_as_it_was(tmp_path: Path, context: DicomContext) -> None:
    ds = dcmread(saved(pdf_to_dataset(PDF, context, "Dose of a treatment day", MADE), tmp_path))
    assert len(PDF) % 2 == 1
    assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == PDF
    assert (ds.MIMETypeOfEncapsulatedDocument, ds.BurnedInAnnotation) == ("application/pdf", "NO")
    assert ds.StudyInstanceUID == context.study["StudyInstanceUID"]
    with pytest.raises(DicomError, match="expected a PDF"):
        pdf_to_dataset(b"<html>", context, "no PDF", MADE)


def test_provenance_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert provenance_digest({"a": 1, "b": {"c": 2, "d": 3}}) == provenance_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert provenance_digest({"a": 1}) != provenance_digest({"a": 2})


def _read_by(program: str, *arguments: str | Path) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("value", [91.25, math.nan])
def test_dcmtk_reads_it(tmp_path: Path, context: DicomContext, evidence: tuple[Evidence, ...], value: float) -> None:
    path = saved(structured_report_to_dataset(summary(row(value=value)), context, evidence), tmp_path)
    dumped = _read_by("dsrdump", "--print-all-codes", path)
    assert "Comprehensive SR Document" in dumped
    assert "(RED,99DOSEENG," in dumped
    # It does not check the representation of UTF-8 values, and says so.
    complaints = [line for line in dumped.splitlines() if line.startswith(("W:", "E:", "F:"))]
    assert [line for line in complaints if "VR checker does not support" not in line] == []
    page = _read_by("dsr2html", path)
    assert "Dose of a treatment day" in page
    assert "Both miss." in page


def test_dcmtk_takes_the_pdf_out(tmp_path: Path, context: DicomContext) -> None:
    path = saved(pdf_to_dataset(PDF, context, "Summary", MADE), tmp_path)
    _read_by("dcm2pdf", path, tmp_path / "back.pdf")
    assert (tmp_path / "back.pdf").read_bytes().rstrip(b"\0") == PDF


@pytest.mark.parametrize("kind", ["report", "document"])
def test_dicom3tools_find_no_error(
    tmp_path: Path, context: DicomContext, evidence: tuple[Evidence, ...], kind: str
) -> None:
    ds = (
        structured_report_to_dataset(summary(), context, evidence)
        if kind == "report"
        else pdf_to_dataset(PDF, context, "Summary", MADE)
    )
    said = _read_by("dciodvfy", saved(ds, tmp_path))
    assert not [line for line in said.splitlines() if line.startswith("Error")]
