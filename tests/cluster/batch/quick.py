"""`python quick.py LOG SECONDS [arguments of doseeng batch]`: a batch whose engine is a quick stand-in.

Each job takes SECONDS and appends its plan's label to LOG when it is computed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

import cluster.batch.run
from cluster.cli.batch import batch
from cluster.jobs.context import JobContext
from cluster.jobs.model import JobResult, JobSpec
from tests.cluster.batch.conftest import plan_in, quick_result


def main(log: Path, seconds: float) -> None:
    """Run `doseeng batch` with the arguments that are left."""

    def run_job(spec: JobSpec, context: JobContext) -> JobResult:
        label = str(plan_in(spec, context).RTPlanLabel)
        time.sleep(seconds)
        result = quick_result(label, spec, context)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{label}\n")
        return result

    cluster.batch.run.run_job = run_job
    typer.run(batch)


if __name__ == "__main__":
    log_path, pause = Path(sys.argv[1]), float(sys.argv[2])
    sys.argv[1:3] = []
    main(log_path, pause)
