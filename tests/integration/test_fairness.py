"""One tenant's flood does not delay another's job, and no queue grows without bound."""

import asyncio
from contextlib import closing

import pytest

from jobs import run
from jobs.context import Retry, Staged
from ottoai import queue
from ottoai.domain import outbox
from ottoai.domain.outbox import Due
from ottoai.metrics import Metrics
from ottoai.queue import SHARE, Queues
from tests.background import Gate, beat_of, eventually, redis_of, serving, stage
from tests.conftest import add_tenant, execute, of_tenant


@pytest.fixture
def queues(config):
    with closing(redis_of(config)) as connection:
        yield Queues(connection)


@pytest.fixture
async def other(db, demo):
    return await add_tenant(db, "other", company="990000007", number="+12125550177")


def jobs_of(tenant, count):
    return [Due(f"{tenant}-{number:06}", "urgent", tenant) for number in range(count)]


def lengths(queues):
    return {depth.queue: depth.length for depth in queues.depths()}


def flood(url, count, job="waits"):
    """So many staged jobs of one tenant, long due."""
    sql = (
        "insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)"
        " select 'demo', %s, 'urgent', gen_random_uuid(), now() - interval '1 min', now() - interval '1 min'"
        " from generate_series(1, %s) returning id::text"
    )
    return [Due(str(row[0]), "urgent", "demo") for row in of_tenant(url, sql, job, count)]


def test_what_a_tenant_has_beyond_its_share_goes_to_bulk_and_the_next_ones_does_not(queues):
    queues.enqueue(jobs_of("a", SHARE.limit + 40))
    assert lengths(queues) == {"urgent": SHARE.limit, "default": 0, "bulk": 40}
    queues.enqueue(jobs_of("a", 1) + jobs_of("b", 3))
    assert lengths(queues) == {"urgent": SHARE.limit + 3, "default": 0, "bulk": 41}


def test_no_queue_grows_without_bound(queues, monkeypatch):
    monkeypatch.setattr(queue, "MOST", 10)
    for _ in range(3):
        queues.enqueue([job for tenant in "abc" for job in jobs_of(tenant, 100)])
        assert lengths(queues) == {"urgent": 10, "default": 0, "bulk": 10}


async def test_due_jobs_come_in_turns(config, db, demo, other):
    flood(config.database_url, 20)
    late = stage(config.database_url, "waits", tenant=other)
    first = await outbox.due(db.system(), 4)
    assert {job.tenant_id for job in first} == {"demo", "other"}
    assert late in first
    assert len(first) == 4
    rest = await outbox.due(db.system(), 100)
    assert len(rest) == 17
    assert not {job.id for job in first} & {job.id for job in rest}
    assert await outbox.due(db.system(), 100) == []


async def test_what_found_no_room_is_brought_in_as_there_is_some(config, db, demo, monkeypatch, queues):
    monkeypatch.setattr(queue, "MOST", 10)
    gate = Gate()
    monkeypatch.setitem(run.JOBS, "waits", Staged(gate, Retry(attempts=1, first=0, longest=0)))
    queues.enqueue(flood(config.database_url, 50))
    with beat_of(config, db) as beat:
        for _ in range(3):
            await beat.run_once()
            assert max(lengths(queues).values()) <= 10
        gate.open.set()
        async with serving(config, Metrics("test", "worker")):
            await eventually(lambda: _brought_in(beat, config), 20)
    assert len(gate.begun) == len(set(gate.begun)) == 50


async def _brought_in(beat, config):
    await beat.run_once()
    return execute(config.database_url, "select count(*) from outbox where state = 'open'") == [(0,)]


async def test_a_full_bulk_does_not_keep_another_tenants_lost_job_out(config, db, demo, other, queues, monkeypatch):
    monkeypatch.setattr(queue, "MOST", 10)
    flood(config.database_url, 50)
    with beat_of(config, db) as beat:
        await beat.run_once()
        lost = stage(config.database_url, "waits", queue="urgent", tenant=other)
        with closing(redis_of(config)) as connection:
            connection.ltrim("rq:queue:bulk", 1, -1)  # a worker takes one
            connection.delete("rq:queue:urgent")
        await beat.run_once()
    assert lost.id in queues.waiting()


async def test_a_bulk_that_stays_full_does_not_either(config, db, demo, other, queues, monkeypatch):
    """Who floods may fill each place that becomes free before beat looks."""
    monkeypatch.setattr(queue, "MOST", 10)
    flood(config.database_url, 50)
    with beat_of(config, db) as beat:
        await beat.run_once()
        with closing(redis_of(config)) as connection:
            connection.delete("rq:queue:urgent")
        late = stage(config.database_url, "waits", queue="urgent", tenant=other)
        await beat.run_once()
        assert lengths(queues)["bulk"] == 10
    assert late.id in queues.waiting()


async def test_another_tenants_job_is_begun_in_the_middle_of_a_flood(config, db, demo, other, queues, monkeypatch):
    begun = []

    async def notes(context, job):
        begun.append(job.tenant_id)
        await outbox.done(context.db.one(job.tenant_id), job)

    monkeypatch.setitem(run.JOBS, "notes", Staged(notes, Retry(attempts=3, first=0, longest=0)))
    many = flood(config.database_url, 5000, job="notes")
    with beat_of(config, db) as beat:
        async with serving(config, Metrics("test", "worker")):
            await asyncio.to_thread(queues.enqueue, many)
            await beat.run_once()
            await eventually(lambda: len(begun) > 100, 20)
            queues.enqueue([stage(config.database_url, "notes", queue="urgent", tenant=other)])
            so_far = len(begun)
            await eventually(lambda: "other" in begun, 20)
            assert begun.index("other") - so_far < 200
            assert len(begun) < 4000
