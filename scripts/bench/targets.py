"""What broadcasts: the product, told by another process of the product; and what a peer has to bring."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import msgspec
import psutil

from ottoai.domain.events import Appended, Event
from ottoai.realtime.bus import open_bus
from ottoai.realtime.messages import Envelope
from ottoai.redis_pool import open_redis
from scripts.bench.harness import stage
from scripts.bench.listeners import client_frame, upgrade
from scripts.bench.taps import stamp

TENANT = "bench-0"
FILLER = 40  # makes an event's JSON what `SIZE` says


class Target(msgspec.Struct, frozen=True):
    """Something that broadcasts: what to connect, how to publish the event of a number, and the bytes of a delivery."""

    name: str
    process: psutil.Process
    base: str
    steps: Callable[[int], list[list[tuple[bytes, bytes]]]]  # for so many sockets
    publish: Callable[[int], None]
    size: int
    pong: bool = False
    ours: bool = False


def _event(number: int) -> Event:
    # A time without a fraction would be shorter.
    now = datetime.now(UTC)
    data = b'{%s,"filler":"%s"}' % (stamp(number, time.monotonic()).encode(), b"x" * FILLER)
    return Event(
        tenant_id=TENANT, seq=None, event="test.bench", ts=now.replace(microsecond=now.microsecond or 1),
        severity="info", trace_id="0" * 32, data=msgspec.Raw(data),
    )  # fmt: skip


def payload(number: int) -> bytes:
    """The event as its JSON goes over every server's wire."""
    event = _event(number)
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return msgspec.json.encode(Envelope(version="1", **fields))


SIZE = len(payload(0))


@asynccontextmanager
async def ottoai() -> AsyncIterator[Target]:
    """The product, told by another process of the product: hints over Redis."""
    async with AsyncExitStack() as stack:
        on = await stack.enter_async_context(stage(pinned=True))
        bus = await stack.enter_async_context(
            open_bus(await stack.enter_async_context(open_redis(on.config)), listen=False)
        )
        subscribe = client_frame(1, b'{"type":"subscribe","channel":"tenant:%s:events"}' % TENANT.encode())

        def steps(count: int) -> list[list[tuple[bytes, bytes]]]:
            tickets = on.tickets(0, count)
            # The welcome comes by itself, in one piece with the answer to the upgrade or after it.
            return [
                [(upgrade(on.base, "/ws", token), b"\r\n\r\n"), (subscribe, b'"subscribe_result"'), (b"", b"}")]
                for token, _ in tickets
            ]

        def publish(number: int) -> None:
            bus.publish(Appended(TENANT, 0, (_event(number),)))

        yield Target("OttoAI", on.api, on.base, steps, publish, SIZE + 4, pong=True, ours=True)
