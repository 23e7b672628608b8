"""Strangers who speak raw bytes: what is refused, how, and when patience ends."""

import asyncio
import base64
import gzip
import re
import time
from typing import Any

import msgspec
import pytest

from ottoai.domain.roles import Role
from tests.security.conftest import request

HOOK = "POST /call-rail/call-complete"
NEXT = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"  # what a smuggler would have answered


AMBIGUOUS = (
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 5"),
    ("Content-Length: 5", "Content-Length: 0"),
    ("Content-Length: 0, 0",),
    ("Content-Length: +0",),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: gzip, chunked",),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: \x0bchunked",),
    ("Transfer-Encoding : chunked",),
    ("X-A: b\r\n folded",),
    ("X-A: b\rX-B: c",),
    ("X-A: b\x00c",),
    ("Host: y",),
)


async def test_a_request_that_two_could_read_differently_is_refused(say):
    for headers in AMBIGUOUS:
        answer = await say(request(HOOK, *headers, close=False) + b"0\r\n\r\n" + NEXT)
        assert answer.count(b"HTTP/1.") == 1, headers
        assert b"cannot be read as HTTP" in answer or b"nothing but chunked" in answer, headers
        assert b" 400 " in answer.partition(b"\r\n")[0], headers
        assert b"aiohttp" not in answer, headers
        assert b"nosniff" in answer, headers
        assert problem_of(answer)["type"] == "/docs/problems/invalid-input", headers


async def test_bare_line_feeds_are_refused(say):
    assert b" 400 " in await say(request(HOOK).replace(b"\r\n", b"\n"))
    chunks = request(HOOK, "Transfer-Encoding: chunked") + b"2\n{}\n0\n\n"
    assert (await say(chunks)).count(b" 400 ") == 1


async def test_what_cannot_be_parsed_is_not_quoted(say, caplog):
    caplog.set_level("INFO")
    answer = await say(request("GET /health", "Authorization: Bearer s3cr3t\x00"))
    assert b" 400 " in answer
    assert b"s3cr3t" not in answer
    assert problem_of(answer)["instance"] == "/"
    assert "s3cr3t" not in caplog.text
    assert [r.levelname for r in caplog.records if r.msg == "Request cannot be parsed"] == ["INFO"]


@pytest.mark.parametrize("line", ["GET /openapi.json", "GET /api/calls", "GET /nothing", "PUT /api/calls", HOOK])
async def test_what_nobody_can_expect_is_refused_like_all_else(say, line, caplog):
    caplog.set_level("INFO")
    answer = await say(request(line, "Expect: s3cr3t", "X-Request-Id: mine"))
    assert b" 417 " in answer.partition(b"\r\n")[0]
    assert problem_of(answer, id_="mine")["type"] == "/docs/problems/expectation-failed"
    assert b"s3cr3t" not in answer
    assert [r.status for r in caplog.records if r.msg == "Request answered"] == [417]
    figures = await say(request("GET /metrics?scope=local"))
    assert re.search(rb'http_requests_total{.*status="417".*} 1\n', figures)


@pytest.mark.parametrize("line", [HOOK, "POST /nothing"])
async def test_who_waits_to_be_asked_for_the_body_is_asked(port, line):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(line, "Expect: 100-Continue", "Content-Length: 2"))
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] == (b"200" if line == HOOK else b"404")
    assert answer.count(b"HTTP/1.") == 1


async def test_unfinished_headers_end_after_a_while(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n")

    async def drip() -> None:
        while not reader.at_eof():
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    except ConnectionError:
        pass  # it hung up while we wrote
    dripping.cancel()
    writer.close()
    assert time.monotonic() - started >= 0.9


async def test_an_idle_connection_ends_after_a_while(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("GET /openapi.json", close=False))
    async with asyncio.timeout(10):
        assert b" 200 " in await reader.read()
    writer.close()


@pytest.mark.parametrize("line", [HOOK, "PATCH /api/settings", "POST /ops/queues/pause"])
async def test_an_unfinished_body_ends_after_a_while(port, line, make_token):
    given = f"Bearer {make_token(role=Role.MANAGER)}" if "/api/" in line else f"Basic {_operator()}"
    head = request(line, f"Authorization: {given}", *_form(line), "Content-Length: 100", "If-Match: *")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + b"{")
    async with asyncio.timeout(15):
        assert b"did not come in time" in await reader.readuntil(b'"trace_id"')
    writer.close()


@pytest.mark.parametrize("line", [HOOK, "PATCH /api/settings", "POST /ops/queues/pause"])
async def test_compressed_bodies_are_refused(say, line, make_token):
    given = f"Authorization: Bearer {make_token(role=Role.MANAGER)}"
    if "/api/" not in line:
        given = f"Authorization: Basic {_operator()}"
    bomb = gzip.compress(bytes(50_000_000))
    for coding in ("gzip", "deflate", "br", "zstd", "rot13"):
        answer = await say(request(line, given, f"Content-Encoding: {coding}", *_form(line), body=bomb))
        assert b" 400 " in answer.partition(b"\r\n")[0], coding
        assert b"not compressed" in answer, coding


DOCUMENTS = (
    b"[" * 100_000,
    b'{"name":' * 900 + b"1" + b"}" * 900,
    b'{"name":' + b"9" * 100_000 + b"}",
    b'{"name":1e999}',
    b'{"name":NaN}',
    b'{"name":"a\\u0000b"}',
    b'{"name":"a\\ud800b"}',
    b'{"name":"a\xffb"}',
    b"{" + b",".join(b'"k%d":1' % number for number in range(50_000)) + b"}",
)


async def test_a_hostile_document_is_400(say, make_token):
    token = make_token(role=Role.MANAGER)
    headers = (f"Authorization: Bearer {token}", "Content-Type: application/json", "If-Match: *")
    for body in DOCUMENTS:
        answer = await say(request("PATCH /api/settings", *headers, body=body))
        assert b" 400 " in answer.partition(b"\r\n")[0], body[:20]


async def test_a_form_in_parts_is_400(say):
    kind = "Content-Type: multipart/form-data; boundary=b"
    field = b'Content-Disposition: form-data; name="queue"'  # well-formed: it would be refused for its token, 403
    for part in (b"nonsense", b"Content-Type: multipart/mixed; boundary=c", b"", field):
        body = b"--b\r\n" + part + b"\r\n\r\nx\r\n--b--\r\n"
        answer = await say(request("POST /ops/queues/pause", f"Authorization: Basic {_operator()}", kind, body=body))
        assert b" 400 " in answer.partition(b"\r\n")[0], part


async def test_no_spelling_of_an_address_goes_around_the_token(say):
    for path in ["/%61pi/calls", "//api/calls", "/api/../api/calls", "http://evil.example/api/calls", "/API/calls"]:
        status = (await say(request(f"GET {path}"))).split(b" ")[1]
        assert status in {b"401", b"404"}, path


async def test_no_other_file_is_served(say):
    for path in ["/static/../config.py", "/static/%2e%2e%2fconfig.js", "/static/..%5cconfig.js"]:
        assert b" 404 " in await say(request(f"GET {path}")), path


def problem_of(answer: bytes, id_: str | None = None) -> Any:
    """The problem that is answered, with the request's id: this one, or that of its trace."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))}
    assert fields["content-type"] == "application/problem+json"
    problem = msgspec.json.decode(body)
    assert problem["status"] == int(head.split(b" ")[1])
    assert fields["x-request-id"] == (id_ or problem["trace_id"])
    assert len(problem["trace_id"]) == 32
    return problem


def _operator() -> str:
    return base64.b64encode(b"operator:secret").decode()


def _form(line: str) -> tuple[str, ...]:
    form = "application/x-www-form-urlencoded"
    return (f"Content-Type: {form if '/ops/' in line else 'application/json'}",)
