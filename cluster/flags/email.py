"""E-mail: the message as plain text, with a Message-ID that every attempt repeats (RFC 5322 3.6.4)."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from cluster.flags.http import client_context
from cluster.flags.message import Message
from cluster.flags.words import as_text
from cluster.service.config import Destination
from doseeng.errors import PeerError

TIMEOUT_S: Final = 20.0
"""Of every step of the conversation."""
IMPLICIT_TLS_PORT: Final = 465
"""Submission over TLS from the first byte on (RFC 8314 3.3)."""


class PartlyTaken(PeerError):
    """Some recipients were refused. taken: those who have the message, who are left out next time."""

    def __init__(self, message: str, taken: Sequence[str]) -> None:
        super().__init__(message)
        self.taken = tuple(taken)


def send_email(destination: Destination, message: Message, attempt_key: str, taken: Sequence[str] = ()) -> None:
    """Hand the message to the mail server for all recipients but those in `taken`, who have it.

    PeerError when the server did not take it; PartlyTaken when it did for some recipients alone. No error tells an
    address or what the server said in words.
    """
    recipients = [address for address in destination.recipients if address not in taken]
    if not recipients:
        return
    mail = as_mail(destination, message, attempt_key)
    where = f"mail server {destination.smtp_host} of '{destination.name}'"
    try:
        server = _connect(destination)
        try:
            refused = server.send_message(mail, destination.sender, recipients)
            # The message is taken: how they part changes nothing.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()
        finally:
            server.close()
    except smtplib.SMTPRecipientsRefused:
        raise PeerError(f"{where} refused all {len(recipients)} recipients; check them and the sender") from None
    except smtplib.SMTPResponseException as error:
        raise PeerError(f"{where} answered {error.smtp_code} ({type(error).__name__}); it is tried again") from None
    except (smtplib.SMTPException, OSError) as error:
        raise PeerError(f"{where} did not take the message: {type(error).__name__}; it is tried again") from None
    if refused:
        raise PartlyTaken(
            f"{where} refused {len(refused)} of {len(recipients)} recipients; the others have the message",
            [*taken, *(address for address in recipients if address not in refused)],
        )


def as_mail(destination: Destination, message: Message, attempt_key: str) -> EmailMessage:
    """The mail, the same for every attempt. Its subject names the site and the patient's pseudonym."""
    mail = EmailMessage()
    mail["From"] = destination.sender
    mail["To"] = ", ".join(destination.recipients)
    mail["Subject"] = f"doseeng {message.verdict}: {message.site}, patient {message.patient_key or 'not known'}"
    mail["Date"] = format_datetime(message.ended)
    mail["Message-ID"] = f"<{attempt_key}@{destination.sender.rpartition('@')[2].strip(' >') or 'doseeng'}>"
    # RFC 3834: no out-of-office replies to a machine.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(as_text(message))
    return mail


def _connect(destination: Destination) -> smtplib.SMTP:
    context = client_context(destination.tls)
    host, port = destination.smtp_host, destination.smtp_port
    server: smtplib.SMTP
    if port == IMPLICIT_TLS_PORT:
        server = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
    try:
        if destination.smtp_starttls:
            server.starttls(context=context)
        if destination.smtp_user:
            server.login(destination.smtp_user, destination.secret.get_secret_value())
    except BaseException:
        server.close()
        raise
    return server
