"""Text messages that providers report or staff writes: what is stated, and the statements that make it true. Those of
ours that are on their way are the matter of texts.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from ottoai.db import Session, queries
from ottoai.domain import outbox
from ottoai.domain.calls import Recorded
from ottoai.domain.events import Appended
from ottoai.domain.optout import word_of
from ottoai.domain.requests import Answer, Request, once
from ottoai.errors import NotFound, OptedOut

Fate = Literal["sent", "failed", "undelivered", "delivered"]


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text message between the tenant and someone else, whose `phone` (E.164) is the lead's."""

    external_id: str
    direction: Literal["inbound", "outbound"]
    phone: str
    body: str  # empty when it brought a picture alone
    name: str | None = None  # of whom the phone is
    sent_at: datetime | None = None  # None: not told, the time of receipt stands in


class TextStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a text message that was sent. `error_code` is the carrier's; `message_id`: our own id of it, where
    the carrier was told; `untextable`: the number can get no texts, `opts_out`: it wants none.
    """

    external_id: str
    status: Fate
    error_code: str | None = None
    message_id: str | None = None
    untextable: bool = False
    opts_out: bool = False


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is understood and changes nothing: it is kept, and known when it comes again."""

    external_id: str


async def record(tx: Session, text: Text, received_at: datetime, **delivery: Any) -> Recorded:
    """Record a text message with its delivery (provider, kind, variant, headers, body, trace_id), all or nothing."""
    fields = {f"text_{name}": value for name, value in msgspec.structs.asdict(text).items()}
    external_id = fields.pop("text_external_id")
    row = await queries().messages.record_text(
        tx, external_id=external_id, received_at=received_at, word=word_of(text.body), **fields, **delivery
    )
    return Recorded.of(row)


async def record_status(tx: Session, status: TextStatus, received_at: datetime, **delivery: Any) -> Recorded:
    """Record what became of a text that was sent, likewise; one that nobody knows changes nothing."""
    row = await queries().messages.record_text_status(
        tx, received_at=received_at, **msgspec.structs.asdict(status), **delivery
    )
    return Recorded.of(row)


async def record_nothing(tx: Session, nothing: Nothing, **delivery: Any) -> Recorded:
    """Keep a delivery that changes nothing."""
    return Recorded.of(await queries().deliveries.note(tx, external_id=nothing.external_id, **delivery))


class Queued(msgspec.Struct, frozen=True):
    """What asking for a text did; nothing but the answer, if the answer is replayed."""

    answer: Answer
    appended: Appended
    jobs: tuple[outbox.Due, ...]


async def queue(
    tx: Session, tenant_id: str, lead_id: str, body: str, request: Request, *, trace_id: str, trace_context: str
) -> Queued:
    """Have a text sent to a lead, as the request's user, which ends the lead's open rescues. Raises NotFound, OptedOut,
    Unprocessable, StoreUnavailable.
    """
    given = msgspec.structs.asdict(request)
    traced = {"trace_id": trace_id, "trace_context": trace_context}
    answer, row = await once(
        request,
        lambda: queries().messages.queue_text(
            tx, id=lead_id, body=body, repair_after=outbox.REPAIR_AFTER, **given, **traced
        ),
    )
    if answer is None:
        raise OptedOut if row["outcome"] == "opted_out" else NotFound("There is nothing here by that id.")
    return Queued(answer, Appended.of(tenant_id, row), outbox.staged(row))
