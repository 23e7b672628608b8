"""CORS: which other sites' pages may call the API. Those of ALLOWED_ORIGINS, which the WebSocket goes by too; unset,
none but the API's own, whose pages need no leave.

Tokens travel in a header that a page must set itself, so no credentials are ever allowed. aiohttp-cors is dormant and
wants each route declared; what is needed is one rule for all, on errors and event streams too.
"""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai.web import keys

PATHS: Final = ("/api/", "/openapi.json", "/asyncapi.json")
REQUEST_HEADERS: Final = (
    "Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "Last-Event-ID", "X-Request-Id",
    "traceparent",
)  # fmt: skip
ANSWER_HEADERS: Final = (
    "ETag", "Link", "Location", "Allow", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id",
    "Idempotency-Replayed", "WWW-Authenticate",
)  # fmt: skip
MAX_AGE: Final = 7200  # seconds that a browser may remember the answer; Chromium's most


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser that asks whether a page may ask: it comes without a token, and costs the user nothing."""
    if (
        request.method != "OPTIONS"
        or "Access-Control-Request-Method" not in request.headers
        or not request.path.startswith(PATHS)
    ):
        return await handler(request)
    refusal = request.match_info.http_exception
    if not isinstance(refusal, web.HTTPMethodNotAllowed):
        return await handler(request)
    methods = ", ".join(sorted(refusal.allowed_methods))
    response = web.Response(status=204, headers={"Allow": methods})
    if _allowed(request):
        response.headers["Access-Control-Allow-Methods"] = methods
        response.headers["Access-Control-Allow-Headers"] = ", ".join(REQUEST_HEADERS)
        response.headers["Access-Control-Max-Age"] = str(MAX_AGE)
    return response


async def expose(request: web.Request, response: web.StreamResponse) -> None:
    """Let a page of an allowed origin read an answer, whichever it is."""
    if not request.app[keys.CONFIG].allowed_origins or not request.path.startswith(PATHS):
        return
    varies = response.headers.get("Vary")
    response.headers["Vary"] = f"{varies}, Origin" if varies else "Origin"  # also when this request had none
    if _allowed(request):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = ", ".join(ANSWER_HEADERS)


def _allowed(request: web.Request) -> bool:
    return request.headers.get("Origin") in request.app[keys.CONFIG].allowed_origins
