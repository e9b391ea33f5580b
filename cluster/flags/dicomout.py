"""Results to archives: the DICOM objects that a job left, as they are, so that a repeat has the same UIDs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from pydicom import dcmread

from cluster.jobs.model import Artifact
from cluster.service.config import Destination, ServiceConfig
from cluster.storage.blobs import BlobStore

NAMES: Final = {"RTDOSE": "RD.dcm", "RTSTRUCT": "RS.dcm", "REG": "REG.dcm", "SR": "SR.dcm", "PDF": "PDF.dcm"}
IMAGES: Final = "CT/"
"""Slices of the image that a dose was computed on are artifacts below this name."""


def wanted(artifacts: Sequence[Artifact], objects: Sequence[str]) -> list[Artifact]:
    """Those of a job's artifacts that a destination takes, images first: what refers to them comes after them."""
    names = {NAMES[kind] for kind in objects if kind in NAMES}
    images = [a for a in artifacts if "CT" in objects and a.name.startswith(IMAGES)]
    return sorted(images, key=lambda a: a.name) + [a for a in artifacts if a.name in names]


def send_results(
    destination: Destination, config: ServiceConfig, site: str, artifacts: Sequence[Artifact], blobs: BlobStore
) -> None:
    """Store what the destination takes with its archive; nothing where the job left none of it.

    PeerError when the archive did not take all of it; JobError for a blob that is gone.
    """
    from cluster.node.send import send_objects

    chosen = wanted(artifacts, destination.objects)
    if chosen:
        calling_ae = config.site_named(site).called_ae or config.dicom.ae_title
        objects = [dcmread(io.BytesIO(blobs.get(artifact.sha256))) for artifact in chosen]
        send_objects(destination, objects, calling_ae, config.dicom.timeout_s)
