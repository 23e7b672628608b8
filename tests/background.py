"""What the tests of the background processes say often: staged work, a worker, a beat, and waiting for an effect."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
from redis import Redis

from jobs import worker
from jobs.beat import Beat
from jobs.context import Context, open_context
from jobs.rq_worker import Worker
from jobs.schedule import Schedule
from ottoai import samples
from ottoai.config import Config
from ottoai.db import Database
from ottoai.domain import calls, missed_calls, outbox
from ottoai.metrics import Metrics
from ottoai.queue import QUEUES, Queues, client
from ottoai.tally import Reporter
from tests.canary import watch
from tests.conftest import execute, of_tenant

ROOT = Path(__file__).parent.parent


async def miss_a_call(db: Database, number: int = 100) -> outbox.Due:
    """A missed call, as a delivery records it, and its rescue followed up once; the job that is to text back."""
    now = datetime.now(UTC)
    phone = samples.daytime_phone(now, number)
    facts = calls.Facts(direction="inbound", answered=False, started_at=now, customer_phone=phone)
    delivery = {"provider": "callrail", "kind": "call-complete", "variant": "1", "headers": "{}", "body": b"{}"}
    async with db.transaction("demo") as tx:
        recorded = await calls.record(
            tx, calls.Report(external_id=str(number), rank=3, facts=facts), now, now,
            trace_id="1" * 32, trace_context=f"00-{'1' * 32}-{'2' * 16}-01", **delivery,
        )  # fmt: skip
    (job,) = recorded.jobs
    (leased,) = await outbox.lease(db.system(), [job.id], 15)
    advanced = await missed_calls.follow_up(db.one("demo"), leased, datetime.now(UTC), "1" * 32)
    assert advanced
    (text,) = advanced.jobs
    return text


def stage(database_url: str, job: str, *, queue: str = "default", tenant: str = "demo") -> outbox.Due:
    """A job of any name, due now."""
    sql = (
        "insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)"
        " values (current_tenant(), %s, %s, gen_random_uuid(), now(), now()) returning id::text"
    )
    ((job_id,),) = of_tenant(database_url, sql, job, queue, tenant=tenant)
    return outbox.Due(str(job_id), queue, tenant)


class Gate:
    """A job that waits until it is let go; who runs, and who ran, by outbox id."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running: set[str] = set()
        self.begun: list[str] = []

    async def __call__(self, context: Context, job: outbox.Leased) -> None:
        self.begun.append(job.id)
        self.running.add(job.id)
        try:
            await self.open.wait()
        finally:
            self.running.discard(job.id)
        await outbox.done(context.db.one(job.tenant_id), job)


def effects(database_url: str) -> dict[str, Any]:
    """What came of the jobs: texts that went out, events by name, states of the jobs that send them."""
    texts = of_tenant(database_url, "select count(*) from development_texts")[0][0]
    events = of_tenant(database_url, "select event, count(*) from events group by event")
    return {
        "texts": texts,
        "sent": dict(events).get("telephony.sms.sent", 0),
        "texted": dict(events).get("missed_call.texted", 0),
        "outbox": [row[0] for row in execute(database_url, "select state from outbox where job = 'send_text'")],
    }


ONE_TEXT = {"texts": 1, "sent": 1, "texted": 1, "outbox": ["done"]}


@asynccontextmanager
async def worker_of(config: Config, metrics: Metrics, name: str = "worker-test") -> AsyncIterator[Worker]:
    """A worker of this process that has not begun to serve."""
    async with open_context(config, metrics) as context:
        reporter = Reporter(config.redis_url, "worker", version="test", figures=metrics.render, name=name)
        made = worker.make(context, QUEUES, reporter)
        await made._pauses.run_once()  # or it would not know yet from which queues it may take
        try:
            yield made
        finally:
            made.stopping.set()
            made.connection.close()
            reporter._redis.close()


@asynccontextmanager
async def serving(config: Config, metrics: Metrics, name: str = "worker-test") -> AsyncIterator[threading.Thread]:
    """A worker of this process, serving."""
    async with worker_of(config, metrics, name) as made:
        thread = threading.Thread(target=made.serve)
        thread.start()
        try:
            yield thread
        finally:
            made.stopping.set()
            await asyncio.to_thread(thread.join, 10)


async def work(made: Worker) -> None:
    """One look into the queues, and what was found done to its end."""

    def once() -> None:
        made.run_once()
        while made.busy:
            made.run_once()

    await asyncio.to_thread(once)


@contextmanager
def beat_of(config: Config, db: Database, metrics: Metrics | None = None) -> Iterator[Beat]:
    """A beat of this process; `run_once` is a tick."""
    metrics = metrics or Metrics("test", "worker")
    with closing(client(config)) as connection:
        queues = Queues(connection)
        reporter = Reporter(config.redis_url, "beat", version="test", figures=metrics.render, name="beat-test")
        yield Beat(db, queues, Schedule(connection, queues), metrics, reporter)
        reporter._redis.close()


@asynccontextmanager
async def context_of(config: Config) -> AsyncIterator[Context]:
    async with open_context(config, Metrics("test", "worker")) as context:
        yield context


@contextmanager
def process(command: str, config: Config, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A real `python -m jobs` process; killed at the end if it still lives."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "ENVIRONMENT": "test",
        "DATABASE_URL": config.database_url,
        "REDIS_URL": config.redis_url,
        "JWT_SECRET": config.jwt_secret,
        "SECRET_KEYS": ",".join(config.secret_keys),
        **settings,
    }
    started = subprocess.Popen(
        [sys.executable, "-m", "jobs", command],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        for output in started.communicate():
            watch.saw(f"jobs {command}", output or "")


@contextmanager
def locked(database_url: str, table: str) -> Iterator[None]:
    """Nobody else may touch this table; whoever tries waits."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table {table} in access exclusive mode")
        yield


def blocked(database_url: str) -> list[int]:
    """Server processes that wait for a lock."""
    sql = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return [int(row[0]) for row in execute(database_url, sql)]  # type: ignore[call-overload]


async def eventually(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `check` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


def texted(database_url: str) -> Callable[[], bool]:
    return lambda: effects(database_url) == ONE_TEXT


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one series in the rendered text; 0 when it is not there."""
    for line in metrics.render().splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def redis_of(config: Config) -> Redis:
    return client(config)
