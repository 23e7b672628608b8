"""One text of ours to one phone: handed to its carrier exactly once, wherever a worker dies and whatever the carrier
answers. What cannot be known becomes a task for staff, never a second text.
"""

import logging
from typing import Any

from jobs.context import Context, Retry, Staged
from jobs.senders import NotSent, Rejected, Sender, Unknown
from ottoai import trace
from ottoai.domain import outbox, texts
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Failure, Leased
from ottoai.domain.texts import Text
from ottoai.errors import Conflict, ProviderFailed

log = logging.getLogger(__name__)

# Ten attempts spread over three to six minutes, by how long each takes: a carrier's hiccup is outlasted, and its list
# of texts has caught up with what it took. A rescue goes on without the text: with its next step, and with staff.
RETRY = Retry(attempts=10, first=2.0, longest=60.0)


async def send_text(context: Context, job: Leased) -> None:
    """Commit that the text is being sent, hand it over outside of any transaction, commit what became of it."""
    tenant = context.db.one(job.tenant_id)
    text = await texts.find(tenant, job.subject_id)
    now = context.clock()
    if text is None:
        await outbox.done(tenant, job)
    elif text.provider_id is not None:  # its carrier has told of it while we could not
        await _sent(context, job, text, text.provider_id)
    elif text.status == "sending":
        await _resolve(context, job, text)
    elif text.status != "queued":
        await outbox.done(tenant, job)
    elif not text.wanted or text.opted_out:
        await _give_up(context, job, text, "cancelled")
    elif (allowed_at := text.allowed_at(now)) > now:
        # It was due when it was staged; but who was away for hours must not text anybody in the night.
        await outbox.put_off(tenant, job, Failure("outside the hours for texts"), allowed_at - now)
    else:
        sender = await context.carriers.of(job.tenant_id)
        if await texts.begin(tenant, job, text, sender.name, now):
            await _hand_over(context, job, text, sender)
        else:
            await _give_up(context, job, text, "cancelled")


async def _hand_over(context: Context, job: Leased, text: Text, sender: Sender) -> None:
    try:
        with trace.span("send text", kind=trace.SpanKind.CLIENT, attributes={"peer.service": sender.name}):
            provider_id = await sender.send(text, job.tenant_id)
    except NotSent as error:
        context.carriers.forget(job.tenant_id)
        await texts.unbegin(context.db.one(job.tenant_id), job, text)
        if job.attempts >= RETRY.attempts:
            await _give_up(context, job, text, "failed", error=str(error), dead=True)
            return
        raise ProviderFailed("not-sent", str(error)) from error
    except Rejected as error:
        log.warning("Text message rejected", extra={"message_id": text.id, "sender": sender.name, "code": error.code})
        await _give_up(
            context,
            job,
            text,
            "failed",
            error=f"rejected: {error.code}",
            error_code=error.code,
            untextable=error.untextable,
            opts_out=error.opted_out,
        )
        return
    except Exception as error:  # noqa: BLE001 - whatever it was, the text may have gone out
        await _unknown(context, job, text, error)
        return
    await _sent(context, job, text, provider_id)


async def _resolve(context: Context, job: Leased, text: Text) -> None:
    """A text that an earlier attempt may have handed over: ask its carrier."""
    try:
        sender = await context.carriers.of(job.tenant_id, text.sender)
        with trace.span("look text up", kind=trace.SpanKind.CLIENT, attributes={"peer.service": sender.name}):
            provider_id = await sender.lookup(text, job.tenant_id)
        if provider_id is not None:
            await _sent(context, job, text, provider_id)
        elif sender.exact:
            await texts.unbegin(context.db.one(job.tenant_id), job, text)
            await send_text(context, job)
        else:
            await _unknown(context, job, text, Unknown("the carrier does not list it"))
    except (Unknown, Conflict) as error:  # Conflict: what was found is another text of ours, with the same words
        await _unknown(context, job, text, error)


async def _unknown(context: Context, job: Leased, text: Text, error: Exception) -> None:
    """Ask again later; at last, let staff find out. Raises ProviderFailed for the former."""
    if job.attempts < RETRY.attempts:
        raise ProviderFailed("unknown", f"The text's fate is not known: {type(error).__name__}.") from error
    log.error("Text message's fate stays unknown", extra={"message_id": job.subject_id})
    await _give_up(context, job, text, "unknown", error="its fate stays unknown")


async def _sent(context: Context, job: Leased, text: Text, provider_id: str) -> None:
    tenant = context.db.one(job.tenant_id)
    context.bus.publish(await texts.sent(tenant, job, text, provider_id, context.clock(), trace.trace_id()))


async def _give_up(context: Context, job: Leased, text: Text, status: texts.GivenUp, **why: Any) -> None:
    context.bus.publish(await _given_up(context, job, text, status, **why))


async def _given_up(context: Context, job: Leased, text: Text | None, status: texts.GivenUp, **why: Any) -> Appended:
    tenant = context.db.one(job.tenant_id)
    return await texts.give_up(tenant, job, text, status, context.clock(), trace.trace_id(), **why)


async def bury(context: Context, job: Leased, why: Failure) -> Appended:
    """When the job is given up whatever it was doing: nobody knows how far its last attempt had come."""
    text = await texts.find(context.db.one(job.tenant_id), job.subject_id)
    unknown = text is not None and text.status == "sending"
    status: texts.GivenUp = "unknown" if unknown else "failed"
    return await _given_up(context, job, text, status, error=why.error, traceback=why.traceback, dead=True)


SEND_TEXT = Staged(send_text, RETRY, bury=bury)
