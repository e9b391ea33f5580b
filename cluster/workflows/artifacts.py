"""What a job leaves: bytes in the blob store of its site, under names that are a contract, and a compact summary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cluster.jobs.model import Artifact
from cluster.storage.blobs import BlobStore
from robust.export import finite

RESULT: Final = "result.json"
REPORT: Final = "report.html"
DOSE: Final = "RD.dcm"
STRUCTURES: Final = "RS.dcm"
REGISTRATION: Final = "REG.dcm"
IMAGES: Final = "CT/"
COURSE: Final = "course/"
REPORT_OBJECT: Final = "SR.dcm"
PAGES: Final = "summary.pdf"
PAGES_OBJECT: Final = "PDF.dcm"

_MEDIA_TYPES: Final = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".dcm": "application/dicom",
    ".pdf": "application/pdf",
    ".npz": "application/octet-stream",
}


def kept(blobs: BlobStore, name: str, data: bytes | Path) -> Artifact:
    """Bytes as an artifact; its media type follows from its name."""
    blob = blobs.put(data)
    return Artifact(name, _MEDIA_TYPES[Path(name).suffix], blob.sha256, blob.size)


def kept_json(blobs: BlobStore, name: str, values: dict[str, Any]) -> Artifact:
    """Plain data as an artifact: equal data, equal bytes. None stands for numbers that do not exist."""
    text = json.dumps(finite(values), indent=1, sort_keys=True, allow_nan=False, default=str, ensure_ascii=False)
    return kept(blobs, name, f"{text}\n".encode())


def compact_goals(goals: Iterable[dict[str, Any]], value: str) -> list[dict[str, Any]]:
    """Goals of a result's JSON for a summary. value: the key of the number that was judged."""
    return [
        {
            "name": f"{goal['structure']} {goal['metric']}",
            "value": goal[value],
            "relation": goal["relation"],
            "limit": goal["limit"],
            "unit": goal["unit"],
            "status": goal["status"],
        }
        for goal in goals
    ]
