"""Rescues in the database: what decides about one, and how what `rescue` decides is carried out."""

from datetime import datetime, timedelta

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain import hours, outbox, rescue
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Due, Leased
from ottoai.domain.rescue import Decision, Rescue
from ottoai.errors import Conflict


class Known(msgspec.Struct, frozen=True):
    """A rescue as it was read, and what its texts are made of."""

    rescue: Rescue
    version: int
    company: str
    first_text: str | None
    follow_up_text: str | None


class Advanced(msgspec.Struct, frozen=True):
    """What following a rescue up has done; `jobs` are due now."""

    decision: Decision
    appended: Appended
    jobs: tuple[Due, ...]


def rescue_of(row: Row, **more: object) -> Rescue:
    """A rescue from the columns that `rescue_to_follow` and `text_to_send` share."""
    told = {
        "called_at": row["called_at"],
        "phone": row["phone"],
        "opening": hours.parse(row["hours"], row["timezone"], row["holidays"]),
        "sla": timedelta(minutes=row["sla_minutes"]),
        "texts_enabled": row["texts_enabled"],
        "opted_out": row["opted_out"],
        "untextable": row["untextable"],
    }
    return Rescue(**told, **more)  # type: ignore[arg-type]


async def find(tx: Session, missed_call_id: str, now: datetime) -> Known | None:
    """A rescue at a moment; None when there is no such."""
    row = await queries().missed_calls.rescue_to_follow(tx, id=missed_call_id, now=now, apart=rescue.APART)
    if row is None:
        return None
    told = ("status", "step", "missed", "texted_elsewhere", "reached")
    found = rescue_of(row, **{name: row[name] for name in told})
    return Known(found, row["version"], row["company"], row["first_text"], row["follow_up_text"])


async def follow_up(tx: Session, job: Leased, now: datetime, trace_id: str) -> Advanced | None:
    """Do what is due of the rescue that a job is about, all in one transaction with closing the job; None when it has
    ended, and the job is closed. Raises Conflict when the rescue has changed while this was decided, another one of the
    caller has texted, or the job is another worker's by now: decide again.
    """
    known = await find(tx, job.subject_id, now)
    if known is None or known.rescue.status not in rescue.OPEN:
        await outbox.done(tx, job)
        return None
    decision = rescue.decide(known.rescue, now)
    body = None
    if decision.text is not None:
        body = rescue.text_of(decision.text, known.company, known.first_text, known.follow_up_text)
    row = await queries().missed_calls.advance_rescue(
        tx,
        id=job.subject_id,
        job_id=job.id,
        attempts=job.attempts,
        version=known.version,
        step_before=known.rescue.step,
        step=decision.step,
        text_step=None if decision.text is None else decision.text + 1,
        body=body,
        text_due_at=decision.text_due_at,
        escalate=decision.escalate,
        ends=decision.ends,
        call_back=decision.call_back,
        again_at=decision.again_at,
        now=now,
        apart=rescue.APART,
        repair_after=outbox.REPAIR_AFTER,
        trace_id=trace_id,
        trace_context=job.trace_context,
    )
    if not row["advanced"]:
        raise Conflict("The rescue changed while it was decided about.")
    return Advanced(decision, Appended.of(job.tenant_id, row), outbox.staged(row))
