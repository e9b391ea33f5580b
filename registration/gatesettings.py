"""Limits of the quality gates: shipped with the package, one by one replaceable by a clinic's own TOML file."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from doseeng.errors import ConfigError

SHIPPED: Final = Path(__file__).parent / "data" / "gates.toml"
TABLE: Final = "limits"
_SHARES: Final = {"percent": 100.0, "dice": 1.0}
"""Largest values by the last word of a key: what is more than everything is a typing error."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What the gates are held to; gates.toml explains every key, and where the numbers come from."""

    similarity_target: float
    similarity_organ: float
    similarity_body: float
    restart_target_mm: float
    restart_organ_mm: float
    restart_path_mm: float
    restart_body_mm: float
    folding: float
    volume_change_local: float
    volume_change_organ: float
    inverse_consistency_mm: float
    bone_rigidity_mm: float
    target_seen_percent: float
    path_seen_percent: float
    tissue_overlap_dice: float
    air_level_hu: float
    correction_hu: float
    residual_hu: float
    rotation_deg: float
    contour_dice: float
    contour_distance_mm: float
    landmark_mean_mm: float
    landmark_max_mm: float


_KEYS: Final = tuple(field.name for field in fields(GateLimits))


def read_limits(file: Path | None = None) -> GateLimits:
    """The shipped limits, those of `file` in their place; ConfigError names file and key of what is wrong."""
    limits = GateLimits(**_table(SHIPPED))
    return limits if file is None else replace(limits, **_table(file))


def _table(path: Path) -> dict[str, float]:
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read ({error.strerror or error}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: is not UTF-8 text; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: is not valid TOML: {error}") from error
    for key in whole:
        if key != TABLE:
            raise ConfigError(f"{path.name}: {key}: unknown key; expected the table [{TABLE}]")
    table = whole.get(TABLE)
    if not isinstance(table, dict):
        raise ConfigError(f"{path.name}: the table [{TABLE}] is missing")
    return {key: _limit(path.name, key, value) for key, value in table.items()}


def _limit(file_name: str, key: str, value: Any) -> float:
    where = f"{file_name}: {TABLE}.{key}"
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(_KEYS)}"
        raise ConfigError(f"{where}: unknown key; {hint}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{where}: expected a number, found {value!r}")
    largest = _SHARES.get(key.rsplit("_", 1)[-1], math.inf)
    if not (math.isfinite(value) and 0.0 <= value <= largest):
        span = "of at least 0" if math.isinf(largest) else f"from 0 to {largest:g}"
        raise ConfigError(f"{where}: expected a finite number {span}, found {value!r}")
    return float(value)
