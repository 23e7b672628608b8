"""The self-probe's job: says that it was run, and nothing else. Who sent it: ottoai/ops/probes.py."""

from jobs.context import Context, Retry, Staged
from ottoai import trace
from ottoai.domain import outbox, probes
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Failure, Leased


async def probe(context: Context, job: Leased) -> None:
    """Close the job and tell, in one transaction."""
    context.bus.publish(await probes.finish(context.db.one(job.tenant_id), job, trace.trace_id()))


async def bury(context: Context, job: Leased, why: Failure) -> Appended:  # noqa: ARG001 - the sender finds out itself
    """Close it: no operator should look at it among the dead ones, or try it again."""
    await outbox.done(context.db.one(job.tenant_id), job)
    return Appended(job.tenant_id, 0, ())


# Its sender waits for half a minute.
PROBE = Staged(probe, Retry(attempts=3, first=1.0, longest=5.0), timeout=10.0, bury=bury)
