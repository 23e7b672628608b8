"""`python -m ottoai jobs`: what was given up is seen, told without personal data, and retried."""

import asyncio
from contextlib import closing

import pytest

from jobs import run
from jobs.context import Retry, Staged
from ottoai.__main__ import main
from ottoai.domain import outbox
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from tests.background import beat_of, eventually, miss_a_call, redis_of, serving, stage
from tests.conftest import add_tenant, execute


@pytest.fixture
def queues(config):
    with closing(redis_of(config)) as connection:
        yield Queues(connection)


@pytest.fixture
def command(config, monkeypatch, capsys):
    """Run a command of `python -m ottoai`; (exit code, what it says)."""
    names = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url, "JWT_SECRET": config.jwt_secret,
             "SECRET_KEYS": ",".join(config.secret_keys), "ENVIRONMENT": "staging"}  # fmt: skip
    for name, value in names.items():
        monkeypatch.setenv(name, value)

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["jobs", *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def bury(url, job):
    execute(
        url,
        "update outbox set state = 'dead', attempts = 8, error = 'TimeoutError at senders.py:1',"
        " finished_at = now() - interval '90 s' where id = %s",
        job.id,
    )
    return job.id


async def test_a_job_that_was_given_up_is_seen_and_retried_at_once(config, db, demo, queues, command, monkeypatch):
    broken = True

    async def fails(context, job):
        if broken:
            raise ValueError("+12125550100 cannot be reached")
        await outbox.done(context.db.one(job.tenant_id), job)

    monkeypatch.setitem(run.JOBS, "fails", Staged(fails, Retry(attempts=1, first=0, longest=0)))
    job = stage(config.database_url, "fails")
    queues.enqueue([job])
    async with serving(config, Metrics("test", "worker")):
        await eventually(lambda: execute(config.database_url, "select state from outbox") == [("dead",)])
        code, said = await command("list")
        assert code == 0
        assert said.split("\t")[:5] == [job.id, "demo", "fails", "default", "1 attempts"]
        assert "ValueError at test_jobs_command.py" in said
        broken = False
        assert await command("retry", job.id) == (0, "1 opened again\n")
        await eventually(lambda: execute(config.database_url, "select state from outbox") == [("done",)])
    assert execute(config.database_url, "select attempts, error from outbox") == [(1, None)]
    assert await command("list") == (0, "")


async def test_a_list_is_of_a_state_and_a_tenant_and_tells_nobodys_number(config, db, demo, command):
    url = config.database_url
    await add_tenant(db, "other", company="990000007", number="+12125550177")
    missed = await miss_a_call(db)
    dead = [bury(url, stage(url, "any")), bury(url, stage(url, "any", tenant="other"))]
    _, said = await command("list")
    assert [line.split("\t")[0] for line in said.splitlines()] == dead
    assert "dead for 9" in said
    _, said = await command("list", "--tenant", "other")
    assert [line.split("\t")[0] for line in said.splitlines()] == dead[1:]
    _, said = await command("list", "--state", "open")
    assert [missed.id, "demo"] in [line.split("\t")[:2] for line in said.splitlines()]
    assert "+1" not in said
    _, said = await command("list", "--limit", "1")
    assert len(said.splitlines()) == 1


async def test_all_of_a_name_are_retried_and_no_others(config, db, demo, queues, command):
    url = config.database_url
    retried = {bury(url, stage(url, "this")) for _ in range(3)}
    left = bury(url, stage(url, "that"))
    assert await command("retry", "--all", "--job", "this") == (0, "3 opened again\n")
    assert queues.waiting() == retried
    assert execute(url, "select id::text from outbox where state = 'dead'") == [(left,)]
    assert set(execute(url, "select attempts, error, due_at <= now() from outbox where state = 'open'")) == {
        (0, None, True)
    }
    assert await command("retry", "--all") == (0, "1 opened again\n")


async def test_what_is_not_dead_is_not_retried_and_said_so(config, db, demo, queues, command):
    url = config.database_url
    open_, dead = stage(url, "any").id, bury(url, stage(url, "any"))
    code, said = await command("retry", open_, dead, "00000000-0000-0000-0000-000000000000")
    assert code == 1
    assert f"{open_}\tis no dead job" in said
    assert "1 opened again" in said
    assert queues.waiting() == {dead}
    for wrong in (("retry",), ("retry", dead, "--all"), ("retry", dead, "--job", "any"), ("retry", "nonsense")):
        assert (await command(*wrong))[0] == 1


async def test_without_redis_beat_enqueues_what_was_retried(
    config, db, demo, queues, command, redis_server, monkeypatch
):
    job = bury(config.database_url, stage(config.database_url, "any"))
    redis_server.stop()
    try:
        code, said = await command("retry", job)
    finally:
        redis_server.start()
    assert (code, "Redis does not answer" in said) == (0, True)
    execute(config.database_url, "update outbox set enqueue_at = now()")  # REPAIR_AFTER later
    with beat_of(config, db) as beat:
        await beat.run_once()
    assert queues.waiting() == {job}


async def test_a_job_is_shown_with_where_it_failed_and_discarded(config, db, demo, command):
    url = config.database_url
    job, other = bury(url, stage(url, "any")), bury(url, stage(url, "other"))
    execute(url, "update outbox set traceback = '  jobs/senders.py:1 in send' where id = %s", job)
    code, said = await command("show", job)
    assert code == 0
    assert "state\tdead" in said
    assert said.endswith("  jobs/senders.py:1 in send\n")
    assert (await command("show", other))[1].endswith("no traceback is kept\n")
    assert (await command("show", "00000000-0000-0000-0000-000000000000"))[0] == 1
    assert (await command("show", "nonsense"))[0] == 1
    for wrong in ((), (job, "--all", "--job", "any"), ("--all",), ("--job", "any")):
        assert (await command("discard", *wrong))[0] == 1
    assert await command("discard", job) == (0, "1 discarded\n")
    assert await command("discard", job) == (1, f"{job}\tis no dead job\n0 discarded\n")
    more = [bury(url, stage(url, "any")) for _ in range(3)]
    assert await command("discard", "--all", "--job", "any") == (0, "3 discarded\n")
    assert {row[0] for row in execute(url, "select id::text from outbox where state = 'done'")} == {job, *more}
    assert execute(url, "select error from outbox where id = %s", job) == [("TimeoutError at senders.py:1",)]
    assert execute(url, "select action, target, outcome from ops_audit order by id")[-1] == (
        "discard", "all any", "3 discarded",
    )  # fmt: skip
