"""The hub: puts each tenant's events in order, fills holes from the log, and knows who listens to what.

A connection is *live* (in a group, written by the flusher) or *catching up* (written from the ring or the log at its
own cursor). It changes sides between two awaits, at a number both sides agree on: `stream.flushed`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ottoai import trace
from ottoai.background import end, running
from ottoai.db import Database
from ottoai.domain import events
from ottoai.domain.catalogue import Dropped
from ottoai.domain.events import Appended, Channel, Event
from ottoai.domain.revocations import Revocation
from ottoai.errors import Draining, NotFound, StoreUnavailable
from ottoai.log import bind
from ottoai.metrics import Metrics
from ottoai.realtime.bus import Bus
from ottoai.realtime.connection import Closer, Connection
from ottoai.realtime.fanout import Fanout
from ottoai.realtime.messages import CloseCode, SubscribeResult, UnsubscribeResult, Welcome, encode_event
from ottoai.realtime.stream import Entry, Stream
from ottoai.realtime.wheel import HEARTBEAT, Wheel

log = logging.getLogger(__name__)

HEADS_EVERY: Final = 1.0  # seconds; with Redis away this is what events wait for
HINT_GRACE: Final = 0.1  # a head read right after a commit is ahead of its hint for a moment: that is no loss
REPAIR_PAGE: Final = 500
REACH_PAGE: Final = 200  # events read back at once: with large ones the ring is full after a page
LINGER: Final = 60.0  # seconds that a stream is kept when nobody listens: a page reloads, a poll comes back

Since = tuple[int | None, int]  # (epoch, number); no epoch means the current one


class Hub:
    """The live side of one API process."""

    def __init__(self, db: Database, metrics: Metrics, close: Closer) -> None:
        self.connections: dict[str, Connection] = {}
        self.streams: dict[str, Stream] = {}
        self.wheel = Wheel(metrics, close, self.connections)
        self.fanout = Fanout(metrics, close, self._read_log, self._lost)
        self._db = db
        self._metrics = metrics
        self._close = close
        self._opening: dict[str, asyncio.Task[Stream]] = {}
        self._repairs: dict[str, asyncio.Task[None]] = {}
        self._reaching: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # Connections

    async def enter(self, connection: Connection) -> None:
        """Take a connection in. Raises NotFound (no such tenant), StoreUnavailable."""
        await self.attach(connection)
        self.connections[connection.id] = connection
        self.wheel.add(connection)
        self._metrics.ws_connections.set(len(self.connections))

    async def attach(self, connection: Connection) -> Stream:
        """Let a connection hear its tenant, and neither count it nor look after it. Raises as `enter`."""
        stream = await self.stream(connection.tenant_id)
        stream.members[connection] = None
        stream.join(connection)
        return stream

    def leave(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        if self.connections.pop(connection.id, None) is None:
            return
        self._metrics.ws_connections.set(len(self.connections))
        self.wheel.remove(connection)
        self.detach(connection)

    def detach(self, connection: Connection) -> None:
        """Let a connection hear nothing more."""
        if connection.reader is not None:
            connection.reader.cancel()
        stream = self.streams.get(connection.tenant_id)
        if stream is not None and connection in stream.members:
            stream.leave(connection)
            del stream.members[connection]
            stream.used = time.monotonic()

    def stream_of(self, connection: Connection) -> Stream:
        """The stream that a connection listens to. Raises Draining when it is being closed."""
        stream = self.streams.get(connection.tenant_id)
        if stream is None or connection not in stream.members:
            raise Draining("This connection is being closed: connect again.")
        return stream

    def welcome(self, connection: Connection) -> None:
        """Tell a client who it is here, until when, and where its tenant's log is. Raises as `stream_of`."""
        stream = self.stream_of(connection)
        connection.send(
            Welcome(
                connection_id=connection.id,
                tenant_id=connection.tenant_id,
                user_id=connection.user_id,
                epoch=stream.epoch,
                seq=stream.flushed,
                heartbeat_seconds=HEARTBEAT,
                expires_at=connection.expires_at,
                ts=datetime.now(UTC),
            )
        )

    async def subscribe(self, connection: Connection, channels: Sequence[str], since: Since | None) -> None:
        """Join channels that the connection has a right to, all at the same place. Raises StoreUnavailable."""
        stream = self.stream_of(connection)
        recovered = await self.reaches(stream, since)
        after = since[1] if since is not None and recovered else None
        replayed, counted_to = ({}, 0) if after is None else await self._count(stream, channels, after)
        self.stream_of(connection)  # it may have ended meanwhile
        # From here on nothing awaits, so the connection's place in the stream is exact.
        self.fanout.pause(stream, connection)
        head = stream.flushed
        recent = [] if after is None else stream.recent(counted_to, head)
        for channel in channels:
            connection.leave(channel)
            connection.join(channel, head if after is None else after)
            connection.send(
                SubscribeResult(
                    channel=channel,
                    success=True,
                    epoch=stream.epoch,
                    seq=max(head, after or 0),
                    recovered=recovered,
                    replayed=replayed.get(channel, 0) + sum(channel in entry.channels for entry in recent),
                )
            )
        self.fanout.follow(stream, connection)

    def unsubscribe(self, connection: Connection, channel: str, because: str | None = None) -> None:
        """Leave a channel, which the client asked for if no other reason is given; what was committed before may still
        have been written.
        """
        stream = self.stream_of(connection)
        self.fanout.pause(stream, connection)
        joined = connection.leave(channel)
        error = because if joined else "not subscribed"
        result = UnsubscribeResult(channel=channel, success=joined, epoch=stream.epoch, seq=stream.flushed, error=error)
        connection.send(result)
        self.fanout.follow(stream, connection)

    def revoke(self, revocation: Revocation) -> None:
        """End the connections whose tokens do not count any more."""
        for connection in list(self.connections.values()):
            if revocation.covers(connection.tenant_id, connection.user_id, connection.issued_at):
                self._close(connection, CloseCode.UNAUTHENTICATED, "revoked")

    # The past

    async def reaches(self, stream: Stream, since: Since | None) -> bool | None:
        """Whether everything after `since` can still be told; None when nothing is asked. Raises StoreUnavailable."""
        if since is None:
            return None
        epoch, after = since
        if epoch not in {None, stream.epoch}:
            return False
        for _ in range(2):  # a look at the log that others began may have missed what the client has seen elsewhere
            if after > stream.head:
                await self._shared(self._repairs, stream, self.repair(stream, "reconnect"))
        if after > stream.head:
            return False
        if after < stream.floor and not stream.reached_back:
            await self._shared(self._reaching, stream, self._reach_back(stream))
        if after >= stream.floor:
            return True
        head = await events.head(self._db.one(stream.tenant_id))
        return head is not None and after >= head.oldest - 1

    async def read(
        self, stream: Stream, channels: Sequence[str], after: int, limit: int
    ) -> tuple[Sequence[Entry], int] | None:
        """At most `limit` events of these channels after a number, and the number up to which that is all; None when
        the log has forgotten some. Raises StoreUnavailable.
        """
        wanted = set(channels)
        found: list[Entry] = []
        while after < stream.flushed and len(found) < limit:
            head = stream.flushed
            if after >= stream.floor:
                page, until = stream.recent(after, head), head
            else:
                channel = events.parse_channel(channels[0]) if len(channels) == 1 else None
                page, oldest = await self._read_log(stream, after, head, channel, REPAIR_PAGE)
                if oldest > after + 1:
                    return None
                until = head if len(page) < REPAIR_PAGE else page[-1].seq or head
            due = [entry for entry in page if not wanted.isdisjoint(entry.channels)][: limit - len(found)]
            found += due
            after = (found[-1].seq or until) if len(found) == limit else until
        return found, after

    async def _count(self, stream: Stream, channels: Sequence[str], after: int) -> tuple[dict[str, int], int]:
        """How many events each channel has after a number that the ring does not reach, up to one that it does, and
        that one.
        """
        session = self._db.one(stream.tenant_id)
        until = after
        counts: dict[str, int] = {}
        while until < stream.floor:  # which moves on when much comes while this is counted
            until = stream.floor
            counts = {
                channel: await events.count(session, after, until, events.parse_channel(channel))
                for channel in channels
            }
        return counts, until

    async def _reach_back(self, stream: Stream) -> None:
        """Fill the ring from the log: after a start a whole crowd asks for the same past."""
        room = True
        while room and stream.floor > 0:
            floor = stream.floor
            page, _ = await self._read_log(stream, max(floor - REACH_PAGE, 0), floor, None, REACH_PAGE)
            room = stream.prepend(page) and len(page) == REACH_PAGE
        stream.reached_back = True

    async def _shared(
        self, under_way: dict[str, asyncio.Task[None]], stream: Stream, work: Coroutine[Any, Any, None]
    ) -> None:
        """Do something for a stream once, however many need it at the same time. Raises what the work raises."""
        task = under_way.get(stream.tenant_id)
        if task is None:
            task = under_way[stream.tenant_id] = asyncio.create_task(work)

            def over(done: asyncio.Task[None]) -> None:
                del under_way[stream.tenant_id]
                if not done.cancelled():
                    done.exception()  # who waited for it may be gone

            task.add_done_callback(over)
        else:
            work.close()
        await asyncio.shield(task)

    # Streams

    async def stream(self, tenant_id: str) -> Stream:
        """The tenant's stream, opened once however many ask at the same time; it stays for LINGER seconds. Raises
        NotFound (no such tenant), StoreUnavailable.
        """
        if tenant_id in self.streams:
            self.streams[tenant_id].used = time.monotonic()
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
                stream.pending.append(Entry(event, stream.epoch, appended.traceparent))
                self._count_transient_drops(stream)
            elif event.seq == stream.head + 1:
                stream.append(Entry(event, stream.epoch, appended.traceparent))
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
        if stream.tenant_id in self._repairs:
            return
        task = asyncio.create_task(self._repair_quietly(stream, source), name="repair")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repair_quietly(self, stream: Stream, source: str) -> None:
        try:
            await self._shared(self._repairs, stream, self.repair(stream, source))
        except StoreUnavailable:
            log.debug("Log not readable; the next look at the heads tries again")

    def wake(self) -> None:
        """End the waiting of all who poll."""
        for stream in self.streams.values():
            stream.wake()

    async def stop(self) -> None:
        """Give up what is being read from the log."""
        readers = [connection.reader for connection in self.connections.values() if connection.reader]
        await self.fanout.stop()
        await end([*self._tasks, *self._repairs.values(), *self._reaching.values(), *readers])

    async def repair(self, stream: Stream, source: str) -> None:
        """Read from the log what was not heard. Raises StoreUnavailable."""
        fetched = 0
        more = True
        while more:
            page = await self._page(stream, stream.head, limit=REPAIR_PAGE)
            more = len(page.events) == REPAIR_PAGE
            if page.oldest > stream.head + 1:
                self._skip(stream, page.oldest - 1)
            for event in page.events:
                if event.seq == stream.head + 1:
                    stream.append(Entry(event, stream.epoch))
                    fetched += 1
            self.fanout.mark(stream)
        if fetched:
            self._metrics.events_repaired_total.inc(fetched, source=source)
            log.info("Events repaired from the log", extra={"source": source, "count": fetched})

    def _skip(self, stream: Stream, head: int) -> None:
        """The log no longer has what was not heard: go on after it. All catch up, and are told when they come to it."""
        live = [connection for connection in stream.members if connection.group is not None]
        for connection in live:
            self.fanout.pause(stream, connection)
        stream.skip_to(head)
        for connection in live:
            self.fanout.follow(stream, connection)

    def _restart(self, stream: Stream) -> None:
        """History has changed (a backup was restored): the clients come back and learn it."""
        if not self.knows(stream):
            return
        log.warning("Epoch changed; closing the tenant's connections", extra={"tenant_id": stream.tenant_id})
        del self.streams[stream.tenant_id]
        for connection in list(stream.members):
            self._close(connection, CloseCode.RESTARTING, "epoch")
        stream.wake()

    async def compare_heads(self) -> None:
        """Look whether any log grew unheard, and repair it. Raises StoreUnavailable."""
        # What was known before the question: while it is answered, a log may grow and a stream be opened anew.
        known = {tenant_id: (stream, stream.head) for tenant_id, stream in self.streams.items()}
        if not known:
            return
        heads = await events.heads(self._db.system(), list(known))
        behind = []
        for tenant_id, (stream, head) in known.items():
            if self.streams.get(tenant_id) is not stream:
                continue
            epoch, seq = heads.get(tenant_id, (None, 0))  # none: it was erased, and must not stay in memory
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
            self.forget_unused(time.monotonic())
            try:
                await self.compare_heads()
            except StoreUnavailable as error:
                log.debug("Heads not readable", extra={"error": error.detail})

    def knows(self, stream: Stream) -> bool:
        """Whether this is still the tenant's stream: not after its history has changed."""
        return self.streams.get(stream.tenant_id) is stream

    def forget_unused(self, now: float) -> None:
        """Drop the streams that nobody has listened to for LINGER seconds."""
        for stream in list(self.streams.values()):
            if not stream.members and now - stream.used > LINGER:
                del self.streams[stream.tenant_id]

    # What the fan-out asks for

    async def _read_log(
        self, stream: Stream, after: int, until: int, channel: Channel | None, limit: int
    ) -> tuple[list[Entry], int]:
        page = await self._page(stream, after, until, channel=channel, limit=limit)
        return [Entry(event, stream.epoch) for event in page.events], page.oldest

    async def _page(self, stream: Stream, after: int, until: int = events.LATEST, **which: Any) -> events.Page:
        """Events of this stream's log. Raises StoreUnavailable, also when another log has taken its place."""
        page = await events.since(self._db.one(stream.tenant_id), after, until, **which)
        if page.epoch != stream.epoch:
            self._restart(stream)
            raise StoreUnavailable("The log was replaced by an older one; ask again.")
        return page

    def _lost(self, connection: Connection, from_seq: int, to_seq: int) -> None:
        """Tell a client what the log no longer has for it. Straight to its socket: nobody else lacks it."""
        self._metrics.ws_messages_dropped_total.inc(to_seq - from_seq + 1, reason="unrepairable")
        with trace.span("events lost"), bind(trace_id=trace.trace_id(), connection_id=connection.id):
            log.info("Events lost to a client", extra={"from_seq": from_seq, "to_seq": to_seq})
            event = Event(
                tenant_id=connection.tenant_id,
                seq=None,
                event="system.buffer_dropped",
                ts=datetime.now(UTC),
                severity="warning",
                trace_id=trace.trace_id(),
                data=msgspec.Raw(msgspec.json.encode(Dropped(from_seq, to_seq))),
            )
        connection.write(connection.wire.event(encode_event(event), None))


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
