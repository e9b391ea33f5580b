"""Data elements looked at without decoding them all: a structure set holds millions of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


def vr_of(dataset: Dataset, tag: BaseTag) -> str:
    """The VR that an element says, else that of the dictionary, "UN" where neither knows. Of ambiguous ones ("US or
    SS", "OB or OW") the first, for either kind is treated alike."""
    vr = dataset.get_item(tag).VR
    if vr in (None, "UN") and dictionary_has_tag(tag):
        vr = dictionary_VR(tag)
    return str(vr or "UN")[:2]


def values_of(value: Any) -> list[str]:
    """The texts of an element, however many."""
    if value is None or value == "":
        return []
    return [str(one) for one in value] if isinstance(value, MultiValue | list) else [str(value)]


def each(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed."""
    changed = [change(text) for text in values_of(value)]
    return changed[0] if len(changed) == 1 else changed
