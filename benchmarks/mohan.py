"""Spectra of clinical beams by Mohan, Chui and Lidofsky, Med Phys 12 (1985) 592, with which the photon references were
computed: photons per bin (relative), bins of equal width from 0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BIN_MEV = {"mohan6": 0.25, "mohan10": 0.5, "mohan15": 0.25}
PHOTONS = {
    "mohan6": (
        0.004107824, 0.1295177, 0.4609022, 0.4609022, 0.4435880, 0.4084962, 0.4084962, 0.2496504, 0.2367691, 0.1867142,
        0.1382681, 0.1304545, 0.1484442, 0.09496227, 0.1246583, 0.09773248, 0.08891984, 0.05154921, 0.04184013,
        0.04803306, 0.01624749, 0.02715377, 0.01199324, 0.01573713,
    ),
    "mohan10": (
        0.2400843, 0.2500183, 0.21001317, 0.2625331, 0.2072358, 0.2114193, 0.1518784, 0.1118486, 0.1039823, 0.088179611,
        0.099346541, 0.046165790, 0.060534731, 0.042974982, 0.042974982, 0.024302693, 0.024302693, 0.016152654,
        0.0078928359, 0.0010140655,
    ),
    "mohan15": (
        0.1, 0.1181212, 0.9242220, 1.827309, *[2.179610] * 2, *[2.018024] * 2, *[1.796114] * 2, *[1.359933] * 2,
        *[1.264131] * 2, *[0.9130477] * 4, *[0.6901586] * 4, *[0.4576181] * 7, 0.5308689, *[0.4086977] * 3,
        *[0.3380938] * 4, *[0.1667311] * 2, *[0.2525738] * 2, *[0.1751685] * 2, *[0.1435538] * 2, *[0.1056484] * 3,
        0.09724631, *[0.1688981] * 4, *[0.09675158] * 2, *[0.03600224] * 2, 0.01020689,
    ),
}  # fmt: skip


def energy_fluence(quality: str) -> tuple[Array, Array]:
    """Photon energies in MeV (middles of the bins) and the share of the energy fluence that each carries."""
    photons = np.array(PHOTONS[quality])
    energy_mev = BIN_MEV[quality] * (np.arange(len(photons)) + 0.5)
    carried = photons * energy_mev
    return energy_mev, carried / carried.sum()
