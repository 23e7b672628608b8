"""GET /demo: a tenant's calls, leads, rescues and tasks on one live page, for who has just started this. There is no
such address but in development (see routes): whoever opens it acts as a user of the tenant.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp_jinja2
import msgspec
from aiohttp import web

from ottoai import samples
from ottoai.db import Session, queries
from ottoai.domain import events, tenants
from ottoai.domain.catalogue import Settings
from ottoai.domain.roles import Role
from ottoai.errors import NotFound
from ottoai.web import auth, inputs, keys, ops
from ottoai.web.api.calls import CallQuery
from ottoai.web.api.leads import LeadQuery
from ottoai.web.api.missed_calls import MissedCallQuery
from ottoai.web.api.reading import START, respond
from ottoai.web.api.tasks import TaskQuery

TENANT: Final = "demo"  # the one for which unsigned webhooks are taken in development
USER: Final = "demo-user"
LIFE: Final = timedelta(minutes=10)  # of the page's tokens; it gets another one in time
HERE: Final = re.compile(r"localhost|[0-9.]+|[0-9a-f]*:[0-9a-f:.]*")  # no name that another could have lead here
SHOWN: Final = 50  # rows of each list
CALLERS: Final = 200  # leads that a new caller is to differ from
EVENTS: Final = 30  # of the past that the page begins with
NAMES: Final = (
    "Robin Sample", "Alex Example", "Kim Muster", "Sam Specimen", "Jo Ejemplo", "Chris Modello", "Noa Exemple",
    "Max Beispiel", "Ida Eksempel", "Lou Voorbeeld",
)  # fmt: skip
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def page(request: web.Request) -> web.Response:
    """The page as it begins; its script (static/demo.js) keeps it up to date."""
    settings = await _settings(request)
    state = await _state(request.app[keys.DB].one(settings.id), settings)
    access = {"token": _token(request, settings.id), "samples": settings.id == TENANT}
    return _guarded(aiohttp_jinja2.render_template("demo.html", request, state | access))


async def token(request: web.Request) -> web.Response:
    """GET /demo/token: what the page goes on with when its token runs out."""
    ops.refuse_foreign_page(request)
    return _guarded(respond({"token": _token(request, (await _settings(request)).id)}))


async def sample(request: web.Request) -> web.Response:
    """GET /demo/samples/{name}: a webhook as CallRail would send it now, for the page to send."""
    settings = await _settings(request)
    name, now = request.match_info["name"], datetime.now(UTC)
    if name == "reply":
        return _guarded(respond(samples.callrail_text(samples.new_call_id(), now=now)))
    # Nobody looked after the one that was unnoticed in the time that the tenant allows, so staff is asked at once.
    called_at = now if name == "missed" else now - timedelta(minutes=settings.sla_minutes + 1)
    caller = await _new_caller(request.app[keys.DB].one(settings.id), now)
    return _guarded(respond(samples.callrail("call-complete", samples.new_call_id(), now=called_at, **caller)))


def _guarded(response: web.Response) -> web.Response:
    response.headers.update(HEADERS)
    return response


async def _settings(request: web.Request) -> Settings:
    """Those of the tenant that the address names. Raises NotFound, also for whoever comes by a name of their own: a
    page of somebody else's that has its name lead here would be given a token.
    """
    if not HERE.fullmatch(request.url.host or ""):
        raise NotFound("Open this by the address of the machine, such as http://127.0.0.1 or http://localhost.")
    named = request.query.get("tenant", TENANT)
    row = await queries().settings.get_settings(request.app[keys.DB].one(named)) if tenants.is_id(named) else None
    if row is None:
        raise NotFound("There is no such tenant here.")
    return msgspec.json.decode(row["item"], type=Settings)


def _token(request: web.Request, tenant_id: str) -> str:
    return auth.issue(request.app[keys.CONFIG], tenant_id, USER, Role.MEMBER, LIFE)


async def _state(tx: Session, settings: Settings) -> dict[str, Any]:
    """What the template shows."""
    head = await events.head(tx)
    epoch, seq = (head.epoch, head.seq) if head else (0, 0)
    past = max(0, seq - EVENTS)
    return {
        "tenant": settings,
        "since": f"{epoch}.{past}",
        "events": reversed((await events.since(tx, past, seq)).events),
        "calls": await _listed(tx, queries().calls.list_calls, CallQuery()),
        "leads": (leads := await _listed(tx, queries().leads.list_leads, LeadQuery())),
        "names": {lead["id"]: lead["name"] or lead["phone"] for lead in leads},
        "rescues": await _listed(tx, queries().missed_calls.list_missed_calls, MissedCallQuery()),
        "tasks": await _listed(tx, queries().tasks.list_tasks, TaskQuery()),
    }


async def _listed(tx: Session, query: Any, asked: inputs.PageQuery, size: int = SHOWN) -> list[dict[str, Any]]:
    """The first page of a list, as the API gives it."""
    row = await query(tx, page_size=size, after_at=START[0], after_id=START[1], **inputs.filters(asked))
    found: list[dict[str, Any]] = msgspec.json.decode(f"[{row['items'] or ''}]")
    return found


async def _new_caller(tx: Session, now: datetime) -> dict[str, str]:
    """Somebody who has not called lately: the story of each caller is to be told from its beginning."""
    leads = await _listed(tx, queries().leads.list_leads, LeadQuery(), CALLERS)
    names = {lead["name"] for lead in leads[: len(NAMES) - 1]}
    return {
        "customer_name": next(name for name in NAMES if name not in names),
        "customer_phone_number": samples.quiet_phone(now, [lead["phone"] for lead in leads]),
    }
