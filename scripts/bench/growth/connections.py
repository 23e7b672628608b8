"""Connections, 100 → 10,000, of one api process: memory and processor while idle, and an event that all of them get."""

import asyncio
import time
from typing import Any

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.emit import Emitter
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.harness import stage
from scripts.bench.measure import cpu_seconds, median, percentile, raise_file_limit

STEPS = (100, 300, 1_000, 3_000, 10_000)
IDLE = 10.0  # seconds of looking at idle sockets: half a round of heartbeats
EVENTS = 20
MIB = 2**20


async def run() -> Axis | None:
    """The same process all the time: sockets join those that are there. None: too few files may be open here."""
    if raise_file_limit() < STEPS[-1] + 500:
        return None
    got = Collected()
    async with stage(env={"WS_CONNECTIONS_PER_TENANT": "100000"}) as on, crowd(Audience) as ask:
        tickets = on.tickets(0, STEPS[-1])
        emitter = Emitter(on.base, 1, 100)
        await emitter.emit(10, 3.0)  # what the first events make a process grow by is no socket's
        empty = on.api.memory_info().rss
        there = 0
        for step in STEPS:
            await ask("join", base=on.base, tickets=tickets[there:step])
            there = step
            await asyncio.sleep(2.0)
            memory = on.api.memory_info().rss
            cpu, began = cpu_seconds(on.api), time.monotonic()
            await asyncio.sleep(IDLE)
            share = (cpu_seconds(on.api) - cpu) / (time.monotonic() - began)
            await ask("take")
            cpu = cpu_seconds(on.api)
            await emitter.emit(2, EVENTS / 2)
            behind = await ask("reach", heads=emitter.heads, seconds=20.0)
            spent = cpu_seconds(on.api) - cpu - share * EVENTS / 2
            seen: dict[str, Any] = await ask("take")
            got.step(step, {
                ("memory", "api process", "MiB"): memory / MIB,
                ("socket", "memory per socket", "KiB"): (memory - empty) / step / 1024,
                ("idle", "processor while idle", "% of a core"): share * 100,
                ("latency", "p50 of an event for all", "ms"): median(seen["latencies"]) * 1000,
                ("latency", "p99 of an event for all", "ms"): percentile(seen["latencies"], 0.99) * 1000,
                ("delivery", "processor per delivery", "µs"): max(0.0, spent) / EVENTS / step * 1e6,
            })  # fmt: skip
            got.fault("connections dropped", len(seen["closes"]) + behind)
            got.fault("events missing", seen["missing"])
    return got.axis(
        "connections of one process",
        f"sockets subscribed to one channel; idle for {IDLE:.0f} s, then {EVENTS} durable events, two a second",
        "memory", "socket", "latency", "delivery",
    )  # fmt: skip
