"""A proxy that does what proxies do to a service: rewrites answers, drops headers, adds its own, holds frames back."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

HOP = ("host", "connection", "content-length", "transfer-encoding", "content-encoding", "accept-encoding")


@dataclass
class Answer:
    """What the service answered; a rewriting may change it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self, **changes: Any) -> None:
        """Change fields of the body."""
        self.body = json.dumps(json.loads(self.body) | changes).encode()

    def html(self, status: int) -> None:
        """Answer as proxies do that know no better."""
        self.status, self.body = status, b"<html>%d</html>" % status
        self.headers = {"Content-Type": "text/html"}


@dataclass
class Rewriting:
    """`added`: headers for the service. `answer`: (path, answer) is told of each. `frame`: a message to the client,
    or none of it. `upgrades`: whether WebSockets get through; `protocol`: whether its subprotocol does.
    """

    added: dict[str, str] = field(default_factory=dict)
    answer: Callable[[str, Answer], None] = lambda _path, _answer: None
    frame: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: message
    upgrades: bool = True
    protocol: bool = True


async def _plain(request: web.Request, base: str, how: Rewriting) -> web.Response:
    replaced = {*HOP, *map(str.lower, how.added)}
    headers = {name: value for name, value in request.headers.items() if name.lower() not in replaced} | how.added
    body = await request.read()
    answer = await asyncio.to_thread(_asked, base, request.method, request.path_qs, headers, body)
    how.answer(request.path, answer)
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
    return web.Response(status=answer.status, body=answer.body, headers=kept)


def _asked(base: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    """An answer may come before the body is taken, as a 413 does; aiohttp's client would only see the lost link."""
    with closing(HTTPConnection(urlsplit(base).netloc, timeout=15)) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body=body or None, headers=headers)
        found = connection.getresponse()
        return Answer(found.status, dict(found.getheaders()), found.read())


async def _live(request: web.Request, base: str, how: Rewriting, http: aiohttp.ClientSession) -> web.StreamResponse:
    names = ("Authorization", "Origin")
    headers = {name: request.headers[name] for name in names if name in request.headers} | how.added
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each]
    try:
        far = await http.ws_connect(f"{base}/ws", headers=headers, protocols=offered)
    except aiohttp.WSServerHandshakeError as error:
        return web.Response(status=error.status)
    near = web.WebSocketResponse(protocols=[far.protocol] if far.protocol and how.protocol else [])
    await near.prepare(request)

    async def up() -> None:
        async for message in near:
            await far.send_str(message.data)
        await far.close()

    pump = asyncio.create_task(up())
    try:
        async for message in far:
            if (kept := how.frame(json.loads(message.data))) is not None:
                await near.send_str(json.dumps(kept))
        await near.close(code=far.close_code or 1000)
    finally:
        pump.cancel()
        with suppress(asyncio.CancelledError, ConnectionError, aiohttp.ClientError):
            await pump
        await far.close()
    return near


@asynccontextmanager
async def proxied(base: str, how: Rewriting) -> AsyncIterator[str]:
    """The service's address behind such a proxy."""
    async with aiohttp.ClientSession(auto_decompress=True) as http:

        async def handle(request: web.Request) -> web.StreamResponse:
            if how.upgrades and request.headers.get("Upgrade", "").lower() == "websocket":
                return await _live(request, base, how, http)
            return await _plain(request, base, how)

        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/{path:.*}", handle)
        server = TestServer(app)
        await server.start_server(shutdown_timeout=0.1)
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            await server.close()
