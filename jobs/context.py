"""What a job is given to work with, and how a job is declared. Not for the processes around it: see worker and beat."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis.asyncio

from jobs.carriers import Carriers
from jobs.leases import Leases
from jobs.twilio_http import open_http
from ottoai.background import running
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain.events import Appended
from ottoai.domain.outbox import Failure, Leased
from ottoai.metrics import Metrics
from ottoai.queue import Queues, Waker, client, open_waker
from ottoai.realtime.bus import Bus, open_bus
from ottoai.redis_pool import open_redis


@dataclass(frozen=True, slots=True)
class Context:
    """The open resources of one worker process."""

    config: Config
    db: Database
    redis: redis.asyncio.Redis
    bus: Bus
    queues: Queues
    waker: Waker
    carriers: Carriers
    metrics: Metrics
    leases: Leases
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def deadline(self) -> float:
        """Seconds that a run of a periodic job may take; what is left then is for the next."""
        return self.config.worker_lease_seconds * 0.8


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a staged job is begun, and the wait in between: from `first` seconds, doubling, to `longest`."""

    attempts: int
    first: float
    longest: float

    def backoff(self, attempt: int) -> timedelta:
        """The wait after this attempt (1 is the first), spread so that what failed together is not tried together."""
        wait = min(self.longest, self.first * 2 ** min(attempt - 1, 30))
        return timedelta(seconds=random.uniform(wait / 2, wait))  # noqa: S311 - spreads load, hides nothing


@dataclass(frozen=True, slots=True)
class Staged:
    """A job of the outbox. Its handler closes the outbox row in the transaction of its effect, and may be run again.
    `timeout`: seconds that an attempt may take. Its lease is renewed meanwhile, so this may be longer than a lease.
    `bury`: what giving it up means, where that is more than closing the row: it does both.
    """

    handler: Callable[[Context, Leased], Awaitable[None]]
    retry: Retry
    timeout: float = 30.0
    bury: Callable[[Context, Leased, Failure], Awaitable[Appended]] | None = None


# A periodic job: returns whether there is more to do, which is then done in a run of its own, right after.
Periodic = Callable[[Context], Awaitable[bool]]


@asynccontextmanager
async def open_context(config: Config, metrics: Metrics) -> AsyncIterator[Context]:
    """Everything a job needs, open. Connects to nothing yet."""
    connection = client(config)
    async with (
        open_pool(config, metrics) as db,
        open_redis(config) as store,
        open_bus(store, listen=False) as bus,
        open_http() as http,
        open_waker(config) as waker,
    ):
        leases = Leases(db, config.worker_lease_seconds)
        try:
            async with running(leases.keep):
                yield Context(
                    config, db, store, bus, Queues(connection), waker, Carriers(config, db, http), metrics, leases
                )
        finally:
            connection.close()
