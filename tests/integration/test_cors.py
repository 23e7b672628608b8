"""CORS: what a browser is told, so that pages of ALLOWED_ORIGINS may use the API, and no others."""

from typing import Any

import aiohttp
import pytest

from ottoai import limits
from ottoai.app import build_app
from ottoai.web import cors
from tests.conftest import make_config

OURS, THEIRS = "https://app.example.com", "https://evil.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may answer late; what happens then is tested in test_limits."""
    monkeypatch.setattr(limits, "SLICE", 5.0)


@pytest.fixture
async def base(database_url, redis_url, demo, aiohttp_server) -> str:
    settings = {"ALLOWED_ORIGINS": f"{OURS},https://other.example.com", "RATE_LIMIT_USER": "2/hour"}
    server = await aiohttp_server(build_app(make_config(database_url, redis_url, **settings)))
    return str(server.make_url("")).rstrip("/")


async def ask(base: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """(status, the headers that CORS is about, and Vary and Allow)."""
    async with aiohttp.ClientSession() as session, session.request(method, base + path, headers=headers) as response:
        return response.status, {k.removeprefix("Access-Control-"): v for k, v in response.headers.items()}


def cors_of(headers: dict[str, Any]) -> set[str]:
    return {name for name in headers if name.startswith(("Allow-", "Expose-", "Max-Age"))}


@pytest.mark.parametrize("path", ["/api/calls", "/api/events/stream", "/openapi.json", "/asyncapi.json"])
async def test_a_preflight_needs_no_token_and_costs_nothing(base, make_token, path):
    for _ in range(5):
        status, headers = await ask(base, path, "OPTIONS", Origin=OURS, **PREFLIGHT)
        assert status == 204
    assert (headers["Allow-Origin"], headers["Vary"]) == (OURS, "Origin")
    assert {"GET", "HEAD"} <= set(headers["Allow-Methods"].split(", "))
    assert headers["Allow-Headers"].split(", ") == list(cors.REQUEST_HEADERS)
    assert headers["Max-Age"] == str(cors.MAX_AGE)
    assert "Allow-Credentials" not in headers
    assert "RateLimit" not in headers
    assert (await ask(base, "/api/calls", Authorization=f"Bearer {make_token()}"))[0] == 200


async def test_a_preflight_says_the_methods_of_its_address(base):
    _, headers = await ask(base, "/api/calls", "OPTIONS", Origin=OURS, **PREFLIGHT)
    assert headers["Allow-Methods"] == "GET, HEAD"
    status, headers = await ask(base, "/api/nothing", "OPTIONS", Origin=OURS, **PREFLIGHT)
    assert status == 401
    assert headers["Allow-Origin"] == OURS, "the page may read that this is nowhere"


async def test_answers_may_be_read_good_and_bad(base, make_token):
    own = {"Origin": OURS, "Authorization": f"Bearer {make_token()}"}
    for path, expected in (("/api/calls", 200), ("/api/nothing", 404), ("/api/calls?limit=x", 400)):
        status, headers = await ask(base, path, **own, **{} if expected == 200 else {"X-Request-Id": "abc"})
        assert status in {expected, 429}
        assert headers["Allow-Origin"] == OURS
        assert set(cors.ANSWER_HEADERS) == set(headers["Expose-Headers"].split(", "))
    assert status == 429, "the limits hold for pages too"
    assert "Retry-After" in headers
    status, headers = await ask(base, "/api/calls", Origin=OURS)
    assert (status, headers["Allow-Origin"]) == (401, OURS)
    assert (await ask(base, "/api/calls", "DELETE", **own))[1]["Allow-Origin"] == OURS


async def test_an_event_stream_may_be_read(base, make_token):
    headers = {"Origin": OURS, "Authorization": f"Bearer {make_token()}"}
    async with aiohttp.ClientSession() as session, session.get(f"{base}/api/events/stream", headers=headers) as stream:
        assert stream.status == 200
        assert stream.headers["Access-Control-Allow-Origin"] == OURS
        assert "Origin" in stream.headers["Vary"]


@pytest.mark.parametrize(
    "origin", [THEIRS, "null", "", OURS + "/", OURS.upper(), "http://app.example.com", f"{OURS}, {THEIRS}", "*"]
)
async def test_others_are_told_nothing(base, make_token, origin):
    for method, headers in (("OPTIONS", PREFLIGHT), ("GET", {"Authorization": f"Bearer {make_token()}"})):
        status, answer = await ask(base, "/api/calls", method, Origin=origin, **headers)
        assert (status, cors_of(answer)) == (204 if method == "OPTIONS" else 200, set())
        assert "Origin" in answer["Vary"].split(", "), "no cache may give them an answer made for others"


async def test_without_an_origin_caches_know_that_it_matters(base):
    status, headers = await ask(base, "/openapi.json")
    assert (status, headers["Vary"], cors_of(headers)) == (200, "Origin", set())


async def test_the_rest_of_the_service_is_no_api(base):
    for path in ("/health", "/ops", "/docs", "/metrics", "/static/otto.js"):
        assert cors_of((await ask(base, path, Origin=OURS))[1]) == set()
        assert cors_of((await ask(base, path, "OPTIONS", Origin=OURS, **PREFLIGHT))[1]) == set()


async def test_unset_it_is_the_api_own_origin_alone(database_url, redis_url, demo, aiohttp_server):
    server = await aiohttp_server(build_app(make_config(database_url, redis_url)))
    base = str(server.make_url("")).rstrip("/")
    for origin in (base, OURS):
        status, headers = await ask(base, "/api/calls", "OPTIONS", Origin=origin, **PREFLIGHT)
        assert (status, cors_of(headers), headers["Allow"]) == (204, set(), "GET, HEAD")
        assert cors_of((await ask(base, "/asyncapi.json", Origin=origin))[1]) == set()
