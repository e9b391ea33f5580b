"""E-mail through a real SMTP conversation."""

import logging
from email import message_from_string, policy
from email.message import EmailMessage
from typing import Any

import pytest
from sqlalchemy import select

from cluster.database.connection import Database
from cluster.database.tables import OutboxRow
from cluster.flags.email import as_mail, send_email
from cluster.flags.message import Message
from cluster.service.config import Destination
from doseeng.errors import PeerError
from tests.cluster.flags.making import PLAN_LABEL, Clinic, MailServer, config_of, hurry
from tests.cluster.flags.telling import KEY, message

RECIPIENTS = ["anna@clinic.example", "bert@clinic.example", "cleo@clinic.example"]


def email(mails: MailServer, **more: Any) -> dict[str, Any]:
    return {
        "name": "mail",
        "kind": "email",
        "smtp_host": "127.0.0.1",
        "smtp_port": mails.port,
        "sender": "doseeng@clinic.example",
        "recipients": RECIPIENTS,
        **more,
    }


def parsed(text: str) -> EmailMessage:
    found = message_from_string(text.replace("\r\n", "\n").removesuffix("\n.\n"), policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def test_a_mail_in_words_without_identity_or_links(sqlite_database: Database, mails: MailServer) -> None:
    clinic = Clinic(sqlite_database, config_of(email(mails)))
    job_id = clinic.end("RED", 3)
    assert clinic.outbox.send_due() == 1
    ((recipients, text),) = mails.mails
    assert recipients == RECIPIENTS
    mail = parsed(text)
    assert mail["Subject"] == "doseeng RED: north, patient p-0003"
    assert mail["Auto-Submitted"] == "auto-generated"
    words = mail.get_content()
    assert mail.get_content_type() == "text/plain"
    assert job_id in words
    assert "- CTV D95%: 91.25 %, at least 95 % wanted: RED" in words
    assert "- Cord Dmax: 31.5 Gy (RBE 1.1), at most 45 Gy (RBE 1.1) wanted: GREEN" in words
    assert "- Lung Dmean: no value, at most 20 Gy (RBE 1.1) wanted: UNEVALUABLE" in words
    assert "does not release a treatment" in words
    for secret in (PLAN_LABEL, "DOE", "1.2.3", "http"):
        assert secret not in text


def test_a_message_that_may_have_arrived_comes_again_under_the_same_id(
    sqlite_database: Database, mails: MailServer
) -> None:
    mails.drops_after_data = 1
    clinic = Clinic(sqlite_database, config_of(email(mails)))
    clinic.end("RED")
    assert clinic.outbox.send_due() == 0
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1
    first, second = (text for _, text in mails.mails)
    assert parsed(first)["Message-ID"] == parsed(second)["Message-ID"]
    assert first == second


def test_recipients_who_have_it_do_not_get_it_again(sqlite_database: Database, mails: MailServer) -> None:
    mails.refused.add(RECIPIENTS[1])
    clinic = Clinic(sqlite_database, config_of(email(mails)))
    clinic.end("RED")
    for _ in range(2):
        assert clinic.outbox.send_due() == 0
        hurry(sqlite_database)
    mails.refused.clear()
    assert clinic.outbox.send_due() == 1
    assert [recipients for recipients, _ in mails.mails] == [[RECIPIENTS[0], RECIPIENTS[2]], [RECIPIENTS[1]]]
    with sqlite_database.reading() as session:
        assert session.scalars(select(OutboxRow.state)).one() == "sent"


def test_errors_tell_no_address_and_not_what_the_server_said(
    sqlite_database: Database, mails: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    mails.refused.update(RECIPIENTS)
    clinic = Clinic(sqlite_database, config_of(email(mails)))
    clinic.end("RED")
    with caplog.at_level(logging.DEBUG):
        clinic.outbox.send_due()
    with sqlite_database.reading() as session:
        error = session.scalars(select(OutboxRow.last_error)).one()
    assert "refused all 3 recipients" in error
    for secret in ("clinic.example", "no such user", "p-0000"):
        assert secret not in error + caplog.text


def test_a_server_that_is_closed_says_its_code(mails: MailServer) -> None:
    mails.greeting = "554 not today, DOE^JANE"
    with pytest.raises(PeerError, match="554") as caught:
        send_email(Destination.model_validate(email(mails)), message(), KEY)
    assert "DOE" not in str(caught.value)


def test_starttls_that_the_server_does_not_have_is_not_given_up(mails: MailServer) -> None:
    destination = Destination.model_validate(email(mails, smtp_starttls=True))
    with pytest.raises(PeerError):
        send_email(destination, message(), KEY)
    assert mails.mails == []


def test_nobody_listens() -> None:
    destination = Destination.model_validate(email(MailServer(port=1)))
    with pytest.raises(PeerError, match="ConnectionRefusedError"):
        send_email(destination, message(), KEY)


def test_no_header_can_be_added_by_what_a_message_says() -> None:
    fields = {name: getattr(message(), name) for name in Message.__dataclass_fields__}
    wicked = Message(**{**fields, "patient_key": "p\r\nBcc: eve@evil.example"})
    with pytest.raises(ValueError, match="linefeed"):
        as_mail(Destination.model_validate(email(MailServer(port=1))), wicked, KEY)
