"""What carries a text message out of the house. A sender knows nothing of rescues, jobs or retries: it hands over, and
says what it knows of what became of that.
"""

import logging
from typing import Protocol

from ottoai.db import Database, queries
from ottoai.domain.texts import Text

log = logging.getLogger(__name__)


class NotSent(Exception):
    """The carrier certainly has not taken the text; later it may."""


class Rejected(Exception):
    """The carrier will never take this text. `untextable`: nor any other to this number, for it can get none;
    `opted_out`: for it wants none.
    """

    def __init__(self, code: str, *, untextable: bool = False, opted_out: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.untextable = untextable
        self.opted_out = opted_out


class Unknown(Exception):
    """The carrier was asked, and whether it has taken the text is not known."""


class Sender(Protocol):
    """A carrier of text messages. `name` is kept with each message, so that it is known whom to ask about it. `exact`:
    a text that `lookup` does not find has certainly not been taken, nor will be.
    """

    name: str
    exact: bool

    async def send(self, text: Text, tenant_id: str) -> str:
        """Hand the text over; the carrier's id of it. Raises NotSent, Rejected; all else means Unknown."""

    async def lookup(self, text: Text, tenant_id: str) -> str | None:
        """The carrier's id of a text that may have been handed over; None when it is not found."""


class DevelopmentSender:
    """Sends nothing and notes what it was asked to send, in a table that is its memory as a carrier has one."""

    name = "development"
    exact = True

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
