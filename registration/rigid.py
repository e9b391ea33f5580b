"""Rigid registration: many starts on coarse images, Gauss-Newton steps on self-similarities from the best of them.

A cone-beam image may be 40 mm off, cut off on all sides, and in coordinates of its own. So the search starts from
every sensible guess of where the day lies, each with offsets around it, and ranks them by how well the images agree
there; only then are rotations let free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.transforms import RigidTransform, identity_transform, rigid_from_matrix, voxel_centres
from registration._kernels.flow import normal_equations
from registration.deformable import TOLERANCE
from registration.fieldofview import seen_region
from registration.images import (
    AIR_HU,
    ALL_SEEN,
    NOISE_HU,
    block_grid,
    coarser,
    moved,
    pair_of,
    similarities,
    working_grid,
)

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

SPACING_MM: Final = 3.0
SEARCH_FACTOR: Final = 4
FINE_STEPS: Final = {2: 12, 1: 6}
"""Voxels of the search and of the final steps in voxels of SPACING_MM, and how many steps."""
BLOCK: Final = 2
OFFSETS_MM: Final = (-36.0, 0.0, 36.0)
"""Around every guess along each axis: what lies between is within reach of a few steps on 12 mm voxels."""
KEPT: Final = (12, 3)
"""How many starts get a few steps of translation alone, and how many of those all the steps."""
SHORT_STEPS, LONG_STEPS = 4, 20
LEAST_OVERLAP: Final = 0.3
"""A start that takes more than the rest of the day out of the planning CT is no start."""
TISSUE_HU: Final = -300.0
STILL_MM: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """Similarities of the day on `grid`, which has the planning CT's axes and spacing, and those of the planning CT."""

    day: Float32
    planning: Float32
    grid: Grid
    planning_grid: Grid

    @property
    def nodes(self) -> Grid:
        """Where equations are gathered: a motion is the same for the voxels of a block, but for a small turn."""
        return block_grid(self.grid, (BLOCK, BLOCK, BLOCK))


@dataclass(frozen=True, slots=True)
class _Fit:
    """cost: mean over the day's voxels that land in the planning CT; overlap: their share (0..1)."""

    transform: RigidTransform
    cost: float
    overlap: float

    def rank(self, unexplained: float) -> float:
        """Mean cost of the whole day; what leaves the planning CT costs `unexplained`, so that leaving does not pay."""
        if self.overlap < LEAST_OVERLAP:
            return np.inf
        return self.cost * self.overlap + unexplained * (1.0 - self.overlap)


def register_rigid(
    planning: Volume,
    day: Volume,
    seen: Volume | None = None,
    isocenter_mm: npt.ArrayLike | None = None,
) -> RigidTransform:
    """The rigid transform that takes points of the day to points of the planning CT, about the middle of what is seen.

    planning, day: HU, any grids and frames of reference, but both in patient axes. seen: 1 where the day's image shows
    something (without: found in the image). isocenter_mm: (3,) of the plan; cone-beam images are often centred on it,
    or have it as their origin.
    RegistrationError: the day shows nothing, or no start brings it onto the planning CT.
    """
    shown = seen_region(day) if seen is None else seen
    search = _level(planning, day, shown, SEARCH_FACTOR)
    starts = [_fitted(search, t, 0) for t in _starts(planning, day, shown, isocenter_mm)]
    usual = float(np.median([fit.cost for fit in starts]))

    def best(fits: Iterable[_Fit], count: int) -> list[_Fit]:
        return sorted(fits, key=lambda fit: fit.rank(usual))[:count]

    shifted = [_fitted(search, fit.transform, SHORT_STEPS, turning=False) for fit in best(starts, KEPT[0])]
    (turned,) = best((_fitted(search, fit.transform, LONG_STEPS) for fit in best(shifted, KEPT[1])), 1)
    if not np.isfinite(turned.rank(usual)):
        raise RegistrationError(
            f"the day's image cannot be brought onto the planning CT: at best {100 * turned.overlap:.0f} % of it lies "
            f"there, at least {100 * LEAST_OVERLAP:.0f} % is needed; is it of this patient and body region?"
        )
    return _refined(planning, day, shown, turned.transform)


def _refined(planning: Volume, day: Volume, seen: Volume, transform: RigidTransform) -> RigidTransform:
    """Steps on finer images, of the day already moved: self-similarities turn with the image, which biases angles."""
    grid = working_grid(planning.grid, SPACING_MM)
    still = identity_transform(transform.apply(transform.centre_mm))
    for factor, steps in FINE_STEPS.items():
        there = Volume(grid, (moved(seen, transform, grid, 0.0).values > ALL_SEEN).astype(np.float32))
        level = _level(planning, moved(day, transform, grid, AIR_HU), there, factor)
        rest = _fitted(level, still, steps).transform
        transform = rigid_from_matrix(rest.matrix @ transform.matrix, transform.centre_mm)
    return transform


def _level(planning: Volume, day: Volume, seen: Volume, factor: int) -> _Level:
    grid = working_grid(planning.grid, SPACING_MM)
    around = _day_grid(day.grid, grid)
    pair = pair_of(planning, day, seen, grid, around)
    pair = coarser(pair, factor) if factor > 1 else pair
    noise_hu, factors = NOISE_HU / factor**0.5, (factor, factor, factor)
    return _Level(
        similarities(pair.day, pair.known, noise_hu),
        similarities(pair.planning, None, noise_hu),
        block_grid(around, factors),
        block_grid(grid, factors),
    )


def _day_grid(day: Grid, like: Grid) -> Grid:
    """The box of the day's image in voxels of another grid."""
    index = (day.corners_mm() @ like.direction) / np.asarray(like.spacing_mm)
    low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
    nx, ny, nz = (high - low + 1).astype(int)
    return Grid((nz, ny, nx), like.spacing_mm, tuple((low * like.spacing_mm) @ like.direction.T), like.direction)


def _starts(
    planning: Volume, day: Volume, seen: Volume, isocenter_mm: npt.ArrayLike | None
) -> Iterable[RigidTransform]:
    """Guesses of the translation, each with offsets around it."""
    middle = _middle(seen)
    guesses = [np.zeros(3), _tissue(planning) - _tissue(day)]
    if isocenter_mm is not None:
        isocenter = np.asarray(isocenter_mm, dtype=np.float64)
        guesses += [isocenter, isocenter - middle]
    distinct: list[Array] = []
    for guess in guesses:
        if all(np.linalg.norm(guess - other) > min(o for o in OFFSETS_MM if o > 0) / 2 for other in distinct):
            distinct.append(guess)
    for guess, offset in product(distinct, product(OFFSETS_MM, repeat=3)):
        yield RigidTransform(np.eye(3), guess + np.asarray(offset), middle)


def _middle(seen: Volume) -> Array:
    """Centre of what the day shows."""
    k, j, i = (axis.mean() for axis in np.nonzero(seen.values > ALL_SEEN))
    return seen.grid.to_patient((i, j, k))


def _tissue(volume: Volume) -> Array:
    """Centre of everything denser than lung; RegistrationError when there is nothing."""
    found = np.nonzero(volume.values > TISSUE_HU)
    if not len(found[0]):
        raise RegistrationError(
            f"an image shows no tissue (nothing above {TISSUE_HU:g} HU); was it exported in Hounsfield units, and is "
            "the patient in it?"
        )
    k, j, i = (axis.mean() for axis in found)
    return volume.grid.to_patient((i, j, k))


def _fitted(level: _Level, start: RigidTransform, steps: int, turning: bool = True) -> _Fit:
    """The transform after some Gauss-Newton steps, and how well it fits."""
    transform = start
    for _ in range(steps):
        equations = _equations(level, transform)
        stepped = _stepped(level, transform, equations, turning)
        change = np.abs(stepped.apply(level.grid.corners_mm()) - transform.apply(level.grid.corners_mm())).max()
        transform = stepped
        if change < STILL_MM:
            break
    _, _, cost, weight = _equations(level, transform)
    known = float((level.day[..., 0] >= 0).sum())
    counted = float(weight.sum())
    return _Fit(transform, float(cost.sum()) / max(counted, 1.0), counted / max(known, 1.0))


def _equations(level: _Level, transform: RigidTransform) -> tuple[Float32, Float32, Float32, Float32]:
    """Curvature, force (planning voxel units), cost and weight of the day's voxels, summed over blocks of them."""
    nodes = voxel_centres(level.nodes)
    field = (level.planning_grid.to_index(transform.apply(nodes)) - level.grid.to_index(nodes)).astype(np.float32)
    shape = level.nodes.shape
    curvature, force = np.zeros((*shape, 6), np.float32), np.zeros((*shape, 3), np.float32)
    cost, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    normal_equations(level.day, level.planning, field, BLOCK, np.float32(TOLERANCE), curvature, force, cost, weight)
    return curvature, force, cost, weight


def _stepped(
    level: _Level, transform: RigidTransform, equations: tuple[Float32, Float32, Float32, Float32], turning: bool
) -> RigidTransform:
    """One Gauss-Newton step: a small rotation w about the image of the centre and a translation t, in mm.

    A point at r from there moves by t + w x r, so that every voxel's 3 x 3 system adds to one of 6 x 6.
    """
    curvature, force = equations[0].reshape(-1, 6).astype(np.float64), equations[1].reshape(-1, 3).astype(np.float64)
    used = curvature[:, [0, 3, 5]].sum(axis=1) > 0
    points = transform.apply(voxel_centres(level.nodes).reshape(-1, 3)[used])
    pivot = transform.apply(transform.centre_mm)
    x, y, z = (points - pivot).T
    o = np.zeros_like(x)
    to_voxels = level.planning_grid.patient_to_index_matrix[:, :3]
    symmetric = curvature[used][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    pull = to_voxels.T @ symmetric @ to_voxels
    # Columns: translation, then the rotation vector, w x r = -[r]x w.
    cross = np.stack([o, z, -y, -z, o, x, y, -x, o], axis=-1).reshape(-1, 3, 3)
    motion = np.concatenate([np.broadcast_to(np.eye(3), cross.shape), cross], axis=2)
    if not turning:
        motion = motion[:, :, :3]
    matrix = np.einsum("nia,nij,njb->ab", motion, pull, motion, optimize=True)
    vector = np.einsum("nia,ni->a", motion, force[used] @ to_voxels, optimize=True)
    scale = np.trace(matrix) / len(matrix)
    change = np.zeros(6)
    change[: len(vector)] = np.linalg.solve(matrix + 1e-6 * scale * np.eye(len(matrix)), vector) if scale > 0 else 0.0
    turn = Rotation.from_rotvec(change[3:]).as_matrix()
    return RigidTransform(turn @ transform.rotation, transform.translation_mm + change[:3], transform.centre_mm)
