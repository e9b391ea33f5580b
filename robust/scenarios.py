"""Sets of error scenarios: named grids of setup and range errors, random draws, explicit lists from TOML.

Names of sets:

    nominal                       the plan as it is
    6  14  26                     nominal + setup errors along the axes; + the cube's corners; + its edges too
    6x2  14x2  26x2               nominal + each setup error with the range short and long; "28" is 14x2, the set of
                                  Korevaar et al., Radiother Oncol 141 (2019) 267
    6x3  14x3  26x3               every setup error, and none, with the range short, as planned and long
                                  (6x3: the common 21 scenarios)
    9-worst-case                  nominal + 6 setup errors + the range short and long, one error at a time
    random:100                    nominal + 100 draws of systematic errors

Sign of the range error: + means more stopping power, so protons stop short of where they were planned to (undershoot).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.errors import ConfigError
from doseeng.scenario import NOMINAL, Scenario
from robust.configuration import DATA_DIR, ScenarioFile, SiteFile, read_toml

Array = npt.NDArray[np.float64]

SETUP_ERROR_IN_SIGMA: Final = 2.5
"""A grid set's setup error is this many standard deviations of the systematic error: the 2.5 Sigma of the margin recipe
that covers 90 % of patients (van Herk et al., Int J Radiat Oncol Biol Phys 47 (2000) 1121)."""

RANGE_ERROR_IN_SIGMA: Final = 1.5
"""Range margins are quoted at 1.5 standard deviations (Paganetti, Phys Med Biol 57 (2012) R99)."""

LARGEST_RANGE_PERCENT: Final = 20.0
"""More is no calibration error but a typing error; 3.5 is usual."""

_NONZERO_AXES: Final = {6: (1,), 14: (1, 3), 26: (1, 2, 3)}
_GRID_SETS: Final = tuple(f"{n}{times}" for n in _NONZERO_AXES for times in ("", "x2", "x3"))
SET_NAMES: Final = ("nominal", *_GRID_SETS, "28", "9-worst-case", "random:N")


def directions(count: int) -> Array:
    """(count, 3) unit vectors: 6 along the axes, 14 with the 8 corners of the cube, 26 with its 12 edges too."""
    if count not in _NONZERO_AXES:
        raise ConfigError(f"{count} setup directions are not defined; expected one of {sorted(_NONZERO_AXES)}")
    rows = [
        row
        for axes in _NONZERO_AXES[count]
        for row in product((1.0, -1.0, 0.0), repeat=3)
        if sum(map(abs, row)) == axes
    ]
    vectors = np.array(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scenario_set(
    name: str,
    *,
    setup_mm: float | tuple[float, float, float] = 5.0,
    range_percent: float = 3.5,
    rng: np.random.Generator | None = None,
) -> tuple[Scenario, ...]:
    """The scenarios of a named set, nominal first.

    setup_mm: largest setup error; three values (patient x, y, z) make an ellipsoid, shift = unit vector * setup_mm.
    range_percent: largest error of the stopping powers. rng: seeded generator, asked for by "random:N" alone, whose
    standard deviations are setup_mm / SETUP_ERROR_IN_SIGMA and range_percent / RANGE_ERROR_IN_SIGMA.
    ConfigError: unknown name, or a set that varies an error whose magnitude is zero.
    """
    size = np.broadcast_to(np.asarray(setup_mm, dtype=np.float64), (3,))
    if not np.all(np.isfinite(size)) or np.any(size < 0):
        raise ConfigError(f"setup error must be one or three millimetre values >= 0, found {setup_mm}")
    if not 0 <= range_percent <= LARGEST_RANGE_PERCENT:
        raise ConfigError(f"range error must lie in 0..{LARGEST_RANGE_PERCENT:g} %, found {range_percent}")
    if name == "nominal":
        return (NOMINAL,)
    if name.startswith("random:"):
        return (NOMINAL, *_random(name, size, range_percent, rng))
    pairs = _grid(name, range_percent)
    if np.any(size == 0):
        raise ConfigError(f"scenario set '{name}' varies the setup, but the setup error is {setup_mm} mm")
    return (NOMINAL, *(_scenario(direction * size, percent) for direction, percent in pairs))


def site_errors(site: str) -> tuple[tuple[float, float, float], float]:
    """Setup error (x, y, z) in mm and range error in percent of a treatment site of the shipped scenarios.toml."""
    table = read_toml(DATA_DIR / "scenarios.toml", SiteFile).site
    if site not in table:
        raise ConfigError(f"treatment site '{site}' is unknown; expected one of {', '.join(table)}")
    x, y, z = table[site].setup_mm
    return (x, y, z), table[site].range_percent


def load_scenarios(path: Path) -> tuple[Scenario, ...]:
    """Scenarios listed as [[scenario]] (name, shift_mm, range_percent) in a TOML file, nominal first.

    Nominal is added where the file has none. ConfigError: unknown keys, two scenarios of one name, "nominal" with an
    error, or an error of zero under another name.
    """
    rows = read_toml(path, ScenarioFile).scenario
    made: list[Scenario] = []
    for number, row in enumerate(rows):
        x, y, z = row.shift_mm
        scenario = Scenario(row.name, (x, y, z), 1 + row.range_percent / 100)
        where = f"{path.name}: scenario[{number}] '{row.name}'"
        if any(row.name == other.name for other in made):
            raise ConfigError(f"{where}: the name is taken; every scenario needs its own")
        if row.name == NOMINAL.name and scenario != NOMINAL:
            raise ConfigError(f"{where}: nominal has no error, found shift {row.shift_mm} mm, {row.range_percent} %")
        if row.name != NOMINAL.name and scenario.is_nominal:
            raise ConfigError(f"{where}: neither shift_mm nor range_percent is given; call it 'nominal' or remove it")
        made.append(scenario)
    return (NOMINAL, *(s for s in made if s.name != NOMINAL.name))


def _grid(name: str, range_percent: float) -> list[tuple[Array, float]]:
    """(direction, range error in percent) of every scenario but nominal."""
    zero = np.zeros(3)
    if name != "9-worst-case" and name != "28" and name not in _GRID_SETS:
        raise ConfigError(f"scenario set '{name}' is unknown; expected one of {', '.join(SET_NAMES)}")
    count, _, times = ("14x2" if name == "28" else name).partition("x")
    if (times or name == "9-worst-case") and range_percent == 0:
        raise ConfigError(f"scenario set '{name}' varies the range, but the range error is 0 %; use 6, 14 or 26")
    both = (-range_percent, range_percent)
    if name == "9-worst-case":
        return [*((unit, 0.0) for unit in directions(6)), *((zero, percent) for percent in both)]
    units = directions(int(count))
    if times == "3":
        triple = (-range_percent, 0.0, range_percent)
        return [*((zero, percent) for percent in both), *product(units, triple)]
    return list(product(units, both if times == "2" else (0.0,)))


def _scenario(shift_mm: Array, percent: float) -> Scenario:
    parts = [f"{axis}{value:+.1f}" for axis, value in zip("xyz", shift_mm, strict=True) if value != 0]
    if percent:
        parts.append(f"range{percent:+.1f}%")
    return Scenario(" ".join(parts), _triple(shift_mm), 1 + percent / 100)


def _random(name: str, setup_mm: Array, range_percent: float, rng: np.random.Generator | None) -> tuple[Scenario, ...]:
    count = name.removeprefix("random:")
    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"scenario set '{name}' needs a positive number of draws, as in 'random:100'")
    if rng is None:
        raise ConfigError(f"scenario set '{name}' needs a seeded random generator (rng)")
    shifts = rng.normal(size=(int(count), 3)) * setup_mm / SETUP_ERROR_IN_SIGMA
    scales = 1 + rng.normal(size=int(count)) * range_percent / RANGE_ERROR_IN_SIGMA / 100
    digits = len(count)
    return tuple(
        Scenario(f"random {i:0{digits}d}", _triple(shift), float(scale), random=True)
        for i, (shift, scale) in enumerate(zip(shifts, scales, strict=True), start=1)
    )


def _triple(vector: Array) -> tuple[float, float, float]:
    x, y, z = (float(v) + 0.0 for v in vector)
    return x, y, z
