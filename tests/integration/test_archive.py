"""The watch's memory: what it saw outlives processes and outages of PostgreSQL."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from jobs import retention
from ottoai.indicators import CACHE
from ottoai.measures import Select
from ottoai.ops import monitor
from ottoai.ops.history import POINTS
from tests.background import context_of
from tests.conftest import execute, make_config
from tests.slack import Clock, Process, keys, later, lease_ends

CHECKS = Select("redis_checks_total")  # one a second at most, while somebody looks


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def start(config, clock, demo, monkeypatch):
    monkeypatch.setattr(monitor, "EVERY", 3600.0)  # tests say when a process looks
    async with AsyncExitStack() as stack:

        async def started() -> Process:
            process = Process(config, clock)
            await process.start()
            stack.push_async_callback(process.stop)
            return process

        yield started


def minutes(database_url) -> list[datetime]:
    return [row[0] for row in execute(database_url, "select at from ops_minutes order by at")]


def lookups(process: Process, times: int) -> None:
    """Let something be counted that an indicator is made of."""
    process.app[keys.METRICS].cache_requests_total.inc(times, cache="calls", result="hit")


def known(points: list[float | None]) -> list[float]:
    return [each for each in points if each is not None]


async def test_a_restart_forgets_nothing(start, clock, database_url):
    first = await start()
    lookups(first, 120)
    await later(clock, 240, first)
    before = first.monitor
    assert before.fleet.increase(CACHE, 600) == 120
    since = before.history.since("worker", "critical")
    await first.stop()
    clock.pass_by(30)
    second = await start()
    assert second.monitor.fleet.increase(CACHE, 600) == 120
    assert known(second.monitor.history.spark("worker", clock().timestamp())) == [0.0]
    (reading,) = [each for each in second.monitor.report.readings if each.id == "worker"]
    assert reading.since == since
    assert minutes(database_url) == [datetime(2026, 3, 2, 12, n, tzinfo=UTC) for n in range(4)]


async def test_one_writes_and_all_remember(start, clock, database_url):
    first, second = await start(), await start()
    lookups(first, 7)
    await later(clock, 120, first, second)
    rows = execute(database_url, "select increases ->> %s, readings -> 'worker' from ops_minutes", CACHE.promql())
    assert rows == [("7.0", [0.0, "critical"]), ("0.0", [0.0, "critical"])]
    for each in (first, second):
        assert known(each.monitor.history.spark("worker", clock().timestamp())) == [0.0]
        assert each.monitor.history.last_minute == datetime(2026, 3, 2, 12, 1, tzinfo=UTC)


async def test_a_minute_that_ends_while_nobody_speaks_is_written_by_the_next_one(start, clock, database_url, redis_url):
    first, second = await start(), await start()
    await later(clock, 50, first, second)
    await first.kill()
    await later(clock, 15, second)
    assert minutes(database_url) == []
    lease_ends(database_url, redis_url)
    await second.look()
    assert minutes(database_url) == [datetime(2026, 3, 2, 12, 0, tzinfo=UTC)]


async def test_minutes_without_postgres_are_written_when_it_is_back(start, clock, postgres_server, database_url):
    process = await start()
    await later(clock, 60, process)
    postgres_server.stop()
    try:
        await process.sees("database", "critical")
        lookups(process, 5)
        await later(clock, 180, process)
    finally:
        postgres_server.start()
    await process.sees("database", "ok")
    await later(clock, 5, process)
    assert minutes(database_url) == [datetime(2026, 3, 2, 12, n, tzinfo=UTC) for n in range(4)]
    query = "select (increases ->> %s)::float8 from ops_minutes order by at"
    assert sum(row[0] for row in execute(database_url, query, CACHE.promql())) == 5


async def test_who_starts_without_postgres_remembers_when_it_is_back(start, clock, postgres_server):
    first = await start()
    lookups(first, 120)
    await later(clock, 180, first)
    await first.stop()
    postgres_server.stop()
    try:
        second = await start()
        lookups(second, 3)
        await later(clock, 120, second)
        assert not second.watch.archive.restored
        assert second.monitor.fleet.increase(CACHE, 600) == 3
    finally:
        postgres_server.start()
    await second.sees("database", "ok")
    assert second.watch.archive.restored
    assert second.monitor.fleet.increase(CACHE, 600) == 123
    history = second.monitor.history
    assert history.around("worker", datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC).timestamp()) == 0.0
    assert history.last_minute >= datetime(2026, 3, 2, 12, 4, tzinfo=UTC)


async def test_a_machine_that_slept_makes_up_for_the_minutes(start, clock, database_url):
    process = await start()
    await later(clock, 60, process)
    lookups(process, 9)
    clock.pass_by(240)
    await process.look()
    rows = execute(database_url, "select increases ->> %s, readings from ops_minutes order by at", CACHE.promql())
    assert len(rows) == 5
    assert [bool(readings) for _, readings in rows] == [True, False, False, False, True]


async def test_hours_sum_minutes_up(start, clock, database_url):
    execute(
        database_url,
        "insert into ops_minutes (at, increases, readings)"
        " select %s::timestamptz + n * interval '1 minute', '{}',"
        " jsonb_build_object('http_p95', jsonb_build_array(null, 'none'), 'queue_length',"
        " jsonb_build_array(nullif(n, 59), case n when 5 then 'critical' else 'ok' end))"
        " from generate_series(0, 59) n",
        clock().replace(hour=11, minute=0, second=0),
    )
    process = await start()
    await later(clock, 5, process)
    ((at, readings),) = execute(database_url, "select at, readings from ops_hours")
    assert at == datetime(2026, 3, 2, 11, tzinfo=UTC)
    assert readings == {"queue_length": [None, 0, 58, "critical"], "http_p95": [None, None, None, "none"]}
    clock.now = clock.now.replace(hour=12, minute=59, second=50)
    await process.look()
    await later(clock, 20, process)
    hours = execute(database_url, "select at, readings -> 'worker' from ops_hours order by at")
    assert hours[1:] == [(datetime(2026, 3, 2, 12, tzinfo=UTC), [0.0, 0, 0, "critical"])]


async def test_hours_of_a_month_are_remembered(start, clock, database_url):
    values = msgspec.json.encode({"requests": [300.0, 0, 300.0, "ok"]}).decode()
    for day in range(1, 8):
        at = clock().replace(minute=0, second=0) - timedelta(days=day)
        execute(database_url, "insert into ops_hours (at, readings) values (%s, %s)", at, values)
    process = await start()
    assert list(process.monitor.fleet.same_hour("requests")) == [300.0] * 7
    assert len(process.monitor.history.spark("requests", clock().timestamp())) == POINTS


KEPT = {
    "ops_minutes": ("at, increases, readings", "%s, '{}', '{}'", timedelta(hours=25)),
    "ops_hours": ("at, readings", "%s, '{}'", timedelta(days=31)),
    "alerts": (
        "pending_at, fired_at, resolved_at, name, level, state", "%s, %s, %s, 'x.info', 'info', 'resolved'",
        timedelta(days=395),
    ),
    "ops_audit": ("at, actor, action, target", "%s, 'ann', 'retry', 'x'", timedelta(days=395)),
}  # fmt: skip


@pytest.mark.parametrize("table", KEPT)
async def test_what_the_watch_saw_is_forgotten_in_time(database_url, redis_url, db, table):
    columns, values, age = KEPT[table]
    for too_old in (True, False):
        at = datetime.now(UTC) - age + timedelta(minutes=-5 if too_old else 5)
        sql = f"insert into {table} ({columns}) values ({values})"
        execute(database_url, sql, *[at] * values.count("%s"))
    async with context_of(make_config(database_url, redis_url)) as context:
        assert await retention.retention(context) is False
    assert execute(database_url, f"select count(*) from {table}") == [(1,)]


async def test_an_alert_that_fires_is_never_forgotten(database_url, redis_url, db):
    columns = "pending_at, fired_at, name, level, state"
    at = datetime.now(UTC) - timedelta(days=1000)
    execute(database_url, f"insert into alerts ({columns}) values (%s, %s, 'x.info', 'info', 'firing')", at, at)
    async with context_of(make_config(database_url, redis_url)) as context:
        await retention.retention(context)
    assert execute(database_url, "select count(*) from alerts") == [(1,)]
