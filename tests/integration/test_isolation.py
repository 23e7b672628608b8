"""One company never sees another's data: through the API, and in the database itself."""

import asyncio
import time

import psycopg2
import pytest

from ottoai.config import Config
from ottoai.db import open_pool, queries, refuse_privilege
from ottoai.errors import ConfigError, StoreUnavailable
from ottoai.metrics import Metrics
from tests.conftest import add_tenant, execute, make_config, of_tenant
from tests.helpers import deliver, get, report

NOUNS = {"calls": "calls", "leads": "leads", "missed-calls": "missed_calls"}
OTHER = {"company_id": 77, "company_resource_id": None, "tracking_phone_number": "+12125550188"}


@pytest.fixture
async def other(db, base) -> str:
    """A second tenant with a missed call."""
    await add_tenant(db, "other", company="77", number="+12125550188")
    await deliver(base, "call-complete", report("call-complete", 9002, **OTHER), tenant="other")
    return "other"


@pytest.mark.parametrize(("path", "table"), NOUNS.items())
async def test_lists_and_ids_are_the_own_tenants(base, make_token, database_url, other, path, table):
    await deliver(base, "call-complete", report("call-complete", 9001))
    for tenant in ("demo", other):
        [(own,)] = of_tenant(database_url, f"select id::text from {table}", tenant=tenant)
        _, _, page = await get(base, f"/api/{path}", make_token(tenant))
        assert [item["id"] for item in page["items"]] == [own]
        status, _, item = await get(base, f"/api/{path}/{own}", make_token(tenant))
        assert (status, item["id"]) == (200, own)


@pytest.mark.parametrize(("path", "table"), NOUNS.items())
async def test_foreign_and_missing_ids_get_the_same_answer(base, make_token, database_url, other, path, table):
    [(foreign,)] = of_tenant(database_url, f"select id::text from {table}", tenant=other)
    answers = []
    for wanted in (foreign, "11111111-1111-4111-8111-111111111111", "no-uuid", "%27%3B--", foreign.upper()):
        status, headers, problem = await get(base, f"/api/{path}/{wanted}", make_token("demo"))
        for told in ("instance", "trace_id"):
            problem.pop(told)
        answers.append((status, headers["Content-Type"], headers["Cache-Control"], problem))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 404


async def test_a_token_for_a_tenant_that_is_not_there_sees_nothing(base, make_token):
    assert (await get(base, "/api/calls", make_token("ghost")))[2] == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("path", ["/api/calls", "/api/leads", "/api/missed-calls", "/api/calls/x"])
async def test_the_api_needs_a_token(base, path):
    status, headers, problem = await get(base, path)
    assert (status, headers["WWW-Authenticate"], problem["type"]) == (401, "Bearer", "/docs/problems/unauthenticated")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=nonsense", "cursor=MjAyNnw="])
async def test_bad_paging_names_the_field(base, make_token, query):
    status, _, problem = await get(base, f"/api/calls?{query}", make_token())
    assert (status, problem["detail"].split(":")[0]) == (400, query.split("=")[0])


# In the database


def test_every_table_with_a_tenant_is_guarded(database_url):
    rows = execute(
        database_url,
        """
        select c.relname, c.relrowsecurity, c.relforcerowsecurity,
            (select count(*) from pg_policies p
             where p.tablename = c.relname and 'ottoai_app' = any(p.roles) and p.cmd = 'ALL'
             and p.qual like '%%current_tenant%%' and p.with_check like '%%current_tenant%%')
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
        where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
        """,
    )
    assert len(rows) >= 13
    for name, enabled, forced, policies in rows:
        assert (enabled, forced, policies) == (True, True, 1), name


async def test_without_a_tenant_nothing_is_seen_and_nothing_stays(db, base, other):
    tables = ["calls", "leads", "missed_calls", "events", "outbox", "payloads", "idempotency_keys", "heads", "messages"]
    async with db.pools[0].connection() as connection, connection.cursor() as cursor:
        await cursor.execute("select current_setting('app.tenant_id', true)")
        assert (await cursor.fetchone())[0] in {None, ""}, "a tenant was left on the connection"
        for table in tables:
            await cursor.execute(f"select count(*) from {table}")
            assert (await cursor.fetchone())[0] == 0, table


async def test_one_tenant_cannot_write_as_another(db, base, other, database_url):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        of_tenant(database_url, "insert into leads (tenant_id, phone, last_contact_at) values ('other', '+1', now())")
    before = of_tenant(database_url, "select seq from heads", tenant=other)
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        of_tenant(database_url, """select * from append_events('other', '', '[{"event":"x","data":{}}]')""")
    assert of_tenant(database_url, "select seq from heads", tenant=other) == before


async def test_processes_refuse_to_be_more_than_their_role(config: Config, database_url):
    async with open_pool(config, Metrics("test")) as database:
        await refuse_privilege(database)
        database.pools[1].role = "ottoai_app"  # the connection is ottoai_system's
        with pytest.raises(ConfigError, match="ottoai_system"):
            await refuse_privilege(database)


# The traps of the driver


async def test_a_statement_timeout_is_an_answer_not_a_cancellation(db, monkeypatch):
    async with db.transaction("demo") as tx:
        await tx.run("set", "set local statement_timeout = 50", {})
        with pytest.raises(StoreUnavailable, match="too long"):
            await tx.run("sleep", "select pg_sleep(5)", {})
    assert await queries().roles.ping(db.system())


async def test_a_cancelled_caller_stays_cancelled(db):
    task = asyncio.create_task(db.system().run("sleep", "select pg_sleep(5)", {}))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await queries().roles.ping(db.system())
    assert db.pools[1].in_use == 0


async def test_lost_connections_are_replaced(db, database_url):
    await queries().roles.ping(db.system())
    execute(
        database_url,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'ottoai_system'",
    )
    with pytest.raises(StoreUnavailable):
        await queries().roles.ping(db.system())
        await queries().roles.ping(db.system())
    assert await queries().roles.ping(db.system())


async def test_a_prepared_query_survives_errors_before_it(db, base, database_url):
    """An error in the statement before the PREPARE must not leave a connection that believes to have prepared."""
    lock = "select pg_advisory_xact_lock(hashtextextended('demo' || chr(31) || 'callrail' || chr(31) || '9100', 0))"
    async with db.transaction("demo") as tx:
        await tx.run("hold", lock, {})
        blocked = [deliver(base, "pre-call", report("pre-call", 9100)) for _ in range(3)]
        answers = await asyncio.gather(*blocked)
        assert [status for status, _ in answers] == [503] * 3
    for call_id in range(9100, 9110):
        assert (await deliver(base, "pre-call", report("pre-call", call_id)))[1]["status"] == "processed"


async def test_a_full_pool_says_so(database_url, redis_url, monkeypatch):
    from ottoai import db as module

    monkeypatch.setattr(module, "ACQUIRE_TIMEOUT", 0.2)
    config = make_config(database_url, redis_url, DB_POOL_SIZE="1")
    async with open_pool(config, Metrics("test")) as database, database.transaction("demo") as tx:
        await tx.run("one", "select 1", {})
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"):
            await queries().events.head(database.one("demo"))
        assert time.monotonic() - started < 1


async def test_without_postgres_the_api_answers_503_and_recovers(base, make_token, postgres_server):
    postgres_server.stop()
    try:
        status, headers, problem = await get(base, "/api/calls", make_token())
        assert (status, headers["Retry-After"], problem["title"]) == (503, "1", "Unavailable")
        assert (await get(base, "/health"))[0] == 200
        status, _, ready = await get(base, "/ready")
        assert (status, ready["database"], ready["redis"]) == (503, False, True)
    finally:
        postgres_server.start()
    deadline = time.monotonic() + 5
    while (await get(base, "/api/calls", make_token()))[0] != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
