"""GET /ws: the handshake of the protocol `ottoai.v1`; session.py has what follows, the hub order and delivery."""

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSMsgType, web

from ottoai.errors import (
    Draining,
    Forbidden,
    InvalidInput,
    OverQuota,
    StoreUnavailable,
    Unauthenticated,
    UpgradeRequired,
)
from ottoai.realtime.connection import Connection
from ottoai.realtime.messages import MAX_MESSAGE, PROTOCOL, Auth, CloseCode, decode
from ottoai.realtime.wires import WEBSOCKET
from ottoai.web import auth, keys
from ottoai.web.claims import Principal
from ottoai.web.middlewares import client_ip
from ottoai.web.session import LiveSocket, Session, verified

logger = logging.getLogger(__name__)

AUTH_WITHIN: Final = 5.0  # seconds that a connection without a token has to send one
UNAUTHENTICATED: Final = 1_000  # sockets whose token is still awaited; they cost memory and prove nothing


async def connect(request: web.Request) -> web.StreamResponse:
    """Open a socket: authenticate, and leave it to its session."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise UpgradeRequired
    metrics = request.app[keys.METRICS]
    if not _origin_allowed(request):
        metrics.ws_auth_failures_total.inc(reason="origin")
        raise Forbidden("Pages of this origin may not connect; see ALLOWED_ORIGINS.")
    offered = auth.protocols(request)
    if offered and PROTOCOL not in offered:
        raise InvalidInput(f"Sec-WebSocket-Protocol: {PROTOCOL} must be among the protocols offered.")
    token = auth.presented(request)
    principal = await verified(request.app, token) if token else None
    if request.app[keys.HEALTH].draining:
        raise Draining
    if principal is None and request.app[keys.SOCKETS].strangers >= UNAUTHENTICATED:
        raise OverQuota("Too many connections wait for their tokens: send yours with the handshake.")
    socket = LiveSocket(protocols=(PROTOCOL,), autoping=False, heartbeat=None, compress=False, max_msg_size=MAX_MESSAGE)
    await socket.prepare(request)
    try:
        if principal is None:
            with request.app[keys.SOCKETS].stranger(socket):
                principal = await _authenticate_first(request, socket)
        transport = request.transport
        if principal is not None and transport is not None:
            ip = client_ip(request, request.app[keys.CONFIG].trusted_proxies)
            connection = Connection(principal, transport, ip, WEBSOCKET)
            socket.session = Session(request.app, connection, socket, request[keys.REQUEST_ID])
    except Exception:  # the edge: after the upgrade an HTTP answer would be garbage among the frames
        logger.exception("WebSocket failed unexpectedly")
        await socket.close(code=CloseCode.INTERNAL, message=b"internal")
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


async def _authenticate_first(request: web.Request, socket: web.WebSocketResponse) -> Principal | None:
    """The token as the first message; None, and closed, when it does not come or is not valid."""
    metrics = request.app[keys.METRICS]
    try:
        async with asyncio.timeout(AUTH_WITHIN):
            message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            first = decode(message.data)
            if isinstance(first, Auth):
                return await verified(request.app, first.token)
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
