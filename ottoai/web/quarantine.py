"""GET /ops/quarantine, and POST below it: deliveries that could not be used, for operators to try again."""

from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web

from ottoai.errors import Forbidden, InvalidInput
from ottoai.web import keys, ops
from ottoai.webhooks import quarantine
from ottoai.webhooks.quarantine import Filter, Replayed

SHOWN: Final = 100
AT_ONCE: Final = 100  # replayed by one press: each takes a few milliseconds, and a page must answer


async def page(request: web.Request) -> web.Response:
    """What is quarantined, oldest first."""
    if (user := ops.admitted(request)) is None:
        return ops.challenge()
    return await _render(request, user.role == "operator", ())


async def replay(request: web.Request) -> web.Response:
    """Try one again (`id`), or all that the page's filter finds, AT_ONCE at most; the page with what came of it."""
    if (user := ops.admitted(request)) is None:
        return ops.challenge()
    if user.role != "operator":
        raise Forbidden("Only operators may replay; you may look.")
    ops.refuse_foreign_page(request)
    form = await request.post()
    ingest = request.app[keys.INGEST]
    if given := form.get("id"):
        ids = [str(given)]
    elif form.get("all") == "1":
        ids = [found.id for found in await quarantine.find(ingest.db.system(), _filter(request), AT_ONCE)]
    else:
        raise InvalidInput("id: is missing, and so is all=1")
    done = [await quarantine.replay(ingest, each) for each in ids]
    return await _render(request, True, done)


async def _render(request: web.Request, may_act: bool, done: "tuple[Replayed, ...] | list[Replayed]") -> web.Response:
    system = request.app[keys.DB].system()
    found = await quarantine.find(system, _filter(request), SHOWN)
    state: dict[str, Any] = {"found": found, "shown": SHOWN, "may_act": may_act, "done": done, "query": request.query}
    response = aiohttp_jinja2.render_template("quarantine.html", request, state)
    response.headers.update(ops.HEADERS)
    return response


def _filter(request: web.Request) -> Filter:
    query = request.query
    return Filter(
        tenant_id=query.get("tenant") or None, provider=query.get("provider") or None, kind=query.get("kind") or None
    )
