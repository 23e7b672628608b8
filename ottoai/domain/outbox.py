"""Staged jobs: rows written with the change that caused them, open until the job's own effect commits.

A job is enqueued by whoever committed it; what that missed, or what a killed worker held, falls due again here.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

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
    tenant_id: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a job stands. `stood`: seconds that a dead one has been dead, an open one due."""

    id: str
    tenant_id: str
    job: str
    queue: str
    state: Literal["open", "dead"]
    attempts: int
    error: str | None
    stood: float


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


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed. `traceback`: where, without the words of foreign errors; none when nothing was raised."""

    error: str
    traceback: str | None = None


def staged(row: Row) -> tuple[Due, ...]:
    """From the `jobs` column of a statement that stages: those to enqueue right after its commit."""
    return msgspec.json.decode(row["jobs"], type=tuple[Due, ...])


async def due(system: Session, limit: int = BATCH) -> list[Due]:
    """Open jobs to enqueue now, each tenant's in its turn, each put off by QUEUED_FOR."""
    rows = queries().outbox.due(system, put_off=QUEUED_FOR, limit=limit)
    return [Due(**row) async for row in rows]


async def lease(system: Session, ids: Sequence[str], seconds: float) -> list[Leased]:
    """Take jobs; those are left out that are done, gone, or another worker's."""
    rows = queries().outbox.lease(system, ids=list(ids), lease=timedelta(seconds=seconds))
    return [Leased(**row) async for row in rows]


async def renew(system: Session, jobs: Sequence[Leased], seconds: float) -> set[tuple[str, int]]:
    """Hold on to jobs; (id, attempts) of those that are still this worker's."""
    rows = queries().outbox.renew(system, **_attempts(jobs), lease=timedelta(seconds=seconds))
    return {(row["id"], row["attempts"]) async for row in rows}


async def give_back(system: Session, jobs: Sequence[Leased]) -> list[Due]:
    """Let go of jobs that are not done; those that are to be enqueued now."""
    rows = queries().outbox.give_back(system, **_attempts(jobs), put_off=REPAIR_AFTER)
    return [Due(**row) async for row in rows]


def _attempts(jobs: Sequence[Leased]) -> dict[str, list[str] | list[int]]:
    return {"ids": [job.id for job in jobs], "attempts": [job.attempts for job in jobs]}


async def done(tx: Session, job: Leased) -> None:
    """Close a job whose effect needed no other change."""
    await queries().outbox.done(tx, id=job.id, attempts=job.attempts)


async def put_off(tx: Session, job: Leased, why: Failure, wait: timedelta) -> None:
    """Give a job back, to be tried again later."""
    await queries().outbox.put_off(
        tx, id=job.id, attempts=job.attempts, error=why.error, traceback=why.traceback, backoff=wait
    )


async def bury(tx: Session, job: Leased, why: Failure, trace_id: str) -> Appended:
    """Give a job up after its last failure; the tenant's log says so."""
    row = await queries().outbox.bury(
        tx, id=job.id, attempts=job.attempts, error=why.error, traceback=why.traceback, trace_id=trace_id
    )
    return Appended.of(job.tenant_id, row)


async def backlog(system: Session) -> tuple[int, float]:
    """(number of open jobs, seconds that the oldest has been due)."""
    row = await queries().outbox.backlog(system)
    return row["open"], row["oldest_seconds"]


async def dead(system: Session) -> int:
    """How many jobs were given up and wait for an operator."""
    count: int = await queries().outbox.dead(system)
    return count


async def listed(system: Session, state: str, tenant_id: str | None, limit: int) -> list[Standing]:
    """Jobs of one state, oldest first; of one tenant, or of all."""
    rows = queries().outbox.listed(system, state=state, tenant=tenant_id, limit=limit)
    return [Standing(**row) async for row in rows]


async def retry(
    system: Session, ids: Sequence[str] | None, job: str | None, before: datetime, limit: int = BATCH
) -> list[Due]:
    """Open jobs again that died before then: those of these ids, or all of that name, or all. To be enqueued now."""
    given = None if ids is None else list(ids)
    rows = queries().outbox.retry(system, ids=given, job=job, before=before, limit=limit, repair_after=REPAIR_AFTER)
    return [Due(**row) async for row in rows]
