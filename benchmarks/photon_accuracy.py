"""Photon dose against Monte Carlo: `python -m benchmarks.accuracy photon DIR [--json] [--peer]`.

The reference's machine is a point with a known spectrum (see `benchmarks.photon_case`); nothing is fitted to any case.
Doses of one algorithm and beam quality share ONE factor, the mean ratio at 50 to 200 mm on the axis of the 10x10 field
in water, so that output factors and slabs are absolute against it. Computed doses are averaged over the bins of the
reference. Deviations are local, computed over reference; the first 15 mm, the last 20 mm ("exit") and 2 mm beside
interfaces are left out. After +- stands the noise of the reference there (1 sigma), after @ the depth in mm. Tables:

* axis: fields summed up from pencil beams, 0.2 % of noise. In percent of the maximum, the build-up counts too.
* direct: fields as they are, noise 0.6 to 1.2 % per bin of the axis. Worst deviations are those of running means over
  20 mm within one layer; "within" is the share of single bins that are no farther off than 1.5 % and 2 sigma. Profiles
  are means over 20 mm of depth within one layer: the difference of the 80 to 20 % width of the penumbra, and across the
  inner 80 % of the field the worst deviation of a running mean over 10 mm, both profiles scaled to their inner half.
* inhomogeneity (`--peer`): dose in the slab over dose in water, in which the spectrum cancels, beside pyRadPlan's
  pencil beam with its own generic 6 MV machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.peers.pyradplan_env import run_open_fields
from benchmarks.photon_case import (
    IMAGE_MM,
    SIDE_MM,
    Array,
    AxisCase,
    DirectCase,
    Field,
    Layer,
    axis_cases,
    direct_cases,
    open_beam,
    phantom_maps,
    reference_photon_machine,
)
from benchmarks.tg119 import MATRAD_HU, MATRAD_RSP
from doseeng.backend import Materials
from doseeng.cpu import cpu
from doseeng.grid import Grid, Volume
from doseeng.photon import Algorithm, PhotonSettings, prepare_photon_beam

Row = dict[str, Any]
Mask = npt.NDArray[np.bool_]

BUILD_UP_MM = 15.0
EXIT_MM = 20.0
INTERFACE_MM = 2.0
NORMALISED_MM = (50.0, 200.0)
OUTPUT_MM = (90.0, 110.0)
WINDOW_MM = 20.0
PROFILE_WINDOW_MM = 10.0
MID_LUNG_MM = (80.0, 120.0)
LUNG_END_MM = 150.0
BEHIND_MM = (20.0, 50.0)
"""Depths behind a slab, from its end."""
GOAL = 0.015
PROFILE_DEPTHS_MM = (25.0, 50.0, 100.0, 200.0)
INNER = 0.8
PENUMBRA = (0.8, 0.2)


@dataclass(frozen=True, slots=True)
class Worst:
    """The largest deviation (percent of dose, or mm), its noise and the depth."""

    value: float
    sigma: float
    at_mm: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} ± {self.sigma:.1f} @ {self.at_mm:.0f}"


def report(folder: Path, as_json: bool, with_peer: bool) -> int:
    """Evaluate the references in a folder and print them; the exit code is 1 when there are none."""
    axes, directs = list(axis_cases(folder)), list(direct_cases(folder))
    if not axes or not directs:
        print(f"no direct_*.npz and pencil_*.npz in {folder}", file=sys.stderr)
        return 1
    factors = {(a, q): factor(a, q, axes) for a in Algorithm for q in {case.field.quality for case in axes}}
    results: dict[str, list[Row]] = {
        "axis": [axis_figures(case, a, factors[a, case.field.quality]) for case in axes for a in Algorithm],
        "direct": [direct_figures(case, a, factors[a, case.field.quality]) for case in directs for a in Algorithm],
    }
    if with_peer:
        results["inhomogeneity"] = list(inhomogeneity(axes))
    if as_json:
        print(json.dumps(results, indent=2, default=asdict))
        return 0
    for title, rows in results.items():
        Console(width=170).print(_as_table(f"Photons against Monte Carlo: {title}", rows))
    return 0


def dose_in(field: Field, algorithm: Algorithm, grid: Grid) -> Array:
    """(grid.shape) Gy of the field on a dose grid in its phantom."""
    backend, maps = cpu(), phantom_maps(field.phantom, field.quality)
    materials = Materials(backend.put(maps.attenuation.values), backend.put(maps.electron_density.values))
    machine = reference_photon_machine(field.quality)
    settings = PhotonSettings(algorithm)
    model = prepare_photon_beam(open_beam(field), machine, maps, grid, "HFS", settings, backend, materials)
    return backend.get(model.dose()).astype(np.float64)


@cache
def axis_dose(field: Field, algorithm: Algorithm) -> tuple[Array, Array]:
    """Edges (n + 1,) in mm of depth and Gy (n,) of voxels on the axis."""
    n = round(SIDE_MM / IMAGE_MM[1])
    grid = Grid((1, n, 1), IMAGE_MM, (0.0, 0.5 * IMAGE_MM[1], 0.0))
    return IMAGE_MM[1] * np.arange(n + 1.0), dose_in(field, algorithm, grid)[0, :, 0]


def plane_dose(case: DirectCase, algorithm: Algorithm) -> Array:
    """(n_depth, n_x) Gy in the bins of a direct reference, unscaled."""
    dx, dy, dz = IMAGE_MM
    depths, across, rows = round(SIDE_MM / dy), round(SIDE_MM / dx), 2 * int(np.ceil(case.half_mm / dz))
    grid = Grid((rows, depths, across), IMAGE_MM, (0.5 * (dx - SIDE_MM), 0.5 * dy, 0.5 * dz * (1 - rows)))
    dose = dose_in(case.field, algorithm, grid)
    strip = _means(dz * (np.arange(rows + 1) - 0.5 * rows), np.array([-case.half_mm, case.half_mm]))[0]
    plane = np.tensordot(strip, dose, axes=1)
    in_depth = _means(dy * np.arange(depths + 1.0), case.depth_edge_mm)
    return in_depth @ plane @ _means(dx * np.arange(across + 1.0) - 0.5 * SIDE_MM, case.x_edge_mm).T


def _means(edge: Array, bins: Array) -> Array:
    """(n_bin, n) weights that average values of voxels between edges (n + 1,) over bins (n_bin + 1,)."""
    low, high = np.maximum(bins[:-1, None], edge[:-1]), np.minimum(bins[1:, None], edge[1:])
    return np.clip(high - low, 0.0, None) / np.diff(bins)[:, None]


def factor(algorithm: Algorithm, quality: str, cases: list[AxisCase]) -> float:
    """Gy cm2 per photon of the references over Gy of an algorithm."""
    case = next(c for c in cases if c.field == Field("water", quality, 100.0))
    depth = _middle(case.depth_edge_mm)
    return float(np.mean((case.dose / _binned(case, algorithm))[_between(depth, NORMALISED_MM)]))


def _binned(case: AxisCase, algorithm: Algorithm) -> Array:
    edge, dose = axis_dose(case.field, algorithm)
    return _means(edge, case.depth_edge_mm) @ dose


def axis_figures(case: AxisCase, algorithm: Algorithm, scale: float) -> Row:
    """How a computed dose on the axis compares with fields summed up from pencils."""
    field, depth = case.field, _middle(case.depth_edge_mm)
    computed = scale * _binned(case, algorithm)
    deviation, sigma = computed / case.dose - 1.0, case.sigma / case.dose
    share = (computed - case.dose) / case.dose.max()
    away = _in_layers(field, depth)

    def worst(where: Mask) -> Worst:
        return _worst(deviation, sigma, depth, where & away)

    row: Row = {
        "case": field.name,
        "algorithm": algorithm.value,
        "output %": _percent(deviation[_between(depth, OUTPUT_MM)].mean()),
        "worst %": worst(away),
        "worst % of max": _worst(share, case.sigma / case.dose.max(), depth, depth < SIDE_MM - EXIT_MM),
        "rms %": _percent(_rms(deviation[away])),
        "exit %": _percent(deviation[depth > SIDE_MM - EXIT_MM].mean()),
    }
    if field.slab is not None:
        end = field.slab.stop_mm
        row["worst in slab %"] = worst(_between(depth, (field.slab.start_mm, end)))
        row["mid-lung %"] = worst(_between(depth, MID_LUNG_MM)) if field.slab.material == "lung" else ""
        behind = _between(depth, (end + BEHIND_MM[0], end + BEHIND_MM[1]))
        row["behind %"] = _percent(deviation[behind].mean())
    return row


def direct_figures(case: DirectCase, algorithm: Algorithm, scale: float) -> Row:
    """How a computed dose compares with a field as it is: on the axis and across."""
    field, depth = case.field, _middle(case.depth_edge_mm)
    computed = scale * plane_dose(case, algorithm)
    inner = _means(case.x_edge_mm, np.array([-case.half_mm, case.half_mm]))[0]
    found, expected = computed @ inner, case.dose @ inner
    sigma = np.sqrt(case.sigma**2 @ inner**2)
    away = _in_layers(field, depth)
    deviation, noise = found / expected - 1.0, sigma / expected
    running = list(_running(case, found, expected, sigma))
    centres, means, noises = np.array(running).T
    row: Row = {
        "case": field.name,
        "algorithm": algorithm.value,
        "worst %": _worst(means, noises, centres, centres > 0.0),
        "rms %": _percent(_rms(deviation[away])),
        "noise %": _percent(_rms(noise[away])),
        "within %": _percent(np.mean((np.abs(deviation) <= GOAL + 2.0 * noise)[away])),
    }
    profiles = [_profile_figures(case, computed, at) for at in PROFILE_DEPTHS_MM if _in_one_layer(field, at)]
    row["Δ penumbra mm"], row["across %"] = (max(p, key=lambda w: abs(w.value)) for p in zip(*profiles, strict=True))
    slab = field.slab
    in_slab = np.zeros(len(centres), dtype=bool) if slab is None else _between(centres, (slab.start_mm, slab.stop_mm))
    if in_slab.any():
        row["worst in slab %"] = _worst(means, noises, centres, in_slab)
        row["mid-lung %"] = _worst(means, noises, centres, _between(centres, MID_LUNG_MM))
    return row


def _running(case: DirectCase, found: Array, expected: Array, sigma: Array) -> Iterator[tuple[float, float, float]]:
    """Depth, deviation and noise of every window of bins that lies within one layer and is WINDOW_MM long."""
    low, high = case.depth_edge_mm[:-1], case.depth_edge_mm[1:]
    for layer in case.field.layers:
        start, stop = _usable(layer)
        for first in np.flatnonzero((low >= start - 1e-3) & (low + WINDOW_MM <= stop + 1e-3)):
            at = (low >= low[first] - 1e-3) & (high <= low[first] + WINDOW_MM + 1e-3)
            length = (high - low)[at]
            total = length @ expected[at]
            noise = np.sqrt(length**2 @ sigma[at] ** 2) / total
            yield low[first] + 0.5 * WINDOW_MM, length @ found[at] / total - 1.0, noise


def _usable(layer: Layer) -> tuple[float, float]:
    """Depths of a layer that are compared."""
    start = BUILD_UP_MM if layer.start_mm == 0.0 else layer.start_mm + INTERFACE_MM
    return start, layer.stop_mm - (INTERFACE_MM if layer.stop_mm < SIDE_MM else EXIT_MM)


def _in_layers(field: Field, depth: Array) -> Mask:
    """True at the depths that are compared."""
    return np.any([_between(depth, _usable(layer)) for layer in field.layers], axis=0)


def _in_one_layer(field: Field, at_mm: float) -> bool:
    """True when no interface lies in the window around a depth."""
    half = 0.5 * WINDOW_MM
    return any(layer.start_mm <= at_mm - half and at_mm + half <= layer.stop_mm for layer in field.layers)


def _profile_figures(case: DirectCase, computed: Array, at_mm: float) -> tuple[Worst, Worst]:
    """Difference of the penumbra's width in mm, and the worst deviation inside the field, of the profile at a depth."""
    depth, x = _middle(case.depth_edge_mm), _middle(case.x_edge_mm)
    length = np.diff(case.depth_edge_mm) * _between(depth, (at_mm - 0.5 * WINDOW_MM, at_mm + 0.5 * WINDOW_MM))
    found, expected = length @ computed, length @ case.dose
    sigma = np.sqrt(length**2 @ case.sigma**2)
    half = 0.5 * case.field.side_mm * (1.0 + at_mm / 1000.0)
    middle = _means(case.x_edge_mm, np.array([-0.5 * half, 0.5 * half]))[0]
    found, sigma, expected = found / (found @ middle), sigma / (expected @ middle), expected / (expected @ middle)
    (wide, _), (width, error) = (_penumbra(x, profile, sigma) for profile in (found, expected))
    span = case.x_edge_mm[:-1]
    starts = span[(span >= -INNER * half - 1e-3) & (span + PROFILE_WINDOW_MM <= INNER * half + 1e-3)]
    windows = np.array([_means(case.x_edge_mm, np.array([s, s + PROFILE_WINDOW_MM]))[0] for s in starts])
    means = windows @ expected
    deviation, noise = windows @ found / means - 1.0, np.sqrt(windows**2 @ sigma**2) / means
    worst = _worst(deviation, noise, starts + 0.5 * PROFILE_WINDOW_MM, np.ones(len(starts), dtype=bool))
    return Worst(wide - width, error, at_mm), Worst(worst.value, worst.sigma, at_mm)


def _penumbra(x: Array, profile: Array, sigma: Array) -> tuple[float, float]:
    """Mean width from 80 to 20 % of both edges, mm, and its noise."""
    width, variance = 0.0, 0.0
    for side in (x < 0, x > 0):
        away, dose, noise = np.abs(x[side]), profile[side], sigma[side]
        order = np.argsort(away)
        away, dose, noise = away[order], dose[order], noise[order]
        places = []
        for level in PENUMBRA:
            last = int(np.flatnonzero(dose >= level)[-1])
            slope = (dose[last] - dose[last + 1]) / (away[last + 1] - away[last])
            places.append(away[last] + (dose[last] - level) / slope)
            variance += 0.25 * 0.5 * (noise[last] ** 2 + noise[last + 1] ** 2) / slope**2
        width += 0.5 * (places[1] - places[0])
    return width, float(np.sqrt(variance))


def inhomogeneity(cases: list[AxisCase]) -> Iterator[Row]:
    """Lung slab over water on the axis: Monte Carlo, both algorithms, and the peer."""
    sides = (30.0, 100.0)
    water, slab = (_peer_axis(phantom, sides) for phantom in ("water", "lungslab"))
    reference = {case.field: case for case in cases}
    behind = (LUNG_END_MM + BEHIND_MM[0], LUNG_END_MM + BEHIND_MM[1])
    for n, side in enumerate(sides):
        fields = [Field(phantom, "mohan6", side) for phantom in ("lungslab", "water")]
        depth = _middle(reference[fields[0]].depth_edge_mm)
        ratios = {
            "Monte Carlo": reference[fields[0]].dose / reference[fields[1]].dose,
            **{a.value: np.divide(*(_binned(reference[f], a) for f in fields)) for a in Algorithm},
            "pyRadPlan": np.interp(depth, water[0], slab[1][n] / water[1][n]),
        }
        for name, ratio in ratios.items():
            row: Row = {"case": fields[0].name, "dose": name}
            for what, span in (("mid-lung", MID_LUNG_MM), ("behind", behind)):
                value, truth = (float(r[_between(depth, span)].mean()) for r in (ratio, ratios["Monte Carlo"]))
                row[what] = round(value, 3)
                row[f"{what} off by %"] = _percent(value / truth - 1.0)
            yield row


def _peer_axis(phantom: str, sides_mm: tuple[float, ...]) -> tuple[Array, list[Array]]:
    """Depths (n,) and pyRadPlan's doses (n,) on the axis, one per field."""
    electrons = phantom_maps(phantom, "mohan6").electron_density
    hu = np.interp(electrons.values, MATRAD_RSP, MATRAD_HU).astype(np.float32)
    doses, _ = run_open_fields(Volume(electrons.grid, hu), sides_mm)
    nz, _, nx = electrons.grid.shape
    around = (slice(nz // 2 - 1, nz // 2 + 1), slice(None), slice(nx // 2 - 1, nx // 2 + 1))
    y_mm = electrons.grid.origin_mm[1] + electrons.grid.spacing_mm[1] * np.arange(electrons.grid.shape[1])
    inside = y_mm > 0.0
    return y_mm[inside], [dose.values[around].mean(axis=(0, 2), dtype=np.float64)[inside] for dose in doses]


def _middle(edge: Array) -> Array:
    return 0.5 * (edge[1:] + edge[:-1])


def _between(value: Array, span: tuple[float, float]) -> Mask:
    return (value > span[0]) & (value < span[1])


def _worst(deviation: Array, sigma: Array, at_mm: Array, where: Mask) -> Worst:
    places = np.flatnonzero(where)
    worst = places[np.abs(deviation[places]).argmax()]
    return Worst(_percent(deviation[worst]), _percent(sigma[worst]), float(at_mm[worst]))


def _percent(share: float) -> float:
    return round(100.0 * float(share), 2)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _as_table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title)
    headings = list(dict.fromkeys(key for row in rows for key in row))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("case", "algorithm", "dose") else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in headings))
    return table
