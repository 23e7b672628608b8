"""Figures that are looked up when somebody asks, at most once a second: pools, Redis, queues."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from ottoai import tally
from ottoai.db import Database
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Depth, Queues

log = logging.getLogger(__name__)

SHARED: Final = 1.0  # seconds
LAG_EVERY: Final = 0.1  # seconds between two looks at how late the loop is


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
                    await self._workers()
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

    async def depths(self) -> list[Depth] | None:
        """How full the queues are; None when Redis does not tell."""
        try:
            return await asyncio.to_thread(self._queues.depths)
        except StoreUnavailable:
            return None

    async def _depths(self) -> None:
        for depth in await self.depths() or []:
            self._metrics.rq_queue_length.set(depth.length, queue=depth.queue)
            self._metrics.rq_queue_oldest_job_age_seconds.set(depth.oldest_seconds, queue=depth.queue)
            for state, count in depth.jobs.items():
                self._metrics.rq_jobs.set(count, queue=depth.queue, state=state)

    async def _workers(self) -> None:
        now = datetime.now(UTC)
        workers = [found for found in await tally.read(self._redis) if found.kind == "worker"]
        heard = [({"worker": worker.name}, worker.at.timestamp()) for worker in workers]
        self._metrics.worker_last_heartbeat_timestamp_seconds.replace(heard)
        alive = [worker for worker in workers if tally.alive(worker, now)]
        busy = sum(worker.state == "busy" for worker in alive)
        self._metrics.rq_workers.set(busy, state="busy")
        self._metrics.rq_workers.set(len(alive) - busy, state="idle")

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop wakes."""
        while True:
            expected = time.perf_counter() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._metrics.event_loop_lag_seconds.observe(max(0.0, time.perf_counter() - expected))
