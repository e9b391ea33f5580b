"""Every benchmark on the reference data, one after the other: `make bench` or `python -m benchmarks.run [DATA]`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import (
    accuracy,
    anchoring,
    daydose,
    dcpt,
    dvh,
    gamma,
    gates,
    gpu,
    let,
    photon_plans,
    registration,
    speed,
)
from benchmarks.reference import DATA


def main() -> int:
    """Run all; the exit code is the worst of theirs."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not data.is_dir():
        print(f"reference data not found in {data}; give its folder", file=sys.stderr)
        return 1
    return max(
        accuracy.main(["proton", str(data / "proton_mc")]),
        accuracy.main(["photon", str(data / "photon_mc")]),
        anchoring.main([str(data / "proton_mc")]),
        dcpt.main([str(data / "dicom" / "dcpt_proton_slab.zip")]),
        let.main([str(data / "dicom" / "dcpt_proton_slab.zip")]),
        photon_plans.main([str(data)]),
        dvh.main([str(data)]),
        gamma.main([]),
        registration.main([str(data / "registration"), "--no-peers"]),
        gates.main([]),
        daydose.main([str(data / "registration")]),
        speed.main(["first"]),
        speed.main(["proton"]),
        speed.main(["photon"]),
        gpu.main([]),
        gpu.main(["photon"]),
    )


if __name__ == "__main__":
    sys.exit(main())
