"""Calls: what a provider's report states, and the one statement that makes it true."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain import outbox, rescue
from ottoai.domain.events import Appended

LATEST = 0  # the rank of a provider's answer: how the call stood when we asked, whatever was reported before


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one report states about a call. None: it does not say."""

    direction: str | None = None  # inbound, outbound
    answered: bool | None = None
    voicemail: bool | None = None
    duration_seconds: int | None = None
    started_at: datetime | None = None
    customer_phone: str | None = None  # E.164
    customer_name: str | None = None
    tracking_phone: str | None = None  # E.164
    source: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One report about one call. `rank` says which statement wins where two differ: 1 ringing, 2 routed, 3 completed,
    4 corrected afterwards, or LATEST. From 3 on the call is over.
    `resource_id`: the call's id in the provider's API, where it has another one; a call is found by either.
    """

    external_id: str
    rank: int
    facts: Facts
    resource_id: str | None = None


class Recorded(msgspec.Struct, frozen=True):
    """What a delivery did. `fresh` is false for a repeated one, which does nothing."""

    fresh: bool
    appended: Appended
    jobs: tuple[outbox.Due, ...]

    @classmethod
    def of(cls, row: Row) -> "Recorded":
        """From what a statement that records a delivery returns."""
        return cls(row["fresh"], Appended.of(row["tenant_id"], row), outbox.staged(row))


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What our log knows of a call. `version`: 0 for nothing; `lacks`: it is not known to have ended, or not as told;
    `reported`: a webhook has told of it.
    """

    version: int
    lacks: bool
    reported: bool


async def compare(tx: Session, provider: str, reports: Sequence[Report]) -> list[Known]:
    """What our log knows of the calls that these reports are about, in their order."""
    calls = msgspec.json.encode(reports).decode()
    return [Known(**row) async for row in queries().reconciliations.compare(tx, provider=provider, calls=calls)]


async def record(
    tx: Session,
    report: Report,
    text_due_at: datetime,
    received_at: datetime,
    as_of: datetime | None = None,
    **delivery: Any,
) -> Recorded:
    """Record a report with its delivery (provider, kind, variant, headers, body, trace_id, trace_context), all or
    nothing. `text_due_at`: when a text may go out, should this turn out to be a missed call. `as_of`: when what it says
    was so, by the database's clock; what has been recorded since then is newer, and it changes nothing.
    """
    row = await queries().calls.record_report(
        tx,
        external_id=report.external_id,
        resource_id=report.resource_id,
        as_of=as_of,
        rank=str(report.rank),
        facts=msgspec.json.encode(report.facts).decode(),
        text_due_at=text_due_at,
        received_at=received_at,
        rescue_window=rescue.WINDOW,
        repair_after=outbox.REPAIR_AFTER,
        **delivery,
    )
    return Recorded.of(row)
