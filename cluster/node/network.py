"""What every side of a DICOM association shares: which objects we speak of, how we call a peer, silence in the logs."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeformableSpatialRegistrationStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from cluster.security.certificates import client_context
from cluster.service.config import Tls
from doseeng.errors import PeerError

# SOP classes of services (PS3.6 table A-1) that pydicom has no names for.
VERIFICATION: Final = UID("1.2.840.10008.1.1")
STORAGE_COMMITMENT: Final = UID("1.2.840.10008.1.20.1")
STORAGE_COMMITMENT_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
PATIENT_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.1.1")
PATIENT_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.1.2")
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")

IMAGE_CLASSES: Final[tuple[UID, ...]] = (CTImageStorage, MRImageStorage)
OTHER_CLASSES: Final[tuple[UID, ...]] = (
    RTStructureSetStorage,
    RTPlanStorage,
    RTIonPlanStorage,
    RTDoseStorage,
    SpatialRegistrationStorage,
    DeformableSpatialRegistrationStorage,
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
)
UNCOMPRESSED: Final[tuple[UID, ...]] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Nothing deflated: a few bytes of it can stand for gigabytes, and every system sends without."""
_LOSSLESS: Final = (RLELossless, JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless)
MOST_CONTEXTS: Final = 128
"""Presentation contexts of one association (PS3.8 section 9.3.2.2: odd numbers from 1 to 255)."""
CONNECT_S: Final = 10.0
"""A peer that takes longer to take a connection is down."""


class Peer(Protocol):
    """An application entity that we call: `config.Destination` and `config.Archive` are ones."""

    @property
    def ae_title(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def tls(self) -> Tls | None: ...


def image_syntaxes() -> tuple[UID, ...]:
    """Transfer syntaxes in which images are taken: those that this installation can decode, lossless ones only."""
    return UNCOMPRESSED + tuple(uid for uid in _LOSSLESS if get_decoder(uid).is_available)


def storage_contexts() -> list[PresentationContext]:
    """What may be stored with us."""
    images = [build_context(uid, list(image_syntaxes())) for uid in IMAGE_CLASSES]
    return images + [build_context(uid, list(UNCOMPRESSED)) for uid in OTHER_CLASSES]


def be_silent() -> None:
    """Keep pynetdicom and pydicom from writing what they read: their messages quote values, names of patients too."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    warnings.filterwarnings("ignore", module="pydicom")
    warnings.filterwarnings("ignore", module="pynetdicom")


@contextmanager
def association(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[PresentationContext],
    timeout_s: float,
    handlers: Sequence[Any] = (),
    roles: Sequence[Any] = (),
) -> Iterator[Association]:
    """An association with a peer, released at the end and aborted by an error.

    PeerError when it cannot be reached, rejects us or aborts.
    """
    be_silent()
    ae = AE(ae_title=calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    ae.connection_timeout = min(timeout_s, CONNECT_S)
    try:
        made = ae.associate(
            address_of(peer),
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=(client_context(peer.tls), peer.host) if peer.tls is not None else None,
            evt_handlers=list(handlers),
        )
    except (OSError, ValueError) as error:
        raise PeerError(f"{shown(peer)} cannot be called ({error}); check host, port and TLS") from error
    if not made.is_established:
        raise PeerError(_why_not(made, peer, calling_ae))
    connection = made.dul.socket and made.dul.socket.socket
    if connection:
        # A request is a short message and a long one; held back, the second waits for the peer's delayed answer.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield made
    except BaseException:
        made.abort()
        raise
    if made.is_established:
        made.release()


def echo(peer: Peer, calling_ae: str, timeout_s: float) -> None:
    """C-ECHO (PS3.4 annex A); PeerError when the peer does not answer it."""
    with association(peer, calling_ae, [build_context(VERIFICATION)], timeout_s) as made:
        require_success(made.send_c_echo(), peer, "C-ECHO")


def require_success(answer: Dataset, peer: Peer, what: str) -> None:
    """PeerError with the peer's status unless it is success or a warning (PS3.7 annex C: Bxxx, 0001, 0107, 0116)."""
    if "Status" not in answer:
        raise PeerError(f"{shown(peer)} did not answer a {what}, or broke the association off")
    status = int(answer.Status)
    if status and status >> 12 != 0xB and status not in (0x0001, 0x0107, 0x0116):
        raise PeerError(f"{shown(peer)} refused a {what} with status 0x{status:04X}")


def shown(peer: Peer) -> str:
    """The peer in messages."""
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


def address_of(peer: Peer) -> str:
    """The peer's address as numbers: pynetdicom tells families apart by dots and colons. OSError when it has none."""
    found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    return str(next((entry for entry in found if entry[0] == socket.AF_INET), found[0])[4][0])


def _why_not(made: Association, peer: Peer, calling_ae: str) -> str:
    if made.is_rejected:
        answer = made.acceptor.primitive
        reason = answer.reason_str if answer is not None else "no reason given"
        return (
            f"{shown(peer)} rejected the association of {calling_ae}: {reason}; both AE titles must be configured there"
        )
    if made.is_aborted and made.acceptor.primitive is not None:
        return f"{shown(peer)} takes none of the kinds of objects that were offered"
    hint = "certificates and the peer's TLS" if peer.tls is not None else "whether it runs and speaks without TLS"
    return f"{shown(peer)} did not answer; check host and port, {hint}"
