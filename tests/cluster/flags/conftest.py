"""Receivers of messages."""

from collections.abc import Iterator

import pytest

from tests.cluster.flags.making import MailServer, Receiver, listening, mail_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as found:
        yield found


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mail_server() as found:
        yield found
