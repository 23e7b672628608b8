"""What carries a text message out of the house. A sender knows nothing of rescues, jobs or retries."""

import logging
from typing import Protocol

from ottoai.db import Database, queries
from ottoai.domain.missed_calls import Text

log = logging.getLogger(__name__)


class Sender(Protocol):
    """A carrier of text messages. `name` is kept with each message, so that it is known whom to ask about it."""

    name: str

    async def send(self, text: Text, tenant_id: str) -> str:
        """Hand the text over; return the carrier's id of it. Whatever it raises, the text may have gone out."""

    async def lookup(self, text: Text, tenant_id: str) -> str | None:
        """The carrier's id of a text that may have been handed over; None when it certainly was not."""


class DevelopmentSender:
    """Sends nothing and notes what it was asked to send, in a table that is its memory as a carrier has one."""

    name = "development"

    def __init__(self, db: Database) -> None:
        self._db = db

    async def send(self, text: Text, tenant_id: str) -> str:
        """Note the text, in a transaction of its own: a carrier does not roll back with us."""
        await queries().messages.record_development_text(
            self._db.one(tenant_id), message_id=text.id, recipient=text.recipient, body=text.body
        )
        log.info("Text message recorded", extra={"message_id": text.id, "sender": self.name})
        return f"dev-{text.id}"

    async def lookup(self, text: Text, tenant_id: str) -> str | None:
        """The id under which the text was noted, if it was."""
        found = await queries().messages.find_development_text(self._db.one(tenant_id), message_id=text.id)
        return f"dev-{text.id}" if found else None
