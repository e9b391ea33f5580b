"""Before any test module is read: the size of the terminal is nobody's business.

GNU readline, which pytest imports, writes the size into the environment of its worker processes, where rich would take
it for what the tests set.
"""

import os

for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
