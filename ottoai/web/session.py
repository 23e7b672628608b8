"""A live WebSocket, from the welcome to the close: what its client asks for, message by message."""

import logging
import math
import socket as sockets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from aiohttp import WSMessage, WSMsgType, web

from ottoai import log, trace
from ottoai.errors import Forbidden, NotFound, OttoError, OverQuota, StoreUnavailable, Unauthenticated
from ottoai.realtime.connection import HIGH, SEND_BUFFER, Connection
from ottoai.realtime.messages import (
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
    decode,
    frame,
)
from ottoai.realtime.wheel import STALE
from ottoai.web import keys
from ottoai.web.auth import TokenExpired, TokenRevoked
from ottoai.web.channels import authorise, parse_since
from ottoai.web.claims import Principal

logger = logging.getLogger(__name__)

MALFORMED_LIMIT: Final = 10  # in a minute; a client that sends that many is broken
MALFORMED_WINDOW: Final = 60.0
# After an error, a broken frame, aiohttp has closed the socket with the code that says so.
ENDS: Final = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})
# What a token is refused for, as it is counted; anything else is `invalid`.
REFUSED: Final[Mapping[type[Unauthenticated], str]] = {TokenExpired: "expired", TokenRevoked: "revoked"}
MAX_CHANNEL: Final = 200  # characters of a channel's name that are given back; real ones are shorter


class LiveSocket(web.WebSocketResponse):
    """A WebSocket whose session begins when its handler, and all that stands around that, has returned.

    So a connection of hours keeps nothing of its request: of 21 KiB that is 5. aiohttp ends every answer with
    `write_eof`.
    """

    session: "Session | None" = None

    async def write_eof(self) -> None:  # type: ignore[override]
        """Serve the session, then close."""
        session, self.session = self.session, None
        self.headers.clear()  # they have been sent
        if session is not None:
            await session.run()
        await super().write_eof()


async def verified(app: web.Application, token: str) -> Principal:
    """Whose token this is; a refusal is counted. Raises Unauthenticated, StoreUnavailable."""
    try:
        return await app[keys.TOKENS].verify(token)
    except Unauthenticated as error:
        app[keys.METRICS].ws_auth_failures_total.inc(reason=REFUSED.get(type(error), "invalid"))
        raise


class Session:
    """One client's time on a socket."""

    __slots__ = ("_app", "_budget", "_connection", "_context", "_malformed", "_socket")

    def __init__(self, app: web.Application, connection: Connection, socket: LiveSocket, request_id: str) -> None:
        self._app = app
        self._connection = connection
        self._socket = socket
        self._malformed: tuple[float, ...] = ()
        self._budget = Budget(app[keys.CONFIG].ws_messages_per_minute, app[keys.CONFIG].ws_subscriptions_per_connection)
        self._context: tuple[str, ...] = (request_id, trace.trace_id())

    async def run(self) -> None:
        """Serve until it ends, within the quotas."""
        app, connection, socket = self._app, self._connection, self._socket
        request_id, trace_id = self._context
        self._context = ()  # on every line from here on
        tenant_id, user_id = connection.tenant_id, connection.user_id
        log.bind_for_good(
            tenant_id=tenant_id,
            user_id=user_id,
            connection_id=connection.id,
            request_id=request_id,
            trace_id=trace_id,
        )
        try:
            await app[keys.QUOTAS].take(tenant_id, user_id)
        except OverQuota as error:
            extra = {"reason": "over_quota", "detail": error.detail, "ip": connection.ip}
            logger.info("WebSocket connection refused", extra=extra)
            app[keys.METRICS].ws_disconnects_total.inc(reason="over_quota")
            await socket.close(code=CloseCode.OVER_QUOTA, message=error.detail.encode())
            return
        try:
            await self._live()
        except (NotFound, StoreUnavailable) as error:
            code = CloseCode.UNAUTHENTICATED if isinstance(error, NotFound) else CloseCode.TRY_LATER
            await socket.close(code=code, message=error.type.encode())
        except Exception:  # the edge: after the upgrade an HTTP answer would be garbage among the frames
            logger.exception("WebSocket failed unexpectedly")
            await socket.close(code=CloseCode.INTERNAL, message=b"internal")
        finally:
            app[keys.QUOTAS].release(tenant_id, user_id)

    async def _live(self) -> None:
        app, connection = self._app, self._connection
        if connection.gone:
            return
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BUFFER)
        # Not after IDLE_SECONDS (ottoai/server.py): the hub and the wheel end who stalls, and say why.
        raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(STALE * 1000))
        await app[keys.HUB].enter(connection)
        app[keys.SOCKETS].add(connection, self._socket)
        app[keys.METRICS].ws_connections_opened_total.inc()
        logger.info("WebSocket connection established", extra={"ip": connection.ip})
        try:
            if app[keys.SOCKETS].still_welcome(connection):
                app[keys.HUB].welcome(connection)
            while (message := await self._socket.receive()).type not in ENDS:
                # Who does not read is not read from: its answers would pile up here.
                if connection.unsent > HIGH and not await app[keys.HUB].fanout.drained(connection):
                    break
                connection.last_heard = time.monotonic()
                await self._answer(message)
        except Exception:
            connection.closed_for = connection.closed_for or "error"
            raise
        finally:
            app[keys.HUB].leave(connection)
            app[keys.SOCKETS].remove(connection)
            too_large = self._socket.close_code == CloseCode.TOO_LARGE
            reason = connection.closed_for or ("too_large" if too_large else "client")
            app[keys.METRICS].ws_disconnects_total.inc(reason=reason)
            logger.info("WebSocket connection closed", extra={"reason": reason, "code": self._socket.close_code})

    async def _answer(self, message: WSMessage) -> None:
        """What one frame asks for."""
        match message.type:
            case WSMsgType.TEXT:
                await self._text(message)
            case WSMsgType.PING:
                self._connection.write(frame(message.data, 10))
            case WSMsgType.PONG:
                self._app[keys.METRICS].ws_heartbeats_total.inc(result="ok")
            case _:
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
        self._malformed = (*(at for at in self._malformed if now - at < MALFORMED_WINDOW), now)
        if len(self._malformed) == MALFORMED_LIMIT:
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
        principal = await verified(self._app, token)
        connection, hub = self._connection, self._app[keys.HUB]
        if (principal.tenant_id, principal.user_id) != (connection.tenant_id, connection.user_id):
            raise Forbidden("The new token is another user's: open another connection.")
        connection.expires_at, connection.issued_at = principal.expires_at, principal.issued_at
        hub.wheel.watch_expiry(connection)
        hub.welcome(connection)
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


class Budget:
    """How much a client may say: so many messages a minute, and at first as many more as it may have channels, so that
    it can join them all again after a lost connection.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second", "_refused")

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
