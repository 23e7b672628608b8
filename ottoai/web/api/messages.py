"""GET /api/leads/{id}/messages."""

from aiohttp import web

from ottoai.db import queries
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.inputs import PageQuery


class MessageQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which of a lead's texts."""


async def list_messages(request: web.Request) -> web.Response:
    """The texts from and to a lead, newest first."""
    lead_id, asked = reading.row_id(request), inputs.query(request, MessageQuery)
    return await reading.listing(request, "messages", queries().messages.list_messages, asked, lead_id=lead_id)
