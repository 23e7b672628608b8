"""Which API process speaks for all: tells of alerts, calls HEARTBEAT_URL, writes the history.

A lease decides, in PostgreSQL while that answers, else in Redis. With both away every process speaks for itself: being
told twice is better than not at all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final
from uuid import uuid4

import redis.asyncio
from redis.exceptions import RedisError

from ottoai.db import Session, queries
from ottoai.errors import OttoError, StoreUnavailable

log = logging.getLogger(__name__)

NAME: Final = "alerts"
KEY: Final = "ops:leader"
LEASE: Final = timedelta(seconds=15)  # three looks: one may be late, and nobody is without alerts for longer
# For each store and each look. A hanging one must not hold up the watch, which comes again in five seconds.
LIMIT: Final = 1.0

# Takes or renews; by one's own name only.
_TAKE: Final = """
if redis.call('set', KEYS[1], ARGV[1], 'nx', 'px', ARGV[2]) then return 1 end
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('pexpire', KEYS[1], ARGV[2])
return 1
"""
_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"


class Leader:
    """One process's part in it. `leading`: it speaks; `stored`: PostgreSQL answered at the last look."""

    def __init__(self, system: Session, client: redis.asyncio.Redis, process: str) -> None:
        self.holder = f"{process}-{uuid4().hex[:8]}"
        self.leading = False
        self.stored = False
        self._system = system
        self._redis = client

    async def look(self) -> None:
        """Take or renew the lease. To be called every few seconds."""
        held = await self._in_postgres()
        self.stored = held is not None
        if held is not False:
            held = await self._in_redis(held)
        leading = held is not False
        if leading != self.leading:
            log.info("Speaks for all" if leading else "Speaks no more", extra={"holder": self.holder})
        self.leading = leading

    async def release(self) -> None:
        """Give the lease up."""
        if not self.leading:
            return
        self.leading = False
        with suppress(OttoError, TimeoutError):
            async with asyncio.timeout(LIMIT):
                await queries().ops.release_lease(self._system, name=NAME, holder=self.holder)
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(LIMIT):
                await self._redis.eval(_RELEASE, 1, KEY, self.holder)

    async def _in_postgres(self) -> bool | None:
        try:
            async with asyncio.timeout(LIMIT):
                row = await queries().ops.take_lease(self._system, name=NAME, holder=self.holder, lease=LEASE)
        except (StoreUnavailable, TimeoutError):
            return None
        return row is not None

    async def _in_redis(self, held: bool | None) -> bool | None:
        """The same in Redis. Who has PostgreSQL's lease has that one too: so others that do not reach PostgreSQL see
        that somebody speaks.
        """
        milliseconds = int(LEASE.total_seconds() * 1000)
        try:
            async with asyncio.timeout(LIMIT):
                if held:
                    await self._redis.set(KEY, self.holder, px=milliseconds)
                    return True
                return bool(await self._redis.eval(_TAKE, 1, KEY, self.holder, milliseconds))
        except (RedisError, OSError, TimeoutError):
            return held


@asynccontextmanager
async def open_leader(system: Session, client: redis.asyncio.Redis, process: str) -> AsyncIterator[Leader]:
    """The part that a process has for as long as it runs."""
    leader = Leader(system, client, process)
    try:
        yield leader
    finally:
        await leader.release()
