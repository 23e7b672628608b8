"""API processes, 1 → 3, under the same load: what each further one adds to Redis, PostgreSQL and the processors."""

import asyncio
import time
from contextlib import closing
from typing import Any

import psycopg2
from redis.asyncio import Redis

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.harness import Stage, heads, stage
from scripts.bench.measure import cpu_seconds, median, percentile
from scripts.bench.webhooks import TENANTS, Sent, send, signed

STEPS = (1, 2, 3)
SOCKETS = 12  # of each tenant, spread over the processes
PER_SECOND = 150
SECONDS = 8
IDLE = 10.0
COMMITS = "select xact_commit from pg_stat_database where datname = current_database()"
WAL = "select wal_bytes::bigint from pg_stat_wal"


async def run() -> Axis:
    """Everything anew for each step; webhooks go to the processes in turn."""
    got = Collected()
    for step in STEPS:
        async with stage(TENANTS, apis=step) as on, crowd(Audience) as ask:
            for tenant in range(TENANTS):
                tickets = on.tickets(tenant, SOCKETS)
                for n, api in enumerate(on.apis):
                    await ask("join", base=api.base, tickets=tickets[n::step])
            await asyncio.sleep(2.0)
            before = await _counts(on)
            await asyncio.sleep(IDLE)
            idle = _since(before, await _counts(on))
            before, known = await _counts(on), await heads(on.config, TENANTS)
            each = await asyncio.gather(*(_send(on, n, api.base) for n, api in enumerate(on.apis)))
            after = await heads(on.config, TENANTS)
            behind = await ask("reach", heads=after, seconds=10.0)
            busy = _since(before, await _counts(on))
            seen: dict[str, Any] = await ask("take")
        webhooks = sum(len(sent.latencies) for sent in each)
        latencies = [took for sent in each for took in sent.latencies]
        due = sum(after[name] - known[name] for name in after) * SOCKETS
        got.step(step, {
            ("cpu", "api processes, per webhook and its deliveries", "ms"): busy["cpu"] / webhooks * 1000,
            ("redis", "Redis commands per webhook", ""): busy["redis"] / webhooks,
            ("redis", "transactions per webhook", ""): busy["commits"] / webhooks,
            ("wal", "WAL per webhook", "kB"): busy["wal"] / webhooks / 1000,
            ("idle", "Redis commands a second while idle", "/s"): idle["redis"] / idle["took"],
            ("idle", "transactions a second while idle", "/s"): idle["commits"] / idle["took"],
            ("idle cpu", "api processes while idle", "% of a core"): idle["cpu"] / idle["took"] * 100,
            ("latency", "p50 of a webhook", "ms"): median(latencies) * 1000,
            ("latency", "p99 of a webhook", "ms"): percentile(latencies, 0.99) * 1000,
        })  # fmt: skip
        got.fault("errors", sum(sent.refused for sent in each))
        got.fault("events missing", due - seen["events"] + seen["missing"])
        got.fault("connections dropped", behind + len(seen["closes"]))
    return got.axis(
        "api processes",
        f"{TENANTS} tenants with {SOCKETS} sockets each, {PER_SECOND} webhooks/s in all; idle for {IDLE:.0f} s before",
        "latency",
    )  # fmt: skip


async def _send(on: Stage, n: int, base: str) -> Sent:
    count = len(on.apis)
    return await send(base, PER_SECOND // count, SECONDS, lambda i: signed(i * count + n))


async def _counts(on: Stage) -> dict[str, float]:
    async with Redis.from_url(on.config.redis_url) as redis:
        commands = (await redis.info("stats"))["total_commands_processed"]
    commits, wal = await asyncio.to_thread(_database, on)
    return {
        "at": time.monotonic(), "redis": commands, "commits": commits, "wal": wal,
        "cpu": sum(cpu_seconds(api.process) for api in on.apis),
    }  # fmt: skip


def _database(on: Stage) -> tuple[int, int]:
    with closing(psycopg2.connect(on.config.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(COMMITS)
        commits = (cursor.fetchone() or (0,))[0]
        cursor.execute(WAL)
        return commits, (cursor.fetchone() or (0,))[0]


def _since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    grown = {name: now[name] - before[name] for name in now}
    return {**grown, "took": grown.pop("at")}
