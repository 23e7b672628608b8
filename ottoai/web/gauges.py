"""Figures that are looked up when somebody asks, at most once a second: pools, Redis, queues."""

import asyncio
import logging
import time
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from ottoai.db import Database
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Queues

log = logging.getLogger(__name__)

SHARED: Final = 1.0  # seconds
LAG_EVERY: Final = 0.5  # seconds between two looks at how late the loop is


class Gauges:
    """Refreshes what no event tells."""

    def __init__(self, metrics: Metrics, db: Database, client: redis.asyncio.Redis, queues: Queues) -> None:
        self._metrics = metrics
        self._db = db
        self._redis = client
        self._queues = queues
        self._lock = asyncio.Lock()
        self._until = 0.0

    async def refresh(self) -> None:
        """Bring the gauges up to date. With Redis away its figures stay as they were last seen."""
        async with self._lock:
            if time.monotonic() < self._until:
                return
            self._pools()
            try:
                async with asyncio.timeout(SHARED):
                    await self._memory()
                    await self._depths()
            except (RedisError, StoreUnavailable, OSError, TimeoutError) as error:
                log.warning("Figures of Redis not readable", extra={"error": repr(error)})
            self._until = time.monotonic() + SHARED

    def _pools(self) -> None:
        pools = self._db.pools
        self._metrics.db_pool_connections.set(sum(pool.in_use for pool in pools), state="used")
        self._metrics.db_pool_connections.set(sum(pool.idle for pool in pools), state="idle")
        self._metrics.db_pool_max_connections.set(sum(pool.size for pool in pools))

    async def _memory(self) -> None:
        started = time.perf_counter()
        info = await self._redis.info("memory")
        self._metrics.redis_ping_seconds.set(time.perf_counter() - started)
        self._metrics.redis_memory_used_bytes.set(info["used_memory"])
        self._metrics.redis_memory_max_bytes.set(info.get("maxmemory", 0))

    async def _depths(self) -> None:
        for depth in await asyncio.to_thread(self._queues.depths):
            self._metrics.rq_queue_length.set(depth.length, queue=depth.queue)
            self._metrics.rq_queue_oldest_job_age_seconds.set(depth.oldest_seconds, queue=depth.queue)
            for state, count in depth.jobs.items():
                self._metrics.rq_jobs.set(count, queue=depth.queue, state=state)

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop wakes."""
        while True:
            expected = time.perf_counter() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._metrics.event_loop_lag_seconds.observe(max(0.0, time.perf_counter() - expected))
