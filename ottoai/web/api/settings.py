"""GET /api/settings."""

from aiohttp import web

from ottoai.db import queries
from ottoai.web.api import reading


async def get_settings(request: web.Request) -> web.Response:
    """The tenant's own settings."""
    return await reading.one(request, queries().settings.get_settings)
