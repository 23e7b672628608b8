"""Staged jobs: rows written with the change that caused them, open until the job's own effect commits.

A job is enqueued by whoever committed it; what that missed, or what a killed worker held, falls due again here.
"""

from datetime import timedelta

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain.events import Appended

# The committer enqueues at once. Should it die first, the job falls due this much later.
REPAIR_AFTER = timedelta(seconds=5)
# A job that was put in its queue is put there again if no worker took it by then: Redis may have been flushed.
QUEUED_FOR = timedelta(seconds=20)
BATCH = 500


class Due(msgspec.Struct, frozen=True):
    """A job that should be in its queue now."""

    id: str
    queue: str


class Leased(msgspec.Struct, frozen=True, kw_only=True):
    """A job that this worker has for a while. `attempts` counts this one; `abandoned`: the one before was killed."""

    id: str
    tenant_id: str
    job: str
    queue: str
    subject_id: str
    attempts: int
    abandoned: bool
    trace_context: str
    waited_seconds: float


def staged(row: Row) -> tuple[Due, ...]:
    """From the `jobs` column of a statement that stages: those to enqueue right after its commit."""
    return msgspec.json.decode(row["jobs"], type=tuple[Due, ...])


async def due(system: Session, limit: int = BATCH) -> list[Due]:
    """Open jobs to enqueue now, each put off by QUEUED_FOR."""
    rows = queries().outbox.due(system, put_off=QUEUED_FOR, limit=limit)
    return [Due(row["id"], row["queue"]) async for row in rows]


async def lease(system: Session, job_id: str, seconds: float) -> Leased | None:
    """Take a job; None when it is done, gone, or another worker's."""
    row = await queries().outbox.lease(system, id=job_id, lease=timedelta(seconds=seconds))
    return Leased(**row) if row else None


async def done(tx: Session, job: Leased) -> None:
    """Close a job whose effect needed no other change."""
    await queries().outbox.done(tx, id=job.id, attempts=job.attempts)


async def put_off(tx: Session, job: Leased, reason: str, wait: timedelta) -> None:
    """Give a job back, to be tried again later."""
    await queries().outbox.put_off(tx, id=job.id, attempts=job.attempts, error=reason, backoff=wait)


async def bury(tx: Session, job: Leased, error: str, trace_id: str) -> Appended:
    """Give a job up after its last failure; the tenant's log says so."""
    row = await queries().outbox.bury(tx, id=job.id, attempts=job.attempts, error=error, trace_id=trace_id)
    return Appended.of(job.tenant_id, row)


async def backlog(system: Session) -> tuple[int, float]:
    """(number of open jobs, seconds that the oldest has been due)."""
    row = await queries().outbox.backlog(system)
    return row["open"], row["oldest_seconds"]
