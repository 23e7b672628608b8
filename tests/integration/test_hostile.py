"""What was broken once by somebody who meant it: each stays mended."""

import asyncio
import json
import re
import socket
import socket as sockets
import struct
import time
from datetime import datetime

import aiohttp
import msgspec
import pytest
from aiohttp import web

from ottoai import background
from ottoai.app import build_app
from ottoai.client import Closed, connect
from ottoai.db import open_pool, queries
from ottoai.domain import events
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.realtime.connection import HIGH
from ottoai.web import inputs, keys, session
from ottoai.web.api.calls import CallQuery
from tests.conftest import execute, make_config, of_tenant
from tests.helpers import deliver, get, report

NESTED = "[" * 12_000 + "]" * 12_000


async def raw_http(base: str, request: bytes) -> bytes:
    """Send bytes as they are; the first line of the answer."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return line


async def test_a_value_that_cannot_be_sent_poisons_no_connection(base):
    """psycopg2 refuses a NUL before it sends anything: what was to be prepared with it was not."""
    for _ in range(4):
        assert (await deliver(base, "call-complete", {"id": "1", "company_id": "a\x00b"}))[0] == 400
        stranger = {"id": "x", "company_id": "acme"}
        assert (await deliver(base, "call-complete", stranger))[0] == 202


async def test_a_bad_value_deep_down_poisons_no_connection(db, demo):
    for _ in range(3):
        with pytest.raises(Exception, match="NUL"):
            await events.head(db.one("a\x00b"))
        assert await events.head(db.one("demo"))


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"id": "a\x00b"}, 200, "id"),
        ({"id": "x", "company_id": "y" * 900_000}, 400, "company_id"),
        ({"id": "x", "tracking_phone_number": "\x00"}, 400, "tracking_phone_number"),
        ({"id": 10**400}, 400, "company_id"),
        ({"id": "x", "customer_name": "\ud800"}, 400, "body"),
    ],
)
async def test_odd_values_are_answered_by_field(base, body, status, told):
    data = json.dumps(body).encode()
    key = "" if status == 200 else None
    got, answer = await deliver(base, "call-complete", data, key=key)
    assert got == status
    assert told in answer["detail"]


@pytest.mark.parametrize(
    "start", ["2026-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
async def test_odd_zones_are_read(base, start):
    assert (await deliver(base, "pre-call", report("pre-call", start_time=start)))[1]["status"] == "processed"


async def test_odd_headers_are_400_and_name_the_header(base):
    body = b"{}"
    for header in (
        b"Authorization: Bearer \xff",
        b"Signature: \xff",
        b"User-Agent: \xff",
        b"Origin: \xff",
        b"X-Dev-Key: \xff",
    ):
        for line in (b"POST /call-rail/call-complete", b"GET /api/calls", b"GET /ws", b"GET /ws/test-emit"):
            request = b"%b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n%b\r\n\r\n%b" % (line, header, body)
            assert b" 400 " in await raw_http(base, request), (line, header)
    assert b" 400 " in await raw_http(
        base, b"POST /call-rail/pre-call/%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    )
    broken = b"POST /call-rail/pre-call HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk"
    assert b" 400 " in await raw_http(base, broken)
    assert b" 401 " in await raw_http(base, b"GET /ops HTTP/1.1\r\nHost: x\r\nAuthorization: Basic !!!\r\n\r\n")
    assert b" 404 " in await raw_http(base, b"GET /static/" + b"a" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    upgrade = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://[\r\n\r\n"
    assert b" 403 " in await raw_http(base, upgrade)


async def test_odd_paging_is_400(base, make_token):
    what = msgspec.json.encode(("calls", inputs.filters(CallQuery())))
    zone = datetime.fromisoformat("2020-01-01T00:00:00+23:00")
    cursor = inputs.cursor_of(zone, "11111111-1111-4111-8111-111111111111", what)
    assert (await get(base, f"/api/calls?cursor={cursor}", make_token()))[0] == 200
    assert (await get(base, f"/api/leads?cursor={cursor}", make_token()))[0] == 400
    assert (await get(base, f"/api/calls?limit={'1' * 5000}", make_token()))[0] == 400


async def test_odd_tokens_are_401(base, make_token, config):
    import jwt

    for claims in ({"exp": 10**18}, {"org_id": "a\x00b"}, {"org_id": 7}, {"sub": ""}):
        token = jwt.encode({"sub": "u", "org_id": "demo", "iat": 1, "exp": 2**33, **claims}, config.jwt_secret, "HS256")
        assert (await get(base, "/api/calls", token))[0] == 401, claims
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with connect(base, token):
                pass


async def test_test_emit_refuses_what_cannot_be_stored(base):
    headers = {"X-Dev-Key": "dev"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for query, data in (("", '{"a":"\\u0000"}'), ("&user_id=%00", "{}"), ("", '{"a":' + NESTED[:980] + "}")):
            url = f"{base}/ws/test-emit?event=test.x&tenant_id=demo{query}"
            async with session.post(url, data=data) as response:
                assert response.status == 400


async def test_deep_nesting_on_the_socket_is_malformed(base, make_token):
    async with connect(base, make_token()) as socket:
        await socket.raw.send_str('{"type":"subscribe","channel":"x","y":' + NESTED + "}")
        assert (await socket.receive())["code"] == "malformed"
    async with connect(base) as socket:
        await socket.raw.send_str('{"type":"auth","x":' + NESTED + "}")
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 4401


async def test_an_unforeseen_error_closes_1011(app, base, make_token, monkeypatch):
    async def broken(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(app[keys.HUB], "subscribe", broken)
    async with connect(base, make_token()) as socket:
        await socket.send(type="subscribe", channel="tenant:demo:events")
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1011


async def test_a_client_that_writes_and_never_reads_costs_little(app, base, make_token, monkeypatch):
    monkeypatch.setattr(session.Budget, "spend", lambda *_: 0)  # it would be closed before it costs anything
    async with connect(base, make_token()) as socket:
        transport = socket.raw._conn.transport
        transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 16_384)
        transport.pause_reading()
        [connection] = app[keys.HUB].connections.values()
        message = json.dumps({"type": "unsubscribe", "channel": "x" * 8_000})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(20_000):
                    await socket.raw.send_str(message)
        assert connection.unsent < HIGH + 64 * 1024
        transport.abort()


async def test_since_ahead_of_this_process_repeats_nothing(base, make_token, database_url):
    async with connect(base, make_token(user="ben")) as other:
        await other.subscribe("tenant:demo:events")
        for turn in range(5):
            drafts = json.dumps([{"event": "test.elsewhere", "data": {}}] * 5)
            of_tenant(database_url, "select count(*) from append_events('demo', '', %s::jsonb)", drafts)
            head = (turn + 1) * 6 - 1
            async with connect(base, make_token()) as socket:
                result = await socket.subscribe("tenant:demo:events", head)
                assert (result["recovered"], result["seq"], result["replayed"]) == (True, head, 0)
                await get(base, "/ws/test-emit?event=test.x&tenant_id=demo", **{"X-Dev-Key": "dev"})
                assert (await socket.event())["seq"] == head + 1


async def test_a_number_that_comes_later_still_opens_the_rescue(base, database_url):
    bare = report("call-complete", 7700)
    bare["customer_phone_number"] = None
    await deliver(base, "call-complete", bare)
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(0,)]
    await deliver(base, "call-modified", report("call-modified", 7700))
    await deliver(base, "pre-call", report("pre-call", 7700))
    assert of_tenant(database_url, "select status from missed_calls") == [("queued",)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(1,)]


async def test_strangers_leave_nothing_in_memory(app, base):
    for number in range(20):
        await deliver(base, "pre-call", {"id": 1, "company_id": number})
    assert len(app[keys.INGEST].directory._kept) == 0


async def test_unsigned_strangers_are_not_kept(base, database_url):
    assert (await deliver(base, "pre-call", {"id": 1, "company_id": 4711}, key=""))[0] == 401
    huge = {"id": 1, "company_id": 4711, "note": "x" * 100_000}
    assert (await deliver(base, "pre-call", huge, key="any"))[0] == 413
    assert execute(database_url, "select count(*) from unclaimed_deliveries") == [(0,)]


async def test_an_empty_database_is_not_ready_rather_than_an_error(postgres_server, redis_url, aiohttp_server):
    execute(postgres_server.url, "create database empty_for_tests")
    config = make_config(postgres_server.url.rsplit("/", 1)[0] + "/empty_for_tests", redis_url)
    base = str((await aiohttp_server(build_app(config))).make_url("")).rstrip("/")
    status, _, ready = await get(base, "/ready")
    assert (status, ready["components"]["migrations"], ready["database"]) == (503, False, True)
    status, answer = await deliver(base, "pre-call", report("pre-call"))
    assert (status, "migrate" in answer["detail"]) == (503, True)


async def test_refused_connections_leave_the_loop_sound(postgres_server, database_url, redis_url):
    config = make_config(database_url, redis_url)
    async with open_pool(config, Metrics("test")) as db:
        for _ in range(3):
            postgres_server.stop()
            for _ in range(20):
                with pytest.raises(StoreUnavailable):
                    await queries().roles.ping(db.system())
            postgres_server.start()
            started = time.monotonic()
            assert await queries().roles.ping(db.system())
            assert time.monotonic() - started < 1


async def test_a_loop_that_fails_begins_again(monkeypatch):
    monkeypatch.setattr(background, "BEGIN_AGAIN", 0)
    turns = asyncio.Queue()

    async def loop() -> None:
        await turns.put(None)
        raise RuntimeError("unforeseen")

    async with background.running(loop):
        for _ in range(3):
            await asyncio.wait_for(turns.get(), 1)


@pytest.mark.parametrize("path", ["/ws", "/api/events/stream?channel=tenant:demo:events"])
async def test_who_resets_right_after_asking_is_no_error(base, make_token, caplog, path):
    """A crowd whose links are cut must not fill the log with faults that are none."""
    host, port = base.removeprefix("http://").split(":")
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {make_token()}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    for _ in range(50):
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
            client.sendall(head)
        await asyncio.sleep(0)
    assert (await get(base, "/health"))[0] == 200
    await asyncio.sleep(0.2)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_hangs_up_in_the_middle_of_a_webhook_has_not_made_it_fail(app):
    """Else anybody could ring the operators out of bed, who are called for the first webhook that fails."""
    runner = web.AppRunner(
        app, access_log=None
    )  # as production serves; aiohttp's test server cancels the handler of who is gone
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /call-rail/pre-call HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\nExpect: 100-continue\r\n\r\n{"
    )
    assert b"100" in await reader.readline()  # now it is being read
    writer.close()
    try:
        async with asyncio.timeout(10):
            while not (found := await _outcomes(f"http://{host}:{port}")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert found == {"rejected"}
    finally:
        await runner.cleanup()


async def _outcomes(base: str) -> set[str]:
    """How CallRail's deliveries have ended so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        figures = await response.text()
    return set(re.findall(r'webhook_requests_total{[^}]*outcome="(\w+)"[^}]*provider="callrail"[^}]*} [1-9]', figures))
