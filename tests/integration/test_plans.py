"""Which indexes lists use, and what a page costs: the plans of the very statements that are sent, under row-level
security, on tables large enough for a wrong one to show.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
import pytest
from msgspec.structs import replace

from ottoai import db
from ottoai.db import queries
from ottoai.domain import probes
from ottoai.domain.tenants import PROBE
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.api.calls import CallQuery
from ottoai.web.api.leads import LeadQuery
from ottoai.web.api.messages import MessageQuery
from ottoai.web.api.missed_calls import MissedCallQuery
from ottoai.web.api.tasks import TaskQuery
from ottoai.web.api.timeline import TimelineQuery
from ottoai.web.inputs import PageQuery
from tests.conftest import execute, of_tenant, on_database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
CALLS = 20_000
LEAD = "00000000-0000-4000-8000-000000000007"
BUSY = "00000000-0000-4000-8000-000000000001"  # a lead with whom much happened
BLOCKS = 250  # a page of 51 rows that lie all over the table, and the way down the index; the table has some thousand

# 1 in 8 calls is missed, 1 in 500 outbound, none is ringing. A fifth of the rest are of one lead.
SEED = """
insert into tenants (id, name, timezone, hours) select t, t, 'UTC', 'always' from unnest(array['demo', 'other']) t;
insert into heads (tenant_id) values ('demo'), ('other')
""", """
insert into leads (tenant_id, id, phone, name, last_contact_at)
select %(tenant)s, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '+1404' || 5550000 + n,
    (array['Ann', 'Bob', 'Chloe', 'Dan'])[1 + n %% 4] || ' ' || n, %(now)s - n * interval '1 minute'
from generate_series(1, 4000) n;
insert into calls (
    tenant_id, lead_id, provider, external_id, direction, status, answered, missed, started_at, customer_phone,
    customer_name, reports
)
select %(tenant)s, l.id, 'callrail', 'CAL' || n, case when n %% 500 = 3 then 'outbound' else 'inbound' end, 'completed',
    n %% 8 > 0, n %% 8 = 0, %(now)s - n * interval '1 minute', l.phone, l.name, '{}'
from generate_series(1, %(calls)s) n
join leads l
    on l.tenant_id = %(tenant)s and l.phone = '+1404' || 5550000 + case when n %% 5 = 1 then 1 else 1 + n %% 4000 end;
insert into missed_calls (tenant_id, call_id, lead_id, status, called_at)
select tenant_id, id, lead_id, case when row_number() over () %% 100 = 0 then 'escalated' else 'recovered' end,
    started_at
from calls where tenant_id = %(tenant)s and missed;
insert into messages (tenant_id, lead_id, direction, status, sender, body, created_at)
select tenant_id, lead_id, 'inbound', 'received', 'twilio', 'text ' || external_id, started_at
from calls where tenant_id = %(tenant)s;
insert into tasks (tenant_id, lead_id, kind, subject_id, title, status, assigned_to, created_at)
select tenant_id, lead_id, case when row_number() over () %% 200 = 0 then 'rare' else 'usual' end, id, 'Call back',
    case when row_number() over () %% 50 = 0 then 'open' else 'done' end, 'user-' || (row_number() over () %% 300),
    started_at
from calls where tenant_id = %(tenant)s;
"""  # fmt: skip


class Explaining:
    """A session that tells the plan of what the pool would run, with what it took."""

    def __init__(self, url: str, role: str = "ottoai_app") -> None:
        options = f"{db.options(role)} -c app.tenant_id=demo"
        self.connection = psycopg2.connect(url, options=options)

    async def run(self, name: str, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        parameters = {**parameters, "tenant_id": "demo"}
        shape = db._shape(name, parameters)
        with self.connection, self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            statement = sql
            if shape:
                _, prepared, names = db._preparable(sql, shape[1])
                cursor.execute(f"deallocate all; prepare {name} as {prepared}", parameters)
                statement = f"execute {name}({', '.join(f'%({each})s' for each in names)})"
            cursor.execute(f"explain (analyze, buffers, format json) {statement}", parameters)
            return cursor.fetchall()


@pytest.fixture(scope="module")
def explaining(postgres_server, template_url) -> Iterator[Explaining]:
    execute(postgres_server.url, "create database plans template template_for_tests")
    url = on_database(postgres_server.url, "plans")
    for statement in SEED[0].split(";"):
        execute(url, statement)
    for tenant, calls in (("demo", CALLS), ("other", CALLS // 4)):
        values = {"tenant": tenant, "now": NOW, "calls": calls}
        with closing(psycopg2.connect(url, options=f"-c role=ottoai_app -c app.tenant_id={tenant}")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(SEED[1], values)
    execute(url, "vacuum analyze")
    assert of_tenant(url, "select count(*) from calls") == [(CALLS,)]
    session = Explaining(url)
    yield session
    session.connection.close()
    execute(postgres_server.url, "drop database plans with (force)")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def plan_of(
    session: Explaining, query: Any, asked: PageQuery, place: tuple[Any, str], **of: str
) -> dict[str, Any]:
    """The plan of a page, as `reading.listing` asks for it."""
    filters = {**inputs.filters(asked), **of}
    after_at, after_id = place
    row = await query(session, page_size=asked.limit, after_at=after_at, after_id=after_id, **filters)
    return row["QUERY PLAN"][0]["Plan"]


def blocks(plan: dict[str, Any]) -> int:
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def used(plan: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


FILTERS = [
    ("calls", CallQuery(), {"calls_by_start"}),
    ("calls", CallQuery(status="ringing"), {"calls_unfinished"}),
    ("calls", CallQuery(status="completed"), {"calls_by_start"}),
    ("calls", CallQuery(direction="outbound"), {"calls_outbound"}),
    ("calls", CallQuery(direction="inbound"), {"calls_by_start"}),
    ("calls", CallQuery(answered=True), {"calls_by_start"}),
    ("calls", CallQuery(answered=False), {"calls_by_start"}),
    ("calls", CallQuery(missed=True), {"calls_missed"}),
    ("calls", CallQuery(missed=False), {"calls_by_start"}),
    ("calls", CallQuery(lead_id=UUID(LEAD)), {"calls_by_lead"}),
    ("calls", CallQuery(lead_id=UUID(BUSY)), {"calls_by_lead"}),
    ("calls", CallQuery(phone="+14045550007"), {"calls_by_phone"}),
    ("calls", CallQuery(phone="(404) 555-9999"), {"calls_by_phone"}),
    ("calls", CallQuery(name="chloe 22"), {"calls_by_name"}),
    ("calls", CallQuery(name="nobody"), {"calls_by_name"}),
    ("calls", CallQuery(name="B"), {"calls_by_start", "calls_by_name"}),
    ("calls", CallQuery(since=NOW - timedelta(days=3), until=NOW - timedelta(days=2)), {"calls_by_start"}),
    ("calls", CallQuery(until=NOW - timedelta(days=99)), {"calls_by_start"}),
    ("leads", LeadQuery(), {"leads_by_contact"}),
    ("leads", LeadQuery(phone="+14045550007"), {"leads_tenant_id_phone_key"}),
    ("leads", LeadQuery(name="CHLOE 22"), {"leads_by_name"}),
    ("leads", LeadQuery(name="nobody"), {"leads_by_name"}),
    ("missed_calls", MissedCallQuery(), {"missed_calls_by_call_time"}),
    ("missed_calls", MissedCallQuery(status="escalated"), {"missed_calls_by_status"}),
    ("missed_calls", MissedCallQuery(status="queued"), {"missed_calls_by_status"}),
    ("missed_calls", MissedCallQuery(lead_id=UUID(LEAD)), {"missed_calls_by_lead"}),
    ("missed_calls", MissedCallQuery(since=NOW - timedelta(days=3)), {"missed_calls_by_call_time"}),
    ("tasks", TaskQuery(), {"tasks_by_time"}),
    ("tasks", TaskQuery(status="open"), {"tasks_by_status"}),
    ("tasks", TaskQuery(assigned_to="user-7"), {"tasks_by_assignee"}),
    ("tasks", TaskQuery(assigned_to="nobody"), {"tasks_by_assignee"}),
    ("tasks", TaskQuery(lead_id=UUID(LEAD)), {"tasks_by_lead"}),
    ("tasks", TaskQuery(kind="rare"), {"tasks_once"}),
    ("tasks", TaskQuery(kind="unheard of"), {"tasks_once"}),
]


@pytest.mark.parametrize(("noun", "asked", "indexes"), FILTERS, ids=range(len(FILTERS)))
async def test_a_filter_uses_an_index(explaining, noun, asked, indexes):
    query = getattr(getattr(queries(), noun), f"list_{noun}")
    plan = await plan_of(explaining, query, asked, reading.START)
    assert used(plan) <= indexes, used(plan)
    assert used(plan)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
    assert blocks(plan) <= BLOCKS


@pytest.mark.parametrize(("name", "asked"), [("messages", MessageQuery()), ("timeline", TimelineQuery())])
@pytest.mark.parametrize("lead", [LEAD, BUSY])
async def test_what_a_lead_has_is_found_by_the_lead(explaining, name, asked, lead):
    query = getattr(getattr(queries(), name), f"list_{name}")
    plan = await plan_of(explaining, query, asked, reading.START, lead_id=lead)
    nouns = ("messages",) if name == "messages" else ("calls", "messages", "missed_calls", "tasks")
    assert used(plan) == {"leads_pkey", *(f"{noun}_by_lead" for noun in nouns)}
    assert blocks(plan) <= BLOCKS * len(nouns)


PAGED = [
    ("calls", CallQuery(), {}),
    ("calls", CallQuery(missed=True), {}),
    ("calls", CallQuery(lead_id=UUID(BUSY)), {}),
    ("leads", LeadQuery(), {}),
    ("missed_calls", MissedCallQuery(), {}),
    ("tasks", TaskQuery(), {}),
    ("tasks", TaskQuery(status="done"), {}),
    ("messages", MessageQuery(), {"lead_id": BUSY}),
    ("timeline", TimelineQuery(), {"lead_id": BUSY}),
]


@pytest.mark.parametrize(("noun", "asked", "of"), PAGED, ids=range(len(PAGED)))
async def test_page_100_costs_what_page_1_costs(explaining, noun, asked, of):
    query = getattr(getattr(queries(), noun), f"list_{noun}")
    # 20 rows a page and 100 pages on: a lead with 4,000 things, or a list of 2,500 and more.
    first = await plan_of(explaining, query, replace(asked, limit=20), reading.START, **of)
    late = await plan_of(explaining, query, replace(asked, limit=20), (NOW - timedelta(minutes=2000), BUSY), **of)
    assert rows(late) == rows(first) == 21
    assert blocks(late) <= blocks(first) + 10
    assert used(late) == used(first)


def rows(plan: dict[str, Any]) -> int:
    """How many came out of the limit."""
    return max(int(node["Actual Rows"]) for node in nodes(plan) if node["Node Type"] == "Limit")


async def test_probes_to_forget_are_found_among_everybodys_jobs(db, demo, database_url):
    """Each hour, and mostly there is nothing left to find: a day's probes and a week's jobs are younger."""
    await probes.make_tenant(db.system())
    sql = (
        "insert into outbox (tenant_id, job, queue, subject_id, state, due_at, enqueue_at, finished_at)"
        " select current_tenant(), 'x', 'default', gen_random_uuid(), 'done', now(), now(), now() - n * %s::interval"
        " from generate_series(1, %s) n"
    )
    of_tenant(database_url, sql, timedelta(seconds=30), 20_000)
    of_tenant(database_url, sql, timedelta(seconds=15), 5_000, tenant=PROBE)
    execute(database_url, "vacuum analyze outbox")
    session = Explaining(database_url, "ottoai_system")
    before = datetime.now(UTC) - timedelta(days=1)
    found = await queries().retention.retire_probes(session, probe=PROBE, before=before, limit=500)
    session.connection.close()
    plan = found[0]["Plan"]
    assert "outbox_probes" in used(plan)
    assert blocks(plan) <= BLOCKS


async def test_quarantined_deliveries_whose_payload_is_gone_are_passed_by(demo, database_url):
    """Keys are kept for a year longer than payloads, and each look at /ops counts what is quarantined."""
    keys = (
        "insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, created_at)"
        " select current_tenant(), 'callrail', 'x', n, %s, %s, now() - n * interval '1 minute' - %s::interval"
        " from generate_series(1, %s) n"
    )
    of_tenant(database_url, keys, "gone", "quarantined", timedelta(days=30), 20_000)
    of_tenant(database_url, keys, "kept", "processed", timedelta(0), 20_000)
    of_tenant(database_url, keys, "kept, too", "quarantined", timedelta(0), 30)
    of_tenant(
        database_url,
        "insert into payloads (idempotency_key_id, tenant_id, headers, body, error, received_at)"
        " select id, tenant_id, '{}', '', '', created_at from idempotency_keys where variant <> 'gone'",
    )
    execute(database_url, "vacuum analyze idempotency_keys, payloads")
    session = Explaining(database_url, "ottoai_system")
    counted = await session.run("count", queries().deliveries.count_quarantined.sql, {"bound": 1000})
    nowhere = dict.fromkeys(("tenant", "provider", "kind", "since", "until", "after_at", "after_id"))
    listed = await session.run("list", queries().deliveries.quarantined.sql, {**nowhere, "page_size": 100})
    session.connection.close()
    for [found] in (counted, listed):
        assert blocks(found["QUERY PLAN"][0]["Plan"]) <= BLOCKS
