"""Between the energies of a table."""

from __future__ import annotations

import numpy as np

from doseeng.machines.model import Array


def rows_between(energy_mev: Array, rows: Array, at_mev: Array) -> Array:
    """Rows (k, ...) at at_mev (k,) of a table (n, ...) by energy_mev (n,): linear, constant beyond its ends."""
    if len(energy_mev) == 1:
        return np.repeat(rows, len(at_mev), axis=0)
    upper = np.clip(np.searchsorted(energy_mev, at_mev), 1, len(energy_mev) - 1)
    e0, e1 = energy_mev[upper - 1], energy_mev[upper]
    w = np.clip((at_mev - e0) / (e1 - e0), 0.0, 1.0).reshape((-1,) + (1,) * (rows.ndim - 1))
    return rows[upper - 1] * (1.0 - w) + rows[upper] * w
