"""Energy deposition kernels of photons in water: a library of exponentials per energy and cone, and kernels of spectra.

`data/photons/kernels.toml` was fitted by `fit_library` to energy deposition kernels in water computed with EGSnrc
(spheres and cones around the point of interaction, scored apart for electrons of the first interaction and the rest):

    python -m doseeng.machines.pointkernels KERNELS.npz doseeng/data/photons/kernels.toml

Kernels of a spectrum are A exp(-a r) / r^2 + B exp(-b r) / r^2 per cone: Ahnesjö, Med Phys 16 (1989) 577. Here the two
terms belong to primary and scatter energy, each released by its own share of the attenuation.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from scipy.optimize import least_squares

from doseeng.machines.photonmodel import Array, Cones
from doseeng.photonphysics import water_absorption_cm2_g, water_attenuation_cm2_g

LIBRARY: Final = Path(__file__).resolve().parent.parent / "data" / "photons" / "kernels.toml"
EDGES_DEG: Final = (0.0, 7.5, 15.0, 22.5, 30.0, 37.5, 45.0, 52.5, 60.0, 75.0, 90.0, 105.0, 120.0, 150.0, 180.0)
FARTHEST_CM: Final = 30.0
"""Scatter kernels are fitted so far; one exponential falls too slowly beyond."""
HARDENING_CM: Final = 10.0
"""Kernels of a spectrum are those behind this much water; deeper, only the release hardens."""


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """energy_mev (n,); edge_deg (m + 1,); primary, scatter (n, m, 3): share, per_gcm2 and power of every cone, with
    share (1 - exp(-(per_gcm2 r)^power)) within r g/cm2. Electrons have a range, so their power is above 1.

    Shares are of what the interaction gives to electrons, and of the rest.
    """

    energy_mev: Array
    edge_deg: Array
    primary: Array
    scatter: Array


@cache
def read_library() -> Library:
    """The library that is shipped."""
    data = tomllib.loads(LIBRARY.read_text(encoding="utf-8"))
    arrays = {key: np.array(data[key], dtype=np.float64) for key in ("energy_mev", "edge_deg", "primary", "scatter")}
    n, m = len(arrays["energy_mev"]), len(arrays["edge_deg"]) - 1
    parts = (arrays[key].reshape(n, m, 3) for key in ("primary", "scatter"))
    return Library(arrays["energy_mev"], arrays["edge_deg"], *parts)


def cones_of(spectrum_mev: Array, energy_fluence: Array, library: Library | None = None) -> Cones:
    """The kernel of a spectrum (n,) in water behind HARDENING_CM of it."""
    library = library or read_library()
    attenuation, absorption = water_attenuation_cm2_g(spectrum_mev), water_absorption_cm2_g(spectrum_mev)
    arriving = energy_fluence * np.exp(-attenuation * HARDENING_CM)
    primary = _combined(library, library.primary, spectrum_mev, arriving * absorption)
    scatter = _combined(library, library.scatter, spectrum_mev, arriving * (attenuation - absorption))
    primary[:, 0] /= primary[:, 0].sum()
    return Cones(library.edge_deg, primary, scatter)


def _combined(library: Library, rows: Array, energy_mev: Array, weight: Array) -> Array:
    """(m, 2) one exponential per cone for a mixture of energies."""
    at = np.interp(np.log(energy_mev), np.log(library.energy_mev), np.arange(len(library.energy_mev)))
    low = np.minimum(at.astype(int), len(library.energy_mev) - 2)
    mixture = np.zeros(len(library.energy_mev))
    np.add.at(mixture, low, weight * (1.0 - (at - low)))
    np.add.at(mixture, low + 1, weight * (at - low))
    mixture /= mixture.sum()
    out = []
    for cone in range(rows.shape[1]):
        share, per, power = mixture * rows[:, cone, 0], rows[:, cone, 1], rows[:, cone, 2]
        mean_cm = float((share / per).sum() / share.sum())
        radius = np.linspace(0.0, min(3.0 * mean_cm, FARTHEST_CM), 60)[1:]
        inside = (share * (1.0 - np.exp(-(np.outer(radius, per) ** power)))).sum(axis=1)
        out.append(_exponential(radius, inside, share.sum(), 1.0 / mean_cm))
    return np.array(out)


def _exponential(radius: Array, inside: Array, share: float, per: float) -> tuple[float, float]:
    """Share and per_gcm2 of the exponential whose energy within each radius is nearest to `inside`."""

    def error(logs: Array) -> Array:
        return (np.exp(logs[0]) * (1.0 - np.exp(-np.exp(logs[1]) * radius)) - inside) / inside[-1]

    found = np.exp(least_squares(error, np.log([share, per])).x)
    return float(found[0]), float(found[1])


def fit_library(energy_mev: Array, cone_edge_deg: Array, radius_cm: Array, kernels: Array) -> Library:
    """Fit every energy and cone of EDGES_DEG.

    kernels (energy, cone, shell, component): share of a photon's energy in each shell of each cone; component 0 is
    that of the electrons of the first interaction. radius_cm (shell,): outer radii.
    """
    edges = np.array(EDGES_DEG)
    shells = np.concatenate([[0.0], radius_cm])
    given = kernels[..., 0].sum(axis=(1, 2))
    primary, scatter = np.zeros((2, len(energy_mev), len(edges) - 1, 3))
    for n in range(len(energy_mev)):
        for cone in range(len(edges) - 1):
            inside = (cone_edge_deg[:-1] > edges[cone] - 1e-3) & (cone_edge_deg[1:] < edges[cone + 1] + 1e-3)
            primary[n, cone] = _fit_primary(shells, kernels[n, inside, :, 0].sum(axis=0) / given[n])
            rest = kernels[n, inside, :, 1:].sum(axis=(0, 2)) / (1.0 - given[n])
            scatter[n, cone] = _fit_scatter(shells, rest)
    return Library(energy_mev, edges, primary, scatter)


def _fit_primary(shells: Array, energy: Array) -> tuple[float, float, float]:
    """Share, per_gcm2 and power with the energy of a cone and nearest to its energy within each radius."""
    if not energy.any():
        return 0.0, 1.0 / float(shells[1]), 1.0
    inside, share = np.cumsum(energy) / energy.sum(), float(energy.sum())

    def error(logs: Array) -> Array:
        per, power = np.exp(logs)
        return 1.0 - np.exp(-((per * shells[1:]) ** power)) - inside

    middle = 0.5 * (shells[1:] + shells[:-1])
    per, power = np.exp(least_squares(error, [np.log(energy.sum() / (energy * middle).sum()), 0.0]).x)
    return share, float(per), float(power)


def _fit_scatter(shells: Array, energy: Array) -> tuple[float, float, float]:
    """Share, per_gcm2 and power nearest to each shell out to FARTHEST_CM, shells counting by their energy."""
    near = (shells[1:] <= FARTHEST_CM) & (energy > 0)
    weight = np.sqrt(energy[near] / energy[near].sum())

    def error(logs: Array) -> Array:
        share, per, power = np.exp(logs)
        passed = np.exp(-((per * shells) ** power))
        return (share * (passed[:-1] - passed[1:])[near] / energy[near] - 1.0) * weight

    share, per, power = np.exp(least_squares(error, [np.log(energy.sum()), np.log(0.05), 0.0]).x)
    return float(share), float(per), float(power)


def library_text(library: Library) -> str:
    """The file content of a library."""

    def rows(key: str, values: Array) -> list[str]:
        lines = (", ".join(f"[{a:.5g}, {b:.5g}, {c:.4g}]" for a, b, c in cones) for cones in values.tolist())
        return [f"{key} = [", *(f"  [{line}]," for line in lines), "]"]

    return "\n".join(
        [
            "# Point kernels of photons in water: see doseeng/machines/pointkernels.py.",
            "# Per energy and cone: share of the energy given to electrons (primary) or left (scatter), cm2/g, power.",
            f"energy_mev = {library.energy_mev.tolist()}",
            f"edge_deg = {library.edge_deg.tolist()}",
            *rows("primary", library.primary),
            *rows("scatter", library.scatter),
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Fit the library to a file of kernels and write it."""
    source, target = arguments
    with np.load(source) as data:
        library = fit_library(data["E"], data["cone_edges_deg"], data["sphere_radii_cm"], data["K"].astype(np.float64))
    Path(target).write_text(library_text(library), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
