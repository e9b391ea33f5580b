"""All voxel loops. Plain arrays in and out, float32, no dataclasses, no I/O, no errors beyond bad shapes."""

import os

# Threads that spin while they wait for the next small loop starve each other as soon as a core is shared. OpenMP reads
# this when numba starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
