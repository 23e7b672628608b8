"""The asyncio Redis client, with time limits that fit a store we can do without. RQ's own is in queue.py."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ottoai.config import Config

# redis-py's defaults, 10 retries of 5 s each, would hold callers for a minute; a retried write may run twice.
CONNECT_TIMEOUT = 0.5
SOCKET_TIMEOUT = 1.0


@asynccontextmanager
async def open_redis(config: Config) -> AsyncIterator[redis.asyncio.Redis]:
    """A client that fails within a second, never retries by itself, and connects on first use."""
    asyncio.get_running_loop().set_exception_handler(_report)
    client = redis.asyncio.Redis.from_url(
        config.redis_url,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        max_connections=64,
    )
    try:
        yield client
    finally:
        await client.aclose()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody handled, as asyncio does, but no lost connection: whoever used it has told of it. redis-py
    does not wait for its end; when the garbage collector comes upon the future of that before the stream, which would
    have kept it silent (`StreamReaderProtocol.__del__`), asyncio calls it an error.
    """
    future = context.get("future")
    lost = isinstance(context.get("exception"), OSError) and not isinstance(future, asyncio.Task)
    if future is None or not lost:
        loop.default_exception_handler(context)
