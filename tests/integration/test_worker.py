"""The worker, with real stores and where it matters as a real process: every job once, whatever dies."""

import asyncio
import os
import signal
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs import outage, run, worker
from jobs.context import Context, Retry, Staged
from jobs.run import perform, perform_periodic
from ottoai import tally
from ottoai.domain import outbox
from ottoai.domain.outbox import Leased
from ottoai.errors import ConfigError, InvalidInput
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from ottoai.redis_pool import open_redis
from tests.background import (
    ONE_TEXT,
    beat_of,
    blocked,
    context_of,
    counted,
    effects,
    eventually,
    locked,
    miss_a_call,
    process,
    redis_of,
    serving,
    stage,
    texted,
    work,
    worker_of,
)
from tests.conftest import execute, make_config, of_tenant

TASK = {"task": "send_text", "queue": "urgent"}


async def fails(context: Context, job: Leased) -> None:
    raise InvalidInput("never works")


@pytest.fixture
def metrics():
    return Metrics("test", "worker")


@pytest.fixture
def queues(config):
    with closing(redis_of(config)) as connection:
        yield Queues(connection)


@pytest.fixture
def impatient(monkeypatch):
    """Jobs fall due at once, and again a second after they were enqueued."""
    monkeypatch.setattr(outbox, "REPAIR_AFTER", timedelta(0))
    monkeypatch.setattr(outbox, "QUEUED_FOR", timedelta(seconds=1))


async def test_a_missed_call_is_texted_counted_and_leaves_nothing_in_redis(config, db, demo, queues, metrics):
    queues.enqueue([await miss_a_call(db)])
    async with worker_of(config, metrics) as made:
        await work(made)
    assert effects(config.database_url) == ONE_TEXT
    assert counted(metrics, "worker_task_total", status="success", **TASK) == 1
    assert counted(metrics, "worker_task_duration_seconds_count", **TASK) == 1
    assert counted(metrics, "worker_task_wait_seconds_count", queue="urgent") == 1
    with closing(redis_of(config)) as connection:
        left = {key.decode().split(":")[1] for key in connection.scan_iter("rq:*")}
    assert not left & {"job", "executions", "execution", "wip", "queue", "failed", "finished"}


async def test_the_trace_of_the_delivery_goes_on_in_its_events(config, db, demo):
    job = await miss_a_call(db)
    async with context_of(config) as context:
        await perform(context, job.id)
    traces = of_tenant(config.database_url, "select distinct trace_id from events where event = 'missed_call.texted'")
    assert traces == [("1" * 32,)]


async def test_a_job_that_is_queued_twice_runs_and_counts_once(config, db, demo, queues, metrics):
    job = await miss_a_call(db)
    queues.enqueue([job, job])
    async with worker_of(config, metrics) as made:
        await work(made)
        queues.enqueue([job])
        await work(made)
    assert effects(config.database_url) == ONE_TEXT
    assert counted(metrics, "worker_task_total", status="success", **TASK) == 1


async def test_of_workers_that_race_for_a_job_one_gets_it(config, db, demo):
    job = await miss_a_call(db)
    async with context_of(config) as one, context_of(config) as other:
        outcomes = await asyncio.gather(*(perform(context, job.id) for context in (one, other) * 4))
    assert [outcome.status for outcome in outcomes if outcome] == ["success"]
    assert effects(config.database_url) == ONE_TEXT


@pytest.mark.parametrize(
    ("table", "in_flight_commits"),
    [
        ("missed_calls", False),  # before `sending` is committed
        ("development_texts", False),  # after it, before the carrier has the text
        ("development_texts", True),  # the carrier has it, and we were not told
        ("heads", False),  # we were told, and could not write it down
    ],
)
async def test_a_text_goes_out_once_wherever_its_worker_is_killed(
    config, db, demo, queues, metrics, table, in_flight_commits
):
    job = await miss_a_call(db)
    url = config.database_url
    short = make_config(url, config.redis_url, WORKER_LEASE_SECONDS="2")
    with process("worker", config, WORKER_LEASE_SECONDS="2") as victim, locked(url, table):
        queues.enqueue([job])
        (pid,) = await eventually(lambda: blocked(url))
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        if not in_flight_commits:
            execute(url, "select pg_terminate_backend(%s)", pid)
            await eventually(lambda: not blocked(url))
    with beat_of(short, db) as beat:
        async with serving(short, metrics):
            await eventually(lambda: _tick_until(beat, texted(url)), 10)
    assert effects(url) == ONE_TEXT
    assert counted(metrics, "worker_task_total", status="stopped", **TASK) == 1
    assert counted(metrics, "worker_task_total", status="success", **TASK) == 1


async def _tick_until(beat, check):
    await beat.run_once()
    return check()


async def test_a_failing_job_is_retried_then_given_up_and_the_log_says_so(
    config, db, demo, queues, metrics, monkeypatch, impatient
):
    monkeypatch.setitem(run.JOBS, "fails", Staged(fails, Retry(attempts=3, first=0, longest=0)))
    stage(config.database_url, "fails")
    with beat_of(config, db) as beat:
        async with worker_of(config, metrics) as made:
            for _ in range(5):
                await beat.run_once()
                await work(made)
    assert execute(config.database_url, "select state, attempts, error from outbox") == [
        ("dead", 3, "InvalidInput: never works")
    ]
    assert counted(metrics, "worker_task_total", status="retry", task="fails") == 2
    assert counted(metrics, "worker_task_total", status="failure", task="fails") == 1
    assert of_tenant(config.database_url, "select event, severity, data->>'job' from events") == [
        ("worker.task.failed", "critical", "fails")
    ]


async def test_a_job_that_kills_its_workers_is_given_up_too(config, db, demo, monkeypatch):
    async def kills(context: Context, job: Leased) -> None:
        raise AssertionError("begun once more")

    monkeypatch.setitem(run.JOBS, "kills", Staged(kills, Retry(attempts=2, first=0, longest=0)))
    job = stage(config.database_url, "kills")
    execute(config.database_url, "update outbox set attempts = 2, leased_until = now()")
    async with context_of(config) as context:
        outcome = await perform(context, job.id)
    assert (outcome.status, outcome.abandoned) == ("failure", True)
    assert execute(config.database_url, "select state, error from outbox") == [
        ("dead", "every attempt ended with its worker")
    ]


async def test_a_job_nobody_knows_is_given_up_at_once(config, db, demo):
    job = stage(config.database_url, "of_another_version")
    async with context_of(config) as context:
        assert (await perform(context, job.id)).status == "failure"
        assert await perform(context, job.id) is None
    assert execute(config.database_url, "select state, attempts from outbox") == [("dead", 1)]


async def test_a_job_past_its_deadline_is_stopped(config, db, demo, monkeypatch):
    async def hangs(context: Context, job: Leased) -> None:
        await asyncio.Event().wait()

    monkeypatch.setitem(run.JOBS, "hangs", Staged(hangs, Retry(attempts=2, first=5, longest=5), timeout=0.2))
    job = stage(config.database_url, "hangs")
    async with context_of(config) as context:
        outcome = await perform(context, job.id)
    assert outcome.status == "retry"
    assert execute(config.database_url, "select error from outbox")[0][0].startswith("TimeoutError")


async def test_what_redis_forgets_is_enqueued_again_and_the_worker_registers_anew(
    config, db, demo, queues, metrics, impatient
):
    job = await miss_a_call(db)
    queues.enqueue([job])
    with closing(redis_of(config)) as connection, beat_of(config, db) as beat:
        await beat.run_once()
        connection.flushall()
        async with serving(config, metrics):
            await eventually(lambda: connection.smembers("rq:workers"))
            connection.flushall()
            await eventually(lambda: connection.hget("rq:worker:worker-test", "birth"))
            assert connection.smembers("rq:workers") == {b"rq:worker:worker-test"}
            assert effects(config.database_url)["texts"] == 0
            await eventually(lambda: _tick_until(beat, texted(config.database_url)))


async def test_a_worker_outlives_redis(config, db, demo, queues, metrics, redis_server, caplog):
    caplog.set_level("INFO", "jobs")
    async with serving(config, metrics) as thread:
        job = await miss_a_call(db)
        redis_server.stop()
        try:
            await asyncio.sleep(1.5)
            assert thread.is_alive()
        finally:
            redis_server.start()
        queues.enqueue([job])
        await eventually(texted(config.database_url))
    assert outage.LONGEST_WAIT <= 2.0
    said = [record.getMessage() for record in caplog.records if record.name == "jobs.outage"]
    assert said == ["Redis lost", "Redis is back"]


async def test_a_worker_holds_its_job_until_the_database_is_back(config, db, demo, queues, metrics, postgres_server):
    first, job = await miss_a_call(db), await miss_a_call(db, 101)
    async with serving(config, metrics):
        queues.enqueue([first])
        await eventually(lambda: counted(metrics, "worker_task_total", status="success", **TASK) == 1)
        # By now it knows that no queue is paused.
        postgres_server.stop()
        try:
            queues.enqueue([job])
            await eventually(lambda: not queues.waiting())
            await asyncio.sleep(0.5)
        finally:
            postgres_server.start()
        await eventually(lambda: counted(metrics, "worker_task_total", status="success", **TASK) == 2)
    assert effects(config.database_url)["texts"] == 2


async def test_sigterm_lets_the_job_at_hand_end_and_says_goodbye(config, db, demo, queues):
    job = await miss_a_call(db)
    with process("worker", config) as stopped:
        with locked(config.database_url, "development_texts"):
            queues.enqueue([job])
            await eventually(lambda: blocked(config.database_url))
            stopped.terminate()
            await asyncio.sleep(0.3)
            assert stopped.poll() is None
        out, err = await asyncio.to_thread(stopped.communicate, timeout=30)
    assert stopped.returncode == 0
    assert err == ""
    assert "Worker stopped" in out
    assert "+1212" not in out
    assert effects(config.database_url) == ONE_TEXT
    async with open_redis(config) as client:
        (snapshot,) = await tally.read(client)
    assert (snapshot.kind, snapshot.state) == ("worker", "stopped")
    assert 'worker_task_total{queue="urgent",status="success",task="send_text"} 1' in snapshot.metrics_text


async def test_a_worker_that_could_do_too_much_refuses(config, db, demo, monkeypatch):
    async def too_much(_db):
        raise ConfigError(["too much"])

    monkeypatch.setattr(worker, "refuse_privilege", too_much)
    with pytest.raises(ConfigError):
        await worker.until_allowed(db, asyncio.Event())


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


async def test_a_foreign_job_is_refused_and_the_worker_goes_on(config, db, demo, queues, metrics, tmp_path):
    import rq

    with closing(redis_of(config)) as connection:
        rq.Queue("urgent", connection=connection).enqueue("os.system", Trap(tmp_path / "sprung"))
        queues.enqueue([await miss_a_call(db)])
        async with worker_of(config, metrics) as made:
            await work(made)
            await work(made)
    assert effects(config.database_url) == ONE_TEXT
    (depth, *_) = queues.depths()
    assert depth.jobs["failed"] == 1
    assert not (tmp_path / "sprung").exists()


async def test_a_periodic_job_never_runs_beside_itself(config, db, demo, monkeypatch):
    runs = 0

    async def slow(context: Context) -> bool:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.3)
        return False

    monkeypatch.setitem(run.PERIODIC, "slow", slow)
    async with context_of(config) as context:
        outcomes = await asyncio.gather(*(perform_periodic(context, "slow") for _ in range(3)))
        assert [outcome.status for outcome in outcomes if outcome] == ["success"]
        assert (await perform_periodic(context, "slow")).status == "success"
        assert await perform_periodic(context, "of_another_version") is None
    assert runs == 2


async def test_retention_forgets_what_is_old_and_continues_when_there_is_more(config, db, demo, queues, monkeypatch):
    monkeypatch.setattr("jobs.retention.BATCH", 2)
    monkeypatch.setattr("jobs.retention.BUDGET", -1.0)
    for number in range(3):
        await miss_a_call(db, 100 + number)
    old = datetime.now(UTC) - timedelta(days=400)
    of = config.database_url
    execute_as_owner = (
        "alter table {0} no force row level security; update {0} set {1} = %s; alter table {0} force row level security"
    )
    for table, column in (("events", "ts"), ("payloads", "received_at"), ("idempotency_keys", "created_at")):
        execute(of, execute_as_owner.format(table, column), old)
    execute(of, "update outbox set state = 'done', finished_at = %s", old)
    async with context_of(config) as context:
        assert (await perform_periodic(context, "retention")).status == "success"
        assert any(name.startswith("retention-") for name in queues.waiting())
        while any(name.startswith("retention-") for name in queues.waiting()):
            with closing(redis_of(config)) as connection:
                connection.delete("rq:queue:default")
            await perform_periodic(context, "retention")
    for table in ("events", "payloads", "idempotency_keys", "outbox"):
        assert of_tenant(of, f"select count(*) from {table}") == [(0,)], table
    assert of_tenant(of, "select count(*) from calls") == [(3,)]
