"""Wedges and blocks of photon beams: what they let through, and the jaw that moves in place of a wedge."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.raster import coverage
from doseeng.aperture import Motion
from doseeng.errors import MachineError, PlanError
from doseeng.machines.photonmodel import PhotonMachine, WedgeModel
from doseeng.plan import Block, Wedge

Array = npt.NDArray[np.float64]

ANGLE_TOLERANCE_DEG: Final = 0.5
"""A wedge without a known name is found by its angle, which planning systems state in whole degrees."""
GOLDEN_WEDGE: Final = "EDW60"
"""Varian's enhanced dynamic wedge of 60 degrees, of which the others are made by mixing with an open field."""
GOLDEN_DEG: Final = 60.0
GOLDEN_PER_MM: Final = {6.0: 0.0036710, 10.0: 0.0028767}
"""Attenuation behind Varian's golden segmented treatment tables by nominal MV, see `golden_dose`."""
GOLDEN_DISTANCE_MM: Final = 1100.0
"""The isodose is straight 10 cm deep at 1 m from source to surface."""
FINAL_GAP_MM: Final = 5.0
"""The moving jaw stops this far from the fixed one."""
SWEEP_STEP_MM: Final = 5.0
SWEEP_REACH_MM: Final = (-200.0, 100.0)
"""The tables, and so the jaws of a field with such a wedge, end here; the toe is positive."""


def is_swept(wedge: Wedge) -> bool:
    """True for wedges that are made by a moving jaw."""
    return wedge.kind == "DYNAMIC"


def towards_toe(wedge: Wedge, u_mm: Array, v_mm: Array) -> Array:
    """(n_v, n_u) distance from the axis towards the toe (IEC 61217 wedge filter Y) in the isocentre plane."""
    angle = np.radians(wedge.orientation_deg)
    distance: Array = -np.sin(angle) * u_mm + np.cos(angle) * v_mm[:, None]
    return distance


def wedge_factor(wedge: Wedge, machine: PhotonMachine, where: str, u_mm: Array, v_mm: Array) -> Array:
    """(n_v, n_u) energy fluence behind a wedge of metal over that without it.

    The machine's wedge is found by name or else by angle; MachineError when there is none or several.
    """
    model = wedge_model(wedge, machine, where)
    return np.interp(towards_toe(wedge, u_mm, v_mm), model.position_mm, model.transmission)


def wedge_model(wedge: Wedge, machine: PhotonMachine, where: str) -> WedgeModel:
    """What the machine knows of a wedge of metal; MachineError when it knows nothing."""
    named = [w for w in machine.wedges if w.id.casefold() == wedge.id.casefold()]
    found = named or [w for w in machine.wedges if abs(w.angle_deg - wedge.angle_deg) <= ANGLE_TOLERANCE_DEG]
    if len(found) != 1:
        has = ", ".join(f"'{w.id}' ({w.angle_deg:g} degrees)" for w in machine.wedges) or "none"
        raise MachineError(
            f"{where}: uses wedge '{wedge.id}' of {wedge.angle_deg:g} degrees, which stands for {len(found)} wedges of "
            f"machine '{machine.name}'; it has: {has}; add the wedge to the machine under its name in the plan"
        )
    return found[0]


def swept(motion: Motion, wedge: Wedge, machine: PhotonMachine, where: str) -> tuple[Motion, ...]:
    """The motions of the jaw of an enhanced dynamic wedge (Varian) in place of one of resting jaws.

    The field is open while the first monitor units are given; then the Y jaw on the heel side moves up to
    FINAL_GAP_MM from the jaw on the toe side, so that every point has received its share of the table when the jaw
    passes it. PlanError when it is another kind of dynamic wedge, lies across the Y jaws, the field reaches beyond the
    table or something else moves; MachineError when there is no table for the beam.
    """
    name = f"{where}: dynamic wedge '{wedge.id}'"
    if not wedge.id.upper().startswith("EDW"):
        raise PlanError(f"{name} is not supported; of wedges made by a moving jaw, Varian's EDW is")
    turn = round(wedge.orientation_deg / 180.0)
    if abs(wedge.orientation_deg - 180.0 * turn) > ANGLE_TOLERANCE_DEG:
        raise PlanError(
            f"{name} has an orientation of {wedge.orientation_deg:g} degrees; expected 0 or 180, along the Y jaws"
        )
    ends = (motion.jaw_x_mm, motion.jaw_y_mm, *motion.leaves_mm)
    if not all(np.array_equal(start, stop) for start, stop in ends):
        raise PlanError(f"{name} is used while jaws or leaves move otherwise, which is not supported")
    toe = 1.0 if turn % 2 == 0 else -1.0
    start, fixed = sorted(toe * motion.jaw_y_mm[0])
    stop = fixed - FINAL_GAP_MM
    low, high = SWEEP_REACH_MM
    if start < low or fixed > high or stop <= start or wedge.angle_deg > GOLDEN_DEG:
        raise PlanError(
            f"{name} has an angle of {wedge.angle_deg:g} degrees, Y jaws {start:g} and {fixed:g} mm towards its toe; "
            f"expected up to {GOLDEN_DEG:g} degrees, {low:g} to {high:g} mm and a gap above {FINAL_GAP_MM:g} mm"
        )
    node = np.linspace(start, stop, 1 + int(np.ceil((stop - start) / SWEEP_STEP_MM)))
    golden = golden_dose(np.append(node, 0.0), machine, name)
    share = np.tan(np.radians(wedge.angle_deg)) / np.tan(np.radians(GOLDEN_DEG))
    mixed = share * golden[:-1] + (1.0 - share) * golden[-1]
    mu = motion.mu * np.diff(mixed, prepend=0.0) / mixed[-1]
    if np.any(mu < 0):
        raise MachineError(f"{name}: the table '{GOLDEN_WEDGE}' of machine '{machine.name}' must rise towards the toe")
    jaw = np.stack([node, np.full_like(node, fixed)], axis=1)[:, :: int(toe)] * toe
    before = np.concatenate([jaw[:1], jaw[:-1]])
    return tuple(
        Motion(part, motion.jaw_x_mm, np.stack(way), motion.leaves_mm)
        for part, *way in zip(mu, before, jaw, strict=True)
    )


def golden_dose(toe_mm: Array, machine: PhotonMachine, where: str) -> Array:
    """Table of the dynamic wedge of 60 degrees: dose that has been given where the jaw stands, any unit.

    The machine's own when it has a wedge named EDW60. Otherwise by the definition of a wedge angle: for the isodose 10
    cm deep at 1 m from source to surface to be a straight line at 60 degrees, with depth dose exp(-m z) over the square
    of the distance, the fluence at y must be exp(m y tan 60) (1 + y tan 60 / 1100 mm)^2. With two numbers for m this
    gives every entry of Varian's golden tables for 6 and 10 MV within 3e-6. Other wedge angles mix it with an open
    field by tan(angle) / tan 60 (Varian's implementation guide; Gibbons, Med Phys 25 (1998) 1411).

    MachineError when the machine has no such wedge and no such number is known for its energy.
    """
    own = next((w for w in machine.wedges if w.id.upper() == GOLDEN_WEDGE), None)
    if own is not None:
        return np.interp(toe_mm, own.position_mm, own.transmission)
    per_mm = GOLDEN_PER_MM.get(machine.energy_mv)
    if per_mm is None or machine.fluence_mode != "STANDARD":
        known = ", ".join(f"{energy:g}" for energy in GOLDEN_PER_MM)
        raise MachineError(
            f"{where}: there is no golden table for {machine.energy_mv:g} MV {machine.fluence_mode} (known: {known} MV "
            f"STANDARD); add it to machine '{machine.name}' as the wedge '{GOLDEN_WEDGE}'"
        )
    slope = toe_mm * np.tan(np.radians(GOLDEN_DEG))
    return np.asarray(np.exp(per_mm * slope) * (1.0 + slope / GOLDEN_DISTANCE_MM) ** 2)


def block_cover(block: Block, u_edge_mm: Array, v_edge_mm: Array) -> Array:
    """(n_v, n_u) what a block lets through, exact in the area of partly covered pixels."""
    first = (u_edge_mm[0], v_edge_mm[0])
    pitch = (u_edge_mm[1] - u_edge_mm[0], v_edge_mm[1] - v_edge_mm[0])
    points = np.ascontiguousarray((block.polygon_mm - first) / pitch)
    starts = np.array([0, len(points)])
    inside = coverage(points, starts, len(v_edge_mm) - 1, len(u_edge_mm) - 1).astype(np.float64)
    material = inside if block.kind == "SHIELDING" else 1.0 - inside
    return 1.0 - (1.0 - block.transmission) * material
