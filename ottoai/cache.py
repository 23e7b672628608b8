"""The cache: pages of lists, kept in Redis under the number of the latest event that touched what they show.

The number is read from PostgreSQL for every request, after it came in, and is part of the entry's key. A commit that
changes what a page shows moves that number with it, so an entry is found only while it is true. Nothing is ever taken
out by hand; what is not asked for any more runs out. Without Redis all is read from PostgreSQL, and nobody waits.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

import redis.asyncio
from redis.exceptions import RedisError

from ottoai.background import end
from ottoai.db import Row, Session, queries
from ottoai.exchange import Exchange
from ottoai.metrics import Metrics

log = logging.getLogger(__name__)

Name = Literal["calls", "leads", "messages", "tasks", "missed_calls", "timeline"]  # of a list
Fill = Callable[[], Awaitable[bytes]]

# Whose latest events a list depends on, where it is more than its own noun's.
NOUNS: Final[dict[str, tuple[str, ...]]] = {"timeline": ("calls", "messages", "missed_calls", "tasks")}

TENANTS: Final = 500  # whose heads are read at once: a millisecond
BATCH: Final = 100  # entries in one exchange, some 25 KB each
LARGEST: Final = 256 * 1024  # bytes of an entry; the largest page of calls has about 100 KB
# As in `limits`: time is counted in slices, so that the loop's own lateness is not held against Redis.
SLICE: Final = 0.01  # seconds
SLICES: Final = 5  # that an answer may take: reading from PostgreSQL takes less
RETRY_EVERY: Final = 1.0  # seconds between two tries while Redis does not answer


class _Ask(NamedTuple):
    """An entry that is wanted, or to be kept."""

    key: str
    body: bytes | None = None


class _Away(Exception):
    """Redis does not answer in time."""


class Cache:
    """The cache as one process sees it."""

    def __init__(self, client: redis.asyncio.Redis, system: Session, metrics: Metrics, seconds: int) -> None:
        self._client = client
        self._system = system
        self._metrics = metrics
        self._seconds = seconds
        self._heads: Exchange[str, Row | None] = Exchange(self._read_heads, TENANTS)
        self._entries: Exchange[_Ask, bytes | None] = Exchange(self._ask, BATCH)
        self._filling: dict[str, asyncio.Task[bytes]] = {}
        self._retry_at: float | None = None  # None: Redis answers

    async def version(self, tenant_id: str, name: Name) -> str:
        """At which event the list stands, "epoch.seq". Raises StoreUnavailable."""
        head = await self._heads.ask(tenant_id)
        if head is None:
            return "0.0"  # no such tenant: it has no rows, and when it comes to be, it begins another epoch
        return f"{head['epoch']}.{max(head[f'{noun}_seq'] for noun in NOUNS.get(name, (name,)))}"

    async def page(self, tenant_id: str, name: Name, version: str, digest: str, fill: Fill) -> bytes:
        """The page with this digest at this version, out of Redis or as `fill` reads it. Raises what `fill` does."""
        key = f"cache:{tenant_id}:{name}:{version}:{digest}"
        found, result = await self._find(key)
        self._metrics.cache_requests_total.inc(cache=name, result=result)
        if found is not None:
            return found
        # Who asks for the same at the same version may share: what they know of was there before this reading began.
        task = self._filling.get(key)
        if task is None:
            task = self._filling[key] = asyncio.create_task(self._fill(key, fill, keep=result == "miss"))
            task.add_done_callback(lambda _: self._filling.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        await end(self._filling.values())
        await self._heads.close()
        await self._entries.close()

    async def _find(self, key: str) -> tuple[bytes | None, str]:
        if not self._usable():
            return None, "bypass"
        try:
            found = await self._entries.ask(_Ask(key))
        except _Away:
            return None, "bypass"
        return found, "miss" if found is None else "hit"

    async def _fill(self, key: str, fill: Fill, *, keep: bool) -> bytes:
        body = await fill()
        if keep and len(body) <= LARGEST:
            self._entries.ask(_Ask(key, body))
        return body

    def _usable(self) -> bool:
        """Whether to ask Redis. While it is away, one request a second tries."""
        if self._seconds == 0:
            return False
        if self._retry_at is None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + RETRY_EVERY
        return True

    async def _read_heads(self, tenants: Sequence[str]) -> list[Row | None]:
        rows = queries().events.noun_heads(self._system, tenants=list(set(tenants)))
        heads = {row["tenant_id"]: row async for row in rows}
        return [heads.get(tenant) for tenant in tenants]

    async def _ask(self, asked: Sequence[_Ask]) -> list[bytes | None]:
        """One round trip: keep what is to be kept, and look for what is wanted."""
        pipeline = self._client.pipeline(transaction=False)
        for each in asked:
            if each.body is not None:
                pipeline.set(each.key, each.body, ex=self._seconds)
        wanted = list(dict.fromkeys(each.key for each in asked if each.body is None))
        if wanted:
            pipeline.mget(wanted)
        reply = asyncio.ensure_future(pipeline.execute(raise_on_error=False))
        try:
            await self._in_time(reply)
            answers = reply.result()
            # That something could not be kept (a full store that evicts nothing) is no reason not to look.
            if wanted and isinstance(answers[-1], Exception):
                raise answers[-1]
        except (RedisError, OSError, TimeoutError) as error:
            self._report(error)
            raise _Away from error
        finally:
            await end([reply])
        self._report(None)
        found = dict(zip(wanted, answers[-1], strict=True)) if wanted else {}
        return [found.get(each.key) for each in asked]

    async def _in_time(self, reply: asyncio.Future[list[object]]) -> None:
        for _ in range(SLICES):
            await asyncio.wait([reply], timeout=SLICE)
            if reply.done():
                return
        raise TimeoutError(f"no answer within {SLICE * SLICES:g} s")

    def _report(self, error: Exception | None) -> None:
        if error and self._retry_at is None:
            log.warning("Redis does not answer; lists are read from PostgreSQL", extra={"error": error})
        elif self._retry_at is not None and not error:
            log.info("Redis answers; lists are cached")
        self._retry_at = time.monotonic() + RETRY_EVERY if error else None


async def forget(client: redis.asyncio.Redis, tenant_id: str) -> None:
    """Take all pages of a tenant out: what was erased is to be nowhere, though nobody would be shown it. Raises
    RedisError, OSError.
    """
    # The id as it is, not as a pattern.
    begins = "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in f"cache:{tenant_id}:")
    keys = [key async for key in client.scan_iter(match=f"{begins}*", count=1000)]
    for first in range(0, len(keys), 1000):
        await client.unlink(*keys[first : first + 1000])


@asynccontextmanager
async def open_cache(
    client: redis.asyncio.Redis, system: Session, metrics: Metrics, seconds: int
) -> AsyncIterator[Cache]:
    """A cache whose entries live for so long; 0: nothing is kept."""
    cache = Cache(client, system, metrics, seconds)
    try:
        yield cache
    finally:
        await cache.close()
