"""Processes die by SIGKILL at the worst moments, made to happen: nothing accepted is lost, nothing is done twice."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import aiohttp
import psutil
import psycopg2
import pytest

from ottoai import samples
from tests.conftest import execute
from tests.e2e.conftest import SERVICES, check_log_of_events, eventually, post, post_missed_call, texts, watching
from tests.helpers import report

TEXTED_WITHIN = 30.0
BACK_WITHIN = 20.0  # the supervisor waits 0.5 s before it starts a process again, doubled with each early death
BLOCKED = """
select l.pid
from pg_locks as l
join pg_stat_activity as a on a.pid = l.pid and a.datname = current_database()
where not l.granted and l.relation = %s::regclass
"""


@contextmanager
def locked(product, table) -> Iterator[None]:
    """Nobody else may write to this table until the end of the block; whoever tries waits."""
    with closing(psycopg2.connect(product.config.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table {table} in exclusive mode")
        yield


async def blocked(product, table) -> int:
    """The PostgreSQL process that waits to write to a locked table."""
    ((pid,),) = await eventually(lambda: execute(product.config.database_url, BLOCKED, table))
    return int(pid)


async def kill(product, name) -> int:
    """SIGKILL a service; its process id."""
    pid = product.pid(name)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(pid))
    return pid


async def all_back(product):
    """Wait until the supervisor has everything running, and it is ready."""
    await eventually(lambda: set(SERVICES) <= product.pids().keys(), BACK_WITHIN)
    await asyncio.to_thread(product.until_ready)


async def check_sent_once(product, call_ids):
    """Each text was handed to the carrier once, as the worker tells it (the carrier would ignore a second time)."""
    wanted = sorted(texts(product.config.database_url, call_ids))

    def told():
        return [line["message_id"] for line in product.log("worker", message="Text message recorded")]

    await eventually(lambda: set(wanted) <= set(told()))
    assert sorted(message for message in told() if message in wanted) == wanted


def states(product, call_id):
    """(state of the text, whether the carrier has it) for a call."""
    sql = """
        select s.status, exists(select from development_texts as t where t.message_id = s.id)
        from calls as c join missed_calls as m on m.call_id = c.id join messages as s on s.missed_call_id = m.id
        where c.external_id = %s
    """
    return product.sql(sql, str(call_id))


@pytest.mark.timeout(120)
async def test_worker_killed_before_and_after_the_text_was_handed_over(product, token):
    before, after = samples.new_call_id(), samples.new_call_id()
    url, head = product.config.database_url, product.head()
    async with watching(product.base, token, head) as screen:
        # Before: it waits to write down that it is sending.
        with locked(product, "messages"):
            assert await post_missed_call(product.base, before) == 200
            backend = await blocked(product, "messages")
            assert states(product, before) == []
            first = await kill(product, "worker")
            end_statement(url, backend)
        second = await eventually(lambda: product.pids().get("worker"), BACK_WITHIN)
        assert second != first

        # After: the carrier has the text, and it waits to write down that it was sent.
        with ExitStack() as stack:
            with locked(product, "development_texts"):
                assert await post_missed_call(product.base, after) == 200
                await blocked(product, "development_texts")
                assert states(product, after) == [("sending", False)]
                stack.enter_context(locked(product, "events"))
            backend = await blocked(product, "events")
            assert states(product, after) == [("sending", True)]
            await kill(product, "worker")
            end_statement(url, backend)
            assert states(product, after) == [("sending", True)]

        await eventually(lambda: len(texts(url, [before, after])) == 2, TEXTED_WITHIN)
        await check_sent_once(product, [before, after])
        check_log_of_events(url, [before, after], head)
        await eventually(lambda: screen.numbers == list(range(head + 1, product.head() + 1)))
    await all_back(product)


def end_statement(url, backend):
    """The server would finish a dead process's statement as soon as it can, which would prove less."""
    assert execute(url, "select pg_terminate_backend(%s, 5000)", backend) == [(True,)]


@pytest.mark.timeout(120)
async def test_api_killed_between_commit_and_reply(product, token, call_id):
    """Committed, and dead before it knows: sent again the delivery is a duplicate, and its text goes out."""
    url, head = product.config.database_url, product.head()
    body = report("call-complete", call_id)
    async with watching(product.base, token, head) as screen:
        with locked(product, "events"):
            delivery = asyncio.create_task(product.deliver(body))
            await blocked(product, "events")
            api = psutil.Process(product.pid("api"))
            api.suspend()
        await eventually(lambda: product.sql("select 1 from calls where external_id = %s", str(call_id)))
        assert not delivery.done()
        api.kill()
        with pytest.raises((aiohttp.ClientError, OSError)):
            await delivery
        await all_back(product)
        assert product.pid("api") != api.pid
        status, answer = await product.deliver(body)
        assert (status, answer["status"]) == (200, "duplicate_ignored")
        await eventually(lambda: texts(url, [call_id]), TEXTED_WITHIN)
        await check_sent_once(product, [call_id])
        check_log_of_events(url, [call_id], head)
        await eventually(lambda: screen.numbers == list(range(head + 1, product.head() + 1)))
    assert len(screen.results) > 1  # it was thrown out, and joined again


@pytest.mark.timeout(120)
async def test_api_killed_twice_in_a_burst(product, token):
    url, head = product.config.database_url, product.head()
    first = samples.new_call_id()
    bodies = {call_id: report("call-complete", call_id) for call_id in range(first, first + 100)}
    accepted: set[int] = set()
    told: list[str] = []
    joined = 1
    some_at_a_time = asyncio.Semaphore(25)

    async def send(call_id):
        async with some_at_a_time:
            answer = await post(product.base, bodies[call_id])
        if answer:
            assert answer[0] == 200
            accepted.add(call_id)
            told.append(answer[1])

    async def send_the_rest():
        await asyncio.gather(*(send(call_id) for call_id in bodies.keys() - accepted))

    async with watching(product.base, token, head) as screen:
        for enough in (25, 60):
            burst = asyncio.create_task(send_the_rest())
            await eventually(lambda enough=enough: len(accepted) >= enough, every=0.001)
            await kill(product, "api")
            await burst
            assert len(accepted) < len(bodies), "all were answered before the kill"
            await all_back(product)
            joined += 1  # the screen was thrown out, and comes back before the next kill
            await eventually(lambda joined=joined: len(screen.results) == joined, BACK_WITHIN)
        await send_the_rest()
        assert accepted == bodies.keys()
        assert set(told) <= {"processed", "duplicate_ignored"}
        await eventually(lambda: len(texts(url, list(bodies))) == len(bodies), TEXTED_WITHIN)
        check_log_of_events(url, list(bodies), head)
        await eventually(lambda: screen.numbers == list(range(head + 1, product.head() + 1)))
    await check_sent_once(product, list(bodies))
