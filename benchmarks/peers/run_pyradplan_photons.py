"""Dose of open photon fields with pyRadPlan; run by the Python of its own environment, without doseeng.

Usage: run_pyradplan_photons.py PHANTOM.npz OUT.npz BIXEL_MM FIELD_MM... PHANTOM holds hu (z, y, x), spacing_mm and
origin_mm, in patient coordinates with the isocentre at the origin; the beams are square, from gantry 0, of pyRadPlan's
generic 6 MV machine. A field is made of bixels of BIXEL_MM and unit weight; 0 makes each field one bixel. OUT gets
dose_N (z, y, x) for each field. The last line printed is JSON: wall_s and cpu_s (lists, of the dose alone), peak_mb.
"""

import json
import resource
import sys
import time

import numpy as np
import SimpleITK as sitk
from pyRadPlan.cst import create_cst, create_voi
from pyRadPlan.ct import create_ct
from pyRadPlan.dose import calc_dose_forward
from pyRadPlan.machines import load_from_name
from pyRadPlan.plan import create_pln
from pyRadPlan.stf import SteeringInformation

CUTOFF_MM = 150.0
"""Voxels so far from the edge of a bixel still get dose; its kernels reach no farther than 180 mm."""


def read_phantom(path):
    """CT, the structure that asks for dose everywhere, and the spacing of a phantom file."""
    phantom = np.load(path)
    spacing = dict(zip("xyz", map(float, phantom["spacing_mm"]), strict=True))
    ct = create_ct(
        cube_hu=phantom["hu"].astype(np.float64), resolution=spacing, origin=tuple(map(float, phantom["origin_mm"]))
    )
    everything = np.ones(phantom["hu"].shape, dtype=np.uint8)
    return ct, create_cst([create_voi(voi_type="EXTERNAL", name="all", ct_image=ct, mask=everything)], ct=ct), spacing


def square_field(width, bixel, machine):
    """Steering information of a square open field from gantry 0."""
    axis = np.arange(-width / 2 + bixel / 2, width / 2, bixel)
    source = np.array([0.0, -float(machine.sad), 0.0])
    positions = [np.array([x, 0.0, z]) for z in axis for x in axis]
    rays = [
        {
            "ray_pos_bev": p, "ray_pos": p, "target_point_bev": 2 * p - source, "target_point": 2 * p - source,
            "beamlets": [{"energy": float(machine.energies[0])}],
        }
        for p in positions
    ]  # fmt: skip
    beam = {
        "gantry_angle": 0.0, "couch_angle": 0.0, "bixel_width": bixel, "radiation_mode": "photons",
        "machine": machine.name, "sad": float(machine.sad), "iso_center": np.zeros(3), "source_point_bev": source,
        "source_point": source, "rays": rays,
    }  # fmt: skip
    return SteeringInformation(beams=[beam])


def main(phantom_path, out_path, bixel, *widths):
    ct, cst, spacing = read_phantom(phantom_path)
    machine = load_from_name("photons", "Generic")

    def dose(width, bixel):
        pln = create_pln(radiation_mode="photons", machine="Generic", num_of_fractions=1)
        pln.prop_dose_calc = {
            "dose_grid": {"resolution": spacing}, "geometric_lateral_cutoff": bixel / np.sqrt(2) + CUTOFF_MM
        }  # fmt: skip
        stf = square_field(width, bixel, machine)
        weights = np.ones(stf.total_number_of_bixels)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        result = calc_dose_forward(ct, cst, stf, pln, weights)["physical_dose"]
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        values = result if isinstance(result, np.ndarray) else sitk.GetArrayFromImage(result)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return values.astype(np.float32), wall, cpu

    dose(10.0, 10.0)  # compiles what is compiled on first use
    doses, walls, cpus = zip(*(dose(float(w), float(bixel) or float(w)) for w in widths), strict=True)
    np.savez_compressed(out_path, **{f"dose_{n}": values for n, values in enumerate(doses)})
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    print(json.dumps({"wall_s": walls, "cpu_s": cpus, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(*sys.argv[1:])
