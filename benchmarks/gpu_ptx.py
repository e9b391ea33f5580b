"""Every CUDA kernel compiled to PTX: precision, and registers where ptxas can be had."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from doseeng._kernels.cuda import KERNEL_MODULES
from doseeng._kernels.cuda.device import Kernel
from doseeng.cuda_compile import NVVM_WHEEL, ptx
from doseeng.errors import BackendUnavailable

CAPABILITY = (9, 0)
"""H100."""


def kernels() -> list[Kernel]:
    """All kernels."""
    modules = [importlib.import_module(f"doseeng._kernels.cuda.{name}") for name in KERNEL_MODULES]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Kernel)]


def ptx_table() -> tuple[str, bool]:
    """A line per kernel, and whether all are free of float64; True too where nothing can be compiled."""
    lines = [f"\n{'kernel':16} {'PTX lines':>9} {'float64':>8} {'registers':>9} {'spilled':>8}"]
    good = True
    try:
        for kernel in kernels():
            text = ptx(kernel, CAPABILITY)
            double = text.count(".f64")
            good &= double == 0
            registers, spilled = _assembled(text)
            lines.append(f"{kernel.name:16} {text.count(chr(10)):9} {double:8} {registers:>9} {spilled:>8}")
    except BackendUnavailable as reason:
        lines.append(str(reason))
    return "\n".join(lines), good


def _assembled(text: str) -> tuple[str, str]:
    """Registers per thread and spilled bytes by ptxas, or dashes."""
    found = _ptxas()
    if found is None:
        return "-", "-"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(text)
        architecture = f"-arch=sm_{CAPABILITY[0]}{CAPABILITY[1]}"
        command = [found, "-v", architecture, str(file), "-o", str(file.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    return registers[1] if registers else "-", spilled[1] if spilled else "-"


def _ptxas() -> str | None:
    spec = importlib.util.find_spec("nvidia") and importlib.util.find_spec(NVVM_WHEEL)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "bin" / "ptxas").is_file():
            return str(Path(folder) / "bin" / "ptxas")
    return shutil.which("ptxas")
