"""Dose of a proton plan with pyRadPlan; run by the Python of its own environment, without doseeng.

Usage: run_pyradplan.py PHANTOM.npz PLAN.npz OUT.npz. PLAN holds spots as matRad has them (beam, position in the
isocentre plane of the beam's-eye view, energy, weight in 1e6 protons). OUT gets the dose in Gy of one fraction on the
phantom's grid and the plan as computed. The last line printed is JSON: wall_s, cpu_s and peak_mb of the dose alone.
"""

import json
import resource
import sys
import time

import numpy as np
from pyRadPlan.cst import create_cst, create_voi
from pyRadPlan.ct import create_ct
from pyRadPlan.dose import calc_dose_forward
from pyRadPlan.geometry import lps
from pyRadPlan.machines import load_from_name
from pyRadPlan.plan import create_pln
from pyRadPlan.stf import SteeringInformation


def read_phantom(path):
    """CT and structures of a phantom file."""
    phantom = np.load(path)
    meta = json.loads(str(phantom["meta"]))
    spacing = dict(zip("xyz", map(float, phantom["spacing_mm"]), strict=True))
    ct = create_ct(
        cube_hu=phantom["hu"].astype(np.float64), resolution=spacing, origin=tuple(map(float, phantom["origin_mm"]))
    )
    vois = [
        create_voi(
            voi_type=structure["type"],
            name=structure["name"],
            ct_image=ct,
            mask=((phantom["mask_bits"] >> bit) & 1).astype(np.uint8),
        )
        for bit, structure in enumerate(meta["structures"])
    ]
    return ct, create_cst(vois, ct=ct), spacing


def steering(plan, machine, beams=None, spots_per_beam=None):
    """pyRadPlan's steering information and the order its bixels take the plan's spots in."""
    energies = np.array(machine.energies, dtype=np.float64)
    isocenter = plan["isocenter_mm"].astype(np.float64)
    stf, order = [], []
    for beam, gantry in enumerate(plan["gantry_deg"].astype(np.float64)):
        source_bev = np.array([0.0, -float(machine.sad), 0.0])
        to_patient = lps.get_beam_rotation_matrix(gantry, 0.0)
        spots = np.flatnonzero(plan["spot_beam"] == beam)[:spots_per_beam]
        positions, ray_of = np.unique(plan["spot_rayPos_bev_mm"][spots], axis=0, return_inverse=True)
        rays = []
        for index, position in enumerate(positions.astype(np.float64)):
            mine = spots[ray_of.ravel() == index]
            order.extend(mine)
            nearest = [energies[np.argmin(np.abs(energies - e))] for e in plan["spot_energy_MeV"][mine]]
            if np.max(np.abs(np.array(nearest) - plan["spot_energy_MeV"][mine])) > 0.01:
                raise ValueError("the plan has energies that pyRadPlan's machine lacks")
            target_bev = 2.0 * position - source_bev
            rays.append(
                {
                    "ray_pos_bev": position,
                    "ray_pos": to_patient @ position,
                    "target_point_bev": target_bev,
                    "target_point": to_patient @ target_bev,
                    "beamlets": [{"energy": float(e)} for e in nearest],
                }
            )
        stf.append(
            {
                "gantry_angle": gantry,
                "couch_angle": 0.0,
                "radiation_mode": "protons",
                "machine": machine.name,
                "sad": float(machine.sad),
                "iso_center": isocenter,
                "source_point_bev": source_bev,
                "source_point": to_patient @ source_bev,
                "rays": rays,
            }
        )
    return SteeringInformation(beams=stf), np.array(order)


def main(phantom_path, plan_path, out_path):
    ct, cst, spacing = read_phantom(phantom_path)
    plan = np.load(plan_path)
    pln = create_pln(radiation_mode="protons", machine="Generic", num_of_fractions=1)
    machine = load_from_name("protons", "Generic")
    pln.prop_dose_calc = {"dose_grid": {"resolution": spacing}}
    few, _ = steering(plan, machine, spots_per_beam=3)
    calc_dose_forward(ct, cst, few, pln, np.ones(few.total_number_of_bixels))  # compiles what is compiled on first use
    stf, order = steering(plan, machine)
    weights = plan["spot_weight"].astype(np.float64)[order]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    result = calc_dose_forward(ct, cst, stf, pln, weights)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    dose = result["physical_dose"]
    if not isinstance(dose, np.ndarray):
        import SimpleITK

        dose = SimpleITK.GetArrayFromImage(dose)
    np.savez_compressed(
        out_path,
        dose_gy=dose.astype(np.float32),
        gantry_deg=plan["gantry_deg"],
        isocenter_mm=plan["isocenter_mm"],
        spot_beam=plan["spot_beam"][order],
        spot_uv_mm=plan["spot_rayPos_bev_mm"][order][:, [0, 2]].astype(np.float64),
        spot_energy_mev=np.array([b.energy for beam in stf.beams for ray in beam.rays for b in ray.beamlets]),
        spot_protons=1e6 * weights,
        machine=machine.name,
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"spots": len(order), "wall_s": wall, "cpu_s": cpu, "peak_mb": after.ru_maxrss / 1024.0}))


if __name__ == "__main__":
    main(*sys.argv[1:])
