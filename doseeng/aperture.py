"""Jaws and leaves of a photon beam in motion, and what they let through in the isocentre plane."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.aperture import add_transmission
from doseeng.errors import MachineError
from doseeng.machines.photonmodel import LeafModel, PhotonMachine
from doseeng.plan import Mlc, PhotonBeam

Array = npt.NDArray[np.float64]

WIDTH_TOLERANCE_MM: Final = 0.1
"""Leaf widths of plan and machine agree to this; planning systems round boundaries to about 0.01 mm."""
JAW_STEP_MM: Final = 1.0
"""Where jaws move across moving leaves, their product is averaged over steps of this length."""
OUTSIDE_MM: Final = 1e5
"""Stands for infinity where jaws or leaves have no end."""


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Jaws and leaves at the start [0] and end [1] of `mu` monitor units, during which they move evenly.

    jaw_x_mm, jaw_y_mm (2, 2): lower and upper edge, at OUTSIDE_MM where there is none. leaves_mm: (2, 2, n_leaf) of
    each layer, lower and upper bank.
    """

    mu: float
    jaw_x_mm: Array
    jaw_y_mm: Array
    leaves_mm: tuple[Array, ...]


def motion_between(beam: PhotonBeam, control_point: int, start: float, stop: float, mu: float) -> Motion:
    """The part from `start` to `stop` (0 to 1) of the way from one control point to the next."""
    way = slice(control_point, control_point + 2)
    jaws = (np.clip(jaw[way], -OUTSIDE_MM, OUTSIDE_MM) for jaw in (beam.jaw_x_mm, beam.jaw_y_mm))
    jaw_x, jaw_y = (_part(jaw, start, stop) for jaw in jaws)
    return Motion(mu, jaw_x, jaw_y, tuple(_part(mlc.leaf_mm[way], start, stop) for mlc in beam.mlcs))


@dataclass(frozen=True, slots=True, eq=False)
class Collimators:
    """What the machine knows of the collimators of a beam, sorted into strips along which the same leaves count.

    leaf_axis: along which leaves move, "X" without any. models: one per layer. strip_edge_mm (n_strip + 1,).
    neighbours (n_strip, n_layer, 2): the leaf pair over a strip, and the one whose tongue or groove reaches into it;
    numbered through all layers, -1 for none. closed (n_strip, n_layer, 2): transmission when all of them are closed,
    and when one of two is.
    """

    leaf_axis: str
    models: tuple[LeafModel, ...]
    jaw_transmission: float
    strip_edge_mm: Array
    neighbours: npt.NDArray[np.int64]
    closed: Array


def collimators(beam: PhotonBeam, machine: PhotonMachine) -> Collimators:
    """Strips for the beam's leaves; MachineError when the machine has no leaves of their widths.

    A leaf's side reaches half its height into the strip of its neighbour (tongue and groove): there the square root of
    the leaf transmission passes when only one of both is open.
    """
    models = tuple(_leaf_model(mlc, beam, machine) for mlc in beam.mlcs)
    cuts = [np.array([-OUTSIDE_MM, OUTSIDE_MM])]
    for mlc, model in zip(beam.mlcs, models, strict=True):
        inner = mlc.leaf_boundary_mm[1:-1]
        cuts += [mlc.leaf_boundary_mm, inner - _tongue_mm(mlc, model)[:-1], inner + _tongue_mm(mlc, model)[1:]]
    edge = np.unique(np.concatenate(cuts))
    middle = 0.5 * (edge[1:] + edge[:-1])
    neighbours = np.full((len(middle), len(models), 2), -1, dtype=np.int64)
    closed = np.zeros((len(middle), len(models), 2))
    first = 0
    for layer, (mlc, model) in enumerate(zip(beam.mlcs, models, strict=True)):
        neighbours[:, layer], closed[:, layer] = _of_layer(mlc, model, middle, first)
        first += len(mlc.leaf_boundary_mm) - 1
    axis = beam.mlcs[0].axis if beam.mlcs else "X"
    return Collimators(axis, models, machine.jaws.transmission, edge, neighbours, closed)


def _leaf_model(mlc: Mlc, beam: PhotonBeam, machine: PhotonMachine) -> LeafModel:
    width = np.diff(mlc.leaf_boundary_mm)
    known = [np.repeat([w for _, w in model.widths], [n for n, _ in model.widths]) for model in machine.leaves]
    for model, widths in zip(machine.leaves, known, strict=True):
        if widths.shape == width.shape and np.allclose(widths, width, rtol=0.0, atol=WIDTH_TOLERANCE_MM):
            return model
    has = "; ".join(f"'{model.id}': {_pattern(widths)}" for model, widths in zip(machine.leaves, known, strict=True))
    raise MachineError(
        f"beam {beam.number} '{beam.name}': has leaf pairs of {_pattern(width)}, but machine '{machine.name}' has "
        f"{has or 'no leaves'}; choose the machine that the plan was made for, or add these leaves to it"
    )


def _pattern(width: Array) -> str:
    """Leaf widths in runs: "10 x 10 mm, 40 x 5 mm"."""
    runs: list[list[float]] = []
    for value in np.round(width, 2):
        if runs and runs[-1][1] == value:
            runs[-1][0] += 1
        else:
            runs.append([1, value])
    return ", ".join(f"{count:g} x {value:g} mm" for count, value in runs)


def _tongue_mm(mlc: Mlc, model: LeafModel) -> Array:
    """(n_leaf,) strip along the sides of each leaf, at most half of the leaf."""
    return np.minimum(model.tongue_mm, 0.5 * np.diff(mlc.leaf_boundary_mm))


def _of_layer(mlc: Mlc, model: LeafModel, middle: Array, first: int) -> tuple[npt.NDArray[np.int64], Array]:
    """neighbours and closed (n_strip, 2) of one layer, whose leaf pairs are numbered from `first`."""
    boundary, pairs = mlc.leaf_boundary_mm, len(mlc.leaf_boundary_mm) - 1
    pair = np.searchsorted(boundary, middle) - 1
    over = (pair >= 0) & (pair < pairs)
    inside = np.clip(pair, 0, pairs - 1)
    tongue = _tongue_mm(mlc, model)[inside]
    below = over & (middle < boundary[inside] + tongue) & (pair > 0)
    above = over & (middle > boundary[inside + 1] - tongue) & (pair < pairs - 1)
    other = np.where(below, pair - 1, np.where(above, pair + 1, -1))
    neighbours = np.stack([np.where(over, first + pair, -1), np.where(other >= 0, first + other, -1)], axis=1)
    one = np.full(len(middle), np.sqrt(model.transmission))
    none = model.transmission + model.interleaf_transmission * (other >= 0)
    return neighbours.astype(np.int64), np.stack([none, one], axis=1)


def transmission_map(parts: Collimators, motions: Iterable[Motion], u_edge_mm: Array, v_edge_mm: Array) -> Array:
    """(n_v, n_u): monitor units times what jaws and leaves let through, averaged over each pixel.

    u_edge_mm (n_u + 1,), v_edge_mm (n_v + 1,): equally spaced edges of the pixels in the isocentre plane. Exact in
    area and time; only jaws that move across moving leaves or across other moving jaws are averaged over steps of
    JAW_STEP_MM.
    """
    turned = parts.leaf_axis == "Y"
    along_edge, across_edge = (v_edge_mm, u_edge_mm) if turned else (u_edge_mm, v_edge_mm)
    out = np.zeros((len(across_edge) - 1, len(along_edge) - 1))
    strip_edge = _pixels(parts.strip_edge_mm, across_edge)
    for motion in motions:
        along, across = (motion.jaw_y_mm, motion.jaw_x_mm) if turned else (motion.jaw_x_mm, motion.jaw_y_mm)
        leaves = _leaf_ends(parts, motion)
        for start, stop in pairwise(_steps(along, across, leaves)):
            add_transmission(
                out,
                motion.mu * (stop - start),
                _pixels(_part(across, start, stop), across_edge),
                _pixels(_part(along, start, stop), along_edge),
                parts.jaw_transmission,
                _pixels(_part(leaves, start, stop), along_edge),
                strip_edge,
                parts.neighbours,
                parts.closed,
            )
    return out.T if turned else out


def _leaf_ends(parts: Collimators, motion: Motion) -> Array:
    """(2, 2, n_leaf) where the leaves of all layers end, farther open than stated by the offset of their tips."""
    outwards = np.array([-1.0, 1.0])[:, None]
    banks = [leaf + outwards * model.tip_offset_mm for leaf, model in zip(motion.leaves_mm, parts.models, strict=True)]
    return np.concatenate([np.empty((2, 2, 0)), *banks], axis=2)


def _steps(along: Array, across: Array, leaves: Array) -> Array:
    """(n + 1,) parts of a motion, 0 to 1, in which the jaws across may count as moving on their own."""
    way = np.abs(across[1] - across[0]).max()
    others_move = not (np.array_equal(along[0], along[1]) and np.array_equal(leaves[0], leaves[1]))
    return np.linspace(0.0, 1.0, 1 + max(1, int(np.ceil(way / JAW_STEP_MM)) if others_move else 1))


def _part(ends: Array, start: float, stop: float) -> Array:
    """Positions at `start` [0] and `stop` [1] of a motion between ends[0] and ends[1]."""
    return np.stack([ends[0] + share * (ends[1] - ends[0]) for share in (start, stop)])


def _pixels(position_mm: Array, edge_mm: Array) -> Array:
    """Positions in pixels from the first edge."""
    return (position_mm - edge_mm[0]) / (edge_mm[1] - edge_mm[0])
