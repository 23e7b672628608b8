"""The live protocol: getting in, joining, ordering, resuming, and repairing from the log."""

import asyncio
import json
import re
import socket as socket_module
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import aiohttp
import pytest

from ottoai import samples
from ottoai.client import Closed, Socket, connect
from ottoai.domain import events
from ottoai.realtime import fanout, hub, stream
from ottoai.web import keys, ws
from tests.background import counted
from tests.conftest import add_tenant, execute, of_tenant
from tests.helpers import deliver, get, report, until
from tests.streams import open_stream

CHANNEL = "tenant:demo:events"


async def emit(base: str, event: str = "test.ping", tenant: str = "demo", **query: str) -> dict:
    extra = "".join(f"&{name}={value}" for name, value in query.items())
    status, _, body = await get(base, f"/ws/test-emit?event={event}&tenant_id={tenant}{extra}", **{"X-Dev-Key": "dev"})
    assert status == 200, body
    return body


def append(url: str, count: int, tenant: str = "demo", size: int = 0) -> None:
    """Append events as a process does that dies before it tells anybody."""
    drafts = json.dumps([{"event": "test.silent", "data": {"n": n, "filler": "x" * size}} for n in range(count)])
    of_tenant(url, "select count(*) from append_events(%s, '', %s::jsonb)", tenant, drafts, tenant=tenant)


async def seqs(socket: Socket, count: int) -> list[int]:
    return [(await socket.event())["seq"] for _ in range(count)]


async def nothing_more(socket: Socket, seconds: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        await socket.event(seconds)


async def raw(base: str, **options) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    return session, await session.ws_connect(f"{base}/ws", **options)


# Getting in


async def test_token_in_header(base, make_token):
    async with connect(base, make_token()) as socket:
        welcome = socket.welcome
        assert (welcome["tenant_id"], welcome["user_id"], welcome["seq"]) == ("demo", "ann", 0)
        assert welcome["heartbeat_seconds"] == 20
        assert set(welcome) == {
            "type", "connection_id", "tenant_id", "user_id", "epoch", "seq", "heartbeat_seconds", "expires_at", "ts",
        }  # fmt: skip


async def test_token_in_subprotocol(base, make_token):
    session, socket = await raw(base, protocols=["ottoai.v1", f"bearer.{make_token()}"])
    async with session:
        assert socket.protocol == "ottoai.v1"
        assert (await socket.receive_json())["type"] == "welcome"
        await socket.close()


async def test_token_in_first_message(base, make_token):
    async with connect(base) as socket:
        await socket.send(type="auth", token=make_token())
        assert (await socket.receive())["type"] == "welcome"


@pytest.mark.parametrize("first", [{"type": "ping"}, {"type": "auth", "token": "forged"}, {"nonsense": 1}])
async def test_wrong_first_message_closes_4401(base, first):
    async with connect(base) as socket:
        await socket.send(**first)
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 4401


async def test_no_first_message_closes_4401(base, monkeypatch):
    monkeypatch.setattr(ws, "AUTH_WITHIN", 0.1)
    async with connect(base) as socket:
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 4401


async def test_bad_tokens_are_refused_before_the_upgrade(base, make_token):
    forged = make_token()[:-4] + "AAAA"
    for token in (make_token(seconds=-60), forged, "x", "a.b.c", make_token() * 100):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connect(base, token):
                pass
        assert refused.value.status in {400, 401}  # 400: aiohttp's own answer to a header over 8 KiB
    status, headers, problem = await get(base, "/api/calls", make_token(seconds=-60))
    assert (status, headers["Content-Type"]) == (401, "application/problem+json")
    assert "expired" in problem["detail"]


async def test_foreign_origin_is_refused(base, make_token):
    for origin, allowed in (("https://evil.example", False), (base, True)):
        session, socket = aiohttp.ClientSession(), None
        async with session:
            try:
                headers = {"Authorization": f"Bearer {make_token()}", "Origin": origin}
                socket = await session.ws_connect(f"{base}/ws", headers=headers)
                await socket.close()
            except aiohttp.WSServerHandshakeError as refused:
                assert refused.status == 403
        assert (socket is not None) is allowed


async def test_plain_get_is_told_to_upgrade(base):
    status, headers, problem = await get(base, "/ws")
    assert (status, headers["Upgrade"], problem["status"]) == (426, "websocket", 426)


# Joining


async def test_events_arrive_in_order_once(base, make_token):
    async with connect(base, make_token()) as socket:
        result = await socket.subscribe(CHANNEL)
        assert (result["success"], result["seq"], result["recovered"], result["replayed"]) == (True, 0, None, 0)
        phones = [samples.daytime_phone(datetime.now(UTC), number) for number in range(100, 110)]
        bodies = [report("call-complete", customer_phone_number=phone) for phone in phones]
        await asyncio.gather(*(deliver(base, "call-complete", body) for body in bodies))
        assert await seqs(socket, 50) == list(range(1, 51))
        await nothing_more(socket)


async def test_an_event_for_two_channels_comes_once(base, make_token, database_url):
    await deliver(base, "pre-call", report("pre-call", 1))
    [(lead,)] = of_tenant(database_url, "select id::text from leads")
    async with connect(base, make_token()) as both, connect(base, make_token(user="ben")) as one:
        for channel in (CHANNEL, f"lead:{lead}:timeline", "user:ann:tasks"):
            assert (await both.subscribe(channel))["success"]
        assert (await one.subscribe(f"lead:{lead}:timeline"))["success"]
        await emit(base)
        on_lead = await emit(base, lead_id=lead, user_id="ann")
        assert on_lead["channels"] == [CHANNEL, f"lead:{lead}:timeline", "user:ann:tasks"]
        assert await seqs(both, 2) == [3, 4]
        assert await seqs(one, 1) == [4]
        await nothing_more(both)
        await nothing_more(one)


async def test_foreign_and_missing_channels_get_the_same_answer(base, make_token, db, database_url):
    await add_tenant(db, "other", company="77", number="+12125550188")
    await deliver(base, "pre-call", report("pre-call", 2, company_id=77, company_resource_id=None,
                                           tracking_phone_number="+12125550188"), tenant="other")  # fmt: skip
    [(foreign_lead,)] = of_tenant(database_url, "select id::text from leads", tenant="other")
    names = [
        "tenant:other:events", "tenant:nobody:events", f"lead:{foreign_lead}:timeline",
        "lead:11111111-1111-4111-8111-111111111111:timeline", "lead:x:timeline", "user:ben:tasks", "tenant::events",
        "nonsense", "", "tenant:demo:tasks", "lead:%27;--:timeline",
    ]  # fmt: skip
    async with connect(base, make_token()) as socket:
        answers = []
        for name in names:
            result = await socket.subscribe(name)
            assert result.pop("channel") == name
            answers.append(result)
        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["success"] is False
        await emit(base, tenant="other")
        await nothing_more(socket)


async def test_unsubscribe_stops_events(base, make_token):
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        await emit(base)
        assert await seqs(socket, 1) == [1]
        await socket.send(type="unsubscribe", channel=CHANNEL)
        assert (await socket.answer("unsubscribe_result"))["success"] is True
        await emit(base)
        await nothing_more(socket)
        await socket.send(type="unsubscribe", channel=CHANNEL)
        assert (await socket.answer("unsubscribe_result"))["success"] is False


# Resuming


@pytest.mark.parametrize("ring", [1_000, 3, 0])
async def test_since_replays_then_joins_without_gap(base, make_token, monkeypatch, ring):
    """From the ring, from the log, and across both."""
    monkeypatch.setattr(stream, "RING_EVENTS", ring)
    monkeypatch.setattr(fanout, "READ_PAGE", 4)
    async with connect(base, make_token(user="ben")) as other:  # keeps the stream, and so the ring, alive
        await other.subscribe(CHANNEL)
        for _ in range(12):
            await emit(base)
        assert await seqs(other, 12) == list(range(1, 13))
        async with connect(base, make_token()) as socket:
            result = await socket.subscribe(CHANNEL, 2)
            assert (result["recovered"], result["seq"], result["replayed"]) == (True, 12, 10)
            await emit(base)
            assert await seqs(socket, 11) == list(range(3, 14))
            await nothing_more(socket)


async def test_since_on_a_lead_channel(base, make_token, database_url, monkeypatch):
    monkeypatch.setattr(stream, "RING_EVENTS", 2)
    await deliver(base, "pre-call", report("pre-call", 3))
    [(lead,)] = of_tenant(database_url, "select id::text from leads")
    for _ in range(4):
        await emit(base)
        await emit(base, lead_id=lead)
    async with connect(base, make_token()) as socket:
        result = await socket.subscribe(f"lead:{lead}:timeline", 0)
        assert (result["recovered"], result["replayed"], result["seq"]) == (True, 6, 10)
        assert await seqs(socket, 6) == [1, 2, 4, 6, 8, 10]
        # The tenant's channel brings the rest, and not those again.
        assert (await socket.subscribe(CHANNEL, 0))["recovered"] is True
        assert await seqs(socket, 4) == [3, 5, 7, 9]
        await emit(base, lead_id=lead)
        assert await seqs(socket, 1) == [11]
        await nothing_more(socket)


async def test_since_that_cannot_be_served_says_so(base, make_token, database_url):
    for _ in range(5):
        await emit(base)
    execute(database_url, "set role ottoai_system; delete from events where seq <= 3")
    async with connect(base, make_token()) as socket:
        epoch = socket.welcome["epoch"]
        for since, recovered in (
            (f"{epoch}.3", True),
            (f"{epoch}.2", False),
            (f"{epoch}.99", False),
            (f"{epoch - 1}.5", False),
            ("4", True),
        ):
            result = await socket.subscribe(CHANNEL, since)
            assert (since, result["recovered"]) == (since, recovered)
            assert result["replayed"] == (5 - int(since.rpartition(".")[2]) if recovered else 0)
        result = await socket.subscribe(CHANNEL, "soon")
        assert (result["success"], "since" in result["error"]) == (False, True)


async def test_new_epoch_brings_clients_back(base, make_token, database_url):
    async with connect(base, make_token()) as socket:
        epoch = socket.welcome["epoch"]
        await socket.subscribe(CHANNEL)
        execute(database_url, "set role ottoai_system; update heads set epoch = epoch + 1")
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1012
    async with connect(base, make_token()) as socket:
        assert (await socket.subscribe(CHANNEL, f"{epoch}.0"))["recovered"] is False


# Repairing


async def test_events_nobody_told_of_arrive_from_the_log(base, make_token, database_url):
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        append(database_url, 3)
        assert await seqs(socket, 3) == [1, 2, 3]
    assert hub.HEADS_EVERY + hub.HINT_GRACE < 2


async def test_a_hole_is_filled_before_what_follows(base, make_token, database_url):
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        append(database_url, 3)
        await emit(base)
        assert await seqs(socket, 4) == [1, 2, 3, 4]
        await nothing_more(socket)


async def test_what_the_log_lost_is_said(base, make_token, database_url, caplog):
    caplog.set_level("INFO")
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        of_tenant(database_url, "update heads set seq = seq + 2")  # as if retention had taken 1 and 2 unheard
        await emit(base)
        dropped = await socket.event()
        assert (dropped["event"], dropped["seq"], dropped["data"]) == (
            "system.buffer_dropped", None, {"from_seq": 1, "to_seq": 2},
        )  # fmt: skip
        assert re.fullmatch("[0-9a-f]{32}", dropped["trace_id"])
        (told,) = [each for each in caplog.records if each.msg == "Events lost to a client"]
        assert (told.from_seq, told.to_seq) == (1, 2)
        assert await seqs(socket, 1) == [3]


async def test_without_redis_events_arrive_within_two_seconds(base, make_token, redis_server):
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        redis_server.stop()
        try:
            started = time.monotonic()
            await deliver(base, "pre-call", report("pre-call"))
            assert await seqs(socket, 2) == [1, 2]
            assert time.monotonic() - started < 2
            while (await get(base, "/ready"))[0] == 200:  # noqa: ASYNC110 - what is shared is a second old at most
                await asyncio.sleep(0.1)
            status, _, ready = await get(base, "/ready")
            assert (status, ready["redis"], ready["components"]["database"]) == (503, False, True)
            assert (await get(base, "/health"))[0] == 200
        finally:
            redis_server.start()
        await emit(base)
        assert await seqs(socket, 1) == [3]


async def test_transient_events_have_no_number(base, make_token):
    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        assert (await emit(base, transient="1"))["seq"] is None
        await emit(base)
        first, second = await socket.event(), await socket.event()
        assert (first["seq"], second["seq"]) == (None, 1)


async def test_a_log_that_grows_while_heads_are_compared_is_not_taken_for_restored(app, base, make_token, monkeypatch):
    read = events.heads

    async def read_late(system, tenants):
        heads = await read(system, tenants)
        await emit(base)
        return heads

    async with connect(base, make_token()) as socket:
        await socket.subscribe(CHANNEL)
        monkeypatch.setattr(events, "heads", read_late)
        await app[keys.HUB].compare_heads()
        monkeypatch.undo()
        await emit(base)
        assert [(await socket.event())["seq"] for _ in range(2)] == [1, 2]


# Slow, broken and hostile clients


def stall(socket: Socket) -> asyncio.Transport:
    """Have a client read nothing more, until its transport resumes."""
    transport = socket.raw._conn.transport
    # Or the kernel would take megabytes on the client's behalf.
    transport.get_extra_info("socket").setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 65_536)
    transport.pause_reading()
    return transport


async def test_a_stalled_client_catches_up_and_disturbs_nobody(app, base, make_token, monkeypatch):
    monkeypatch.setattr(fanout, "STUCK", 3600.0)  # on a busy machine it may stall for longer than the real one
    data = {"filler": "x" * 8_000}
    async with connect(base, make_token()) as stalled, connect(base, make_token(user="ben")) as lively:
        for socket in (stalled, lively):
            await socket.subscribe(CHANNEL)
        transport = stall(stalled)
        reading = asyncio.create_task(seqs(lively, 1200))
        headers = {"X-Dev-Key": "dev"}
        url = f"{base}/ws/test-emit?event=test.big&tenant_id=demo"
        async with aiohttp.ClientSession(headers=headers) as session:
            for _ in range(1200):
                async with session.post(url, json=data) as response:
                    assert response.status == 200
        assert await reading == list(range(1, 1201))
        connections = {c.user_id: c for c in app[keys.HUB].connections.values()}
        assert connections["ann"].group is None, "it should have left the live stream"
        assert connections["ann"].unsent < 512 * 1024
        assert connections["ben"].group is not None
        transport.resume_reading()
        assert await seqs(stalled, 1200) == list(range(1, 1201))
        await emit(base)
        assert await seqs(stalled, 1) == [1201]


async def test_who_is_stuck_is_closed_4409_and_resumes_without_a_loss(app, base, make_token, database_url, monkeypatch):
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(fanout, "STUCK", 0.3)
        async with connect(base, make_token()) as socket:
            await socket.subscribe(CHANNEL)
            transport = stall(socket)
            append(database_url, 300, size=8_000)
            await emit(base)
            (there,) = app[keys.HUB].connections.values()
            await until(lambda: there.closed_for == "slow")
            transport.resume_reading()  # what was on its way comes before the close
            with pytest.raises(Closed) as closed:
                while True:
                    seen += await seqs(socket, 1)
            assert closed.value.code == 4409
            await until(lambda: counted(app[keys.METRICS], "ws_disconnects_total", reason="slow") == 1)
    assert len(seen) < 301
    await emit(base)
    async with connect(base, make_token()) as socket:
        result = await socket.subscribe(CHANNEL, seen[-1])
        assert (result["recovered"], result["replayed"]) == (True, 302 - len(seen))
        assert seen + await seqs(socket, 302 - len(seen)) == list(range(1, 303))


async def test_garbage_gets_an_error_and_ten_close_4400(base, make_token):
    garbage = ["", "{", "[]", '"x"', '{"type":"dance"}', '{"type":"subscribe"}', '{"type":"subscribe","channel":7}',
               b"\x00\x01", "null", '{"type":"ping"']  # fmt: skip
    async with connect(base, make_token()) as socket:
        for item in garbage:
            await (socket.raw.send_bytes(item) if isinstance(item, bytes) else socket.raw.send_str(item))
        for _ in garbage:
            error = await socket.receive()
            assert (error["type"], error["code"]) == ("error", "malformed")
            assert "Traceback" not in error["message"]
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 4400


async def test_a_fault_of_ours_is_not_the_clients_going(app, base, make_token, monkeypatch, caplog):
    async def fails(*_):
        raise RuntimeError("a fault")

    caplog.set_level("INFO")
    ended = partial(counted, app[keys.METRICS], "ws_disconnects_total")
    monkeypatch.setattr(app[keys.HUB], "subscribe", fails)
    async with connect(base, make_token()) as socket:
        with pytest.raises(Closed) as closed:
            await socket.subscribe(CHANNEL)
        assert closed.value.code == 1011
    async with open_stream(base, make_token(), CHANNEL) as stream:
        assert (await stream.message())["type"] == "welcome"
        assert await stream.message() == {"type": "end", "code": 1011, "reason": "internal"}
        assert await stream.message() is None
    await until(lambda: ended(reason="error") == 2)
    assert ended(reason="client") == 0
    assert [each.reason for each in caplog.records if " closed" in each.msg] == ["error"] * 2


async def test_a_message_too_large_closes_1009(base, make_token):
    async with connect(base, make_token()) as socket:
        await socket.raw.send_str("x" * 40_000)
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1009


async def test_ping_and_protocol_ping_are_answered(base, make_token):
    session, socket = await raw(base, headers={"Authorization": f"Bearer {make_token()}"}, autoping=False)
    async with session:
        await socket.receive_json()
        await socket.send_json({"type": "ping"})
        assert (await socket.receive_json())["type"] == "pong"
        await socket.ping(b"abc")
        answer = await socket.receive()
        assert (answer.type, bytes(answer.data)) == (aiohttp.WSMsgType.PONG, b"abc")
        await socket.close()


# Many come back at once


async def test_a_crowd_that_resumes_after_a_deploy_hardly_reads_the_database(app, base, make_token, database_url):
    append(database_url, 700)
    before = reads(app)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(base, make_token(user=f"user-{n % 20}"))) for n in range(100)
        ]
        results = await asyncio.gather(*(one.subscribe(CHANNEL, 700 - n) for n, one in enumerate(clients)))
        assert all(result["recovered"] and result["replayed"] == n for n, result in enumerate(results))
        for n, one in enumerate(clients):
            assert await seqs(one, n) == list(range(701 - n, 701))
    assert reads(app) - before < 12


def reads(app) -> float:
    """How often the log was read."""
    lines = [x for x in app[keys.METRICS].render().splitlines() if x.startswith("db_query_duration_seconds_count")]
    queries = ('"since"', '"head"', '"count_of_lead"')
    return sum(float(line.rpartition(" ")[2]) for line in lines if any(query in line for query in queries))


async def test_a_stream_nobody_listens_to_is_kept_for_a_while(app, base, make_token):
    async with connect(base, make_token()):
        pass
    hub = app[keys.HUB]
    await until(lambda: not hub.connections)
    hub.forget_unused(time.monotonic())
    assert "demo" in hub.streams
    hub.forget_unused(time.monotonic() + 61)
    assert "demo" not in hub.streams
