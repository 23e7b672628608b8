"""Texts that staff writes, and requests with an Idempotency-Key: one effect, however often and at once they come."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from jobs import retention
from ottoai import db as module
from ottoai.client import connect
from ottoai.queue import Queues, client
from tests.background import blocked, context_of, eventually
from tests.conftest import add_tenant, execute, of_tenant
from tests.helpers import deliver, report, send, until

HI = {"body": "Hi, Robin.\nWe can come on Monday."}
PHONE = "+12125550177"


def key(word: str) -> tuple[str, str]:
    return "Idempotency-Key", word


def effects(url: str) -> dict[str, int]:
    """How often a text had each of its effects."""
    counts = {
        "messages": "select count(*) from messages where direction = 'outbound'",
        "jobs": "select count(*) from outbox where job = 'send_text'",
        "events": "select count(*) from events where event = 'telephony.sms.status'",
    }
    return {name: int(str(of_tenant(url, sql)[0][0])) for name, sql in counts.items()}


ONCE = {"messages": 1, "jobs": 1, "events": 1}
NEVER = dict.fromkeys(ONCE, 0)


@contextmanager
def held(url: str) -> Iterator[None]:
    """Nobody else may take the tenant's next numbers: a statement that appends waits, with all else done."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("select from heads for update")
        yield


@pytest.fixture
async def path(base: str, database_url: str) -> str:
    """Where to write to the lead of a missed call."""
    await deliver(base, "call-complete", report("call-complete", 7001, customer_phone_number=PHONE))
    ((lead,),) = of_tenant(database_url, "select id::text from leads")
    return f"/api/leads/{lead}/messages"


async def test_a_text_is_queued_and_takes_the_rescue_over(base, make_token, path, config):
    url = config.database_url
    async with connect(base, make_token()) as live:
        await live.subscribe("tenant:demo:events")
        status, headers, message = await send(base, "POST", path, make_token(), HI)
        told = [await live.event() for _ in range(2)]
    assert status == 202
    assert "Location" not in headers
    expected = {"body": HI["body"], "status": "queued", "direction": "outbound", "author": "ann", "version": 1}
    assert {**message, **expected} == message
    assert [event["event"] for event in told] == ["telephony.sms.status", "missed_call.recovered"]
    assert told[0]["data"] == message
    assert told[1]["data"]["ended_by"] == "outbound_text"
    stored = of_tenant(url, "select message_json(m) from messages m where direction = 'outbound'")
    assert stored == [(message,)]
    sql = "select id::text, subject_id::text, queue, state from outbox where job = 'send_text'"
    ((job, subject, queue, state),) = of_tenant(url, sql)
    assert (subject, queue, state) == (message["id"], "urgent", "open")
    queues = Queues(client(config))
    await until(lambda: job in queues.waiting())
    queues._redis.close()


async def test_who_opted_out_is_not_written_to(base, make_token, path, database_url):
    sql = (
        "insert into opt_outs (tenant_id, digest, source) values ('demo', phone_digest('demo', %s), 'text') returning 1"
    )
    of_tenant(database_url, sql, PHONE)
    for _ in range(2):
        status, _, problem = await send(base, "POST", path, make_token(), HI, key("k"))
        assert (status, problem["type"]) == (409, "/docs/problems/opted-out")
    assert effects(database_url) == NEVER
    of_tenant(database_url, "delete from opt_outs returning 1")  # errors are not kept: nothing was done
    assert (await send(base, "POST", path, make_token(), HI, key("k")))[0] == 202
    of_tenant(database_url, sql, PHONE)
    assert (await send(base, "POST", path, make_token(), HI, key("k")))[0] == 202  # what was answered stays so


async def test_the_same_key_is_answered_the_same(base, make_token, path, database_url):
    status, headers, first = await send(base, "POST", path, make_token(), HI, key("k"))
    assert (status, headers.get("Idempotency-Replayed")) == (202, None)
    for body in (HI, b'{ "body" : "Hi, Robin.\\nWe can come on Monday." }'):
        status, headers, again = await send(base, "POST", path, make_token(), body, key("k"))
        assert (status, headers["Idempotency-Replayed"], again) == (202, "true", first)
    assert effects(database_url) == ONCE
    status, _, problem = await send(base, "POST", path, make_token(), {"body": "Something else"}, key("k"))
    assert (status, problem["type"]) == (422, "/docs/problems/unprocessable")
    assert "Idempotency-Key" in problem["detail"]
    assert effects(database_url) == ONCE


async def test_keys_are_each_users_own(base, make_token, path, db, database_url):
    await add_tenant(db, "other", company="424242", number="+14045550199")
    _, _, anns = await send(base, "POST", path, make_token(), HI, key("k"))
    _, headers, bobs = await send(base, "POST", path, make_token(user="bob"), {"body": "I am Bob"}, key("k"))
    assert (bobs["author"], bobs["body"], headers.get("Idempotency-Replayed")) == ("bob", "I am Bob", None)
    assert (await send(base, "POST", path, make_token("other"), HI, key("k")))[0] == 404
    assert anns["id"] != bobs["id"]
    assert effects(database_url) == dict.fromkeys(ONCE, 2)


async def test_without_a_key_each_counts(base, make_token, path, database_url):
    for _ in range(2):
        assert (await send(base, "POST", path, make_token(), HI))[0] == 202
    assert effects(database_url) == dict.fromkeys(ONCE, 2)


async def test_of_many_at_once_one_has_its_effect(base, make_token, path, database_url):
    answers = await asyncio.gather(*(send(base, "POST", path, make_token(), HI, key("k")) for _ in range(20)))
    assert {status for status, _, _ in answers} == {202}
    assert len({body["id"] for _, _, body in answers}) == 1
    assert sum("Idempotency-Replayed" not in headers for _, headers, _ in answers) == 1
    assert effects(database_url) == ONCE
    mixed = await asyncio.gather(
        *(send(base, "POST", path, make_token(), {"body": f"Text {n % 2}"}, key("other")) for n in range(20))
    )
    assert sorted(status for status, _, _ in mixed) == [202] * 10 + [422] * 10
    assert effects(database_url) == dict.fromkeys(ONCE, 2)


@pytest.mark.parametrize("given", [["k"], []])
async def test_a_statement_that_is_killed_is_tried_again_with_a_key_alone(base, make_token, path, database_url, given):
    with held(database_url):
        asked = asyncio.create_task(send(base, "POST", path, make_token(), HI, *map(key, given)))
        (pid,) = await eventually(lambda: blocked(database_url))
        execute(database_url, "select pg_terminate_backend(%s, 5000)", pid)
        if given:
            await eventually(lambda: set(blocked(database_url)) - {pid})
    status, headers, _ = await asked
    assert status == (202 if given else 503)
    assert "Idempotency-Replayed" not in headers
    assert effects(database_url) == (ONCE if given else NEVER)


async def test_a_commit_that_nobody_was_told_of_is_found(base, make_token, path, database_url, monkeypatch):
    """The link is cut while the statement waits; it goes on, and commits while the next one waits for its key."""
    used, real = [], module._execute

    async def noting(pool, connection, name, *args, **kwargs):
        if name == "queue_text":
            used.append(connection)
        return await real(pool, connection, name, *args, **kwargs)

    monkeypatch.setattr(module, "_execute", noting)
    with held(database_url):
        asked = asyncio.create_task(send(base, "POST", path, make_token(), HI, key("k")))
        await eventually(lambda: blocked(database_url))
        with socket.socket(fileno=os.dup(used[0].raw.fileno())) as link:
            link.shutdown(socket.SHUT_RDWR)
        await eventually(lambda: len(blocked(database_url)) == 2)
    status, headers, message = await asked
    assert (status, headers["Idempotency-Replayed"]) == (202, "true")
    assert of_tenant(database_url, "select message_json(m) from messages m where author = 'ann'") == [(message,)]
    assert effects(database_url) == ONCE
    assert len(used) == 3


@pytest.mark.parametrize("given", [[""], ["a b"], ["x" * 256], ["é"], ["a\tb"], ["one", "two"], ["same", "same"]])
async def test_odd_keys_are_400(base, make_token, path, database_url, given):
    status, _, problem = await send(base, "POST", path, make_token(), HI, *map(key, given))
    assert (status, problem["detail"].partition(":")[0]) == (400, "Idempotency-Key")
    assert effects(database_url) == NEVER


async def test_keys_are_forgotten_after_a_day(base, make_token, path, config):
    url = config.database_url
    await send(base, "POST", path, make_token(), HI, key('"a-quoted~key"'))
    for hours, left in ((23, 1), (25, 0)):
        execute(
            url,
            "alter table request_keys no force row level security;"
            f"update request_keys set created_at = now() - interval '{hours} hours';"
            "alter table request_keys force row level security",
        )
        async with context_of(config) as context:
            assert await retention.retention(context) is False
        assert of_tenant(url, "select count(*) from request_keys") == [(left,)]
    status, headers, _ = await send(base, "POST", path, make_token(), HI, key('"a-quoted~key"'))
    assert (status, headers.get("Idempotency-Replayed")) == (202, None)
    assert effects(url) == dict.fromkeys(ONCE, 2)
