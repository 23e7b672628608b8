"""The Python client: what it makes of everything that a server can do to it."""

import asyncio
import time
from contextlib import aclosing

import pytest

from ottoai.client import Closed, Follower
from ottoai.realtime import wheel
from ottoai.realtime.messages import CLOSES, CloseCode
from ottoai.web import keys
from tests.conftest import execute, of_tenant
from tests.integration.test_realtime import CHANNEL, append, emit


async def the(messages, count: int) -> list[int]:
    """The numbers of the next events."""
    found: list[int] = []
    async with asyncio.timeout(15):
        while len(found) < count:
            message = await anext(messages)
            if message["type"] == "event":
                found.append(message["seq"])
    return found


def close(app, code: int) -> None:
    for connection in list(app[keys.HUB].connections.values()):
        app[keys.SOCKETS].close(connection, code, "test")


async def test_it_goes_on_after_every_close_that_is_not_final(app, base, make_token, database_url):
    codes = [one.code for one in CLOSES if one.client in {"reconnect now", "back off"}]
    async with aclosing(Follower(base, make_token(), CHANNEL).events()) as messages:
        assert (await anext(messages))["recovered"] is None
        for turn, code in enumerate(codes):
            close(app, code)
            append(database_url, 3)
            await emit(base)
            assert await the(messages, 4) == [4 * turn + n for n in range(1, 5)]


@pytest.mark.parametrize("code", [one.code for one in CLOSES if one.client == "stop"])
async def test_it_stops_where_the_table_says_so(app, base, make_token, code):
    async with aclosing(Follower(base, make_token, CHANNEL).events()) as messages:
        await anext(messages)
        close(app, code)
        with pytest.raises(Closed):
            await anext(messages)


async def test_it_renews_its_token_in_place_and_by_coming_back(app, base, make_token):
    given: list[str] = []

    def fresh() -> str:
        given.append(make_token(seconds=600))
        return given[-1]

    async with aclosing(Follower(base, fresh, CHANNEL).events()) as messages:
        await anext(messages)
        app[keys.HUB].wheel.tick(time.monotonic(), time.time() + 600)
        await emit(base)
        assert await the(messages, 1) == [1]
        assert len(given) == 2
        assert len(app[keys.HUB].connections) == 1
        close(app, CloseCode.UNAUTHENTICATED)
        await emit(base)
        assert await the(messages, 1) == [2]
        assert len(given) == 3


async def test_with_one_token_only_it_ends_with_that(app, base, make_token):
    async with aclosing(Follower(base, make_token(seconds=30), CHANNEL).events()) as messages:
        await anext(messages)
        app[keys.HUB].wheel.tick(time.monotonic(), time.time() + 30 + wheel.AUTH_GRACE)
        with pytest.raises(Closed) as closed:
            await anext(messages)
        assert closed.value.code == 4401


async def test_it_says_that_history_has_changed(app, base, make_token, database_url):
    async with aclosing(Follower(base, make_token(), CHANNEL).events()) as messages:
        await anext(messages)
        await emit(base)
        assert await the(messages, 1) == [1]
        execute(database_url, "update heads set epoch = epoch + 1 where tenant_id = 'demo'")
        async with asyncio.timeout(10):
            again = await anext(messages)
        assert (again["recovered"], again["seq"]) == (False, 1)
        await emit(base)
        assert await the(messages, 1) == [2]


async def test_it_ends_when_the_channel_is_refused_or_the_right_is_lost(app, base, make_token, database_url):
    async with aclosing(Follower(base, make_token(), "tenant:other:events").events()) as messages:
        assert (await anext(messages))["success"] is False
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
    [(lead,)] = of_tenant(
        database_url,
        "insert into leads (tenant_id, phone, last_contact_at) values ('demo', '+12125550101', now()) "
        "returning id::text",
    )
    async with aclosing(Follower(base, lambda: make_token(seconds=30), f"lead:{lead}:timeline").events()) as messages:
        assert (await anext(messages))["success"]
        of_tenant(database_url, "update leads set id = gen_random_uuid()")
        app[keys.HUB].wheel.tick(time.monotonic(), time.time())
        async with asyncio.timeout(5):
            lost = await anext(messages)
        assert (lost["type"], lost["success"]) == ("unsubscribe_result", False)


async def test_while_the_log_does_not_answer_it_asks_again(app, base, make_token, monkeypatch, postgres_server):
    """What the ring does not hold cannot be told without the database; that is no refusal."""
    append(app[keys.CONFIG].database_url, 3)
    hub = app[keys.HUB]
    async with aclosing(Follower(base, make_token(), CHANNEL, since=0).events()) as messages:
        reaches, failed = hub.reaches, asyncio.Event()

        async def once_unavailable(stream, since):
            if not failed.is_set():
                failed.set()
                postgres_server.stop()
                try:
                    return await reaches(stream, since)
                finally:
                    postgres_server.start()
            return await reaches(stream, since)

        monkeypatch.setattr(hub, "reaches", once_unavailable)
        assert await the(messages, 3) == [1, 2, 3]
        assert failed.is_set()
