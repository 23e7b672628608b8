"""The rescue of a missed call, as far as its first text. Nothing here talks to a carrier: a text is begun in one
transaction and finished in another, and sent in between by whoever calls these.
"""

from datetime import datetime

import msgspec

from ottoai.db import Session, queries
from ottoai.domain import hours
from ottoai.domain.events import Appended

FIRST_TEXT = (
    "Hi, this is {company}. Sorry we missed your call! Reply here and tell us how we can help. Reply STOP to opt out."
)


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is to be handed to a carrier. `begun_before`: it may have been already, so ask first."""

    id: str
    recipient: str
    body: str
    begun_before: bool


async def text_allowed_at(tx: Session, missed_call_id: str, now: datetime) -> datetime | None:
    """The first moment from `now` on at which the caller may be texted; None when there is no such missed call."""
    row = await queries().missed_calls.hours_of(tx, id=missed_call_id)
    return hours.first_text_at(now, hours.parse(row["hours"], row["timezone"]), row["phone"]) if row else None


async def begin_text(tx: Session, missed_call_id: str, sender: str) -> Text | None:
    """Write down that the first text is being sent; None when the rescue no longer wants it."""
    row = await queries().missed_calls.begin_text(tx, id=missed_call_id, sender=sender, template=FIRST_TEXT)
    return Text(**row) if row else None


async def finish_text(
    tx: Session, job_id: str, text: Text, provider_id: str, tenant_id: str, trace_id: str
) -> Appended:
    """Write down that the text was accepted by the carrier, close the job and append the events, once."""
    row = await queries().missed_calls.finish_text(
        tx, job_id=job_id, message_id=text.id, provider_id=provider_id, trace_id=trace_id
    )
    return Appended.of(tenant_id, row)
