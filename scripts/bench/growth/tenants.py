"""Tenants, 10 → 5,000, each with a socket: what follows from their number alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import psutil

from ottoai.db import open_pool
from ottoai.domain import events, outbox
from ottoai.metrics import Metrics
from scripts.bench import jobs
from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.harness import Stage, add_tenants, stage
from scripts.bench.measure import cpu_seconds, median, percentile, raise_file_limit
from scripts.bench.webhooks import Sent, send, signed

STEPS = (10, 100, 1_000, 5_000)
IDLE = 10.0
PER_SECOND = 100
SECONDS = 5
LOOKS = 30


async def run() -> Axis | None:
    """The same processes all the time: tenants join those that are there."""
    if raise_file_limit() < STEPS[-1] + 500:
        return None
    got = Collected()
    async with AsyncExitStack() as stack:
        on = await stack.enter_async_context(stage(0))
        ask = await stack.enter_async_context(crowd(Audience))
        _, beat = await stack.enter_async_context(jobs.processes(on))
        db = await stack.enter_async_context(open_pool(on.config, Metrics("bench")))
        # What the first webhooks make a process grow by is no tenant's.
        there = STEPS[0]
        await add_tenants(on.config, range(there))
        await _ingest(on, there, 0)
        sent_so_far, empty = PER_SECOND * SECONDS, on.api.memory_info().rss
        await ask("join", base=on.base, tickets=[each for n in range(there) for each in on.tickets(n, 1)])
        for step in STEPS:
            await add_tenants(on.config, range(there, step))
            await ask("join", base=on.base, tickets=[each for n in range(there, step) for each in on.tickets(n, 1)])
            there = step
            await asyncio.sleep(2.0)
            memory = on.api.memory_info().rss
            shares = await _idle(on, beat)
            names = [f"bench-{n}" for n in range(step)]
            head = await _took(lambda names=names: events.heads(db.system(), names))  # type: ignore[misc]
            due = await _took(lambda: outbox.due(db.system(), outbox.BATCH))
            sent = await _ingest(on, step, sent_so_far)
            sent_so_far += PER_SECOND * SECONDS
            got.step(step, {
                ("heads", "the look at all heads", "ms"): head,
                ("heads", "beat's look for due jobs", "ms"): due,
                ("idle", "api process", "% of a core"): shares[0],
                ("idle", "beat", "% of a core"): shares[1],
                ("memory", "memory of the api process", "MiB"): memory / 2**20,
                ("tenant", "memory per further tenant with one socket", "KiB"): (memory - empty) / step / 1024,
                ("ingest", "p50 of a webhook", "ms"): median(sent.latencies) * 1000,
                ("ingest", "p99 of a webhook", "ms"): percentile(sent.latencies, 0.99) * 1000,
            })  # fmt: skip
            got.fault("errors", sent.refused)
        got.fault("connections dropped", len((await ask("take"))["closes"]))
    return got.axis(
        "tenants, each with one socket",
        f"one api process, worker and beat; idle for {IDLE:.0f} s, then {PER_SECOND} webhooks/s of all tenants in turn",
        "heads", "ingest",
    )  # fmt: skip


async def _idle(on: Stage, beat: psutil.Process) -> list[float]:
    """Shares of a core, in percent, that api and beat take while nothing happens."""
    before, began = [cpu_seconds(each) for each in (on.api, beat)], time.monotonic()
    await asyncio.sleep(IDLE)
    after, took = [cpu_seconds(each) for each in (on.api, beat)], time.monotonic() - began
    return [(late - early) / took * 100 for early, late in zip(before, after, strict=True)]


async def _took(look: Callable[[], Awaitable[object]]) -> float:
    """Its median, in ms, as its caller sees it."""
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        await look()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


async def _ingest(on: Stage, tenants: int, first: int) -> Sent:
    # Spread over all that there are, wherever the last step ended.
    stride = max(1, tenants // (PER_SECOND * SECONDS))
    return await send(on.base, PER_SECOND, SECONDS, lambda n: signed(first + n, company=1000 + (n * stride) % tenants))
