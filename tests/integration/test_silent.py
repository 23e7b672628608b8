"""Tenants whose webhooks fell silent: who is told of, and who is not."""

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from ottoai import db as pools
from ottoai.domain.tenants import PROBE
from ottoai.metrics import Metrics
from ottoai.ops import silent
from ottoai.ops.silent import EVERY, USUAL, Silence
from ottoai.webhooks.callrail import LISTED
from tests.background import locked
from tests.conftest import add_tenant, execute

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
HOURS, DAY, WEEK = timedelta(hours=4), timedelta(days=1), timedelta(days=7)
TENANTS = ("demo", "other", PROBE)


@pytest.fixture
async def tenants(demo, db, database_url):
    await add_tenant(db, "other", company="COM2", number="+14045550002")
    sql = "insert into tenants (id, name, timezone, hours) values (%s, 'Self-probe', 'UTC', 'always')"
    execute(database_url, sql + " on conflict do nothing", PROBE)


@pytest.fixture
async def silence(db, tenants):
    return Silence(db.system(), Metrics("test"), lambda: NOW)


def came(url: str, tenant: str, at: datetime, times: int = 1, kind: str = "call-complete") -> None:
    with closing(psycopg2.connect(url, options=f"-c role=ottoai_app -c app.tenant_id={tenant}")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, created_at)"
                " select %s, 'callrail', %s, gen_random_uuid(), '', 'processed', %s::timestamptz"
                " from generate_series(1, %s)",
                (tenant, kind, at, times),
            )


def usually(url: str, tenant: str, before: timedelta, times: int = USUAL) -> None:
    """So many, so long before now, in each of the last two weeks."""
    for week in (1, 2):
        came(url, tenant, NOW - week * WEEK - before, times)


async def found(silence: Silence) -> list[tuple[str, datetime | None]]:
    await silence.look()
    return [(each.tenant_id, each.last_at) for each in silence.tenants or []]


async def test_one_that_usually_calls_at_this_hour_and_does_not(silence, database_url):
    usually(database_url, "demo", timedelta(hours=1))
    usually(database_url, "other", timedelta(hours=1))
    came(database_url, "demo", NOW - timedelta(hours=5))
    came(database_url, "other", NOW - timedelta(hours=3))
    assert await found(silence) == [("demo", NOW - timedelta(hours=5))]
    assert "webhook_silent_tenants 1" in silence._metrics.render()


async def test_one_that_calls_seldom_is_missed_after_a_day(silence, database_url):
    usually(database_url, "demo", timedelta(hours=20))
    came(database_url, "demo", NOW - timedelta(hours=26))
    assert await found(silence) == [("demo", NOW - timedelta(hours=26))]


@pytest.mark.parametrize(
    ("before", "times"),
    [(timedelta(hours=20), USUAL - 1), (timedelta(hours=25), USUAL), (timedelta(hours=-1), USUAL)],
)
async def test_one_that_is_usually_as_quiet_is_not_missed(silence, database_url, before, times):
    usually(database_url, "demo", before, times)
    assert await found(silence) == []


async def test_one_good_week_is_no_habit(silence, database_url):
    came(database_url, "demo", NOW - WEEK - timedelta(hours=1), 50)
    assert await found(silence) == []


async def test_what_a_provider_lists_is_no_webhook(silence, database_url):
    """It goes on when the provider has switched the webhook off."""
    usually(database_url, "demo", timedelta(hours=1))
    came(database_url, "demo", NOW - timedelta(hours=1), 20, LISTED)
    assert await found(silence) == [("demo", NOW - WEEK - timedelta(hours=1))]
    for week in (1, 2):
        came(database_url, "other", NOW - week * WEEK - timedelta(hours=1), 20, LISTED)
    silence._next = None
    assert [tenant for tenant, _ in await found(silence)] == ["demo"]


async def test_the_probe_is_nobody(silence, database_url):
    usually(database_url, PROBE, timedelta(hours=1))
    assert await found(silence) == []


async def test_it_asks_every_few_minutes_and_says_when_it_does_not_know(db, tenants, database_url, postgres_server):
    times = [NOW]
    silence = Silence(db.system(), Metrics("test"), lambda: times[0])
    assert await found(silence) == []
    usually(database_url, "demo", timedelta(hours=1))
    times[0] += EVERY - timedelta(seconds=1)
    assert await found(silence) == []
    times[0] += timedelta(seconds=1)
    assert [tenant for tenant, _ in await found(silence)] == ["demo"]
    postgres_server.stop()
    try:
        times[0] += EVERY
        await silence.look()
        assert silence.tenants is None
        assert "\nwebhook_silent_tenants " not in silence._metrics.render()
    finally:
        postgres_server.start()


async def test_who_is_silent_is_known_also_while_it_takes_too_long_to_find_since_when(
    silence, database_url, monkeypatch
):
    usually(database_url, "demo", timedelta(hours=20))
    came(database_url, "demo", NOW - timedelta(hours=26))
    look_back = Silence._look_back

    async def waits(*asked):
        with locked(database_url, "idempotency_keys"):
            return await look_back(*asked)

    with monkeypatch.context() as patch:
        patch.setattr(silent, "LOOKING_BACK", 0.1)
        patch.setattr(Silence, "_look_back", waits)
        assert await found(silence) == [("demo", None)]
        assert "webhook_silent_tenants 1" in silence._metrics.render()
    silence._next = None
    assert await found(silence) == [("demo", NOW - timedelta(hours=26))]


class Explaining:
    """A session of the system's that tells the plan of what it would run, with what it took."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg2.connect(url, options=pools.options("ottoai_system"))

    async def run(self, name: str, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self.connection, self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(f"explain (analyze, buffers, format json) {sql}", parameters)
            return cursor.fetchall()


async def test_it_reads_what_it_asks_for_and_no_more(tenants, database_url):
    """Some four of the forty days that are kept, by their index."""
    sql = (
        "insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, created_at)"
        " select %s, 'callrail', 'call-complete', n, '', 'processed', %s::timestamptz - n * interval '90 seconds'"
        " from generate_series(1, 40000) n"
    )
    with closing(psycopg2.connect(database_url, options="-c role=ottoai_app -c app.tenant_id=demo")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, ("demo", NOW))
    execute(database_url, "vacuum analyze idempotency_keys")
    session = Explaining(database_url)
    values = {"now": NOW, "listed": LISTED, "probe": PROBE, "usual": USUAL, "limit": 10}
    rows = [row async for row in pools.queries().ops.silent_tenants(session, **values)]
    session.connection.close()
    plan = rows[0]["QUERY PLAN"][0]["Plan"]
    ((size,),) = execute(database_url, "select pg_relation_size('idempotency_keys') / 8192")
    assert "Seq Scan on idempotency_keys" not in str(rows)
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < int(str(size)) / 4
