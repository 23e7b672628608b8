"""Errors as RFC 9457 problem+json: the one place that turns an exception into an answer."""

import msgspec
from aiohttp import web

from ottoai import trace
from ottoai.errors import NotFound, OttoError, PreconditionFailed, TooLarge, Unauthenticated, UnsupportedMedia

CONTENT_TYPE = "application/problem+json"
TYPES = "/docs/problems/"  # where a problem's type leads to, under the API's own address

_HTTP_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not know that method; see the Allow header.",
}


class Problem(msgspec.Struct, frozen=True):
    """The body of every error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    trace_id: str


def of(error: OttoError, request: web.BaseRequest) -> web.Response:
    """The answer to one of our own errors."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = error.challenge
    if error.status == 426:
        headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    if isinstance(error, PreconditionFailed) and error.version is not None:
        headers["ETag"] = f'"{error.version}"'
    if isinstance(error, UnsupportedMedia):
        headers["Accept-Patch" if request.method == "PATCH" else "Accept-Post"] = error.accepted
    return _response(error.status, error.type, error.title, error.detail, request, headers)


def of_http(error: web.HTTPException, request: web.Request) -> web.Response:
    """The answer to one of aiohttp's: an unknown route, a wrong method, a body too large."""
    if error.status == 404:
        return of(NotFound(_HTTP_DETAILS[404]), request)
    if error.status == 413:
        return of(TooLarge(), request)
    headers = {name: value for name, value in error.headers.items() if name in {"Allow", "Upgrade", "Location"}}
    slug = error.reason.lower().replace(" ", "-")
    detail = _HTTP_DETAILS.get(error.status, f"{error.reason}.")
    return _response(error.status, slug, error.reason, detail, request, headers)


async def explain(request: web.Request) -> web.Response:
    """GET /docs/problems/{type}: what a problem's type means, for people who follow it."""
    wanted = request.match_info["type"]
    kinds: list[type[OttoError]] = [OttoError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.type == wanted:
            return web.Response(text=f"{kind.title} (HTTP status {kind.status})\n\n{(kind.__doc__ or '').strip()}\n")
    raise NotFound(f"There is no problem {wanted}.")


def _response(
    status: int, slug: str, title: str, detail: str, request: web.BaseRequest, headers: dict[str, str]
) -> web.Response:
    problem = Problem(TYPES + slug, title, status, detail, request.rel_url.raw_path, trace.trace_id())
    body = msgspec.json.encode(problem)
    response = web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers=headers)
    response.headers["Cache-Control"] = "no-store"
    return response
