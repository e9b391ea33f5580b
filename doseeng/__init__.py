"""The dose engine: volumes, plans, machines, DICOM and physics.

No Ray, web or database import lives here, and importing it loads numpy, scipy and numba only.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doseeng.dicom.case import read_case

try:
    __version__ = version("doseeng")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "read_case"]


def __getattr__(name: str) -> Any:
    """What needs more than the engine is loaded when it is asked for."""
    if name == "read_case":
        from doseeng.dicom.case import read_case

        return read_case
    raise AttributeError(f"module 'doseeng' has no attribute '{name}'")
