"""Beam data of other programs, turned into machines.

Each importer is one function that returns the machine and the notices a physicist should read: what the data did not
hold, what was left out and what was put in its place.
"""

from doseeng.machines.importers.dcpt import import_dcpt
from doseeng.machines.importers.matrad import import_matrad
from doseeng.machines.importers.mcsquare import import_mcsquare

__all__ = ["import_dcpt", "import_matrad", "import_mcsquare"]
