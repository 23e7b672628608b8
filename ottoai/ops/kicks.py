"""Ending a live connection wherever in the fleet it is: here at once, elsewhere through a set in Redis that every API
process looks at.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Literal

import redis.asyncio
from redis.exceptions import RedisError

from ottoai.realtime.connection import Closer, Connection
from ottoai.realtime.messages import CloseCode

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # seconds between looks at what others ask for
WAIT: Final = 3.0  # seconds until nobody has it: two looks, and Redis may be slow
POLL: Final = 0.1  # seconds between two looks at whether somebody had it
LIMIT: Final = 1.0  # seconds for one reply of Redis
KEPT: Final = 30  # seconds after which what nobody took back is forgotten

_KEY: Final = "ops:kicks"  # a set of connections' ids

Kicked = Literal["here", "elsewhere", "nowhere", "unheard"]


class Kicks:
    """One process's part. `connections`: those that are live here, by id."""

    def __init__(self, client: redis.asyncio.Redis, connections: Mapping[str, Connection], close: Closer) -> None:
        self._redis = client
        self._connections = connections
        self._close = close

    async def kick(self, connection_id: str) -> Kicked:
        """End a connection; where it was. Unheard: not here, and Redis is away, so that others cannot be asked."""
        if self._here(connection_id):
            return "here"
        try:
            async with asyncio.timeout(WAIT + LIMIT):
                return "elsewhere" if await self._asked(connection_id) else "nowhere"
        except (RedisError, OSError, TimeoutError):
            return "unheard"

    async def run(self) -> None:
        """End for ever what others ask for."""
        while True:
            with suppress(RedisError, OSError, TimeoutError):  # who asks learns of it
                await self.run_once()
            await asyncio.sleep(EVERY)

    async def run_once(self) -> None:
        """One look."""
        async with asyncio.timeout(LIMIT):
            for raw in await self._redis.smembers(_KEY):
                if self._here(raw.decode() if isinstance(raw, bytes) else raw):
                    await self._redis.srem(_KEY, raw)

    def _here(self, connection_id: str) -> bool:
        connection = self._connections.get(connection_id)
        if connection is None:
            return False
        self._close(connection, CloseCode.KICKED, "kicked")
        return True

    async def _asked(self, connection_id: str) -> bool:
        """Whether another process had it: it takes the id out of the set."""
        await self._redis.sadd(_KEY, connection_id)
        await self._redis.expire(_KEY, KEPT)
        until = asyncio.get_running_loop().time() + WAIT
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(POLL)
            if not await self._redis.sismember(_KEY, connection_id):
                return True
        return not await self._redis.srem(_KEY, connection_id)  # by now it may have been taken
