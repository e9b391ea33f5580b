"""Deformable registration with our own method, in a process of its own like the peers, so that memory is its own.

Usage: run_doseeng_registration.py TASK.npz OUT.npz (see exchange.py). Images finer than the working resolution are
resampled to it. The mask is not read: the field of view is found in the day's image, as on a treatment day.
"""

import sys

from exchange import AIR_HU, Image, answer, read_task
from registration.deformable import register_deformable
from registration.fieldofview import seen_region
from registration.rigid import register_rigid

from doseeng.grid import Grid, Volume, resample, resampled_grid
from doseeng.transforms import as_field

WORKING_MM = 3.0


def working_volume(image: Image) -> Volume:
    """The image with voxels of at least the working resolution."""
    nz, ny, nx = image.hu.shape
    volume = Volume(Grid((nz, ny, nx), image.spacing_mm, image.origin_mm), image.hu)
    x, y, z = (max(side, WORKING_MM) for side in image.spacing_mm)
    return resample(volume, resampled_grid(volume.grid, (x, y, z)), AIR_HU)


def main(task_path: str, out_path: str) -> None:
    """Register and write the pullback."""
    task = read_task(task_path)

    def work():
        planning, day = working_volume(task.planning), working_volume(task.day)
        start = as_field(day.grid, register_rigid(planning, day)) if task.far else None
        field = register_deformable(planning, day, seen_region(day), start)
        return field.vectors_mm, field.grid.spacing_mm, field.grid.origin_mm

    answer(out_path, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
