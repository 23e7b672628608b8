"""Staged jobs through one worker process, beside what bare RQ does with empty ones; and a tenant in another's flood."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import psutil

from ottoai import samples, tally
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import calls, outbox
from ottoai.domain.outbox import Due
from ottoai.metrics import Metrics
from ottoai.queue import Queues, client
from ottoai.redis_pool import open_redis
from scripts.bench.cores import child, every_core
from scripts.bench.harness import Stage, stage
from scripts.bench.measure import Bound, Result, cpu_seconds, median

TENANTS = 50
ROUNDS = 3  # of ours and of RQ's in turn: the machine is not as fast in one minute as in the next
CALLS = 1_000  # missed, in a round
EACH = 2  # jobs: following the rescue up, and the text that this wants sent
BARE = {"SimpleWorker": 1_000, "Worker": 100}  # empty jobs for RQ's own workers, in a round
FLOOD = 5_000  # missed calls of one tenant
PROBES = 10  # of other tenants, meanwhile
AT_ONCE = 10  # calls that are recorded side by side
GOAL_RATE = 6_000  # a minute
GOAL_SHARE = 0.6
GOAL_WAIT = 1.0  # seconds
UNDONE = {"failure", "retry", "stopped"}  # outcomes of attempts


async def run() -> dict[str, Result]:
    """Throughput, then fairness."""
    async with stage(TENANTS, apis=0) as on, open_pool(on.config, Metrics("bench")) as db, processes(on) as (worker, _):
        rounds = [await _round(on.config, db, worker, number) for number in range(ROUNDS)]
        memory = worker.memory_info().rss / 2**20
        found = await outcomes(on.config)
        staged = await _stage_jobs(db, range(ROUNDS * CALLS, ROUNDS * CALLS + FLOOD), lambda _: 0)
        waits = await _waits(on.config, db, staged)
    took = {name: sum(each[name] for each in rounds) for name in rounds[0]}
    return {"jobs": _throughput(took, {"worker_mib": memory, **found}), "jobs, fairness": _fairness(waits)}


async def _round(config: Config, db: Database, worker: psutil.Process, number: int) -> dict[str, float]:
    """Seconds that each took, and those of the worker's processor."""
    took = {name: await asyncio.to_thread(_bare, config, name, count) for name, count in BARE.items()}
    staged = await _stage_jobs(db, range(number * CALLS, (number + 1) * CALLS), lambda n: n % TENANTS)
    cpu, started = cpu_seconds(worker), time.monotonic()
    await _enqueue(config, staged)
    await _until(lambda: _all_done(db), 0.05)
    return {**took, "ours": time.monotonic() - started, "cpu": cpu_seconds(worker) - cpu}


def _throughput(took: dict[str, float], seen: dict[str, float]) -> Result:
    jobs = ROUNDS * CALLS * EACH
    rate = jobs / took["ours"]
    bare = {name: ROUNDS * count / took[name] for name, count in BARE.items()}
    share = rate / bare["SimpleWorker"]
    return Result(
        f"{jobs:,} jobs of one worker process: {ROUNDS * CALLS:,} missed calls, each decided about and texted",
        f"≥ {GOAL_RATE:,} a minute, ≥ {GOAL_SHARE:.0%} of bare RQ with the same worker class and empty jobs",
        f"{rate * 60:,.0f} a minute, {share:.0%} of bare RQ",
        (
            Bound("jobs a minute", "/min", rate * 60, GOAL_RATE, least=True, guide=1_000,
                  peers={f"bare RQ, {name}": each * 60 for name, each in bare.items()}),
            Bound("share of bare RQ", "%", share * 100, GOAL_SHARE * 100, least=True),
        ),
        {"failed tasks": undone(seen)},
        "1,000/min",
        {f"RQ's {name}": f"{each * 60:,.0f} a minute, empty jobs" for name, each in bare.items()},
        {"a_second": rate, "worker_cpu_ms_each": took["cpu"] / jobs * 1000, **seen,
         **{f"bare_{name}_a_second": each for name, each in bare.items()}},
    )  # fmt: skip


def _fairness(waits: list[float]) -> Result:
    return Result(
        f"another tenant's missed call while one tenant has {FLOOD:,} queued, from staged to texted",
        f"≤ {GOAL_WAIT:.0f} s",
        f"{max(waits):.3f} s at worst of {len(waits)}, {median(waits):.3f} s in the middle" if waits else "nothing",
        (Bound("longest wait of another tenant", "s", max(waits), GOAL_WAIT),) if waits else (),
    )


def _bare(config: Config, name: str, count: int) -> float:
    words = [sys.executable, "-m", "scripts.bench.bare_rq", name, str(count)]
    env = {**os.environ, "REDIS_URL": config.redis_url}
    return float(subprocess.run(words, env=env, capture_output=True, check=True, text=True).stdout)


async def _stage_jobs(db: Database, numbers: Iterable[int], tenant: Callable[[int], int]) -> list[Due]:
    """Missed calls, recorded as a delivery does; the jobs that text back, not yet enqueued."""
    left = iter(numbers)
    staged: list[Due] = []

    async def work() -> None:
        for n in left:
            staged.extend(await _miss(db, n, f"bench-{tenant(n)}"))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return staged


async def _miss(db: Database, n: int, tenant_id: str) -> tuple[Due, ...]:
    now = datetime.now(UTC)
    phone = f"{samples.daytime_phone(now)[:5]}{200 + n // 10_000:03}{n % 10_000:04}"
    facts = calls.Facts(direction="inbound", answered=False, started_at=now, customer_phone=phone)
    async with db.transaction(tenant_id) as tx:
        recorded = await calls.record(
            tx, calls.Report(external_id=str(n), rank=3, facts=facts), now, now, trace_id="1" * 32, trace_context="",
            provider="callrail", kind="call-complete", variant="1", headers="{}", body=b"{}",
        )  # fmt: skip
    return recorded.jobs


@asynccontextmanager
async def processes(on: Stage) -> AsyncIterator[tuple[psutil.Process, psutil.Process]]:
    """A worker and a beat, both at work."""
    words = [sys.executable, "-m", "jobs"]
    with (
        child([*words, "worker"], cores=every_core(), env=on.environ) as worker,
        child([*words, "beat"], cores=every_core(), env=on.environ) as beat,
        closing(client(on.config)) as connection,
    ):
        await _until(lambda: asyncio.to_thread(connection.exists, "rq:workers"), 0.1)
        yield psutil.Process(worker.pid), psutil.Process(beat.pid)


async def _waits(config: Config, db: Database, flood: list[Due]) -> list[float]:
    """How long the first jobs of other tenants take while the flood is worked off."""
    await _enqueue(config, flood)
    waits: list[float] = []
    for n in range(PROBES):
        await asyncio.sleep(0.5)
        if await _all_done(db, "bench-0"):
            break
        started = time.monotonic()
        (job,) = await _miss(db, 100_000 + n, f"bench-{n + 1}")
        await _enqueue(config, [job])
        await _until(lambda tenant=job.tenant_id: _all_done(db, tenant), 0.005)
        waits.append(time.monotonic() - started)
    await _until(lambda: _all_done(db), 0.05)
    return waits


async def outcomes(config: Config) -> dict[str, float]:
    """How many jobs the worker says have ended, by outcome."""
    await asyncio.sleep(tally.EVERY_SECONDS + 1)  # until its figures are all there
    async with open_redis(config) as store:
        lines = [line for each in await tally.read(store) for line in each.metrics_text.splitlines()]
    found: dict[str, float] = {}
    for line in lines:
        if match := re.match(r'worker_task_total\{.*status="(\w+)".* (\S+)$', line):
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
    return found


def undone(found: dict[str, float]) -> int:
    """How many of them came to nothing."""
    return int(sum(count for status, count in found.items() if status in UNDONE))


async def _enqueue(config: Config, jobs: list[Due]) -> None:
    """As a process does that has just committed them; what finds no room beat brings in."""
    with closing(client(config)) as connection:
        await asyncio.to_thread(Queues(connection).enqueue, jobs)


async def _all_done(db: Database, tenant_id: str | None = None) -> bool:
    """Whether nothing is due; each rescue has a job of later."""
    oldest = await outbox.listed(db.system(), "open", tenant_id, 1)
    return not oldest or oldest[0].stood < 0


async def _until(check: Callable[[], Awaitable[object]], pause: float) -> None:
    while True:
        if await check():
            return
        await asyncio.sleep(pause)
