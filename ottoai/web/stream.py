"""GET /api/events/stream: the protocol `ottoai.v1` as server-sent events, for those who cannot use a WebSocket.

The same messages in the same order, from the same hub; what differs is the wire, that the channels are joined once, at
the beginning, and that the token cannot be renewed.
"""

import asyncio
import logging
import socket as sockets
import time
from typing import Final

from aiohttp import HttpVersion11, web

from ottoai import log
from ottoai.errors import Draining, InvalidInput, StoreUnavailable
from ottoai.realtime.connection import SEND_BUFFER, Connection
from ottoai.realtime.hub import Since
from ottoai.realtime.messages import AuthExpired, CloseCode, End
from ottoai.realtime.wheel import STALE
from ottoai.realtime.wires import EVENT_STREAM
from ottoai.web import inputs, keys
from ottoai.web.api.events import StreamQuery
from ottoai.web.channels import parse_since, wanted
from ottoai.web.middlewares import client_ip

logger = logging.getLogger(__name__)

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back otherwise
}


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Events as they happen, as server-sent events: those of `channel` (one or several), from `Last-Event-ID` or
    `since` on, until the token expires.
    """
    app, principal = request.app, request[keys.PRINCIPAL]
    if request.method != "GET":
        raise web.HTTPMethodNotAllowed(request.method, ["GET"])
    if request.version < HttpVersion11:
        raise InvalidInput("The event stream needs HTTP/1.1: tell the proxy (nginx: proxy_http_version 1.1).")
    asked = inputs.query(request, StreamQuery)
    channels = await wanted(request, asked.channel)
    last = request.headers.get("Last-Event-ID")
    since = parse_since(last, "Last-Event-ID") if last else parse_since(asked.since or None)
    if app[keys.HEALTH].draining:
        raise Draining
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    await app[keys.HUB].stream(principal.tenant_id)  # a problem can be told only as long as nothing was answered
    await app[keys.QUOTAS].take(principal.tenant_id, principal.user_id)
    try:
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()
        response.enable_chunked_encoding()
        ip = client_ip(request, app[keys.CONFIG].trusted_proxies)
        connection = Connection(principal, transport, ip, EVENT_STREAM)
        with log.bind(connection_id=connection.id):
            began = time.monotonic()
            await response.prepare(request)
            await response.write(b":\n\n")  # the head goes out with the first bytes
            if connection.gone:
                raise ConnectionResetError
            await _Live(request, connection).run(channels, since)
            request[keys.WAITED] = time.monotonic() - began
        if not transport.is_closing():
            await response.write_eof()
    finally:
        app[keys.QUOTAS].release(principal.tenant_id, principal.user_id)
    return response


class _Live:
    """One open stream, from its first message to its last."""

    def __init__(self, request: web.Request, connection: Connection) -> None:
        self._app = request.app
        self._connection = connection
        self._over = asyncio.Event()
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER)
        # Nothing comes back on a stream: whether the client is still there is for the kernel to notice.
        raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(STALE * 1000))
        # aiohttp's own WebSockets hear in this way that the client went; typed for them alone.
        request.protocol.set_parser(_Nothing(self._over))  # type: ignore[arg-type]

    async def run(self, channels: list[str], since: Since | None) -> None:
        """Serve until the client goes or is sent away."""
        hub, connection = self._app[keys.HUB], self._connection
        await hub.enter(connection)
        self._app[keys.SOCKETS].add(connection, self)
        self._app[keys.METRICS].ws_connections_opened_total.inc()
        logger.info("Event stream opened", extra={"ip": connection.ip, "channels": channels})
        try:
            if self._app[keys.SOCKETS].still_welcome(connection):
                hub.welcome(connection)
                await self._subscribe(channels, since)
            await self._over.wait()
        except Exception:  # the edge: in the midst of a stream an HTTP answer would be garbage
            logger.exception("Event stream failed unexpectedly")
            connection.closed_for = connection.closed_for or "error"
            await self.close(code=CloseCode.INTERNAL, message=b"internal")
        finally:
            hub.leave(connection)
            self._app[keys.SOCKETS].remove(connection)
            reason = connection.closed_for or "client"
            self._app[keys.METRICS].ws_disconnects_total.inc(reason=reason)
            logger.info("Event stream closed", extra={"reason": reason})

    async def _subscribe(self, channels: list[str], since: Since | None) -> None:
        try:
            await self._app[keys.HUB].subscribe(self._connection, channels, since)
        except (Draining, StoreUnavailable) as error:
            self._app[keys.SOCKETS].close(self._connection, CloseCode.TRY_LATER, error.type)

    async def close(self, *, code: int, message: bytes) -> None:
        """Say why, and end."""
        expired = code == CloseCode.UNAUTHENTICATED
        self._connection.send(AuthExpired() if expired else End(code=code, reason=message.decode()))
        self._over.set()


class _Nothing(asyncio.BaseProtocol):
    """Reads what a client of a stream says, which is nothing, up to its going."""

    def __init__(self, over: asyncio.Event) -> None:
        self._over = over

    def feed_data(self, _data: bytes) -> tuple[bool, bytes]:
        """Heed nothing."""
        return False, b""

    def feed_eof(self) -> None:
        """The connection is lost."""
        self._over.set()
