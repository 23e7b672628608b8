"""Forgets what has been kept long enough: events, payloads, idempotency keys, what was heard, jobs done, what the watch
saw. Periodic.

Deletes in small batches with pauses, so that it holds no lock for long and leaves the disk to others.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobs.context import Context
from ottoai.config import Config
from ottoai.db import Session, queries
from ottoai.domain.tenants import PROBE

log = logging.getLogger(__name__)

BATCH = 500  # rows in one transaction: some 20 ms
PAUSE = 0.02  # seconds between two batches, so that at most half of the disk's time is ours
BUDGET = 0.6  # of a run's deadline; what is left then is for the next run, which follows at once
JOBS_KEPT = timedelta(days=7)  # jobs done tell nothing that the log does not; a week is for finding out what happened
PROBES_KEPT = timedelta(days=1)  # thousands a day, and none is ever asked for
HEARD_KEPT = timedelta(days=7)  # Clerk sends again for about 28 hours; what it tells later is newer
# What /ops shows: 24 hours by the minute, 30 days by the hour. An hour and a day more, so that its oldest end is whole.
MINUTES_KEPT = timedelta(hours=25)
HOURS_KEPT = timedelta(days=31)
# As long as deliveries are known: who asks what happened a year ago, finds what was told and done then.
OPERATED_KEPT = timedelta(days=395)
REQUEST_KEYS_KEPT = timedelta(hours=24)  # clients are promised that; who has not asked again by then has given up


@dataclass(frozen=True, slots=True)
class Table:
    """What is retired: how it is called, its batched query, and how long it is kept."""

    name: str
    retire: Callable[[Session, datetime], Awaitable[int]]
    kept: Callable[[Config], timedelta]


# Payloads before keys, which would take theirs along: each age is its own setting.
TABLES = (
    Table(
        "events",
        lambda db, before: queries().retention.retire_events(db, before=before, limit=BATCH),
        lambda config: timedelta(days=config.event_retention_days),
    ),
    Table(
        "probes",
        lambda db, before: queries().retention.retire_probes(db, probe=PROBE, before=before, limit=BATCH),
        lambda _: PROBES_KEPT,
    ),
    Table(
        "payloads",
        lambda db, before: queries().retention.retire_payloads(db, before=before, limit=BATCH),
        lambda config: timedelta(days=config.payload_retention_days),
    ),
    Table(
        "idempotency_keys",
        lambda db, before: queries().retention.retire_keys(db, before=before, limit=BATCH),
        lambda config: timedelta(days=config.idempotency_ttl_days),
    ),
    Table(
        "request_keys",
        lambda db, before: queries().retention.retire_request_keys(db, before=before, limit=BATCH),
        lambda _: REQUEST_KEYS_KEPT,
    ),
    Table(
        "unclaimed_deliveries",
        lambda db, before: queries().retention.retire_unclaimed(db, before=before, limit=BATCH),
        lambda config: timedelta(days=config.payload_retention_days),
    ),
    Table(
        "clerk_users",
        lambda db, before: queries().retention.retire_clerk_users(db, before=before, limit=BATCH),
        lambda _: HEARD_KEPT,
    ),
    Table(
        "outbox",
        lambda db, before: queries().retention.retire_jobs(db, before=before, limit=BATCH),
        lambda _: JOBS_KEPT,
    ),
    Table(
        "ops_minutes",
        lambda db, before: queries().retention.retire_minutes(db, before=before, limit=BATCH),
        lambda _: MINUTES_KEPT,
    ),
    Table(
        "ops_hours",
        lambda db, before: queries().retention.retire_hours(db, before=before, limit=BATCH),
        lambda _: HOURS_KEPT,
    ),
    Table(
        "alerts",
        lambda db, before: queries().retention.retire_alerts(db, before=before, limit=BATCH),
        lambda _: OPERATED_KEPT,
    ),
    Table(
        "ops_audit",
        lambda db, before: queries().retention.retire_audit(db, before=before, limit=BATCH),
        lambda _: OPERATED_KEPT,
    ),
)


async def retention(context: Context) -> bool:
    """Delete what is too old, until nothing is or the time is up; return whether something is left. Raises what went
    wrong with a table, once all the others have had their turn.
    """
    until = time.monotonic() + context.deadline * BUDGET
    now = datetime.now(UTC)
    more = False
    failed: Exception | None = None
    for table in TABLES:
        try:
            more |= await _retire(context, table, now - table.kept(context.config), until)
        except Exception as error:  # noqa: BLE001 - raised below: one table must not make the others grow
            log.warning("Rows not retired", extra={"table": table.name, "error": error})
            failed = error
    if failed:
        raise failed
    return more


async def _retire(context: Context, table: Table, before: datetime, until: float) -> bool:
    total = 0
    while gone := await table.retire(context.db.system(), before):
        total += gone
        if gone < BATCH or time.monotonic() > until:
            break
        await asyncio.sleep(PAUSE)
    if total:
        log.info("Retired rows", extra={"table": table.name, "count": total})
    return gone == BATCH
