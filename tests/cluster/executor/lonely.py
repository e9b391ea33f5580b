"""A driver of its own, for the test that kills Ray under it: `python -m tests.cluster.executor.lonely CASE_JSON`.

Exit code 3: it noticed that Ray had ended. Ray may also end the process itself before it can.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from cluster.executor.open import open_executor
from cluster.executor.protocol import ExecutorLost
from cluster.jobs.context import JobContext
from cluster.jobs.model import JobSpec
from cluster.service.config import ExecutorConfig
from cluster.storage.files import FileBlobs
from cluster.workflows.evaluation import evaluate_in_blocks
from tests.cluster.executor.processes import ray_processes

NOTICED = 3


def main() -> int:
    """Evaluate block by block, and kill Ray when some are done."""
    given = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(given["folder"])
    blobs = FileBlobs(Path(given["blobs"]))

    def progress(_stage: str, done: int, total: int) -> None:
        (folder / f"told-{done}-of-{total}").touch()
        if done >= 3:
            for pid in ray_processes(os.getpid()):
                os.kill(pid, signal.SIGKILL)
            (folder / "killed").touch()

    executor = open_executor(ExecutorConfig(kind="ray", workers=2, backend="cpu"))
    try:
        evaluate_in_blocks(JobSpec.from_json(given["spec"]), JobContext(blobs, executor, folder, progress), 0.0)
    except ExecutorLost:
        return NOTICED
    return 0


if __name__ == "__main__":
    sys.exit(main())
