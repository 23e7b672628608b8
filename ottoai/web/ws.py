"""GET /ws: the protocol `ottoai.v1` from the handshake to the close. Ordering and delivery are the hub's."""

import asyncio
import logging
import socket as sockets
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from ottoai import log
from ottoai.db import queries
from ottoai.domain.events import Channel, parse_channel
from ottoai.errors import (
    Draining,
    Forbidden,
    InvalidInput,
    NotFound,
    OttoError,
    StoreUnavailable,
    Unauthenticated,
    UpgradeRequired,
)
from ottoai.realtime.connection import HIGH, SEND_BUFFER, Connection
from ottoai.realtime.hub import Since
from ottoai.realtime.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    Auth,
    CloseCode,
    Error,
    Incoming,
    Ping,
    Pong,
    Subscribe,
    SubscribeResult,
    Unsubscribe,
    Welcome,
    decode,
    frame,
)
from ottoai.realtime.wheel import HEARTBEAT
from ottoai.web import auth, keys
from ottoai.web.auth import Principal, TokenExpired
from ottoai.web.inputs import is_uuid
from ottoai.web.middlewares import client_ip

logger = logging.getLogger(__name__)

AUTH_WITHIN: Final = 5.0  # seconds that a connection without a token has to send one
BEARER: Final = "bearer."
MALFORMED_LIMIT: Final = 10  # in a minute; a client that sends that many is broken
MALFORMED_WINDOW: Final = 60.0
MAX_CHANNELS: Final = 100  # per connection
MAX_CHANNEL: Final = 200  # characters of a channel's name that are given back; real ones are shorter
NO_SUCH_CHANNEL: Final = "no such channel"  # the same words for a foreign channel and for none


async def connect(request: web.Request) -> web.StreamResponse:
    """Open a socket: authenticate, welcome, serve until it ends."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise UpgradeRequired
    metrics = request.app[keys.METRICS]
    if not _origin_allowed(request):
        metrics.ws_auth_failures_total.inc(reason="origin")
        raise Forbidden("Pages of this origin may not connect; see ALLOWED_ORIGINS.")
    offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if word.strip()]
    if offered and PROTOCOL not in offered:
        raise InvalidInput(f"Sec-WebSocket-Protocol: {PROTOCOL} must be among the protocols offered.")
    token = auth.bearer(request) or next(
        (word.removeprefix(BEARER) for word in offered if word.startswith(BEARER)), None
    )
    principal = _verified(request, token) if token else None
    if request.app[keys.HEALTH].draining:
        raise Draining
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,), autoping=False, heartbeat=None, compress=False, max_msg_size=MAX_MESSAGE
    )
    await socket.prepare(request)
    try:
        principal = principal or await _authenticate_first(request, socket)
        if principal is not None:
            with log.bind(tenant_id=principal.tenant_id, user_id=principal.user_id):
                await _serve(request, socket, principal)
    except Exception:  # the edge: after the upgrade an HTTP answer would be garbage among the frames
        logger.exception("WebSocket failed unexpectedly")
        await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=b"internal")
    return socket


def _origin_allowed(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    allowed = request.app[keys.CONFIG].allowed_origins
    try:
        return origin in allowed if allowed else urlsplit(origin).netloc == request.host
    except ValueError:
        return False


def _verified(request: web.Request, token: str) -> Principal:
    try:
        return request.app[keys.TOKENS].verify(token)
    except Unauthenticated as error:
        reason = "expired" if isinstance(error, TokenExpired) else "invalid"
        request.app[keys.METRICS].ws_auth_failures_total.inc(reason=reason)
        raise


async def _authenticate_first(request: web.Request, socket: web.WebSocketResponse) -> Principal | None:
    """The token as the first message; None, and closed, when it does not come or is not valid."""
    metrics = request.app[keys.METRICS]
    try:
        async with asyncio.timeout(AUTH_WITHIN):
            message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            first = decode(message.data)
            if isinstance(first, Auth):
                return _verified(request, first.token)
        metrics.ws_auth_failures_total.inc(reason="missing")
    except TimeoutError:
        metrics.ws_auth_failures_total.inc(reason="timeout")
    except msgspec.MsgspecError:
        metrics.ws_auth_failures_total.inc(reason="missing")
    except Unauthenticated:
        pass  # counted where it was verified
    await socket.close(code=CloseCode.UNAUTHENTICATED, message=b"unauthenticated")
    return None


async def _serve(request: web.Request, socket: web.WebSocketResponse, principal: Principal) -> None:
    app = request.app
    transport = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER)
    ip = client_ip(request, app[keys.CONFIG].trusted_proxies)
    connection = Connection(principal.tenant_id, principal.user_id, principal.expires_at, transport, ip)
    with log.bind(connection_id=connection.id):
        try:
            stream = await app[keys.HUB].enter(connection)
        except (NotFound, StoreUnavailable) as error:
            code = CloseCode.UNAUTHENTICATED if isinstance(error, NotFound) else WSCloseCode.TRY_AGAIN_LATER
            await socket.close(code=code, message=error.type.encode())
            return
        app[keys.SOCKETS].add(connection, socket)
        app[keys.METRICS].ws_connections_opened_total.inc()
        logger.info("WebSocket connection established", extra={"ip": ip})
        try:
            connection.send(
                Welcome(
                    connection_id=connection.id,
                    tenant_id=connection.tenant_id,
                    user_id=connection.user_id,
                    epoch=stream.epoch,
                    seq=stream.flushed,
                    heartbeat_seconds=HEARTBEAT,
                    expires_at=connection.expires_at,
                    ts=datetime.now(UTC),
                )
            )
            await _Session(request, connection, socket).run()
        finally:
            app[keys.HUB].leave(connection)
            app[keys.SOCKETS].remove(connection)
            reason = connection.closed_for or (
                "too_large" if socket.close_code == WSCloseCode.MESSAGE_TOO_BIG else "client"
            )
            app[keys.METRICS].ws_disconnects_total.inc(reason=reason)
            logger.info("WebSocket connection closed", extra={"reason": reason, "code": socket.close_code})


class _Session:
    """What one connected client asks for, message by message."""

    def __init__(self, request: web.Request, connection: Connection, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._app = request.app
        self._connection = connection
        self._socket = socket
        self._malformed: deque[float] = deque(maxlen=MALFORMED_LIMIT)

    async def run(self) -> None:
        """Answer until the socket ends."""
        async for message in self._socket:
            # Who does not read is not read from: its answers would pile up here.
            if self._connection.unsent > HIGH and not await self._app[keys.HUB].fanout.drained(self._connection):
                return
            self._connection.last_heard = time.monotonic()
            if message.type is WSMsgType.TEXT:
                await self._text(message)
            elif message.type is WSMsgType.PING:
                self._connection.write(frame(message.data, 10))
            elif message.type is WSMsgType.PONG:
                self._app[keys.METRICS].ws_heartbeats_total.inc(result="ok")
            elif message.type is WSMsgType.ERROR:
                return  # a broken frame: aiohttp has closed the socket with the code that says so
            else:
                self._refuse(Error(code="malformed", message="Send JSON objects as text messages."))

    async def _text(self, message: WSMessage) -> None:
        try:
            await self._handle(decode(message.data))
        except msgspec.MsgspecError as error:
            self._refuse(Error(code="malformed", message=f"Not a message of {PROTOCOL}: {error}"))
        except OttoError as error:
            self._connection.send(Error(code=error.type, message=error.detail, retry_after=error.retry_after))

    def _refuse(self, error: Error) -> None:
        self._connection.send(error)
        now = time.monotonic()
        self._malformed.append(now)
        if len(self._malformed) == MALFORMED_LIMIT and now - self._malformed[0] < MALFORMED_WINDOW:
            self._app[keys.SOCKETS].close(self._connection, CloseCode.BAD_MESSAGES, "malformed")

    async def _handle(self, message: Incoming) -> None:
        match message:
            case Subscribe():
                await self._subscribe(message)
            case Unsubscribe(channel=channel):
                self._app[keys.HUB].unsubscribe(self._connection, channel[:MAX_CHANNEL])
            case Ping():
                self._connection.send(Pong(ts=datetime.now(UTC)))
            case Auth(token=token):
                self._refresh(token)

    def _refresh(self, token: str) -> None:
        """Go on with a newer token of the same user."""
        principal = _verified(self._request, token)
        connection = self._connection
        if (principal.tenant_id, principal.user_id) != (connection.tenant_id, connection.user_id):
            raise Forbidden("The new token is another user's: open another connection.")
        connection.expires_at = principal.expires_at
        self._app[keys.HUB].wheel.watch_expiry(connection)

    async def _subscribe(self, message: Subscribe) -> None:
        connection = self._connection
        try:
            since = _since(message.since)
            if len(connection.channels) >= MAX_CHANNELS and message.channel not in connection.channels:
                raise InvalidInput(f"at most {MAX_CHANNELS} channels per connection")
            await self._authorise(message.channel)
            await self._app[keys.HUB].subscribe(connection, message.channel, since)
        except OttoError as error:
            stream = self._app[keys.HUB].stream_of(connection)
            connection.send(
                SubscribeResult(
                    channel=message.channel[:MAX_CHANNEL],
                    success=False,
                    epoch=stream.epoch,
                    seq=stream.flushed,
                    error=error.detail,
                )
            )

    async def _authorise(self, name: str) -> None:
        """Raise NotFound unless the channel is one that this user may hear."""
        channel = parse_channel(name)
        if channel is not None and await self._own(channel):
            return
        logger.warning(
            "Subscription refused", extra={"event_type": "cross_tenant_access", "channel_kind": (channel or ("",))[0]}
        )
        self._app[keys.METRICS].cross_tenant_access_attempts_total.inc(route="/ws")
        raise NotFound(NO_SUCH_CHANNEL)

    async def _own(self, channel: Channel) -> bool:
        connection = self._connection
        match channel:
            case ("tenant", subject):
                return subject == connection.tenant_id
            case ("user", subject):
                return subject == connection.user_id
            case (_, subject):
                session = self._app[keys.DB].one(connection.tenant_id)
                return is_uuid(subject) and bool(await queries().leads.lead_exists(session, id=subject))


def _since(given: str | int | None) -> Since | None:
    """Read `since`: "epoch.seq", or a number. Raises InvalidInput."""
    if given is None:
        return None
    epoch, _, seq = str(given).rpartition(".")
    if not seq.isdecimal() or (epoch and not epoch.isdecimal()) or len(str(given)) > 40:
        raise InvalidInput('since: must be "epoch.seq" or a number')
    return (int(epoch) if epoch else None), min(int(seq), 2**62)
