"""What the collimators of photon beams leave open, as pictures seen from the source."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from cluster import photonbeams
from cluster.report.beams import beam_name
from cluster.report.slices import data_uri
from doseeng.fluence import exposures, opening_box
from doseeng.plan import Mlc, PhotonBeam, Plan

Array = npt.NDArray[np.float64]

_SIDE_PX: Final = 320
_DPI: Final = 100
_MARGIN_MM: Final = 15.0
_PIXELS: Final = 240
_WEBP_QUALITY: Final = 82
_STEPS: Final = 5
"""Places of moving leaves and jaws that are drawn between two control points."""
_SCALE_BARS_MM: Final = (50.0, 20.0, 10.0)
_WIDEST_SCALE_BAR: Final = 0.4
"""The longest bar that is shorter than this share of the picture is drawn."""


@dataclass(frozen=True, slots=True)
class Opening:
    """One picture: src is a data URI; alt says in words what is seen."""

    caption: str
    src: str
    alt: str


def beam_openings(plan: Plan) -> tuple[Opening, ...]:
    """A picture of every photon beam; none for protons, whose fields have no collimator."""
    return tuple(_opening(beam) for beam in plan.photon_beams) if plan.modality == "photon" else ()


def _opening(beam: PhotonBeam) -> Opening:
    boxes = np.array([opening_box(beam, exposure) for exposure in exposures(beam)])
    x0, x1, y0, y1 = boxes[:, 0].min(), boxes[:, 1].max(), boxes[:, 2].min(), boxes[:, 3].max()
    reach = 0.5 * max(x1 - x0, y1 - y0) + _MARGIN_MM
    u_mm, v_mm = (centre + np.linspace(-reach, reach, _PIXELS) for centre in (0.5 * (x0 + x1), 0.5 * (y0 + y1)))
    caption = f"{beam_name(beam)}: {photonbeams.technique(beam)}, {photonbeams.field_cm(beam)} cm"
    if beam.wedges or beam.blocks:
        caption += f", {photonbeams.accessories(beam)}"
    alt = f"Opening of beam {caption}, gantry {photonbeams.gantry(beam)} degrees"
    return Opening(caption, data_uri(_draw(beam, u_mm, v_mm)), alt)


def share_open(beam: PhotonBeam, u_mm: Array, v_mm: Array) -> npt.NDArray[np.float32]:
    """(n_v, n_u) share of the meterset in which a point of the isocentre plane lies between jaws and leaves.

    u_mm, v_mm: collimator X and Y. Wedges, blocks and transmission do not count.
    """
    share = np.zeros((len(v_mm), len(u_mm)), dtype=np.float32)
    given = np.diff(beam.meterset_fraction)
    for start in np.flatnonzero(given):
        for step in (np.arange(_STEPS) + 0.5) / _STEPS:
            across = _between(u_mm, _at(beam.jaw_x_mm, start, step))
            along = _between(v_mm, _at(beam.jaw_y_mm, start, step))
            is_open = np.outer(along, across)
            for mlc in beam.mlcs:
                is_open &= _between_leaves(mlc, _at(mlc.leaf_mm, start, step), u_mm, v_mm)
            share += np.float32(given[start] / _STEPS) * is_open
    return share


def _at(values: Array, start: np.intp, step: float) -> Array:
    """Positions a share of the way from one control point to the next; where there is no jaw it stays at infinity."""
    first, last = values[start], values[start + 1]
    moved: Array = np.where(first == last, first, first + step * np.nan_to_num(last - first))
    return moved


def _between(points_mm: Array, edges_mm: Array) -> npt.NDArray[np.bool_]:
    return (points_mm >= edges_mm[0]) & (points_mm <= edges_mm[1])


def _between_leaves(mlc: Mlc, leaf_mm: Array, u_mm: Array, v_mm: Array) -> npt.NDArray[np.bool_]:
    """(n_v, n_u) where the leaf pairs (2, n_leaf) leave open; beyond the outermost pairs no leaf is in the way."""
    moving, fixed = (u_mm, v_mm) if mlc.axis == "X" else (v_mm, u_mm)
    pair = np.searchsorted(mlc.leaf_boundary_mm, fixed, side="right") - 1
    beside = (pair < 0) | (pair >= leaf_mm.shape[1])
    low, high = leaf_mm[:, np.clip(pair, 0, leaf_mm.shape[1] - 1)]
    is_open = beside[:, None] | ((moving >= low[:, None]) & (moving <= high[:, None]))
    return is_open if mlc.axis == "X" else is_open.T


def _draw(beam: PhotonBeam, u_mm: Array, v_mm: Array) -> bytes:
    figure = Figure(figsize=(_SIDE_PX / _DPI, _SIDE_PX / _DPI), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (u_mm[0], u_mm[-1], v_mm[0], v_mm[-1])
    axes.imshow(share_open(beam, u_mm, v_mm), cmap="gray", vmin=0.0, vmax=1.0, extent=extent, origin="lower")
    axes.axhline(0.0, color="#5ad1ff", linewidth=0.7)
    axes.axvline(0.0, color="#5ad1ff", linewidth=0.7)
    for block in beam.blocks:
        axes.add_patch(Polygon(block.polygon_mm, closed=True, fill=False, edgecolor="#ffb000", linewidth=1.4))
    axes.set_xlim(*extent[:2])
    axes.set_ylim(*extent[2:])
    style: dict[str, Any] = {
        "xycoords": "axes fraction",
        "color": "white",
        "weight": "bold",
        "ha": "center",
        "va": "center",
        "path_effects": [patheffects.withStroke(linewidth=2.5, foreground="black")],
    }
    for name, at in (("X1", (0.05, 0.55)), ("X2", (0.95, 0.55)), ("Y1", (0.56, 0.04)), ("Y2", (0.56, 0.96))):
        axes.annotate(name, at, **style)
    shares = {bar: bar / (extent[1] - extent[0]) for bar in _SCALE_BARS_MM}
    bar, width = next((pair for pair in shares.items() if pair[1] < _WIDEST_SCALE_BAR), (0.0, 0.0))
    if bar:
        for color, line in (("black", 5.0), ("white", 2.5)):
            axes.plot([0.04, 0.04 + width], [0.04, 0.04], transform=axes.transAxes, color=color, linewidth=line)
        axes.annotate(f"{bar / 10.0:g} cm", (0.04 + 0.5 * width, 0.09), **style)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": _WEBP_QUALITY, "method": 2})
    return buffer.getvalue()
