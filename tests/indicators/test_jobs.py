"""Workers, beat and their jobs: gone, hanging, failing, slow, and too many."""

import asyncio

import pytest

from ottoai.domain.outbox import Due
from ottoai.domain.paused import pause
from ottoai.metrics import Metrics
from ottoai.queue import Queues, client
from ottoai.tally import Reporter
from tests.background import beat_of, serving, stage, work, worker_of
from tests.conftest import execute, of_tenant

drives = pytest.mark.drives


def stage_many(url, job, times):
    """So many of one job, due now."""
    sql = (
        "insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at) select current_tenant(), %s,"
        " 'default', gen_random_uuid(), now(), now() from generate_series(1, %s) returning id::text"
    )
    return [Due(row[0], "default", "demo") for row in of_tenant(url, sql, job, times)]


configured = pytest.mark.configured


@drives("worker", "critical")
async def test_no_worker(watch, config):
    async with serving(config, Metrics("test", "worker"), name="worker-one-1"):
        pass
    await watch.passes("worker", "critical")


@drives("beat", "critical")
@drives("beat_tick", "warning", "critical")
@drives("outbox_age", "warning", "critical")
@drives("queue_paused", "info", "warning")
@drives("jobs_dead", "info")
@drives("memory_beat", "info")
@configured(ALERT_BOUNDS="memory_beat.info=1000000")
async def test_beat(watch, config, db):
    metrics = Metrics("test", "beat")
    reporter = Reporter(config.redis_url, "beat", version="test", figures=metrics.render, name="beat-one-1")
    with beat_of(config, db, metrics) as beat:

        async def tick():
            await beat.run_once()
            await asyncio.to_thread(reporter.run_once)

        await tick()
        await watch.look(0)
        for name in ("beat", "beat_tick", "outbox_age", "queue_paused", "jobs_dead"):
            assert watch.reading(name).verdict == "ok", watch.reading(name)
        await watch.passes("memory_beat", "info")
        stage(watch.url, "follow_up")
        execute(watch.url, "update outbox set enqueue_at = now() - interval '40 seconds'")
        await beat.measure()
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("outbox_age", "warning")
        execute(watch.url, "update outbox set enqueue_at = now() - interval '10 minutes'")
        await beat.measure()
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("outbox_age", "critical")
        execute(watch.url, "update outbox set state = 'dead', finished_at = now()")
        await beat.measure()
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("jobs_dead", "info")
        await pause(db.system(), "bulk", "olga")  # in which nothing waits
        await beat.heed_pauses()
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("queue_paused", "info")
        execute(watch.url, "update paused_queues set paused_at = now() - interval '61 minutes'")
        await beat.heed_pauses()
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("queue_paused", "warning")
        # It hangs: the process is heard, and ticks no more.
        await tick()
        await watch.look(35)
        await watch.agree_on("beat_tick", "warning")
        await watch.passes("beat_tick", "critical")
        reporter.update(state="stopped")
        await asyncio.to_thread(reporter.run_once)
        await watch.passes("beat", "critical")


@drives("tasks_failed", "critical")
@drives("tasks_failing", "warning")
@drives("task_budget", "critical")
async def test_jobs_that_fail(watch, config):
    metrics = Metrics("test", "worker")
    metrics.worker_task_total.zero(task="nonsense", queue="default")
    async with worker_of(config, metrics, name="worker-one-1") as worker:

        async def tell():
            await asyncio.to_thread(worker._reporter.run_once)

        async def fail():
            worker.runner._context.queues.enqueue(stage_many(watch.url, "nonsense", 60))
            while execute(watch.url, "select 1 from outbox where state = 'open' limit 1"):
                await work(worker)
            await tell()

        await tell()
        await watch.settled("tasks_failed", "tasks_failing", "task_budget")
        await watch.passes("tasks_failed", "critical", fail)
        await watch.agree_on("tasks_failing", "warning")
        await fail()
        await watch.passes("task_budget", "critical", fail)


@drives("task_p95", "warning", "critical")
@drives("memory_worker", "info")
@configured(ALERT_BOUNDS="task_p95.warning=0.3,task_p95.critical=1.5,memory_worker.info=1000000")
async def test_jobs_that_take_long(watch, config, monkeypatch):
    import jobs.run
    from jobs.context import Retry, Staged
    from ottoai.domain import outbox

    seconds = 0.4

    async def slow(context, job):
        await asyncio.sleep(seconds)
        await outbox.done(context.db.one(job.tenant_id), job)

    monkeypatch.setitem(jobs.run.JOBS, "slow", Staged(slow, Retry(3, 1, 1)))
    metrics = Metrics("test", "worker")
    metrics.worker_task_duration_seconds.zero(task="slow", queue="default")
    async with worker_of(config, metrics, name="worker-one-1") as worker:

        async def run():
            worker.runner._context.queues.enqueue([stage(watch.url, "slow")])
            await work(worker)
            await asyncio.to_thread(worker._reporter.run_once)

        await asyncio.to_thread(worker._reporter.run_once)
        await watch.settled("task_p95")
        await watch.passes("task_p95", "warning", run)
        await watch.agree_on("memory_worker", "info")
        seconds = 2.2
        await watch.passes("task_p95", "critical", run)


@drives("queue_length", "warning", "critical")
@drives("queue_age", "warning", "critical")
@configured(ALERT_BOUNDS="queue_age.warning=0.2,queue_age.critical=2")
async def test_a_full_queue(watch, config):
    await watch.settled("queue_length", "queue_age")
    connection = client(config)
    queues = Queues(connection)
    queues.enqueue([stage(watch.url, "follow_up", queue="urgent")])
    await asyncio.sleep(0.3)
    await watch.passes("queue_age", "warning")
    many = stage_many(watch.url, "follow_up", 1300)
    queues.enqueue(many[:200])
    await watch.passes("queue_length", "warning")
    queues.enqueue(many[200:])
    await watch.passes("queue_length", "critical")
    await asyncio.sleep(1.0)
    await watch.passes("queue_age", "critical")
    connection.close()
