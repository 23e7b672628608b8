"""How many connections a user and a tenant may have open, counted over all API processes.

Each process keeps its own counts and writes them to Redis as they are, never as steps: what was lost, repeated or late
is put right by the next writing. They count there while the process's lease lasts, which a crash cannot prolong, and
which one exchange every few seconds renews; a connection at rest costs nothing. Whoever asks to be let in goes with the
next exchange, as many as are waiting. While Redis does not answer, each process holds to the limits by itself.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import chain, islice
from typing import Final, NamedTuple
from uuid import uuid4

import redis.asyncio
from redis.exceptions import RedisError

from ottoai.background import running
from ottoai.config import Config
from ottoai.errors import OverQuota

log = logging.getLogger(__name__)

LEASE: Final = 15.0  # seconds that a process's counts outlive its last exchange; it has one at least every third of it
PATIENCE: Final = 0.1  # seconds that a connect waits for Redis; our own loop may be this late in a rush of connects
RETRY_EVERY: Final = 1.0
KEEP: Final = 3600.0  # seconds until a count that no living process cares for is gone; all are told again in a quarter
BATCH: Final = 200  # connects, and counts, in one exchange
GOODBYE: Final = 1.0  # seconds that a stopping process spends on giving its counts back

# KEYS: the process, whose existence is its lease, then the hashes of counts by process. ARGV: the number of this
# exchange and of the last one whose reply came, lease and keep in milliseconds, the limits of a user and of a tenant,
# this process's count for each hash; then for each connect the places in KEYS of its user's and its tenant's hash.
# Answers 1 and nothing is kept when Redis forgot this process; then for each connect 0 (let in) or the limit it hit.
EXCHANGE: Final = """
local me, lost = KEYS[1], 0
local last = tonumber(redis.call('GET', me) or 0)
if last >= tonumber(ARGV[1]) then return redis.error_reply('LATE a later exchange came first') end
if last < tonumber(ARGV[2]) then
  lost = 1
  redis.call('DEL', me)
else
  redis.call('SET', me, ARGV[1], 'PX', ARGV[3])
end

local own, others, alive = {}, {}, {}
for i = 2, #KEYS do own[i] = tonumber(ARGV[5 + i]) end

local function full(i, limit)
  if not others[i] then
    others[i] = 0
    local counts = redis.call('HGETALL', KEYS[i])
    for n = 1, #counts, 2 do
      local process = counts[n]
      if alive[process] == nil then alive[process] = redis.call('EXISTS', process) == 1 end
      if not alive[process] then
        redis.call('HDEL', KEYS[i], process)
      elseif process ~= me then
        others[i] = others[i] + tonumber(counts[n + 1])
      end
    end
  end
  return own[i] + others[i] >= limit
end

local answers = {lost}
for n = 6 + #KEYS, #ARGV, 2 do
  local user, tenant = tonumber(ARGV[n]), tonumber(ARGV[n + 1])
  if full(user, tonumber(ARGV[5])) then
    answers[#answers + 1] = 1
  elseif full(tenant, tonumber(ARGV[6])) then
    answers[#answers + 1] = 2
  else
    own[user], own[tenant] = own[user] + 1, own[tenant] + 1
    answers[#answers + 1] = 0
  end
end

if lost == 1 then return answers end
for i = 2, #KEYS do
  if own[i] > 0 then redis.call('HSET', KEYS[i], me, own[i]) else redis.call('HDEL', KEYS[i], me) end
  redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
return answers
"""


def _process() -> str:
    return "{quota}:process:" + uuid4().hex  # one hash tag for all: a cluster runs a script on one of its nodes


def _count_of(*ids: str) -> str:
    """The key of a tenant's count, or of a user's. A digest: ids may be long, hold anything, and be a phone number."""
    return f"{{quota}}:{'user' if len(ids) > 1 else 'tenant'}:{sha256(ascii(ids).encode()).hexdigest()[:32]}"


class _Asking(NamedTuple):
    counts: tuple[str, str]  # of the user, of the tenant
    answer: asyncio.Future[int]  # 0, or the limit that was hit: 1 the user's, 2 the tenant's


class Quotas:
    """The quotas as one API process sees them."""

    def __init__(self, client: redis.asyncio.Redis, per_user: int, per_tenant: int, lease: float) -> None:
        self.up = False  # whether Redis is believed to answer
        self._client = client
        self._script = client.register_script(EXCHANGE)
        self._limits = (per_user, per_tenant)
        self._lease = lease
        self._held: dict[str, int] = {}  # the true counts of this process
        self._untold: set[str] = set()  # those that Redis may have otherwise
        self._tell_all_at = time.monotonic() + KEEP / 4
        self._waiting: list[_Asking] = []
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._warned = False
        self._begin()

    def _begin(self) -> None:
        """Take a new name: what was written under another one no longer counts."""
        self._name = _process()
        self._number = self._heard = 0
        self._untold.update(self._held)

    def count(self, *ids: str) -> int:
        """How many this process holds of a tenant, or of a tenant's user."""
        return self._held.get(_count_of(*ids), 0)

    async def take(self, tenant_id: str, user_id: str) -> None:
        """Count one more connection. Raises OverQuota. Waits for Redis a moment at most."""
        counts = _count_of(tenant_id, user_id), _count_of(tenant_id)
        # What is too much for this process alone is too much for all: no need to ask.
        over = self._over(counts) or (await self._ask(counts) if self.up else self._decide(counts))
        if over:
            whose = ("", "user (WS_CONNECTIONS_PER_USER)", "tenant (WS_CONNECTIONS_PER_TENANT)")[over]
            detail = f"At most {self._limits[over - 1]} connections may be open per {whose}."
            # By then the connections of a process that crashed no longer count.
            raise OverQuota(detail, retry_after=math.ceil(self._lease))

    def release(self, tenant_id: str, user_id: str) -> None:
        """Count one connection less; never waits, never raises. Redis hears of it right afterwards."""
        self._add((_count_of(tenant_id, user_id), _count_of(tenant_id)), -1)

    async def _ask(self, counts: tuple[str, str]) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asking(counts, answer))
        self._wake.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            if not answer.cancelled():  # it came at the last moment
                return answer.result()
            self.up = False  # until an exchange succeeds nobody else waits
            return self._decide(counts)
        except asyncio.CancelledError:
            if not answer.cancelled() and not answer.result():
                self._add(counts, -1)
            raise

    def _over(self, counts: tuple[str, str]) -> int:
        held = zip(counts, self._limits, strict=True)
        return next((n for n, (count, limit) in enumerate(held, 1) if self._held.get(count, 0) >= limit), 0)

    def _decide(self, counts: tuple[str, str]) -> int:
        """Without Redis: 0 and counted, or the limit that this process alone has reached."""
        over = self._over(counts)
        if not over:
            self._add(counts, 1)
        return over

    def _add(self, counts: tuple[str, str], step: int, *, told: bool = False) -> None:
        for count in counts:
            left = self._held.pop(count, 0) + step
            if left > 0:
                self._held[count] = left
        if not told:
            self._untold.update(counts)
            self._wake.set()

    async def run(self) -> None:
        """Exchange for ever: at once when there is something to say, and in time for the lease."""
        while True:
            if self.up:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease / 3):
                        await self._wake.wait()
            else:
                await asyncio.sleep(RETRY_EVERY)
            await self.renew()

    async def renew(self) -> None:
        """Renew the lease, and exchange until there is nothing left to say or Redis does not answer."""
        async with self._one_at_a_time:
            if time.monotonic() >= self._tell_all_at:
                self._tell_all_at = time.monotonic() + KEEP / 4
                self._untold.update(self._held)
            await self._exchange()
            while self.up and (self._untold or self._waiting):
                await self._exchange()

    async def _exchange(self) -> None:
        self._wake.clear()
        asking = [each for each in self._waiting[:BATCH] if not each.answer.done()]
        del self._waiting[:BATCH]
        counts = list({*islice(self._untold, BATCH), *chain.from_iterable(each.counts for each in asking)})
        self._untold.difference_update(counts)
        reply: list[int] | None = None
        try:
            reply = await self._tell(counts, asking)
        finally:
            if reply is None:  # whether it was heard is not known
                self._untold.update(counts)
                asking += self._waiting
                self._waiting.clear()
            self._settle(asking, reply)

    async def _tell(self, counts: list[str], asking: list[_Asking]) -> list[int] | None:
        place = {count: n for n, count in enumerate(counts, 2)}
        self._number += 1
        args = [self._number, self._heard, round(self._lease * 1000), round(KEEP * 1000), *self._limits]
        args += [self._held.get(count, 0) for count in counts]
        args += [place[count] for each in asking for count in each.counts]
        try:
            reply: list[int] = await self._script([self._name, *counts], args)
        except (RedisError, OSError) as error:
            if not self._warned:
                log.warning("Redis does not answer; quotas hold per process", extra={"error": error})
            self._warned = True
            return None
        if self._warned:
            log.info("Redis answers; quotas hold over all processes")
        self._warned = False
        return reply

    def _settle(self, asking: list[_Asking], reply: list[int] | None) -> None:
        """Answer those who asked; `reply` is None when Redis did not."""
        self.up = reply is not None
        for n, each in enumerate(asking, 1):
            if each.answer.done():  # its caller waits no more, but Redis may have counted it
                self._untold.update(each.counts)
                continue
            over = reply[n] if reply else self._decide(each.counts)
            if reply and not over:
                self._add(each.counts, 1, told=True)
            each.answer.set_result(over)
        if reply and reply[0]:
            log.info("Redis had forgotten this process; it is told all counts again")
            self._begin()
        elif reply:
            self._heard = self._number

    async def close(self) -> None:
        """Give everything back. What Redis does not hear of ends with the lease."""
        if not self.up:
            return
        self._untold.update(self._held)
        self._held.clear()
        with suppress(RedisError, OSError):
            async with asyncio.timeout(GOODBYE):
                await self.renew()
                await self._client.delete(self._name)
        self.up = False  # nobody exchanges any more


@asynccontextmanager
async def open_quotas(config: Config, client: redis.asyncio.Redis, *, lease: float = LEASE) -> AsyncIterator[Quotas]:
    """Running quotas."""
    quotas = Quotas(client, config.ws_connections_per_user, config.ws_connections_per_tenant, lease)
    await quotas.renew()
    async with running(quotas.run):
        yield quotas
    await quotas.close()
