"""What the quality gates measure of a day's registration: numbers and maps, no judgement.

Images are compared on a grid of half the resolution of the registration, on which a voxel averages eight: noise and
streaks of a cone-beam image weigh less there, and all measures together take a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, label

from doseeng.grid import Grid, Volume
from doseeng.masks import mask
from doseeng.structures import StructureSet
from doseeng.transforms import Array, as_field, voxel_centres, warped
from registration._kernels.flow import normal_equations
from registration.dayimage import corrections_hu
from registration.deformable import DEFAULT, TOLERANCE, step
from registration.images import AIR_HU, NOISE_HU, block_grid, coarsened, coarser, pair_of, similarities
from registration.result import DayRegistration

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FACTOR: Final = 2
"""Voxels of the working grid per voxel of the comparison."""
ASIDE_MM: Final = 10.0
"""Far enough from a right position that images no longer agree, near enough that the same tissues are compared."""
PUSH_MM: Final = 4.0
PUSH_CORRELATION_MM: Final = 30.0
"""Standard deviation per axis, and smoothness, of what a deformation is pushed by before it is found again."""
RESTART_STEPS: Final = 8
SEED: Final = 20250101
BODY_HU: Final = -500.0
BONE_HU: Final = 250.0
BONE_CELL_MM: Final = 40.0
"""Bones are looked at in pieces of this size: a spine bends and ribs turn against each other."""
LEAST_BONE_CM3: Final = 1.0
SOFT_HU: Final = (-20.0, 120.0)
AIR_MARGIN_MM: Final = 10.0
LEAST_AIR_CM3: Final = 100.0
LEAST_KNOWN_CM3: Final = 2.0
"""Fewer voxels say nothing about a structure."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both images of a registration on the comparison grid.

    fixed, moving: self-similarities (nz, ny, nx, 12) of day and planning CT. nodes: (nz, ny, nx, 3) the pullback in
    voxels of `grid`. known: where the day shows something.
    """

    grid: Grid
    fixed: Float32
    moving: Float32
    nodes: Float32
    known: Mask

    @cached_property
    def mismatch(self) -> tuple[list[Float32], list[Float32]]:
        """(sums, counts) of every voxel's disagreement: where the registration puts it, and ASIDE_MM to six sides."""
        sums, counts = [], []
        aside = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * ASIDE_MM / np.asarray(self.grid.spacing_mm)
        for offset in aside.astype(np.float32):
            shape = self.grid.shape
            curvature, force = np.zeros((*shape, 6), np.float32), np.zeros((*shape, 3), np.float32)
            cost, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            there = self.nodes + offset
            normal_equations(self.fixed, self.moving, there, 1, np.float32(TOLERANCE), curvature, force, cost, weight)
            sums.append(cost)
            counts.append(weight)
        return sums, counts

    @cached_property
    def restart_mm(self) -> Float32:
        """How far from the registration every voxel ends when the deformation is pushed aside and found again."""
        rng, spacing = np.random.default_rng(SEED), np.asarray(self.grid.spacing_mm, dtype=np.float32)
        sigma = [PUSH_CORRELATION_MM / s for s in self.grid.spacing_mm[::-1]]
        push = np.stack([gaussian_filter(rng.standard_normal(self.grid.shape), sigma) for _ in range(3)], axis=-1)
        nodes = (self.nodes + PUSH_MM / push.std() * push / spacing).astype(np.float32)
        for _ in range(RESTART_STEPS):
            nodes = step(self.fixed, self.moving, nodes, 1, 1, DEFAULT)
        return np.asarray(np.linalg.norm((nodes - self.nodes) * spacing, axis=-1), dtype=np.float32)

    def relative_mismatch(self, region: Mask) -> float:
        """Disagreement in a region over what it is ASIDE_MM away: 0 for equal images, 1 when no place is better.

        NaN where the day shows too little of it.
        """
        if not self.is_known(region):
            return np.nan
        sums, counts = self.mismatch
        means = [float(s[region].sum() / max(float(c[region].sum()), 1.0)) for s, c in zip(sums, counts, strict=True)]
        aside = float(np.mean(means[1:]))
        return means[0] / aside if aside > 0.0 else np.nan

    def restart_error_mm(self, region: Mask) -> float:
        """95th percentile of `restart_mm` in a region; NaN where the day shows too little of it."""
        return float(np.percentile(self.restart_mm[region & self.known], 95.0)) if self.is_known(region) else np.nan

    def is_known(self, region: Mask) -> bool:
        """Whether the day shows enough of a region to judge it."""
        return int((region & self.known).sum()) * self.grid.voxel_volume_cm3 >= LEAST_KNOWN_CM3

    def grown(self, region: Mask, margin_mm: float) -> Mask:
        """A region and what lies within about margin_mm of it."""
        return np.asarray(binary_dilation(region, iterations=max(1, round(margin_mm / min(self.grid.spacing_mm)))))


def comparison(registration: DayRegistration) -> Comparison:
    """The images of a registration, ready to be compared."""
    fine = registration.pullback.grid
    images = coarser(pair_of(registration.planning, registration.day, registration.seen, fine), FACTOR)
    grid = block_grid(fine, (FACTOR, FACTOR, FACTOR))
    noise_hu = NOISE_HU / FACTOR**0.5
    to_voxels = (grid.direction / np.asarray(grid.spacing_mm)).astype(np.float32)
    nodes = np.ascontiguousarray(as_field(grid, registration.pullback).vectors_mm @ to_voxels, dtype=np.float32)
    fixed, moving = similarities(images.day, images.known, noise_hu), similarities(images.planning, None, noise_hu)
    return Comparison(grid, fixed, moving, nodes, images.known > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Intensities:
    """HU on the working grid. planned: the deformed planning CT. correction: what is added to the day's own values.
    body: today's body."""

    planned: Float32
    day: Float32
    correction: Float32
    body: Mask
    known: Mask
    grid: Grid

    @property
    def tissue_overlap(self) -> float:
        """Dice of what is denser than BODY_HU in the corrected day and in the deformed planning CT, where both show."""
        one, other = (values[self.known] > BODY_HU for values in (self.planned, self.day + self.correction))
        total = int(one.sum()) + int(other.sum())
        return 2.0 * int((one & other).sum()) / total if total else np.nan

    @property
    def air_hu(self) -> float | None:
        """Median of the day beside the body; None when its field of view shows too little of that."""
        grown = binary_dilation(self.body, iterations=max(1, round(AIR_MARGIN_MM / min(self.grid.spacing_mm))))
        beside = self.known & ~grown
        if int(beside.sum()) * self.grid.voxel_volume_cm3 < LEAST_AIR_CM3:
            return None
        return float(np.median(self.day[beside]))

    @property
    def correction_hu(self) -> float:
        """95th percentile of the size of the correction in soft tissue; NaN when none is seen."""
        soft = self._soft
        return float(np.percentile(np.abs(self.correction[soft]), 95.0)) if soft.any() else np.nan

    @property
    def residual_hu(self) -> float:
        """Median difference of the corrected day to the deformed planning CT in soft tissue; NaN when none is seen."""
        soft = self._soft
        return float(np.median((self.day + self.correction - self.planned)[soft])) if soft.any() else np.nan

    @property
    def _soft(self) -> Mask:
        return self.known & self.body & (self.planned > SOFT_HU[0]) & (self.planned < SOFT_HU[1])


def intensities(registration: DayRegistration, today: StructureSet) -> Intensities:
    """Intensities of a day; the body is today's external contour where there is one."""
    planned = warped(registration.planning, registration.pullback, AIR_HU).values
    grid, external = registration.pullback.grid, today.external()
    if external is None:
        body = np.stack([binary_fill_holes(plane) for plane in planned > BODY_HU])
    else:
        body = mask(external, grid).values > 0.5
    known = registration.seen.values > 0
    return Intensities(planned, registration.day.values, corrections_hu(registration), body, known, grid)


def inverse_error_mm(registration: DayRegistration, body: Mask) -> float:
    """Largest distance in the body from where pushforward after pullback brings a point back to."""
    points = voxel_centres(registration.pullback.grid)[body]
    if not len(points):
        return np.nan
    back = registration.pushforward.apply(registration.pullback.apply(points))
    return float(np.linalg.norm(back - points, axis=1).max())


def bone_deviation_mm(registration: DayRegistration) -> float | None:
    """Largest root-mean-square deviation of a bone piece from its best rigid motion; None without bone in view.

    Pieces are connected parts of the planning CT above BONE_HU in cells of BONE_CELL_MM, seen today.
    """
    grid = registration.planning.grid
    bone = registration.planning.values > BONE_HU
    size = [max(1, round(BONE_CELL_MM / s)) for s in grid.spacing_mm[::-1]]
    least = LEAST_BONE_CM3 / grid.voxel_volume_cm3
    worst: float | None = None
    for low in np.ndindex(*(-(-n // c) for n, c in zip(grid.shape, size, strict=True))):
        corner = np.multiply(low, size)
        pieces, count = label(bone[tuple(slice(a, a + c) for a, c in zip(corner, size, strict=True))])
        for number in range(1, count + 1):
            index = np.argwhere(pieces == number) + corner
            planned = grid.to_patient(index[:, ::-1])
            today = registration.pushforward.apply(planned)
            shown = _values_at(registration.seen, today) > 0.5
            if int(shown.sum()) >= least:
                found = _rigid_residual_mm(planned[shown], today[shown])
                worst = found if worst is None else max(worst, found)
    return worst


def halved(values: Float32) -> Float32:
    """Values of the working grid on the comparison grid."""
    return coarsened(values, (FACTOR, FACTOR, FACTOR))


def halved_mask(values: Mask) -> Mask:
    """A mask of the working grid on the comparison grid: voxels of which more than half is inside."""
    return halved(values.astype(np.float32)) > 0.5


def _values_at(volume: Volume, points_mm: Array) -> Float32:
    """The nearest voxels' values at points (n, 3), 0 outside the grid."""
    index = np.rint(volume.grid.to_index(points_mm)).astype(int)
    inside = volume.grid.contains(points_mm)
    i, j, k = np.where(inside[:, None], index, 0).T
    return np.where(inside, volume.values[k, j, i], np.float32(0.0))


def _rigid_residual_mm(before: Array, after: Array) -> float:
    """Root-mean-square distance of points from where the best rigid motion takes them (Kabsch)."""
    a, b = before - before.mean(axis=0), after - after.mean(axis=0)
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return float(np.sqrt(((a @ turn - b) ** 2).sum(axis=1).mean()))
