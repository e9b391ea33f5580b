"""How far a pullback is from what is known."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.registration_case import TARGET_RADIUS_MM, Landmarks, RegistrationCase, Tumour
from doseeng.grid import Grid, Volume, resample
from doseeng.materials import densities, read_hu_table
from doseeng.transforms import DisplacementField, inverse_field, jacobian_determinant, voxel_centres
from registration.dosewarp import direct, energy_mass

Array = npt.NDArray[np.float64]
Scores = dict[str, float]

NEIGHBOURHOOD_MM: Final = 20.0
"""How fast errors cease to matter for dose beside a target: a penumbra, a range margin and what leads up to them."""
BLOB_SIGMA_MM: Final = 6.0
"""A dose small enough to lie within the tumour, which moves as one."""


def scores(case: RegistrationCase, pullback: DisplacementField) -> Scores:
    """Everything that can be said about a pullback of a case; keys end in the unit."""
    found = folding(case, pullback)
    if case.landmarks is not None:
        found |= landmark_errors(case.landmarks, pullback)
    if case.truth is not None:
        found |= field_errors(case, case.truth, pullback)
    if case.tumour is not None:
        found |= tumour_errors(case, case.tumour, pullback)
    return found


def landmark_errors(landmarks: Landmarks, pullback: DisplacementField) -> Scores:
    """Distance from where the day's landmark is taken to where it is in the planning image."""
    errors = np.linalg.norm(pullback.apply(landmarks.day_mm) - landmarks.planning_mm, axis=1)
    found = _summary("inside", errors[landmarks.inside])
    if not landmarks.inside.all():
        found |= _summary("core", errors[landmarks.core]) | _summary("outside", errors[~landmarks.inside])
    return found


def field_errors(case: RegistrationCase, truth: DisplacementField, pullback: DisplacementField) -> Scores:
    """Errors of the field in the body inside the field of view, and weighted by the neighbourhood of targets.

    Dose-relevant is the mean over the body weighted with exp(-d^2 / 2 / NEIGHBOURHOOD_MM^2), d from the surface of a
    sphere, 0 in it; for the mean and the worst of the spheres.
    """
    points = voxel_centres(truth.grid)
    error = np.linalg.norm(pullback.at(points) - truth.vectors_mm, axis=-1)
    body, seen = (_mask_on(mask, case.day.grid, truth.grid) for mask in (case.body, case.seen))
    found = _summary("field", error[body & seen])
    if not case.seen.all():
        found["field_outside_mean_mm"] = float(error[body & ~seen].mean())
    if len(case.targets_mm):
        by_target = []
        for centre in case.targets_mm:
            distance = np.maximum(np.linalg.norm(points[body] - centre, axis=-1) - TARGET_RADIUS_MM, 0.0)
            by_target.append(np.average(error[body], weights=np.exp(-0.5 * (distance / NEIGHBOURHOOD_MM) ** 2)))
        found |= {"dose_relevant_mm": float(np.mean(by_target)), "dose_relevant_worst_mm": float(np.max(by_target))}
    return found


def folding(case: RegistrationCase, pullback: DisplacementField) -> Scores:
    """Share of the body's voxels where the field folds, and the smallest Jacobian there, field of view or not."""
    jacobian = jacobian_determinant(pullback).values[_mask_on(case.body, case.day.grid, pullback.grid)]
    return {"folded_percent": 100.0 * float(np.mean(jacobian <= 0)), "smallest_jacobian": float(jacobian.min())}


def tumour_errors(case: RegistrationCase, tumour: Tumour, pullback: DisplacementField) -> Scores:
    """Where the tumour drawn on the planning image is found today, and where a dose on today's tumour is carried to.

    The dose is carried by direct mapping, and by energy/mass transfer: with what loss of energy, and how much energy
    it stands for in the planning image's own densities.
    """
    grid = case.planning.grid
    pushforward = inverse_field(pullback, grid)
    found = np.average(pushforward.apply(tumour.points_mm), axis=0, weights=tumour.weights)
    distance = np.linalg.norm(voxel_centres(pullback.grid) - tumour.day_mm, axis=-1)
    today = Volume(pullback.grid, np.exp(-0.5 * (distance / BLOB_SIGMA_MM) ** 2).astype(np.float32))
    there, here = (densities(image, read_hu_table()) for image in (case.day, case.planning))
    by_energy = energy_mass(today, there, here, pullback, pushforward, grid)
    landed = {}
    for name, carried in (("dose_error_mm", direct(today, pushforward, grid)), ("energy_dose_mm", by_energy.dose)):
        weights = carried.values.ravel().astype(np.float64)
        centre = np.average(voxel_centres(grid).reshape(-1, 3), axis=0, weights=weights)
        landed[name] = float(np.linalg.norm(centre - tumour.planning_mm))
    balance = by_energy.balance
    return {
        "displacement_mm": float(tumour.day_mm[2] - tumour.planning_mm[2]),
        "found_mm": float(found[2] - tumour.planning_mm[2]),
        "tumour_error_mm": float(np.linalg.norm(found - tumour.day_mm)),
        **landed,
        "energy_error_percent": 100.0 * abs(balance.error),
        "energy_there_percent": 100.0 * (balance.image_j / balance.source_j - 1.0),
    }


def _mask_on(mask: npt.NDArray[np.bool_], grid: Grid, other: Grid) -> npt.NDArray[np.bool_]:
    return resample(Volume(grid, mask.astype(np.float32)), other, 0.0).values > 0.5


def _summary(where: str, errors: npt.NDArray[np.floating]) -> Scores:
    values = (errors.mean(), np.percentile(errors, 95), errors.max()) if len(errors) else (np.nan,) * 3
    return {f"{where}_{what}_mm": float(v) for what, v in zip(("mean", "p95", "max"), values, strict=True)}
