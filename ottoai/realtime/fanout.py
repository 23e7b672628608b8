"""Writing events to sockets: one flusher for the live ones, a short task for each that has to catch up.

What costs is the system call of a write, about 10 µs whatever the code; so events are joined: all that came within a
window, once for every group of connections with equal channels. The window is nothing while there is little to do,
and grows with the time a flush takes, so that flushing never takes more than half of the core.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import WSCloseCode

from ottoai import trace
from ottoai.background import end
from ottoai.domain.events import Channel, parse_channel
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.realtime.connection import HIGH, LOW, Closer, Connection
from ottoai.realtime.messages import CloseCode
from ottoai.realtime.stream import Entry, Group, Stream

log = logging.getLogger(__name__)

WINDOW_FACTOR: Final = 1.0  # wait as long as the flush took: at most half of the core is spent on flushing
WINDOW_MAX: Final = 0.05  # seconds; what joining gains beyond is little, what it costs is latency
YIELD_EVERY: Final = 500  # writes between two turns of the loop: about 5 ms
CHUNK: Final = 64 * 1024  # bytes written at once to a connection that catches up
READ_PAGE: Final = 200  # events read from the log at once, for one connection
READERS: Final = 4  # connections that read the log at the same time: a crowd must not take the whole pool
DRAIN_POLL: Final = 0.02
STUCK: Final = 30.0  # seconds without the client taking enough to go on
RETRY: Final = 0.5  # until the log is asked again after it did not answer

ReadLog = Callable[[Stream, int, int, Channel | None, int], Awaitable[tuple[list[Entry], int]]]
Lost = Callable[[Connection, int, int], None]


class Fanout:
    """Writes streams to their connections. `read_log(stream, after, until, channel, limit)` reads what the ring no
    longer holds, and the oldest number that the log does; `lost(connection, from, to)` is told of what it does not.
    """

    def __init__(self, metrics: Metrics, close: Closer, read_log: ReadLog, lost: Lost) -> None:
        self._metrics = metrics
        self._close = close
        self._read_log = read_log
        self._lost = lost
        self._dirty: dict[Stream, None] = {}
        self._wake = asyncio.Event()
        self._batch = 0
        self._readers = asyncio.Semaphore(READERS)
        self._slow: dict[asyncio.Future[bool], tuple[Connection, float]] = {}
        self._watch: asyncio.Task[None] | None = None

    def mark(self, stream: Stream) -> None:
        """There is something to flush."""
        self._dirty[stream] = None
        self._wake.set()

    async def run(self) -> None:
        """Flush for ever: at once when idle, in growing windows under load."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            started = time.perf_counter()
            await self.flush()
            window = min((time.perf_counter() - started) * WINDOW_FACTOR, WINDOW_MAX)
            if window > 0.001:
                await asyncio.sleep(window)

    async def flush(self) -> None:
        """Write what is pending to every live connection."""
        self._batch += 1
        dirty, self._dirty = self._dirty, {}
        # First every group gets its bytes, in one go; from then on a connection can be settled at any moment.
        work = [(stream, stream.begin_batch(self._batch), list(stream.groups.values())) for stream in dirty]
        for stream in dirty:
            if stream.pending:
                self.mark(stream)
        begun = time.perf_counter()
        written = sent = 0
        for stream, entries, groups in work:
            for group in groups:
                if group.batch != self._batch:
                    continue
                for connection in list(group.connections):
                    wrote = self._write_batch(stream, group, connection)
                    sent += wrote if stream.counted else 0
                    written += 1
                    if written % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
            if groups:
                self._measure(stream, entries, groups, time.perf_counter() - begun)
        self._metrics.ws_messages_sent_total.inc(sent)

    def _measure(self, stream: Stream, entries: Iterable[Entry], groups: Iterable[Group], seconds: float) -> None:
        """Tell how old events were when they were written, and of those whose trace is recorded, that they were."""
        now = time.time()
        for entry in entries:
            if stream.counted:
                self._metrics.event_e2e_latency_seconds.observe(max(0.0, now - entry.at))
            if entry.traceparent:
                sockets = sum(len(group.connections) for group in groups if group.wants(entry))
                told: dict[str, str | int] = {"place": entry.place or "transient", "sockets": sockets}
                trace.took("socket write", seconds, traceparent=entry.traceparent, attributes=told)

    def _write_batch(self, stream: Stream, group: Group, connection: Connection) -> int:
        """Write a live connection its group's bytes, unless it has them; how many events that was."""
        if connection.group is not group or connection.batch == group.batch:
            return 0
        connection.batch = group.batch
        connection.write(group.bytes)
        if connection.unsent > HIGH:
            self.pause(stream, connection)
            self.follow(stream, connection)
        return group.count

    def pause(self, stream: Stream, connection: Connection) -> None:
        """Take a live connection out of the live stream, with all that is flushed; from then on it is served apart."""
        group = connection.group
        if group is None:
            return
        if connection.batch != group.batch and group.batch == self._batch:
            connection.batch = group.batch
            connection.write(group.bytes)
            self._metrics.ws_messages_sent_total.inc(group.count)
        stream.leave(connection)
        connection.served = dict.fromkeys(connection.channels, stream.flushed)

    def follow(self, stream: Stream, connection: Connection) -> None:
        """Bring a paused connection back to the live stream: at once from the ring if that reaches, else by a task."""
        if connection.reader is None and not self._advance(stream, connection):
            connection.reader = asyncio.create_task(self._catch_up(stream, connection), name="catch-up")

    def _advance(self, stream: Stream, connection: Connection) -> bool:
        """Write what the ring has, as far as the client takes it; true once the connection is live. Does not await."""
        head = stream.flushed
        after = min(connection.served.values(), default=head)
        if connection.unsent > HIGH or (after < head and stream.floor > after):
            return False
        if max(connection.served.values(), default=head) > head:
            return False  # the client has heard elsewhere what is still to be flushed here
        if after < head and self._write(connection, stream.recent(after, head), head) < head:
            return False
        stream.join(connection)
        return True

    def _write(self, connection: Connection, entries: Iterable[Entry], until: int) -> int:
        """Write what is due of these entries, until the client is slow; returns the number up to which it is served."""
        chunk: list[bytes] = []
        size = count = 0
        for entry in entries:
            seq = entry.seq or 0
            if connection.due(entry.channels, seq):
                data = entry.on(connection.wire)
                chunk.append(data)
                size += len(data)
                count += 1
            if size >= CHUNK:
                connection.write(b"".join(chunk))
                chunk, size = [], 0
                if connection.unsent > HIGH:
                    until = seq
                    break
        if chunk:
            connection.write(b"".join(chunk))
        self._metrics.ws_messages_sent_total.inc(count)
        connection.serve(until)
        return until

    async def _catch_up(self, stream: Stream, connection: Connection) -> None:
        try:
            await self._serve(stream, connection)
        except Exception:  # the edge of a task: its client must not wait for ever for what will not come
            log.exception("Catching up failed")
            self._close(connection, WSCloseCode.INTERNAL_ERROR, "error")
        finally:
            connection.reader = None

    async def _serve(self, stream: Stream, connection: Connection) -> None:
        while not connection.gone:
            if not await self.drained(connection):
                return
            if self._advance(stream, connection):
                return
            if connection.unsent <= HIGH:
                await self._read_on(stream, connection)

    async def drained(self, connection: Connection) -> bool:
        """Wait until the client has taken most of what was written; false, and closed, when it does not."""
        if connection.unsent <= LOW or connection.gone:
            return not connection.gone
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._slow[waiter] = (connection, time.monotonic() + STUCK)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_slow(), name="watch-slow")
        try:
            return await waiter
        finally:
            self._slow.pop(waiter, None)

    async def _watch_slow(self) -> None:
        """Look after all slow clients with one timer, as long as there are any."""
        while self._slow:
            await asyncio.sleep(DRAIN_POLL)
            now = time.monotonic()
            for waiter, (connection, deadline) in list(self._slow.items()):
                stuck = connection.unsent > LOW
                if stuck and not connection.gone and now <= deadline:
                    continue
                if stuck and not connection.gone:
                    self._close(connection, CloseCode.STUCK, "slow")
                del self._slow[waiter]
                if not waiter.done():
                    waiter.set_result(not connection.gone)
        self._watch = None

    async def stop(self) -> None:
        """Look after nobody any more."""
        if self._watch is not None:
            await end([self._watch])

    async def _read_on(self, stream: Stream, connection: Connection) -> None:
        """Write a page from the log."""
        channel, after, until = connection.stretch(stream.flushed)
        if after >= until:
            await asyncio.sleep(DRAIN_POLL)
            return
        changes = connection.changes
        parsed = parse_channel(channel) if channel else None
        try:
            async with self._readers:
                page, oldest = await self._read_log(stream, after, until, parsed, READ_PAGE)
        except StoreUnavailable:
            await asyncio.sleep(RETRY)
            return
        if connection.changes != changes:
            return  # a channel came or went while the log was read: what is older of it would have to go first
        if oldest > after + 1:
            self._lost(connection, after + 1, min(oldest - 1, until))
        self._write(connection, page, until if len(page) < READ_PAGE else (page[-1].seq or until))
