"""One tenant's events as this process knows them: a ring of the recent ones, what waits to be flushed, and the groups
of connections that listen to the same channels. Holds no sockets' logic and does no I/O.
"""

from collections import deque
from typing import Final

from ottoai.domain.events import Event
from ottoai.realtime.connection import Connection
from ottoai.realtime.messages import encode_event

# What a tenant's ring may hold: enough to resume after a deploy, bounded for tenants with large events.
RING_EVENTS: Final = 1_000
RING_BYTES: Final = 1024 * 1024


class Entry:
    """An event, encoded once."""

    __slots__ = ("at", "channels", "frame", "seq")

    def __init__(self, event: Event) -> None:
        self.seq = event.seq
        self.channels = event.channels
        self.frame = encode_event(event)
        self.at = event.ts.timestamp()


class Group:
    """Connections with the same channels: their bytes are joined once."""

    __slots__ = ("batch", "bytes", "channels", "connections", "count")

    def __init__(self, channels: frozenset[str]) -> None:
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
        self.epoch = epoch
        self.head = head
        self.flushed = head
        self.pending: list[Entry] = []
        self.groups: dict[frozenset[str], Group] = {}
        self.members: dict[Connection, None] = {}  # every connection of the tenant, live or not
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

    def skip_to(self, head: int) -> None:
        """Go on after a stretch that the log no longer has."""
        self._ring.clear()
        self._ring_bytes = 0
        self.head = head

    def recent(self, after: int, until: int) -> list[Entry]:
        """What the ring holds of after < seq <= until."""
        floor = self.floor
        first, last = max(after - floor, 0), until - floor
        return [self._ring[n] for n in range(first, min(last, len(self._ring)))]

    def begin_batch(self, batch: int) -> list[Entry]:
        """Hand what is pending to every group, joined; groups that hear the same share the same bytes."""
        entries, self.pending = self.pending, []
        self.flushed = self.head
        joined: dict[tuple[int, ...], bytes] = {}
        for group in self.groups.values():
            wanted = tuple(n for n, entry in enumerate(entries) if group.wants(entry))
            if not wanted:
                continue
            if wanted not in joined:
                joined[wanted] = b"".join([entries[n].frame for n in wanted])
            group.batch, group.bytes, group.count = batch, joined[wanted], len(wanted)
        return entries

    def join(self, connection: Connection) -> None:
        """Let a connection hear what is flushed from now on."""
        channels = frozenset(connection.channels)
        group = self.groups.get(channels)
        if group is None:
            group = self.groups[channels] = Group(channels)
        group.connections[connection] = None
        connection.group = group
        connection.batch = group.batch

    def leave(self, connection: Connection) -> None:
        """Take a connection out of the live stream; it has everything up to `flushed`."""
        group = connection.group
        connection.group = None
        if group is not None:
            del group.connections[connection]
            if not group.connections:
                del self.groups[group.channels]
