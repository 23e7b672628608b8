"""Time for all connections at once: heartbeats, silence, and tokens that run out. One tick a second serves everyone;
no connection has a timer of its own.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Mapping
from typing import Final

from ottoai.metrics import Metrics
from ottoai.realtime.connection import Closer, Connection
from ottoai.realtime.messages import AuthExpiring, CloseCode

log = logging.getLogger(__name__)

HEARTBEAT: Final = 20  # seconds between pings: well under the minute after which proxies drop an idle connection
STALE: Final = 40.0  # seconds of silence: two pings unanswered
AUTH_WARNING: Final = 60.0  # seconds before its expiry that a client is asked for a new token
AUTH_GRACE: Final = 25.0  # seconds after it that the old one still serves
SPARE: Final = 1_000  # expiries of connections that have ended, or have a newer one, which are put up with


class Wheel:
    """Every connection is in one of HEARTBEAT slots; each second the next slot's turn comes."""

    def __init__(self, metrics: Metrics, close: Closer, connections: Mapping[str, Connection]) -> None:
        self._metrics = metrics
        self._close = close
        self._connections = connections  # by id: those that have not ended
        self._slots: list[dict[Connection, None]] = [{} for _ in range(HEARTBEAT)]
        self._added = 0
        self._turn = 0
        # By time; by id, so that a connection that ended is not kept until its token runs out.
        self._expiries: list[tuple[float, str]] = []

    def add(self, connection: Connection) -> None:
        """Care for a connection; a crowd that comes at once is spread over the slots."""
        self._added += 1
        connection.slot = self._added % HEARTBEAT
        self._slots[connection.slot][connection] = None
        self.watch_expiry(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        del self._slots[connection.slot][connection]

    def watch_expiry(self, connection: Connection) -> None:
        """Heed the connection's (new) expiry."""
        connection.warned = False
        heapq.heappush(self._expiries, (_due(connection), connection.id))
        if len(self._expiries) > 2 * len(self._connections) + SPARE:  # most are of connections that have ended
            self._expiries = [(_due(each), each.id) for each in self._connections.values()]
            heapq.heapify(self._expiries)

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await asyncio.sleep(1.0)
            self.tick(time.monotonic(), time.time())

    def tick(self, monotonic: float, wall: float) -> None:
        """One second has passed."""
        self._turn = (self._turn + 1) % HEARTBEAT
        for connection in list(self._slots[self._turn]):
            # A tick is never exact: without the second, silence would be noticed a whole round later.
            if connection.wire.answers and monotonic - connection.last_heard > STALE - 1.0:
                log.info(
                    "Disconnecting stale connection",
                    extra={"connection_id": connection.id, "reason": "heartbeat_timeout"},
                )
                self._metrics.ws_heartbeats_total.inc(result="timeout")
                self._close(connection, CloseCode.STALE, "heartbeat_timeout")
            else:
                connection.write(connection.wire.heartbeat)
        while self._expiries and self._expiries[0][0] <= wall:
            due = self._connections.get(heapq.heappop(self._expiries)[1])
            if due is not None:
                self._expire(due, wall)

    def _expire(self, connection: Connection, wall: float) -> None:
        expires = connection.expires_at.timestamp()
        if wall < expires - AUTH_WARNING:
            return  # it brought a new token meanwhile
        if wall >= expires + AUTH_GRACE:
            self._close(connection, CloseCode.UNAUTHENTICATED, "expired")
            return
        if not connection.warned:
            connection.warned = True
            connection.send(AuthExpiring(expires_at=connection.expires_at))
        heapq.heappush(self._expiries, (_due(connection), connection.id))


def _due(connection: Connection) -> float:
    """When a connection's expiry is to be looked at next, in seconds since 1970."""
    return connection.expires_at.timestamp() + (AUTH_GRACE if connection.warned else -AUTH_WARNING)
