"""GET /ops, /ops.txt and /ops.json: how everything stands, for a person, a terminal, a program; GET /ops/alerts: what
there was. All of it without JavaScript; static/ops.js only fetches the page again.
"""

import asyncio
from typing import Any

import aiohttp_jinja2
import msgspec
from aiohttp import web

from ottoai.errors import InvalidInput
from ottoai.indicators import GROUPS
from ottoai.web import keys, ops, ops_text, ops_words

PAGE = 100  # alerts on a page of their history


async def page(request: web.Request) -> web.Response:
    """The status page."""
    if (user := ops.admitted(request)) is None:
        return ops.challenge()
    status = await request.app[keys.BOARD].status()
    state = {
        "status": status,
        "may_act": user.role == "operator",
        "csrf": "",
        "groups": GROUPS,
        "places": ops_words.PLACES,
    }
    return await rendered(request, "ops.html", state)


async def text(request: web.Request) -> web.Response:
    """The same for a terminal; the verdict first. 200 whatever it is: that it can be told is no failure."""
    if ops.admitted(request) is None:
        return ops.challenge()
    status = await request.app[keys.BOARD].status()
    said = await asyncio.to_thread(ops_text.told, status)
    return web.Response(text=said, headers={**ops.HEADERS, "X-Verdict": status.verdict})


async def json(request: web.Request) -> web.Response:
    """The same for a program: `ottoai.ops.status.Status`."""
    if ops.admitted(request) is None:
        return ops.challenge()
    status = await request.app[keys.BOARD].status()
    body = await asyncio.to_thread(msgspec.json.encode, status)
    headers = {**ops.HEADERS, "X-Verdict": status.verdict}
    return web.Response(body=body, content_type="application/json", headers=headers)


async def alerts(request: web.Request) -> web.Response:
    """Alerts that are over, the latest first; `before`: the id of the last one on the page before."""
    if ops.admitted(request) is None:
        return ops.challenge()
    before = request.query.get("before")
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InvalidInput("before: must be the id of an alert")
    system = request.app[keys.DB].system()
    found = await request.app[keys.ALERTS].past(system, PAGE + 1, int(before) if before else None)
    state = {
        "alerts": found[:PAGE],
        "now": request.app[keys.MONITOR].clock(),
        "active": request.app[keys.ALERTS].active,
        "further": found[PAGE - 1].id if len(found) > PAGE else None,
    }
    return await rendered(request, "ops_alerts.html", state)


async def rendered(request: web.Request, template: str, state: dict[str, Any]) -> web.Response:
    """An operator page. Rendered by a thread: a full one takes some tens of milliseconds, too long for the loop."""
    config = request.app[keys.CONFIG]
    state |= {"environment": config.environment, "trace_url": config.trace_url}
    found = aiohttp_jinja2.get_env(request.app).get_template(template)
    body = await asyncio.to_thread(found.render, state)
    return web.Response(text=body, content_type="text/html", headers=ops.HEADERS)
