"""What is kept how long: each kind by its own setting, in small batches."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from jobs import retention
from jobs.run import perform_periodic
from ottoai.domain.tenants import PROBE
from tests.background import ROOT, context_of, locked, miss_a_call
from tests.conftest import execute, make_config, of_tenant

DAYS = {"EVENT_RETENTION_DAYS": "1", "PAYLOAD_RETENTION_DAYS": "2", "IDEMPOTENCY_TTL_DAYS": "30"}
AGE = {
    "events": "ts",
    "payloads": "received_at",
    "idempotency_keys": "created_at",
    "unclaimed_deliveries": "received_at",
}
LONG_AGO = "now() - interval '500 days'"
PROBED = f"""insert into events (tenant_id, seq, event, ts, data)
values (current_tenant(), 1, 'probe.sent', {LONG_AGO}, '{{}}')"""
ANSWERED = f"""insert into request_keys (tenant_id, user_id, key, fingerprint, status, answer, created_at)
values (current_tenant(), 'ann', 'k', 'f', 200, '{{}}', {LONG_AGO})"""
DONE = f"""insert into outbox (tenant_id, job, queue, subject_id, state, due_at, enqueue_at, finished_at)
values (current_tenant(), 'probe', 'default', gen_random_uuid(), 'done', {LONG_AGO}, {LONG_AGO}, {LONG_AGO})"""
SEEN = f"""
insert into unclaimed_deliveries (provider, kind, identities, headers, body) values ('x', 'x', '{{}}', '{{}}', '');
insert into clerk_users (user_id, gone, stamp, heard_at) values ('ann', false, '1', {LONG_AGO});
insert into ops_minutes (at, increases, readings) values ({LONG_AGO}, '{{}}', '{{}}');
insert into ops_hours (at, readings) values ({LONG_AGO}, '{{}}');
insert into alerts (name, level, state, pending_at, resolved_at)
values ('x.info', 'info', 'resolved', {LONG_AGO}, {LONG_AGO});
insert into ops_audit (at, actor, action, target) values ({LONG_AGO}, 'ann', 'retry', 'x');
insert into tenants (id, name, timezone, hours) values ('{PROBE}', 'Self-probe', 'UTC', 'always');
"""
KEPT = {"events": 1, "payloads": 2, "idempotency_keys": 30, "unclaimed_deliveries": 2}


def aged(url: str, table: str, age: timedelta) -> None:
    """Make every row of a table so old, as its owner."""
    column, at = AGE[table], datetime.now(UTC) - age
    execute(
        url,
        f"alter table {table} no force row level security; update {table} set {column} = %s;"
        f"alter table {table} force row level security",
        at,
    )


def count(url: str, table: str) -> int:
    ((found,),) = (execute if table == "unclaimed_deliveries" else of_tenant)(url, f"select count(*) from {table}")
    return int(str(found))


@pytest.mark.parametrize("table", AGE)
async def test_each_is_kept_as_long_as_its_setting_says(database_url, redis_url, db, demo, table):
    await miss_a_call(db, 100)
    columns = "provider, kind, identities, headers, body"
    execute(database_url, f"insert into unclaimed_deliveries ({columns}) values ('x', 'x', '{{}}', '{{}}', '')")
    before = {name: count(database_url, name) for name in AGE}
    config = make_config(database_url, redis_url, **DAYS)
    async with context_of(config) as context:
        aged(database_url, table, timedelta(days=KEPT[table]) - timedelta(hours=1))
        assert await retention.retention(context) is False
        assert {name: count(database_url, name) for name in AGE} == before
        aged(database_url, table, timedelta(days=KEPT[table]) + timedelta(hours=1))
        assert await retention.retention(context) is False
    after = {name: count(database_url, name) for name in AGE}
    gone = {table, "payloads"} if table == "idempotency_keys" else {table}  # a key takes its payload along
    assert after == before | dict.fromkeys(gone, 0)


async def test_no_batch_is_larger_than_it_may_be(database_url, redis_url, db, demo, monkeypatch):
    """So that a lock is held for milliseconds, however much there is to forget."""
    for number in range(100, 105):
        await miss_a_call(db, number)
    for table in ("events", "payloads", "idempotency_keys"):
        aged(database_url, table, timedelta(days=400))
    monkeypatch.setattr(retention, "BATCH", 3)
    sizes = []
    tables = [retention.Table(table.name, noting(table, sizes), table.kept) for table in retention.TABLES]
    monkeypatch.setattr(retention, "TABLES", tuple(tables))
    async with context_of(make_config(database_url, redis_url)) as context:
        assert await retention.retention(context) is False
    assert max(sizes) == 3
    assert sum(sizes) == 30 + 5 + 5


async def test_one_table_in_use_keeps_no_other_from_being_forgotten(config, db, demo, database_url, caplog):
    long_ago = datetime.now(UTC) - timedelta(days=400)
    await miss_a_call(db)
    aged(database_url, "events", timedelta(days=400))
    execute(database_url, "update outbox set state = 'done', finished_at = %s", long_ago)
    async with context_of(config) as context:
        with locked(database_url, "payloads"):
            assert (await perform_periodic(context, "retention")).status == "failure"
        assert [row[0] for row in execute(database_url, "select outcome from periodic_runs")] == ["failure"]
        assert count(database_url, "events") == count(database_url, "outbox") == 0, "before it and after it"
        aged(database_url, "payloads", timedelta(days=400))
        assert (await perform_periodic(context, "retention")).status == "success"
    assert count(database_url, "payloads") == 0
    assert [each.table for each in caplog.records if each.message == "Rows not retired"] == ["payloads"]


def noting(table, sizes):
    async def retire(session, before):
        gone = await table.retire(session, before)
        sizes.append(gone)
        return gone

    return retire


def monthly(server, url):
    """What `make ops:monthly` shows of each set: its oldest row, and how long it is kept."""
    script = ROOT / "scripts" / "monthly.sql"
    words = ["--no-psqlrc", "--no-align", "-v", "ON_ERROR_STOP=1", "-f", str(script), url]
    done = subprocess.run([server.bin_dir / "psql", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = [line.split("|") for line in done.stdout.partition("\nAlerts")[0].splitlines()[2:]]
    return {rows: (oldest, kept) for rows, oldest, _, kept in cells}


async def test_the_monthly_look_shows_every_set_and_how_long_it_is_kept(postgres_server, database_url, redis_url):
    shown = monthly(postgres_server, database_url)
    assert list(shown) == [table.name for table in retention.TABLES]
    days = {"EVENT_RETENTION_DAYS": 41, "PAYLOAD_RETENTION_DAYS": 42, "IDEMPOTENCY_TTL_DAYS": 43}
    config = make_config(database_url, redis_url, **{name: str(value) for name, value in days.items()})
    for table in retention.TABLES:
        said = shown[table.name][1]
        ((kept,),) = execute(database_url, "select %s::interval", f"{days[said]} days" if said in days else said)
        assert kept == table.kept(config), table.name


async def test_the_monthly_look_shows_the_oldest_that_retention_would_take(
    postgres_server, database_url, config, db, demo
):
    await miss_a_call(db)
    execute(database_url, SEEN)
    for tenant in (PROBE, demo):
        of_tenant(database_url, DONE, tenant=tenant)
    of_tenant(database_url, PROBED, tenant=PROBE)
    of_tenant(database_url, ANSWERED)
    for table in AGE:
        aged(database_url, table, timedelta(days=500))
    long_ago = datetime.now(UTC) - timedelta(days=499)

    def old() -> list[str]:
        shown = monthly(postgres_server, database_url)
        return [name for name, (at, _) in shown.items() if at and datetime.fromisoformat(f"{at}:00") < long_ago]

    assert old() == [table.name for table in retention.TABLES]
    async with context_of(config) as context:
        assert await retention.retention(context) is False
    assert old() == []
