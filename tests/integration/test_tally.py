"""Heartbeats through a real Redis: written at once, at the end, and again after Redis was away."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio

from ottoai import tally
from ottoai.metrics import Metrics
from ottoai.tally import Reporter, Snapshot


@pytest.fixture
async def client(redis_url) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as connected:
        await connected.delete("tally:processes")
        yield connected


def reporter(url: str, name: str, kind: tally.Kind = "worker") -> Reporter:
    return Reporter(url, kind, version="1.2.3", figures=Metrics(version="1.2.3").render, name=name)


async def snapshot_where(client: redis.asyncio.Redis, **wanted: object) -> Snapshot:
    async with asyncio.timeout(5):
        while True:
            for each in await tally.read(client):
                if all(getattr(each, field) == value for field, value in wanted.items()):
                    return each
            await asyncio.sleep(0.02)


async def test_nobody_is_no_error(client):
    assert await tally.read(client) == []


async def test_a_process_is_heard_from_start_to_end(redis_url, client):
    with reporter(redis_url, "worker-1") as mine:
        first = await snapshot_where(client, name="worker-1", state="running")
        assert tally.alive(first, datetime.now(UTC))
        assert (first.kind, first.version, first.host) == ("worker", "1.2.3", socket.gethostname())
        assert "ws_connections 0" in first.metrics_text

        mine.update(state="busy", queues=["default"], current_job="job-1")
        busy = await snapshot_where(client, state="busy", current_job="job-1")
        assert (busy.queues, busy.started_at) == (["default"], first.started_at)
        mine.update(current_job=None)
        await snapshot_where(client, state="busy", current_job=None)

    last = await snapshot_where(client, name="worker-1")
    assert last.state == "stopped"
    assert "ws_connections 0" in last.metrics_text
    assert not tally.alive(last, datetime.now(UTC))


async def test_the_newest_comes_first_and_beat_tells_its_tick(redis_url, client):
    worker, beat = reporter(redis_url, "worker-1"), reporter(redis_url, "beat-1", "beat")
    tick = datetime(2026, 11, 2, tzinfo=UTC)
    beat.update(ticked_at=tick)
    worker.run_once()
    beat.run_once()
    assert [(each.name, each.ticked_at) for each in await tally.read(client)] == [("beat-1", tick), ("worker-1", None)]


async def test_snapshots_end_by_themselves_and_unreadable_ones_are_left_out(redis_url, client):
    reporter(redis_url, "worker-1").run_once()
    assert 0 < await client.ttl("tally:process:worker-1") <= tally.KEEP_SECONDS
    assert 0 < await client.ttl("tally:processes") <= tally.KEEP_SECONDS
    await client.zadd("tally:processes", {"gone": time.time(), "odd": time.time(), "old": 1})
    await client.set("tally:process:odd", b"{")
    assert [each.name for each in await tally.read(client)] == ["worker-1"]
    reporter(redis_url, "worker-2").run_once()
    assert await client.zscore("tally:processes", "old") is None


def test_without_redis_it_says_so_once_and_nothing_raises(caplog):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        mine = reporter(f"redis://127.0.0.1:{taken.getsockname()[1]}", "worker-1")
        with caplog.at_level(logging.INFO, "ottoai.tally"):
            mine.run_once()
            mine.run_once()
            with mine:
                mine.update(state="busy")
    assert [record.message[:30] for record in caplog.records] == ["Heartbeat cannot be written: E"]


async def test_it_says_when_redis_is_back(redis_url, client, caplog, monkeypatch):
    mine = reporter(redis_url, "worker-1")
    with caplog.at_level(logging.INFO, "ottoai.tally"):
        with monkeypatch.context() as broken:
            broken.setattr(mine, "_figures", lambda: 1 / 0)
            mine.run_once()
        mine.run_once()
        mine.run_once()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert (await tally.read(client))[0].name == "worker-1"


def test_a_stalled_redis_does_not_hold_up_the_exit():
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mine = reporter(f"redis://127.0.0.1:{silent.getsockname()[1]}", "worker-1")
        started = time.monotonic()
        with mine:
            pass
        assert time.monotonic() - started < 20 * tally.TIMEOUT_SECONDS
    mine.close()


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_process_whose_clock_is_wrong_lives_and_lets_others_live(redis_url, client, monkeypatch, hours):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=hours)

        @classmethod
        def fromtimestamp(cls, timestamp, tz=None):
            return datetime.fromtimestamp(timestamp, tz)

    reporter(redis_url, "worker-right-1").run_once()
    with monkeypatch.context() as patched:
        patched.setattr(tally, "datetime", Wrong)
        wrong = reporter(redis_url, "worker-wrong-1")
        wrong.run_once()
        heard = {each.name: tally.alive(each, Wrong.now(UTC)) for each in await tally.read(client)}
        assert heard == {"worker-right-1": True, "worker-wrong-1": True}, "by the wrong clock"
    heard = {each.name: tally.alive(each, datetime.now(UTC)) for each in await tally.read(client)}
    assert heard == {"worker-right-1": True, "worker-wrong-1": True}, "by the right one"
