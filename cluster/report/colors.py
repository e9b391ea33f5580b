"""Colours of structures and isodoses, made readable on the three grounds of a report: CT, light page, dark page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from doseeng.structures import Structure

RGB = tuple[float, float, float]

ISODOSES: Final[tuple[tuple[float, str], ...]] = (
    (10.0, "#3b4cc0"),
    (30.0, "#2f8fe8"),
    (50.0, "#22b8b0"),
    (70.0, "#5cc046"),
    (90.0, "#e3d21f"),
    (95.0, "#f58a1c"),
    (105.0, "#e2331f"),
    (110.0, "#d41fa0"),
)
"""(percent of prescription, colour of the band that starts there)."""

EMPHASISED_PERCENT: Final = 95.0
"""The isodose that must enclose the target (ICRU 62: 95 % to 107 % of the prescription)."""

# A structure without a DICOM colour takes the next one of these (after Okabe and Ito 2008, safe for colour-blind eyes).
_PALETTE: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6bd1", "#b0a000")
_BODY_COLOR: Final = "#9aa5b1"
_LIGHT_PAGE: Final[RGB] = (1.0, 1.0, 1.0)
_DARK_PAGE: Final[RGB] = (0.08, 0.10, 0.13)
_CONTRAST_ON_LIGHT: Final = 3.0
"""WCAG 2.2, success criterion 1.4.11: graphics need a contrast of at least 3 : 1."""
_CONTRAST_ON_DARK: Final = 4.5
"""More than on the page, because soft tissue and dose wash are brighter than the dark ground."""


@dataclass(frozen=True, slots=True)
class StructureColor:
    """One hue as CSS colours: for dark grounds (pictures, dark page) and for a light page."""

    on_dark: str
    on_light: str


UNKNOWN_COLOR: Final = StructureColor("#c0c8d0", "#5f6b78")
"""For a structure that an evaluation names but the case lacks."""


def structure_colors(structures: Iterable[Structure]) -> dict[str, StructureColor]:
    """Colour by structure name: the one of the file where it has one, else one that no other structure was given."""
    colors: dict[str, StructureColor] = {}
    spare = 0
    for structure in structures:
        if structure.color is not None:
            base = _hex(tuple(c / 255.0 for c in structure.color))
        elif structure.kind.upper() == "EXTERNAL":
            base = _BODY_COLOR
        else:
            base = _PALETTE[spare % len(_PALETTE)]
            spare += 1
        colors[structure.name] = StructureColor(
            readable(base, _DARK_PAGE, _CONTRAST_ON_DARK), readable(base, _LIGHT_PAGE, _CONTRAST_ON_LIGHT)
        )
    return colors


def readable(color: str, ground: RGB, least_contrast: float) -> str:
    """`color` ("#rrggbb"), mixed with black or white until its contrast to `ground` is at least as asked."""
    rgb = tuple(int(color[i : i + 2], 16) / 255.0 for i in (1, 3, 5))
    toward = 0.0 if _luminance(ground) > 0.5 else 1.0
    for step in range(21):
        mixed = tuple(c + (toward - c) * step / 20 for c in rgb)
        if contrast(mixed, ground) >= least_contrast:
            break
    return _hex(mixed)


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Contrast ratio of two sRGB colours (components 0..1) as WCAG 2.2 defines it, 1..21."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(rgb: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
