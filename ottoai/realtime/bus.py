"""Hints between processes: Redis pub/sub tells that a tenant's log grew, and carries what was added.

A hint may be lost, repeated or late without harm; the log is the truth and the hub compares with it. Nothing here
waits for Redis on behalf of a caller.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from ottoai import trace
from ottoai.background import running
from ottoai.domain.events import Appended
from ottoai.domain.tenants import PROBE

log = logging.getLogger(__name__)

PREFIX = "hint:"
OUTBOX_SIZE = 10_000  # hints waiting for Redis; past that the oldest go, and receivers read the log instead
BATCH = 200  # hints published in one round trip
PING_EVERY = 2.0
SILENCE = 5.0  # a link that did not even answer a ping for so long is dead, whatever TCP says
RECONNECT = 0.5
DRAIN = 1.0  # seconds that a stopping process spends on publishing what is left

Listener = Callable[[Appended], None]


class Hint(msgspec.Struct, frozen=True):
    """What travels: who sent it (so that a process knows its own) and what was appended."""

    origin: str
    appended: Appended


class Bus:
    """One process's end of the bus. `listener` hears what others, and this process, published."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.listener: Listener | None = None
        self.up = False  # whether the subscription is believed to work
        self._client = client
        self._origin = uuid4().hex
        self._waiting: asyncio.Queue[Appended] = asyncio.Queue(OUTBOX_SIZE)

    def publish(self, appended: Appended) -> None:
        """Tell everyone: this process's own listener at once, the others through Redis."""
        if not appended.events:
            return
        with self._traced(appended) as appended:
            self._publish(appended)

    @contextmanager
    def _traced(self, appended: Appended) -> Iterator[Appended]:
        """Where the trace is recorded, so is this, and those who write it to sockets can go on from here."""
        if not trace.recorded():
            yield appended
            return
        names = ", ".join(event.event for event in appended.events)
        with trace.span("publish", kind=trace.SpanKind.PRODUCER, attributes={"events": names}):
            yield msgspec.structs.replace(appended, traceparent=trace.traceparent())

    def _publish(self, appended: Appended) -> None:
        for event in appended.events:
            channels = event.channels
            # What each process sends itself every few seconds is not worth a line.
            level = logging.DEBUG if event.tenant_id == PROBE else logging.INFO
            log.log(
                level,
                "Event %s published to %d channels",
                event.event,
                len(channels),
                extra={
                    "event": event.event,
                    "seq": event.seq,
                    "channels": channels,
                    "tenant_id": event.tenant_id,
                    "trace_id": event.trace_id,
                },
            )
        if self.listener:
            self.listener(appended)
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(appended)

    async def send_once(self) -> None:
        """Publish what is waiting, in one round trip. What Redis does not take is dropped: the log has it."""
        batch = [await self._waiting.get()]
        while not self._waiting.empty() and len(batch) < BATCH:
            batch.append(self._waiting.get_nowait())
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for appended in batch:
                    hint = msgspec.json.encode(Hint(self._origin, appended))
                    pipe.publish(PREFIX + appended.tenant_id, hint)
                await pipe.execute()
        except (RedisError, OSError) as error:
            log.debug("Hints not published", extra={"count": len(batch), "error": error})

    async def send(self) -> None:
        """Publish for ever."""
        while True:
            await self.send_once()

    async def drain(self, seconds: float) -> None:
        """Publish what is waiting before the process ends, for at most so long."""
        deadline = time.monotonic() + seconds
        while not self._waiting.empty() and time.monotonic() < deadline:
            await self.send_once()

    async def listen(self) -> None:
        """Hear for ever, reconnecting whenever the link is lost or silent."""
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await self._hear(pubsub)
            except (RedisError, OSError, TimeoutError) as error:
                if self.up:
                    log.warning("Redis pub/sub lost; events come from the log", extra={"error": error})
                self.up = False
                await asyncio.sleep(RECONNECT)

    async def _hear(self, pubsub: "redis.asyncio.client.PubSub") -> None:
        await pubsub.psubscribe(PREFIX + "*")
        heard = pinged = time.monotonic()
        while True:
            message = await pubsub.get_message(timeout=PING_EVERY)
            now = time.monotonic()
            if message is not None:
                heard = now
                if not self.up:
                    self.up = True
                    log.info("Redis pub/sub connected")
                if message["type"] == "pmessage":
                    self._deliver(message["data"])
            if now - heard > SILENCE:
                raise TimeoutError(f"nothing heard for {SILENCE} s")
            if now - pinged >= PING_EVERY:
                await pubsub.ping()
                pinged = now

    def _deliver(self, data: bytes) -> None:
        try:
            hint = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            log.warning("A hint was not understood", extra={"error": str(error)})
            return
        if hint.origin != self._origin and self.listener:
            self.listener(hint.appended)


_decoder = msgspec.json.Decoder(Hint)


@asynccontextmanager
async def open_bus(client: redis.asyncio.Redis, *, listen: bool) -> AsyncIterator[Bus]:
    """A running bus; a process that serves no sockets only sends."""
    bus = Bus(client)
    loops = [bus.send, bus.listen] if listen else [bus.send]
    async with running(*loops):
        yield bus
    await bus.drain(DRAIN)
