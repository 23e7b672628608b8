"""The self-probe: an event and a job through the whole path, so that its latency is known with nobody online.

One transaction appends the event and stages the job; bus, hub, flusher and wire bring the event to the other end of a
real socket; the job goes through outbox, queue and worker, and its end comes back as an event. It counts as no client,
and what it sends is in no figure but its own. Each API process sends its own, and ignores those of others.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

import msgspec

from ottoai import trace
from ottoai.background import end, running
from ottoai.db import Database
from ottoai.domain import probes
from ottoai.domain.events import tenant_channel
from ottoai.domain.outbox import Due
from ottoai.domain.tenants import PROBE
from ottoai.errors import OttoError, StoreUnavailable
from ottoai.log import bind
from ottoai.metrics import Metrics
from ottoai.queue import Waker
from ottoai.realtime.bus import Bus
from ottoai.realtime.connection import Connection
from ottoai.realtime.hub import Hub
from ottoai.realtime.stream import Stream
from ottoai.realtime.wires import WEBSOCKET

log = logging.getLogger(__name__)

EVENT_WITHIN: Final = 5.0  # seconds; with Redis away it takes two
JOB_WITHIN: Final = probes.GIVEN_UP_AFTER.total_seconds()
FOREVER: Final = datetime.max.replace(tzinfo=UTC)

Part = Literal["stage", "event", "job"]
Key = tuple[str, str]  # (event, probe)


class _Nobody(NamedTuple):
    """Who the hub takes the probe for."""

    tenant_id: str = PROBE
    user_id: str = "self-probe"
    issued_at: float = 0.0
    expires_at: datetime = FOREVER


class _Heard(msgspec.Struct, frozen=True):
    event: str = ""
    data: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(_Heard)


class Line:
    """A client of the hub within this process, at the far end of a socket of its own."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._waiting: dict[Key, asyncio.Future[float]] = {}

    @property
    def open(self) -> bool:
        """Whether what the hub writes still comes here: not after its history has changed."""
        connection, stream = self._connection, self._stream
        return connection is not None and not connection.gone and stream is not None and self._hub.knows(stream)

    async def connect(self) -> None:
        """Listen to the probe's tenant. Raises NotFound, StoreUnavailable."""
        near, far = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=near)
        self._stack.callback(transport.abort)
        reader, writer = await asyncio.open_unix_connection(sock=far)
        self._stack.callback(writer.close)
        connection = Connection(_Nobody(), transport, "", WEBSOCKET)
        self._stream = await self._hub.attach(connection)
        self._stack.callback(self._hub.detach, connection)
        await self._hub.subscribe(connection, [tenant_channel(PROBE)], None)
        self._stack.push_async_callback(end, [asyncio.create_task(self._hear(reader), name="probe-line")])
        self._connection = connection

    def expect(self, event: str, probe: str) -> "asyncio.Future[float]":
        """When it was heard, by time.perf_counter()."""
        waiting = self._waiting[event, probe] = asyncio.get_running_loop().create_future()
        waiting.add_done_callback(lambda _: self._waiting.pop((event, probe)))
        return waiting

    async def close(self) -> None:
        """Listen no longer."""
        self._connection = self._stream = None
        await self._stack.aclose()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                heard = _decoder.decode(await _frame(reader))
                waiting = self._waiting.get((heard.event, str(heard.data.get("probe"))))
                if waiting is not None and not waiting.done():
                    waiting.set_result(time.perf_counter())


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of one WebSocket frame as servers send them: whole, not masked, under 64 KiB (RFC 6455 5.2)."""
    _, length = await reader.readexactly(2)
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2))
    return await reader.readexactly(length)


class Prober:
    """Sends a probe every so many seconds, one at a time."""

    def __init__(self, every: float, db: Database, bus: Bus, waker: Waker, hub: Hub, metrics: Metrics) -> None:
        self._every = every
        self._db = db
        self._bus = bus
        self._waker = waker
        self._metrics = metrics
        self._line = Line(hub)
        self._failing: set[Part] = set()

    @property
    def listening(self) -> bool:
        """Whether the next probe needs no new line."""
        return self._line.open

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            begun = time.monotonic()
            await self.run_once()
            await asyncio.sleep(max(0.1, self._every - (time.monotonic() - begun)))

    async def run_once(self) -> None:
        """Send one probe and wait until it came through, or did not. Raises nothing of a store that is away."""
        probe = str(uuid4())
        with trace.span("self-probe"), bind(trace_id=trace.trace_id()):
            try:
                await self._listen()
                event, done = self._line.expect(probes.SENT, probe), self._line.expect(probes.DONE, probe)
                try:
                    job, committed = await self._send(probe)
                    await self._await(event, committed, done, job)
                finally:
                    event.cancel()
                    done.cancel()
            except OttoError as error:
                self._failed("stage", error.detail)
                await self._line.close()

    async def close(self) -> None:
        """Stop listening."""
        await self._line.close()

    async def _listen(self) -> None:
        if not self.listening:
            await self._line.close()
            await probes.make_tenant(self._db.system())
            await self._line.connect()

    async def _send(self, probe: str) -> tuple[Due, float]:
        appended, job = await probes.stage(
            self._db.one(PROBE), probe, trace_id=trace.trace_id(), trace_context=trace.traceparent()
        )
        committed = time.perf_counter()
        self._bus.publish(appended)
        self._waker.wake([job])
        self._passed("stage")
        return job, committed

    async def _await(
        self, event: "asyncio.Future[float]", committed: float, done: "asyncio.Future[float]", job: Due
    ) -> None:
        try:
            heard = await asyncio.wait_for(event, EVENT_WITHIN)
        except TimeoutError:
            self._failed("event", f"not heard within {EVENT_WITHIN:g} s")
        else:
            self._metrics.probe_event_seconds.observe(heard - committed)
            self._passed("event")
        try:
            heard = await asyncio.wait_for(done, max(0.0, committed + JOB_WITHIN - time.perf_counter()))
        except TimeoutError:
            self._failed("job", await self._why(job))
        else:
            self._metrics.probe_job_seconds.observe(heard - committed)
            self._passed("job")
        if self._failing & {"event", "job"}:  # the next one begins with a line of its own
            await self._line.close()

    async def _why(self, job: Due) -> str:
        try:
            return await probes.standing(self._db.one(PROBE), job)
        except StoreUnavailable as error:
            return error.detail

    def _failed(self, part: Part, cause: str) -> None:
        self._metrics.probe_failures_total.inc(part=part)
        if part not in self._failing:
            log.warning("Self-probe failed", extra={"part": part, "cause": cause})
        self._failing.add(part)

    def _passed(self, part: Part) -> None:
        if part in self._failing:
            log.info("Self-probe comes through again", extra={"part": part})
        self._failing.discard(part)


@asynccontextmanager
async def open_prober(
    every: float, db: Database, bus: Bus, waker: Waker, hub: Hub, metrics: Metrics
) -> AsyncIterator[Prober]:
    """A prober; with `every` 0 it only probes when told to."""
    prober = Prober(every, db, bus, waker, hub, metrics)
    try:
        async with running(*([prober.run] if every else [])):
            yield prober
    finally:
        await prober.close()
