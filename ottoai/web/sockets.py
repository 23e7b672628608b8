"""Ending sockets: with a close code, each in its own time and none waited for."""

import asyncio
import random
from typing import Any, Final

from aiohttp import web

from ottoai.realtime.connection import Connection
from ottoai.realtime.messages import CloseCode, Reconnect

CLOSE_TIMEOUT: Final = 5.0  # seconds for the closing handshake; a stalled client never answers it
RECONNECT_SPREAD: Final = 10.0  # seconds over which the clients of a stopping process come back


class Sockets:
    """The open WebSockets of this process, by connection."""

    def __init__(self) -> None:
        self._open: dict[Connection, web.WebSocketResponse] = {}
        self._closing: set[asyncio.Task[Any]] = set()

    def add(self, connection: Connection, socket: web.WebSocketResponse) -> None:
        """Know a socket."""
        self._open[connection] = socket

    def remove(self, connection: Connection) -> None:
        """Forget a socket that ended."""
        self._open.pop(connection, None)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """Begin to end a connection; the first reason given is the one that counts."""
        socket = self._open.get(connection)
        if connection.closed_for is not None or socket is None:
            return
        connection.closed_for = reason
        task = asyncio.create_task(self._close(connection, socket, code, reason), name="close-socket")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: Connection, socket: web.WebSocketResponse, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await socket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            connection.transport.abort()

    async def drain(self) -> None:
        """Tell everyone to come back elsewhere, at different times, and end all sockets together."""
        for connection in list(self._open):
            after = random.uniform(0, RECONNECT_SPREAD)  # noqa: S311 - jitter, not a secret
            connection.send(Reconnect(after_ms=int(after * 1000)))
            self.close(connection, CloseCode.RESTARTING, "draining")
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_TIMEOUT + 1.0)
