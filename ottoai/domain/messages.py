"""Text messages that providers report: what a report states, and the statements that make it true. Those of ours that
are on their way are the matter of texts.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.calls import Recorded
from ottoai.domain.optout import word_of

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
