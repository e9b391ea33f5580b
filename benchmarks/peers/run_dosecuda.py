"""Time of a proton plan with DoseCUDA; run by the Python of its own environment, without doseeng.

Usage: run_dosecuda.py PLAN.npz, with hu (z, y, x), origin_mm, spacing_mm and per beam angles_N (gantry, couch),
isocenter_mm_N, spots_N (x, y, MU, MeV). Each spot gets the nearest energy of DoseCUDA's own machine. The last line
printed is JSON: plan_s, the whole call; kernels_s, what the calls into its CUDA library took of it.
"""

import json
import sys
import time

import numpy as np
from DoseCUDA import IMPTBeam, IMPTDoseGrid, IMPTPlan, plan_impt

REPEATS = 5


def make_plan(data):
    """The beams of the file as DoseCUDA has them."""
    plan = IMPTPlan()
    label = str(plan.dicom_rangeshifter_label[0])
    energies = plan.beam_models[0].energy_labels
    number = 0
    while f"spots_{number}" in data:
        beam = IMPTBeam()
        beam.dicom_rangeshifter_label = label
        beam.gantry_angle, beam.couch_angle = map(float, data[f"angles_{number}"])
        beam.iso = data[f"isocenter_mm_{number}"].astype(np.single)
        x, y, mu, energy = data[f"spots_{number}"].T
        nearest = np.abs(energies - energy[:, None]).argmin(axis=1)
        beam.spot_list = np.column_stack([x, y, mu, nearest]).astype(np.single)
        beam.n_spots = len(mu)
        plan.addBeam(beam)
        number += 1
    return plan


def main():
    """Compute the plan some times and print the median cost."""
    data = np.load(sys.argv[1])
    grid = IMPTDoseGrid()
    grid.HU = data["hu"].astype(np.single)
    grid.size = np.array(grid.HU.shape)
    grid.origin, grid.spacing = data["origin_mm"].astype(np.single), data["spacing_mm"].astype(np.single)
    plan = make_plan(data)
    spent = []
    kernels = plan_impt.dose_kernels

    def timed(function):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            spent[-1] += time.perf_counter() - start
            return result

        return call

    class Timed:
        proton_raytrace_cuda = staticmethod(timed(kernels.proton_raytrace_cuda))
        proton_spot_cuda = staticmethod(timed(kernels.proton_spot_cuda))

    plan_impt.dose_kernels = Timed
    total = []
    for _ in range(REPEATS + 1):
        spent.append(0.0)
        start = time.perf_counter()
        grid.computeIMPTPlan(plan)
        total.append(time.perf_counter() - start)
    if not grid.dose.any():
        raise SystemExit("DoseCUDA computed no dose")
    print(json.dumps({"plan_s": float(np.median(total[1:])), "kernels_s": float(np.median(spent[1:]))}))


if __name__ == "__main__":
    main()
