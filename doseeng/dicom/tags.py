"""Reading single attributes with messages that say where and what; absent and empty attributes read the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from doseeng.errors import DicomError

Array = npt.NDArray[np.float64]


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, [] when it is absent or empty."""
    value = _value(dataset, keyword)
    if value and not isinstance(value, Sequence):
        raise DicomError(f"{keyword} {_tag(keyword)} is not a sequence; the file is damaged: copy or export it again")
    return list(value or ())


def text(dataset: Dataset, keyword: str) -> str:
    """A string attribute without padding, "" when absent or empty."""
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip()


def numbers(dataset: Dataset, keyword: str, where: str) -> Array:
    """All values of a numeric attribute as float64 (n,), empty when absent; DicomError when one is not a number.

    Decimal strings are decoded straight from the file's bytes: a structure set holds millions of them.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return np.empty(0)
    raw = dataset.get_item(tag)
    try:
        # Implicit VR leaves raw.VR empty; a value that was not read along is None.
        if isinstance(raw, RawDataElement) and raw.value and (raw.VR or dictionary_VR(tag)) in ("DS", "IS"):
            stripped = raw.value.strip(b" \0")
            return np.array(stripped.split(b"\\"), dtype=np.float64) if stripped else np.empty(0)
        value = dataset[tag].value
        return np.atleast_1d(np.asarray([] if value is None or value == "" else value, dtype=np.float64))
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise DicomError(f"{where}: {keyword} {tag} holds something that is not a number ({error})") from error


def number(dataset: Dataset, keyword: str, where: str) -> float | None:
    """One finite number, None when absent or empty; DicomError when it is several or not finite."""
    values = numbers(dataset, keyword, where)
    if len(values) == 0:
        return None
    if len(values) > 1 or not np.isfinite(values[0]):
        raise DicomError(f"{where}: {keyword} {_tag(keyword)} must be one finite number, found {values[:4].tolist()}")
    return float(values[0])


def integer(dataset: Dataset, keyword: str, where: str) -> int | None:
    """One whole number, None when absent or empty; DicomError otherwise."""
    value = number(dataset, keyword, where)
    if value is None:
        return None
    if value != int(value):
        raise DicomError(f"{where}: {keyword} {_tag(keyword)} must be a whole number, found {value:g}")
    return int(value)


def required_number(dataset: Dataset, keyword: str, where: str) -> float:
    """One finite number that must be there; DicomError otherwise."""
    value = number(dataset, keyword, where)
    if value is None:
        raise DicomError(f"{where}: {keyword} {_tag(keyword)} is missing; export the object again")
    return value


def required_integer(dataset: Dataset, keyword: str, where: str) -> int:
    """One whole number that must be there; DicomError otherwise."""
    value = integer(dataset, keyword, where)
    if value is None:
        raise DicomError(f"{where}: {keyword} {_tag(keyword)} is missing; export the object again")
    return value


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError) as error:
        # pydicom decodes values when they are asked for, and finds damage only then.
        raise DicomError(
            f"{keyword} {_tag(keyword)} cannot be decoded ({error}); the file is damaged: copy or export it again"
        ) from error


def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"'{keyword}' is no DICOM keyword")
    return Tag(tag)
