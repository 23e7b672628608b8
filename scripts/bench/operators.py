"""The operators' page with 10,000 sockets and 10,000 failed jobs: how soon it is there, and who waits for it."""

import asyncio
import time
from contextlib import closing

import aiohttp
import psycopg2

from ottoai.db import options
from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.harness import Stage, stage
from scripts.bench.measure import Bound, Result, median, percentile, raise_file_limit

TENANTS = 10
USERS = 1_000
JOBS = 10_000
ROUNDS = 20
PAUSE = 1.2  # what was gathered is shared for a second
GOAL = 0.1  # seconds
BESIDE = 0.02  # seconds between requests for /health, which no page may hold up
FILES = TENANTS * USERS + 500
FAILED = """
insert into outbox (
    tenant_id, job, queue, subject_id, state, attempts, due_at, enqueue_at, error, traceback, finished_at
)
select
    'bench-0', 'send_text', 'urgent', gen_random_uuid(), 'dead', 10, now(), now(), 'StoreUnavailable: away',
    repeat('jobs/send_text.py:70 in send' || chr(10), 20), now() - n * interval '1 second'
from generate_series(1, %s) as n
"""


async def run() -> Result:
    """Each form of the page, as often as an operator's browser asks for it."""
    sockets = TENANTS * USERS
    what = f"/ops with {sockets:,} sockets and {JOBS:,} failed jobs"
    goal = f"≤ {GOAL * 1000:.0f} ms"
    if (limit := raise_file_limit()) < FILES:
        return Result(what, goal, f"a process may open {limit} files here, {FILES} are needed (ulimit -Hn)")
    async with stage(TENANTS, env={"OPS_USERS": "bench:bench:operator"}) as on, crowd(Audience) as ask:
        _fail(on)
        for tenant in range(TENANTS):
            await ask("join", base=on.base, tickets=on.tickets(tenant, USERS))
        await asyncio.sleep(5)
        async with asyncio.TaskGroup() as group:
            alone = await _beside(on, 100)
            watched = group.create_task(_beside(on, int(3 * ROUNDS * PAUSE / BESIDE)))
            took = {path: await _ask(on, path) for path in ("/ops", "/ops.txt", "/ops.json")}
    middle = {path: median(times) for path, (times, _) in took.items()}
    return Result(
        what,
        goal,
        ", ".join(f"{path} {seconds * 1000:.0f} ms" for path, seconds in middle.items()),
        tuple(Bound(f"median of {path}", "ms", seconds * 1000, GOAL * 1000) for path, seconds in middle.items()),
        details={
            **{f"{path} p95, ms": percentile(times, 0.95) * 1000 for path, (times, _) in took.items()},
            **{f"{path} kB": size / 1000 for path, (_, size) in took.items()},
            "/health alone p99, ms": percentile(alone, 0.99) * 1000,
            "/health meanwhile p99, ms": percentile(watched.result(), 0.99) * 1000,
        },
    )


def _fail(on: Stage) -> None:
    """Jobs that were given up."""
    with (
        closing(
            psycopg2.connect(on.config.database_url, options=f"{options('ottoai_app')} -c app.tenant_id=bench-0")
        ) as db,
        db,
        db.cursor() as cursor,
    ):
        cursor.execute(FAILED, (JOBS,))


async def _ask(on: Stage, path: str) -> tuple[list[float], int]:
    """(seconds of each time, bytes)."""
    times, size = [], 0
    headers = {"Authorization": aiohttp.encode_basic_auth("bench", "bench")}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(ROUNDS):
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            async with session.get(on.base + path) as response:
                size = len(await response.read())
                response.raise_for_status()
            times.append(time.perf_counter() - began)
    return times, size


async def _beside(on: Stage, times: int) -> list[float]:
    """How long /health takes, asked all the while."""
    took = []
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            await asyncio.sleep(BESIDE)
            began = time.perf_counter()
            async with session.get(f"{on.base}/health") as response:
                await response.read()
            took.append(time.perf_counter() - began)
    return took
