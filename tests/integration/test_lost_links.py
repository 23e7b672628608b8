"""A connection that was lost is no error of ours, whenever the garbage collector comes upon what is left of it."""

import asyncio
import gc
import logging

import pytest

from ottoai.redis_pool import open_redis

LOST = ConnectionResetError("Connection reset by peer")


def future(error: Exception) -> asyncio.Future[None]:
    """As asyncio's streams have one for their end."""
    made = asyncio.get_running_loop().create_future()
    made.set_exception(error)
    return made


def task(error: Exception) -> asyncio.Future[None]:
    async def fail() -> None:
        raise error

    return asyncio.create_task(fail())


@pytest.mark.parametrize(("make", "error", "told"), [
    (future, LOST, []), (future, ValueError(), ["asyncio"]), (task, LOST, ["asyncio"]),
])  # fmt: skip
async def test_what_nobody_handled_is_reported_but_for_lost_connections(config, caplog, make, error, told):
    async with open_redis(config):
        unseen = make(error)
        for _ in range(3):
            await asyncio.sleep(0)
        del unseen
        gc.collect()
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == told
