"""From a photon beam to the energy fluence of its photons in the isocentre plane, one gantry position at a time.

The maps are aligned with the IEC 61217 beam limiting device system: u and v are its X and Y, so that jaws and leaves
move along the axes whatever the collimator angle. Two sources shine: the focal spot, and a wide extra-focal one in the
head (flattening filter, primary collimator), of which collimators hide a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.accessories import block_cover, is_swept, swept, wedge_factor
from doseeng.aperture import Motion, collimators, motion_between
from doseeng.errors import GeometryError, MachineError
from doseeng.headsources import blur_at, extrafocal_map, focal_map
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.plan import PhotonBeam, Wedge

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

LARGEST_STEP_DEG: Final = 5.0
"""An arc is computed at angles no farther apart than this."""
SAME_ANGLE_DEG: Final = 0.01
SAME_PLACE_MM: Final = 0.01
"""Control points that agree this well have one geometry."""
AXIS_TOLERANCE_MM: Final = 1.0
"""Plan and machine must agree on the distance from target to isocentre this well."""


@dataclass(frozen=True, slots=True)
class Interval:
    """`mu` monitor units from `start` to `stop` (0 to 1) of the way from a control point to the next."""

    control_point: int
    start: float
    stop: float
    mu: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """Everything that a beam gives with one geometry; angles in IEC 61217 degrees, mu of one fraction."""

    isocenter_mm: tuple[float, float, float]
    gantry_deg: float
    collimator_deg: float
    couch_deg: float
    mu: float
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FluenceMaps:
    """(n_v, n_u) monitor units times energy fluence over the focal one of the open machine on the axis, averaged over
    each pixel of the isocentre plane: photons of the focal spot, and those of the extra-focal source."""

    focal: Float32
    extrafocal: Float32


def exposures(beam: PhotonBeam) -> tuple[Exposure, ...]:
    """The geometries of a beam in order of first use; their monitor units add up to the beam's.

    Between control points everything moves evenly: an interval that turns farther than LARGEST_STEP_DEG is split into
    equal parts, each computed halfway. Intervals without meterset are left out.
    """
    found: dict[tuple[int, ...], Exposure] = {}
    angles = np.stack([beam.gantry_deg, beam.collimator_deg, beam.couch_deg], axis=1)
    for index, mu in enumerate(np.diff(beam.meterset_fraction) * beam.meterset_mu):
        if mu <= 0.0:
            continue
        turn = np.abs(angles[index + 1] - angles[index]).max()
        parts = max(1, int(np.ceil(turn / LARGEST_STEP_DEG - 1e-6)))
        for part in range(parts):
            interval = Interval(index, part / parts, (part + 1) / parts, float(mu) / parts)
            here = (part + 0.5) / parts
            gantry, collimator, couch = (1.0 - here) * angles[index] + here * angles[index + 1]
            x, y, z = (1.0 - here) * beam.isocenter_mm[index] + here * beam.isocenter_mm[index + 1]
            key = (
                *(round(angle % 360.0 / SAME_ANGLE_DEG) for angle in (gantry, collimator, couch)),
                *(round(place / SAME_PLACE_MM) for place in (x, y, z)),
            )
            new = Exposure((x, y, z), gantry, collimator, couch, 0.0, ())
            known = found.get(key, new)
            found[key] = replace(known, mu=known.mu + interval.mu, intervals=(*known.intervals, interval))
    return tuple(found.values())


def opening_box(beam: PhotonBeam, exposure: Exposure) -> tuple[float, float, float, float]:
    """(u min, u max, v min, v max) of a box that holds whatever jaws and leaves leave open during an exposure.

    Leaf tip offsets are not counted. All four are 0 when nothing is open.
    """
    boxes = [box for motion in _motions(beam, exposure) if (box := _open_box(beam, motion)) is not None]
    if not boxes:
        return 0.0, 0.0, 0.0, 0.0
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return float(low[0]), float(high[1]), float(low[2]), float(high[3])


def fluence_maps(beam: PhotonBeam, exposure: Exposure, machine: PhotonMachine, u_mm: Array, v_mm: Array) -> FluenceMaps:
    """What an exposure gives to pixels with centres u_mm (n_u,), v_mm (n_v,), equally spaced.

    An open field that hides nothing of the extra-focal source has a focal map of mu times the machine's profile and an
    extra-focal map of mu times `scatter_share`. Leaves, jaws and their tips, sides and transmission are those of the
    machine. MachineError when it lacks the beam's leaves or wedge or has another source to axis distance; PlanError for
    a dynamic wedge that is not supported; GeometryError for pixels of unequal size.
    """
    where = f"beam {beam.number} '{beam.name}'"
    if abs(beam.source_axis_mm - machine.source_axis_mm) > AXIS_TOLERANCE_MM:
        raise MachineError(
            f"{where}: has its isocentre {beam.source_axis_mm:g} mm from the source, but machine '{machine.name}' "
            f"{machine.source_axis_mm:g} mm; choose the machine that the plan was made for"
        )
    parts = collimators(beam, machine)
    pixels = _edges(u_mm), _edges(v_mm)
    focal, extrafocal = np.zeros((len(v_mm), len(u_mm))), np.zeros((len(v_mm), len(u_mm)))
    for wedges, motions in _by_wedges(beam, exposure, machine, where):
        factor = np.ones_like(focal)
        for wedge in wedges:
            factor *= wedge_factor(wedge, machine, where, u_mm, v_mm)
        focal += factor * focal_map(parts, motions, machine, exposure.collimator_deg, *pixels)
        extrafocal += factor * extrafocal_map(parts, motions, machine, u_mm, v_mm)
    below = _behind_blocks(beam, machine, exposure.collimator_deg, *pixels)
    profile = np.interp(np.hypot(u_mm, v_mm[:, None]), machine.profile_mm, machine.profile)
    # Rounding leaves some -1e-17 where nothing passes.
    focal, extrafocal = (np.maximum(values * below, 0.0) for values in (focal * profile, extrafocal))
    return FluenceMaps(focal.astype(np.float32), extrafocal.astype(np.float32))


def _motions(beam: PhotonBeam, exposure: Exposure) -> list[Motion]:
    return [motion_between(beam, i.control_point, i.start, i.stop, i.mu) for i in exposure.intervals]


def _open_box(beam: PhotonBeam, motion: Motion) -> tuple[float, float, float, float] | None:
    """What jaws and leaves leave open at the start, at the end or in between, None when nothing is."""
    low = np.array([motion.jaw_x_mm[:, 0].min(), motion.jaw_y_mm[:, 0].min()])
    high = np.array([motion.jaw_x_mm[:, 1].max(), motion.jaw_y_mm[:, 1].max()])
    for mlc, leaves in zip(beam.mlcs, motion.leaves_mm, strict=True):
        along, across = (0, 1) if mlc.axis == "X" else (1, 0)
        boundary, ends = mlc.leaf_boundary_mm, np.stack([leaves[:, 0].min(axis=0), leaves[:, 1].max(axis=0)])
        is_open = np.any(leaves[:, 0] < leaves[:, 1], axis=0)
        is_open &= (ends[0] < high[along]) & (ends[1] > low[along])
        is_open &= (boundary[:-1] < high[across]) & (boundary[1:] > low[across])
        if not is_open.any():
            return None
        low[along], high[along] = max(low[along], ends[0, is_open].min()), min(high[along], ends[1, is_open].max())
        low[across] = max(low[across], boundary[:-1][is_open].min())
        high[across] = min(high[across], boundary[1:][is_open].max())
    return (low[0], high[0], low[1], high[1]) if np.all(low < high) else None


def _edges(centre_mm: Array) -> Array:
    """(n + 1,) edges of equally spaced pixels; GeometryError when they are not."""
    steps = np.diff(centre_mm)
    if len(steps) == 0 or not np.all(np.isfinite(centre_mm)) or np.ptp(steps) > 1e-3 * abs(steps[0]) or steps[0] <= 0:
        raise GeometryError("pixels of a fluence map must be two or more along each axis, ascending and equally spaced")
    pitch = (centre_mm[-1] - centre_mm[0]) / (len(centre_mm) - 1)
    return np.asarray(centre_mm[0] + pitch * (np.arange(len(centre_mm) + 1) - 0.5))


def _by_wedges(
    beam: PhotonBeam, exposure: Exposure, machine: PhotonMachine, where: str
) -> Iterator[tuple[tuple[Wedge, ...], list[Motion]]]:
    """Wedges of metal in the beam and the motions behind them; wedges made by a moving jaw become motions of it."""
    groups: dict[tuple[int, ...], list[Motion]] = {}
    for interval, motion in zip(exposure.intervals, _motions(beam, exposure), strict=True):
        within = [n for n, wedge in enumerate(beam.wedges) if wedge.inside[interval.control_point]]
        metal = tuple(n for n in within if not is_swept(beam.wedges[n]))
        motions = [motion]
        for n in within:
            if n not in metal:
                motions = [m for each in motions for m in swept(each, beam.wedges[n], machine, where)]
        groups.setdefault(metal, []).extend(motions)
    for metal, motions in groups.items():
        yield tuple(beam.wedges[n] for n in metal), motions


def _behind_blocks(
    beam: PhotonBeam, machine: PhotonMachine, collimator_deg: float, u_edge: Array, v_edge: Array
) -> Array:
    """(n_v, n_u) what blocks and their trays let through, blurred by the focal spot's width."""
    factor = np.full(
        (len(v_edge) - 1, len(u_edge) - 1), 1.0 if beam.block_tray_factor is None else beam.block_tray_factor
    )
    for block in beam.blocks:
        blur = blur_at(machine, collimator_deg, (block.tray_mm, block.tray_mm), u_edge, v_edge)
        factor *= blur.cropped(block_cover(block, *blur.padded(u_edge, v_edge)))
    return factor
