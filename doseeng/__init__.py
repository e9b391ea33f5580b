"""The dose engine: volumes, plans, machines, DICOM and physics.

No Ray, web or database import lives here, and importing it loads numpy, scipy and numba only.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("doseeng")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
