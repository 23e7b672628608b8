"""Whatever tenant A asks, through every route there is, nothing of tenant B comes back, and nothing of B changes."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import pytest
import redis
from yarl import URL

from ottoai.log import JsonLines
from ottoai.web import keys
from ottoai.web.api import reading
from tests.helpers import get
from tests.isolation.canaries import A, B, canaries_of, dump, found_in, rows
from tests.isolation.drives import DRIVES, SHOWN_TO_B, Ask, disguises, foreign_channels, listed
from tests.isolation.recording import recorded

NAMES_OF_WORDS = {
    "status",
    "direction",
    "kind",
    "provider",
    "severity",
    "outcome",
    "state",
    "sender",
    "event",
    "name",
    "role",
}
UNREADABLE = 16 * 1024  # bytes of an answer that does not end (an event stream): all that matters comes first


def test_every_route_is_driven():
    missing, gone = set(listed()) - DRIVES.keys(), DRIVES.keys() - set(listed())
    assert not missing, f"add a line for each to DRIVES in tests/isolation/drives.py: {sorted(missing)}"
    assert not gone, f"take out of DRIVES: {sorted(gone)}"


async def test_every_column_of_both_tenants_is_planted(two, database_url):
    """Texts and ids that nobody planted could leak unseen."""
    planted = {table for table, _ in rows(B)} | {"tenants", "heads", "events"}
    dumped = dump(database_url, B.id)
    assert dumped.keys() == planted, "plant a row of each table in tests/isolation/canaries.py"
    for table, found in dumped.items():
        for column, value in ((column, value) for row in found for column, value in json.loads(row).items()):
            told = isinstance(value, str) and value and column not in NAMES_OF_WORDS and not column.endswith("_at")
            told = told and (table, column) != ("opt_outs", "source")  # a name of words there, nowhere else
            if told and column not in {"ts", "since", "day", "hours", "timezone", "valid_after", "headers", "role"}:
                assert found_in(value, canaries_of(database_url, B, A)), f"{table}.{column} tells nothing of B: {value}"


async def drive(base: str, session: aiohttp.ClientSession, ask: Ask) -> tuple[int, str]:
    """Make a request; (status, all that came back but what the request itself had said)."""
    url = URL(base + ask.path, encoded=True)
    options = {"headers": ask.headers, "allow_redirects": False}
    if ask.method not in {"GET", "HEAD", "OPTIONS"}:
        options["data"] = ask.body
    async with session.request(ask.method, url, **options) as response:
        body = await asyncio.wait_for(response.content.read(UNREADABLE), 10)
        while len(chunk := await asyncio.wait_for(response.content.read(UNREADABLE), 10)):
            body += chunk
        told = "\n".join([str(response.reason), *(f"{name}: {value}" for name, value in response.headers.items())])
        text = told + "\n" + body.decode("utf-8", "replace")
    return response.status, without(text, sayings(ask))


def sayings(ask: Ask) -> Iterator[str]:
    """What the caller said, and may be told again: its address and the values in it."""
    yield ask.path
    parts = urlsplit(ask.path)
    yield parts.path
    for value in (*parts.path.split("/"), *(pair.partition("=")[2] for pair in parts.query.split("&"))):
        yield from (value, unquote(value), quote(unquote(value)))


def without(text: str, said: Iterator[str]) -> str:
    for word in sorted({word for word in said if len(word) > 5}, key=len, reverse=True):
        text = text.replace(word, "")
    return text


async def test_b_sees_its_own_data(two, base, token_b):
    """Else the canaries would prove nothing."""
    for path, canary in SHOWN_TO_B.items():
        status, _, body = await get(base, path, token_b)
        assert status == 200
        assert canary in json.dumps(body), path
    reads = {path for method, path in listed() if method == "GET" and path.startswith("/api/")} - {"/api/events/stream"}
    shown = {"/".join("{id}" if B.seed in part else part for part in urlsplit(p).path.split("/")) for p in SHOWN_TO_B}
    assert reads == shown, "add what B sees there to SHOWN_TO_B in tests/isolation/drives.py"


async def leaks(base: str, token: str, method: str, path: str, canaries: frozenset[str]) -> list[str]:
    """Every answer to A that holds something of B, and every line of A's log."""
    found, count = [], 0
    with recorded() as lines:
        async with aiohttp.ClientSession() as session:
            for ask in DRIVES[method, path](path):
                for disguised in disguises(ask, method, token):
                    status, text = await drive(base, session, disguised)
                    assert status < 500 or path in {"/ready", "/internal/worker/heartbeat"}, (disguised, text)
                    if seen := found_in(text, canaries):
                        found.append(f"{disguised.method} {disguised.path} {disguised.headers}: {seen}")
                    count += 1
    assert count > 10
    logged = [json.dumps(line) for line in lines if line.get("tenant_id") != B.id]
    return found + [f"log: {line}" for line in logged if found_in(line, canaries)]


@pytest.mark.parametrize(("method", "path"), DRIVES)
async def test_nothing_of_b_comes_back(two, base, token_a, database_url, redis_url, method, path):
    before, canaries = dump(database_url, B.id), canaries_of(database_url, B, A)
    assert await leaks(base, token_a, method, path, canaries) == []
    assert dump(database_url, B.id) == before, "A changed B's data"
    assert leaks_of_redis(redis_url, canaries) == []


@pytest.mark.parametrize("path", ["/api/leads", "/api/leads/{id}", "/api/missed-calls"])
async def test_a_leak_would_be_seen(two, base, token_a, database_url, monkeypatch, path):
    """A handler that works for the wrong tenant."""
    monkeypatch.setattr(reading, "session", lambda request: request.app[keys.DB].one(B.id))
    assert await leaks(base, token_a, "GET", path, canaries_of(database_url, B, A))


async def test_a_leak_into_redis_would_be_seen(two, database_url, redis_url):
    canaries = canaries_of(database_url, B, A)
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.hset("cache:robin", "leads", f"[{B.phone}]")
        client.hset(f"cache:{B.id}", "leads", f"[{B.phone}]")
    assert leaks_of_redis(redis_url, canaries) == ["cache:robin"]


def leaks_of_redis(url: str, canaries: frozenset[str]) -> list[str]:
    """Keys of A, or of nobody, that hold something of B."""
    wrong = []
    with closing(redis.Redis.from_url(url)) as client:
        for key in client.scan_iter(count=1000):
            name, kind = key.decode(), client.type(key).decode()
            reads = {
                "string": client.get, "hash": client.hgetall, "set": client.smembers,
                "list": lambda k: client.lrange(k, 0, -1), "zset": lambda k: client.zrange(k, 0, -1),
                "stream": client.xrange,
            }  # fmt: skip
            if B.id not in name and found_in(str(reads[kind](key)), canaries):
                wrong.append(name)
    return wrong


def test_the_recorder_would_see_a_line():
    with recorded() as lines:
        logging.getLogger("ottoai.somewhere").warning("about %s", B.word)
    assert found_in(json.dumps(lines), frozenset({B.word}))
    assert json.loads(JsonLines("test").format(logging.makeLogRecord({"msg": "x"})))["message"] == "x"
    assert foreign_channels()
