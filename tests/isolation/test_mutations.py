"""Every guard is needed: each is taken away in turn, and something must notice.

What is taken away in the database is rolled back after the look, so that hundreds of mutations cost seconds.
"""

import json
from typing import Any

import pytest

from ottoai import db as module
from ottoai.db import open_pool, queries
from ottoai.metrics import Metrics
from tests.conftest import execute
from tests.isolation import catalogue, probe
from tests.isolation.canaries import A, B
from tests.isolation.sessions import trying

Mutation = tuple[str, str, str]  # what it does, to which table, in SQL


def mutations(url: str) -> list[Mutation]:
    """Every policy dropped, and every table opened in every way."""
    found: list[Mutation] = []
    for table, policy in execute(
        url, "select tablename, policyname from pg_policies where schemaname = 'public' order by 1, 2"
    ):
        found.append(("drop", str(table), f"drop policy {policy} on {table}"))
    for table in sorted(catalogue.GRANTS):
        found.append(("disable", table, f"alter table {table} disable row level security"))
        found.append(("no force", table, f"alter table {table} no force row level security"))
        if table not in catalogue.NOBODYS:
            found.append(("using true", table, f"alter policy own_tenant on {table} using (true)"))
            found.append(("check true", table, f"alter policy own_tenant on {table} with check (true)"))
            found.append(("everybody", table, f"alter policy own_tenant on {table} to public"))
    return found


def unseen(what: str, table: str) -> bool:
    """Mutations that change what only a later grant or owner could use: the catalogue alone sees them."""
    app, _ = catalogue.GRANTS[table]
    if what == "no force":  # binds the owner, whom the policies of ottoai_system let see these
        return (table, "ottoai_system") in catalogue.CROSSING
    if what == "check true":
        return not {"insert", "update"} & set(app.split())
    if what == "everybody":
        return True  # the setting still decides; but nobody else should need it
    return table in catalogue.NOBODYS


async def test_both_detectors_find_nothing_when_all_is_well(two, database_url):
    with trying(database_url) as cursor:
        assert catalogue.problems(cursor) == []
        assert probe.problems(cursor) == []


async def test_every_guard_that_is_taken_away_is_missed(two, database_url):
    todo = mutations(database_url)
    assert len(todo) > 90
    with trying(database_url) as cursor:
        for what, table, sql in todo:
            cursor.execute("savepoint mutation")
            cursor.execute(sql)
            assert catalogue.problems(cursor), f"the catalogue does not notice: {sql}"
            assert probe.problems(cursor) or unseen(what, table), f"no behaviour changes: {sql}"
            cursor.execute("rollback to savepoint mutation")
        assert probe.problems(cursor) == [], "the mutations did not stay apart"


@pytest.mark.parametrize(
    "sql",
    [
        "create or replace function current_tenant() returns text language sql stable return 'kestrel'",
        "create or replace function current_tenant() returns text language sql stable return null",
        "alter policy own_tenant on leads using (tenant_id = any(string_to_array(current_tenant(), ',')) or true)",
    ],
)
async def test_a_wrong_idea_of_the_tenant_is_missed(two, database_url, sql):
    with trying(database_url) as cursor:
        cursor.execute(sql)
        assert catalogue.problems(cursor)
        assert probe.problems(cursor)


# The tenant setting: what db.py does


async def setting_problems(config: Any) -> list[str]:
    """Whether each query sees its own tenant, and nothing of it stays on the connection for the next."""
    wrong = []
    async with open_pool(config, Metrics("test")) as database:
        for tenant in (A, B, A):
            for way in ("one", "transaction"):
                rows = await _leads(database, tenant.id, way)
                wrong += [f"{tenant.id} by {way} reads {rows}"] if rows != [tenant.lead] else []
                wrong += await _residue(database)
    return wrong


async def _leads(database: Any, tenant: str, way: str) -> list[str]:
    page = {"page_size": 10, "after_at": "infinity", "after_id": "f" * 32, "phone": None, "name": None}
    try:
        if way == "one":
            return _ids(await queries().leads.list_leads(database.one(tenant), **page))
        async with database.transaction(tenant) as tx:
            return _ids(await queries().leads.list_leads(tx, **page))
    except Exception as error:  # noqa: BLE001 - a setting that breaks queries is noticed as well
        return [repr(error)]


def _ids(page: Any) -> list[str]:
    return [item["id"] for item in json.loads(f"[{page['items'] or ''}]")]


async def _residue(database: Any) -> list[str]:
    async with database.pools[0].connection() as connection, connection.cursor() as cursor:
        await cursor.execute("select count(*) from leads")
        [(count,)] = await cursor.fetchall()
    return [f"{count} leads are left for whoever borrows the connection next"] if count else []


async def test_each_query_sets_its_tenant_and_leaves_none(two, config):
    assert await setting_problems(config) == []


@pytest.mark.parametrize(
    "setting",
    [
        "",  # never set
        "select set_config('app.tenant_id', %(tenant_id)s, false);\n",  # left over on the connection
        "select set_config('app.tenant', %(tenant_id)s, true);\n",  # another name
        "select set_config('app.tenant_id', 'kestrel', true);\n",  # always the same
    ],
)
async def test_a_tenant_that_is_not_set_or_left_over_is_missed(two, config, monkeypatch, setting):
    monkeypatch.setattr(module, "SET_TENANT", setting)
    assert await setting_problems(config)
