"""Beat, with real stores: what is due is enqueued once, what was lost comes back, and no store's absence stops it."""

import asyncio
import time
from contextlib import closing
from datetime import timedelta

import pytest

from jobs import schedule
from jobs.schedule import ENTRIES, Entry, Schedule
from ottoai import tally
from ottoai.domain import outbox
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from ottoai.redis_pool import open_redis
from tests.background import beat_of, eventually, miss_a_call, process, redis_of, stage
from tests.conftest import execute, make_config

NOWHERE = "redis://127.0.0.1:1/0"
DATES = "rq:scheduler:scheduled_jobs"


@pytest.fixture
def connection(config):
    with closing(redis_of(config)) as opened:
        yield opened


@pytest.fixture
def queues(connection):
    return Queues(connection)


def staged(queues) -> set[str]:
    """Jobs of the outbox that wait; one of the schedule's may too, when a minute begins between two ticks."""
    return {name for name in queues.waiting() if name.partition("-")[0] not in {entry.name for entry in ENTRIES}}


def dates(connection) -> dict[str, float]:
    return {name.decode(): when for name, when in connection.zrange(DATES, 0, -1, withscores=True)}


def test_every_declared_entry_is_there_after_the_first_tick_and_after_a_flush(connection, queues):
    beat = Schedule(connection, queues)
    for _ in range(2):
        began = time.time()
        assert beat.run_once()
        assert dates(connection).keys() == {f"schedule-{entry.name}" for entry in ENTRIES}
        assert 0 < min(dates(connection).values()) - began <= 3600
        connection.flushall()
    assert queues.waiting() == set()


def test_a_changed_or_removed_entry_is_corrected(connection, queues):
    Schedule(connection, queues, [Entry("a", cron="1 * * * *"), Entry("b", cron="2 * * * *")]).run_once()
    connection.delete("rq:scheduler_lock")
    before = dates(connection)
    Schedule(connection, queues, [Entry("a", cron="31 * * * *")]).run_once()
    after = dates(connection)
    assert after.keys() == {"schedule-a"}
    assert abs(after["schedule-a"] - before["schedule-a"]) == 1800


def test_a_due_entry_becomes_a_fresh_job_each_time_and_never_two(connection, queues):
    beat = Schedule(connection, queues, [Entry("a", cron="0 * * * *")])
    beat.run_once()
    for number in (1, 2):
        connection.zadd(DATES, {"schedule-a": time.time() - 5000})
        beat.run_once()
        beat.run_once()
        assert len(queues.waiting()) == number
        assert dates(connection)["schedule-a"] > time.time()
    job = connection.hgetall("rq:job:" + queues.waiting().pop())
    assert job[b"description"] == b"a"


def test_an_interval_counts_from_its_last_time(connection, queues):
    beat = Schedule(connection, queues, [Entry("often", every=timedelta(seconds=15))])
    beat.run_once()
    assert len(queues.waiting()) == 1
    assert dates(connection)["schedule-often"] == pytest.approx(time.time() + 15, abs=10)


def test_a_second_beat_stands_by_and_takes_over_from_a_dead_one(connection, queues):
    first, second = Schedule(connection, queues), Schedule(connection, queues)
    assert first.run_once()
    assert not second.run_once()
    second.remove_lock()  # not its own
    assert not second.run_once()
    assert 0 < connection.ttl("rq:scheduler_lock") <= schedule.LOCK_SECONDS
    connection.expire("rq:scheduler_lock", schedule.LOCK_SECONDS // 2)
    assert first.run_once()  # the living keeps it past its time
    assert schedule.LOCK_SECONDS // 2 < connection.ttl("rq:scheduler_lock") <= schedule.LOCK_SECONDS
    assert not second.run_once()
    connection.delete("rq:scheduler_lock")  # killed, and its time is over
    assert second.run_once()
    assert not first.run_once()


def test_a_beat_that_stops_hands_over_at_once(connection, queues):
    first, second = Schedule(connection, queues), Schedule(connection, queues)
    assert first.run_once()
    first.remove_lock()
    assert second.run_once()


async def test_what_nobody_enqueued_falls_due_and_what_waits_is_not_doubled(config, db, demo, queues, monkeypatch):
    monkeypatch.setattr(outbox, "REPAIR_AFTER", timedelta(0))
    monkeypatch.setattr(outbox, "QUEUED_FOR", timedelta(0))
    job = await miss_a_call(db)
    with beat_of(config, db) as beat:
        for _ in range(3):
            await beat.run_once()
    (urgent, *_) = queues.depths()
    assert staged(queues) == {job.id}
    assert urgent.length == 1


async def test_a_job_of_later_waits_for_its_time(config, db, demo, queues, monkeypatch):
    await miss_a_call(db)  # enqueued by its committer, so beat gives that some seconds
    with beat_of(config, db) as beat:
        await beat.run_once()
        assert staged(queues) == set()


async def test_more_than_a_batch_is_due_in_one_tick(config, db, demo, queues, monkeypatch):
    monkeypatch.setattr(outbox, "BATCH", 2)
    monkeypatch.setattr(outbox.due, "__defaults__", (2,))
    for _ in range(5):
        stage(config.database_url, "any")
    with beat_of(config, db) as beat:
        await beat.run_once()
    assert len(staged(queues)) == 5


async def test_without_redis_nothing_is_put_off_and_the_rest_goes_on(config, db, demo):
    stage(config.database_url, "any")
    metrics = Metrics("test", "beat")
    with beat_of(make_config(config.database_url, NOWHERE), db, metrics) as beat:
        await beat.run_once()
    assert execute(config.database_url, "select count(*) from outbox where enqueue_at <= now()") == [(1,)]
    assert "outbox_open 1" in metrics.render()
    assert "beat_last_tick_timestamp_seconds 1" in metrics.render()


async def test_without_postgres_the_schedule_goes_on(config, db, connection, queues, postgres_server):
    metrics = Metrics("test", "beat")
    with beat_of(config, db, metrics) as beat:
        await beat.run_once()
        postgres_server.stop()
        try:
            connection.zadd(DATES, {f"schedule-{ENTRIES[0].name}": 1})
            await beat.run_once()
        finally:
            postgres_server.start()
    assert [name.partition("-")[0] for name in queues.waiting()].count(ENTRIES[0].name) == 1
    assert "beat_last_tick_timestamp_seconds 1" in metrics.render()


async def test_an_outage_is_said_once_when_it_begins_and_once_when_it_ends(config, db, caplog, redis_server):
    caplog.set_level("INFO")
    with beat_of(config, db) as beat:
        redis_server.stop()
        try:
            for _ in range(3):
                await beat.run_once()
        finally:
            redis_server.start()
        await beat.run_once()
    said = [record.getMessage() for record in caplog.records if "Beat's schedule" in record.getMessage()]
    assert said == ["Beat's schedule lost", "Beat's schedule is back"]


async def test_a_real_beat_ticks_enqueues_and_ends_in_order(config, db, demo, queues):
    stage(config.database_url, "any")
    async with open_redis(config) as client:
        with process("beat", config) as started:
            await eventually(queues.waiting)
            (snapshot,) = await eventually(lambda: _ticked(client))
            assert snapshot.state == "leading"
            started.terminate()
            out, err = await asyncio.to_thread(started.communicate, timeout=30)
            (snapshot,) = await tally.read(client)
        assert started.returncode == 0
        assert err == ""
        assert "Warning" not in out
        assert snapshot.state == "stopped"
        assert "outbox_open 1" in snapshot.metrics_text
        assert await client.get("rq:scheduler_lock") is None


async def _ticked(client):
    return [each for each in await tally.read(client) if each.ticked_at]


def test_a_store_that_is_away_is_one_kind_of_error(database_url):
    with closing(redis_of(make_config(database_url, NOWHERE))) as connection:
        queues = Queues(connection)
        for ask in (queues.waiting, queues.depths, Schedule(connection, queues).run_once):
            with pytest.raises(StoreUnavailable):
                ask()
