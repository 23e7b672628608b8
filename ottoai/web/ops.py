"""GET /ops: how the system stands, on one HTML page that needs no JavaScript. Basic authentication."""

import asyncio
import base64
import hmac
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp_jinja2
from aiohttp import web
from redis.exceptions import RedisError

from ottoai import __version__, tally
from ottoai.config import Config, OpsUser
from ottoai.domain import outbox
from ottoai.errors import Forbidden, NotFound, StoreUnavailable
from ottoai.web import keys
from ottoai.webhooks import quarantine

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="OttoAI operators", charset="UTF-8"'}
LIMIT: Final = 1.0  # seconds for each store; the page says what did not answer


async def page(request: web.Request) -> web.Response:
    """The status page."""
    if admitted(request) is None:
        return challenge()
    response = aiohttp_jinja2.render_template("ops.html", request, await _state(request))
    response.headers.update(HEADERS)
    return response


async def _state(request: web.Request) -> dict[str, Any]:
    """What the template shows. Parts that could not be read are None."""
    app = request.app
    now = datetime.now(UTC)
    readiness, processes, backlog = await asyncio.gather(
        app[keys.HEALTH].readiness(), _processes(request), _backlog(request)
    )
    return {
        "version": __version__,
        "environment": app[keys.CONFIG].environment,
        "now": now,
        "ready": readiness.ready,
        # What fails comes first.
        "components": sorted(readiness.components.items(), key=lambda item: item[1]),
        "processes": processes and [(found, tally.alive(found, now)) for found in processes],
        "depths": await app[keys.GAUGES].depths(),
        "backlog": backlog,
        "connections": len(app[keys.HUB].connections),
        "quarantined": await _quarantined(request),
    }


async def _processes(request: web.Request) -> list[tally.Snapshot] | None:
    try:
        async with asyncio.timeout(LIMIT):
            return await tally.read(request.app[keys.REDIS])
    except (RedisError, OSError, TimeoutError):
        return None


async def _backlog(request: web.Request) -> tuple[int, float] | None:
    try:
        async with asyncio.timeout(LIMIT):
            return await outbox.backlog(request.app[keys.DB].system())
    except (StoreUnavailable, TimeoutError):
        return None


async def _quarantined(request: web.Request) -> int | None:
    try:
        async with asyncio.timeout(LIMIT):
            return await quarantine.count(request.app[keys.DB].system())
    except (StoreUnavailable, TimeoutError):
        return None


def challenge() -> web.Response:
    """The answer to who did not sign in."""
    return web.Response(status=401, text="Sign in as one of OPS_USERS.\n", headers={**HEADERS, **CHALLENGE})


def refuse_foreign_page(request: web.Request) -> None:
    """A browser sends its user's password along with what another site's page makes it post. Raises Forbidden."""
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or (
        origin is not None and urlsplit(origin).netloc != request.host
    ):
        raise Forbidden("This was sent by another site's page.")


def admitted(request: web.Request) -> OpsUser | None:
    """Which of OPS_USERS the caller is. Without any, the pages are for development only, and everybody an operator.
    Raises NotFound.
    """
    config: Config = request.app[keys.CONFIG]
    if not config.ops_users:
        if not config.development:
            raise NotFound("There is nothing at this address.")
        return OpsUser("developer", "", "operator")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    try:
        name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except ValueError:
        return None
    found = [user for user in config.ops_users if _is(user, name, password)]  # all are compared, found or not
    return found[0] if found and scheme.lower() == "basic" else None


def _is(user: OpsUser, name: str, password: str) -> bool:
    same_name = hmac.compare_digest(user.name.encode(), name.encode())
    same_password = hmac.compare_digest(user.password.encode(), password.encode())
    return same_name and same_password
