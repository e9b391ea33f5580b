"""Dose of a photon plan with PyDoseRT on the CPU; run by the Python of its own environment, without doseeng.

Usage: run_pydosert.py CASE_DIR OUT.npz PRESET ENGINE SPACING_MM. CASE_DIR holds CT, RTSTRUCT, RTPLAN and RTDOSE files
of one patient, the structure set an outline "Body"; PRESET is one of its machines. OUT gets dose_gy (z, y, x) of one
fraction, spacing_mm and origin_mm (x, y, z) in patient coordinates. The last line printed is JSON: wall_s, cpu_s and
peak_mb of the dose alone; engine and calibration, which computes a dose in water, come before.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydosert
import torch
from pydosert.data import MachineConfig, loaders

KERNEL_VOXELS = 51
"""As in its own description of the engine."""


def files_of(folder):
    """Paths of all DICOM files by modality."""
    found = {}
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        found.setdefault(pydicom.dcmread(path, stop_before_pixels=True).Modality, []).append(path)
    return found


def main(case_dir, out_path, preset, engine_name, spacing):
    warnings.simplefilter("ignore")  # of torch, about autocast on a CPU
    files = files_of(case_dir)
    patient, sequences = loaders.load_dicom(
        ct_folder=str(files["CT"][0].parent), dose_path=files["RTDOSE"], plan_path=files["RTPLAN"],
        struct_path=str(files["RTSTRUCT"][0]), struct_names=["Body"], use_delivery=True,
        new_spacing=(float(spacing),) * 3, crop_volume=False, pad_to_cylinder=True, device="cpu",
    )  # fmt: skip
    (sequence,) = sequences
    body = patient.structures["Body"] > 0
    density = torch.where(body, patient.density_image, 0.0).to(torch.float32)
    with torch.no_grad():
        # Its convolution by FFT gives the same dose as the direct one, nine times faster.
        engine = getattr(pydosert, engine_name)(
            machine_config=MachineConfig(preset=preset), kernel_size=KERNEL_VOXELS,
            dose_grid_spacing=patient.resolution, dose_grid_shape=tuple(density.shape), beam_template=sequence,
            device="cpu", dtype=torch.float32, beam_chunk_size=1, conv_backend="fft",
        )  # fmt: skip
        engine.calibrate(verbose=False)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        dose = engine.compute_dose(sequence, density_image=density.unsqueeze(0))
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    plan = pydicom.dcmread(files["RTPLAN"][0])
    isocenter = plan.BeamSequence[0].ControlPointSequence[0].IsocenterPosition
    np.savez_compressed(
        out_path,
        dose_gy=np.where(body.numpy(), dose[0].numpy(), 0.0).astype(np.float32),
        spacing_mm=np.array(patient.resolution[::-1], dtype=float),
        origin_mm=np.array(isocenter, dtype=float) - np.array(sequence.iso_center[::-1]),
    )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": after.ru_maxrss / 1024.0}))


if __name__ == "__main__":
    main(*sys.argv[1:])
