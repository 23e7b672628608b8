"""One tenant's events as this process knows them: a ring of the recent ones, what waits to be flushed, and the groups
of connections that listen to the same channels. Holds no sockets' logic and does no I/O.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from sys import intern
from typing import Final

from ottoai.domain.events import Event
from ottoai.domain.tenants import PROBE
from ottoai.realtime.connection import Connection
from ottoai.realtime.messages import encode_event, unframed
from ottoai.realtime.wires import WEBSOCKET, Wire

# What a tenant's ring may hold: enough to resume after a deploy, bounded for tenants with large events.
RING_EVENTS: Final = 1_000
RING_BYTES: Final = 1024 * 1024
BATCH_BYTES: Final = 64 * 1024  # joined at once; what a slow client is left with exceeds its bound by no more than that


class Entry:
    """An event, encoded once for each wire."""

    __slots__ = ("_chunk", "at", "channels", "frame", "place", "seq", "traceparent")

    def __init__(self, event: Event, epoch: int, traceparent: str = "") -> None:
        self.seq = event.seq
        self.traceparent = traceparent  # where it was published, if that is recorded
        self.channels = tuple(map(intern, event.channels))  # a thousand events of a ring share a few
        self.at = event.ts.timestamp()
        self.place = None if event.seq is None else f"{epoch}.{event.seq}"
        self.frame = WEBSOCKET.event(encode_event(event), self.place)
        self._chunk: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The event as JSON."""
        return unframed(self.frame)

    def on(self, wire: Wire) -> bytes:
        """The event as it is written to a wire."""
        if wire is WEBSOCKET:
            return self.frame
        if self._chunk is None:
            self._chunk = wire.event(self.payload, self.place)
        return self._chunk


class Group:
    """Connections with the same channels on the same kind of wire: their bytes are joined once."""

    __slots__ = ("batch", "bytes", "channels", "connections", "count", "wire")

    def __init__(self, wire: Wire, channels: frozenset[str]) -> None:
        self.wire = wire
        self.channels = channels
        self.connections: dict[Connection, None] = {}
        self.batch = 0  # the flush that `bytes` belongs to
        self.bytes = b""
        self.count = 0  # events in `bytes`

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is for this group."""
        return not self.channels.isdisjoint(entry.channels)


class Stream:
    """The events of one tenant with listeners here. `head` is the latest number known without a hole; entries up to
    `flushed` have been given to the groups.
    """

    def __init__(self, tenant_id: str, epoch: int, head: int) -> None:
        self.tenant_id = tenant_id
        self.counted = tenant_id != PROBE  # whether what is written of it is in the figures
        self.epoch = epoch
        self.head = head
        self.flushed = head
        self.pending: list[Entry] = []
        self.groups: dict[tuple[Wire, frozenset[str]], Group] = {}
        self.members: dict[Connection, None] = {}  # every connection of the tenant, live or not
        self.used = time.monotonic()  # when somebody last listened
        self.reached_back = False  # whether the ring was filled from the log
        self._waiters: set[asyncio.Future[None]] = set()
        self._ring: deque[Entry] = deque()
        self._ring_bytes = 0

    @property
    def floor(self) -> int:
        """The ring reaches back to the event after this one."""
        first = self._ring[0].seq if self._ring else None
        return self.head if first is None else first - 1

    def append(self, entry: Entry) -> None:
        """Take the next event of the log in."""
        self.head += 1
        self._ring.append(entry)
        self._ring_bytes += len(entry.frame)
        while len(self._ring) > RING_EVENTS or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().frame)
        self.pending.append(entry)

    def prepend(self, entries: Sequence[Entry]) -> bool:
        """Take in what came right before the ring's first; whether there is room for more."""
        for entry in reversed(entries):
            full = len(self._ring) >= RING_EVENTS or self._ring_bytes + len(entry.frame) > RING_BYTES
            if full or entry.seq != self.floor:
                return False
            self._ring.appendleft(entry)
            self._ring_bytes += len(entry.frame)
        return True

    def skip_to(self, head: int) -> None:
        """Go on after a stretch that the log no longer has; nobody may be live."""
        self._ring.clear()
        self._ring_bytes = 0
        self.pending.clear()
        self.head = self.flushed = head

    def recent(self, after: int, until: int) -> list[Entry]:
        """What the ring holds of after < seq <= until."""
        floor = self.floor
        first, last = max(after - floor, 0), until - floor
        return [self._ring[n] for n in range(first, min(last, len(self._ring)))]

    def begin_batch(self, batch: int) -> list[Entry]:
        """Hand what is pending to every group, joined, up to BATCH_BYTES; groups that hear the same share the same
        bytes.
        """
        size = count = 0
        while count < len(self.pending) and size < BATCH_BYTES:
            size += len(self.pending[count].frame)
            count += 1
        entries, self.pending = self.pending[:count], self.pending[count:]
        self.flushed = next((entry.seq - 1 for entry in self.pending if entry.seq is not None), self.head)
        joined: dict[tuple[Wire, tuple[int, ...]], bytes] = {}
        for group in self.groups.values():
            wanted = tuple(n for n, entry in enumerate(entries) if group.wants(entry))
            if not wanted:
                continue
            key = (group.wire, wanted)
            if key not in joined:
                joined[key] = b"".join([entries[n].on(group.wire) for n in wanted])
            group.batch, group.bytes, group.count = batch, joined[key], len(wanted)
        self.wake()
        return entries

    async def grows(self, seconds: float) -> None:
        """Wait until something is flushed, at most so long."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        """End the waiting of all who wait for this stream."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def join(self, connection: Connection) -> None:
        """Let a connection hear what is flushed from now on."""
        key = (connection.wire, frozenset(connection.channels))
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(*key)
        group.connections[connection] = None
        connection.group = group
        connection.batch = group.batch
        connection.served = {}

    def leave(self, connection: Connection) -> None:
        """Take a connection out of the live stream; it has everything up to `flushed`."""
        group = connection.group
        connection.group = None
        if group is not None:
            del group.connections[connection]
            if not group.connections:
                del self.groups[group.wire, group.channels]
