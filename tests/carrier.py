"""Twilio's API for texts, played by a small real HTTP server that can take a text and then misbehave."""

import asyncio
import base64
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer

# What it does with a text: `hangs`, `drops` and `fails` have taken it before; `refuses` has not.
Manner = Literal["answers", "hangs", "drops", "fails", "away", "busy"]

_numbers = itertools.count(1 << 40)  # none that a callback of tests/twilio.py tells of

Server = TypeVar("Server", bound="Twilio")


class Twilio:
    """The server. `manners`: what it does with the next texts, then it answers. `errors`: codes it refuses the next
    texts with. `listing` false: what it took is not listed yet.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.manners: deque[Manner] = deque()
        self.errors: deque[int] = deque()
        self.listing = True
        self.tokens: dict[str, str] = {}
        self.delay = 0.0
        self.url = ""
        self._let_go = asyncio.Event()

    async def take(self, request: web.Request) -> web.StreamResponse:
        """POST Messages.json."""
        form = dict(await request.post())
        self.asked.append(form)
        account, _, token = base64.b64decode(request.headers["Authorization"].split()[1]).decode().partition(":")
        if self.tokens.get(account, token) != token:
            return _error(401, 20003)
        if self.errors:
            return _error(400, self.errors.popleft())
        manner = self.manners.popleft() if self.manners else "answers"
        if manner == "busy":
            return _error(429, 20429)
        if manner == "away":
            return _error(503, 20503)
        message = {
            "sid": f"SM{next(_numbers):032x}", "to": form["To"], "from": form["From"], "body": form["Body"],
            "status": "queued", "date_created": format_datetime(datetime.now(UTC)), "account_sid": account,
            "status_callback": form.get("StatusCallback"),
        }  # fmt: skip
        self.taken.append(message)
        if self.delay:
            await asyncio.sleep(self.delay)
        if manner == "hangs":
            await self._let_go.wait()
        elif manner == "drops":
            assert request.transport
            request.transport.abort()
        elif manner == "fails":
            return _error(500, 20500)
        return web.json_response(message, status=201)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """GET Messages.json, newest first."""
        wanted = {name.lower(): value for name, value in request.query.items() if name in {"To", "From"}}
        found = [m for m in reversed(self.taken) if all(m[name] == value for name, value in wanted.items())]
        return web.json_response({"messages": [m for m in found if self.listed(m)], "next_page_uri": None})

    def listed(self, _message: dict[str, Any]) -> bool:
        """Whether a text that was taken is listed by now."""
        return self.listing

    def let_go(self) -> None:
        """Answer the texts that hang."""
        self._let_go.set()


def _error(status: int, code: int) -> web.Response:
    return web.json_response({"code": code, "message": "no", "status": status}, status=status)


@asynccontextmanager
async def serving_twilio(twilio: Server) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post("/2010-04-01/Accounts/{account}/Messages.json", twilio.take)
    app.router.add_get("/2010-04-01/Accounts/{account}/Messages.json", twilio.list)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    twilio.url = str(server.make_url("")).rstrip("/")
    try:
        yield twilio
    finally:
        twilio.let_go()
        await server.close()
