"""Where the reference data lie: $DOSEENG_DATA, or ../shared/data beside the checkout."""

import os
from pathlib import Path

DATA = Path(os.environ.get("DOSEENG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
