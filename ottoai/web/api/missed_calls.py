"""GET /api/missed-calls and /api/missed-calls/{id}."""

from aiohttp import web

from ottoai.db import queries
from ottoai.web.api import reading


async def list_missed_calls(request: web.Request) -> web.Response:
    """The tenant's missed calls and how their rescue stands, newest first."""
    return await reading.listing(request, queries().missed_calls.list_missed_calls)


async def get_missed_call(request: web.Request) -> web.Response:
    """One missed call."""
    return await reading.one(request, queries().missed_calls.get_missed_call)
