"""What is due of a rescue: one decision of `rescue`, carried out in one transaction. It talks to no carrier: the text
that it wants sent is a job of its own.
"""

from jobs.context import Context, Retry, Staged
from ottoai import trace
from ottoai.domain import missed_calls
from ottoai.domain.outbox import Leased
from ottoai.errors import Conflict

TRIES = 3  # a rescue that changes while it is decided about is decided about again


async def follow_up(context: Context, job: Leased) -> None:
    """Decide and carry out. Raises Conflict when somebody else is always faster."""
    tenant = context.db.one(job.tenant_id)
    for left in reversed(range(TRIES)):
        try:
            advanced = await missed_calls.follow_up(tenant, job, context.clock(), trace.trace_id())
            break
        except Conflict:
            if not left:
                raise
    if advanced is None:
        return
    context.bus.publish(advanced.appended)
    context.waker.wake(advanced.jobs)


# Only stores are needed, so a failure is a store's, and passes; a rescue that is given up is one that nobody follows.
FOLLOW_UP = Staged(follow_up, Retry(attempts=20, first=1.0, longest=300.0), timeout=15.0)
