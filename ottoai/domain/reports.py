"""What a provider may report, and how each kind of report is recorded."""

from datetime import datetime
from typing import Any

from ottoai.db import Session
from ottoai.domain import calls, hours, messages
from ottoai.domain.calls import Recorded

Report = calls.Report | messages.Text | messages.TextStatus | messages.Nothing


async def record(
    tx: Session,
    report: Report,
    opening: hours.Hours,
    received_at: datetime,
    as_of: datetime | None = None,
    **delivery: Any,
) -> Recorded:
    """Record a report with its delivery, all or nothing. `opening`: the tenant's hours; `as_of`: see calls.record."""
    match report:
        case calls.Report():
            text_due_at = hours.first_text_at(received_at, opening, report.facts.customer_phone)
            return await calls.record(tx, report, text_due_at, received_at, as_of, **delivery)
        case messages.Text():
            return await messages.record(tx, report, received_at, **delivery)
        case messages.TextStatus():
            return await messages.record_status(tx, report, received_at, **delivery)
        case messages.Nothing():
            return await messages.record_nothing(tx, report, **delivery)
