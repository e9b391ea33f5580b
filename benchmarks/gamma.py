"""Gamma against pymedphys: `python -m benchmarks.gamma [--json]`.

Both programs get the same pair of doses and the same options in the same run, after a first call that compiles. The
pair is made on the spot: two crossing fields with a modulated plateau; the second dose is displaced, 1 % hotter and has
a smooth error of 2 %. pymedphys tries shells of points a tenth of the distance criterion apart; doseeng refines the
best place of each dose cell off the steps. The column "finer steps" is doseeng with a quarter of the step.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import numpy.typing as npt
import pymedphys
from rich.console import Console
from rich.table import Table
from scipy.special import erf

from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume

SHAPE = (48, 72, 72)
SPACING_MM = 2.5
MAX_GAMMA = 2.0
THRESHOLD_PERCENT = 10.0
STEPS = 10
CRITERIA = ((3.0, 3.0, False), (3.0, 2.0, False), (2.0, 2.0, False), (3.0, 3.0, True))


def main(arguments: list[str] | None = None) -> int:
    """Print one row for each criterion."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gamma", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    reference, evaluated = pair()
    rows = [compare(reference, evaluated, *criterion) for criterion in CRITERIA]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        Console(width=150).print(_as_table(rows))
    return 0


def pair() -> tuple[Volume, Volume]:
    """The two doses in Gy."""
    grid = Grid(SHAPE, (SPACING_MM, SPACING_MM, SPACING_MM), tuple(-0.5 * SPACING_MM * (n - 1) for n in SHAPE[::-1]))
    return Volume(grid, _dose(grid, (0.0, 0.0, 0.0))), Volume(grid, 1.01 * _dose(grid, (0.9, -1.2, 0.8), error=0.02))


def compare(
    reference: Volume, evaluated: Volume, dose_percent: float, distance_mm: float, local: bool
) -> dict[str, float | str]:
    """Pass rates in percent and times in seconds of both programs for one criterion."""

    def ours(steps: int) -> tuple[float, npt.NDArray[np.float32], float]:
        start = time.perf_counter()
        result = gamma(
            reference,
            evaluated,
            dose_percent=dose_percent,
            distance_mm=distance_mm,
            local=local,
            threshold_percent=THRESHOLD_PERCENT,
            max_gamma=MAX_GAMMA,
            interpolation_fraction=steps,
        )
        return result.pass_rate_percent, result.values.values, time.perf_counter() - start

    ours(1)
    rate, values, seconds = ours(STEPS)
    finer, _, _ = ours(4 * STEPS)
    axes = tuple(np.arange(n) * SPACING_MM for n in SHAPE)
    start = time.perf_counter()
    peer = pymedphys.gamma(
        axes,
        reference.values,
        axes,
        evaluated.values,
        dose_percent,
        distance_mm,
        lower_percent_dose_cutoff=THRESHOLD_PERCENT,
        interp_fraction=STEPS,
        max_gamma=MAX_GAMMA,
        local_gamma=local,
    )
    peer_seconds = time.perf_counter() - start
    judged = ~np.isnan(peer)
    peer_rate = 100.0 * float((peer[judged] <= 1).mean())
    return {
        "criterion": f"{dose_percent:g} % / {distance_mm:g} mm {'local' if local else 'global'}",
        "points": int(judged.sum()),
        "pymedphys_percent": peer_rate,
        "doseeng_percent": rate,
        "difference_points": rate - peer_rate,
        "finer_steps_percent": finer,
        "mean_gamma_difference": float(np.mean(values[judged] - peer[judged])),
        "pymedphys_s": peer_seconds,
        "doseeng_s": seconds,
        "times_faster": peer_seconds / seconds,
    }


def _dose(grid: Grid, shift_mm: tuple[float, float, float], error: float = 0.0) -> npt.NDArray[np.float64]:
    x, y, z = np.moveaxis(grid.to_patient(np.stack(np.indices(grid.shape)[::-1], axis=-1)) - shift_mm, -1, 0)

    def field(t: npt.NDArray[np.float64], half_mm: float) -> npt.NDArray[np.float64]:
        return 0.5 * (erf((t + half_mm) / 6.0) - erf((t - half_mm) / 6.0))

    crossing = field(z, 40.0) * (0.55 * field(x, 30.0) + 0.45 * field(y, 25.0))
    plateau = 1.0 + 0.04 * np.sin(x / 9.0) * np.cos(y / 11.0) + error * np.sin(x / 13.0 + z / 17.0)
    return 60.0 * crossing * plateau


def _as_table(rows: list[dict[str, float | str]]) -> Table:
    table = Table(title="Gamma pass rates, pymedphys and doseeng on the same pair")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
