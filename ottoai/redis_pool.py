"""The asyncio Redis client, with time limits that fit a store we can do without. RQ's own is in queue.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
