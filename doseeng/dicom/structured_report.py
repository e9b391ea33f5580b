"""A result as a DICOM structured report (PS3.3 A.35.3 Comprehensive SR, C.17): verdict, reasons, goals as measurements.

The content tree (relationships as PS3.3 A.35.3.3.1.2 allows them; a tree of its own, no template of PS3.16 is claimed):

    document title
    ├── language, and a device (doseeng) as observer: TID 1204, TID 1002, TID 1004
    ├── Verdict (code)
    ├── Conclusions: one text per reason
    ├── plan label, fraction, what else to know
    ├── Imaging Measurements: one Measurement Group per goal with structure, the value on both occasions, the band of
    │   uncertainty, limit, status and reason
    └── Objects used: plan, dose and structures as references, image series by UID

Codes are of DCM, SCT and UCUM where these have them and of a private scheme, `SCHEME`, where not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, generate_uid

import doseeng
from doseeng.case import DicomContext
from doseeng.dicom.srcontent import (
    COMMENT,
    CONCLUSION,
    CONCLUSIONS,
    Code,
    code,
    coding_schemes,
    composite,
    container,
    measurement,
    own,
    text_item,
    uid_item,
)
from doseeng.dicom.writing import MANUFACTURER, new_dataset
from doseeng.errors import DicomError
from doseeng.metrics import parse_metric
from doseeng.summary import STATEMENT, ReportSummary, SummaryRow

Role = Literal["plan", "dose", "structures", "image", "registration"]

_ROLES: Final[dict[Role, Code]] = {
    "plan": own("PLAN", "Plan that was judged"),
    "dose": own("DOSE", "Dose that was computed"),
    "structures": own("STRUCTURES", "Structure set that was used"),
    "image": own("IMAGE", "Image series that was used"),
    "registration": own("REGISTRATION", "Registration that was used"),
}
_VERDICTS: Final = {word: own(word, word) for word in ("GREEN", "AMBER", "RED", "UNEVALUABLE")}
_UNITS: Final = {
    "%": Code("%", "UCUM", "percent"),
    "cm3": Code("cm3", "UCUM", "cubic centimeter"),
    "Gy": Code("Gy", "UCUM", "gray"),
}
_WEIGHTED_GRAY: Final = Code("Gy{RBE}", "UCUM", "gray, weighted with an RBE of 1.1")
_PLAIN_METRICS: Final = {
    "Dmean": Code("128533", "DCM", "Mean Absorbed Radiation Dose"),
    "Dmax": Code("128531", "DCM", "Maximum Absorbed Radiation Dose"),
    "Dmin": Code("128532", "DCM", "Minimum Absorbed Radiation Dose"),
}
DEVICE_UID: Final = str(generate_uid(entropy_srcs=["doseeng", doseeng.__version__]))
"""The observer: this version of doseeng, wherever it runs."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Objects of one series that the result rests on, or that hold it. Images are named one by one, as PS3.3 asks."""

    role: Role
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]


def structured_report_to_dataset(
    summary: ReportSummary,
    context: DicomContext,
    evidence: Sequence[Evidence] = (),
    *,
    series_uid: str = "",
    sop_instance_uid: str = "",
) -> Dataset:
    """A Comprehensive SR in the study of `context`.

    It is COMPLETE, but PARTIAL where the verdict is UNEVALUABLE, and always UNVERIFIED: nobody has signed it.
    DicomError when the context names no study or a piece of evidence names no object, study or series.
    """
    for piece in evidence:
        if not (piece.study_uid and piece.series_uid and piece.sop_class_uid and piece.sop_instance_uids):
            raise DicomError(
                f"the {piece.role} that a structured report refers to lacks a study, series, class or instance UID; "
                "an evidence sequence needs all four"
            )
    ds = new_dataset(
        ComprehensiveSRStorage,
        context,
        "SR",
        series_description=f"doseeng: {summary.title}",
        series_uid=series_uid,
        sop_instance_uid=sop_instance_uid,
    )
    # A document lies in no frame of reference.
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.OperatorsName
    ds.InstanceNumber = "1"
    ds.ContentDate, ds.ContentTime = summary.made.strftime("%Y%m%d"), summary.made.strftime("%H%M%S")
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag = "PARTIAL" if summary.verdict == "UNEVALUABLE" else "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.AuthorObserverSequence = [_author()]
    _set_evidence(ds, evidence)
    root = container(_title(summary), _content(summary, evidence))
    del root.RelationshipType
    ds.update(root)
    ds.CodingSchemeIdentificationSequence = coding_schemes()
    return ds


def _title(summary: ReportSummary) -> Code:
    if summary.fractions:
        return own("DAY", "Dose of a treatment day")
    return own("ROBUSTNESS", "Robustness of a plan") if summary.rows else own("RECALCULATION", "Recalculated dose")


def _author() -> Dataset:
    """Author Observer (PS3.3 C.17.2, Identified Person or Device macro): a device, no person."""
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = "doseeng"
    author.DeviceUID = DEVICE_UID
    author.Manufacturer = MANUFACTURER
    author.ManufacturerModelName = "doseeng"
    author.InstitutionName = ""
    author.InstitutionCodeSequence = []
    return author


def _set_evidence(ds: Dataset, evidence: Sequence[Evidence]) -> None:
    """Pertinent Other Evidence (PS3.3 C.17.2.3): everything that the content refers to, by study and series."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for piece in evidence:
        instances = studies.setdefault(piece.study_uid, {}).setdefault(piece.series_uid, [])
        for uid in piece.sop_instance_uids:
            instance = Dataset()
            instance.ReferencedSOPClassUID = piece.sop_class_uid
            instance.ReferencedSOPInstanceUID = uid
            instances.append(instance)
    items = []
    for study_uid, by_series in studies.items():
        study = Dataset()
        study.StudyInstanceUID = study_uid
        study.ReferencedSeriesSequence = []
        for series_uid, instances in by_series.items():
            series = Dataset()
            series.SeriesInstanceUID = series_uid
            series.ReferencedSOPSequence = instances
            study.ReferencedSeriesSequence.append(series)
        items.append(study)
    if items:
        ds.PertinentOtherEvidenceSequence = items


def _content(summary: ReportSummary, evidence: Sequence[Evidence]) -> list[Dataset]:
    items = _observer()
    if summary.verdict:
        items.append(code(own("VERDICT", "Verdict"), _verdict(summary.verdict)))
    if summary.reasons:
        items.append(container(CONCLUSIONS, [text_item(CONCLUSION, reason) for reason in summary.reasons]))
    items += _particulars(summary)
    if summary.rows:
        groups = [_goal(row, summary) for row in summary.rows]
        items.append(container(Code("126010", "DCM", "Imaging Measurements"), groups))
    if evidence:
        items.append(container(own("OBJECTS", "Objects used"), [i for piece in evidence for i in _reference(piece)]))
    items.append(text_item(COMMENT, STATEMENT))
    return items


def _observer() -> list[Dataset]:
    english = code(
        Code("121049", "DCM", "Language of Content Item and Descendants"),
        Code("en", "RFC5646", "English"),
        "HAS CONCEPT MOD",
    )
    is_device = code(Code("121005", "DCM", "Observer Type"), Code("121007", "DCM", "Device"), "HAS OBS CONTEXT")
    uid = uid_item(Code("121012", "DCM", "Device Observer UID"), DEVICE_UID, "HAS OBS CONTEXT")
    names = {
        Code("121013", "DCM", "Device Observer Name"): "doseeng",
        Code("121014", "DCM", "Device Observer Manufacturer"): MANUFACTURER,
        Code("121015", "DCM", "Device Observer Model Name"): f"doseeng {doseeng.__version__}",
    }
    return [english, is_device, uid, *(text_item(name, value, "HAS OBS CONTEXT") for name, value in names.items())]


def _verdict(word: str) -> Code:
    if word not in _VERDICTS:
        raise DicomError(f"'{word}' is no verdict; expected one of {', '.join(_VERDICTS)}")
    return _VERDICTS[word]


def _particulars(summary: ReportSummary) -> list[Dataset]:
    items = [text_item(Code("121384", "DCM", "RT Plan Label"), summary.plan_label or "no label")]
    if summary.fractions:
        none = Code("{fraction}", "UCUM", "fractions")
        items.append(measurement(Code("121385", "DCM", "Current Fraction Number"), summary.fraction, none))
        items.append(measurement(Code("121386", "DCM", "Number of Fractions Planned"), summary.fractions, none))
    if summary.acquired is not None:
        acquired = summary.acquired.strftime("%Y-%m-%d %H:%M")
        items.append(text_item(own("ACQUIRED", "Image acquired"), acquired))
    for name, value in summary.facts:
        items.append(text_item(own("FACT", "Particular of the result"), f"{name}: {value}"))
    items += [text_item(own("NOTICE", "Notice"), notice) for notice in summary.notices]
    if summary.provenance:
        items.append(text_item(own("PROVENANCE", "SHA-256 of the provenance record"), summary.provenance))
    return items


def _goal(row: SummaryRow, summary: ReportSummary) -> Dataset:
    metric = _metric(row, summary.rbe_weighted)
    unit = _WEIGHTED_GRAY if row.unit == "Gy" and summary.rbe_weighted else _UNITS[row.unit]
    is_least = row.relation == ">="
    limit = own("LEAST", "Goal: at least") if is_least else own("MOST", "Goal: at most")
    name = text_item(Code("112039", "DCM", "Tracking Identifier"), f"{row.structure} {row.metric}", "HAS OBS CONTEXT")
    items = [name, text_item(own("STRUCTURE", "Structure"), row.structure)]
    for occasion, value in zip(summary.occasions, (row.reference, row.value), strict=True):
        number = measurement(metric, value, unit)
        number.ContentSequence = [code(own("OCCASION", "Occasion"), _occasion(occasion), "HAS CONCEPT MOD")]
        items.append(number)
    if math.isfinite(row.low) and math.isfinite(row.high):
        items.append(measurement(own("LOW", "Lower end of the uncertainty"), row.low, unit))
        items.append(measurement(own("HIGH", "Upper end of the uncertainty"), row.high, unit))
    items.append(measurement(limit, row.limit, unit))
    items.append(code(own("STATUS", "Status of the goal"), _verdict(row.status)))
    if row.reason:
        items.append(text_item(COMMENT, row.reason))
    return container(Code("125007", "DCM", "Measurement Group"), items)


def _metric(row: SummaryRow, rbe_weighted: bool) -> Code:
    """DCM names absorbed dose alone, in gray; everything else is named by the private scheme."""
    if row.metric in _PLAIN_METRICS and row.unit == "Gy" and not rbe_weighted:
        return _PLAIN_METRICS[row.metric]
    parsed = parse_metric(row.metric)
    amount = f"{parsed.amount:g} {'% of prescription' if parsed.of == '%' else parsed.of}"
    meaning = {
        "volume": f"Volume that receives at least {amount}",
        "dose": f"Dose that {parsed.amount:g} {parsed.of} receive at least",
        "mean": "Mean dose",
        "max": "Maximum dose",
        "min": "Minimum dose",
        "geud": f"Generalised equivalent uniform dose, a = {parsed.amount:g}",
    }[parsed.kind]
    return own(row.metric, meaning)


def _occasion(name: str) -> Code:
    return own(name.upper().replace(" ", "-"), name)


def _reference(piece: Evidence) -> list[Dataset]:
    if piece.role == "image":
        return [uid_item(_ROLES["image"], piece.series_uid)]
    return [composite(_ROLES[piece.role], piece.sop_class_uid, uid) for uid in piece.sop_instance_uids]
