"""Which pictures a report shows: three planes and a stack of axial ones, each with several doses side by side."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.report.colors import StructureColor
from cluster.report.slices import Window, choose_window, data_uri, draw, make_scene
from cluster.report.text import dose_decimals, dose_unit, number
from cluster.report.view import Plane, View, highest, make_view, slice_values
from doseeng.case import Case
from doseeng.errors import Notice
from doseeng.grid import Volume
from doseeng.structures import Structure
from robust.result import RobustReport


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: src is a data URI; alt says in words what is seen."""

    caption: str
    src: str
    alt: str


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane with its doses side by side."""

    plane: Plane
    position: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """All pictures. stack: axial planes, inferior to superior, of which `middle` goes through the centre; others: the
    coronal and the sagittal plane. structures: what is drawn, in order."""

    view: View
    window: Window
    stack: tuple[Slice, ...]
    middle: int
    others: tuple[Slice, ...]
    structures: tuple[Structure, ...]
    notices: tuple[Notice, ...]


def make_pictures(report: RobustReport, case: Case, colors: dict[str, StructureColor], stack_size: int) -> Pictures:
    """Draw everything; about 25 ms and 30 kB per picture."""
    view = make_view(report, case, stack_size)
    window = choose_window(case, view)
    structures = _drawn(report, case)
    notices: list[Notice] = []
    decimals = dose_decimals(view.reference_gy)

    def cut(plane: Plane, position_mm: float) -> Slice:
        scene, missing = make_scene(case, view, plane, position_mm, structures, colors)
        notices.extend(missing)
        where = f"{'xyz'[plane.axis]} = {number(position_mm)} mm"
        panels = []
        for caption, dose in _doses(report):
            peak = highest(slice_values(dose, scene.grid, 0.0))
            share = number(100 * peak / view.reference_gy)
            alt = (
                f"{plane.capitalize()} plane at {where}, {caption}: maximum {number(peak, decimals)} "
                f"{dose_unit(report.nominal.quantity)}, {share} % of the {view.reference_name}"
            )
            panels.append(Panel(caption, data_uri(draw(scene, dose, view.reference_gy, window)), alt))
        return Slice(plane, where, tuple(panels))

    return Pictures(
        view=view,
        window=window,
        stack=tuple(cut(Plane.AXIAL, z) for z in view.stack_mm),
        middle=view.stack_mm.index(float(view.centre_mm[2])),
        others=tuple(cut(p, float(view.centre_mm[p.axis])) for p in (Plane.CORONAL, Plane.SAGITTAL)),
        structures=structures,
        notices=tuple(dict.fromkeys(notices)),
    )


def _doses(report: RobustReport) -> list[tuple[str, Volume]]:
    """Caption and dose of each column; the worst scenario only where it is not the nominal one."""
    columns = [("nominal", report.nominal.volume)]
    if report.worst_index != 0:
        columns.append((f"worst scenario: {report.scenarios[report.worst_index].name}", report.worst.volume))
    return [*columns, ("lowest dose per voxel over all scenarios", report.voxel_min)]


def _drawn(report: RobustReport, case: Case) -> tuple[Structure, ...]:
    """The body outline, targets, and all structures the evaluation speaks of."""
    named = {band.structure for band in report.bands} | {result.goal.structure for result in report.goals}
    return tuple(
        s
        for s in case.structures.structures
        if not s.is_empty and (s.name in named or s.is_target or s is case.structures.external())
    )
