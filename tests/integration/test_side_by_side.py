"""A worker that runs many jobs at a time: how many and which, RQ's books, leases, stopping, and what a kill leaves."""

import asyncio
import dataclasses
import os
import signal
from contextlib import AsyncExitStack, closing

import pytest

from jobs import rq_worker, run, worker
from jobs.context import Retry, Staged
from jobs.run import perform, perform_periodic
from ottoai import tally
from ottoai.domain.outbox import Due
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from ottoai.rates import Rate
from ottoai.redis_pool import open_redis
from tests.background import (
    ONE_TEXT,
    Gate,
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
from tests.conftest import execute, make_config

RETRY = Retry(attempts=3, first=0, longest=0)


@pytest.fixture
def metrics():
    return Metrics("test", "worker")


@pytest.fixture
def connection(config):
    with closing(redis_of(config)) as opened:
        yield opened


@pytest.fixture
def queues(connection):
    return Queues(connection)


@pytest.fixture
async def gate(monkeypatch):
    """A job `waits`, which ends when the gate is opened."""
    made = Gate()
    monkeypatch.setitem(run.JOBS, "waits", Staged(made, RETRY))
    return made


def sized(config, concurrency):
    return make_config(config.database_url, config.redis_url, WORKER_CONCURRENCY=str(concurrency))


def states(config):
    return dict(execute(config.database_url, "select state, count(*) from outbox group by 1"))


async def test_as_many_jobs_run_side_by_side_as_are_allowed(config, db, demo, queues, metrics, gate):
    queues.enqueue([stage(config.database_url, "waits", queue="urgent") for _ in range(9)])
    async with serving(sized(config, 4), metrics):
        await eventually(lambda: len(gate.running) == 4)
        assert len(queues.waiting()) == 5
        gate.open.set()
        await eventually(lambda: states(config) == {"done": 9})
    assert len(gate.begun) == 9
    assert counted(metrics, "worker_task_total", task="waits", queue="urgent", status="success") == 9
    assert counted(metrics, "worker_task_wait_seconds_count", queue="urgent") == 9


async def test_what_is_urgent_does_not_wait_for_what_is_not(config, db, demo, queues, metrics, gate):
    url = config.database_url
    queues.enqueue([stage(url, "waits", queue="bulk") for _ in range(9)])
    async with serving(sized(config, 4), metrics):
        await eventually(lambda: len(gate.running) == 2)
        queues.enqueue([stage(url, "waits", queue="default") for _ in range(9)])
        await eventually(lambda: len(gate.running) == 3)
        urgent = stage(url, "waits", queue="urgent")
        queues.enqueue([urgent])
        await eventually(lambda: urgent.id in gate.running)
        gate.open.set()
        await eventually(lambda: states(config) == {"done": 19})


async def test_of_what_waits_the_urgent_is_begun_first(config, db, demo, queues, metrics, gate):
    gate.open.set()
    url = config.database_url
    jobs = {name: [stage(url, "waits", queue=name).id for _ in range(4)] for name in ("bulk", "default", "urgent")}
    async with worker_of(sized(config, 1), metrics) as made:
        for name, ids in jobs.items():
            queues.enqueue(Due(each, name, "demo") for each in ids)
        while len(gate.begun) < 12:
            await work(made)
    assert [set(gate.begun[n : n + 4]) for n in (0, 4, 8)] == [set(jobs[n]) for n in ("urgent", "default", "bulk")]


async def test_rqs_books_tell_all_that_runs_and_forget_what_ended(config, db, demo, queues, metrics, gate, connection):
    jobs = [stage(config.database_url, "waits", queue="urgent") for _ in range(3)]
    queues.enqueue(jobs)
    async with worker_of(config, metrics) as made:
        await asyncio.to_thread(made.run_once)
        await asyncio.to_thread(made.run_once)
        assert {name.decode().split(":")[0] for name in connection.zrange("rq:wip:urgent", 0, -1)} == {
            job.id for job in jobs
        }
        assert connection.scard("rq:worker:worker-test:executions") == 3
        assert connection.hget("rq:worker:worker-test", "state") == b"busy"
        assert connection.hget(f"rq:job:{jobs[0].id}", "status") == b"started"
        assert made._reporter._snapshot.current_job.endswith(" and 2 more")
        gate.open.set()
        await work(made)
        assert connection.hget("rq:worker:worker-test", "state") == b"idle"
        assert connection.hget("rq:worker:worker-test", "successful_job_count") == b"3"
        assert made._reporter._snapshot.current_job is None
    left = {key.decode() for key in connection.scan_iter("rq:*")}
    assert not {key for key in left if key.split(":")[1] in {"job", "executions", "execution", "wip", "failed"}}


async def test_a_job_that_ends_while_redis_is_away_is_done_counted_and_closed(
    config, db, demo, queues, metrics, gate, redis_server
):
    queues.enqueue([stage(config.database_url, "waits", queue="urgent") for _ in range(3)])
    async with serving(config, metrics):
        await eventually(lambda: len(gate.running) == 3)
        redis_server.stop()
        try:
            gate.open.set()
            await eventually(lambda: states(config) == {"done": 3})
            await eventually(lambda: counted(metrics, "worker_task_total", task="waits", status="success") == 3)
        finally:
            redis_server.start()
        await eventually(lambda: queues.depths()[0].jobs["started"] == 0)


async def test_workers_that_race_for_the_same_jobs_do_each_once(config, db, demo, queues, gate, monkeypatch):
    gate.open.set()
    jobs = [stage(config.database_url, "waits", queue="urgent") for _ in range(40)]
    monkeypatch.setattr("ottoai.queue.SHARE", Rate(1000, "minute"))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            queues.enqueue(jobs)
        for name in ("one", "two"):
            await stack.enter_async_context(serving(config, Metrics("test", "worker"), name))
        await eventually(lambda: not queues.waiting())
        await eventually(lambda: states(config) == {"done": 40})
    assert sorted(gate.begun) == sorted(job.id for job in jobs)


async def test_a_lease_is_renewed_for_as_long_as_its_job_runs(config, db, demo, gate):
    job = stage(config.database_url, "waits")
    ask = "select extract(epoch from leased_until)::float, leased_until > now() from outbox"
    async with context_of(dataclasses.replace(config, worker_lease_seconds=6)) as context:
        running = asyncio.create_task(perform(context, job.id))
        await eventually(lambda: gate.running)
        ((first, _),) = execute(config.database_url, ask)
        while True:
            ((until, held),) = execute(config.database_url, ask)
            assert held
            assert await perform(context, job.id) is None
            if until > first + 3:
                break
            await asyncio.sleep(0.05)
        gate.open.set()
        outcome = await running
    assert (outcome.status, outcome.abandoned) == ("success", False)
    assert execute(config.database_url, "select state, attempts from outbox") == [("done", 1)]


@pytest.mark.parametrize(
    "change",
    [
        "update outbox set attempts = attempts + 1",  # another worker has it
        "update outbox set attempts = attempts + 1, state = 'done'",  # and is done with it
        "update outbox set state = 'dead'",
        "delete from outbox",  # its tenant was erased
    ],
)
async def test_a_job_whose_lease_is_lost_is_stopped_and_changes_nothing(config, db, demo, gate, change):
    job = stage(config.database_url, "waits")
    async with context_of(config) as context:
        running = asyncio.create_task(perform(context, job.id))
        await eventually(lambda: gate.running)
        execute(config.database_url, change)
        before = execute(config.database_url, "select * from outbox")
        await context.leases.renew()
        assert await running is None
    assert not gate.running
    assert execute(config.database_url, "select * from outbox") == before


async def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_ends(
    config, db, demo, gate, postgres_server, monkeypatch
):
    job = stage(config.database_url, "waits")
    async with context_of(config) as context:
        running = asyncio.create_task(perform(context, job.id))
        await eventually(lambda: gate.running)
        postgres_server.stop()
        try:
            await context.leases.renew()
            assert gate.running
            for held in context.leases._held.values():
                held.until -= context.leases.seconds * 0.7
            await context.leases.renew()
            assert await running is None
        finally:
            postgres_server.start()


async def test_a_periodic_job_keeps_its_lock_for_as_long_as_it_runs(config, db, demo, monkeypatch):
    opened = asyncio.Event()
    runs = 0

    async def waits(context):
        nonlocal runs
        runs += 1
        await opened.wait()
        return False

    monkeypatch.setitem(run.PERIODIC, "waits", waits)
    monkeypatch.setattr("jobs.context.Context.deadline", 30.0)
    async with context_of(dataclasses.replace(config, worker_lease_seconds=6)) as context:
        running = asyncio.create_task(perform_periodic(context, "waits"))
        with closing(redis_of(config)) as connection:
            await eventually(lambda: runs)
            renewed, left = 0, connection.pttl("running:waits")
            while renewed < 2:
                await asyncio.sleep(0.05)
                assert await perform_periodic(context, "waits") is None
                before, left = left, connection.pttl("running:waits")
                renewed += left > before
            connection.set("running:waits", "another's")  # after an outage, for instance
            assert (await running).status == "failure"
            assert connection.get("running:waits") == b"another's"
    assert runs == 1


async def test_a_periodic_job_at_whose_end_redis_is_away_is_no_failure(config, db, demo, monkeypatch, redis_server):
    async def outlives_it(context):
        redis_server.stop()
        return False

    monkeypatch.setitem(run.PERIODIC, "outlives_it", outlives_it)
    async with context_of(config) as context:
        try:
            assert (await perform_periodic(context, "outlives_it")).status == "success"
        finally:
            redis_server.start()


async def test_what_a_stopping_worker_cannot_end_another_begins_at_once(
    config, db, demo, queues, metrics, gate, monkeypatch
):
    monkeypatch.setattr(rq_worker, "GRACE", 0.2)
    jobs = [stage(config.database_url, "waits", queue="urgent") for _ in range(3)]
    queues.enqueue(jobs)
    async with worker_of(config, metrics) as made:
        serve = asyncio.create_task(asyncio.to_thread(made.serve))
        await eventually(lambda: len(gate.running) == 3)
        made.stopping.set()
        await serve
        assert not gate.running
        assert execute(config.database_url, "select distinct state, attempts, leased_until from outbox") == [
            ("open", 1, None)
        ]
        assert queues.depths()[0].jobs["started"] == 0
        await worker.hand_over(queues, made.runner.left)
    assert queues.waiting() == {job.id for job in jobs}
    assert counted(metrics, "worker_task_total", task="waits", queue="urgent", status="stopped") == 3
    gate.open.set()
    async with serving(config, metrics, "another"):
        await eventually(lambda: states(config) == {"done": 3})
    assert counted(metrics, "worker_task_total", task="waits", status="stopped") == 3  # and not once more


async def test_a_worker_that_has_grown_too_large_ends_what_it_runs_and_exits(config, db, demo):
    with process("worker", config, WORKER_MEMORY_MB="1") as grown:
        out, err = await asyncio.to_thread(grown.communicate, timeout=20)
    assert (grown.returncode, err) == (0, "")
    assert "grown too large" in out
    async with open_redis(config) as client:
        (snapshot,) = await tally.read(client)
    assert snapshot.state == "stopped"


async def test_many_jobs_of_a_killed_worker_each_have_one_effect(config, db, demo, queues, metrics):
    url, count, connections = config.database_url, 12, 8
    given = {"WORKER_LEASE_SECONDS": "2", "DB_POOL_SIZE": str(connections)}
    jobs = [await miss_a_call(db, 100 + number) for number in range(count)]
    with process("worker", config, **given) as victim, locked(url, "development_texts"):
        queues.enqueue(jobs)
        await eventually(lambda: len(blocked(url)) == connections)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        for pid in blocked(url)[::2]:  # half of the texts go out, and nobody was told
            execute(url, "select pg_terminate_backend(%s)", pid)
    short = make_config(url, config.redis_url, WORKER_LEASE_SECONDS="2")
    expected = {"texts": count, "sent": count, "texted": count, "outbox": ["done"] * count}
    with beat_of(short, db) as beat:
        async with serving(short, metrics):
            await eventually(lambda: _ticked(beat, lambda: effects(url) == expected), 15)


async def _ticked(beat, check):
    await beat.run_once()
    return check()


async def test_a_worker_that_stood_still_past_its_lease_writes_nothing_stale(config, db, demo, queues, metrics):
    url = config.database_url
    short = make_config(url, config.redis_url, WORKER_LEASE_SECONDS="2")
    job = await miss_a_call(db)
    with process("worker", config, WORKER_LEASE_SECONDS="2") as stalled:
        with locked(url, "development_texts"):
            queues.enqueue([job])
            await eventually(lambda: blocked(url))
            stalled.send_signal(signal.SIGSTOP)
        await eventually(
            lambda: execute(url, "select leased_until <= now() from outbox where job = 'send_text'") == [(True,)]
        )
        with beat_of(short, db) as beat:
            async with serving(short, metrics):
                await eventually(lambda: _ticked(beat, texted(url)), 10)
        before = execute(url, "select * from outbox")
        stalled.send_signal(signal.SIGCONT)
        stalled.terminate()
        await asyncio.to_thread(stalled.communicate, timeout=10)
    assert execute(url, "select * from outbox") == before
    assert effects(url) == ONE_TEXT
    assert counted(metrics, "worker_task_total", task="send_text", status="stopped") == 1
