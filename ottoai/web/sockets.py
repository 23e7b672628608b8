"""Ending live connections: with a code, each in its own time and none waited for."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from ottoai.errors import Unauthenticated
from ottoai.realtime.connection import Connection
from ottoai.realtime.messages import CloseCode, Reconnect
from ottoai.web.auth import Revoked

CLOSE_TIMEOUT: Final = 5.0  # seconds for the closing handshake; a stalled client never answers it
DRAIN_SPREAD: Final = 15.0  # seconds over which the clients of a stopping process go: 6.7 % of them each second
DRAIN_PACE: Final = 0.05  # seconds for each, so that a few need not take so long
DRAIN_STEP: Final = 0.05
TELL_AT_ONCE: Final = 200  # clients told between two turns of the loop


class Closable(Protocol):
    """What carries a connection: a WebSocket or an event stream."""

    async def close(self, *, code: int, message: bytes) -> object:
        """End it, telling the client why."""


class Sockets:
    """The live connections of this process, and what carries each."""

    def __init__(self, revoked: Revoked) -> None:
        self._open: dict[Connection, Closable] = {}
        self._strangers: set[Closable] = set()
        self._closing: set[asyncio.Task[Any]] = set()
        self._revoked = revoked

    def add(self, connection: Connection, socket: Closable) -> None:
        """Know a connection."""
        self._open[connection] = socket

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        self._open.pop(connection, None)

    @property
    def strangers(self) -> int:
        """Sockets whose token is awaited."""
        return len(self._strangers)

    @contextmanager
    def stranger(self, socket: Closable) -> Iterator[None]:
        """Know a socket while its token is awaited."""
        self._strangers.add(socket)
        try:
            yield
        finally:
            self._strangers.discard(socket)

    def still_welcome(self, connection: Connection) -> bool:
        """Whether the token that opened it still counts; if not, it is being closed. What was revoked while it was
        opened has ended all others.
        """
        try:
            self._revoked.check(connection)
        except Unauthenticated:
            self.close(connection, CloseCode.UNAUTHENTICATED, "revoked")
            return False
        return True

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """Begin to end a connection; the first reason given is the one that counts."""
        socket = self._open.get(connection)
        if connection.closed_for is not None or socket is None:
            return
        connection.closed_for = reason
        self._end(socket, code, reason, connection)

    def _end(self, socket: Closable, code: int, reason: str, connection: Connection | None = None) -> None:
        task = asyncio.create_task(self._close(socket, code, reason, connection), name="close-socket")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, socket: Closable, code: int, reason: str, connection: Connection | None) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await socket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            if connection is not None:
                connection.transport.abort()

    async def drain(self) -> None:
        """Tell every client when it will have to go, serve it until then, and end it at that time."""
        for socket in list(self._strangers):
            self._end(socket, CloseCode.RESTARTING, "draining")
        spread = min(DRAIN_SPREAD, DRAIN_PACE * len(self._open))
        started = time.monotonic()
        leaving: list[tuple[float, Connection]] = []
        for number, connection in enumerate(list(self._open)):
            after = random.uniform(0, spread)  # noqa: S311 - jitter, not a secret
            connection.send(Reconnect(after_ms=int(after * 1000)))
            leaving.append((started + after, connection))
            if number % TELL_AT_ONCE == 0:
                await asyncio.sleep(0)
        leaving.sort(key=lambda pair: pair[0], reverse=True)
        while leaving:
            while leaving and leaving[-1][0] <= time.monotonic():
                self.close(leaving.pop()[1], CloseCode.RESTARTING, "draining")
            await asyncio.sleep(DRAIN_STEP)
        for connection in list(self._open):  # who came in by the last open door
            self.close(connection, CloseCode.RESTARTING, "draining")
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_TIMEOUT + 1.0)
