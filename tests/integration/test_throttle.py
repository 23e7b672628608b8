"""What clients see of the limits: header fields, 429, what is exempt; and addresses that keep failing."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import encode_basic_auth
from aiohttp.test_utils import TestServer

from ottoai import limits
from ottoai.app import build_app
from ottoai.client import connect
from ottoai.web import keys
from tests.background import counted
from tests.conftest import add_tenant, make_config
from tests.helpers import deliver, get, report
from tests.integration.test_realtime import CHANNEL
from tests.streams import open_stream

PROMISED = {"RATE_LIMIT_USER": "", "RATE_LIMIT_TENANT": "", "RATE_LIMIT_LIVE_USER": "", "RATE_LIMIT_LIVE_TENANT": ""}
Serve = Callable[..., Awaitable[TestServer]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may answer late; what happens then is tested in test_limits."""
    monkeypatch.setattr(limits, "SLICE", 5.0)


@pytest.fixture
async def serve(database_url: str, redis_url: str, demo: str, aiohttp_server: Any) -> AsyncIterator[Serve]:
    """One more api process with these settings."""

    async def start(**settings: str) -> TestServer:
        server: TestServer = await aiohttp_server(build_app(make_config(database_url, redis_url, **settings)))
        return server

    return start


def at(server: TestServer) -> str:
    return str(server.make_url("")).rstrip("/")


def hits(server: TestServer, kind: str) -> float:
    """How often a limit was hit, on whichever route."""
    lines = server.app[keys.METRICS].render().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'hits_total{{limit_type="{kind}"' in line)


async def statuses(*calls: Awaitable[tuple[int, Any, Any]]) -> Counter[int]:
    return Counter([status for status, _, _ in await asyncio.gather(*calls)])


# Users, tenants, routes


async def test_exactly_a_hundred_of_three_hundred_calls_pass_over_two_processes(serve, make_token):
    servers = [await serve(RATE_LIMIT_USER="100/day") for _ in range(2)]
    token = make_token()
    found = await statuses(*(get(at(servers[n % 2]), "/api/calls", token) for n in range(300)))
    assert found == {200: 100, 429: 200}
    assert sum(hits(server, "user") for server in servers) == 200
    assert await statuses(get(at(servers[0]), "/api/calls", make_token(user="ben"))) == {200: 1}


async def test_what_is_promised_is_in_force(serve, make_token):
    server = await serve(**PROMISED)
    _, headers, _ = await get(at(server), "/api/calls", make_token())
    assert headers["RateLimit-Policy"] == '"user";q=60;w=60, "tenant";q=600;w=60'
    assert headers["RateLimit"] == '"user";r=59;t=1, "tenant";r=599;t=1'
    _, headers, _ = await get(at(server), "/api/events", make_token())
    assert headers["RateLimit-Policy"] == '"user";q=300;w=60, "tenant";q=6000;w=60'


async def test_a_refusal_says_what_and_when(serve, make_token, caplog):
    server = await serve(RATE_LIMIT_USER="2/hour")
    base, token = at(server), make_token()
    with caplog.at_level(logging.WARNING, "ottoai.web.throttle"):
        for path in ("/api/calls", "/api/leads/nobody", "/api/calls"):
            status, headers, body = await get(base, path, token)
    assert (status, headers["Content-Type"]) == (429, "application/problem+json")
    assert body.keys() == {"type", "title", "status", "detail", "instance", "trace_id"}
    assert (body["type"], body["status"]) == ("/docs/problems/rate-limited", 429)
    assert "2 requests a hour" in body["detail"]
    assert headers["RateLimit"].startswith('"user";r=0;t=')
    assert 1790 <= int(headers["Retry-After"]) <= 1800
    assert str(int(headers["Retry-After"])) in body["detail"]
    (line,) = [record for record in caplog.records if record.name == "ottoai.web.throttle"]
    assert line.message == "Rate limit hit: user"
    told = {name: getattr(line, name) for name in ("event_type", "limit_type", "tenant_id", "user_id", "route")}
    assert told == {
        "event_type": "rate_limit_hit", "limit_type": "user", "tenant_id": "demo", "user_id": "ann",
        "route": "/api/calls",
    }  # fmt: skip
    metrics = server.app[keys.METRICS]
    assert counted(metrics, "rate_limit_hits_total", limit_type="user", route="/api/calls") == 1
    assert counted(metrics, "rate_limit_checks_total", limit_type="user", result="allowed") == 2
    assert counted(metrics, "rate_limit_checks_total", limit_type="user", result="limited") == 1
    assert counted(metrics, "rate_limit_checks_total", limit_type="tenant", result="allowed") == 3


async def test_every_limited_answer_carries_the_fields_and_no_other(serve, make_token):
    base, token = at(await serve()), make_token()
    for path in ("/api/calls", "/api/calls?limit=0", "/api/calls/none", "/api/nothing", "/api/events"):
        _, headers, _ = await get(base, path, token)
        assert re.fullmatch(r'"user";r=\d+;t=\d+, "tenant";r=\d+;t=\d+', headers["RateLimit"]), path
        assert "RateLimit-Policy" in headers
    async with open_stream(base, token, CHANNEL) as stream:
        assert "RateLimit" in stream.response.headers
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        for method in ("HEAD", "POST"):
            async with session.request(method, f"{base}/api/calls") as response:
                assert "RateLimit" in response.headers
    for path in ("/api/calls", "/health", "/ready", "/nothing", "/static/otto.js"):
        async with aiohttp.ClientSession() as session, session.get(base + path) as response:
            assert "RateLimit" not in response.headers, path


async def test_a_tenant_has_one_allowance_for_its_users_and_none_of_anothers(serve, db, make_token):
    await add_tenant(db, "other", company="77", number="+13125550177")
    server = await serve(RATE_LIMIT_TENANT="5/day", RATE_LIMIT_USER="3/day")
    base = at(server)
    for user, expected in (("ann", [200] * 3 + [429]), ("ben", [200] * 2 + [429]), ("cy", [429])):
        assert [(await get(base, "/api/calls", make_token(user=user)))[0] for _ in expected] == expected
    assert (hits(server, "user"), hits(server, "tenant")) == (1, 2)
    status, headers, _ = await get(base, "/api/calls", make_token(user="ben"))
    assert (status, '"user";r=1;' in headers["RateLimit"]) == (429, True), "what is refused costs nothing"
    assert (await get(base, "/api/calls", make_token(org="other", user="ann")))[0] == 200


async def test_a_route_has_its_own_allowance(serve, make_token):
    own = "GET /api/calls/{id}=2/day,GET /api/leads=4/day"
    server = await serve(RATE_LIMIT_USER="1/day", RATE_LIMIT_TENANT="6/day", RATE_LIMIT_ROUTES=own)
    base, token = at(server), make_token()
    assert [(await get(base, f"/api/calls/{n}", token))[0] for n in range(3)] == [404, 404, 429]
    assert hits(server, "route") == 1
    _, headers, _ = await get(base, "/api/leads", token)
    assert headers["RateLimit-Policy"] == '"route";q=4;w=86400, "tenant";q=6;w=86400'
    bearer = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.head(f"{base}/api/leads", headers=bearer) as response:
        assert response.headers["RateLimit"].startswith('"route";r=2;'), "HEAD is the same route"
    assert [(await get(base, "/api/calls", token))[0] for _ in range(2)] == [200, 429], "it takes nothing of the user's"
    assert [(await get(base, "/api/leads", token))[0] for _ in range(2)] == [200, 429], "but of the tenant's"
    assert hits(server, "tenant") == 1


async def test_polls_are_counted_apart_and_sockets_not_at_all(serve, make_token):
    server = await serve(RATE_LIMIT_USER="1/day", RATE_LIMIT_TENANT="1/day", RATE_LIMIT_LIVE_USER="10/day")
    base, token = at(server), make_token()
    found = [(await get(base, "/api/events", token))[0] for _ in range(9)]
    async with open_stream(base, token, CHANNEL) as stream:
        found.append(stream.response.status)
    assert found == [200] * 10
    assert (await get(base, "/api/events", token))[0] == 429
    assert [(await get(base, "/api/calls", token))[0] for _ in range(2)] == [200, 429]
    for _ in range(5):
        async with connect(base, token) as socket:
            assert socket.welcome["user_id"] == "ann"


async def test_who_polls_as_the_docs_allow_is_never_refused(serve, make_token):
    """Twenty open polls, each asking anew when it has waited 25 s, and now and then answered at once."""
    server = await serve(**PROMISED)
    allowances = server.app[keys.ALLOWANCES]
    user, tenant = allowances.of("GET /api/events", "demo", "ann")
    quotas = server.app[keys.CONFIG]
    assert user.rate.limit / user.rate.seconds > quotas.ws_connections_per_user / 25
    assert tenant.rate.limit / tenant.rate.seconds > quotas.ws_connections_per_tenant / 25
    assert user.rate.limit >= 5 * user.rate.seconds, "PROTOCOL.md allows five polls a second"
    found = await statuses(*(get(at(server), "/api/events", make_token()) for _ in range(200)))
    assert found == {200: 200}


async def test_webhooks_and_what_watches_the_service_are_exempt(serve):
    base = at(await serve(RATE_LIMIT_USER="1/day", RATE_LIMIT_TENANT="1/day", RATE_LIMIT_FAILURES="1/day"))
    for _ in range(3):
        assert (await get(base, "/nothing"))[0] in {404, 429}
    for _ in range(3):
        assert (await deliver(base, "call-complete", report("call-complete")))[0] == 200
        assert (await deliver(base, "call-complete", report("call-complete"), key="wrong"))[0] == 401
    for path in ("/health", "/ready", "/metrics", "/internal/worker/heartbeat", "/static/otto.js", "/asyncapi.json"):
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.get(base + path) as response:
                    assert response.status in {200, 503}, path


async def test_a_limit_that_nobody_has_met_is_counted_as_0(serve):
    shown = (await serve()).app[keys.METRICS].render()
    assert 'rate_limit_hits_total{limit_type="user",route="/api/calls/{id}"} 0' in shown


async def test_on_trial_nothing_is_refused_but_all_is_told(serve, make_token, caplog):
    server = await serve(RATE_LIMIT_USER="2/day", RATE_LIMIT_FAILURES="2/day", RATE_LIMIT_SHADOW="true")
    base = at(server)
    with caplog.at_level(logging.WARNING, "ottoai.web.throttle"):
        for _ in range(5):
            status, headers, _ = await get(base, "/api/calls", make_token())
            assert (status, "Retry-After" in headers) == (200, False)
        assert [(await get(base, "/nothing"))[0] for _ in range(5)] == [404] * 5
    assert (hits(server, "user"), hits(server, "address")) == (3, 3)
    told = Counter((record.message, record.shadow) for record in caplog.records if "Rate limit" in record.message)
    assert told == {("Rate limit hit: user", True): 3, ("Rate limit hit: address", True): 3}


async def test_without_redis_the_limits_hold_in_the_process(serve, make_token, redis_server):
    server = await serve(RATE_LIMIT_USER="10/day")
    base, token = at(server), make_token()
    assert await statuses(*(get(base, "/api/calls", token) for _ in range(4))) == {200: 4}
    redis_server.stop()
    try:
        assert await statuses(*(get(base, "/api/calls", token) for _ in range(20))) == {200: 6, 429: 14}
    finally:
        redis_server.start()


# Addresses that keep failing


async def test_an_address_that_keeps_failing_is_refused(serve, make_token, caplog):
    server = await serve(RATE_LIMIT_FAILURES="6/hour")
    base = at(server)
    failing = ["/api/calls", "/nothing", "/static/none", "/api/nothing", "/ws", "/api/leads", "/ws"]
    tokens = [None, None, None, "nonsense", None, "nonsense", "nonsense"]
    found = [(await get(base, path, token))[0] for path, token in zip(failing, tokens, strict=True)]
    assert found == [401, 404, 404, 401, 426, 401, 426], "a wrong protocol is no failure, nor is a file that is gone"
    assert [(await get(base, path))[0] for path in ("/nothing", "/wp-admin")] == [404, 404]
    with caplog.at_level(logging.WARNING, "ottoai.web.throttle"):
        for path, token in (("/nothing", None), ("/api/calls", None), ("/api/calls", "nonsense"), ("/ops", None)):
            status, headers, body = await get(base, path, token)
            assert (status, body["type"]) == (429, "/docs/problems/rate-limited")
            assert 1 <= int(headers["Retry-After"]) <= 600
    hit = [record for record in caplog.records if "Rate limit" in record.message]
    assert {(record.message, record.limit_type, record.ip) for record in hit} == {
        ("Rate limit hit: address", "address", "127.0.0.1")
    }
    metrics = server.app[keys.METRICS]
    assert counted(metrics, "rate_limit_checks_total", limit_type="address", result="allowed") == 6
    assert hits(server, "address") == 4
    assert (await get(base, "/api/calls", make_token()))[0] == 200, "who has a valid token goes on"
    assert (await get(base, "/api/calls/none", make_token()))[0] == 404
    async with connect(base, make_token()) as socket:
        assert socket.welcome


async def test_who_has_a_token_never_counts_as_failing(serve, make_token):
    server = await serve(RATE_LIMIT_FAILURES="2/hour")
    for _ in range(5):
        assert (await get(at(server), "/api/calls/none", make_token()))[0] == 404
    assert len(server.app[keys.FAILING]) == 0


async def test_guessing_a_password_is_slow_and_locks_no_operator_out(serve):
    base = at(await serve(RATE_LIMIT_FAILURES="5/hour"))

    async def sign_in(password: str) -> int:
        headers = {"Authorization": encode_basic_auth("operator", password)}
        async with aiohttp.ClientSession() as session, session.get(f"{base}/ops", headers=headers) as response:
            return response.status

    assert await sign_in("secret") == 200
    assert [await sign_in(str(n)) for n in range(6)] == [401] * 5 + [429]
    assert await sign_in("secret") == 200


async def test_guessing_a_key_for_test_events_is_slow(serve):
    base = at(await serve(RATE_LIMIT_FAILURES="5/hour"))

    async def emit(**key: str) -> int:
        return (await get(base, "/ws/test-emit?event=test.x&tenant_id=demo", **key))[0]

    assert await emit(**{"X-Dev-Key": "dev"}) == 200
    assert [await emit() for _ in range(6)] == [403] * 6, "without a key nothing is guessed"
    assert [await emit(**{"X-Dev-Key": str(n)}) for n in range(6)] == [403] * 5 + [429]
    assert await emit(**{"X-Dev-Key": "dev"}) == 200, "who was right before goes on"


async def test_a_right_guess_from_an_address_that_keeps_failing_is_not_told(serve):
    base = at(await serve(RATE_LIMIT_FAILURES="2/hour"))
    for _ in range(2):
        await get(base, "/nothing")
    right = encode_basic_auth("operator", "secret")
    assert (await get(base, "/ops", Authorization=right))[0] == 429


async def test_a_socket_may_send_its_token_later(serve, make_token):
    base = at(await serve(RATE_LIMIT_FAILURES="1/hour"))
    await get(base, "/nothing")
    assert (await get(base, "/nothing"))[0] == 429
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{base}/ws") as socket:
            await socket.send_json({"type": "auth", "token": make_token()})
            assert (await socket.receive_json())["type"] == "welcome"
        async with session.ws_connect(f"{base}/ws", protocols=("ottoai.v1", f"bearer.{make_token()}")) as socket:
            assert (await socket.receive_json())["type"] == "welcome"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{base}/ws", protocols=("ottoai.v1", "bearer.nonsense"))
        assert refused.value.status == 429


async def test_whose_failures_are_whose_follows_trusted_proxies(serve):
    base = at(await serve(RATE_LIMIT_FAILURES="1/hour", TRUSTED_PROXIES="127.0.0.0/8"))

    async def ask(client: str) -> int:
        return (await get(base, "/nothing", **{"X-Forwarded-For": client}))[0]

    assert [await ask("203.0.113.1") for _ in range(2)] == [404, 429]
    assert await ask("203.0.113.2") == 404
    assert [await ask(f"2001:db8::{n}") for n in range(2)] == [404, 429], "an IPv6 client has a whole network"
    assert [await ask(f"198.51.100.9, 203.0.113.{n}") for n in (3, 3)] == [404, 429], "only what the proxy says counts"
    lines = [("X-Forwarded-For", "198.51.100.10"), ("X-Forwarded-For", "203.0.113.4")]  # as HAProxy adds its own
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(f"{base}/nothing", headers=lines) as response:
                await response.read()
    assert await ask("203.0.113.4") == 429
    assert await ask("198.51.100.10") == 404
