"""C-STORE as user: objects to a configured destination, in one association. Trying again is the outbox's business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context

from cluster.node.network import MOST_CONTEXTS, UNCOMPRESSED, Peer, association, require_success, shown
from doseeng.dicom.files import PARSE_ERRORS, read_file
from doseeng.dicom.tags import text
from doseeng.errors import DicomError, PeerError

TIMEOUT_S: Final = 60.0
"""How long a peer may take over one object, unless the caller says otherwise."""


def send_objects(
    destination: Peer, objects: Sequence[Path | Dataset], calling_ae: str, timeout_s: float = TIMEOUT_S
) -> int:
    """Send all objects; how many. Files are read one at a time.

    Uncompressed objects go in the transfer syntax that the peer prefers, compressed ones as they are. The first object
    that is refused ends it: the caller sends all again, and a peer that has some of them already takes them as
    repeats. PeerError when the peer cannot be reached, does not take a kind of object, or refuses one (with its
    status); DicomError for a file that is no DICOM.
    """
    contexts = _contexts(_kinds(objects))
    if not contexts:
        return 0
    with association(destination, calling_ae, contexts, timeout_s) as made:
        for number, item in enumerate(objects, start=1):
            dataset = read_file(item) if isinstance(item, Path) else item
            what = f"{UID(text(dataset, 'SOPClassUID')).name} ({number} of {len(objects)})"
            try:
                answer = made.send_c_store(dataset, msg_id=number % 0xFFFF + 1)
            except ValueError as error:
                # No presentation context was accepted, or the object cannot be encoded.
                raise PeerError(f"{shown(destination)} does not take a {what} as it is ({_first(error)})") from error
            except (RuntimeError, AttributeError) as error:
                raise PeerError(f"{shown(destination)} ended the association before a {what} was sent") from error
            require_success(answer, destination, f"C-STORE of a {what}")
    return len(objects)


def _kinds(objects: Iterable[Path | Dataset]) -> Iterator[tuple[str, str]]:
    """SOP Class and transfer syntax of each object."""
    for item in objects:
        try:
            dataset = _header(item) if isinstance(item, Path) else item
            syntax = text(dataset.file_meta, "TransferSyntaxUID")
            sop_class = text(dataset, "SOPClassUID")
        except (*PARSE_ERRORS, InvalidDicomError) as error:
            name = item.name if isinstance(item, Path) else "a dataset"
            raise DicomError(f"'{name}' cannot be sent: it is no DICOM object with file meta information") from error
        yield sop_class, syntax or str(ImplicitVRLittleEndian)


def _header(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])


def _contexts(kinds: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """One context for each class of uncompressed objects, and one for each compression of a class. Deflated objects go
    inflated: every peer takes them so.

    PeerError when there are more kinds than an association can negotiate.
    """
    plain = tuple(str(uid) for uid in UNCOMPRESSED)
    inflated = (*plain, DeflatedExplicitVRLittleEndian)
    wanted = {(sop_class, plain if syntax in inflated else (syntax,)) for sop_class, syntax in kinds}
    if len(wanted) > MOST_CONTEXTS:
        raise PeerError(f"{len(wanted)} kinds of objects cannot be sent at once, at most {MOST_CONTEXTS}; send fewer")
    return [build_context(sop_class, list(syntaxes)) for sop_class, syntaxes in sorted(wanted)]


def _first(error: ValueError) -> str:
    return (str(error).splitlines() or [""])[0]
