"""The rate limiter over several processes, and while Redis is stalled, away, empty or full."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import accumulate

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ottoai import embedded, limits
from ottoai.gcra import CLOCK, DECIDE, Bucket, Table, ask, bucket, decisions
from ottoai.limits import Limiter, open_limiter
from ottoai.rates import Rate
from ottoai.redis_pool import open_redis
from tests.background import eventually
from tests.conftest import make_config

HUNDRED = Rate(100, "day")  # so that none comes back while a test runs
PROMISE = 0.060  # seconds that no request waits for the limiter
SECOND = 1_000_000


@asynccontextmanager
async def process(url: str) -> AsyncIterator[Limiter]:
    """The limiter of one more API process."""
    config = make_config("postgresql://not.used/here", url)
    async with open_redis(config) as client, open_limiter(client) as limiter:
        yield limiter


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may answer late; what happens then has tests of its own."""
    monkeypatch.setattr(limits, "SLICE", 5.0)


@contextmanager
def own_redis(tmp_path) -> Iterator[embedded.RedisServer]:
    """One that may be stopped by signal."""
    with embedded.redis(tmp_path) as server:
        try:
            yield server
        finally:
            with suppress(embedded.EmbeddedServerError):
                os.kill(server.pid, signal.SIGCONT)


async def passed(*charges: tuple[Limiter, Sequence[Bucket]]) -> int:
    """How many of these are allowed, all asking at once."""
    found = await asyncio.gather(*(limiter.charge(buckets) for limiter, buckets in charges))
    return sum(each.allowed for each in found)


# Exact, whoever asks


@pytest.mark.usefixtures("patient")
async def test_exactly_a_hundred_of_three_hundred_pass(redis_url, store):
    async with process(redis_url) as one, process(redis_url) as two, process(redis_url) as three:
        for each in [(one,), (one, two), (one, two, three)]:
            buckets = [bucket("user", HUNDRED, str(len(each)))]
            assert await passed(*((each[n % len(each)], buckets) for n in range(300))) == 100
            assert await passed(*((limiter, buckets) for limiter in each)) == 0
        assert one.up
        assert two.up


@pytest.mark.usefixtures("patient")
async def test_all_are_charged_or_none_over_processes(redis_url):
    tenant = bucket("tenant", HUNDRED, "demo")
    users = [bucket("user", Rate(30, "day"), str(n)) for n in range(10)]
    async with process(redis_url) as one, process(redis_url) as two:
        charges = [((one, two)[n % 2], (users[n % 10], tenant)) for n in range(290)]
        assert await passed(*charges) == 100
        left = [(await one.charge([each])).standings[0].remaining + 1 for each in users]
        assert sum(30 - each for each in left) == 100, "who was refused for the tenant was not charged"


@pytest.mark.usefixtures("patient")
async def test_all_who_wait_go_in_one_round_trip(redis_url, store):
    async with process(redis_url) as one:
        await store.config_resetstat()
        charges = [(one, [bucket("user", HUNDRED, str(n)), bucket("tenant", HUNDRED, "demo")]) for n in range(150)]
        assert await passed(*charges) == 100
        told = await store.info("commandstats")
        assert told["cmdstat_evalsha"]["calls"] == 1


@pytest.mark.usefixtures("patient")
async def test_what_is_kept_is_small_nameless_on_one_node_and_ends(redis_url, store):
    hostile = ["+12125550123", "{x}", "\r\nFLUSHALL\r\n", "\ud800", "x" * 9000]
    async with process(redis_url) as one:
        for name in hostile:
            await one.charge([bucket("user", Rate(60, "hour"), "api", "demo", name)])
        keys = await store.keys()
        assert len(keys) == len(hostile)
        assert all(key.startswith("{limits}:user:60/hour:") and len(key) < 80 for key in keys)
        for key in keys:
            assert 0 < await store.pttl(key) <= 60_001, "it is gone once the bucket is empty"
            till, seen = (await store.get(key)).split()
            assert int(till) - int(seen) == 60 * SECOND
            assert abs(int(seen) / SECOND - time.time()) < 60, "it is Redis's time, written in full"


# Redis and this process decide alike


@st.composite
def histories(draw):
    """Some buckets, and who asks when; the clock may be set back."""
    buckets = [
        bucket("user", Rate(draw(st.integers(1, 20)), draw(st.sampled_from(["minute", "hour", "day"]))), str(n))
        for n in range(3)
    ]
    subsets = st.lists(st.sampled_from(buckets), min_size=1, max_size=3, unique=True)
    gaps = st.integers(0, 200 * SECOND) | st.integers(0, 2000) | st.integers(-20 * SECOND, 0)
    return draw(st.lists(st.tuples(gaps, st.lists(subsets, min_size=1, max_size=4)), max_size=30))


@given(histories())
@settings(max_examples=60)
def test_redis_and_this_process_decide_alike(redis_server, history):
    table = Table(100)
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
        script = client.register_script("local now = tonumber(table.remove(ARGV))\n" + DECIDE)
        times = accumulate((gap for gap, _ in history), initial=1_795_000_000_000_000)
        next(times)
        for at, (_, requests) in zip(times, history, strict=True):
            keys, words = ask(requests)
            assert decisions(requests, script(keys, [*words, at])) == [table.charge(each, at) for each in requests]


@pytest.mark.usefixtures("patient")
async def test_a_clock_set_back_neither_gives_nor_takes(redis_url, store):
    rate, ahead = Rate(10, "hour"), 3 * 3600 * SECOND
    async with process(redis_url) as one:
        asked = bucket("user", rate, "ann")
        for _ in range(4):
            await one.charge([asked])
        till, seen = (int(word) for word in (await store.get(asked.key)).split())
        await store.set(asked.key, f"{till + ahead} {seen + ahead}")  # as a clock wrote it that was 3 h ahead
        decision = await one.charge([asked])
        assert (decision.allowed, decision.standings[0].remaining) == (True, 5)
        assert [(await one.charge([asked])).allowed for _ in range(6)] == [True] * 5 + [False]


def test_the_clock_of_the_script_is_that_of_redis(redis_server):
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        found = client.eval(f"{CLOCK} return string.format('%.0f', now)", 0)
        assert abs(int(found) / SECOND - time.time()) < 60
    assert "TIME" in CLOCK


# Redis stalled, away, back


class Lag:
    """How late the event loop is: what is no fault of the limiter."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.monotonic() - before - 0.001)


@asynccontextmanager
async def traffic(limiter: Limiter, waits: list[float]) -> AsyncIterator[Lag]:
    """Thirty users who ask and ask; how long each request waited."""
    lag = Lag()

    async def user(name: str) -> None:
        while True:
            began = time.monotonic()
            await limiter.charge([bucket("user", HUNDRED, name), bucket("tenant", Rate(10**6, "second"), "demo")])
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(user(str(n))) for n in range(30)]
    tasks.append(asyncio.create_task(lag.watch()))
    try:
        yield lag
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_stalled_redis_holds_nobody_up_and_the_limits_hold(tmp_path, monkeypatch, caplog):
    assert limits.PATIENCE <= PROMISE
    monkeypatch.setattr(limits, "SLICE", 0.1)  # on a busy machine the real ones would be over before Redis stalls
    waits: list[float] = []
    with own_redis(tmp_path) as server, caplog.at_level(logging.INFO, "ottoai.limits"):
        async with process(server.url) as one:
            spent = bucket("user", HUNDRED, "early")
            assert await passed(*((one, [spent]) for _ in range(60))) == 60
            async with traffic(one, waits) as lag:
                await eventually(lambda: len(waits) > 300)
                os.kill(server.pid, signal.SIGSTOP)
                await eventually(lambda: not one.up)
                known = len(waits)
                await eventually(lambda: len(waits) > known + 1000)
                fresh = bucket("user", HUNDRED, "late")
                assert await passed(*((one, [fresh]) for _ in range(300))) == 100
                assert await passed(*((one, [spent]) for _ in range(300))) == 40, "it goes on from what Redis said"
                await asyncio.sleep(1.5)  # through a probe that is not answered
                assert not one.up
                os.kill(server.pid, signal.SIGCONT)
                await eventually(lambda: one.up)
                known = len(waits)
                await eventually(lambda: len(waits) > known + 300)
            assert max(waits) <= limits.SLICE * (limits.SLICES + 2) + lag.worst
            assert await passed(*((one, [spent]) for _ in range(100))) == 40, "and Redis from what it knew"
    said = [(record.levelname, record.message.split(";")[0]) for record in caplog.records]
    assert said == [("WARNING", "Redis does not answer"), ("INFO", "Redis answers")]


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_is_away_costs_nothing_and_may_come_back_empty(tmp_path):
    with own_redis(tmp_path) as server:
        async with process(server.url) as one, process(server.url) as two:
            server.stop()
            asked = [bucket("user", HUNDRED, "ann")]
            assert await passed(*((one, asked) for _ in range(300))) == 100
            assert not one.up
            assert await passed(*((one, asked) for _ in range(1000))) == 0
            with pytest.raises(StopIteration):  # nobody waits for what is known to be away
                one.charge(asked).send(None)
            assert await passed(*((two, asked) for _ in range(300))) == 100, "each process holds to the limits alone"
            server.start()
            await eventually(lambda: one.up and two.up)
            with closing(redis.Redis.from_url(server.url)) as client:
                client.flushall()
                client.script_flush()
            assert await passed(*(((one, two)[n % 2], asked) for n in range(300))) == 100


async def test_without_redis_from_the_start():
    async with process("redis://127.0.0.1:1") as one:
        assert not one.up
        assert await passed(*((one, [bucket("user", HUNDRED, "ann")]) for _ in range(300))) == 100


async def test_a_redis_that_takes_no_writes_is_as_one_that_is_away(redis_url, store):
    async with process(redis_url) as one:
        await store.config_set("maxmemory", 1)
        try:
            assert await passed(*((one, [bucket("user", HUNDRED, "ann")]) for _ in range(300))) == 100
            assert not one.up
        finally:
            await store.config_set("maxmemory", "256mb")


async def test_who_goes_away_while_waiting_troubles_nobody(redis_url, store):
    async with process(redis_url) as one:
        asked = [bucket("user", HUNDRED, "ann")]
        await store.client_pause(20)
        leaving = [asyncio.create_task(one.charge(asked)) for _ in range(5)]
        await asyncio.sleep(0)
        staying = asyncio.create_task(one.charge(asked))
        for task in leaving:
            task.cancel()
        assert (await staying).allowed
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*leaving, return_exceptions=True)
        )
        assert (await one.charge(asked)).allowed


async def test_at_the_end_who_waits_is_answered(redis_url, store):
    async with process(redis_url) as one:
        await store.client_pause(500)
        waiting = asyncio.create_task(one.charge([bucket("user", HUNDRED, "ann")]))
        await asyncio.sleep(0)
    assert (await waiting).allowed
    assert (await one.charge([bucket("user", HUNDRED, "ann")])).allowed, "and so is who comes too late"
    await store.client_unpause()


async def test_the_breaker_closes_only_when_redis_answers_in_time(redis_url, store, monkeypatch):
    monkeypatch.setattr(limits, "RETRY_EVERY", 0.05)
    async with process(redis_url) as one:
        began = time.monotonic()
        await store.client_pause(400, all=True)
        assert (await one.charge([bucket("user", HUNDRED, "ann")])).allowed
        assert not one.up
        await eventually(lambda: one.up)
        assert time.monotonic() - began >= 0.39
