"""Whatever the database holds of tenants is guarded, and whoever adds to it says how."""

import pytest

from tests.conftest import execute
from tests.isolation import catalogue
from tests.isolation.sessions import trying


def test_the_database_is_as_the_catalogue_says(database_url):
    with trying(database_url) as cursor:
        assert catalogue.problems(cursor) == []


def test_the_login_is_no_superuser_and_sees_no_tenants_calls(database_url):
    """These tests would prove nothing under a login that no policy binds."""
    [(powerful,)] = execute(database_url, "select rolsuper or rolbypassrls from pg_roles where rolname = current_user")
    assert powerful is False


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("create table notes (tenant_id text not null, note text)", "table notes is new"),
        ("create table notes (tenant_id text not null, note text)", "notes: row-level security must be"),
        ("create table notes (id int)", "notes has no tenant_id"),
        ("create view everything as select * from leads", "view everything reads as its owner"),
        ("create materialized view everything as select * from leads", "everything is of kind 'm'"),
        (
            "create function peek() returns int language sql security definer return 1",
            "function peek runs as its owner",
        ),
        ("grant delete on leads to ottoai_app", "ottoai_app may delete on leads"),
        ("grant select on leads to public", "PUBLIC may select on leads"),
        ("grant select on leads to ottoai_system", "ottoai_system may select on leads"),
        ("grant select (phone) on leads to ottoai_witness", "'phone'"),
        ("grant execute on function exists_elsewhere to ottoai_app", "exists_elsewhere must be ottoai_witness's"),
        ("grant create on schema public to ottoai_app", "ottoai_app may create things in public"),
        ("alter default privileges grant select on tables to ottoai_app", "default privileges"),
        ("create policy more on leads to ottoai_app using (true)", "two policies for the same role"),
        ("create policy more on leads to ottoai_system using (true)", "lets ottoai_system cross tenants on leads"),
        ("alter table leads alter tenant_id drop not null", ""),
        ("alter table leads owner to ottoai_app", "leads is owned by a role that acts for tenants"),
        ("grant ottoai_witness to ottoai_app", "role ottoai_app is a member of another role"),
        ("alter role ottoai_app createrole", "role ottoai_app may do more"),
        (
            "create or replace function current_tenant() returns text language sql stable return 'other'",
            "current_tenant() does not read app.tenant_id",
        ),
    ],
)
def test_a_mistake_is_told(database_url, mistake, told):
    with trying(database_url) as cursor:
        cursor.execute("set local lock_timeout = '5s'")
        if "drop not null" in mistake:
            cursor.execute("alter table leads drop constraint leads_pkey cascade")
        if "owner to" in mistake:
            cursor.execute("grant create on schema public to ottoai_app")
        if "grant execute" in mistake:
            cursor.execute("set local role ottoai_witness")
        cursor.execute(mistake)
        cursor.execute("reset role")
        assert [problem for problem in catalogue.problems(cursor) if told in problem]
