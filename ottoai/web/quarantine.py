"""GET /ops/quarantine: deliveries that could not be used, for operators to try again (which is in actions)."""

from typing import Any, Final

import msgspec
from aiohttp import web

from ottoai.web import inputs, keys
from ottoai.web.ops_frame import address, render
from ottoai.webhooks import quarantine
from ottoai.webhooks.quarantine import MANY, Filter, Quarantined

SHOWN: Final = 100  # and tried again by one press: each takes a few milliseconds, and a page must answer


async def page(request: web.Request) -> web.Response:
    """What is quarantined, oldest first. Filter and place stand in the address, also when a page is tried again."""

    async def read() -> dict[str, Any]:
        found, left = await page_of(request)
        query = request.query
        return {
            "found": found,
            "all": len(found) + left,
            "more": "+" if left == MANY else "",
            "next": address(request, cursor=cursor(request, found[-1])) if left else None,
            "first": not query.get("cursor"),
            "query": query,
        }

    return await render(request, "quarantine.html", "Quarantine", read)


async def page_of(request: web.Request) -> tuple[list[Quarantined], int]:
    """The page that an address is about, and how many come after it; MANY stands for more. Raises InvalidInput,
    StoreUnavailable.
    """
    after = inputs.place(request.query.get("cursor", ""), _list(request))
    found = await quarantine.find(request.app[keys.DB].system(), _filter(request), SHOWN + MANY, after)
    return found[:SHOWN], len(found[SHOWN:])


def cursor(request: web.Request, last: Quarantined) -> str:
    """The cursor of what comes after one, in the same filter."""
    return inputs.cursor_of(last.received_at, last.id, _list(request))


def _list(request: web.Request) -> bytes:
    return msgspec.json.encode(_filter(request))


def _filter(request: web.Request) -> Filter:
    query = request.query
    return Filter(
        tenant_id=query.get("tenant") or None, provider=query.get("provider") or None, kind=query.get("kind") or None
    )
