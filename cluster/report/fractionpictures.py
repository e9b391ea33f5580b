"""The pictures of a treatment day: is the registration right, what dose is given, how far has the tissue moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cluster.adaptation.result import FractionReport
from cluster.report.canvas import DASHED, DOTTED, Canvas, Levels
from cluster.report.colors import StructureColor
from cluster.report.pictures import Panel, Slice
from cluster.report.slices import (
    Image,
    Scene,
    Window,
    choose_window,
    data_uri,
    paint_dose,
    picture,
    scene_of,
)
from cluster.report.text import dose_decimals, dose_unit, number, signed
from cluster.report.view import Plane, View, highest, slice_gap_mm, slice_values, view_of
from doseeng.case import Case
from doseeng.dose import Dose
from doseeng.errors import Notice, StructureError
from doseeng.masks import mask
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import as_field, voxel_centres, warped
from registration.result import DayRegistration

DIFFERENCES: Final = (
    (-20.0, "#1f2fb5"),
    (-10.0, "#2f74e0"),
    (-5.0, "#3fa9ee"),
    (-2.0, "#8fd6f5"),
    (2.0, "#fbd38a"),
    (5.0, "#f79a3e"),
    (10.0, "#e2531f"),
    (20.0, "#a8102e"),
)
"""(percent of prescription, colour of the band that starts there and goes on away from zero)."""

MOTIONS: Final = ((2.0, "#2f8fe8"), (5.0, "#22b8b0"), (10.0, "#e3d21f"), (15.0, "#f58a1c"), (20.0, "#e2331f"))
"""(mm, colour of the band that starts there)."""

ARROW_SCALE: Final = 2.0
"""Arrows of motion are drawn this many times their length, or a few millimetres would not show."""

_ARROW_STEP_MM: Final = 15.0
_WASH_OPACITY: Final = 0.6
_AIR_HU: Final = -1000.0
_UNSEEN_LIGHT: Final = 0.4
"""What today's image does not show is this bright in pictures of both images."""
_SOFT_HU: Final = 200.0
_LEAST_VOXELS: Final = 500
"""Fewer soft-tissue voxels than this say nothing about an offset of intensities."""


@dataclass(frozen=True, slots=True)
class Planes:
    """The same pictures in axial planes, inferior to superior, of which `middle` goes through the centre, and in the
    coronal and the sagittal plane through it."""

    stack: tuple[Slice, ...]
    middle: int
    others: tuple[Slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FractionPictures:
    """All pictures; None or () where the day has nothing to draw them from.

    day_shift_hu: how much higher than the planning CT today's image is shown. structures: what is drawn, in order.
    """

    view: View
    window: Window
    day_shift_hu: float
    match: Planes | None
    dose: Planes | None
    motion: tuple[Panel, ...]
    structures: tuple[Structure, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """One plane. planned: the planning CT with the planned outlines; today: the same plane with today's."""

    plane: Plane
    where: str
    planned: Scene
    today: Scene


@dataclass(frozen=True, slots=True, eq=False)
class _Studio:
    """What all pictures share."""

    report: FractionReport
    case: Case
    view: View
    window: Window
    day_window: Window

    def panel(self, cut: _Cut, caption: str, alt: str, webp: bytes) -> Panel:
        return Panel(caption, data_uri(webp), f"{cut.plane.capitalize()} plane at {cut.where}, {alt}")


def make_fraction_pictures(
    report: FractionReport, case: Case, colors: dict[str, StructureColor], stack_size: int
) -> FractionPictures:
    """Draw what a day has: about 25 ms and 25 kB per picture; stack_size: axial planes at most."""
    dose = report.planned_dose or report.dose
    goals = [g.goal for g in report.goals]
    view = view_of(case, dose.volume if dose else None, "planned dose", goals, stack_size)
    window = choose_window(case, view)
    shift = _day_shift_hu(report.registration)
    day_window = Window(window.name, window.low_hu + shift, window.high_hu + shift)
    studio = _Studio(report, case, view, window, day_window)
    drawn = _drawn(report, case)
    today = _today(report.structures, drawn)
    notices: list[Notice] = []

    def cut(plane: Plane, position_mm: float) -> _Cut:
        planned, missing = scene_of(case.ct, view, plane, position_mm, drawn, colors)
        outlined, more = scene_of(case.ct, view, plane, position_mm, today, colors)
        notices.extend((*missing, *more))
        return _Cut(plane, f"{'xyz'[plane.axis]} = {number(position_mm)} mm", planned, outlined)

    axial = [cut(Plane.AXIAL, z) for z in view.stack_mm]
    others = [cut(p, float(view.centre_mm[p.axis])) for p in (Plane.CORONAL, Plane.SAGITTAL)]
    middle = view.stack_mm.index(float(view.centre_mm[2]))

    def planes(panels: Callable[[_Studio, _Cut], tuple[Panel, ...]]) -> Planes | None:
        slices = [Slice(c.plane, c.where, panels(studio, c)) for c in (*axial, *others)]
        return Planes(tuple(slices[: len(axial)]), middle, tuple(slices[len(axial) :])) if slices[0].panels else None

    registration = report.registration
    return FractionPictures(
        view=view,
        window=window,
        day_shift_hu=shift,
        match=planes(_match_panels),
        dose=planes(_dose_panels),
        motion=tuple(_motion_panel(studio, c, registration) for c in (axial[middle], *others)) if registration else (),
        structures=drawn,
        notices=tuple(dict.fromkeys(notices)),
    )


def _drawn(report: FractionReport, case: Case) -> tuple[Structure, ...]:
    """The body outline, targets, and all structures the evaluation speaks of."""
    named = {band.structure for band in report.bands} | {day.goal.structure for day in report.goals}
    return tuple(
        s
        for s in case.structures.structures
        if not s.is_empty and (s.name in named or s.is_target or s is case.structures.external())
    )


def _today(structures: StructureSet | None, drawn: tuple[Structure, ...]) -> tuple[Structure, ...]:
    names = {s.name for s in drawn}
    return tuple(s for s in structures.structures if not s.is_empty and s.name in names) if structures else ()


def _day_shift_hu(registration: DayRegistration | None) -> float:
    """Median difference of today's image to the planning CT where both show soft tissue, HU; 0 where neither does."""
    if registration is None:
        return 0.0
    day, planning = registration.day.values, registration.planning.values
    soft = (registration.seen.values > 0.5) & (np.abs(planning) < _SOFT_HU) & (np.abs(day) < 2 * _SOFT_HU)
    return float(np.median(day[soft] - planning[soft])) if soft.sum() >= _LEAST_VOXELS else 0.0


def _match_panels(studio: _Studio, cut: _Cut) -> tuple[Panel, ...]:
    registration = studio.report.registration
    if registration is None:
        return ()
    grid = cut.planned.grid
    seen = slice_values(registration.seen, grid, 0.0)
    today = replace(cut.today, ct_hu=slice_values(registration.day, grid, _AIR_HU))
    bare = replace(cut.planned, outlines=())
    deformed = warped(registration.planning, as_field(grid, registration.pullback), _AIR_HU).values
    deformed = deformed.squeeze(axis=grid.shape.index(1))
    straight = slice_values(registration.planning, grid, _AIR_HU)

    def both(planning_hu: Image) -> bytes:
        rgb = _both(planning_hu, studio.window, today.ct_hu, studio.day_window, seen)
        return picture(bare, studio.window, lambda canvas: _paint_edge(canvas, bare, seen), rgb)

    def marks(canvas: Canvas) -> None:
        _paint_dashed(canvas, cut.planned)
        _paint_edge(canvas, bare, seen)

    shown = number(100.0 * float(seen.mean()), 0)
    planned = picture(bare, studio.window, lambda canvas: _paint_dashed(canvas, cut.planned))
    return (
        studio.panel(cut, "planning CT", "planning CT with the planned contours", planned),
        studio.panel(
            cut,
            "today, couch corrected",
            f"today's image, which fills {shown} % of the picture, with planned and today's contours",
            picture(today, studio.day_window, marks),
        ),
        studio.panel(cut, "both, not deformed", "planning CT and today's image on each other", both(straight)),
        studio.panel(
            cut, "both, planning CT deformed", "deformed planning CT and today's image on each other", both(deformed)
        ),
    )


def _dose_panels(studio: _Studio, cut: _Cut) -> tuple[Panel, ...]:
    report, reference = studio.report, studio.view.reference_gy
    grid = cut.planned.grid
    panels = []
    planned = today = None
    if report.planned_dose is not None:
        planned = 100.0 * slice_values(report.planned_dose.volume, grid, 0.0) / reference
        webp = _washed(studio, replace(cut.planned, outlines=()), planned, cut.planned)
        panels.append(studio.panel(cut, "planned", f"planned: {_peak(planned, reference, report.planned_dose)}", webp))
    if report.dose is not None and report.image is not None:
        today = 100.0 * slice_values(report.dose.volume, grid, 0.0) / reference
        scene = replace(cut.today, ct_hu=slice_values(report.image, grid, _AIR_HU))
        webp = _washed(studio, scene, today, cut.planned)
        panels.append(studio.panel(cut, "today", f"today: {_peak(today, reference, report.dose)}", webp))
        if planned is not None:
            change = today - planned
            known = change[np.isfinite(change)]
            least, most = float(known.min(initial=0.0)), float(known.max(initial=0.0))
            alt = f"today minus planned: {signed(least)} % to {signed(most)} % of the {studio.view.reference_name}"
            webp = picture(scene, studio.window, lambda canvas: _paint_change(canvas, scene, change))
            panels.append(studio.panel(cut, "today minus planned", alt, webp))
    return tuple(panels)


def _washed(studio: _Studio, scene: Scene, percent: Image, planned: Scene) -> bytes:
    def paint(canvas: Canvas) -> None:
        paint_dose(canvas, scene, percent)
        _paint_dashed(canvas, planned)

    return picture(scene, studio.window, paint)


def _peak(percent: Image, reference_gy: float, dose: Dose) -> str:
    peak = highest(percent)
    gray = number(peak * reference_gy / 100.0, dose_decimals(reference_gy))
    return f"maximum {gray} {dose_unit(dose.quantity)}, {number(peak)} %"


def _motion_panel(studio: _Studio, cut: _Cut, registration: DayRegistration) -> Panel:
    """How far the tissue has moved from where it was planned, by colour and arrows."""
    scene = replace(cut.today, ct_hu=slice_values(registration.day, cut.planned.grid, _AIR_HU))
    axis = scene.grid.shape.index(1)
    # The pullback leads from today to the plan; the tissue went the other way.
    moved = -registration.pullback.at(voxel_centres(scene.grid)).squeeze(axis=axis)
    length = np.linalg.norm(moved, axis=-1)
    length[~_in_body(studio, scene)] = np.nan
    seen = slice_values(registration.seen, scene.grid, 0.0)

    def paint(canvas: Canvas) -> None:
        _paint_motion(canvas, scene, moved, length)
        _paint_edge(canvas, scene, seen)

    most = number(highest(length))
    webp = picture(scene, studio.day_window, paint)
    return studio.panel(cut, f"{cut.plane}, {cut.where}: at most {most} mm", f"motion of at most {most} mm", webp)


def _in_body(studio: _Studio, scene: Scene) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    sets = (studio.report.structures, studio.case.structures)
    body = next((s for each in sets if each and (s := each.external())), None)
    try:
        weight = mask(body, scene.grid, slice_gap_mm(studio.case.ct.grid)).values if body else None
    except StructureError:  # An outline that encloses nothing limits nothing.
        weight = None
    if weight is None:
        return np.ones((len(scene.rows_mm), len(scene.columns_mm)), dtype=np.bool_)
    return np.asarray(weight.squeeze(axis=scene.grid.shape.index(1)) > 0.5)


def _both(planning_hu: Image, window: Window, day_hu: Image, day_window: Window, seen: Image) -> Image:
    """(rows, columns, 3): the planning CT in red, today's image in cyan, grey where they agree; dim where unseen."""
    planning, day = _light(planning_hu, window), _light(day_hu, day_window)
    rgb = np.stack([planning, day, day], axis=-1)
    unseen = seen < 0.5
    rgb[unseen] = _UNSEEN_LIGHT * planning[unseen, None]
    return rgb


def _light(hu: Image, window: Window) -> Image:
    return np.clip((hu - window.low_hu) / (window.high_hu - window.low_hu), 0.0, 1.0).astype(np.float32)


def _paint_dashed(canvas: Canvas, scene: Scene) -> None:
    """The outlines of another scene, dashed."""
    for color, outline in scene.outlines:
        canvas.stroke(outline, "black", 2.4, opacity=0.45)
        canvas.stroke(outline, color, 1.4, dashes=DASHED)


def _paint_edge(canvas: Canvas, scene: Scene, seen: Image) -> None:
    """The edge of what today's image shows, dotted."""
    if seen.min() < 0.5 < seen.max():
        edge = Levels(scene.columns_mm, scene.rows_mm, seen).line(0.5)
        canvas.stroke(edge, "black", 2.4)
        canvas.stroke(edge, "white", 1.4, dashes=DOTTED)


def _paint_change(canvas: Canvas, scene: Scene, percent: Image) -> None:
    far = max(highest(np.abs(percent)), 100.0) + 1.0
    levels = Levels(scene.columns_mm, scene.rows_mm, percent)
    for sign in (-1.0, 1.0):
        bands = sorted((abs(level), color) for level, color in DIFFERENCES if sign * level > 0)
        ends = [*(level for level, _ in bands[1:]), far]
        for (start, color), end in zip(bands, ends, strict=True):
            canvas.fill(levels.band(*sorted((sign * start, sign * end))), color, _WASH_OPACITY)


def _paint_motion(canvas: Canvas, scene: Scene, moved: Image, length: Image) -> None:
    """Bands of length in mm, and arrows of the part of the motion that lies in the plane."""
    least = MOTIONS[0][0]
    if highest(length) <= least:
        return
    levels = Levels(scene.columns_mm, scene.rows_mm, length)
    ends = [*(start for start, _ in MOTIONS[1:]), max(highest(length), MOTIONS[-1][0]) + 1.0]
    for (start, color), end in zip(MOTIONS, ends, strict=True):
        canvas.fill(levels.band(start, end), color, _WASH_OPACITY)
    in_plane = [axis for axis in range(3) if axis != scene.plane.axis]
    step = max(round(_ARROW_STEP_MM / (scene.columns_mm[1] - scene.columns_mm[0])), 1)
    every = (slice(step // 2, None, step), slice(step // 2, None, step))
    rows, columns = np.nonzero(length[every] >= least)
    tails = np.column_stack([scene.columns_mm[every[1]][columns], scene.rows_mm[every[0]][rows]])
    canvas.arrows(tails, ARROW_SCALE * moved[every][rows, columns][:, in_plane])
