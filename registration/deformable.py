"""Deformable registration: Gauss-Newton steps on self-similarities, coarse to fine, with bending energy.

Every voxel of the day asks for a displacement that makes its self-similarity that of the planning CT where it is taken
to; a robust penalty takes voxels out that no displacement explains (gas, streaks), and unknown voxels ask for nothing.
The field of nodes minimises, at each step,

    sum robust(residual^2) + membrane * sum |grad u|^2 + bending * sum |laplacian u|^2

solved by preconditioned conjugate gradients. The bending term carries the field smoothly into what the day does not
show; the small membrane term keeps it bounded there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.transforms import DisplacementField, as_field, jacobian_determinant
from registration._kernels.flow import apply_curvature, laplacian, normal_equations
from registration.images import NOISE_HU, coarser, pair_of, similarities, working_grid

Float32 = npt.NDArray[np.float32]

LEVELS: Final = ((4, 1, 10), (2, 1, 10), (1, 2, 8))
"""Voxels of the working grid per image voxel, image voxels per node, Gauss-Newton steps: the last nodes are two voxels
of the working grid apart."""
TOLERANCE: Final = 0.05
"""Root-mean-square residual of a self-similarity (0..1) beyond which a voxel counts less and less."""
SOLVER_STEPS: Final = 30
LEAST_JACOBIAN: Final = 0.2
"""A field that squeezes tissue to less than a fifth of its volume is on its way to fold: it is made stiffer."""
STIFFER: Final = 4.0
MOST_STIFFENING: Final = 3


@dataclass(frozen=True, slots=True)
class DeformableSettings:
    """spacing_mm: of the working grid, where the images are as fine. bending, membrane: penalties per node."""

    spacing_mm: float = 2.0
    bending: float = 0.04
    membrane: float = 0.005


DEFAULT: Final = DeformableSettings()


def register_deformable(
    planning: Volume,
    day: Volume,
    seen: Volume | None = None,
    start: DisplacementField | None = None,
    settings: DeformableSettings = DEFAULT,
    progress: Callable[[int, int], None] | None = None,
) -> DisplacementField:
    """The pullback that takes points of the day to points of the planning CT, on the working grid of the planning CT.

    planning, day: HU, any grids of one frame. seen: 1 where the day's image shows something (without: wherever it
    reaches). start: a pullback to begin with, such as a rigid one. progress: called with (steps done, steps in all).
    RegistrationError: the images share nothing, or are too small.
    """
    grid = working_grid(planning.grid, settings.spacing_mm)
    pair = pair_of(planning, day, seen, grid)
    nodes = None if start is None else _in_voxels(as_field(grid, start).vectors_mm, grid)
    stride, steps, done = 1, sum(level[2] for level in LEVELS), 0
    for factor, per_node, count in LEVELS:
        images = coarser(pair, factor) if factor > 1 else pair
        fixed = similarities(images.day, images.known, NOISE_HU / factor**0.5)
        moving = similarities(images.planning, None, NOISE_HU / factor**0.5)
        shape = tuple(-(-n // per_node) for n in images.day.shape)
        nodes = _moved_to(nodes, stride, (shape[0], shape[1], shape[2]), factor * per_node)
        stride = factor * per_node
        for _ in range(count):
            nodes = step(fixed, moving, nodes, factor, per_node, settings)
            done += 1
            if progress is not None:
                progress(done, steps)
    if nodes is None or not np.isfinite(nodes).all():
        raise RegistrationError("the deformation does not settle; the day's image shows too little of the planning CT")
    return _unfolded(nodes, stride, grid, fixed, moving, settings)


def step(
    fixed: Float32, moving: Float32, nodes: Float32, factor: int, per_node: int, settings: DeformableSettings
) -> Float32:
    """One Gauss-Newton step.

    nodes: (lz, ly, lx, 3) displacement in voxels of the working grid, one node every factor * per_node of them; the
    images' own voxels are `factor` of them wide.
    """
    field = nodes / np.float32(factor)
    lattice = nodes.shape[:3]
    curvature, force = np.zeros((*lattice, 6), np.float32), np.zeros((*lattice, 3), np.float32)
    cost, weight = np.zeros(lattice, np.float32), np.zeros(lattice, np.float32)
    normal_equations(fixed, moving, field, per_node, np.float32(TOLERANCE), curvature, force, cost, weight)
    return _solved(curvature, force, field, settings.membrane * per_node, settings.bending * per_node) * factor


def _solved(curvature: Float32, force: Float32, field: Float32, membrane: float, bending: float) -> Float32:
    """u of (C - membrane L + bending L^2) u = C field + force, from `field`, by conjugate gradients (Jacobi)."""
    once, twice, out = (np.empty_like(field) for _ in range(3))

    def applied(v: Float32) -> Float32:
        laplacian(v, once)
        laplacian(once, twice)
        apply_curvature(curvature, v, out)
        return np.asarray(out - np.float32(membrane) * once + np.float32(bending) * twice)

    apply_curvature(curvature, field, out)
    # The diagonals of the discrete Laplacian and its square are 6 and 42.
    diagonal = curvature[..., [0, 3, 5]] + np.float32(6 * membrane + 42 * bending)
    rest = out + force
    rest -= applied(field)
    u, scaled = field.copy(), rest / diagonal
    direction, energy = scaled.copy(), float(np.vdot(rest, scaled))
    for _ in range(SOLVER_STEPS):
        if energy <= 0.0:
            break
        image = applied(direction)
        length = np.float32(energy / float(np.vdot(direction, image)))
        u += length * direction
        rest -= length * image
        scaled = rest / diagonal
        previous, energy = energy, float(np.vdot(rest, scaled))
        direction *= np.float32(energy / previous)
        direction += scaled
    return u


def _unfolded(
    nodes: Float32, stride: int, grid: Grid, fixed: Float32, moving: Float32, settings: DeformableSettings
) -> DisplacementField:
    """The field of the nodes on the grid, made stiffer as long as it is about to fold."""
    factor, per_node, count = LEVELS[-1]
    stiffer = settings
    for _ in range(MOST_STIFFENING):
        field = _on_grid(nodes, stride, grid)
        if float(jacobian_determinant(field).values.min()) > LEAST_JACOBIAN:
            return field
        stiffer = DeformableSettings(settings.spacing_mm, STIFFER * stiffer.bending, STIFFER * stiffer.membrane)
        for _ in range(count):
            nodes = step(fixed, moving, nodes, factor, per_node, stiffer)
    return _on_grid(nodes, stride, grid)


def _on_grid(nodes: Float32, stride: int, grid: Grid) -> DisplacementField:
    field = _moved_to(nodes, stride, grid.shape, 1)
    scaled = field * np.asarray(grid.spacing_mm, dtype=np.float32)
    return DisplacementField(grid, scaled @ grid.direction.T.astype(np.float32))


def _in_voxels(vectors_mm: Float32, grid: Grid) -> Float32:
    along = vectors_mm @ grid.direction.astype(np.float32)
    return np.ascontiguousarray(along / np.asarray(grid.spacing_mm, dtype=np.float32))


def _moved_to(nodes: Float32 | None, stride: int, shape: tuple[int, int, int], to_stride: int) -> Float32:
    """Nodes every `stride` voxels on a lattice of another stride; each stands for the middle of its block."""
    if nodes is None:
        return np.zeros((*shape, 3), np.float32)
    # Node n of a lattice lies at voxel n * stride + (stride - 1) / 2: both lattices as grids in voxel units.
    nz, ny, nx = nodes.shape[:3]
    middle, own = (to_stride - 1) / 2, (stride - 1) / 2
    old = DisplacementField(Grid((nz, ny, nx), (float(stride),) * 3, (own,) * 3), nodes)
    new = Grid(shape, (float(to_stride),) * 3, (middle,) * 3)
    return as_field(new, old).vectors_mm
