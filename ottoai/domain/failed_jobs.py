"""Staged jobs that failed, as operators see them: what a job is and how it fared, nothing of what it is about."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.outbox import BATCH

COUNTED = 10_001  # jobs of a state that are counted at most; more than ten thousand is said to be that

State = Literal["dead", "open"]


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was given up (dead), or failed before and is tried again (open). `at`: when it was, or will be."""

    id: str
    tenant_id: str
    job: str
    queue: str
    state: State
    attempts: int
    error: str | None
    trace_id: str
    at: datetime


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one job. `running`: a worker has it now."""

    id: str
    tenant_id: str
    job: str
    queue: str
    state: Literal["dead", "open", "done"]
    attempts: int
    error: str | None
    traceback: str | None
    trace_id: str
    created_at: datetime
    due_at: datetime
    enqueue_at: datetime
    leased_until: datetime | None
    finished_at: datetime | None
    running: bool


class Count(msgspec.Struct, frozen=True):
    """How many jobs of a name are in a state."""

    state: State
    job: str
    number: int


async def page(
    system: Session,
    state: State,
    *,
    tenant: str | None,
    job: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Failed]:
    """Jobs of a state, the latest first; of a tenant, of a name, and behind a place (time and id) where given."""
    query = queries().operations.dead_jobs if state == "dead" else queries().operations.failing_jobs
    at, job_id = before or (None, None)
    rows = query(system, tenant=tenant, job=job, before=at, before_id=job_id, limit=limit)
    return [Failed(**row) async for row in rows]


async def counts(system: Session) -> list[Count]:
    """How many there are, by state and name; of each state at most COUNTED are looked at."""
    return [Count(**row) async for row in queries().operations.failed_jobs_counted(system, most=COUNTED)]


async def find(system: Session, job_id: str) -> Whole | None:
    """One job, whatever has become of it."""
    row = await queries().operations.any_job(system, id=job_id)
    return Whole(**row) if row else None


async def discard(
    system: Session, ids: Sequence[str] | None, job: str | None, before: datetime, limit: int = BATCH
) -> list[str]:
    """Close dead jobs: those of these ids, or all of that name, that died before then; the ids of those closed."""
    given = None if ids is None else list(ids)
    rows = queries().operations.discard_jobs(system, ids=given, job=job, before=before, limit=limit)
    return [str(row["id"]) async for row in rows]
