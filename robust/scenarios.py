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
    delivery                      nominal + one error of the machine at a time: gantry, collimator and couch angle, leaf
                                  opening (photon plans; protons know no collimator)

Sign of the range error: + means more stopping power, so protons stop short of where they were planned to (undershoot).
Photons have no range: the same number is an error of density and attenuation, such as a CT calibration makes.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from doseeng.errors import ConfigError
from doseeng.scenario import NOMINAL, Modality, Scenario
from robust.configuration import DATA_DIR, ScenarioFile, ScenarioRow, SiteFile, read_toml

Array = npt.NDArray[np.float64]
_Material = Literal["range", "density"]

DEFAULT_SET: Final[dict[Modality, str]] = {"proton": "28", "photon": "14"}
"""What is evaluated unless a set is named. Photon dose hardly depends on CT numbers: setup errors alone."""

SETUP_ERROR_IN_SIGMA: Final = 2.5
"""A grid set's setup error is this many standard deviations of the systematic error: the 2.5 Sigma of the margin recipe
that covers 90 % of patients (van Herk et al., Int J Radiat Oncol Biol Phys 47 (2000) 1121)."""

RANGE_ERROR_IN_SIGMA: Final = 1.5
"""Range margins are quoted at 1.5 standard deviations (Paganetti, Phys Med Biol 57 (2012) R99)."""

LARGEST_RANGE_PERCENT: Final = 20.0
"""More is no calibration error but a typing error; 3.5 is usual."""

ANGLE_ERROR_DEG: Final = 1.0
LEAF_ERROR_MM: Final = 0.5
"""Errors of the set "delivery": the 1 degree that AAPM TG-40 (Kutcher et al., Med Phys 21 (1994) 581) and TG-142 (Klein
et al., Med Phys 36 (2009) 4197) allow gantry, collimator and couch angles; with each leaf end off by half a millimetre
gaps are off by the 1 mm that TG-142 allows a leaf position."""

_NONZERO_AXES: Final = {6: (1,), 14: (1, 3), 26: (1, 2, 3)}
_GRID_SETS: Final = tuple(f"{n}{times}" for n in _NONZERO_AXES for times in ("", "x2", "x3"))
SET_NAMES: Final = ("nominal", *_GRID_SETS, "28", "9-worst-case", "random:N", "delivery")


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
    modality: Modality = "proton",
) -> tuple[Scenario, ...]:
    """The scenarios of a named set, nominal first.

    setup_mm: largest setup error; three values (patient x, y, z) make an ellipsoid, shift = unit vector * setup_mm.
    range_percent: largest error of the stopping powers, or of density for photons. rng: seeded generator, asked for by
    "random:N" alone, whose standard deviations are setup_mm / SETUP_ERROR_IN_SIGMA and range_percent /
    RANGE_ERROR_IN_SIGMA. modality: whether names say range or density.
    ConfigError: unknown name, or a set that varies an error whose magnitude is zero.
    """
    material: _Material = "range" if modality == "proton" else "density"
    size = np.broadcast_to(np.asarray(setup_mm, dtype=np.float64), (3,))
    if not np.all(np.isfinite(size)) or np.any(size < 0):
        raise ConfigError(f"setup error must be one or three millimetre values >= 0, found {setup_mm}")
    if not 0 <= range_percent <= LARGEST_RANGE_PERCENT:
        raise ConfigError(f"{material} error must lie in 0..{LARGEST_RANGE_PERCENT:g} %, found {range_percent}")
    if name == "nominal":
        return (NOMINAL,)
    if name == "delivery":
        return (NOMINAL, *_delivery())
    if name.startswith("random:"):
        return (NOMINAL, *_random(name, size, range_percent, rng))
    pairs = _grid(name, range_percent, material)
    if np.any(size == 0):
        raise ConfigError(f"scenario set '{name}' varies the setup, but the setup error is {setup_mm} mm")
    return (NOMINAL, *(_scenario(direction * size, percent, material) for direction, percent in pairs))


def site_errors(site: str) -> tuple[tuple[float, float, float], float]:
    """Setup error (x, y, z) in mm and range error in percent of a treatment site of the shipped scenarios.toml."""
    table = read_toml(DATA_DIR / "scenarios.toml", SiteFile).site
    if site not in table:
        raise ConfigError(f"treatment site '{site}' is unknown; expected one of {', '.join(table)}")
    x, y, z = table[site].setup_mm
    return (x, y, z), table[site].range_percent


def load_scenarios(path: Path) -> tuple[Scenario, ...]:
    """Scenarios listed as [[scenario]] (see `robust.configuration.ScenarioRow`) in a TOML file, nominal first.

    Nominal is added where the file has none. ConfigError: unknown keys, two scenarios of one name, "nominal" with an
    error, or an error of zero under another name.
    """
    rows = read_toml(path, ScenarioFile).scenario
    made: list[Scenario] = []
    for number, row in enumerate(rows):
        x, y, z = row.shift_mm
        scenario = Scenario(
            row.name,
            (x, y, z),
            1 + row.range_percent / 100,
            gantry_deg=row.gantry_deg,
            collimator_deg=row.collimator_deg,
            couch_deg=row.couch_deg,
            leaf_opening_mm=row.leaf_opening_mm,
        )
        where = f"{path.name}: scenario[{number}] '{row.name}'"
        if any(row.name == other.name for other in made):
            raise ConfigError(f"{where}: the name is taken; every scenario needs its own")
        if row.name == NOMINAL.name and scenario != NOMINAL:
            found = row.model_dump(exclude={"name"}, exclude_defaults=True)
            raise ConfigError(f"{where}: nominal has no error, found {found}; give the scenario another name")
        if row.name != NOMINAL.name and scenario.is_nominal:
            known = ", ".join(key for key in ScenarioRow.model_fields if key != "name")
            raise ConfigError(f"{where}: has no error ({known}); call it 'nominal' or remove it")
        made.append(scenario)
    return (NOMINAL, *(s for s in made if s.name != NOMINAL.name))


def _grid(name: str, range_percent: float, material: _Material) -> list[tuple[Array, float]]:
    """(direction, range or density error in percent) of every scenario but nominal."""
    zero = np.zeros(3)
    if name != "9-worst-case" and name != "28" and name not in _GRID_SETS:
        raise ConfigError(f"scenario set '{name}' is unknown; expected one of {', '.join(SET_NAMES)}")
    count, _, times = ("14x2" if name == "28" else name).partition("x")
    if (times or name == "9-worst-case") and range_percent == 0:
        raise ConfigError(
            f"scenario set '{name}' varies the {material}, but the {material} error is 0 %; use 6, 14 or 26, or give "
            "an error"
        )
    both = (-range_percent, range_percent)
    if name == "9-worst-case":
        return [*((unit, 0.0) for unit in directions(6)), *((zero, percent) for percent in both)]
    units = directions(int(count))
    if times == "3":
        triple = (-range_percent, 0.0, range_percent)
        return [*((zero, percent) for percent in both), *product(units, triple)]
    return list(product(units, both if times == "2" else (0.0,)))


def _scenario(shift_mm: Array, percent: float, material: _Material) -> Scenario:
    parts = [f"{axis}{value:+.1f}" for axis, value in zip("xyz", shift_mm, strict=True) if value != 0]
    if percent:
        parts.append(f"{material}{percent:+.1f}%")
    return Scenario(" ".join(parts), _triple(shift_mm), 1 + percent / 100)


def _delivery() -> list[Scenario]:
    """Every error of the machine, one at a time."""
    made = []
    for angle, leaf in ((ANGLE_ERROR_DEG, LEAF_ERROR_MM), (-ANGLE_ERROR_DEG, -LEAF_ERROR_MM)):
        made += [
            Scenario(f"gantry{angle:+.1f}°", gantry_deg=angle),
            Scenario(f"collimator{angle:+.1f}°", collimator_deg=angle),
            Scenario(f"couch{angle:+.1f}°", couch_deg=angle),
            Scenario(f"leaves{leaf:+.1f}mm", leaf_opening_mm=leaf),
        ]
    return made


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
