"""The cache: what is kept, what is never shown, and what happens without it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
import redis
from aiohttp.test_utils import TestServer

from ottoai import cache as module
from ottoai import embedded
from ottoai.app import build_app
from ottoai.config import Config
from ottoai.web import keys
from tests.background import eventually
from tests.conftest import add_tenant, execute, make_config, of_tenant
from tests.helpers import deliver, get, report, until
from tests.rows import add_call, add_lead, add_message, add_missed, add_task, change, minutes

LISTS = {
    "calls": "/api/calls", "leads": "/api/leads", "messages": "/api/leads/{}/messages", "tasks": "/api/tasks",
    "missed_calls": "/api/missed-calls", "timeline": "/api/leads/{}/timeline",
}  # fmt: skip
QUERIES = {
    "calls": "list_calls", "leads": "list_leads", "messages": "list_messages", "tasks": "list_tasks",
    "missed_calls": "list_missed_calls", "timeline": "list_timeline",
}  # fmt: skip


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may answer late; what happens then has tests of its own."""
    monkeypatch.setattr(module, "SLICE", 2.0)


@asynccontextmanager
async def process(config: Config) -> AsyncIterator[tuple[str, Any]]:
    """One more API process: its address, and its application."""
    async with TestServer(build_app(config)) as server:
        yield str(server.make_url("")).rstrip("/"), server.app


def counts(app: Any, name: str) -> dict[str, float]:
    """How often pages of a list came from where."""
    values = app[keys.METRICS].cache_requests_total._values
    return {result: value for (cache, result), value in values.items() if cache == name and value}


def reads(app: Any, name: str) -> float:
    """How often PostgreSQL read a page of a list."""
    series = app[keys.METRICS].db_query_duration_seconds._series.get((QUERIES[name],))
    return sum(series[:-1]) if series else 0


def kept(url: str) -> dict[str, int]:
    """The entries, with their seconds to live."""
    with closing(redis.Redis.from_url(url)) as client:
        return {key.decode(): client.ttl(key) for key in client.scan_iter("cache:*")}


@pytest.fixture
def lead(database_url: str, demo: str) -> str:
    lead = add_lead(database_url, name="Ann")
    add_message(database_url, lead)
    add_missed(database_url, lead)
    add_task(database_url, lead_id=lead)
    return lead


@pytest.mark.parametrize("name", LISTS)
async def test_the_second_time_a_page_comes_from_redis(app, base, make_token, lead, name):
    path = LISTS[name].format(lead)
    _, first, page = await get(base, path, make_token())
    _, again, same = await get(base, f"{path}?limit=50", make_token(user="bob"))
    assert (same, again["ETag"], page["items"] != []) == (page, first["ETag"], True)
    assert (counts(app, name), reads(app, name)) == ({"miss": 1, "hit": 1}, 1)
    assert (await get(base, f"{path}?limit=51", make_token()))[2] == page
    assert reads(app, name) == 2, "another page"


@pytest.mark.parametrize("name", LISTS)
async def test_who_has_a_page_is_told_so_without_reading(app, base, make_token, lead, database_url, name):
    path = LISTS[name].format(lead)
    _, headers, _ = await get(base, path, make_token())
    before = (counts(app, name), reads(app, name))
    status, again, body = await get(base, path, make_token(), **{"If-None-Match": headers["ETag"]})
    assert (status, again["ETag"], body) == (304, headers["ETag"], None)
    assert headers["ETag"].startswith('W/"')
    assert (counts(app, name), reads(app, name)) == before
    add_call(database_url, lead_id=lead)
    add_message(database_url, lead)
    add_missed(database_url, lead)
    add_task(database_url, lead_id=lead)
    change(database_url, "leads", lead, "name", "Anna")
    status, changed, _ = await get(base, path, make_token(), **{"If-None-Match": headers["ETag"]})
    assert (status, changed["ETag"] != headers["ETag"]) == (200, True)


WRITES = {
    "calls": lambda url, lead: add_call(url, lead_id=lead),
    "leads": lambda url, lead: change(url, "leads", lead, "name", "Anna"),
    "messages": add_message,
    "tasks": lambda url, lead: add_task(url, lead_id=lead),
}


@pytest.mark.parametrize("noun", WRITES)
async def test_a_change_is_seen_at_once_and_leaves_other_lists_alone(app, base, make_token, lead, database_url, noun):
    pages = {name: (await get(base, path.format(lead), make_token()))[2] for name, path in LISTS.items()}
    WRITES[noun](database_url, lead)
    touched = {noun} | ({"timeline"} if noun != "leads" else set())
    for name, path in LISTS.items():
        page = (await get(base, path.format(lead), make_token()))[2]
        assert (page != pages[name]) == (name in touched), name
        assert reads(app, name) == (2 if name in touched else 1), name


async def test_a_webhook_is_in_the_next_answer(base, make_token, demo):
    for number in range(9300, 9310):
        path = ("/api/calls", "/api/leads", "/api/missed-calls")[number % 3]
        await get(base, path, make_token())
        fields = {"customer_phone_number": f"+140455512{number % 100:02}"}
        assert (await deliver(base, "call-complete", report("call-complete", number, **fields)))[0] == 200
        _, _, page = await get(base, path, make_token())
        assert len(page["items"]) == number - 9299


async def test_nobody_is_shown_less_than_was_committed_before_they_asked(config, make_token, database_url, demo):
    """Two processes, writers and readers at once: what is committed when a request begins is in its answer."""
    lead, committed, token = add_lead(database_url), set[str](), make_token()
    done = asyncio.Event()

    async def write(minute: int) -> None:
        for n in range(15):
            made = await asyncio.to_thread(add_call, database_url, lead_id=lead, started_at=minutes(minute + n))
            committed.add(made)

    async def read(base: str, path: str, tag: str = "") -> int:
        rounds, shown = 0, set[str]()
        while not done.is_set() or rounds < 2:
            floor = set(committed)
            status, headers, page = await get(base, path, token, **({"If-None-Match": tag} if tag else {}))
            if status == 200:
                shown, tag = {item.get("item", item)["id"] for item in page["items"]}, headers["ETag"]
            assert floor <= shown, f"{path}: {len(floor - shown)} are missing, status {status}"
            rounds += 1
        return rounds

    async with process(config) as (one, first), process(config) as (two, second):
        paths = (
            f"/api/leads/{lead}/timeline?limit=200",
            "/api/calls?limit=200",
            f"/api/calls?lead_id={lead}&limit=200",
        )
        readers = [asyncio.create_task(read(base, path)) for base in (one, two) for path in paths]
        await asyncio.gather(*(write(100 * n) for n in range(3)))
        done.set()
        assert all(await asyncio.gather(*readers))
        total = [counts(each, name) for each in (first, second) for name in ("calls", "timeline")]
    assert len(committed) == 45
    assert all(each.get("miss") for each in total)


async def test_a_crowd_that_asks_for_the_same_is_one_reading(app, base, make_token, lead):
    answers = await asyncio.gather(*(get(base, "/api/calls", make_token()) for _ in range(40)))
    assert len({str(page) for _, _, page in answers}) == 1
    assert reads(app, "calls") < 10, "some had come before the first was known"


async def test_tenants_at_the_same_number_share_nothing(base, make_token, database_url, lead, db):
    await add_tenant(db, "other", company="77", number="+12125550188")
    theirs = add_call(database_url, "other")
    execute(database_url, "update heads set epoch = 7, seq = 9, calls_seq = 9")
    _, mine, page = await get(base, "/api/calls", make_token())
    assert theirs not in str(page)
    status, headers, page = await get(base, "/api/calls", make_token("other"), **{"If-None-Match": mine["ETag"]})
    assert (status, [item["id"] for item in page["items"]]) == (200, [theirs])
    assert headers["ETag"] != mine["ETag"]
    assert headers["Vary"] == "Authorization"


@pytest.mark.parametrize("names", [("a", "a:calls"), ("a:calls:1.1", "a"), ("*", "a")])
async def test_no_name_of_a_tenant_reaches_anothers_pages(base, make_token, names):
    answers = [await get(base, "/api/calls", make_token(name)) for name in names]
    assert len({headers["ETag"] for _, headers, _ in answers}) == 2


# Redis


def own_redis(tmp_path) -> Iterator[embedded.RedisServer]:
    with embedded.redis(tmp_path) as server:
        try:
            yield server
        finally:
            with suppress(embedded.EmbeddedServerError):
                os.kill(server.pid, signal.SIGCONT)


store = pytest.fixture(own_redis)


async def test_without_redis_all_comes_from_postgres(database_url, make_token, lead):
    async with process(make_config(database_url, "redis://127.0.0.1:1")) as (base, app):
        for _ in range(3):
            assert len((await get(base, "/api/calls", make_token()))[2]["items"]) == 1
        assert counts(app, "calls") == {"bypass": 3}
        _, headers, _ = await get(base, "/api/calls", make_token())
        assert (await get(base, "/api/calls", make_token(), **{"If-None-Match": headers["ETag"]}))[0] == 304


async def test_a_redis_that_stalls_and_comes_back(database_url, make_token, lead, store, monkeypatch, caplog):
    monkeypatch.setattr(module, "SLICE", 0.02)
    monkeypatch.setattr(module, "RETRY_EVERY", 0.2)
    async with process(make_config(database_url, store.url)) as (base, app):
        await eventually(lambda: _hit(base, make_token, app))
        os.kill(store.pid, signal.SIGSTOP)
        answers = await asyncio.gather(*(get(base, "/api/calls", make_token()) for _ in range(20)))
        assert all(status == 200 for status, _, _ in answers)
        assert counts(app, "calls")["bypass"] >= 20
        os.kill(store.pid, signal.SIGCONT)
        hits = counts(app, "calls")["hit"]
        await eventually(lambda: _hit(base, make_token, app, hits))
    told = [record.message for record in caplog.records if record.name == "ottoai.cache"]
    assert told[0] == "Redis does not answer; lists are read from PostgreSQL"
    assert told[-1] == "Redis answers; lists are cached"


async def _hit(base: str, make_token: Any, app: Any, before: float = 0) -> bool:
    assert (await get(base, "/api/calls", make_token()))[0] == 200
    return counts(app, "calls").get("hit", 0) > before


async def test_an_emptied_redis_is_filled_again(app, base, make_token, lead, redis_url):
    for _ in range(2):
        await get(base, "/api/calls", make_token())
    await until(lambda: kept(redis_url))
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.flushall()
    for _ in range(2):
        assert len((await get(base, "/api/calls", make_token()))[2]["items"]) == 1
    assert counts(app, "calls") == {"miss": 2, "hit": 2}


async def test_entries_run_out(base, make_token, lead, redis_url):
    for path in LISTS.values():
        await get(base, path.format(lead), make_token())
    await until(lambda: len(kept(redis_url)) == len(LISTS))
    assert all(0 < seconds <= 60 for seconds in kept(redis_url).values())


async def test_nothing_is_kept_when_told_so(database_url, redis_url, make_token, lead):
    async with process(make_config(database_url, redis_url, CACHE_SECONDS="0")) as (base, app):
        for _ in range(2):
            assert (await get(base, "/api/calls", make_token()))[0] == 200
        assert (counts(app, "calls"), kept(redis_url)) == ({"bypass": 2}, {})


async def test_what_is_too_large_is_not_kept(app, base, make_token, lead, redis_url, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 10)
    for _ in range(2):
        assert (await get(base, "/api/calls", make_token()))[0] == 200
    assert (counts(app, "calls"), kept(redis_url)) == ({"miss": 2}, {})


async def test_a_full_redis_forgets_pages_and_no_job(database_url, make_token, lead, store):
    with closing(redis.Redis.from_url(store.url)) as client:
        client.set("rq:job:kept", "x" * 1000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 3 * 2**20)
        for n in range(3000):
            client.set(f"cache:demo:calls:1.{n}:x", "x" * 10_000, ex=60)
        assert len(list(client.scan_iter("cache:*"))) < 1000
        assert client.exists("rq:job:kept")
        async with process(make_config(database_url, store.url)) as (base, app):
            for _ in range(3):
                assert (await get(base, "/api/calls", make_token()))[0] == 200
            assert counts(app, "calls") == {"miss": 1, "hit": 2}


async def test_a_redis_that_takes_no_writes_is_read_all_the_same(app, base, make_token, lead, redis_url):
    await get(base, "/api/calls", make_token())
    await until(lambda: kept(redis_url))
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            for path in ("/api/calls", "/api/leads", "/api/calls"):
                assert (await get(base, path, make_token()))[0] == 200
        finally:
            client.config_set("maxmemory", "256mb")
            client.config_set("maxmemory-policy", "volatile-lru")
    assert counts(app, "calls") == {"miss": 1, "hit": 2}


# The numbers


async def test_all_who_ask_at_once_share_one_look_at_the_heads(app, api, lead, database_url):
    cache = app[keys.CACHE]
    await asyncio.gather(*(cache.version("demo", name) for name in LISTS for _ in range(50)))
    series = app[keys.METRICS].db_query_duration_seconds._series[("noun_heads",)]
    assert sum(series[:-1]) == 1
    [(epoch, seq)] = execute(database_url, "select epoch, tasks_seq from heads")
    assert await cache.version("demo", "tasks") == f"{epoch}.{seq}"
    assert await cache.version("ghost", "tasks") == "0.0"
    [(most,)] = execute(
        database_url, "select greatest(calls_seq, messages_seq, tasks_seq, missed_calls_seq) from heads"
    )
    assert await cache.version("demo", "timeline") == f"{epoch}.{most}"


async def test_a_new_epoch_is_a_new_page(app, base, make_token, lead, database_url):
    _, before, _ = await get(base, "/api/leads", make_token())
    of_tenant(database_url, "update leads set name = 'erased'")
    execute(database_url, "update heads set epoch = epoch + 1")
    _, after, page = await get(base, "/api/leads", make_token(), **{"If-None-Match": before["ETag"]})
    assert page["items"][0]["name"] == "erased"
    assert after["ETag"] != before["ETag"]
