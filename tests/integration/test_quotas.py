"""Quotas of live connections: over all processes, through crashes, and while Redis is away or forgets."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReply

from ottoai.errors import OverQuota
from ottoai.realtime import quotas
from ottoai.realtime.quotas import Quotas, open_quotas
from ottoai.redis_pool import open_redis
from tests.background import eventually
from tests.conftest import make_config

ANN = ("demo", "ann")


@asynccontextmanager
async def process(url: str, *, lease: float = quotas.LEASE, **settings: str) -> AsyncIterator[Quotas]:
    """The quotas of one more API process."""
    config = make_config("postgresql://not.used/here", url, **settings)
    async with open_redis(config) as client, open_quotas(config, client, lease=lease) as opened:
        yield opened


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine Redis may answer late; what happens then has a test of its own."""
    monkeypatch.setattr(quotas, "PATIENCE", 20.0)


async def let_in(takes: Iterable[Awaitable[None]]) -> int:
    """How many of these get in; whoever does not is over quota."""
    results = await asyncio.gather(*takes, return_exceptions=True)
    assert {type(each) for each in results} <= {OverQuota, type(None)}, results
    return results.count(None)


async def fill(of: Quotas, who: tuple[str, str] = ANN) -> int:
    """Take until it is refused; how many that were."""
    taken = 0
    while await let_in([of.take(*who)]):
        taken += 1
    return taken


def at_once(coroutine: Awaitable[None]) -> None:
    """Run what must not wait for anything."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


# Counting


async def test_limits_are_exact_when_many_come_at_once(redis_url):
    async with process(redis_url) as one, process(redis_url) as two, process(redis_url) as three:
        all_three = (one, two, three)
        assert await let_in(all_three[n % 3].take(*ANN) for n in range(300)) == 20
        assert sum(each.count(*ANN) for each in all_three) == 20
        users = [f"user-{n % 150}" for n in range(300)]
        assert await let_in(all_three[n % 3].take("other", user) for n, user in enumerate(users)) == 300
    async with (
        process(redis_url, WS_CONNECTIONS_PER_TENANT="50") as one,
        process(redis_url, WS_CONNECTIONS_PER_TENANT="50") as two,
    ):
        assert await let_in((one, two)[n % 2].take("demo", f"user-{n}") for n in range(300)) == 50


@pytest.mark.parametrize("redis_is_up", [True, False])
async def test_who_is_refused_is_counted_nowhere_and_told_why(redis_url, redis_is_up):
    url = redis_url if redis_is_up else "redis://127.0.0.1:1"  # where nothing listens
    async with process(url, WS_CONNECTIONS_PER_USER="1", WS_CONNECTIONS_PER_TENANT="2") as one:
        await one.take("demo", "ann")
        assert one.up is redis_is_up
        with pytest.raises(OverQuota, match=r"At most 1 .*WS_CONNECTIONS_PER_USER") as refused:
            await one.take("demo", "ann")
        assert refused.value.retry_after == 15
        await one.take("demo", "ben")  # so the tenant was not charged for ann's second
        with pytest.raises(OverQuota, match=r"At most 2 .*WS_CONNECTIONS_PER_TENANT"):
            await one.take("demo", "cy")
        one.release("demo", "ben")
        await one.take("demo", "cy")  # nor was cy for the first attempt
        assert (one.count("demo"), one.count("demo", "cy"), one.count("demo", "ben")) == (2, 1, 0)


async def test_other_processes_do_not_see_who_was_refused(redis_url, store):
    async with process(redis_url, WS_CONNECTIONS_PER_USER="1", WS_CONNECTIONS_PER_TENANT="2") as one:
        assert await let_in(one.take("demo", user) for user in ["ann", "ann", "ben", "cy"]) == 2
        counts = [await store.hvals(quotas._count_of("demo", *user)) for user in [["ann"], ["ben"], ["cy"], []]]
        assert counts == [["1"], ["1"], [], ["2"]]


async def test_release_frees_for_other_processes(redis_url):
    async with process(redis_url) as one, process(redis_url) as two:
        assert await fill(one) == 20
        assert await fill(two) == 0
        for _ in range(5):
            one.release(*ANN)
        await one.renew()
        assert await fill(two) == 5
        one.release("nobody", "there")  # of something that was not taken: no matter
        assert one.count("nobody") == 0


async def test_releases_are_told_without_being_asked_for(redis_url, store):
    async with process(redis_url, lease=60) as one:
        await one.take(*ANN)
        assert len(await store.keys("{quota}:*")) == 3
        one.release(*ANN)

        async def told() -> bool:
            return len(await store.keys("{quota}:*")) == 1

        await eventually(told)


async def test_a_take_that_is_cancelled_is_not_counted(redis_url, store):
    async with process(redis_url) as one:
        for turns in range(60):  # before it is sent, under way, and when the answer is there but was not yet seen
            who = ("demo", f"user-{turns}")
            taking = asyncio.create_task(one.take(*who))
            for _ in range(turns):
                await asyncio.sleep(0)
            taking.cancel()
            if not (await asyncio.gather(taking, return_exceptions=True))[0]:
                one.release(*who)
        await one.renew()
        assert one.count("demo") == 0
        assert await store.keys("{quota}:*") == [one._name]


async def test_an_answer_that_comes_at_the_last_moment_holds(redis_url, monkeypatch):
    monkeypatch.setattr(quotas, "PATIENCE", 0.01)
    async with Redis.from_url(redis_url) as client:
        one = Quotas(client, 20, 2000, quotas.LEASE)
        one.up = True
        taking = asyncio.create_task(one.take(*ANN))
        await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - so that answer and timeout fall into the same turn of the loop
        asyncio.get_running_loop().call_soon(one._settle, one._waiting, [0, 0])
        await taking
        assert (one.count(*ANN), one.up) == (1, True)


async def test_connections_at_rest_cost_one_exchange_in_a_third_of_the_lease(redis_url, store):
    async with process(redis_url) as one:
        await let_in(one.take("demo", f"user-{n}") for n in range(500))
        await one.renew()
        await store.config_resetstat()
        await one.renew()
        told = await store.info("commandstats")
        assert told["cmdstat_evalsha"]["calls"] == told["cmdstat_set"]["calls"] == 1
        assert "cmdstat_hset" not in told
        await one.take(*ANN)
        await one.renew()
        assert (await store.info("commandstats"))["cmdstat_evalsha"]["calls"] == 3, "a take is one exchange"


# Whose is what

names = st.text(max_size=12) | st.text(st.characters(), max_size=8) | st.sampled_from([":", "a:b", "', '", "\ud800"])


@given(st.lists(st.tuples(names, names), min_size=2, max_size=6, unique=True))
@example([("a", "b:c"), ("a:b", "c")])
@example([("a", "', 'b"), ("a', '", "b")])
@example([("\ud800", "é"), ("?", "e\u0301")])
def test_no_two_users_and_no_two_tenants_share_a_count(pairs):
    users = {quotas._count_of(*pair) for pair in pairs}
    tenants = {quotas._count_of(tenant) for tenant, _ in pairs}
    assert len(users) == len(pairs)
    assert len(tenants) == len({tenant for tenant, _ in pairs})
    assert users.isdisjoint(tenants)


async def test_hostile_ids_have_counts_of_their_own(redis_url, store):
    ids = ["", "a", "a:b", "b", "{x}", "*", "\r\nFLUSHALL\r\n", "'", "\ud800", "Ω", "x" * 8192, "x" * 8193, "+1212555"]
    pairs = [(tenant, user) for tenant in ids for user in ids]
    async with (
        process(redis_url, WS_CONNECTIONS_PER_USER="1") as one,
        process(redis_url, WS_CONNECTIONS_PER_USER="1") as two,
    ):
        assert await let_in(one.take(*pair) for pair in pairs) == len(pairs)
        assert await let_in(two.take(*pair) for pair in pairs) == 0
        keys = await store.keys()
        assert max(map(len, keys)) < 60
        assert not [key for key in keys if "1212555" in key]


# Crashes and endings

CRASHER = """
import asyncio, sys
from tests.integration.test_quotas import ANN, fill, process
async def main():
    async with process(sys.argv[1], lease=2.0) as quotas:
        print(await fill(quotas), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_killed_process_counts_until_its_lease_ends(redis_url, store, repository):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHER, redis_url, cwd=repository, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await child.stdout.readline() == b"20\n"
        async with process(redis_url) as one:
            assert await fill(one) == 0
            child.kill()
            await child.wait()
            [lease] = set(await store.keys("{quota}:process:*")) - {one._name}
            assert 0 < await store.pttl(lease) <= 2000

            async def ended() -> bool:
                return not await store.exists(lease)

            await eventually(ended)
            assert await fill(one) == 20
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_a_lease_is_kept_while_the_process_lives(redis_url, store):
    async with process(redis_url, lease=6.0) as one, process(redis_url) as two:
        assert await fill(one) == 20
        seen = set()

        async def renewed() -> bool:
            seen.add(await store.get(one._name))  # each renewal has its number
            return len(seen) > 2

        await eventually(renewed)
        assert None not in seen
        assert await fill(two) == 0


async def test_what_a_crash_leaves_does_not_stay(redis_url, store, monkeypatch):
    monkeypatch.setattr(quotas, "KEEP", 100.0)
    async with process(redis_url) as one:
        await fill(one)
        for key in await store.keys("{quota}:*"):
            assert 0 < await store.ttl(key) <= (15 if "process" in key else 100)


async def test_nothing_is_left_after_a_clean_end(redis_url, store):
    async with process(redis_url) as one:
        for n in range(500):
            await one.take("demo", f"user-{n}")
        one.release("demo", "user-7")
    assert await store.keys() == []
    await one.take(*ANN)  # still answers whoever comes too late
    assert await store.keys() == []


# Redis away


async def test_without_redis_each_process_holds_to_the_limits(redis_url, redis_server):
    async with process(redis_url) as one, process(redis_url) as two:
        for _ in range(5):
            await one.take(*ANN)
        redis_server.stop()
        try:
            assert (await fill(one), await fill(two)) == (15, 20)
            assert not one.up
            one.release(*ANN)
            at_once(one.take(*ANN))
        finally:
            redis_server.start()

        async def both_up() -> bool:
            await one.renew()
            await two.renew()
            return one.up and two.up

        await eventually(both_up)
        for _ in range(20):
            two.release(*ANN)
        one.release(*ANN)
        await one.renew()
        await two.renew()
        assert await fill(two) == 1


async def test_a_crowd_that_waits_when_redis_goes_is_let_in_at_once(redis_url, monkeypatch):
    monkeypatch.setattr(quotas, "RETRY_EVERY", 60.0)
    async with process("redis://127.0.0.1:1") as one, asyncio.timeout(10):
        one.up = True
        taking = [asyncio.create_task(one.take("demo", f"user-{n}")) for n in range(500)]
        await asyncio.sleep(0)
        assert len(one._waiting) == 500 > quotas.BATCH
        await one.renew()
        await asyncio.gather(*taking)


async def test_a_process_starts_without_redis_and_finds_it_by_itself(redis_url, redis_server, monkeypatch):
    monkeypatch.setattr(quotas, "RETRY_EVERY", 0.05)
    redis_server.stop()
    started = False
    try:
        async with process(redis_url) as one:
            at_once(one.take(*ANN))
            redis_server.start()
            started = True
            await eventually(lambda: one.up)
            async with process(redis_url) as two:
                await one.renew()
                assert await fill(two) == 19
    finally:
        if not started:
            redis_server.start()


async def test_while_redis_hangs_only_the_first_connects_wait_and_not_for_long(redis_url, redis_server, monkeypatch):
    monkeypatch.setattr(quotas, "PATIENCE", 0.1)
    async with process(redis_url) as one, process(redis_url) as two:
        loop = asyncio.get_running_loop()
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            started = loop.time()
            assert await let_in(one.take(*ANN) for _ in range(10)) == 10
            assert loop.time() - started < 0.9, "less than redis-py's own time limit"
            assert not one.up
            for _ in range(10):
                at_once(one.take(*ANN))
            with pytest.raises(OverQuota):
                await one.take(*ANN)
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        monkeypatch.setattr(quotas, "PATIENCE", 20.0)
        async with asyncio.timeout(10):
            while not (one.up and two.up):
                await one.renew()
                await two.renew()
        assert await fill(two) == 0


# Redis forgets, or an answer is lost


async def test_a_flushed_redis_is_told_again(redis_url, store):
    async with process(redis_url) as one, process(redis_url) as two:
        assert await fill(one) == 20
        for n in range(300):
            await one.take("other", f"user-{n}")
        await store.flushall()
        await one.renew()
        assert await fill(two) == 0
        assert await store.hvals(quotas._count_of("other")) == ["300"]


async def test_a_redis_that_lost_its_last_writes_is_told_again(redis_url, store):
    """A replica that took over: it has a release not yet, and a take not at all."""
    async with process(redis_url) as one, process(redis_url) as two:
        await one.take("demo", "ben")
        for _ in range(3):
            one.release("demo", "ben")
        assert await fill(one) == 20
        name = one._name
        await store.delete(quotas._count_of(*ANN))
        await store.hset(quotas._count_of("demo", "ben"), name, 19)
        await store.set(name, 1)
        await one.renew()
        assert one._name != name
        assert await fill(two) == 0
        assert await fill(two, ("demo", "ben")) == 20


async def test_a_single_forgotten_count_is_told_again_in_time(redis_url, store):
    async with process(redis_url) as one, process(redis_url) as two:
        assert await fill(one) == 20
        await store.delete(quotas._count_of(*ANN))
        one._tell_all_at = 0.0
        await one.renew()
        assert await fill(two) == 0


def losing_replies(script: Callable[..., Awaitable[Any]], sent: list[Any]) -> Callable[..., Awaitable[Any]]:
    """A script that is run by Redis, but whose answer never comes."""

    async def lose(keys: list[str], args: list[int]) -> Any:
        sent.append((keys, args))
        await script(keys, args)
        raise NoReply

    return lose


async def test_what_came_of_a_lost_reply_is_put_right(redis_url):
    sent: list[Any] = []
    async with process(redis_url) as one, process(redis_url) as two:
        script = one._script
        one._script = losing_replies(script, sent)
        await one.take(*ANN)
        assert not one.up
        one.release(*ANN)
        one._script = script
        assert await fill(two) == 19, "Redis has counted it"
        await one.renew()
        assert await fill(two) == 1


async def test_a_command_that_was_held_up_does_not_undo_later_ones(redis_url):
    """A connection given up may still deliver what was sent over it."""
    sent: list[Any] = []
    async with process(redis_url) as one, process(redis_url) as two:
        script = one._script
        one._script = losing_replies(script, sent)
        for _ in range(2):
            one.up = True
            await asyncio.gather(one.take(*ANN), one.renew())
        one._script = script
        one.release(*ANN)
        one.release(*ANN)
        await one.renew()
        for keys, args in sent:
            with pytest.raises(ResponseError, match="LATE"):
                await script(keys, args)
        assert len(sent) >= 2
        assert all(before[1][0] < after[1][0] for before, after in pairwise(sent))
        assert await fill(two) == 20


@pytest.mark.parametrize("seed", range(5))
async def test_after_any_trouble_redis_has_the_true_counts(redis_url, store, monkeypatch, seed):
    monkeypatch.setattr(quotas, "RETRY_EVERY", 0.001)
    chance = random.Random(seed)
    settings = {"WS_CONNECTIONS_PER_USER": "8", "WS_CONNECTIONS_PER_TENANT": "15"}
    stayed: Counter[tuple[Any, ...]] = Counter()

    def troubled(script: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(keys: list[str], args: list[int]) -> Any:
            trouble = chance.random()
            if trouble < 0.02:
                await store.flushall()
            if trouble < 0.1:
                raise NoReply
            reply = await script(keys, args)
            if trouble < 0.2:
                raise NoReply
            return reply

        return run

    async def come_and_go(of: Quotas, *who: str) -> None:
        for _ in range(30):
            taking = asyncio.create_task(of.take(*who))
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                taking.cancel()
            [refused] = await asyncio.gather(taking, return_exceptions=True)
            if not refused:
                stayed[of, *who] += 1
                stayed[of, who[0]] += 1
            if not refused and chance.random() < 0.9:
                of.release(*who)
                stayed[of, *who] -= 1
                stayed[of, who[0]] -= 1

    async with process(redis_url, **settings) as one, process(redis_url, **settings) as two:
        for each in (one, two):
            each._script = troubled(each._script)
        users = [("demo", "ann"), ("demo", "ben"), ("other", "ann")]
        await asyncio.gather(*(come_and_go(each, *user) for each in (one, two) for user in users for _ in range(3)))
        for each in (one, two):
            each._script = each._client.register_script(quotas.EXCHANGE)
            await each.renew()  # a new name, if the last trouble was a flush
            await each.renew()
        for ids in [*users, ("demo",), ("other",)]:
            told = await store.hgetall(quotas._count_of(*ids))
            live = {name: int(count) for name, count in told.items() if await store.exists(name)}
            assert live == {each._name: stayed[each, *ids] for each in (one, two) if stayed[each, *ids]}
            assert all(each.count(*ids) <= (8 if len(ids) > 1 else 15) for each in (one, two))
