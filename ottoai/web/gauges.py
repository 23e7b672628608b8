"""Figures that are looked up when somebody asks, at most once a second: pools, Redis, queues."""

import asyncio
import heapq
import logging
import time
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from ottoai import tally
from ottoai.config import Config
from ottoai.db import Database
from ottoai.domain import hours
from ottoai.errors import StoreUnavailable
from ottoai.instruments import GaugeMetric
from ottoai.metrics import Metrics
from ottoai.queue import Depth, Queues
from ottoai.realtime.connection import LOW, Connection
from ottoai.realtime.hub import Hub

log = logging.getLogger(__name__)

SHARED: Final = 1.0  # seconds
LIMIT: Final = 1.0  # seconds for the PING, and as many for all else of Redis
CLIENTS: Final = 20  # connections that are told of one by one: the slowest, and the newest
LAG_EVERY: Final = 0.1  # seconds between two looks at how late the loop is


class Gauges:
    """Refreshes what no event tells."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        db: Database,
        client: redis.asyncio.Redis,
        hub: Hub,
        queues: Queues,
    ) -> None:
        self._business = hours.parse(config.business_hours, config.tenant_timezone)
        self._hub = hub
        self._metrics = metrics
        self._db = db
        self._redis = client
        self._queues = queues
        self.clients = tally.Clients()
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._readable = True

    async def refresh(self) -> None:
        """Bring the gauges up to date. With Redis away there are none of it."""
        async with self._lock:
            if time.monotonic() < self._until:
                return
            self._pools()
            self._sockets()
            now = datetime.now(UTC)
            self._metrics.business_open.set(int(hours.next_opening(now, self._business) == now))
            try:
                await self._ping()
                async with asyncio.timeout(LIMIT):
                    await self._memory()
                    await self._depths()
                    await self._workers()
                readable = True
            except (RedisError, StoreUnavailable, OSError, TimeoutError) as error:
                # Unknown is not what it was.
                for gauge in self._of_redis:
                    gauge.replace(())
                readable = False
                if self._readable:
                    log.warning("Figures of Redis not readable", extra={"error": error})
            self._readable = readable
            self._until = time.monotonic() + SHARED

    async def _ping(self) -> None:
        # Under a limit of its own: what else is read needs threads, and is no sign of Redis when it is late.
        m = self._metrics
        started = time.perf_counter()
        try:
            async with asyncio.timeout(LIMIT):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            m.redis_ping_seconds.replace(())
            m.redis_checks_total.inc(result="timeout" if isinstance(error, TimeoutError | RedisTimeout) else "error")
            raise
        m.redis_ping_seconds.set(time.perf_counter() - started)
        m.redis_checks_total.inc(result="ok")

    @property
    def _of_redis(self) -> tuple[GaugeMetric, ...]:
        m = self._metrics
        return (
            m.redis_memory_used_bytes, m.redis_memory_max_bytes, m.rq_queue_length, m.rq_queue_oldest_job_age_seconds,
            m.rq_jobs, m.rq_workers, m.worker_last_heartbeat_timestamp_seconds,
        )  # fmt: skip

    def _sockets(self) -> None:
        connections = self._hub.connections.values()
        unsent = [(connection.unsent, place, connection) for place, connection in enumerate(connections)]
        self._metrics.ws_send_queue_bytes.set(sum(size for size, _, _ in unsent))
        self._metrics.ws_slow_connections.set(sum(size > LOW for size, _, _ in unsent))
        self.clients = tally.Clients(
            open=len(unsent),
            slowest=[_client(connection) for size, _, connection in heapq.nlargest(CLIENTS, unsent) if size],
            newest=[_client(connection) for connection in islice(reversed(connections), CLIENTS)],
        )

    def _pools(self) -> None:
        for pool in self._db.pools:
            self._metrics.db_pool_connections.set(pool.in_use, pool=pool.role, state="used")
            self._metrics.db_pool_connections.set(pool.idle, pool=pool.role, state="idle")
            self._metrics.db_pool_max_connections.set(pool.size, pool=pool.role)

    async def _memory(self) -> None:
        info = await self._redis.info("memory")
        self._metrics.redis_memory_used_bytes.set(info["used_memory"])
        self._metrics.redis_memory_max_bytes.set(info.get("maxmemory", 0))

    async def depths(self) -> list[Depth] | None:
        """How full the queues are; None when Redis does not tell."""
        try:
            return await asyncio.to_thread(self._queues.depths)
        except StoreUnavailable:
            return None

    async def _depths(self) -> None:
        for depth in await asyncio.to_thread(self._queues.depths):
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


def _client(connection: Connection) -> tally.Client:
    return tally.Client(
        id=connection.id,
        tenant_id=connection.tenant_id,
        user_id=connection.user_id,
        seconds=time.monotonic() - connection.opened,
        unsent=connection.unsent,
    )
