"""TLS: contexts of servers and clients from the configuration, and certificates for development.

Contexts follow the BCP 195 TLS profile of DICOM PS3.15 (B.9) in what they take: TLS 1.2 or newer.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.service.config import Tls
from doseeng.errors import ConfigError

DAYS: Final = 365
OWNER: Final = "doseeng, for development only"
_BEFORE: Final = timedelta(hours=1)
"""Clocks of two machines differ."""


@dataclass(frozen=True, slots=True)
class Made:
    """PEM files. The key of the authority is needed only to make more certificates."""

    authority: Path
    authority_key: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS of a server. With an authority, clients must show a certificate of it. ConfigError when files do not do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, tls)
    if tls.authority:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authority(context, tls.authority)
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS of a client that shows its certificate, if it has one. The server's must be of `authority` ("": of those that
    the machine trusts) and name the host that was called. ConfigError when files do not do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate or tls.key:
        _load_pair(context, tls)
    if tls.authority:
        _load_authority(context, tls.authority)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def make_certificates(folder: Path, hosts: Sequence[str], days: int = DAYS) -> Made:
    """An authority, a server certificate for `hosts` (names and addresses) and a client certificate, EC P-256, for
    development. Keys are readable by their owner alone. ConfigError when one of the files is there already."""
    names = [_subject_name(host) for host in hosts]
    if not names:
        raise ConfigError("a server certificate needs at least one host name or address (--host)")
    stems = ("authority", "server", "client")
    files = [folder / f"{stem}{part}" for stem in stems for part in (".crt", ".key")]
    for path in files:
        if path.exists():
            raise ConfigError(f"'{path}' is there already; give another folder, or remove the old certificates first")
    folder.mkdir(parents=True, exist_ok=True)
    keys = {stem: ec.generate_private_key(ec.SECP256R1()) for stem in stems}
    issuer = _name("development authority")
    authority = _builder(issuer, issuer, keys["authority"], keys["authority"], days, is_authority=True)
    _write(folder, "authority", authority.sign(keys["authority"], hashes.SHA256()), keys["authority"])
    server = _builder(_name(hosts[0]), issuer, keys["server"], keys["authority"], days)
    server = server.add_extension(x509.SubjectAlternativeName(names), critical=False)
    # A DICOM node is server and, when it sends, client.
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    server = server.add_extension(both, critical=False)
    _write(folder, "server", server.sign(keys["authority"], hashes.SHA256()), keys["server"])
    client = _builder(_name("client"), issuer, keys["client"], keys["authority"], days)
    only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    client = client.add_extension(only, critical=False)
    _write(folder, "client", client.sign(keys["authority"], hashes.SHA256()), keys["client"])
    return Made(*files)


def _load_pair(context: ssl.SSLContext, tls: Tls) -> None:
    for path in (tls.certificate, tls.key):
        if not Path(path).is_file():
            raise ConfigError(f"tls: '{path}' does not exist; expected a PEM file")
    try:
        # A password, so that an encrypted key is refused and nobody is asked at a terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"tls: certificate '{tls.certificate}' and key '{tls.key}' cannot be used ({error}); expected PEM files "
            "that belong together, the key readable and without a password"
        ) from error


def _load_authority(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"tls: authority '{path}' cannot be used ({error}); expected a PEM file") from error


def _subject_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host.isascii() or not host.replace("-", "").replace(".", "").replace("*", "").isalnum():
        raise ConfigError(f"'{host}' is neither a host name nor an address; write it as clients call it, without port")
    return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, OWNER), (NameOID.COMMON_NAME, common[:64]))
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in parts])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: int,
    is_authority: bool = False,
) -> x509.CertificateBuilder:
    """What all certificates have (RFC 5280, as strict verifiers want it)."""
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _write(folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(folder / f"{stem}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    (folder / f"{stem}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
