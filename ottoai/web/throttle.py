"""Who has asked too often: rate limits of users and tenants, and of addresses that keep failing. Both answer 429.

Everything under /api/ is limited, by whose token it is. The handshake of a WebSocket is not: what a socket costs is
bounded by the quotas of connections, and a crowd that comes back after a restart must find its way in.
"""

import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai.errors import OttoError, RateLimited
from ottoai.gcra import Decision, Standing
from ottoai.metrics import Metrics
from ottoai.rates import ROUTES
from ottoai.web import auth, keys
from ottoai.web.middlewares import client_ip, route_of

logger = logging.getLogger(__name__)

FAILURES: Final = frozenset({401, 404})
# Never refused for their address. A provider's speaks for all tenants: that the key of one is wrong must not cost the
# others a delivery. What watches the service must see it, and pages need their files.
EXEMPT: Final = (
    "/call-rail/", "/twilio/", "/clerk/",
    "/health", "/ready", "/internal/", "/metrics",
    "/static/", "/docs", "/openapi.json", "/asyncapi.json",
)  # fmt: skip


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Hold what comes with a token under /api/ against the limits of its user, tenant and route."""
    principal = request.get(keys.PRINCIPAL)
    if principal is None:
        return await handler(request)
    app = request.app
    method = "GET" if request.method == "HEAD" else request.method
    buckets = app[keys.ALLOWANCES].of(f"{method} {route_of(request)}", principal.tenant_id, principal.user_id)
    decision = await app[keys.LIMITER].charge(buckets)
    request[keys.RATE_LIMITS] = _fields(decision)
    over = decision.over
    for each in decision.standings:
        _count(request, each, limited=each in over)
    for each in over:
        _log(request, each, tenant_id=principal.tenant_id, user_id=principal.user_id)
    if over:
        _refuse(request, over)
    return await handler(request)


@web.middleware
async def slow_down(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse an address that keeps failing whatever does not show that it is in the right."""
    if request.path.startswith(EXEMPT):
        return await handler(request)
    address = client_ip(request, request.app[keys.CONFIG].trusted_proxies)
    failing = request.app[keys.FAILING]
    standing = failing.standing(address)
    if standing.wait and not await _in_the_right(request, address):
        _count(request, standing, limited=True)
        _log(request, standing, ip=address)
        _refuse(request, [standing])
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except (OttoError, web.HTTPException) as error:
        status = error.status
        raise
    finally:
        if password := _password(request):
            failing.heed(address, password, right=status < 400)
        if (status in FAILURES or _is_wrong_key(request, status)) and keys.PRINCIPAL not in request:
            failing.count(address)
            _count(request, standing, limited=False)


async def _in_the_right(request: web.Request, address: str) -> bool:
    """Whether it comes with a token that is valid, or with a password that was right before. A WebSocket may yet send
    its token as its first message; how many may is bounded.
    """
    if password := _password(request):
        return request.app[keys.FAILING].trusts(address, password)
    token = auth.presented(request)
    if token is None:
        return request.path == "/ws"
    try:
        await request.app[keys.TOKENS].verify(token)
    except OttoError as error:
        return error.status >= 500  # that we cannot tell is nobody's failure
    return True


def _is_wrong_key(request: web.Request, status: int) -> bool:
    return status == 403 and "X-Dev-Key" in request.headers


def _password(request: web.Request) -> str | None:
    given = request.headers.get("Authorization", "")
    return given if given[:6].lower() == "basic " else request.headers.get("X-Dev-Key")


def zero(metrics: Metrics) -> None:
    """Let every limited route's count exist before its first hit: one that is born at 1 never seems to have grown."""
    for path in {route.partition(" ")[2] for route in ROUTES}:
        metrics.rate_limit_hits_total.zero(route=path)


def _refuse(request: web.Request, over: list[Standing]) -> None:
    """Raise RateLimited, unless the limits are on trial."""
    if request.app[keys.CONFIG].rate_limit_shadow:
        return
    slowest = max(over, key=lambda each: each.wait)
    rate, what = slowest.bucket.rate, "failures" if slowest.bucket.kind == "address" else "requests"
    raise RateLimited(
        f"At most {rate.limit} {what} a {rate.unit} are allowed for this {slowest.bucket.kind}; "
        f"the next is in {slowest.wait} s.",
        retry_after=slowest.wait,
    )


def _count(request: web.Request, standing: Standing, *, limited: bool) -> None:
    kind, metrics = standing.bucket.kind, request.app[keys.METRICS]
    metrics.rate_limit_checks_total.inc(limit_type=kind, result="limited" if limited else "allowed")
    if limited:
        metrics.rate_limit_hits_total.inc(limit_type=kind, route=route_of(request))


def _log(request: web.Request, standing: Standing, **whose: str) -> None:
    kind = standing.bucket.kind
    fields: dict[str, Any] = {"event_type": "rate_limit_hit", "limit_type": kind, "route": route_of(request), **whose}
    if request.app[keys.CONFIG].rate_limit_shadow:
        fields["shadow"] = True
    logger.warning("Rate limit hit: %s", kind, extra=fields)


def _fields(decision: Decision) -> dict[str, str]:
    """The header fields of draft-ietf-httpapi-ratelimit-headers: structured lists, one item for each limit."""
    policies, standings = [], []
    for each in decision.standings:
        rate = each.bucket.rate
        policies.append(f'"{each.bucket.kind}";q={rate.limit};w={rate.seconds}')
        standings.append(f'"{each.bucket.kind}";r={each.remaining};t={each.full_after}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(standings)}
