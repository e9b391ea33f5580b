"""What a physicist looks at before trusting the dose of a photon beam: its fields in numbers, and what is unusual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.accessories import GOLDEN_WEDGE, is_swept, towards_toe, wedge_model
from doseeng.errors import Notice
from doseeng.fluence import Exposure, exposures, opening_box
from doseeng.grid import Volume, beam_frame
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.plan import PhotonBeam, Wedge
from doseeng.structures import StructureSet

Array = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]

LARGEST_FIELD_MM: Final = 400.0
LEAF_REACH_MM: Final = 200.0
LEAF_OVERTRAVEL_MM: Final = 150.0
"""Leaves of common collimators reach this far back, and this far across the axis."""
LARGEST_MU_PER_DEG: Final = 20.0
TISSUE_GCM3: Final = 0.1
"""Anything denser is no air (lung: 0.2)."""
RAYS: Final = 15
"""Rays along each side of the open field that are followed to the ends of the image."""


@dataclass(frozen=True, slots=True)
class FieldSummary:
    """A photon beam in numbers; lengths in the isocentre plane, MU of one fraction.

    smallest_mu, largest_mu: between two control points, where meterset is given. arc_deg: way of the gantry;
    mu_per_deg: the largest along an arc, None without one. width_x_mm, width_y_mm: of the exposure with the largest
    open box; equivalent_square_mm: square with as much area per circumference as that box (Sterling et al., Br J Radiol
    37 (1964) 544). open_cm2: largest opening of a control point. jaw_x_mm, jaw_y_mm, leaf_mm: outermost positions,
    None where the beam has no such device.
    """

    control_points: int
    mu: float
    smallest_mu: float
    largest_mu: float
    arc_deg: float
    mu_per_deg: float | None
    width_x_mm: float
    width_y_mm: float
    equivalent_square_mm: float
    open_cm2: float
    jaw_x_mm: tuple[float, float] | None
    jaw_y_mm: tuple[float, float] | None
    leaf_mm: tuple[float, float] | None


def field_summary(beam: PhotonBeam) -> FieldSummary:
    """What a plan sheet says of a beam."""
    mu = np.diff(beam.meterset_fraction) * beam.meterset_mu
    turned = np.abs(np.diff(beam.gantry_deg))
    boxes = [opening_box(beam, exposure) for exposure in exposures(beam)]
    width_x, width_y = max(((b[1] - b[0], b[3] - b[2]) for b in boxes), key=lambda width: width[0] * width[1])
    return FieldSummary(
        control_points=len(mu) + 1,
        mu=beam.meterset_mu,
        smallest_mu=float(mu[mu > 0].min()),
        largest_mu=float(mu.max()),
        arc_deg=float(turned.sum()),
        mu_per_deg=float((mu[turned > 0] / turned[turned > 0]).max()) if turned.any() else None,
        width_x_mm=width_x,
        width_y_mm=width_y,
        equivalent_square_mm=2.0 * width_x * width_y / (width_x + width_y) if width_x + width_y else 0.0,
        open_cm2=float(open_areas_cm2(beam).max()),
        jaw_x_mm=_outermost([beam.jaw_x_mm]),
        jaw_y_mm=_outermost([beam.jaw_y_mm]),
        leaf_mm=_outermost([mlc.leaf_mm for mlc in beam.mlcs]),
    )


def _outermost(positions: Sequence[Array]) -> tuple[float, float] | None:
    if not positions or not all(np.isfinite(p).all() for p in positions):
        return None
    return float(min(p.min() for p in positions)), float(max(p.max() for p in positions))


def open_areas_cm2(beam: PhotonBeam) -> Array:
    """(n_cp,) what jaws and all layers of leaves leave open in the isocentre plane, leaf tip offsets not counted."""
    turned = bool(beam.mlcs) and beam.mlcs[0].axis == "Y"
    along, across = (beam.jaw_y_mm, beam.jaw_x_mm) if turned else (beam.jaw_x_mm, beam.jaw_y_mm)
    edge = np.unique(np.concatenate([mlc.leaf_boundary_mm for mlc in beam.mlcs] or [across.ravel()]))
    middle = 0.5 * (edge[1:] + edge[:-1])
    low, high = along[:, :1], along[:, 1:]
    for mlc in beam.mlcs:
        pair = np.searchsorted(mlc.leaf_boundary_mm, middle) - 1
        over = (pair >= 0) & (pair < mlc.leaf_mm.shape[2])
        ends = mlc.leaf_mm[:, :, np.clip(pair, 0, mlc.leaf_mm.shape[2] - 1)]
        low, high = np.maximum(low, np.where(over, ends[:, 0], np.inf)), np.minimum(high, ends[:, 1])
    width = np.minimum(edge[1:], across[:, 1:]) - np.maximum(edge[:-1], across[:, :1])
    return np.asarray((np.clip(high - low, 0.0, None) * np.clip(width, 0.0, None)).sum(axis=1) / 100.0)


def beam_checks(beam: PhotonBeam, machine: PhotonMachine) -> tuple[Notice, ...]:
    """Notices of what is unusual in a beam, or computed with less than full knowledge.

    MachineError for a wedge that the machine does not have.
    """
    where = f"beam {beam.number} '{beam.name}'"
    found = [*_size_checks(beam), *_meterset_checks(beam), *_wedge_checks(beam, machine, where), *_block_checks(beam)]
    return tuple(Notice(code, where, text) for code, text in found)


def _size_checks(beam: PhotonBeam) -> Iterator[tuple[str, str]]:
    summary = field_summary(beam)
    width = max(summary.width_x_mm, summary.width_y_mm)
    if width > LARGEST_FIELD_MM + 1.0:
        yield "field-too-large", f"is {width:.0f} mm wide; common machines open no more than {LARGEST_FIELD_MM:.0f} mm"
    for mlc in beam.mlcs:
        lower, upper = mlc.leaf_mm[:, 0], mlc.leaf_mm[:, 1]
        across = max(lower.max(), -upper.min())
        if max(-lower.min(), upper.max()) > LEAF_REACH_MM or across > LEAF_OVERTRAVEL_MM:
            yield (
                "leaf-out-of-reach",
                f"MLC{mlc.axis} leaves end between {mlc.leaf_mm.min():g} and {mlc.leaf_mm.max():g} mm, up to "
                f"{across:g} mm across the axis; common collimators reach {LEAF_REACH_MM:g} mm back and "
                f"{LEAF_OVERTRAVEL_MM:g} mm across",
            )


def _meterset_checks(beam: PhotonBeam) -> Iterator[tuple[str, str]]:
    rate = field_summary(beam).mu_per_deg
    if rate is not None and rate > LARGEST_MU_PER_DEG:
        yield (
            "many-mu-per-degree",
            f"gives up to {rate:.1f} MU per degree of its arc; machines give up to about {LARGEST_MU_PER_DEG:g}",
        )
    closed = [exposure for exposure in exposures(beam) if not any(opening_box(beam, exposure))]
    if closed:
        mu = sum(exposure.mu for exposure in closed)
        yield "closed-field", f"gives {mu:.1f} of {beam.meterset_mu:.1f} MU with all leaves or jaws closed"


def _wedge_checks(beam: PhotonBeam, machine: PhotonMachine, where: str) -> Iterator[tuple[str, str]]:
    for wedge in beam.wedges:
        if not is_swept(wedge):
            model = wedge_model(wedge, machine, where)
            low, high = _reach_towards_toe(beam, wedge)
            if low < model.position_mm[0] or high > model.position_mm[-1]:
                yield (
                    "field-beyond-wedge",
                    f"is open from {low:.0f} to {high:.0f} mm along wedge '{wedge.id}', which is known from "
                    f"{model.position_mm[0]:g} to {model.position_mm[-1]:g} mm; its ends were continued",
                )
        elif not any(w.id.upper() == GOLDEN_WEDGE for w in machine.wedges):
            yield (
                "golden-wedge-table",
                f"dynamic wedge '{wedge.id}' is computed with the maker's golden table, not with one of this machine",
            )


def _reach_towards_toe(beam: PhotonBeam, wedge: Wedge) -> tuple[float, float]:
    boxes = np.array([opening_box(beam, exposure) for exposure in exposures(beam)])
    u = np.array([boxes[:, 0].min(), boxes[:, 1].max()])
    v = np.array([boxes[:, 2].min(), boxes[:, 3].max()])
    distance = towards_toe(wedge, u, v)
    return float(distance.min()), float(distance.max())


def _block_checks(beam: PhotonBeam) -> Iterator[tuple[str, str]]:
    names = ", ".join(f"'{block.name}'" for block in beam.blocks)
    if beam.blocks and beam.block_tray_factor is None:
        yield "block-tray-left-out", f"the plan gives no tray factor for block {names}; trays were taken as air"
    straight = ", ".join(f"'{block.name}'" for block in beam.blocks if not block.divergent)
    if straight:
        yield "block-edges-not-divergent", f"block {straight} has straight edges; they were computed as divergent ones"


def image_end_checks(beam: PhotonBeam, density_gcm3: Volume, patient_position: str) -> tuple[Notice, ...]:
    """A notice when the open field passes tissue at the first or last slice, where the patient goes on but not the CT.

    density_gcm3: of every voxel. Only where rays cross the outer faces of the slice stack is looked at.
    """
    met = np.zeros(2, dtype=np.bool_)
    for exposure in exposures(beam):
        box = opening_box(beam, exposure)
        if any(box):
            met |= _meets_ends(exposure, box, beam.source_axis_mm, density_gcm3, patient_position)
    if not met.any():
        return ()
    ends = " and ".join(name for name, hit in zip(("first", "last"), met, strict=True) if hit)
    text = (
        f"the open field leaves the image through tissue of its {ends} slice; what the missing part of the patient "
        "attenuates and scatters is not computed: use an image that is longer"
    )
    return (Notice("image-ends-in-field", f"beam {beam.number} '{beam.name}'", text),)


def _meets_ends(
    exposure: Exposure, box: Box, source_axis_mm: float, density: Volume, patient_position: str
) -> npt.NDArray[np.bool_]:
    """(2,) whether rays of the open box pass tissue at the outer face of the first and of the last slice."""
    frame = beam_frame(
        exposure.isocenter_mm, exposure.gantry_deg, exposure.couch_deg, patient_position, exposure.collimator_deg
    )
    u, v = np.meshgrid(np.linspace(box[0], box[1], RAYS), np.linspace(box[2], box[3], RAYS))
    plane = np.stack([u.ravel(), v.ravel(), np.zeros(u.size)], axis=1)
    grid = density.grid
    source = grid.to_index(frame.to_patient((0.0, 0.0, source_axis_mm)))
    way = grid.to_index(frame.to_patient(plane)) - source
    size = np.array(grid.shape[::-1])
    met = np.zeros(2, dtype=np.bool_)
    for end, (face, k) in enumerate(((-0.5, 0), (size[2] - 0.5, size[2] - 1))):
        oblique = np.abs(way[:, 2]) > 1e-6
        along = (face - source[2]) / way[oblique, 2]
        crossing = (way[oblique] * along[:, None] + source)[along > 0.0]
        index = np.rint(crossing[:, :2]).astype(np.intp)
        i, j = index[np.all((index >= 0) & (index < size[:2]), axis=1)].T
        met[end] = bool(np.any(density.values[k, j, i] > TISSUE_GCM3))
    return met


def couch_check(structures: StructureSet | None) -> Notice:
    """Says whether a treatment couch is part of the computation."""
    names = (
        [s.name for s in structures.structures if s.kind.upper() == "SUPPORT" and not s.is_empty] if structures else []
    )
    if names:
        listing = ", ".join(f"'{name}'" for name in names)
        return Notice("couch-in", "", f"beams pass the treatment couch: {listing} are part of the computation")
    text = "no structure of type SUPPORT: beams from below are computed without the treatment couch"
    return Notice("couch-out", "", text)
