"""Structures (regions of interest) as contours, and the sets they come in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from doseeng.errors import Notice, StructureError


@dataclass(frozen=True, slots=True)
class PhysicalOverride:
    """A physical property that replaces the CT inside a structure (DICOM ROI Physical Properties).

    property: REL_MASS_DENSITY, REL_ELEC_DENSITY, REL_STOP_RATIO (value relative to water), MEAN_EXCI_ENERGY (eV), ...
    composition: (atomic number, mass fraction) pairs; they come with ELEM_FRACTION, whose value means nothing.
    """

    property: str
    value: float
    composition: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One region of interest.

    contours: closed planar polygons, each (n, 3) float64 patient points in mm. Polygons of one plane combine by
    even-odd filling (holes and keyholes). kind: RT ROI Interpreted Type (PTV, CTV, GTV, ORGAN, EXTERNAL, ...).
    """

    number: int
    name: str
    kind: str
    contours: tuple[npt.NDArray[np.float64], ...]
    color: tuple[int, int, int] | None = None
    overrides: tuple[PhysicalOverride, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when there is no contour at all."""
        return not self.contours

    @property
    def is_target(self) -> bool:
        """True for the target kinds of DICOM (GTV, CTV, PTV, BOOST)."""
        return self.kind.upper() in {"GTV", "CTV", "PTV", "BOOST", "ITV"}


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """Structures of one RTSTRUCT in file order. `uid` its SOP Instance UID."""

    label: str
    uid: str
    frame_of_reference_uid: str
    structures: tuple[Structure, ...]
    referenced_series_uid: str = ""
    notices: tuple[Notice, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All structure names in order."""
        return tuple(s.name for s in self.structures)

    def by_number(self, number: int) -> Structure:
        """The structure with a ROI number; StructureError if there is none."""
        for structure in self.structures:
            if structure.number == number:
                return structure
        raise StructureError(f"ROI number {number} is not in structure set '{self.label}'; it has {self._listing()}")

    def by_name(self, name: str) -> Structure:
        """The structure with exactly this name; StructureError names near misses (case, blanks) and never guesses."""
        found = [s for s in self.structures if s.name == name]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            numbers = ", ".join(str(s.number) for s in found)
            raise StructureError(f"name '{name}' stands for {len(found)} ROIs (numbers {numbers}); rename all but one")
        near = [s.name for s in self.structures if _folded(s.name) == _folded(name)]
        hint = f"; did you mean '{near[0]}'? Names are case-sensitive" if near else f"; it has {self._listing()}"
        raise StructureError(f"structure '{name}' is not in structure set '{self.label}'{hint}")

    def external(self) -> Structure | None:
        """The body outline (kind EXTERNAL), or None."""
        return next((s for s in self.structures if s.kind.upper() == "EXTERNAL" and not s.is_empty), None)

    def _listing(self) -> str:
        return ", ".join(f"'{n}'" for n in self.names) or "no structures"


def _folded(name: str) -> str:
    return "".join(name.casefold().split()).replace("_", "").replace("-", "")
