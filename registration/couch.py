"""What of a rigid registration the treatment couch corrects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from doseeng.transforms import RigidTransform


@dataclass(frozen=True, slots=True)
class Couch:
    """largest_rotation_deg: what the couch can turn (0: a couch that only shifts); more is left in the anatomy."""

    largest_rotation_deg: float = 3.0


def couch_correction(rigid: RigidTransform, isocenter_mm: npt.ArrayLike, couch: Couch) -> RigidTransform:
    """The transform from day to treatment points that the couch makes of `rigid` (day to planning).

    All of it when its rotation is within reach, otherwise the shift that brings the anatomy which belongs there to the
    isocentre.
    """
    if rigid.angle_deg <= couch.largest_rotation_deg:
        return rigid
    isocenter = np.asarray(isocenter_mm, dtype=np.float64)
    return RigidTransform(np.eye(3), isocenter - rigid.inverse().apply(isocenter), isocenter)
