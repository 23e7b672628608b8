"""The rate limiter: how many requests users and tenants may make, counted over all API processes.

A request is held against its buckets (`gcra`) in one round trip to Redis, together with all others that are waiting, so
that a busy process asks no more often than an idle one. Nobody waits longer for that than PATIENCE. Once Redis has not
answered in time the breaker is open (`up` is false): the same algorithm decides in this process, which starts from what
Redis last said, and nobody waits at all until Redis has answered a probe in time.

Which request is held against what, and what a refusal looks like, is decided in `web.throttle`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import redis.asyncio
from redis.exceptions import RedisError

from ottoai import rates
from ottoai.background import end, running
from ottoai.config import Config
from ottoai.gcra import CLOCK, DECIDE, Bucket, Decision, Table, ask, bucket, decisions, now

log = logging.getLogger(__name__)

# Time is counted in slices, between which the event loop reads its sockets: that the loop itself is late, in a rush of
# requests, is not held against Redis, whose answer may have come long since.
SLICE: Final = 0.01  # seconds
SLICES: Final = 4  # that an answer may take
PATIENCE: Final = SLICE * (SLICES + 1)  # what asks while another exchange is on its way may wait a slice longer
RETRY_EVERY: Final = 1.0  # seconds between two probes while Redis does not answer
BATCH: Final = 200  # requests in one round trip: Redis serves nobody else while it decides them, some 2 µs each
BUCKETS: Final = 20_000  # that a process knows by itself, some 300 bytes each


class Allowances:
    """Which buckets a request is held against: its user's, or the route's own, and its tenant's."""

    def __init__(self, config: Config) -> None:
        self._own = {each.route: each.rate for each in config.rate_limit_routes}
        self._of_class = {
            "api": (config.rate_limit_user, config.rate_limit_tenant),
            "live": (config.rate_limit_live_user, config.rate_limit_live_tenant),
        }

    def of(self, route: str, tenant_id: str, user_id: str) -> tuple[Bucket, Bucket]:
        """The buckets of a user's request to a route, "GET /api/calls" for instance; any other counts as one of the
        class api.
        """
        kind = rates.ROUTES.get(route, "api")
        of_user, of_tenant = self._of_class[kind]
        whole = bucket("tenant", of_tenant, kind, tenant_id)
        if own := self._own.get(route):
            return bucket("route", own, route, tenant_id, user_id), whole
        return bucket("user", of_user, kind, tenant_id, user_id), whole


class _Asking(NamedTuple):
    buckets: Sequence[Bucket]
    answer: asyncio.Future[Decision]


class Limiter:
    """The limits as one process sees them."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.up = False  # whether Redis is believed to answer in time
        self._script = client.register_script(CLOCK + DECIDE)
        self._table = Table(BUCKETS)
        self._waiting: list[_Asking] = []
        self._waited = 0  # slices that the first of them has been waiting
        self._wake = asyncio.Event()
        self._warned = False

    async def charge(self, buckets: Sequence[Bucket]) -> Decision:
        """Take a request in if there is room for it in all of these. Never raises; waits PATIENCE at most."""
        if not self.up:
            return self._table.charge(buckets, now())
        asking = _Asking(buckets, asyncio.get_running_loop().create_future())
        self._waiting.append(asking)
        self._wake.set()
        return await asking.answer

    async def run(self) -> None:
        """Answer those who ask, for ever; probe while Redis does not answer."""
        try:
            while True:
                await (self._wake.wait() if self.up else asyncio.sleep(RETRY_EVERY))
                await self.exchange()
        finally:
            self._decide_here([])

    async def exchange(self) -> None:
        """One round trip for those who are waiting."""
        asking, budget = self._take()
        requests = [each.buckets for each in asking]
        reply = asyncio.create_task(self._script(*ask(requests)))
        answered = False
        try:
            if await self._in_time(reply, budget):
                self._answer(asking, decisions(requests, reply.result()))
                self.up = answered = True
                self._report(None)
            else:
                self._decide_here(asking)
                self._report(f"no answer within {SLICE * budget:g} s")
                await reply  # for as long as the client lets it: connecting may take longer than anybody would wait
        except (RedisError, OSError) as error:
            self._report(error)
        finally:
            if not answered:
                self._decide_here(asking)
            await end([reply])

    def _take(self) -> tuple[list[_Asking], int]:
        """Some of those who are waiting, and the slices that the first of them may still wait."""
        asking, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        budget = SLICES - self._waited
        if not self._waiting:
            self._waited = 0
            self._wake.clear()
        return asking, budget

    async def _in_time(self, reply: asyncio.Future[list[int]], budget: int) -> bool:
        for _ in range(budget):
            await asyncio.wait([reply], timeout=SLICE)
            if reply.done():
                return True
            self._waited += bool(self._waiting)
        return False

    def _answer(self, asking: Sequence[_Asking], found: Sequence[Decision]) -> None:
        at = now()
        for each, decision in zip(asking, found, strict=True):
            for standing in decision.standings:
                self._table.learn(standing, at)
            if not each.answer.done():  # else its client went away
                each.answer.set_result(decision)

    def _decide_here(self, asking: Sequence[_Asking]) -> None:
        """Open the breaker: these, and all who are waiting, are told what this process finds."""
        self.up = False
        at = now()
        for each in (*asking, *self._waiting):
            if not each.answer.done():
                each.answer.set_result(self._table.charge(each.buckets, at))
        self._waiting, self._waited = [], 0
        self._wake.clear()

    def _report(self, error: Exception | str | None) -> None:
        if error and not self._warned:
            log.warning("Redis does not answer; rate limits hold per process", extra={"error": error})
        elif self._warned and not error:
            log.info("Redis answers; rate limits hold over all processes")
        self._warned = error is not None


@asynccontextmanager
async def open_limiter(client: redis.asyncio.Redis) -> AsyncIterator[Limiter]:
    """A running limiter."""
    limiter = Limiter(client)
    await limiter.exchange()
    async with running(limiter.run):
        yield limiter
