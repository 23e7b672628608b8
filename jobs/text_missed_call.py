"""The first text to someone whose call was missed: exactly one, wherever a worker dies."""

from datetime import UTC, datetime

from jobs.context import Context, Retry, Staged
from ottoai import trace
from ottoai.domain import missed_calls, outbox
from ottoai.domain.outbox import Leased


async def text_missed_call(context: Context, job: Leased) -> None:
    """Commit that the text is being sent, send it outside of any transaction, commit that it was sent."""
    tenant = context.db.one(job.tenant_id)
    # It was due when it was staged; but who was away for hours must not text anybody in the night.
    now = datetime.now(UTC)
    allowed_at = await missed_calls.text_allowed_at(tenant, job.subject_id, now)
    if allowed_at is not None and allowed_at > now:
        await outbox.put_off(tenant, job, "outside the hours for texts", allowed_at - now)
        return
    text = await missed_calls.begin_text(tenant, job.subject_id, context.sender.name)
    if text is None:  # the caller was reached some other way, or an earlier attempt got to the end
        await outbox.done(tenant, job)
        return
    provider_id = await context.sender.lookup(text, job.tenant_id) if text.begun_before else None
    if provider_id is None:
        provider_id = await context.sender.send(text, job.tenant_id)
    context.bus.publish(
        await missed_calls.finish_text(tenant, job.id, text, provider_id, job.tenant_id, trace.trace_id())
    )


# Eight attempts spread over some four minutes: a carrier's hiccup is outlasted, and staff hears of an outage while the
# caller can still be rung up.
TEXT_MISSED_CALL = Staged(text_missed_call, Retry(attempts=8, first=2.0, longest=60.0), timeout=20.0)
