"""Putting jobs into their queues: in one round trip, never in the way of whoever committed them."""

import asyncio
import socket
import time
from contextlib import closing

import pytest

from ottoai import queue
from ottoai.domain.outbox import Due
from ottoai.queue import Queues, Waker, open_waker
from tests.background import eventually, redis_of
from tests.conftest import make_config

NOWHERE = "redis://127.0.0.1:1/0"
JOBS = [Due(f"00000000-0000-0000-0000-{number:012}", queue.QUEUES[number % 2], "demo") for number in range(6)]


@pytest.fixture
def connection(config):
    with closing(redis_of(config)) as opened:
        yield opened


async def test_what_is_woken_is_enqueued_shortly_after(config, connection):
    async with open_waker(config) as waker:
        waker.wake(JOBS[:4])
        waker.wake(JOBS[4:])
        await eventually(lambda: Queues(connection).waiting() == {job.id for job in JOBS})
    job = connection.hgetall(f"rq:job:{JOBS[0].id}")
    assert job[b"description"] == f"urgent {JOBS[0].id}".encode()
    assert job[b"result_ttl"] == b"0"


async def test_what_was_woken_last_is_enqueued_before_the_waker_closes(config, connection):
    async with open_waker(config) as waker:
        waker.wake(JOBS)
    assert len(Queues(connection).waiting()) == len(JOBS)


async def test_without_redis_waking_neither_waits_nor_raises_nor_grows(database_url, monkeypatch):
    monkeypatch.setattr(queue, "WAKES", 10)
    silent = socket.create_server(("127.0.0.1", 0))  # whoever asks it waits for its answer
    url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
    with silent:
        async with open_waker(make_config(database_url, url)) as waker:
            started = time.monotonic()
            for _ in range(1000):
                waker.wake(JOBS)
            assert time.monotonic() - started < 5
    async with open_waker(make_config(database_url, NOWHERE)) as waker:
        for _ in range(1000):
            waker.wake(JOBS)
        assert len(waker._waiting) == 10
        await asyncio.sleep(0.1)
        waker.wake(JOBS)


async def test_a_lost_redis_is_said_once(database_url, caplog):
    caplog.set_level("INFO")
    with closing(redis_of(make_config(database_url, NOWHERE))) as nowhere:
        waker = Waker(Queues(nowhere))
        for _ in range(3):
            waker.wake(JOBS)
            await waker.run_once()
    assert [record.getMessage() for record in caplog.records] == ["Jobs cannot be enqueued; beat will"]


def test_a_queue_nobody_serves_is_not_used(connection):
    queues = Queues(connection)
    queues.enqueue([Due(JOBS[0].id, "of another version", "demo")])
    assert queues.waiting() == {JOBS[0].id}


def test_depths_tell_length_age_and_states(connection):
    queues = Queues(connection)
    assert [(depth.queue, depth.length, depth.oldest_seconds) for depth in queues.depths()] == [
        ("urgent", 0, 0),
        ("default", 0, 0),
        ("bulk", 0, 0),
    ]
    queues.enqueue([job for job in JOBS if job.queue == "urgent"])
    time.sleep(0.2)
    urgent, default, _ = queues.depths()
    assert (urgent.length, default.length) == (3, 0)
    assert 0.2 <= urgent.oldest_seconds < 2
    assert urgent.jobs == {"queued": 3, "started": 0, "scheduled": 0, "deferred": 0, "failed": 0, "finished": 0}
