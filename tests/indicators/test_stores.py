"""PostgreSQL, Redis, and the machine: away, slow, full."""

import asyncio

import psutil
import pytest

from ottoai.indicators import VERDICTS
from ottoai.metrics import memory_limit
from tests.background import eventually
from tests.conftest import execute, make_config
from tests.watch import watching

SETTINGS = "/api/settings"
drives = pytest.mark.drives
configured = pytest.mark.configured


@drives("database", "critical")
@drives("ready", "critical")
async def test_postgres_is_away(watch, postgres_server):
    await watch.settled("database", "ready")
    postgres_server.stop()
    try:
        await watch.passes("database", "critical")
        await watch.passes("ready", "critical")
    finally:
        postgres_server.start()


@drives("redis", "critical")
@drives("redis_up", "warning", "critical")
async def test_redis_is_away(watch, redis_server):
    for _ in range(19):
        await watch.look(15)
    await watch.settled("redis", "redis_up")
    redis_server.stop()
    try:
        await watch.look(15)
        assert watch.reading("worker").verdict == "none", "unknown is not dead"
        assert watch.reading("queue_length").verdict == "none"
        await watch.agree_on("redis_up", "warning")
        await watch.passes("redis", "critical")
        await watch.passes("redis_up", "critical", step=60)
    finally:
        redis_server.start()


@drives("redis_up", "info")
async def test_redis_misses_a_check_now_and_then(watch, redis_client):
    for _ in range(120):
        await watch.look(5)
    await watch.settled("redis_up")

    async def missed():
        redis_client.execute_command("CLIENT", "PAUSE", 1500, "ALL")

    await missed()
    await watch.look(5)
    assert watch.reading("redis_up").verdict == "info"
    await watch.passes("redis_up", "info", missed)


@drives("migrations", "critical")
async def test_a_migration_is_missing(watch):
    await watch.settled("migrations")
    execute(watch.url, "reset role; delete from _yoyo_migration where migration_id = '0018_ops'")
    await watch.passes("migrations", "critical")


@drives("redis_ping", "warning", "critical")
@configured(ALERT_BOUNDS="redis_ping.critical=0.3")
async def test_redis_is_slow(watch, redis_client):
    await watch.settled("redis_ping")

    def paused(milliseconds):
        async def cause():
            redis_client.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")

        return cause

    async def keeps(level, milliseconds):
        async def slow():  # a busy machine may look when the pause is over
            await paused(milliseconds)()
            await watch.look()
            return VERDICTS.index(watch.reading("redis_ping").verdict) >= VERDICTS.index(level)

        for _ in range(4):
            await eventually(slow, 30)
            await watch.agree_on("redis_ping", level)

    await keeps("warning", 150)
    await keeps("critical", 600)


@drives("redis_memory", "warning", "critical")
async def test_redis_is_full(watch, redis_client):
    limit = redis_client.config_get("maxmemory")["maxmemory"]
    await watch.settled("redis_memory")
    redis_client.setrange("ballast", 16 * 2**20, "x")  # or buffers that shrink would be a good part of what is used
    used = redis_client.info("memory")["used_memory"]
    try:
        redis_client.config_set("maxmemory", int(used / 0.92))
        await watch.passes("redis_memory", "warning")
        redis_client.config_set("maxmemory", int(redis_client.info("memory")["used_memory"] / 0.99))
        await watch.passes("redis_memory", "critical")
    finally:
        redis_client.config_set("maxmemory", limit)
        redis_client.delete("ballast")


@drives("db_pool", "warning", "critical")
@drives("db_wait", "warning", "critical")
@drives("db_query", "warning", "critical")
@drives("db_slow", "info", "warning")
@configured(DB_POOL_SIZE="5")
async def test_queries_that_hang(watch, token, monkeypatch):
    monkeypatch.setattr("ottoai.db.ACQUIRE_TIMEOUT", 30.0)  # who is told 503 has waited for no connection
    await watch.ask(SETTINGS, 5, token)
    await watch.settled("db_pool", "db_wait", "db_query", "db_slow")

    def hang(seconds, times):
        async def cause():
            async with watch.held_up("tenants", SETTINGS, times, token):
                await asyncio.sleep(seconds)

        return cause

    await watch.passes("db_slow", "info", hang(0.4, 1))

    def often(seconds):
        async def cause():
            for _ in range(4):
                await hang(seconds, 5)()

        return cause

    await watch.passes("db_query", "warning", often(0.3))
    await watch.passes("db_slow", "warning", often(0.4))
    await watch.passes("db_wait", "warning", hang(0.5, 30))
    await watch.passes("db_query", "critical", often(1.2))
    await watch.passes("db_wait", "critical", hang(1.7, 60))
    for level, times in (("warning", 4), ("critical", 5)):
        for _ in range(6):
            async with watch.held_up("tenants", SETTINGS, times, token):
                await watch.look()
        await watch.agree_on("db_pool", level)


@drives("cache_hits", "warning")
async def test_pages_that_nobody_asks_for_twice(watch, token):
    for times in (1, 120):  # one reads the page, the others find it
        await watch.ask("/api/calls", times, token)
    await watch.settled("cache_hits")

    async def cause():
        for limit in range(1, 100):
            await watch.ask(f"/api/calls?limit={limit}&direction=inbound", 1, token)
        execute(watch.url, "update heads set calls_seq = calls_seq + 1")

    await watch.passes("cache_hits", "warning", cause)


@drives("cache_hits", "info")
async def test_pages_that_are_asked_for_four_times(watch, token):
    async def cause():
        execute(watch.url, "update heads set calls_seq = calls_seq + 1")
        for limit in range(1, 27):
            for _ in range(4):
                await watch.ask(f"/api/calls?limit={limit}", 1, token)

    await watch.settled("cache_hits")
    await watch.passes("cache_hits", "info", cause)
    assert watch.reading("cache_hits").verdict == "info"


@drives("memory", "info", "warning", "critical")
@drives("memory_api", "info")
async def test_memory(database_url, redis_url, demo):
    size, limit = psutil.Process().memory_info().rss, memory_limit()
    steps = [("info", 150), ("warning", 350), ("critical", 550)]  # megabytes
    bounds = [f"memory.{level}={(size + (more << 20)) / limit:.9f}" for level, more in steps]
    bounds.append(f"memory_api.info={size + (150 << 20)}")
    async with watching(make_config(database_url, redis_url, ALERT_BOUNDS=",".join(bounds))) as watch:
        await watch.settled("memory", "memory_api")
        held = []
        for level, _ in steps:
            held.append(bytes(200 << 20).replace(b"\0", b"x"))  # written to, or the kernel gives no page
            await watch.passes("memory", level)
        await watch.agree_on("memory_api", "info")


@drives("files", "info", "critical")
@configured(ALERT_BOUNDS="files.info=0.3,files.critical=0.5")
async def test_open_files(watch):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await watch.settled("files")
    opened = psutil.Process().num_fds()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(opened / 0.4), hard))
        await watch.passes("files", "info")
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(opened / 0.6), hard))
        await watch.passes("files", "critical")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
