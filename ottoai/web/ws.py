"""GET /ws: the protocol `ottoai.v1` from the handshake to the close. Ordering and delivery are the hub's."""

import asyncio
import logging
import math
import socket as sockets
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from ottoai import log
from ottoai.errors import (
    Draining,
    Forbidden,
    InvalidInput,
    NotFound,
    OttoError,
    OverQuota,
    StoreUnavailable,
    Unauthenticated,
    UpgradeRequired,
)
from ottoai.realtime.connection import HIGH, SEND_BUFFER, Connection
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
from ottoai.realtime.stream import Stream
from ottoai.realtime.wheel import HEARTBEAT
from ottoai.realtime.wires import WEBSOCKET
from ottoai.web import auth, keys
from ottoai.web.auth import Principal, TokenExpired, TokenRevoked
from ottoai.web.channels import authorise, parse_since
from ottoai.web.middlewares import client_ip

logger = logging.getLogger(__name__)

AUTH_WITHIN: Final = 5.0  # seconds that a connection without a token has to send one
BEARER: Final = "bearer."
MALFORMED_LIMIT: Final = 10  # in a minute; a client that sends that many is broken
MALFORMED_WINDOW: Final = 60.0
MAX_CHANNEL: Final = 200  # characters of a channel's name that are given back; real ones are shorter
UNAUTHENTICATED: Final = 1_000  # sockets whose token is still awaited; they cost memory and prove nothing


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
    if principal is None and request.app[keys.SOCKETS].strangers >= UNAUTHENTICATED:
        raise OverQuota("Too many connections wait for their tokens: send yours with the handshake.")
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,), autoping=False, heartbeat=None, compress=False, max_msg_size=MAX_MESSAGE
    )
    await socket.prepare(request)
    try:
        if principal is None:
            with request.app[keys.SOCKETS].stranger(socket):
                principal = await _authenticate_first(request, socket)
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
        reasons = {TokenExpired: "expired", TokenRevoked: "revoked"}
        reason = reasons.get(type(error), "invalid")
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
    except StoreUnavailable as error:
        await socket.close(code=CloseCode.TRY_LATER, message=error.type.encode())
        return None
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
    connection = Connection(principal, transport, ip, WEBSOCKET)
    quotas = app[keys.QUOTAS]
    with log.bind(connection_id=connection.id):
        try:
            await quotas.take(principal.tenant_id, principal.user_id)
        except OverQuota as error:
            extra = {"reason": "over_quota", "detail": error.detail, "ip": ip}
            logger.info("WebSocket connection refused", extra=extra)
            app[keys.METRICS].ws_disconnects_total.inc(reason="over_quota")
            await socket.close(code=CloseCode.OVER_QUOTA, message=error.detail.encode())
            return
        try:
            await _live(request, socket, connection)
        finally:
            quotas.release(principal.tenant_id, principal.user_id)


async def _live(request: web.Request, socket: web.WebSocketResponse, connection: Connection) -> None:
    app = request.app
    try:
        stream = await app[keys.HUB].enter(connection)
    except (NotFound, StoreUnavailable) as error:
        code = CloseCode.UNAUTHENTICATED if isinstance(error, NotFound) else CloseCode.TRY_LATER
        await socket.close(code=code, message=error.type.encode())
        return
    app[keys.SOCKETS].add(connection, socket)
    app[keys.METRICS].ws_connections_opened_total.inc()
    logger.info("WebSocket connection established", extra={"ip": connection.ip})
    try:
        session = _Session(request, connection, socket)
        if app[keys.SOCKETS].still_welcome(connection):
            session.welcome(stream)
        await session.run()
    finally:
        app[keys.HUB].leave(connection)
        app[keys.SOCKETS].remove(connection)
        too_large = socket.close_code == CloseCode.TOO_LARGE
        reason = connection.closed_for or ("too_large" if too_large else "client")
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
        config = request.app[keys.CONFIG]
        self._budget = _Budget(config.ws_messages_per_minute, config.ws_subscriptions_per_connection)

    def welcome(self, stream: Stream) -> None:
        """Tell the client who it is here, and until when."""
        connection = self._connection
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
        if wait := self._budget.spend(time.monotonic()):
            self._over_quota(wait)
            return
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

    def _over_quota(self, wait: int) -> None:
        if self._budget.exhausted:
            self._app[keys.SOCKETS].close(self._connection, CloseCode.OVER_QUOTA, "over_quota")
            return
        limit = self._app[keys.CONFIG].ws_messages_per_minute
        self._connection.send(
            Error(code=OverQuota.type, message=f"At most {limit} messages a minute; not heeded.", retry_after=wait)
        )

    async def _handle(self, message: Incoming) -> None:
        match message:
            case Subscribe():
                await self._subscribe(message)
            case Unsubscribe(channel=channel):
                self._app[keys.HUB].unsubscribe(self._connection, channel[:MAX_CHANNEL])
            case Ping():
                self._connection.send(Pong(ts=datetime.now(UTC)))
            case Auth(token=token):
                await self._refresh(token)

    async def _refresh(self, token: str) -> None:
        """Go on with a newer token of the same user, on the channels that it still has a right to."""
        principal = _verified(self._request, token)
        connection, hub = self._connection, self._app[keys.HUB]
        if (principal.tenant_id, principal.user_id) != (connection.tenant_id, connection.user_id):
            raise Forbidden("The new token is another user's: open another connection.")
        connection.expires_at, connection.issued_at = principal.expires_at, principal.issued_at
        hub.wheel.watch_expiry(connection)
        self.welcome(hub.stream_of(connection))
        for channel in list(connection.channels):
            try:
                await authorise(self._app, connection, channel, "/ws")
            except NotFound as error:
                hub.unsubscribe(connection, channel, error.detail)

    async def _subscribe(self, message: Subscribe) -> None:
        connection = self._connection
        limit = self._app[keys.CONFIG].ws_subscriptions_per_connection
        try:
            since = parse_since(message.since)
            if len(connection.channels) >= limit and message.channel not in connection.channels:
                raise OverQuota(f"at most {limit} channels per connection")
            await authorise(self._app, connection, message.channel, "/ws")
            await self._app[keys.HUB].subscribe(connection, [message.channel], since)
        except OttoError as error:
            stream = self._app[keys.HUB].stream_of(connection)
            connection.send(
                SubscribeResult(
                    channel=message.channel[:MAX_CHANNEL],
                    success=False,
                    epoch=stream.epoch,
                    seq=stream.flushed,
                    error=error.detail,
                    retry_after=error.retry_after,
                )
            )


class _Budget:
    """How much a client may say: so many messages a minute, and at first as many more as it may have channels, so that
    it can join them all again after a lost connection.
    """

    def __init__(self, per_minute: int, at_first: int) -> None:
        self._per_second = per_minute / 60
        self._most = per_minute
        self._left = float(per_minute + at_first)
        self._at = time.monotonic()
        self._refused = 0

    @property
    def exhausted(self) -> bool:
        """Whether the client did not heed being told: it was refused a minute's worth in a row."""
        return self._refused >= self._most

    def spend(self, now: float) -> int:
        """Take one message; 0, or the seconds to wait before the next is taken."""
        refill = (now - self._at) * self._per_second
        self._left = max(self._left, min(self._left + refill, self._most))
        self._at = now
        if self._left >= 1:
            self._left -= 1
            self._refused = 0
            return 0
        self._refused += 1
        return math.ceil((1 - self._left) / self._per_second)
