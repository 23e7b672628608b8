"""GET /ops, /ops.txt and /ops.json: how everything stands, for a person, a terminal, a program; GET /ops/alerts: what
there was. All of it without JavaScript; static/ops.js only fetches the page again.
"""

import asyncio
from typing import Any

import aiohttp_jinja2
import msgspec
from aiohttp import web

from ottoai.domain import audit
from ottoai.errors import InvalidInput, StoreUnavailable
from ottoai.indicators import GROUPS
from ottoai.ops.snapshot import LIMIT
from ottoai.web import csrf, keys, ops, ops_text, ops_words, press
from ottoai.web.ops_frame import render

PAGE = 100  # alerts on a page of their history


async def page(request: web.Request) -> web.Response:
    """The status page."""
    user = ops.admitted(request)
    status, done = await asyncio.gather(request.app[keys.BOARD].status(), _done(request))
    state = {
        "status": status,
        "done": done,
        "may_act": user.role == "operator",
        "csrf": csrf.token(request, user) if user.role == "operator" else "",
        "groups": GROUPS,
        "places": ops_words.PLACES,
    }
    return await _rendered(request, "ops.html", state)


async def text(request: web.Request) -> web.Response:
    """The same for a terminal; the verdict first. 200 whatever it is: that it can be told is no failure."""
    ops.admitted(request)
    status = await request.app[keys.BOARD].status()
    said = await asyncio.to_thread(ops_text.told, status)
    return web.Response(text=said, headers={**ops.HEADERS, "X-Verdict": status.verdict})


async def json(request: web.Request) -> web.Response:
    """The same for a program: `ottoai.ops.status.Status`."""
    user = ops.admitted(request)
    status = await request.app[keys.BOARD].status()
    if user.role == "operator":
        status = msgspec.structs.replace(status, csrf=csrf.token(request, user))
    body = await asyncio.to_thread(msgspec.json.encode, status)
    headers = {**ops.HEADERS, "X-Verdict": status.verdict}
    return web.Response(body=body, content_type="application/json", headers=headers)


async def alerts(request: web.Request) -> web.Response:
    """Alerts that are over, the latest first; `before`: the id of the last one on the page before."""

    async def read() -> dict[str, Any]:
        before = request.query.get("before", "")
        if before and not (before.isascii() and before.isdecimal() and len(before) < 19):
            raise InvalidInput("before: must be the id of an alert")
        alerting = request.app[keys.ALERTS]
        system = request.app[keys.DB].system()
        found = await alerting.past(system, PAGE + 1, int(before) if before else None)
        further = found[PAGE - 1].id if len(found) > PAGE else None
        return {"alerts": found[:PAGE], "active": alerting.active, "further": further}

    return await render(request, "ops_alerts.html", "Alerts", read)


async def _done(request: web.Request) -> audit.Entry | None:
    """What was just done, where that can be read."""
    try:
        async with asyncio.timeout(LIMIT):
            return await press.shown(request)
    except (StoreUnavailable, TimeoutError):
        return None


async def _rendered(request: web.Request, template: str, state: dict[str, Any]) -> web.Response:
    """The page, rendered by a thread: that takes some ten milliseconds, too long for the loop."""
    config = request.app[keys.CONFIG]
    state |= {"environment": config.environment, "trace_url": config.trace_url}
    found = aiohttp_jinja2.get_env(request.app).get_template(template)
    body = await asyncio.to_thread(found.render, state)
    return web.Response(text=body, content_type="text/html", headers=ops.HEADERS)
