"""The connections of db.py, where aiopg needs help."""

import asyncio
import gc
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ottoai.db import Pool, open_pool
from ottoai.domain import events, tenants
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from tests.background import blocked, eventually, locked
from tests.conftest import make_config
from tests.isolation.recording import recorded

NOBODY = "postgresql://u@127.0.0.1:9/d"


async def _take_over(number: int) -> socket.socket:
    """Wait until this descriptor was opened and closed, be the next who gets the number, and have the loop watch it."""
    seen = False
    while True:
        try:
            os.fstat(number)
            seen = True
        except OSError:
            if seen:
                taken = socket.socket()
                assert taken.fileno() == number
                asyncio.get_running_loop().add_reader(taken, print)
                return taken
        await asyncio.sleep(0)


async def test_a_failed_connection_leaves_other_peoples_descriptors_alone():
    """Whoever opens something right after libpq lost its link gets the number of its descriptor."""
    pool = Pool(NOBODY, "r", 1, Metrics("test"))
    for _ in range(5):
        number = os.dup(0)
        os.close(number)
        taking = asyncio.create_task(_take_over(number))
        with pytest.raises(StoreUnavailable):
            async with pool.connection():
                pass
        with await asyncio.wait_for(taking, 5) as taken:
            assert asyncio.get_running_loop().remove_reader(taken), "somebody took it off the loop"


def _descriptors() -> set[Path]:
    gc.collect()  # what earlier tests left open is not to be closed in between
    return set(Path("/proc/self/fd").iterdir())


async def test_a_failed_connection_leaves_no_descriptor():
    before = _descriptors()
    pool = Pool(NOBODY, "r", 1, Metrics("test"))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            async with pool.connection():
                pass
    assert _descriptors() == before


async def test_a_slow_query_is_told_by_its_name_and_counted(database_url, redis_url):
    """Its parameters are told nowhere: they are a tenant's."""
    metrics = Metrics("test")
    async with open_pool(make_config(database_url, redis_url, SLOW_QUERY_MS="1000"), metrics) as db:
        with recorded() as lines:
            assert not await tenants.exists(db.system(), "quick")
            with locked(database_url, "tenants"):
                waiting = asyncio.create_task(tenants.exists(db.system(), "secret-tenant"))
                await eventually(lambda: blocked(database_url))
                await asyncio.sleep(1.0)
            assert not await waiting
    (line,) = [line for line in lines if line["message"] == "Slow query"]
    assert (line["level"], line["query"], line["role"]) == ("WARNING", "by_id", "ottoai_system")
    assert 1000 < line["duration_ms"] < 30_000
    assert "secret-tenant" not in str(line)
    assert "db_slow_queries_total 1" in metrics.render().replace("{}", "")


async def test_what_is_first_asked_is_planned_before_and_once(database_url, redis_url):
    """On every connection, also on one that a loop of the process has used by then."""
    planned = "select count(*) from pg_prepared_statements where name = 'heads' and generic_plans > 0"
    async with open_pool(make_config(database_url, redis_url), Metrics("test")) as db:
        await events.heads(db.system(), [])
        await db.warm()
        system = db.pools[1]
        assert system.idle == system.size
        async with AsyncExitStack() as held:
            for _ in range(system.size):
                connection = await held.enter_async_context(system.connection())
                async with connection.cursor() as cursor:
                    await cursor.execute(planned)
                    assert await cursor.fetchone() == (1,)
        assert await events.heads(db.system(), []) == {}
