"""Texts that staff writes: from the request to the job that sends them. What becomes of them then is in texts."""

import msgspec

from ottoai.db import Session, queries
from ottoai.domain import outbox
from ottoai.domain.events import Appended
from ottoai.domain.requests import Answer, Request, once
from ottoai.errors import NotFound, OptedOut


class Queued(msgspec.Struct, frozen=True):
    """What asking for a text did; nothing but the answer, if the answer is replayed."""

    answer: Answer
    appended: Appended
    jobs: tuple[outbox.Due, ...]


async def queue(
    tx: Session, tenant_id: str, lead_id: str, body: str, request: Request, *, trace_id: str, trace_context: str
) -> Queued:
    """Have a text sent to a lead, as the request's user: the lead's open rescues and tasks to call back end. Raises
    NotFound, OptedOut, Unprocessable, StoreUnavailable.
    """
    given = {**msgspec.structs.asdict(request), "trace_id": trace_id, "trace_context": trace_context}
    answer, row = await once(
        request,
        lambda: queries().staff_texts.queue_text(tx, id=lead_id, body=body, repair_after=outbox.REPAIR_AFTER, **given),
    )
    if answer is None:
        raise OptedOut if row["outcome"] == "opted_out" else NotFound("There is nothing here by that id.")
    return Queued(answer, Appended.of(tenant_id, row), outbox.staged(row))
