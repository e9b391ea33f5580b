"""A day's image brought to the planning CT: field of view, rigid, couch, deformable, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.errors import RegistrationError
from doseeng.grid import Volume
from doseeng.transforms import RigidTransform, as_field, inverse_field, rigid_from_matrix
from registration.couch import Couch, couch_correction
from registration.deformable import DEFAULT, DeformableSettings, register_deformable
from registration.fieldofview import seen_region
from registration.images import AIR_HU, ALL_SEEN, moved, on_grid, working_grid
from registration.result import DayRegistration
from registration.rigid import register_rigid

DEFAULT_COUCH: Final = Couch()


def register_day(
    planning: Volume,
    day: Volume,
    isocenter_mm: npt.ArrayLike,
    couch: Couch = DEFAULT_COUCH,
    settings: DeformableSettings = DEFAULT,
    progress: Callable[[int, int], None] | None = None,
    rigid: RigidTransform | None = None,
) -> DayRegistration:
    """Register a day's image (HU, its own frame of reference, patient axes) to the planning CT.

    isocenter_mm: of the plan, (3,) planning points. rigid: day to planning where it is known, such as from a DICOM
    registration; it is refined no further. progress: of the deformable part, its longest. RegistrationError: an image
    that is empty, not finite or shows too little of the planning CT.
    """
    for name, volume in (("planning CT", planning), ("day's image", day)):
        if not np.isfinite(volume.values).all():
            raise RegistrationError(f"the {name} holds NaN or infinity; export it again in Hounsfield units")
    seconds: dict[str, float] = {}
    with _timed(seconds, "field of view"):
        seen = seen_region(day)
    with _timed(seconds, "rigid"):
        best = register_rigid(planning, day, seen, isocenter_mm) if rigid is None else rigid
        corrected = couch_correction(best, isocenter_mm, couch)
    grid = working_grid(planning.grid, settings.spacing_mm)
    with _timed(seconds, "deformable"):
        in_treatment = moved(day, corrected, grid, AIR_HU)
        seen_there = Volume(grid, (moved(seen, corrected, grid, 0.0).values > ALL_SEEN).astype(np.float32))
        residual = rigid_from_matrix(best.matrix @ corrected.inverse().matrix, isocenter_mm)
        start = as_field(grid, residual)
        pullback = register_deformable(planning, in_treatment, seen_there, start, settings, progress)
    with _timed(seconds, "inverse"):
        pushforward = inverse_field(pullback, grid)
    return DayRegistration(
        rigid=best,
        couch=corrected,
        pullback=pullback,
        pushforward=pushforward,
        day=in_treatment,
        seen=seen_there,
        planning=Volume(grid, on_grid(planning, grid, AIR_HU)),
        seconds=seconds,
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
