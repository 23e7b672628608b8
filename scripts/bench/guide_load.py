"""The guide's own load, all of it at once: what each process needs of memory meanwhile, and whether anything fails."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import psutil
from redis.asyncio import Redis

from scripts.bench import jobs, reads, webhooks
from scripts.bench.askers import Answers, ask, get
from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.emit import Emitter
from scripts.bench.harness import Stage, stage
from scripts.bench.measure import Bound, Result, percentile

TENANTS = 50
SOCKETS = 1_000  # of one tenant
EVENTS = 10  # a second, on each of them: 10,000 messages a second
USERS, REQUESTS = 100, 500  # a second
JOBS = 1_000  # a minute; a missed call makes two
SECONDS = 30
LOOK = 0.5
MEMORY = {"api": (256, 512), "worker": (128, 256), "beat": (96, 128), "Redis": (64, 256)}  # MB: goal, guide


async def run() -> Result:
    """Half a minute of it."""
    async with AsyncExitStack() as stack:
        on = await stack.enter_async_context(stage(TENANTS))
        audience = await stack.enter_async_context(crowd(Audience))
        worker, beat = await stack.enter_async_context(jobs.processes(on))
        await asyncio.to_thread(reads.seed, on)
        await audience("join", base=on.base, tickets=on.tickets(0, SOCKETS))
        emitter = Emitter(on.base, 1, 100)
        async with asyncio.TaskGroup() as group:
            peaks = group.create_task(_watch(on, {"api": on.api, "worker": worker, "beat": beat}))
            group.create_task(emitter.emit(EVENTS, SECONDS))
            read = group.create_task(_read(on))
            sent = group.create_task(_miss(on))
        behind = await audience("reach", heads=emitter.heads, seconds=10.0)
        got: dict[str, Any] = await audience("take")
        outcomes = await jobs.outcomes(on.config)
    return _result(peaks.result(), read.result(), sent.result(), got, outcomes, behind, emitter.failed)


def _result(
    peaks: dict[str, float], read: Answers, sent: webhooks.Sent, got: dict[str, Any], outcomes: dict[str, float],
    behind: int, unemitted: int,
) -> Result:  # fmt: skip
    p95 = percentile(read.latencies, 0.95) * 1000
    return Result(
        f"the guide's own load: {SOCKETS:,} sockets with {SOCKETS * EVENTS:,} messages/s, {REQUESTS} requests/s of "
        f"{USERS} users, {JOBS:,} jobs a minute, all at once for {SECONDS} s: memory",
        ", ".join(f"{name} ≤ {goal} MB" for name, (goal, _) in MEMORY.items()),
        ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items()),
        tuple(
            Bound(f"memory of {name}", "MB", peaks[name], goal, guide=guide) for name, (goal, guide) in MEMORY.items()
        ),
        {
            "errors": read.errors + sent.refused + unemitted,
            "connections dropped": len(got["closes"]) + behind,
            "events missing": got["missing"],
            "events repeated": got["repeated"],
            "failed tasks": jobs.undone(outcomes),
        },
        "512, 256, 128, 256 MB",
        details={
            "requests_per_second": read.rate,
            "requests_p95_ms": p95,
            "messages_per_second": got["events"] / SECONDS,
            "event_p95_ms": percentile(got["latencies"], 0.95) * 1000,
            "jobs": outcomes,
        },
    )


async def _watch(on: Stage, processes: dict[str, psutil.Process]) -> dict[str, float]:
    """The most that each has had, in MB."""
    peaks = dict.fromkeys(MEMORY, 0.0)
    async with Redis.from_url(on.config.redis_url) as redis:
        for _ in range(int(SECONDS / LOOK)):
            found = {name: process.memory_info().rss for name, process in processes.items()}
            found["Redis"] = (await redis.info("memory"))["used_memory_rss"]
            peaks = {name: max(peak, found[name] / 1e6) for name, peak in peaks.items()}
            await asyncio.sleep(LOOK)
    return peaks


async def _read(on: Stage) -> Answers:
    token, _ = on.tickets(0, 1)[0]
    second = await reads.cursor_of_page(on, 2)
    wanted = [get(on.base, path, token) for path in ("/api/calls", f"/api/calls?cursor={second}", "/api/leads")]
    turn = iter(range(REQUESTS * SECONDS * 2))
    every = USERS / REQUESTS
    return await ask(on.base, lambda: wanted[next(turn) % len(wanted)], clients=USERS, seconds=SECONDS, every=every)


async def _miss(on: Stage) -> webhooks.Sent:
    """Missed calls of all tenants but the one that is listened to."""
    per_second = round(JOBS / jobs.EACH / 60 + 0.5)
    made = iter(n for n in range(10**6) if n % TENANTS)
    return await webhooks.send(on.base, per_second, SECONDS, lambda _: webhooks.signed(next(made)))
