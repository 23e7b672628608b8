"""Alerts at work: told once by all processes together, whatever is away; kept; gone on with after a restart."""

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
import redis

from ottoai.metrics import Metrics
from ottoai.ops import alert_rows, monitor, notify
from ottoai.ops.alerts import SETTLED_QUICK
from tests import slack as played
from tests.background import counted
from tests.conftest import execute, make_config
from tests.helpers import until
from tests.slack import Clock, Process, later, lease_ends, over, redis_lease_ends, slack_of, worker_alive

WORKER = "A worker is alive"
ALERT = "worker.critical"


@pytest.fixture
async def slack():
    async with slack_of() as receiver:
        yield receiver


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def config(database_url, redis_url, slack, monkeypatch):
    monkeypatch.setattr(monitor, "EVERY", 3600.0)  # tests say when a process looks
    return make_config(
        database_url, redis_url, ALERT_WEBHOOK_URL=slack.url, PUBLIC_URL="https://api.example.com",
        HEARTBEAT_URL=slack.url.replace(played.PATH, "/heartbeat"),
    )  # fmt: skip


@pytest.fixture
async def start(config, clock, demo):
    async with AsyncExitStack() as stack:

        async def started() -> Process:
            process = Process(config, clock)
            await process.start()
            stack.push_async_callback(process.stop)
            return process

        yield started


def rows(database_url, name=ALERT):
    columns = "state, fired_notified_at is not null, resolved_notified_at is not null"
    return execute(database_url, f"select {columns} from alerts where name = %s order by id", name)


async def test_two_processes_tell_once_when_it_fires_and_once_when_it_is_over(
    start, slack, config, clock, database_url, caplog
):
    caplog.set_level(logging.INFO)
    first, second = await start(), await start()
    assert (first.watch.leader.leading, second.watch.leader.leading) == (True, False)
    await later(clock, 10, first, second)
    assert slack.messages == []
    await later(clock, 10, first, second)
    assert slack.of(WORKER) == ["CRITICAL"]
    assert {first.alert(ALERT).id, second.alert(ALERT).id} == {first.alert(ALERT).id} - {None}
    assert rows(database_url) == [("firing", True, False)]
    async with worker_alive(config):
        await first.sees("worker", "ok")
        await second.sees("worker", "ok")
        await later(clock, SETTLED_QUICK.total_seconds() + 5, first, second)
    assert slack.of(WORKER) == ["CRITICAL", "Resolved"]
    assert first.alert(ALERT) is second.alert(ALERT) is None
    await later(clock, 5, first, second)
    assert rows(database_url) == [("resolved", True, True)]
    said = [each.getMessage() for each in caplog.records if getattr(each, "alert", "") == ALERT]
    assert said == ["Alert firing", "Alert resolved"]


async def test_the_message_says_what_where_and_what_to_do(start, slack, clock):
    process = await start()
    await later(clock, 30, process)
    (message,) = [each for each in slack.messages if WORKER in each["text"]]
    assert message["text"] == "CRITICAL: A worker is alive: no (alert: no for 15s)"
    (attachment,) = message["attachments"]
    assert attachment["title_link"] == "https://api.example.com/ops#indicator-worker"
    assert "python -m jobs worker" in attachment["text"]
    fields = {each["title"]: each["value"] for each in attachment["fields"]}
    assert fields == {
        "Value": "no", "Threshold": "no for 15s", "Since": "2026-03-02 12:00:17 UTC", "Severity": "critical",
    }  # fmt: skip
    assert attachment["color"] == "#c53030"


async def test_one_who_stops_hands_over_at_once(start, clock):
    first, second = await start(), await start()
    await first.stop()
    await second.look()
    assert second.watch.leader.leading


async def test_one_who_is_killed_is_followed_after_its_lease(start, slack, config, clock, database_url, redis_url):
    first, second = await start(), await start()
    await later(clock, 30, first, second)
    await first.kill()
    await second.look()
    assert not second.watch.leader.leading
    lease_ends(database_url, redis_url)
    await later(clock, 30, second)
    assert second.watch.leader.leading
    assert slack.of(WORKER) == ["CRITICAL"]
    async with worker_alive(config):
        await second.sees("worker", "ok")
        await later(clock, 65, second)
    assert slack.of(WORKER) == ["CRITICAL", "Resolved"]


async def test_what_the_killed_one_could_not_tell_the_next_one_tells(start, slack, clock, database_url, redis_url):
    first, second = await start(), await start()
    slack.answer = played.fails
    await later(clock, 30, first, second)
    await first.kill()
    slack.answer = None
    lease_ends(database_url, redis_url)
    await second.look()
    assert slack.of(WORKER) == ["CRITICAL"]


async def test_an_end_that_could_not_be_told_is_told_by_the_next_one(
    start, slack, config, clock, database_url, redis_url
):
    first, second = await start(), await start()
    await later(clock, 30, first, second)
    slack.answer = played.fails
    async with worker_alive(config):
        await first.sees("worker", "ok")
        await later(clock, 65, first)
        await first.kill()
        slack.answer = None
        lease_ends(database_url, redis_url)
        await second.sees("worker", "ok")
        await later(clock, 5, second)
    assert slack.of(WORKER) == ["CRITICAL", "Resolved"]
    await later(clock, 5, second)
    assert rows(database_url) == [("resolved", True, True)]


async def test_a_restart_keeps_what_fires_since_when_and_who_knows(start, slack, clock, db):
    first = await start()
    await later(clock, 30, first)
    before = first.alert(ALERT)
    assert await first.alerting.acknowledge(db.system(), before.id, "ann")
    assert not await first.alerting.acknowledge(db.system(), before.id, "bob")
    assert first.alert(ALERT).acknowledged_by == "ann"
    await first.stop()
    clock.pass_by(20)
    second = await start()
    after = second.alert(ALERT)
    assert (after.id, after.since, after.acknowledged_by) == (before.id, before.since, "ann")
    await later(clock, 60, second)
    assert slack.of(WORKER) == ["CRITICAL"]


async def test_who_does_not_speak_can_acknowledge_too(start, clock, db):
    first, second = await start(), await start()
    await later(clock, 35, first, second)
    assert await second.alerting.acknowledge(db.system(), second.alert(ALERT).id, "ann")
    await later(clock, 5, first)
    assert first.alert(ALERT).acknowledged_by == "ann"


@pytest.mark.parametrize(
    "trouble", [played.fails, played.refuses, played.sends_elsewhere, played.drops, played.babbles, played.hangs]
)
async def test_a_receiver_in_trouble_is_told_later(start, slack, clock, trouble, monkeypatch, caplog):
    monkeypatch.setattr(notify, "WITHIN", 1.0 if trouble is played.hangs else 10.0)
    process = await start()
    slack.answer = trouble
    await later(clock, 15, process)
    assert slack.asked == 1
    await process.look()
    assert slack.asked == 1  # it waits
    clock.pass_by(notify.FIRST_WAIT.total_seconds())
    await process.look()
    assert slack.asked == 2
    slack.answer = None
    await process.look()
    assert slack.messages == []
    clock.pass_by(2 * notify.FIRST_WAIT.total_seconds())
    await process.look()
    assert slack.of(WORKER) == ["CRITICAL"]
    metrics: Metrics = process.app[played.keys.METRICS]
    assert counted(metrics, "alert_notifications_total", result="failed") == 2
    assert counted(metrics, "alert_notifications_total", result="ok") == len(slack.messages)
    assert played.PATH not in caplog.text
    assert [each.getMessage() for each in caplog.records].count("Alert not told") == 1


async def test_an_alert_that_came_and_went_unheard_is_not_told_at_all(start, slack, config, clock, database_url):
    process = await start()
    slack.answer = played.fails
    await later(clock, 30, process)
    async with worker_alive(config):
        await process.sees("worker", "ok")
        await later(clock, 65, process)
        slack.answer = None
        await later(clock, 300, process)
    assert slack.messages != []  # of what fires still
    assert slack.of(WORKER) == []
    assert rows(database_url) == [("resolved", False, False)]


async def test_a_hanging_receiver_does_not_hold_up_the_watch(start, slack, clock):
    process = await start()
    slack.answer = played.hangs
    clock.pass_by(30)
    await process.monitor.run_once()
    telling = asyncio.create_task(process.tell())
    await until(lambda: slack.asked)
    before = process.monitor.report.at
    clock.pass_by(5)
    await process.monitor.run_once()
    assert process.monitor.report.at > before
    assert not telling.done()
    telling.cancel()


async def test_with_postgres_away_redis_says_who_speaks(
    start, slack, clock, config, postgres_server, database_url, redis_url
):
    first, second = await start(), await start()
    postgres_server.stop()
    try:
        await first.sees("database", "critical")
        await second.sees("database", "critical")
        await later(clock, 35, first, second)
        assert [each.watch.leader.leading for each in (first, second)].count(True) == 1
        assert slack.of("PostgreSQL reachable") == ["CRITICAL"]
        assert slack.of(WORKER) == ["CRITICAL"]
        speaker, other = (first, second) if first.watch.leader.leading else (second, first)
        await speaker.kill()
        redis_lease_ends(redis_url)
        await later(clock, 10, other)
        assert other.watch.leader.leading
        assert slack.of(WORKER) == ["CRITICAL"]  # the mark of the one that was killed
    finally:
        postgres_server.start()
    execute(database_url, "update ops_leases set leased_until = now() - interval '1 second'")
    await over(clock, "database", other)
    assert slack.of("PostgreSQL reachable") == ["CRITICAL", "Resolved"]
    await later(clock, 5, other)
    assert rows(database_url, "database.critical") == [("resolved", True, True)]
    assert rows(database_url) == [("firing", True, False)]


async def test_with_redis_away_postgres_says_who_speaks(start, slack, clock, redis_server, database_url):
    first, second = await start(), await start()
    redis_server.stop()
    try:
        await first.sees("redis", "critical")
        await second.sees("redis", "critical")
        await later(clock, 35, first, second)
        assert first.watch.leader.leading
        assert not second.watch.leader.leading
        assert slack.of("Redis reachable") == ["CRITICAL"]
    finally:
        redis_server.start()
    await over(clock, "redis", first, second)
    await later(clock, 5, first, second)
    assert slack.of("Redis reachable") == ["CRITICAL", "Resolved"]
    assert rows(database_url, "redis.critical") == [("resolved", True, True)]


async def test_with_both_away_each_speaks_for_itself_and_one_alert_is_kept(
    start, slack, clock, redis_server, postgres_server, database_url
):
    first, second = await start(), await start()
    redis_server.stop()
    postgres_server.stop()
    try:
        for each in (first, second):
            await each.sees("redis", "critical")
            await each.sees("database", "critical")
        await later(clock, 35, first, second)
        assert first.watch.leader.leading
        assert second.watch.leader.leading
        assert slack.of("Redis reachable") == ["CRITICAL"] * 2
    finally:
        postgres_server.start()
        redis_server.start()
    await over(clock, "database", first, second)
    await over(clock, "redis", first, second)
    await later(clock, 5, first, second)
    assert [each.watch.leader.leading for each in (first, second)].count(True) == 1
    assert rows(database_url, "redis.critical") == [("resolved", True, True)]
    assert slack.of("Redis reachable").count("Resolved") == 1


async def test_of_two_levels_the_worse_one_is_told_and_then_the_other(
    database_url, redis_url, slack, clock, demo, monkeypatch
):
    monkeypatch.setattr(monitor, "EVERY", 3600.0)
    bounds = "queue_length.warning=1/0s,queue_length.critical=2/0s"
    config = make_config(database_url, redis_url, ALERT_WEBHOOK_URL=slack.url, ALERT_BOUNDS=bounds)
    process = Process(config, clock)
    await process.start()
    try:
        with redis.Redis.from_url(redis_url) as client:
            client.rpush("rq:queue:default", "one", "two")
            await process.sees("queue_length", "critical")
            await later(clock, 5, process)
            assert {each.name for each in process.alerting.active} >= {"queue_length.warning", "queue_length.critical"}
            assert slack.of("Longest queue") == ["CRITICAL"]
            client.lpop("rq:queue:default")
            await process.sees("queue_length", "warning")
            await later(clock, 65, process)
            assert slack.of("Longest queue") == ["CRITICAL", "Resolved", "WARNING"]
            client.delete("rq:queue:default")
    finally:
        await process.stop()


async def test_the_heartbeat_is_called_by_one_and_only_while_it_looks(start, slack, clock):
    first, second = await start(), await start()
    for each in (first, second):
        await each.watch.heartbeat.run_once()
    assert slack.beats == 1
    clock.pass_by(31)
    await first.watch.heartbeat.run_once()
    assert slack.beats == 1
    await first.look()
    await first.watch.heartbeat.run_once()
    assert slack.beats == 2


async def test_past_alerts_come_with_their_words(start, slack, config, clock, db):
    process = await start()
    await later(clock, 30, process)
    async with worker_alive(config):
        await process.sees("worker", "ok")
        await later(clock, 70, process)
    (alert,) = [each for each in await process.alerting.past(db.system(), 10) if each.name == ALERT]
    assert (alert.title, alert.shown, alert.threshold) == (WORKER, "no", "no for 15s")
    assert alert.resolved_at - alert.fired_at >= timedelta(seconds=60)
    assert await alert_rows.acknowledge(db.system(), alert.id, "ann") is False  # it is over
