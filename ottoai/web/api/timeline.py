"""GET /api/leads/{id}/timeline: what happened with a lead, of whatever kind."""

from datetime import datetime

import msgspec
from aiohttp import web

from ottoai.db import queries
from ottoai.domain.catalogue import Call, Message, MissedCall, Task
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.inputs import PageQuery


class TimelineQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which of what happened with a lead."""


class CallHappened(msgspec.Struct, frozen=True, tag_field="kind", tag="call"):
    """A call began."""

    at: datetime
    item: Call


class MessageHappened(msgspec.Struct, frozen=True, tag_field="kind", tag="message"):
    """A text came, or was written."""

    at: datetime
    item: Message


class MissedCallHappened(msgspec.Struct, frozen=True, tag_field="kind", tag="missed_call"):
    """A call was missed; how its rescue stands."""

    at: datetime
    item: MissedCall


class TaskHappened(msgspec.Struct, frozen=True, tag_field="kind", tag="task"):
    """A task was opened."""

    at: datetime
    item: Task


Happened = CallHappened | MessageHappened | MissedCallHappened | TaskHappened


async def list_timeline(request: web.Request) -> web.Response:
    """A lead's calls, texts, missed calls and tasks together, newest first."""
    lead_id, asked = reading.row_id(request), inputs.query(request, TimelineQuery)
    return await reading.listing(request, "timeline", queries().timeline.list_timeline, asked, lead_id=lead_id)
