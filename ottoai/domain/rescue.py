"""The rescue of a missed call as a state machine: its states, what moves it from one to another, and what is due when.
Pure: the time and all that is known are given. What it decides is carried out by missed_calls and the SQL behind it.

`MOVES` is the table that docs/RESCUE.md draws; tests hold the database against it, state by state and cause by cause.
"""

from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from ottoai.domain import hours
from ottoai.domain.hours import Hours

State = Literal["queued", "texted", "escalated", "recovered", "opted_out", "expired"]
STATES: Final[tuple[State, ...]] = get_args(State)
OPEN: Final[tuple[State, ...]] = ("queued", "texted", "escalated")

EndedBy = Literal["reply", "answered_call", "outbound_call", "outbound_text", "task_done", "stop", "time"]

# When a caller is texted, counted from the call.
STEPS: Final = (timedelta(0), timedelta(hours=2), timedelta(hours=10), timedelta(hours=24))
WINDOW: Final = timedelta(hours=48)  # the chase ends so long after the call; what is reported later is not chased
# Two missed calls of one caller are one conversation: a text is passed over when the other rescue sent one so shortly
# before, which is the shortest time between two texts of one rescue that are not moved.
APART: Final = STEPS[1] - STEPS[0]

FIRST_TEXT: Final = "Hi, this is {company}. Sorry we missed your call! Reply here and tell us how we can help."
FOLLOW_UP_TEXT: Final = "Hi, {company} again. We would still like to help: reply here, or call us back any time."
HOW_TO_STOP: Final = " Reply STOP to opt out."  # wanted by the carriers in the first text of a conversation


class Move(NamedTuple):
    """One arrow of the machine: whatever state of `before` it is in, `cause` takes it to `after` with `event`."""

    before: tuple[State, ...]
    cause: str
    after: State
    event: str
    meaning: str


MOVES: Final[tuple[Move, ...]] = (
    Move(("queued",), "text", "texted", "missed_call.texted", "a text was handed to the carrier"),
    Move(("texted",), "text", "texted", "missed_call.texted", "the next one was"),
    Move(("escalated",), "text", "escalated", "missed_call.texted", "the chase goes on while staff is asked"),
    Move(("queued", "texted"), "sla", "escalated", "missed_call.escalated",
         "nobody reached the caller within the open time that the tenant allows, or the number takes no texts; "
         "staff gets a task"),
    Move(OPEN, "reply", "recovered", "missed_call.recovered", "the caller wrote back"),
    Move(OPEN, "answered_call", "recovered", "missed_call.recovered",
         "the caller called again and was answered, or the call turned out to have been"),
    Move(OPEN, "outbound_call", "recovered", "missed_call.recovered", "staff called"),
    Move(OPEN, "outbound_text", "recovered", "missed_call.recovered", "staff wrote"),
    Move(OPEN, "task_done", "recovered", "missed_call.recovered", "staff completed the task to call back"),
    Move(OPEN, "stop", "opted_out", "missed_call.opted_out", "the number wants no texts"),
    Move(OPEN, "time", "expired", "missed_call.expired", "48 hours have passed since the call"),
)  # fmt: skip


class Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides about a rescue. `step`: how many of STEPS are over. `missed`: the call still counts as missed.
    `opted_out`: the number wants no texts; `untextable`: it can get none. `texted_elsewhere`: another rescue of the
    same caller has texted within APART. `reached`: what reached the caller before the call was reported as missed.
    """

    status: State
    step: int
    called_at: datetime
    phone: str
    opening: Hours
    sla: timedelta
    texts_enabled: bool = True
    missed: bool = True
    opted_out: bool = False
    untextable: bool = False
    texted_elsewhere: bool = False
    reached: EndedBy | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done now: text this step, ask staff, end. `step` and `text_due_at` are as they are afterwards;
    `again_at`: when to decide next, None when it has ended. `call_back`: staff gets a task.
    """

    step: int
    text: int | None = None
    escalate: bool = False
    ends: EndedBy | None = None
    call_back: bool = False
    text_due_at: datetime | None = None
    again_at: datetime | None = None


def decide(rescue: Rescue, now: datetime) -> Decision:
    """What is due of a rescue."""
    if rescue.status not in OPEN:
        return Decision(step=rescue.step)
    if not rescue.missed:
        return Decision(step=rescue.step, ends="answered_call")
    if rescue.reached:
        return Decision(step=rescue.step, ends=rescue.reached)
    if now >= rescue.called_at + WINDOW:
        # Nobody was ever asked to call back when the tenant was closed all the time.
        return Decision(step=rescue.step, ends="time", call_back=rescue.status != "escalated")
    if rescue.opted_out:
        # A caller who wants no texts still wants to be called back.
        return Decision(step=rescue.step, ends="stop", call_back=True)
    step, text = _texts(rescue, now)
    escalates_at = _escalates_at(rescue)
    escalate = escalates_at is not None and escalates_at <= now
    text_due_at = due_at(rescue, step, now)
    later = [text_due_at, None if escalate else escalates_at, rescue.called_at + WINDOW]
    return Decision(
        step=step,
        text=text,
        escalate=escalate,
        call_back=escalate,
        text_due_at=text_due_at,
        again_at=min(moment for moment in later if moment),
    )


def due_at(rescue: Rescue, step: int, now: datetime) -> datetime | None:
    """When the text of a step (counted from 0) is due, now or later; None when none is any more."""
    if step >= len(STEPS) or not rescue.texts_enabled or rescue.untextable:
        return None
    due = hours.first_text_at(max(now, rescue.called_at + STEPS[step]), rescue.opening, rescue.phone)
    return due if due < rescue.called_at + WINDOW else None


def _texts(rescue: Rescue, now: datetime) -> tuple[int, int | None]:
    """(the step after, the step to text now). Steps that have come due together, because the tenant was closed, are one
    text: those after it are passed over.
    """
    step, text = rescue.step, None
    while (due := due_at(rescue, step, now)) is not None and due <= now:
        if text is None and not rescue.texted_elsewhere:
            text = step
        step += 1
    return step, text


def _escalates_at(rescue: Rescue) -> datetime | None:
    if rescue.status == "escalated":
        return None
    if rescue.untextable:
        return rescue.called_at
    return hours.after_open_time(rescue.called_at, rescue.sla, rescue.opening)


def text_of(step: int, company: str, first: str | None, follow_up: str | None) -> str:
    """What is written at a step, in the tenant's words where it has its own."""
    template = (first or FIRST_TEXT) if step == 0 else (follow_up or FOLLOW_UP_TEXT)
    # By hand: a company may be called anything, braces included.
    body = template.replace("{company}", company)
    return body if step or "STOP" in body else body + HOW_TO_STOP
