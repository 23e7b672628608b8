"""What an API process sends itself to see that it arrives: an event of a tenant that is nobody's, and a job.

When that is done, and what is made of the answer: ops/probes.py.
"""

from datetime import timedelta
from typing import Final

from ottoai.db import Session, queries
from ottoai.domain import outbox
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Due, Leased
from ottoai.domain.tenants import PROBE

JOB: Final = "probe"
SENT: Final = "test.probe"
DONE: Final = "test.probe.done"
GIVEN_UP_AFTER: Final = timedelta(seconds=30)  # a job that was not done by then has failed, whatever becomes of it


async def make_tenant(system: Session) -> None:
    """Register the tenant, unless it is there."""
    await queries().probes.make_probe_tenant(system, id=PROBE)


async def stage(tx: Session, probe: str, *, trace_id: str, trace_context: str) -> tuple[Appended, Due]:
    """Append the event of a probe and stage its job. Raises NotFound when the tenant is not there."""
    row = await queries().probes.stage_probe(
        tx,
        probe=probe,
        job=JOB,
        event=SENT,
        given_up_after=GIVEN_UP_AFTER,
        repair_after=outbox.REPAIR_AFTER,
        trace_id=trace_id,
        trace_context=trace_context,
    )
    (job,) = outbox.staged(row)
    return Appended.of(PROBE, row), job


async def finish(tx: Session, job: Leased, trace_id: str) -> Appended:
    """Close a probe's job and say so."""
    row = await queries().probes.finish_probe(tx, id=job.id, attempts=job.attempts, event=DONE, trace_id=trace_id)
    return Appended.of(PROBE, row)


async def standing(tx: Session, job: Due) -> str:
    """Why nothing was heard of a job's end, in words."""
    row = await queries().probes.probe_standing(tx, id=job.id)
    if row is None or row["state"] == "done":
        return "it was done, or given up elsewhere, and nothing was heard of that"
    if row["attempts"]:
        return f"a worker has begun it and not ended it: {row['error'] or 'it still runs, or was killed'}"
    return "no worker has begun it"
