"""The life of a connection: its token, its limits, and what ends it: silence, revocation, a stopping process."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import aiohttp
import jwt
import pytest

from ottoai.client import Closed, Socket, connect
from ottoai.domain import revocations
from ottoai.web import auth, keys, session, sockets, ws
from tests.conftest import SECRET, add_tenant, execute, of_tenant
from tests.helpers import get, lags, looks_for_revoked, until
from tests.integration.test_realtime import CHANNEL, emit, raw, seqs
from tests.streams import open_stream


async def test_refresh_in_place_and_expiry(app, base, make_token):
    async with connect(base, make_token(seconds=30)) as socket:
        hub = app[keys.HUB]
        [connection] = hub.connections.values()
        hub.wheel.tick(time.monotonic(), time.time())
        assert (await socket.receive())["type"] == "auth_expiring"
        await socket.send(type="auth", token=make_token(user="ben"))
        assert (await socket.receive())["code"] == "forbidden"
        await socket.send(type="auth", token=make_token(seconds=3600))
        await socket.send(type="ping")
        await socket.answer("pong")
        hub.wheel.tick(time.monotonic(), time.time() + 60)
        assert connection.closed_for is None
        hub.wheel.tick(time.monotonic(), time.time() + 3600 + 30)
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 4401


async def test_silent_connection_is_closed_4408(app, base, make_token):
    session, socket = await raw(base, headers={"Authorization": f"Bearer {make_token()}"}, autoping=False)
    async with session:
        await socket.receive_json()
        hub = app[keys.HUB]
        for second in range(1, 62):
            hub.wheel.tick(time.monotonic() + second, time.time())
        while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
            pass
        assert message.data == 4408
        assert socket.close_code == 4408


async def test_draining_tells_everyone_and_closes_1012(app, base, make_token):
    async with connect(base, make_token()) as socket:
        app[keys.HEALTH].draining = True
        assert (await get(base, "/health"))[0] == 503
        draining = asyncio.create_task(app[keys.SOCKETS].drain())
        assert (await socket.receive())["type"] == "reconnect"
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1012
        await draining


async def test_draining_spreads_the_closes_and_serves_until_then(app, base, make_token, monkeypatch):
    monkeypatch.setattr(sockets, "DRAIN_PACE", 0.1)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(base, make_token())) for _ in range(10)]
        for client in clients:
            await client.subscribe(CHANNEL)
        app[keys.HEALTH].draining = True
        lag = stack.enter_context(lags())
        began = time.monotonic()
        draining = asyncio.create_task(app[keys.SOCKETS].drain())
        told = [(await client.receive())["after_ms"] / 1000 for client in clients]
        await emit(base)

        async def served_until(client: Socket) -> float:
            with pytest.raises(Closed) as closed:
                assert await seqs(client, 1) == [1]
                await client.receive()
            assert closed.value.code == 1012
            return time.monotonic() - began

        went = await asyncio.gather(*(served_until(client) for client in clients))
        await draining
        assert max(told) - min(told) > 0.2
        assert all(0 <= at - due < 0.5 + sum(lag) for at, due in zip(went, told, strict=True))


async def test_who_has_not_shown_a_token_is_sent_elsewhere_at_once(app, base):
    async with connect(base) as socket:
        await until(lambda: app[keys.SOCKETS].strangers)
        draining = asyncio.create_task(app[keys.SOCKETS].drain())
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1012
        async with asyncio.timeout(2):
            await draining


async def test_only_so_many_may_come_without_a_token(app, base, make_token, monkeypatch):
    monkeypatch.setattr(ws, "UNAUTHENTICATED", 1)
    async with connect(base), connect(base, make_token()):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connect(base):
                pass
        assert refused.value.status == 429


# Rights that end


async def test_a_revoked_user_is_out_everywhere_within_a_second(app, base, make_token, database_url, monkeypatch):
    assert 2 * auth.REFRESH <= 1
    looks = looks_for_revoked(app, monkeypatch)
    old = make_token()
    async with connect(base, old) as ann, connect(base, make_token(user="ben")) as ben:
        await ben.subscribe(CHANNEL)
        async with open_stream(base, old, CHANNEL) as stream:
            for _ in range(2):
                await stream.message()
            polling = asyncio.create_task(get(base, "/api/events?since=0&wait=20", old))
            execute(database_url, "insert into revocations values ('demo', 'ann', now())")
            told = len(looks)
            with pytest.raises(Closed) as closed:
                await ann.receive()
            assert await stream.message() == {"type": "auth_expired"}
            assert True in looks[: told + 2], "one was perhaps under way; the next tells of it"
            assert closed.value.code == 4401
        assert (await polling)[0] == 401
        for path in ("/api/calls", "/api/events", "/api/events/stream"):
            status, _, problem = await get(base, path, old)
            assert (status, "revoked" in problem["detail"]) == (401, True)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with connect(base, old):
                pass
        with pytest.raises(Closed) as closed:
            async with connect(base) as late:
                await late.send(type="auth", token=old)
                await late.receive()
        assert closed.value.code == 4401
        await emit(base)
        assert await seqs(ben, 1) == [1], "others are not touched"
    newer = issue_at(make_token, datetime.now(UTC) + timedelta(seconds=2))
    async with connect(base, newer):
        pass


def issue_at(make_token, moment: datetime) -> str:
    """A token issued a little later."""
    claims = jwt.decode(make_token(), options={"verify_signature": False})
    return jwt.encode({**claims, "iat": int(moment.timestamp())}, SECRET, "HS256")


async def test_a_revoked_tenant_is_out_and_the_others_are_not(db, base, make_token):
    await add_tenant(db, "other", company="77", number="+12125550188")
    async with connect(base, make_token()) as ann, connect(base, make_token("other")) as other:
        await revocations.revoke(db.system(), "demo", None)
        with pytest.raises(Closed) as closed:
            await ann.receive()
        assert closed.value.code == 4401
        await other.send(type="ping")
        await other.answer("pong")


async def test_a_user_can_be_revoked_in_every_tenant(db, base, make_token):
    await add_tenant(db, "other", company="77", number="+12125550188")
    async with connect(base, make_token()) as here, connect(base, make_token("other")) as there:
        await revocations.revoke(db.system(), None, "ann")
        for socket in (here, there):
            with pytest.raises(Closed):
                await socket.receive()


async def test_a_token_revoked_while_it_opens_a_connection_opens_none(app, db, base, make_token, monkeypatch):
    enter = app[keys.HUB].enter

    async def enter_late(connection):
        stream = await enter(connection)
        await revocations.revoke(db.system(), "demo", "ann")
        app[keys.HUB].connections.pop(connection.id)  # as if it had not been there yet when that was heard
        await app[keys.REVOKED].refresh(db.system())
        app[keys.HUB].connections[connection.id] = connection
        return stream

    monkeypatch.setattr(app[keys.HUB], "enter", enter_late)
    with pytest.raises(Closed) as closed:
        async with connect(base, make_token()):
            pass
    assert closed.value.code == 4401


async def test_a_refresh_checks_every_channel_again(base, make_token, database_url):
    [(lead,)] = of_tenant(
        database_url,
        "insert into leads (tenant_id, phone, last_contact_at) values ('demo', '+12125550101', now()) "
        "returning id::text",
    )
    async with connect(base, make_token()) as socket:
        assert (await socket.subscribe(f"lead:{lead}:timeline"))["success"]
        await socket.subscribe(CHANNEL)
        of_tenant(database_url, "update leads set id = gen_random_uuid() where id = %s::uuid", lead)
        await socket.send(type="auth", token=make_token())
        assert (await socket.receive())["type"] == "welcome"
        gone = await socket.receive()
        assert (gone["type"], gone["channel"], gone["error"]) == (
            "unsubscribe_result", f"lead:{lead}:timeline", "no such channel",
        )  # fmt: skip
        await emit(base)
        assert await seqs(socket, 1), "what it still has a right to goes on"


# Limits of one connection


async def test_a_talkative_client_is_told_and_then_closed_4429(base, make_token, config, monkeypatch):
    spend = session.Budget.spend
    monkeypatch.setattr(session.Budget, "spend", lambda self, _now: spend(self, self._at))  # no time passes
    allowed = config.ws_messages_per_minute + config.ws_subscriptions_per_connection
    async with connect(base, make_token()) as socket:
        for _ in range(allowed + 1):
            await socket.send(type="ping")
        for _ in range(allowed):
            assert (await socket.receive())["type"] == "pong"
        error = await socket.receive()
        assert (error["code"], error["retry_after"]) == ("over-quota", 1)
        for _ in range(config.ws_messages_per_minute):
            await socket.send(type="ping")
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 4429


async def test_the_21st_connection_of_a_user_is_closed_4429(config, base, make_token):
    async with AsyncExitStack() as stack:
        for _ in range(config.ws_connections_per_user):
            await stack.enter_async_context(connect(base, make_token()))
        with pytest.raises(Closed) as closed:
            await stack.enter_async_context(connect(base, make_token()))
        assert closed.value.code == 4429
        await stack.enter_async_context(connect(base, make_token(user="ben")))
