"""Deformable registration with our own method, in a process of its own like the peers, so that memory is its own.

Usage: run_doseeng_registration.py TASK.npz OUT.npz (see exchange.py). The mask is not read: the field of view is found
in the day's image, as on a treatment day.
"""

import sys

from exchange import Image, answer, read_task

from doseeng.grid import Grid, Volume
from doseeng.transforms import as_field
from registration.deformable import register_deformable
from registration.fieldofview import seen_region
from registration.rigid import register_rigid


def as_volume(image: Image) -> Volume:
    """The image as doseeng takes it."""
    nz, ny, nx = image.hu.shape
    return Volume(Grid((nz, ny, nx), image.spacing_mm, image.origin_mm), image.hu)


def main(task_path: str, out_path: str) -> None:
    """Register and write the pullback."""
    task = read_task(task_path)
    planning, day = as_volume(task.planning), as_volume(task.day)

    def work():
        seen = seen_region(day)
        start = as_field(planning.grid, register_rigid(planning, day, seen))
        field = register_deformable(planning, day, seen, start)
        return field.vectors_mm, field.grid.spacing_mm, field.grid.origin_mm

    answer(out_path, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
