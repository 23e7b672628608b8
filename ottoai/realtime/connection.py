"""One socket: who is behind it, what it listens to, and its bytes. Owns no task; the hub decides what to write."""

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

from ottoai.realtime.messages import Outgoing, encode

if TYPE_CHECKING:
    from ottoai.realtime.stream import Group

# Past HIGH unsent bytes a client is slow: it leaves the live stream. Below LOW it may have more. The kernel's own
# buffer is held to SEND_BUFFER, since it would hide megabytes of backlog otherwise.
HIGH: Final = 256 * 1024
LOW: Final = 64 * 1024
SEND_BUFFER: Final = 64 * 1024


class Closer(Protocol):
    """Ends a socket with a close code."""

    def __call__(self, connection: "Connection", code: int, reason: str) -> None:
        """Begin to end it; never waits."""


class Connection:
    """An authenticated socket of one user of one tenant."""

    __slots__ = (
        "backfills",
        "batch",
        "channels",
        "closed_for",
        "cursor",
        "expires_at",
        "group",
        "id",
        "ip",
        "last_heard",
        "reader",
        "tenant_id",
        "transport",
        "user_id",
        "warned",
    )

    def __init__(
        self, tenant_id: str, user_id: str, expires_at: datetime, transport: asyncio.Transport, ip: str
    ) -> None:
        self.id = str(uuid4())
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.expires_at = expires_at
        self.ip = ip
        self.transport = transport
        self.last_heard = time.monotonic()
        self.warned = False  # whether it was told that its token runs out
        self.closed_for: str | None = None  # why the server is closing it
        # What it listens to, each with the number after which events count.
        self.channels: dict[str, int] = {}
        # Live: the group it is written with, and the last batch of that group it has. Else: catching up from `cursor`,
        # after older stretches of single channels.
        self.group: Group | None = None
        self.batch = 0
        self.cursor = 0
        self.backfills: list[tuple[str, int, int]] = []
        self.reader: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket; never waits."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def send(self, message: Outgoing) -> None:
        """Send one message, in order with everything else written."""
        self.write(encode(message))

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def gone(self) -> bool:
        """Whether writing is pointless."""
        return self.closed_for is not None or self.transport.is_closing()

    def wants(self, channels: tuple[str, ...], seq: int | None) -> bool:
        """Whether an event with these channels and this number is for this connection."""
        joined = self.channels
        if seq is None:
            return any(channel in joined for channel in channels)
        return any(seq > joined.get(channel, seq) for channel in channels)
