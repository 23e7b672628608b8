"""The hub: puts each tenant's events in order, fills holes from the log, and knows who listens to what.

A connection is *live* (in a group, written by the flusher) or *catching up* (written from the ring or the log at its
own cursor). It changes sides between two awaits, at a number both sides agree on: `stream.flushed`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec

from ottoai.background import end, running
from ottoai.db import Database
from ottoai.domain import events
from ottoai.domain.catalogue import Dropped
from ottoai.domain.events import Appended, Channel, Event
from ottoai.errors import Draining, NotFound, StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.realtime.bus import Bus
from ottoai.realtime.connection import Closer, Connection
from ottoai.realtime.fanout import Fanout
from ottoai.realtime.messages import CloseCode, SubscribeResult, UnsubscribeResult, encode_event
from ottoai.realtime.stream import Entry, Stream
from ottoai.realtime.wheel import Wheel

log = logging.getLogger(__name__)

HEADS_EVERY: Final = 1.0  # seconds; with Redis away this is what events wait for
HINT_GRACE: Final = 0.1  # a head read right after a commit is ahead of its hint for a moment: that is no loss
REPAIR_PAGE: Final = 500

Since = tuple[int | None, int]  # (epoch, number); no epoch means the current one


class Hub:
    """The live side of one API process."""

    def __init__(self, db: Database, metrics: Metrics, close: Closer) -> None:
        self.connections: dict[str, Connection] = {}
        self.streams: dict[str, Stream] = {}
        self.wheel = Wheel(metrics, close)
        self.fanout = Fanout(metrics, close, self._read_log, self._lost)
        self._db = db
        self._metrics = metrics
        self._close = close
        self._opening: dict[str, asyncio.Task[Stream]] = {}
        self._repairs: dict[str, asyncio.Task[None]] = {}

    # Connections

    async def enter(self, connection: Connection) -> Stream:
        """Take a connection in; returns its tenant's stream. Raises NotFound (no such tenant), StoreUnavailable."""
        stream = await self._stream(connection.tenant_id)
        stream.members[connection] = None
        stream.join(connection)
        self.connections[connection.id] = connection
        self.wheel.add(connection)
        self._metrics.ws_connections.set(len(self.connections))
        return stream

    def leave(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        if self.connections.pop(connection.id, None) is None:
            return
        self._metrics.ws_connections.set(len(self.connections))
        self.wheel.remove(connection)
        if connection.reader is not None:
            connection.reader.cancel()
        stream = self.streams.get(connection.tenant_id)
        if stream is not None and connection in stream.members:
            stream.leave(connection)
            del stream.members[connection]
            if not stream.members:
                del self.streams[connection.tenant_id]

    def stream_of(self, connection: Connection) -> Stream:
        """The stream that a connection listens to. Raises Draining when it is being closed."""
        stream = self.streams.get(connection.tenant_id)
        if stream is None or connection not in stream.members:
            raise Draining("This connection is being closed: connect again.")
        return stream

    async def subscribe(self, connection: Connection, channel: str, since: Since | None) -> None:
        """Join a channel that the connection has a right to. Raises StoreUnavailable."""
        stream = self.stream_of(connection)
        recovered, replayed, counted_to = await self._probe(stream, channel, since)
        self.stream_of(connection)  # it may have ended meanwhile
        # From here on nothing awaits, so the connection's place in the stream is exact.
        self.fanout.pause(stream, connection)
        connection.leave(channel)
        head = stream.flushed
        if since is not None and recovered:
            replayed += sum(channel in entry.channels for entry in stream.recent(counted_to, head))
        start = since[1] if since is not None and recovered else head
        connection.join(channel, start)
        connection.send(
            SubscribeResult(
                channel=channel,
                success=True,
                epoch=stream.epoch,
                seq=max(head, start),
                recovered=recovered,
                replayed=replayed,
            )
        )
        self.fanout.follow(stream, connection)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Leave a channel; what was committed before may still have been written."""
        stream = self.stream_of(connection)
        self.fanout.pause(stream, connection)
        joined = connection.leave(channel)
        error = None if joined else "not subscribed"
        result = UnsubscribeResult(channel=channel, success=joined, epoch=stream.epoch, seq=stream.flushed, error=error)
        connection.send(result)
        self.fanout.follow(stream, connection)

    async def _probe(self, stream: Stream, channel: str, since: Since | None) -> tuple[bool | None, int, int]:
        """(whether the log still tells what came after `since`, how many events of the channel that is up to a
        number, that number).
        """
        if since is None:
            return None, 0, 0
        epoch, after = since
        if epoch not in {None, stream.epoch}:
            return False, 0, 0
        if after > stream.head:
            await self.repair(stream, "reconnect")  # the client may have heard it from another process
        if after > stream.head:
            return False, 0, 0
        if after >= stream.floor:
            return True, 0, after
        session = self._db.one(stream.tenant_id)
        head = await events.head(session)
        if head is None or after < head.oldest - 1:
            return False, 0, 0
        until = stream.floor
        return True, await events.count(session, after, until, events.parse_channel(channel)), until

    # Streams

    async def _stream(self, tenant_id: str) -> Stream:
        """The tenant's stream, opened once however many ask at the same time."""
        if tenant_id in self.streams:
            return self.streams[tenant_id]
        opening = self._opening.get(tenant_id)
        if opening is None:
            opening = self._opening[tenant_id] = asyncio.create_task(self._open(tenant_id))
            opening.add_done_callback(lambda _: self._opening.pop(tenant_id, None))
        # Its result, not the table: the stream may have been dropped again by one who waited and left.
        stream = await asyncio.shield(opening)
        return self.streams.setdefault(tenant_id, stream)

    async def _open(self, tenant_id: str) -> Stream:
        head = await events.head(self._db.one(tenant_id))
        if head is None:
            raise NotFound("There is no such tenant.")
        stream = self.streams[tenant_id] = Stream(tenant_id, head.epoch, head.seq)
        # A commit between the look at its head and now was not heard.
        self._repair_soon(stream, "heads")
        return stream

    def offer(self, appended: Appended) -> None:
        """Hear what was appended somewhere: in order it is taken in, repeated it is ignored, early it shows a hole."""
        stream = self.streams.get(appended.tenant_id)
        if stream is None:
            return
        for event in appended.events:
            if event.seq is not None and appended.epoch != stream.epoch:
                if appended.epoch > stream.epoch:  # an older one is a hint that was late
                    self._restart(stream)
                return
            if event.seq is None:
                stream.pending.append(Entry(event))
                self._count_transient_drops(stream)
            elif event.seq == stream.head + 1:
                stream.append(Entry(event))
            elif event.seq > stream.head:
                self._repair_soon(stream, "gap")
                break
        if stream.pending:
            self.fanout.mark(stream)

    def _count_transient_drops(self, stream: Stream) -> None:
        """Who is not live when a transient event comes does not get it."""
        missing = len(stream.members) - sum(len(group.connections) for group in stream.groups.values())
        if missing:
            self._metrics.ws_messages_dropped_total.inc(missing, reason="transient")

    def _repair_soon(self, stream: Stream, source: str) -> None:
        if stream.tenant_id not in self._repairs:
            self._repairs[stream.tenant_id] = asyncio.create_task(self._repair_once(stream, source), name="repair")

    async def _repair_once(self, stream: Stream, source: str) -> None:
        try:
            await self.repair(stream, source)
        except StoreUnavailable:
            log.debug("Log not readable; the next look at the heads tries again")
        finally:
            self._repairs.pop(stream.tenant_id, None)

    async def stop(self) -> None:
        """Give up what is being read from the log."""
        readers = [connection.reader for connection in self.connections.values() if connection.reader]
        await end([*self._repairs.values(), *readers])

    async def repair(self, stream: Stream, source: str) -> None:
        """Read from the log what was not heard. Raises StoreUnavailable."""
        session = self._db.one(stream.tenant_id)
        fetched = 0
        while page := await events.since(session, stream.head, limit=REPAIR_PAGE):
            for event in page:
                seq = event.seq or 0
                if seq > stream.head + 1:
                    self._skip(stream, seq - 1)
                if seq == stream.head + 1:
                    stream.append(Entry(event))
                    fetched += 1
            self.fanout.mark(stream)
            if len(page) < REPAIR_PAGE:
                break
        if fetched:
            self._metrics.events_repaired_total.inc(fetched, source=source)
            log.info("Events repaired from the log", extra={"source": source, "count": fetched})

    def _skip(self, stream: Stream, head: int) -> None:
        """The log no longer has what was not heard: say so to everybody and go on after it."""
        for connection in stream.members:
            self._lost(connection, stream.head + 1, head)
        stream.skip_to(head)

    def _restart(self, stream: Stream) -> None:
        """History has changed (a backup was restored): the clients come back and learn it."""
        log.warning("Epoch changed; closing the tenant's connections", extra={"tenant_id": stream.tenant_id})
        self.streams.pop(stream.tenant_id, None)
        for connection in list(stream.members):
            self._close(connection, CloseCode.RESTARTING, "epoch")

    async def compare_heads(self) -> None:
        """Look whether any log grew unheard, and repair it. Raises StoreUnavailable."""
        # What was known before the question: while it is answered, a log may grow and a stream be opened anew.
        known = {tenant_id: (stream, stream.head) for tenant_id, stream in self.streams.items()}
        if not known:
            return
        heads = await events.heads(self._db.system(), list(known))
        behind = []
        for tenant_id, (epoch, seq) in heads.items():
            stream, head = known[tenant_id]
            if self.streams.get(tenant_id) is not stream:
                continue
            # A log that is shorter than what was heard of it was restored, whether or not its epoch says so.
            if epoch != stream.epoch or seq < head:
                self._restart(stream)
            elif seq > stream.head:
                behind.append((stream, seq))
        if behind:
            await asyncio.sleep(HINT_GRACE)
            for stream, seq in behind:
                if seq > stream.head:
                    self._repair_soon(stream, "heads")

    async def watch_heads(self) -> None:
        """Compare heads for ever."""
        while True:
            await asyncio.sleep(HEADS_EVERY)
            try:
                await self.compare_heads()
            except StoreUnavailable as error:
                log.debug("Heads not readable", extra={"error": error.detail})

    # What the fan-out asks for

    async def _read_log(self, tenant: str, after: int, until: int, channel: Channel | None, limit: int) -> list[Entry]:
        page = await events.since(self._db.one(tenant), after, until, channel=channel, limit=limit)
        return [Entry(event) for event in page]

    def _lost(self, connection: Connection, from_seq: int, to_seq: int) -> None:
        self._metrics.ws_messages_dropped_total.inc(to_seq - from_seq + 1, reason="unrepairable")
        event = Event(
            tenant_id=connection.tenant_id,
            seq=None,
            event="system.buffer_dropped",
            ts=datetime.now(UTC),
            severity="warning",
            trace_id="",
            data=msgspec.Raw(msgspec.json.encode(Dropped(from_seq, to_seq))),
        )
        connection.write(encode_event(event))


@asynccontextmanager
async def open_hub(db: Database, metrics: Metrics, close: Closer, bus: Bus) -> AsyncIterator[Hub]:
    """A running hub that hears the bus."""
    hub = Hub(db, metrics, close)
    bus.listener = hub.offer
    try:
        async with running(hub.fanout.run, hub.watch_heads, hub.wheel.run):
            yield hub
    finally:
        bus.listener = None
        await hub.stop()
