"""A synthetic thorax with a lung tumour: CT numbers and contours, the same on every machine."""

from __future__ import annotations

from typing import Final

import contourpy
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from cluster.demo.anatomy import CTV_MARGIN, FAT_MM, GTV_CENTRE, GTV_RADIUS, SKIN_MM, Anatomy, thorax
from cluster.demo.shapes import Field, Space, capsule, space_of
from doseeng.grid import Grid, Volume
from doseeng.structures import Structure

GRID: Final = Grid((76, 116, 168), (2.5, 2.5, 3.0), (-208.75, -138.75, -112.5))
SEED: Final = 20250101
NOISE_HU: Final = 14.0
"""Standard deviation of the image noise in a soft-tissue window of a thorax CT."""
TEXTURE_HU: Final = 22.0
"""Slow variation of lung density."""
EDGE_MM: Final = 2.5
"""Width over which a surface blends: about the resolution of the scanner."""
CONTOUR_DECIMALS: Final = 2
SMALLEST_CONTOUR_MM2: Final = 12.0
LONG_CONTOUR: Final = 80
"""Contours of more points keep every second one: 4 mm apart, which is 0.1 mm off the curve of a lung."""

AIR: Final = -1000.0
LUNG: Final = -790.0
LUNG_GRADIENT: Final = 0.5
"""HU per mm towards the back, where a lung of a patient lying down is denser."""
VESSELS_PER_LUNG: Final = 150
HILUM: Final = (48.0, 12.0, 8.0)
"""Where the vessels of the left lung begin; mirrored for the right."""


def make_anatomy() -> Anatomy:
    """The level fields of the phantom on its own grid."""
    return thorax(space_of(GRID))


def make_ct(anatomy: Anatomy, grid: Grid) -> Volume:
    """CT numbers (HU) of the phantom."""
    space = space_of(grid)
    rng = np.random.default_rng(SEED)
    hu = np.full(grid.shape, AIR, dtype=np.float32)
    _paint(hu, anatomy.body, 10.0)
    _paint(hu, anatomy.body - np.float32(SKIN_MM), -95.0)
    _paint(hu, anatomy.body - np.float32(SKIN_MM + FAT_MM), 48.0)
    _paint(hu, anatomy.cavity, -40.0)
    _paint(hu, np.minimum(anatomy.mediastinum, anatomy.body), -55.0)
    _paint(hu, anatomy.liver, 58.0)
    _paint(hu, anatomy.stomach, 42.0)
    lung = np.asarray(LUNG + LUNG_GRADIENT * space.y + _texture(grid, rng), dtype=np.float32)
    for side in (anatomy.lung_right, anatomy.lung_left):
        _paint(hu, side, lung)
    _paint_vessels(hu, space, anatomy, rng)
    for field, value in (
        (anatomy.great_vessels, 44.0),
        (anatomy.heart, 42.0),
        (anatomy.aorta, 46.0),
        (anatomy.airways + np.float32(2.0), 30.0),
        (anatomy.airways, -980.0),
        (anatomy.esophagus, 32.0),
        (anatomy.gtv, 36.0),
    ):
        _paint(hu, field, value)
    _paint_spicules(hu, space, rng)
    _paint_bones(hu, anatomy)
    noise = gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 0.6)
    hu += np.where(anatomy.body > 0, NOISE_HU / noise.std() * noise, 0.0).astype(np.float32)
    return Volume(grid, np.rint(np.maximum(hu, -1024.0)))


def make_structures(anatomy: Anatomy, grid: Grid) -> tuple[Structure, ...]:
    """Contours on every slice, under their TG-263 names."""
    lungs = np.maximum(anatomy.lung_right, anatomy.lung_left)
    rows: tuple[tuple[str, str, Field, tuple[int, int, int]], ...] = (
        # Round the blurred skin, as body contours are drawn: no tissue is left outside.
        ("BODY", "EXTERNAL", anatomy.body + np.float32(0.8 * EDGE_MM), (0, 190, 0)),
        ("GTV", "GTV", anatomy.gtv, (255, 60, 60)),
        ("CTV", "CTV", np.minimum(anatomy.ctv, np.maximum(lungs, anatomy.gtv)), (255, 150, 40)),
        ("Lung_R", "ORGAN", anatomy.lung_right, (110, 180, 255)),
        ("Lung_L", "ORGAN", anatomy.lung_left, (60, 120, 230)),
        ("Lungs-GTV", "ORGAN", np.minimum(lungs, -anatomy.gtv), (150, 210, 255)),
        ("Heart", "ORGAN", anatomy.heart, (255, 90, 180)),
        ("SpinalCord", "ORGAN", anatomy.cord, (255, 235, 60)),
        ("Esophagus", "ORGAN", anatomy.esophagus, (190, 120, 70)),
    )
    return tuple(
        Structure(number, name, kind, contours_of(field, grid), color)
        for number, (name, kind, field, color) in enumerate(rows, start=1)
    )


def contours_of(field: Field, grid: Grid) -> tuple[npt.NDArray[np.float64], ...]:
    """Closed contours (n, 3) where a level field is zero, slice by slice, in a grid along the patient axes."""
    space = space_of(grid)
    x, y = space.x.ravel(), space.y.ravel()
    found = []
    for z, plane in zip(space.z.ravel(), field, strict=True):
        for line in contourpy.contour_generator(x, y, plane).lines(0.0):
            points = np.round(np.asarray(line, dtype=np.float64)[:-1], CONTOUR_DECIMALS)
            if len(points) > LONG_CONTOUR:
                points = points[::2]
            if len(points) >= 4 and _area_mm2(points) >= SMALLEST_CONTOUR_MM2:
                found.append(np.column_stack([points, np.full(len(points), float(z))]))
    return tuple(found)


def _paint(hu: Field, field: Field, value: float | Field) -> None:
    """Blend `value` into hu where the field is positive."""
    touched = field > -0.5 * EDGE_MM
    share = np.clip(0.5 + field[touched] / np.float32(EDGE_MM), 0.0, 1.0)
    wanted = value[touched] if isinstance(value, np.ndarray) else np.float32(value)
    hu[touched] += share * (wanted - hu[touched])


def _texture(grid: Grid, rng: np.random.Generator) -> Field:
    smooth = gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 2.0)
    return np.asarray(TEXTURE_HU / smooth.std() * smooth, dtype=np.float32)


def _paint_bones(hu: Field, anatomy: Anatomy) -> None:
    """Cortical shells around trabecular cores."""
    _paint(hu, anatomy.discs, 80.0)
    _paint(hu, anatomy.cartilage, 95.0)
    for bone, shell, core, thickness in (
        (anatomy.vertebrae, 480.0, 190.0, 2.5),
        (anatomy.arches, 620.0, 420.0, 2.5),
        (anatomy.ribs, 700.0, 220.0, 2.0),
        (anatomy.sternum, 420.0, 140.0, 2.5),
        (anatomy.scapulae, 520.0, 260.0, 2.0),
    ):
        _paint(hu, bone, shell)
        _paint(hu, bone - np.float32(thickness), core)
    _paint(hu, anatomy.canal, 12.0)
    _paint(hu, anatomy.cord, 38.0)


def _paint_vessels(hu: Field, space: Space, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Branching vessels: every rod begins on an earlier one and leads away from the hilum."""
    for side, lung in ((-1.0, anatomy.lung_right), (1.0, anatomy.lung_left)):
        hilum = np.array(HILUM) * (side, 1.0, 1.0)
        ends = [(hilum, 5.0)]
        for _ in range(VESSELS_PER_LUNG):
            start, radius = ends[rng.integers(len(ends))]
            outwards = start - hilum + np.array([side * 25.0, 0.0, 0.0])
            direction = outwards / np.linalg.norm(outwards) + 0.8 * rng.standard_normal(3)
            end = start + direction / np.linalg.norm(direction) * rng.uniform(14.0, 30.0)
            thinner = radius * rng.uniform(0.62, 0.85)
            _paint_rod(hu, space, start, end, radius * 0.9, thinner, 30.0, lung)
            if thinner > 0.8:
                ends.append((end, thinner))


def _paint_spicules(hu: Field, space: Space, rng: np.random.Generator) -> None:
    """Fine strands between the tumour and the lung around it, all within the CTV margin and a little beyond."""
    centre = np.array(GTV_CENTRE)
    for _ in range(16):
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        start, end = centre + (GTV_RADIUS - 3.0) * direction, centre + (GTV_RADIUS + 1.6 * CTV_MARGIN) * direction
        _paint_rod(hu, space, start, end, 1.6, 0.2, 0.0, None)


def _paint_rod(
    hu: Field, space: Space, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], radius_start: float,
    radius_end: float, value: float, within: Field | None,
) -> None:  # fmt: skip
    reach = max(radius_start, radius_end) + EDGE_MM
    local, where = space.part(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
    if min(local.x.size, local.y.size, local.z.size) == 0:
        return
    rod = capsule(local, start, end, radius_start, radius_end)
    _paint(hu[where], rod if within is None else np.minimum(rod, within[where]), value)


def _area_mm2(points: npt.NDArray[np.float64]) -> float:
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
