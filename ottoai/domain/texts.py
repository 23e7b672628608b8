"""Texts of ours on their way to a carrier. Nothing here talks to one: a text is begun in one transaction and ended in
another, and handed over in between by whoever calls these.
"""

from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain import hours, missed_calls, rescue
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Leased
from ottoai.domain.rescue import Rescue

GivenUp = Literal["cancelled", "failed", "unknown"]

GRACE: Final = timedelta(minutes=10)  # longer than a text is tried


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that may be on its way, written down at `decided_at`. `begun_at`: it may have been handed over since, so
    ask before it is again; `provider_id`: it has been. `wanted`: what asked for it still does; `rescue` is that, of a
    text of a rescue.
    """

    id: str
    status: str
    recipient: str  # E.164
    body: str
    sender: str | None = None
    provider_id: str | None = None
    begun_at: datetime | None = None
    decided_at: datetime
    wanted: bool = True
    opted_out: bool = False
    rescue: Rescue | None = None

    def __repr__(self) -> str:
        return f"Text(id={self.id!r})"  # neither a phone nor its words get into a traceback

    def allowed_at(self, now: datetime) -> datetime:
        """The first moment from `now` on at which it may go out: staff knows when it writes, a rescue keeps hours. What
        was decided before closing may go out after it, but not in the night.
        """
        if self.rescue is None:
            return now
        if now - self.decided_at <= GRACE:
            return hours.next_day(now, hours.phone_zones(self.recipient, self.rescue.opening.zone))
        return hours.first_text_at(now, self.rescue.opening, self.recipient)

    def next_due_at(self, now: datetime) -> datetime | None:
        """When the rescue's next text is due, once this one has gone out."""
        return rescue.due_at(self.rescue, self.rescue.step, now) if self.rescue else None


async def find(tx: Session, message_id: str) -> Text | None:
    """A text of ours by its id."""
    row = await queries().messages.text_to_send(tx, id=message_id)
    return _text(row) if row else None


def _text(row: Row) -> Text:
    about = None
    if row["rescue_status"] is not None:
        about = missed_calls.rescue_of(
            row | {"phone": row["recipient"]}, status=row["rescue_status"], step=row["rescue_step"]
        )
    return Text(
        id=row["id"],
        status=row["status"],
        recipient=row["recipient"],
        body=row["body"],
        sender=row["sender"],
        provider_id=row["provider_id"],
        begun_at=row["begun_at"],
        decided_at=row["decided_at"],
        wanted=row["wanted"],
        opted_out=row["opted_out"],
        rescue=about,
    )


async def begin(tx: Session, job: Leased, text: Text, sender: str, now: datetime) -> bool:
    """Write down that a text is being handed over; false when it is no longer wanted, or the job another worker's."""
    given = {"id": text.id, "job_id": job.id, "attempts": job.attempts}
    return await queries().messages.begin_text(tx, **given, sender=sender, now=now) is not None


async def unbegin(tx: Session, job: Leased, text: Text) -> None:
    """Write down that the carrier certainly has not taken it."""
    await queries().messages.unbegin_text(tx, id=text.id, job_id=job.id, attempts=job.attempts)


async def sent(tx: Session, job: Leased, text: Text, provider_id: str, now: datetime, trace_id: str) -> Appended:
    """Write down that the carrier took it, close the job and append the events, once. Raises Conflict when the id is
    that of another text of ours.
    """
    row = await queries().messages.text_sent(
        tx,
        id=text.id,
        job_id=job.id,
        attempts=job.attempts,
        provider_id=provider_id,
        text_due_at=text.next_due_at(now),
        now=now,
        trace_id=trace_id,
    )
    return Appended.of(job.tenant_id, row)


async def give_up(
    tx: Session,
    job: Leased,
    text: Text | None,
    status: GivenUp,
    now: datetime,
    trace_id: str,
    *,
    error: str | None = None,
    traceback: str | None = None,
    error_code: str | None = None,
    untextable: bool = False,
    opts_out: bool = False,
    dead: bool = False,
) -> Appended:
    """Write down that a text will not be sent, or that nobody can tell, with all that follows from it; see
    `text_given_up`. `dead`: the job was given up, and is to be seen among those.
    """
    row = await queries().messages.text_given_up(
        tx,
        id=job.subject_id,
        job_id=job.id,
        attempts=job.attempts,
        status=status,
        error=error,
        traceback=traceback,
        error_code=error_code,
        untextable=untextable,
        opts_out=opts_out,
        text_due_at=text.next_due_at(now) if text and not untextable else None,
        job_state="dead" if dead else "done",
        now=now,
        trace_id=trace_id,
    )
    return Appended.of(job.tenant_id, row)
