"""What all operator pages beside the first have in common: who may look, what was just done, and what to show when the
database is away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web
from multidict import MultiDict
from yarl import URL

from ottoai.errors import StoreUnavailable
from ottoai.web import csrf, keys, ops, press

LIMIT: Final = 3.0  # seconds for all that a page reads; then it says that there is nothing to read


async def render(
    request: web.Request, template: str, here: str, read: Callable[[], Awaitable[dict[str, Any]]]
) -> web.Response:
    """A page of what `read` finds, for whoever signed in. `here`: its name in the navigation."""
    user = ops.admitted(request)
    config = request.app[keys.CONFIG]
    state: dict[str, Any] = {
        "here": here,
        "environment": config.environment,
        "now": datetime.now(UTC),
        "may_act": user.role == "operator",
        "csrf": csrf.token(request, user) if user.role == "operator" else "",
        "address": address(request),
        "trace_url": config.trace_url,
    }
    try:
        async with asyncio.timeout(LIMIT):
            state |= {"away": False, "done": await press.shown(request), **await read()}
    except (StoreUnavailable, TimeoutError):
        state |= {"away": True, "done": None}
    status = 503 if state["away"] else 200
    found = aiohttp_jinja2.get_env(request.app).get_template(template)
    body = await asyncio.to_thread(found.render, state)  # a full page takes some tens of milliseconds
    return web.Response(text=body, content_type="text/html", status=status, headers=ops.HEADERS)


def address(request: web.Request, **changes: str) -> str:
    """The page's own address, without what was just done; with other parameters where given."""
    query = MultiDict(request.query)
    query.popall(press.DONE, None)
    query.update(changes)
    return str(URL(request.rel_url.raw_path, encoded=True).with_query(query))
