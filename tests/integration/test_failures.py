"""What is kept of jobs that failed, and of what operators did with them: where, and nothing of anybody."""

from contextlib import closing
from datetime import timedelta

import psycopg2.errors
import pytest

from jobs import run
from jobs.context import Context, Retry, Staged
from jobs.run import perform_periodic
from ottoai.domain import periodic
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from tests.background import context_of, eventually, redis_of, serving, stage
from tests.conftest import execute

PHONE, NAME = "+12125550142", "Robin Person"
KEPT = ("outbox", "periodic_runs", "ops_audit")  # tables that erasing a person does not touch, or only with a tenant


async def quoting(context: Context, *_: object) -> bool:
    """Fail as libraries do: with the data in the message, and in that of the error before."""
    number = PHONE
    try:
        raise psycopg2.errors.UniqueViolation(f"DETAIL: Key (phone, name)=({number}, {NAME}) already exists.")
    except psycopg2.Error as error:
        raise ExceptionGroup(NAME, [KeyError(number), ValueError(f"{NAME} at {number}")]) from error


def kept(url: str) -> str:
    return "\n".join(str(row) for table in KEPT for row in execute(url, f"select t::text from {table} as t"))


async def test_nothing_of_a_person_is_kept_of_failures(config, demo, command, monkeypatch, database_url):
    monkeypatch.setitem(run.JOBS, "quoting", Staged(quoting, Retry(attempts=1, first=0, longest=0)))
    monkeypatch.setitem(run.PERIODIC, "quotes", quoting)
    job = stage(database_url, "quoting")
    with closing(redis_of(config)) as connection:
        queues = Queues(connection)
        queues.enqueue([job])
        queues.enqueue_periodic("quotes")
        async with serving(config, Metrics("test", "worker")):
            await eventually(lambda: execute(database_url, "select state from outbox") == [("dead",)])
            await eventually(lambda: execute(database_url, "select outcome from periodic_runs") == [("failure",)])
    for words in (("show", job.id), ("list",), ("retry", job.id)):
        code, said = await command("jobs", *words)
        assert (code, NAME in said, PHONE in said) == (0, False, False)
    text = kept(database_url)
    assert "in quoting" in text, "there is a traceback"
    assert "UniqueViolation" in text
    assert [word for word in (PHONE, PHONE[2:], NAME) if word in text] == []


async def test_of_each_periodic_job_the_last_run_is_known(config, db, demo, monkeypatch, database_url):
    fine = True

    async def sometimes(context: Context) -> bool:
        if not fine:
            raise ValueError(PHONE)
        return False

    monkeypatch.setitem(run.PERIODIC, "sometimes", sometimes)
    async with context_of(config) as context:
        assert (await perform_periodic(context, "sometimes")).status == "success"
        [first] = await periodic.last(db.system())
        assert (first.name, first.outcome, first.error, first.traceback) == ("sometimes", "success", None, None)
        fine = False
        assert (await perform_periodic(context, "sometimes")).status == "failure"
        [second] = await periodic.last(db.system())
        assert second.started_at > first.started_at
        assert second.outcome == "failure"
        assert second.error.startswith("ValueError at test_failures.py:")
        assert "in sometimes" in second.traceback
        assert len(second.trace_id) == 32
        late = periodic.Run("sometimes", first.started_at - timedelta(seconds=1), 1.0, "success")
        await periodic.note(db.system(), late)
        assert await periodic.last(db.system()) == [second], "a run that began before and ended later changes nothing"


async def test_a_run_that_cannot_be_noted_is_no_failure(config, demo, monkeypatch, caplog):
    async def nothing(context: Context) -> bool:
        return False

    async def away(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setitem(run.PERIODIC, "nothing", nothing)
    monkeypatch.setattr(periodic, "note", away)
    async with context_of(config) as context:
        assert (await perform_periodic(context, "nothing")).status == "success"
    assert "A periodic job's run is not noted" in caplog.messages


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_job_that_is_given_up_keeps_its_own_last_traceback(config, demo, monkeypatch, database_url, attempts):
    seen = []

    async def fails(context: Context, job: object) -> None:
        seen.append(job)
        if len(seen) == attempts:
            raise KeyError(PHONE)
        raise StoreUnavailable("in our own words")

    monkeypatch.setitem(run.JOBS, "fails", Staged(fails, Retry(attempts=attempts, first=0, longest=0)))
    async with context_of(config) as context:
        job = stage(database_url, "fails")
        for number in range(1, attempts + 1):
            outcome = await run.perform(context, job.id)
            [(error, traceback)] = execute(database_url, "select error, traceback from outbox")
            last = number == attempts
            assert outcome.status == ("failure" if last else "retry")
            assert traceback.endswith("\nKeyError" if last else "\nStoreUnavailable: in our own words")
            assert error.startswith("KeyError at" if last else "StoreUnavailable: in our own words")
