"""GET /api/missed-calls and /api/missed-calls/{id}."""

from typing import Literal
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, UnsetType

from ottoai.db import queries
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.inputs import Moment, PageQuery


class MissedCallQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which missed calls. `since`, `until`: when they were called, from the one and before the other."""

    status: Literal["queued", "texted", "escalated", "recovered", "opted_out", "expired"] | UnsetType = UNSET
    lead_id: UUID | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET


async def list_missed_calls(request: web.Request) -> web.Response:
    """The tenant's missed calls and how their rescue stands, newest first."""
    asked = inputs.query(request, MissedCallQuery)
    return await reading.listing(request, "missed_calls", queries().missed_calls.list_missed_calls, asked)


async def get_missed_call(request: web.Request) -> web.Response:
    """One missed call."""
    return await reading.one(request, queries().missed_calls.get_missed_call, id=reading.row_id(request))
