"""The tests of `test_cuda_device` in numba's CUDA simulator, which must be chosen before numba is imported."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).with_name("test_cuda_device.py")


def test_kernels_in_the_simulator() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--durations=0", str(TESTS)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=TESTS.parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, done.stdout[-3000:]
