"""Photon beams in words, for terminals and reports alike: what kind of beam, from where, how large."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from doseeng.photonchecks import field_summary
from doseeng.plan import PhotonBeam


def energy(beam: PhotonBeam) -> str:
    """Nominal energy and fluence mode: "6 MV", "10 MV FFF"."""
    mode = "" if beam.fluence_mode == "STANDARD" else beam.fluence_mode
    return f"{beam.energy_mv:g} MV {mode}".rstrip()


def technique(beam: PhotonBeam) -> str:
    """What moves: "static", "step and shoot" (between segments), "sliding window", "arc" or "VMAT"."""
    steps = np.diff(beam.meterset_fraction) > 0.0
    shapes = [beam.jaw_x_mm, beam.jaw_y_mm, *(mlc.leaf_mm.reshape(len(mlc.leaf_mm), -1) for mlc in beam.mlcs)]
    shape = np.nan_to_num(np.concatenate(shapes, axis=1))
    # Jaws that are not there stay at infinity, and infinity less infinity is no number.
    moves = np.any(np.diff(shape, axis=0) != 0.0, axis=1)
    if np.any(steps & (np.diff(beam.gantry_deg) != 0.0)):
        return "VMAT" if np.any(steps & moves) else "arc"
    if np.any(steps & moves):
        return "sliding window"
    return "step and shoot" if moves.any() else "static"


def gantry(beam: PhotonBeam, sign: str = "") -> str:
    """The gantry angle, or first and last of an arc with its direction; `sign` follows each number.

    IEC 61217 angles grow clockwise (CW) for a viewer who faces the gantry.
    """
    first, last = float(beam.gantry_deg[0]), float(beam.gantry_deg[-1])
    start = f"{first % 360.0:.1f}{sign}"
    return start if first == last else f"{start} to {last % 360.0:.1f}{sign} {'CW' if last > first else 'CCW'}"


def span(angle_deg: npt.NDArray[np.float64], sign: str = "") -> str:
    """A collimator or couch angle, or the smallest and the largest of a beam; `sign` follows each number."""
    low, high = (f"{float(angle) % 360.0:.1f}{sign}" for angle in (angle_deg.min(), angle_deg.max()))
    return low if low == high else f"{low} to {high}"


def field_cm(beam: PhotonBeam) -> str:
    """Width and length of the largest opening in the isocentre plane, collimator X by Y."""
    summary = field_summary(beam)
    return f"{summary.width_x_mm / 10.0:.1f} x {summary.width_y_mm / 10.0:.1f}"


def accessories(beam: PhotonBeam) -> str:
    """Wedges, blocks and boluses by name; "" without."""
    named = [
        *(f"wedge {wedge.id}" for wedge in beam.wedges),
        *(f"block {block.name}" for block in beam.blocks),
        *(f"bolus {name}" for name in beam.bolus),
    ]
    return ", ".join(named)
