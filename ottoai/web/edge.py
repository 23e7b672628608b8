"""The edge towards strangers: what every answer carries, what of a request is refused before anything reads it, and
how long a body may take. Headers that are never finished are bounded by the server's keep-alive (ottoai/server.py).
"""

import asyncio
import logging
from typing import Final

from aiohttp import web, web_protocol, web_response, web_urldispatcher

from ottoai import trace
from ottoai.config import Config
from ottoai.errors import ExpectationFailed, InvalidInput, OttoError
from ottoai.log import bind
from ottoai.web import keys, problem

log = logging.getLogger(__name__)

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # pages name what they need themselves
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
HSTS: Final = "max-age=31536000"  # a year; without subdomains, which may be somebody else's
CONTINUE: Final = "100-continue"

_ask_for_body = web_urldispatcher._default_expect_handler  # noqa: SLF001 - before `install` puts ours in its place


def headers(config: Config) -> dict[str, str]:
    """What each answer carries unless its handler says otherwise. HSTS only where people come by https (RFC 6797)."""
    return {**HEADERS, "Strict-Transport-Security": HSTS} if config.public_url.startswith("https://") else HEADERS


def refuse(request: web.Request) -> None:
    """Raise InvalidInput for a body in a form that is not read: compressed, a small one could be an endless one.
    Raise ExpectationFailed for what `_expect` has left to be refused here.
    """
    given = request.headers
    if given.get("Expect", CONTINUE).lower() not in {CONTINUE, ""}:
        raise ExpectationFailed
    if given.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidInput("Content-Encoding: bodies are read as they are, not compressed")
    if given.get("Transfer-Encoding", "chunked").lower() != "chunked":
        request.protocol.close()  # where its body ends is a matter of opinion, and so is what follows
        raise InvalidInput("Transfer-Encoding: nothing but chunked is read")


async def body(request: web.Request) -> bytes:
    """The body. Raises InvalidInput when it does not come, or not in time."""
    if request.content.is_eof():  # all is here: nearly always
        return await request.read()
    try:
        async with asyncio.timeout(request.app[keys.CONFIG].idle_seconds):
            return await request.read()
    except web.RequestPayloadError as error:
        raise InvalidInput("body: is not of the form that its headers say") from error
    except TimeoutError as error:
        raise InvalidInput("body: did not come in time") from error
    except ConnectionError as error:  # hung up in the middle: anybody can, and nothing of ours has failed
        raise InvalidInput("body: ended before its Content-Length") from error


def install() -> None:
    """Have aiohttp answer what it cannot parse, or expects otherwise, as we do. It has no setting for that, and its own
    answers name its version and quote the request, as does its log line: an ERROR with a traceback, for a stray byte.
    """
    web_response.SERVER_SOFTWARE = "ottoai"  # type: ignore[attr-defined]
    web_urldispatcher._default_expect_handler = _expect  # noqa: SLF001 - of unknown addresses too
    web_protocol.RequestHandler.handle_error = _unparsed  # type: ignore[method-assign]


async def _expect(request: web.Request) -> None:
    """Ask for the body where the client waits for that. This comes before every middleware, so nothing is refused."""
    if request.headers["Expect"].lower() == CONTINUE:
        await _ask_for_body(request)


def _unparsed(
    self: web_protocol.RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,  # noqa: ARG001 - quotes the request
) -> web.StreamResponse:
    """See RequestHandler.handle_error. Of what cannot be parsed, aiohttp's `request` says nothing."""
    with trace.span("unparsed"), bind(request_id=trace.trace_id(), trace_id=trace.trace_id()):
        error = OttoError() if status >= 500 else InvalidInput("The request cannot be read as HTTP.")
        if status >= 500:
            self.logger.error("Request failed outside of its handler", exc_info=exc)
        else:
            log.info("Request cannot be parsed", extra={"status": status, "error": type(exc).__name__})
        if request.writer.output_size > 0:
            raise ConnectionError("An answer is under way: no other can follow")
        response = problem.of(error, request)
        response.headers.update({**HEADERS, "X-Request-Id": trace.trace_id()})
    response.force_close()
    return response
