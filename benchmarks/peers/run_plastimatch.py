"""Deformable registration with plastimatch; run by the Python of its own environment, without doseeng.

Usage: run_plastimatch.py TASK.npz OUT.npz (see exchange.py). Squared differences (its mutual information stayed near
the start at the same cost) and B-splines in three stages down to 10 mm, with plastimatch's own regularisation, inside
the mask of the day's image; a rigid registration first when the images lie far apart.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import plastimatch
import SimpleITK as sitk
from exchange import AIR_HU, answer, read_task

# Shrink factors x, y, z, mm between control points, and iterations.
STAGES = (((4, 4, 2), 40, 50), ((2, 2, 1), 20, 50), ((1, 1, 1), 10, 20))
CURVATURE = 0.5
RIGID = """[STAGE]
xform=align_center_of_gravity
[STAGE]
xform=rigid
optim=versor
metric=mse
res=4 4 2
max_its=100
"""


def command_file(folder, far):
    """What plastimatch is told."""
    text = f"[GLOBAL]\nfixed={folder}/day.mha\nmoving={folder}/planning.mha\nfixed_roi={folder}/mask.mha\n"
    text += f"vf_out={folder}/field.mha\ndefault_value={AIR_HU:g}\n" + (RIGID if far else "")
    for shrink, grid_mm, iterations in STAGES:
        text += f"[STAGE]\nxform=bspline\nimpl=plastimatch\noptim=lbfgsb\nmetric=mse\nmax_its={iterations}\n"
        text += f"res={shrink[0]} {shrink[1]} {shrink[2]}\ngrid_spac={grid_mm} {grid_mm} {grid_mm}\n"
        text += f"regularization_lambda={CURVATURE}\n"
    path = folder / "command.txt"
    path.write_text(text)
    return path


def write(values, image, path):
    """An image file of values on the grid of an image."""
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(image.spacing_mm)
    made.SetOrigin(image.origin_mm)
    sitk.WriteImage(made, str(path))


def main(task_path, out_path):
    task = read_task(task_path)
    program = Path(plastimatch.__file__).parent / "bin" / "plastimatch"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(task.day.hu, task.day, folder / "day.mha")
        write(task.planning.hu, task.planning, folder / "planning.mha")
        write(task.day.mask, task.day, folder / "mask.mha")
        command = command_file(folder, task.far)

        def work():
            done = subprocess.run([program, "register", command], check=False, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"plastimatch ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
            field = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "field.mha")))
            return field, task.day.spacing_mm, task.day.origin_mm

        answer(out_path, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
