"""The voxel loops on a GPU: numba.cuda kernels around the scalar functions that the CPU's loops call too.

`device.py` compiles `_kernels.scalar` for the GPU; `rays.py`, `march.py`, `trace.py` and `photon.py` are the twins of
the CPU's files of that name, `statistics.py` adds up scenarios. Nothing here needs a device until a kernel is launched.
All arithmetic is float32: a GPU does float64 at half the speed or much less, and a test searches the PTX for it.
"""

KERNEL_MODULES = ("rays", "march", "trace", "photon", "statistics")
"""Where the kernels are; each is a `device.Kernel`."""
