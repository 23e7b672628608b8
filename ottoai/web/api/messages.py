"""POST /api/leads/{id}/messages."""

from typing import Annotated

import msgspec
from aiohttp import web

from ottoai import trace
from ottoai.domain import staff_texts
from ottoai.web import keys, patterns
from ottoai.web.api import reading, writing


class NewMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text to be sent to a lead."""

    body: Annotated[str, msgspec.Meta(min_length=1, max_length=1600, extra_json_schema={"pattern": patterns.TEXT})]

    def __post_init__(self) -> None:
        patterns.check("body", self.body, patterns.TEXT)


async def send_message(request: web.Request) -> web.Response:
    """Write a text to a lead: it is queued, and sent within moments."""
    said = await writing.body(request, NewMessage)
    asked = writing.once(request, said)
    queued = await staff_texts.queue(
        reading.session(request),
        request[keys.PRINCIPAL].tenant_id,
        writing.row_id(request),
        said.body,
        asked,
        trace_id=trace.trace_id(),
        trace_context=trace.traceparent(),
    )
    request.app[keys.BUS].publish(queued.appended)
    request.app[keys.WAKER].wake(queued.jobs)
    headers = {"Idempotency-Replayed": "true"} if queued.answer.replayed else {}
    answer = queued.answer
    return web.Response(body=answer.body.encode(), status=answer.status, content_type=writing.JSON, headers=headers)
