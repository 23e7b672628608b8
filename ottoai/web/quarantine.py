"""GET /ops/quarantine: deliveries that could not be used, for operators to try again (which is in actions)."""

from typing import Any, Final

from aiohttp import web

from ottoai.web import keys
from ottoai.web.ops_frame import render
from ottoai.webhooks import quarantine
from ottoai.webhooks.quarantine import Filter

SHOWN: Final = 100


async def page(request: web.Request) -> web.Response:
    """What is quarantined, oldest first. The filter stands in the address, also when all of it are tried again."""

    async def read() -> dict[str, Any]:
        found = await quarantine.find(request.app[keys.DB].system(), asked(request), SHOWN)
        return {"found": found, "shown": SHOWN, "query": request.query}

    return await render(request, "quarantine.html", "Quarantine", read)


def asked(request: web.Request) -> Filter:
    """Which quarantined deliveries an address is about."""
    query = request.query
    return Filter(
        tenant_id=query.get("tenant") or None, provider=query.get("provider") or None, kind=query.get("kind") or None
    )
