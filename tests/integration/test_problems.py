"""Whatever is asked of the API in the wrong way is answered by a problem that says what is wrong."""

import aiohttp
import msgspec
import pytest
from yarl import URL

from ottoai.web.operations import OPERATIONS
from tests.integration.test_hostile import raw_http

ID = "11111111-1111-4111-8111-111111111111"
PATHS = sorted({path for _, path in OPERATIONS if path.startswith("/api/")})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")


def allowed(path: str) -> set[str]:
    methods = {method for method, known in OPERATIONS if known == path}
    return methods | ({"HEAD"} if "GET" in methods else set())


@pytest.fixture
async def ask(base, make_token):
    """Ask with a token; (status, headers, problem)."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {make_token(role='manager')}"}) as session:

        async def ask(method: str, path: str, **options):
            url = URL(base + path.replace("{id}", ID), encoded=True)
            async with session.request(method, url, **options) as response:
                body = await response.read()
                is_problem = response.content_type == "application/problem+json"
                problem = msgspec.json.decode(body) if is_problem and body else None
                return response.status, response.headers, problem

        yield ask


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_methods_are_405_and_say_which_are_known(ask, path):
    for method in set(METHODS) - allowed(path):
        status, headers, problem = await ask(method, path)
        assert (status, problem["type"]) == (405, "/docs/problems/method-not-allowed"), method
        assert set(headers["Allow"].split(",")) == allowed(path), method
        assert problem["instance"] == path.replace("{id}", ID)


@pytest.mark.parametrize("path", [path for path in PATHS if "GET" in allowed(path) and path != "/api/events/stream"])
async def test_head_is_get_without_the_body(ask, path):
    by_get, by_head = await ask("GET", path), await ask("HEAD", path)
    assert by_head[0] == by_get[0]
    assert by_head[2] is None
    for name in ("Content-Type", "ETag", "Content-Length"):
        assert by_head[1].get(name) == by_get[1].get(name), name


@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if each[1] in PATHS and each[0] != "GET"])
@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "nonsense"])
async def test_bodies_of_another_kind_are_415(ask, method, path, media):
    status, headers, problem = await ask(method, path, data=b"{}", headers={"Content-Type": media, "If-Match": '"1"'})
    assert (status, problem["type"]) == (415, "/docs/problems/unsupported-media-type")
    assert problem["detail"].startswith("Content-Type: ")
    assert "application/json" in headers["Accept-Patch" if method == "PATCH" else "Accept-Post"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/calls?limit=0", "limit"),
        ("/api/calls?limit=1e1", "limit"),
        ("/api/calls?limit=", "limit"),
        ("/api/calls?limit=%31%FF", "limit"),
        ("/api/calls?nonsense=1", "nonsense"),
        ("/api/calls?Limit=1", "Limit"),
        ("/api/calls?limit=1&limit=2", "limit"),
        ("/api/calls?cursor=%FF%FE", "cursor"),
        ("/api/calls?since=2026-01-01T00:00:00", "since"),
        ("/api/calls?answered=yes", "answered"),
        ("/api/leads?phone=nobody", "phone"),
        ("/api/tasks?status=lost", "status"),
        ("/api/events?wait=26", "wait"),
        ("/api/events?since=-1", "since"),
        ("/api/events/stream?since=soon", "since"),
        ("/api/events/stream?limit=1", "limit"),
    ],
)
async def test_the_problem_names_the_parameter(ask, path, field):
    status, _, problem = await ask("GET", path)
    assert (status, problem["type"]) == (400, "/docs/problems/invalid-input")
    assert problem["detail"].startswith(f"{field}: ")
    assert problem["status"] == 400
    assert problem["trace_id"]


@pytest.mark.parametrize("query", ["name=%FF", "name=%C3%28", "name=%ED%A0%80", "name=caf%E9", "%FF=1", "name=%"])
async def test_queries_that_are_not_utf_8_are_no_server_error(ask, query):
    status, _, problem = await ask("GET", f"/api/leads?{query}")
    assert status in {200, 400}
    assert (problem is None) is (status == 200)


async def test_requests_that_are_no_http_are_no_server_error(base):
    for line in (b"GET /api/calls?name=\xff\xfe HTTP/1.1", b"NONSENSE /api/calls HTTP/1.1", b"GET /api/\x00 HTTP/1.1"):
        first = await raw_http(base, line + b"\r\nHost: x\r\n\r\n")
        assert b" 4" in first[:13], (line, first)
