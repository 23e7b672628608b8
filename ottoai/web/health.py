"""Is it alive, is it ready: checks shared by everybody who asks within a second."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Final

import msgspec
import redis.asyncio

from ottoai import tally
from ottoai.db import Database, migrations, queries
from ottoai.metrics import Metrics

log = logging.getLogger(__name__)

LIMIT: Final = 1.0  # seconds for each check
SHARED: Final = 1.0  # seconds that a result serves others too
GATES: Final = ("database", "redis", "migrations")


class Readiness(msgspec.Struct, frozen=True):
    """The body of /ready."""

    ready: bool
    database: bool
    redis: bool
    components: dict[str, bool]
    duration_ms: float
    timestamp: datetime


class Health:
    """The state of what this process depends on. `draining` is set when it is about to stop."""

    def __init__(self, db: Database, client: redis.asyncio.Redis, metrics: Metrics) -> None:
        self.draining = False
        self._db = db
        self._redis = client
        self._metrics = metrics
        self._checking: asyncio.Task[Readiness] | None = None
        self._until = 0.0
        self._was: dict[str, bool] = {}

    async def readiness(self) -> Readiness:
        """The result of checks at most a second old, run once however many ask."""
        if self._checking is None or (self._checking.done() and time.monotonic() > self._until):
            self._checking = asyncio.create_task(self._check())
        return await asyncio.shield(self._checking)

    async def _check(self) -> Readiness:
        started = time.perf_counter()
        database, applied, (reachable, processes) = await asyncio.gather(
            self._guarded("database", self._database()),
            self._guarded("migrations", self._migrations()),
            self._processes(),
        )
        components = {
            "database": database,
            "redis": reachable,
            "worker": "worker" in processes,
            "beat": "beat" in processes,
            "migrations": applied,
        }
        # Of worker and beat nothing is known while Redis is away, of migrations while PostgreSQL is.
        hidden = (set() if reachable else {"worker", "beat"}) | (set() if database else {"migrations"})
        told = [name for name in components if name not in hidden]
        self._metrics.ready.replace(({"component": name}, int(components[name])) for name in told)
        for name, well in components.items():
            before = self._was.get(name, True)
            if well and not before:
                log.info("Component %s is well", name, extra={"component": name})
            elif before and not well:
                log.warning("Component %s is unwell", name, extra={"component": name})
        self._was = components
        self._until = time.monotonic() + SHARED
        return Readiness(
            ready=all(components[name] for name in GATES) and not self.draining,
            database=components["database"],
            redis=components["redis"],
            components=components,
            duration_ms=round((time.perf_counter() - started) * 1000, 2),
            timestamp=datetime.now(UTC),
        )

    async def _database(self) -> bool:
        return await queries().roles.ping(self._db.system()) is not None

    async def _migrations(self) -> bool:
        applied = {row["name"] async for row in queries().roles.applied_migrations(self._db.system())}
        return applied.issuperset(migrations())

    async def _processes(self) -> tuple[bool, set[str]]:
        """(whether Redis answers, kinds of the processes that were heard lately)."""
        if not await self._guarded("redis", self._redis.ping()):
            return False, set()
        heard: set[str] = set()

        async def hear() -> bool:
            now = datetime.now(UTC)
            heard.update(found.kind for found in await tally.read(self._redis) if tally.alive(found, now))
            return True

        return await self._guarded("redis", hear()), heard

    async def _guarded(self, name: str, check: Awaitable[bool]) -> bool:
        try:
            async with asyncio.timeout(LIMIT):
                return bool(await check)
        except Exception as error:  # noqa: BLE001 - the edge of a check: whatever it met, the component is not well
            if self._was.get(name, True):
                log.warning("Check failed", extra={"component": name, "error": error})
            return False
