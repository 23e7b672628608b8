"""GET /api/leads and /api/leads/{id}."""

from aiohttp import web

from ottoai.db import queries
from ottoai.web.api import reading


async def list_leads(request: web.Request) -> web.Response:
    """The tenant's leads, latest contact first."""
    return await reading.listing(request, queries().leads.list_leads)


async def get_lead(request: web.Request) -> web.Response:
    """One lead."""
    return await reading.one(request, queries().leads.get_lead)
