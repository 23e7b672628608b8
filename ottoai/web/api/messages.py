"""GET and POST /api/leads/{id}/messages."""

from typing import Annotated

import msgspec
from aiohttp import web

from ottoai import trace
from ottoai.db import queries
from ottoai.domain import patterns, staff_texts
from ottoai.web import inputs, keys
from ottoai.web.api import reading, writing
from ottoai.web.inputs import PageQuery


class MessageQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which of a lead's texts."""


class NewMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text to be sent to a lead."""

    body: Annotated[str, msgspec.Meta(min_length=1, max_length=1600, extra_json_schema={"pattern": patterns.TEXT})]

    def __post_init__(self) -> None:
        patterns.check("body", self.body, patterns.TEXT)


async def list_messages(request: web.Request) -> web.Response:
    """The texts from and to a lead, newest first."""
    lead_id, asked = reading.row_id(request), inputs.query(request, MessageQuery)
    return await reading.listing(request, "messages", queries().messages.list_messages, asked, lead_id=lead_id)


async def send_message(request: web.Request) -> web.Response:
    """Write a text to a lead: it is queued, and sent within moments."""
    said = await writing.body(request, NewMessage)
    asked = writing.once(request, said)
    queued = await staff_texts.queue(
        reading.session(request),
        request[keys.PRINCIPAL].tenant_id,
        reading.row_id(request),
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
