"""One live client, over a WebSocket or an event stream: who is behind it, what it listens to, and its bytes. Owns no
task; the hub decides what to write.
"""

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

from ottoai.realtime.messages import Message
from ottoai.realtime.wires import Wire

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


class User(Protocol):
    """What a token says of its bearer."""

    @property
    def tenant_id(self) -> str:
        """Whose data it is about."""

    @property
    def user_id(self) -> str:
        """Who it is."""

    @property
    def issued_at(self) -> float:
        """When it was issued (Unix time)."""

    @property
    def expires_at(self) -> datetime:
        """When it runs out."""


class Connection:
    """An authenticated client: one user of one tenant."""

    __slots__ = (
        "batch",
        "changes",
        "channels",
        "closed_for",
        "expires_at",
        "group",
        "id",
        "ip",
        "issued_at",
        "last_heard",
        "opened",
        "reader",
        "served",
        "slot",
        "tenant_id",
        "transport",
        "user_id",
        "warned",
        "wire",
    )

    def __init__(self, user: User, transport: asyncio.Transport, ip: str, wire: Wire) -> None:
        self.id = str(uuid4())
        self.tenant_id = user.tenant_id
        self.user_id = user.user_id
        self.issued_at = user.issued_at
        self.expires_at = user.expires_at
        self.ip = ip
        self.wire = wire
        self.transport = transport
        self.opened = self.last_heard = time.monotonic()
        self.slot = 0  # of the wheel
        self.warned = False  # whether it was told that its token runs out
        self.closed_for: str | None = None  # why the server is closing it
        # What it listens to, each with the number after which events count, and how often that was changed.
        self.channels: dict[str, int] = {}
        self.changes = 0
        # Live: the group it is written with, and the last batch of that group that it has.
        self.group: Group | None = None
        self.batch = 0
        # Catching up: the task that does, and for each channel the number up to which it is served.
        self.reader: asyncio.Task[None] | None = None
        self.served: dict[str, int] = {}

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket; never waits."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def send(self, message: Message) -> None:
        """Send one message, in order with everything else written."""
        self.write(self.wire.message(message))

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def gone(self) -> bool:
        """Whether writing is pointless."""
        return self.closed_for is not None or self.transport.is_closing()

    def join(self, channel: str, start: int) -> None:
        """Listen to a channel's events after this number. The connection must not be live."""
        self.channels[channel] = self.served[channel] = start
        self.changes += 1

    def leave(self, channel: str) -> bool:
        """Listen to a channel no longer; whether it did. The connection must not be live."""
        self.changes += 1
        self.served.pop(channel, None)
        return self.channels.pop(channel, None) is not None

    def due(self, channels: tuple[str, ...], seq: int) -> bool:
        """Whether an event of the log is still to be written: some channel wants it, and none has brought it yet."""
        wanted = [self.served[channel] for channel in channels if seq > self.channels.get(channel, seq)]
        return bool(wanted) and all(seq > served for served in wanted)

    def serve(self, until: int) -> None:
        """What was due up to this number has been written."""
        self.served = {channel: max(served, until) for channel, served in self.served.items()}

    def stretch(self, head: int) -> tuple[str | None, int, int]:
        """What to read next: (the one channel it is for, or None for several; after; until)."""
        after = min(self.served.values(), default=head)
        behind = [channel for channel, served in self.served.items() if served == after]
        until = min((served for served in self.served.values() if served > after), default=head)
        return (behind[0] if len(behind) == 1 else None), after, until
