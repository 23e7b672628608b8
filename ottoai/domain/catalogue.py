"""Every event there is, with the type of its data. Events named test.* carry what their sender liked."""

from datetime import date, datetime
from typing import Final, Literal

import msgspec


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call, as the API shows it."""

    id: str
    lead_id: str | None
    provider: str
    external_id: str
    direction: str | None
    status: str
    answered: bool | None
    voicemail: bool | None
    missed: bool
    duration_seconds: int | None
    started_at: datetime
    customer_phone: str | None
    customer_name: str | None
    tracking_phone: str | None
    source: str | None
    version: int


class Lead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lead, as the API shows it."""

    id: str
    phone: str
    name: str | None
    source: str | None
    created_at: datetime
    last_contact_at: datetime
    version: int


class MissedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A missed call and how its rescue stands, as the API shows it. `text_due_at`: when the caller is to be texted;
    `ended_by`: what ended the chase.
    """

    id: str
    call_id: str
    lead_id: str
    status: Literal["queued", "texted", "escalated", "recovered", "opted_out", "expired"]
    called_at: datetime
    text_due_at: datetime | None
    first_text_at: datetime | None
    escalated_at: datetime | None
    ended_at: datetime | None
    ended_by: Literal["reply", "answered_call", "outbound_call", "outbound_text", "task_done", "stop", "time"] | None
    version: int


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text message. `author`: the user id of who of the staff wrote it."""

    id: str
    lead_id: str
    missed_call_id: str | None
    step: int | None
    direction: str
    status: str
    body: str
    author: str | None
    created_at: datetime
    sent_at: datetime | None
    error_code: str | None
    version: int


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Work for the tenant's staff. `subject_id`: the missed call or message it is about."""

    id: str
    lead_id: str | None
    kind: str
    subject_id: str | None
    title: str
    status: str
    assigned_to: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    completed_by: str | None
    version: int


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant decides about its rescues. `hours` are those of opening, in `timezone`, but for `holidays`.
    `texts_enabled` false: staff is told of missed calls, callers are not texted. `first_text`, `follow_up_text`: null
    for the words of the house. `sla_minutes`: of open time, after which a missed call that nobody answered escalates.
    """

    id: str
    name: str
    timezone: str
    hours: str
    holidays: list[date]
    texts_enabled: bool
    first_text: str | None
    follow_up_text: str | None
    sla_minutes: int
    version: int


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who works at the tenant. `active` false: was removed, or is gone."""

    id: str
    name: str | None
    role: Literal["member", "manager", "service"]
    active: bool
    version: int


class DailyRecap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant's day: what happened from `since` to before `until`, its 18:00 of two dates in its `timezone`, as far as
    it was known when the recap was made. Calls are those that began then, each in one of five: answered, missed with or
    without a voicemail, outbound, unfinished (not known to have ended, or how). `rescues_opened` counts the rescues of
    calls of the day, the other figures of rescues what came to pass during the day, whenever the call was.
    `recovery_rate`: of the rescues that ended during the day (recovered, opted out, expired) the part that recovered;
    null when none ended. Response times: from a missed call to its first text, or to the call or text by which staff
    took over, whichever was sooner, of those responded to during the day; null when there were none. `open_tasks`: when
    the recap was made.
    """

    day: date
    since: datetime
    until: datetime
    timezone: str
    calls_total: int
    calls_answered: int
    calls_missed: int
    calls_voicemail: int
    calls_outbound: int
    calls_unfinished: int
    new_leads: int
    rescues_opened: int
    rescues_texted: int
    rescues_recovered: int
    rescues_escalated: int
    rescues_opted_out: int
    rescues_expired: int
    recovery_rate: float | None
    response_median_seconds: float | None
    response_p90_seconds: float | None
    texts_sent: int
    texts_received: int
    open_tasks: int


class Quarantined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A delivery that could not be used; `id` finds it among the idempotency keys."""

    id: str
    provider: str
    kind: str
    error: str


class FailedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that was given up."""

    id: str
    job: str
    queue: str
    attempts: int


class Dropped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log forgot the events with these numbers before this client was sent them: load afresh."""

    from_seq: int
    to_seq: int


EVENTS: Final[dict[str, type[msgspec.Struct]]] = {
    "telephony.call.received": Call,
    "telephony.call.status": Call,
    "telephony.call.completed": Call,
    "telephony.call.missed": Call,
    "telephony.sms.received": Message,
    "telephony.sms.sent": Message,
    "telephony.sms.status": Message,
    "lead.created": Lead,
    "lead.updated": Lead,
    "missed_call.queued": MissedCall,
    "missed_call.updated": MissedCall,
    "missed_call.texted": MissedCall,
    "missed_call.expired": MissedCall,
    "missed_call.recovered": MissedCall,
    "missed_call.escalated": MissedCall,
    "missed_call.opted_out": MissedCall,
    "task.created": Task,
    "task.updated": Task,
    "identity.user.created": User,
    "identity.user.updated": User,
    "analytics.daily_recap.ready": DailyRecap,
    "system.webhook.quarantined": Quarantined,
    "system.buffer_dropped": Dropped,
    "worker.task.failed": FailedTask,
}

TEST_PREFIX: Final = "test."


def known(event: str) -> bool:
    """Whether an event of this name may exist."""
    return event in EVENTS or (event.startswith(TEST_PREFIX) and len(event) <= 100 and event.isprintable())
