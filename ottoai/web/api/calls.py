"""GET /api/calls and /api/calls/{id}."""

from aiohttp import web

from ottoai.db import queries
from ottoai.web.api import reading


async def list_calls(request: web.Request) -> web.Response:
    """The tenant's calls, newest first."""
    return await reading.listing(request, queries().calls.list_calls)


async def get_call(request: web.Request) -> web.Response:
    """One call."""
    return await reading.one(request, queries().calls.get_call)
