"""The two sources of photons in the head of a linear accelerator, seen through jaws and leaves.

The focal spot is small: it blurs the edges of what collimators leave open. The extra-focal source (flattening filter,
primary collimator) is wide: collimators hide a part of it, which makes the output grow with the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d
from scipy.special import ive, ndtr

from doseeng._kernels.aperture import product
from doseeng.aperture import OUTSIDE_MM, Collimators, Motion, transmission_map
from doseeng.errors import MachineError
from doseeng.machines.photonmodel import PhotonMachine

Array = npt.NDArray[np.float64]

BLUR_SIGMAS: Final = 5.0
"""Maps are padded by this many sigmas of the focal spot's blur."""
SEEN_SIGMAS: Final = 4.0
CELLS_PER_SIGMA: Final = 8.0
"""The extra-focal source sees leaves up to this many of its sigmas away, in cells of such a part of one."""


def _plane_mm(parts: Collimators, machine: PhotonMachine) -> tuple[float, float]:
    """Where the beam is limited along u and along v: by leaves if there are any, else by jaws."""
    if not parts.models:
        return machine.jaws.x_plane_mm, machine.jaws.y_plane_mm
    plane = float(np.mean([model.plane_mm for model in parts.models]))
    return plane, plane


def focal_map(
    parts: Collimators,
    motions: Sequence[Motion],
    machine: PhotonMachine,
    collimator_deg: float,
    u_edge: Array,
    v_edge: Array,
) -> Array:
    """(n_v, n_u) what the focal spot shines through jaws and leaves, blurred by its width."""
    blur = blur_at(machine, collimator_deg, _plane_mm(parts, machine), u_edge, v_edge)
    return blur.cropped(transmission_map(parts, motions, *blur.padded(u_edge, v_edge)))


@dataclass(frozen=True, slots=True, eq=False)
class Blur:
    """Weights of neighbouring pixels along u and v; each has an odd length and sums to 1."""

    along_u: Array
    along_v: Array

    def padded(self, u_edge: Array, v_edge: Array) -> tuple[Array, Array]:
        """Edges of all pixels that the blur takes into account."""
        return _padded(u_edge, len(self.along_u) // 2), _padded(v_edge, len(self.along_v) // 2)

    def cropped(self, values: Array) -> Array:
        """The blurred map without the pixels that were padded."""
        u, v = len(self.along_u) // 2, len(self.along_v) // 2
        blurred = correlate1d(correlate1d(values, self.along_u, axis=1), self.along_v, axis=0)
        return np.asarray(blurred[v : blurred.shape[0] - v, u : blurred.shape[1] - u])


def _padded(edge: Array, pixels: int) -> Array:
    pitch = edge[1] - edge[0]
    return np.asarray(edge[0] + pitch * np.arange(-pixels, len(edge) + pixels))


def blur_at(
    machine: PhotonMachine, collimator_deg: float, plane_mm: tuple[float, float], u_edge: Array, v_edge: Array
) -> Blur:
    """How edges in a plane are blurred at the isocentre: the focal spot seen through a pinhole there.

    The spot stands still while collimators turn; what correlation that makes between u and v is left out.
    """
    x, y = machine.head.focal_mm
    c, s = np.cos(np.radians(collimator_deg)), np.sin(np.radians(collimator_deg))
    spot = (np.hypot(x * c, y * s), np.hypot(x * s, y * c))
    pitch = (u_edge[1] - u_edge[0], v_edge[1] - v_edge[0])
    return Blur(*(
        _taps(sigma * (machine.source_axis_mm - plane) / (plane * pixel))
        for sigma, plane, pixel in zip(spot, plane_mm, pitch, strict=True)
    ))  # fmt: skip


def _taps(sigma_pixels: float) -> Array:
    """The discrete Gaussian exp(-t) I_n(t) of variance t: exact in area and variance however small it is (Lindeberg,
    IEEE Trans Pattern Anal Mach Intell 12 (1990) 234)."""
    reach = int(np.ceil(BLUR_SIGMAS * sigma_pixels)) + 1
    weight = ive(np.abs(np.arange(-reach, reach + 1)), sigma_pixels**2)
    return np.asarray(weight / weight.sum())


def extrafocal_map(
    parts: Collimators, motions: Sequence[Motion], machine: PhotonMachine, u_mm: Array, v_mm: Array
) -> Array:
    """(n_v, n_u) what the extra-focal source, a Gaussian of `scatter_sigma_mm`, shines through jaws and leaves.

    From a point p of the isocentre plane, a point s of the source is seen through alpha p + beta s of each collimator,
    given as everything in the isocentre plane (`_view`). Jaws and leaves hide the source in their own planes. Leaves
    are averaged over cells that are narrow against the source; jaws that move count halfway.
    """
    seen = np.zeros((len(v_mm), len(u_mm)))
    if machine.head.scatter_share == 0.0:
        return seen
    planes = _plane_mm(parts, machine)
    views = [_view(machine, plane) for plane in planes]
    jaw_views = [_view(machine, machine.jaws.x_plane_mm), _view(machine, machine.jaws.y_plane_mm)]
    cells = [
        _cells(p, *view, machine.head.scatter_sigma_mm) if parts.models else np.array([-OUTSIDE_MM, OUTSIDE_MM])
        for p, view in zip((u_mm, v_mm), views, strict=True)
    ]
    for _, group in groupby(motions, key=lambda motion: (motion.jaw_x_mm.tobytes(), motion.jaw_y_mm.tobytes())):
        together = list(group)
        leaves = transmission_map(parts, [_without_jaws(motion) for motion in together], *cells)
        middle = [together[0].jaw_x_mm.mean(axis=0), together[0].jaw_y_mm.mean(axis=0)]
        along_u, along_v = (
            _seen_share(machine, p, cell, view, jaw, jaw_view)
            for p, cell, view, jaw, jaw_view in zip((u_mm, v_mm), cells, views, middle, jaw_views, strict=True)
        )
        seen += product(along_v, product(leaves, np.ascontiguousarray(along_u.T)))
    return machine.head.scatter_share * seen


def _without_jaws(motion: Motion) -> Motion:
    nowhere = np.tile([-OUTSIDE_MM, OUTSIDE_MM], (2, 1))
    return replace(motion, jaw_x_mm=nowhere, jaw_y_mm=nowhere)


def _view(machine: PhotonMachine, plane_mm: float) -> tuple[float, float]:
    """(alpha, beta): the line from s in the extra-focal source to p in the isocentre plane crosses a collimator at
    alpha p + beta s, projected from the focal spot to the isocentre plane."""
    axis, source = machine.source_axis_mm, machine.head.scatter_plane_mm
    if not source < plane_mm < axis:
        raise MachineError(
            f"machine '{machine.name}': has a collimator {plane_mm:g} mm from the target; expected it between the "
            f"extra-focal source at {source:g} mm and the isocentre at {axis:g} mm"
        )
    scale = axis / (plane_mm * (axis - source))
    return scale * (plane_mm - source), scale * (axis - plane_mm)


def _cells(p_mm: Array, alpha: float, beta: float, sigma_mm: float) -> Array:
    """Edges of cells that hold whatever is seen from p_mm, in the same places for every p_mm."""
    cell = beta * sigma_mm / CELLS_PER_SIGMA
    reach = SEEN_SIGMAS * CELLS_PER_SIGMA
    low, high = np.floor(alpha * p_mm.min() / cell - reach), np.ceil(alpha * p_mm.max() / cell + reach)
    return cell * np.arange(low, high + 1.0)


def _seen_share(
    machine: PhotonMachine,
    p_mm: Array,
    cell_edge_mm: Array,
    view: tuple[float, float],
    jaw_mm: Array,
    jaw_view: tuple[float, float],
) -> Array:
    """(n_p, n_cell) share of the extra-focal source along one axis that shines on p through each cell and the jaws."""
    sigma, transmission = machine.head.scatter_sigma_mm, machine.jaws.transmission
    side = (cell_edge_mm - view[0] * p_mm[:, None]) / (view[1] * sigma)
    side[:, 0], side[:, -1] = -np.inf, np.inf
    low, high = ((edge - jaw_view[0] * p_mm[:, None]) / (jaw_view[1] * sigma) for edge in jaw_mm)
    between_jaws = np.diff(ndtr(np.clip(side, low, high)), axis=1)
    return np.asarray(transmission * np.diff(ndtr(side), axis=1) + (1.0 - transmission) * between_jaws)
