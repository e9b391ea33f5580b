"""What becomes of each DICOM attribute in de-identification: the table of PS3.15 Annex E, as doseeng applies it.

Basic Application Level Confidentiality Profile with the options Clean Descriptors, Clean Structured Content, Retain
Device Identity (the machine decides the dose) and Retain Longitudinal Temporal Information With Modified Dates.
"""

from __future__ import annotations

import tomllib
from enum import Enum
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.tag import BaseTag

PROFILE: Final[tuple[tuple[str, str], ...]] = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113104", "Clean Structured Content Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113109", "Retain Device Identity Option"),
)
"""Codes of PS3.16 CID 7050 that a de-identified object names."""


class Action(Enum):
    """What is done to an element. The letters are those of Table E.1-1, where it has one."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    KEEP = "K"
    TERM = "term"
    """Kept but where it holds a long piece of identity: a short one ("HU") may be the term itself."""
    NAME = "name"
    """Kept where it holds no identity, else treated by the basic profile."""
    DESCRIPTION = "C"
    """Likewise, and where it holds no date or long number either."""
    SHIFT = "shift"
    PSEUDONYM = "pseudonym"
    RECURSE = "recurse"
    """Kept, and what is in its items treated one by one."""
    NUMBERS = "numbers"
    """Kept where it is nothing but numbers."""
    CODED = "coded"
    """Kept where it has the form of a coded string, else cleaned."""


_TEXT: Final = frozenset({"AE", "AS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBERS: Final = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_DATES: Final = frozenset({"DA", "DT", "TM"})
_DESCRIBING_UIDS: Final = ("ClassUID", "TransferSyntaxUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID")
"""UIDs that say what something is, and never which one."""
_SELF: Final = {"PatientID": Action.PSEUDONYM, "PatientName": Action.PSEUDONYM}


@lru_cache(maxsize=4096)
def action_of(tag: BaseTag, vr: str) -> Action:
    """What to do with an element of a data set (not of its file meta information)."""
    is_data = tag.group >= 8 and tag.group >> 8 not in (0x50, 0x60) and tag.element != 0
    if not is_data or tag.is_private or not dictionary_has_tag(tag):
        return Action.REMOVE
    keyword = keyword_for_tag(tag)
    if keyword in _SELF:
        return _SELF[keyword]
    letters, *options = _actions().get(keyword, "").split(" ")
    if not letters:
        return _unlisted(keyword, vr)
    if "dates" in options and vr in _DATES:
        return Action.SHIFT
    if "device" in options:
        return Action.RECURSE if vr == "SQ" else Action.NAME
    if "descriptors" in options and keyword in _table()["kept"]["descriptions"]:
        return Action.DESCRIPTION
    if "content" in options:
        return Action.RECURSE
    return _basic(keyword, letters, vr)


def basic_action_of(tag: BaseTag, vr: str) -> Action:
    """What the basic profile alone does: for what could not be cleaned. A dummy for what the table does not name."""
    keyword = keyword_for_tag(tag)
    return _basic(keyword, _actions().get(keyword, "D").split(" ")[0], vr)


def _basic(keyword: str, letters: str, vr: str) -> Action:
    """The strictest of several letters that leaves no object without an attribute that it must have."""
    if "U" in letters:
        return Action.RECURSE if vr == "SQ" else Action.UID
    if vr == "SQ":
        if letters == "D" and not keyword.endswith("CodeSequence"):
            return Action.RECURSE  # its attributes have actions of their own
        return Action.REMOVE if letters in ("X", "X/D") else Action.EMPTY
    if "D" in letters:
        return Action.DUMMY
    return Action.EMPTY if "Z" in letters else Action.REMOVE


def _unlisted(keyword: str, vr: str) -> Action:
    kept = _kept(keyword)
    if kept is not None:
        return kept
    if vr == "UI":
        return Action.KEEP if keyword.endswith(_DESCRIBING_UIDS) else Action.UID
    if vr == "SQ":
        return Action.RECURSE
    if vr in _NUMBERS:
        return Action.NUMBERS
    if vr == "CS":
        return Action.CODED
    if vr in _DATES:
        return Action.SHIFT
    return Action.EMPTY if vr in _TEXT else Action.REMOVE


def _kept(keyword: str) -> Action | None:
    for kind, action in (
        ("terms", Action.TERM),
        ("names", Action.NAME),
        ("data", Action.KEEP),
        ("dummies", Action.DUMMY),
    ):
        if keyword in _table()["kept"][kind]:
            return action
    return None


def _actions() -> dict[str, str]:
    actions: dict[str, str] = _table()["actions"]
    return actions


@cache
def _table() -> dict[str, Any]:
    text = files("cluster.security").joinpath("confidentiality.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
