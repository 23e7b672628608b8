"""What stands around every handler: ids, log line, figures, and errors turned into problems."""

import logging
import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai import log, trace
from ottoai.config import Config, Network, is_address, within
from ottoai.errors import InvalidInput, NotFound, OttoError, Unauthenticated
from ottoai.metrics import Metrics
from ottoai.web import auth, edge, keys, problem, unknown

logger = logging.getLogger(__name__)

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SLOW: Final = 1.0  # seconds from which on an answer is logged whatever REQUEST_LOG_RATIO says
CLIENT_GONE: Final = 499  # nginx's number for a client that did not wait for its answer
# Asked every few seconds, by machines or by a page that is open.
QUIET: Final = frozenset(
    {"/health", "/ready", "/metrics", "/internal/worker/heartbeat", "/ops", "/ops.txt", "/ops.json"}
)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its ids, and measure and log how it ended."""
    route = route_of(request)
    metrics = request.app[keys.METRICS]
    started = time.perf_counter()
    with ExitStack() as stack:
        if not trace.trace_id():
            trusted = within(request.remote or "", request.app[keys.CONFIG].trusted_proxies)
            given = request.headers.get("traceparent") if trusted else None
            stack.enter_context(trace.span(route, traceparent=given, kind=trace.SpanKind.SERVER))
        request_id = request[keys.REQUEST_ID] = _request_id(request)
        stack.enter_context(log.bind(request_id=request_id, trace_id=trace.trace_id()))
        metrics.http_requests_in_flight.inc()
        response: web.StreamResponse | None = None
        try:
            response = await _answer(request, handler)
            return response
        finally:
            seconds = time.perf_counter() - started - request.get(keys.WAITED, 0.0)
            metrics.http_requests_in_flight.dec()
            status = response.status if response else CLIENT_GONE
            method = request.method if request.method in METHODS else "other"
            metrics.http_requests_total.inc(method=method, route=route, status=str(status))
            if status != 101:  # a WebSocket's life is not a request's duration
                metrics.http_request_duration_seconds.observe(seconds, method=method, route=route)
            if status >= 400 or seconds > SLOW or trace.chosen(request.app[keys.CONFIG].request_log_ratio):
                logger.log(
                    logging.DEBUG if route in QUIET and status < 500 else logging.INFO,
                    "Request answered",
                    extra={
                        "method": method,
                        "route": route,
                        "status": status,
                        "duration_ms": round(seconds * 1000, 2),
                    },
                )


def zero(metrics: Metrics, routes: Iterable[tuple[str, str]]) -> None:
    """Let each route's failures exist before the first: a counter that is born at 1 never seems to have grown."""
    for method, route in routes:
        for status in ("500", "503"):
            metrics.http_requests_total.zero(method=method, route=route, status=status)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        _refuse_unreadable(request)
        edge.refuse(request)
        return await handler(request)
    except OttoError as error:
        if error.status >= 500:
            logger.warning("Request failed", extra={"error": error.type, "detail": error.detail}, exc_info=error)
        return problem.of(error, request)
    except web.HTTPException as error:
        if error.status == 404 and request.method == "POST":
            unknown.note(request)
        return problem.of_http(error, request)
    except Exception as error:  # the edge: whatever it was, the client gets a problem and the log the cause
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return web.Response(status=CLIENT_GONE)
        logger.exception("Request failed unexpectedly")
        return problem.of(OttoError("Something went wrong here; the trace id tells us what."), request)


def _refuse_unreadable(request: web.Request) -> None:
    """What is not UTF-8 or holds a NUL fits into no log line, no signature and no column."""
    for name, value in request.headers.items():
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidInput(f"{name}: is not UTF-8")
    if "%00" in request.raw_path:
        raise InvalidInput("The address holds a NUL.")


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Everything under /api/ needs a token; its tenant is the only one there is for the request."""
    if not request.path.startswith("/api/"):
        return await handler(request)
    token = auth.bearer(request)
    if token is None:
        raise Unauthenticated
    principal = await request.app[keys.TOKENS].verify(token)
    request[keys.PRINCIPAL] = principal
    with log.bind(tenant_id=principal.tenant_id, user_id=principal.user_id):
        try:
            response = await handler(request)
        except NotFound:
            request.app[keys.FOREIGN].note_request(request, principal.tenant_id, route_of(request))
            raise
        if not response.prepared:
            response.headers.setdefault("Cache-Control", "private, no-cache")
            response.headers.add("Vary", "Authorization")  # whoever else uses this browser has another token
        return response


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if REQUEST_ID.fullmatch(given) else trace.trace_id()


def route_of(request: web.Request) -> str:
    """The pattern of the route, never the path: paths hold ids and secret hooks."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "unmatched"


def client_ip(request: web.Request, trusted: tuple[Network, ...]) -> str:
    """The client's address; forwarding headers are believed as far as they come from trusted proxies."""
    address = request.remote or ""
    given = ",".join(request.headers.getall("X-Forwarded-For", []))  # a proxy may add a line instead of a word
    forwarded = [part.strip() for part in given.split(",")] if given else []
    while forwarded and within(address, trusted):
        candidate = forwarded.pop()
        if not is_address(candidate):
            break
        address = candidate
    return address


def public_url(request: web.Request, config: Config) -> str:
    """The URL as its caller knows it, query included: what stands in front of us may have changed scheme and host. It
    may hold secrets.
    """
    scheme, host = request.scheme, request.host
    if within(request.remote or "", config.trusted_proxies):
        # The first of several is what the client said to the outermost proxy.
        scheme = request.headers.get("X-Forwarded-Proto", scheme).partition(",")[0].strip()
        host = request.headers.get("X-Forwarded-Host", host).partition(",")[0].strip()
    return (config.public_url or f"{scheme}://{host}") + request.raw_path
