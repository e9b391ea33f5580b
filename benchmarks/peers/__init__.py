"""Other dose engines, each in its own environment: they run as subprocesses and hand over arrays."""
