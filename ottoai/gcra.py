"""GCRA, the leaky bucket as one number: when what was asked for so far will have been worked off, in microseconds.

Each request takes up its rate's interval of time, and is over the limit when more than the rate's capacity would then
lie ahead. It may be held against several buckets: all are charged, or none. Here is the algorithm twice: as a script
for Redis, which all processes share, and in Python for one process alone. Who asks which is the matter of `limits`.

A bucket also knows when it was last seen. A clock that is behind that was set back; then no time is taken to have
passed, since how much it was cannot be known.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import Final, NamedTuple

from ottoai.rates import Rate

# Redis has one clock for all processes, whatever theirs say.
CLOCK: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# KEYS: the buckets. ARGV: for each request the number of its buckets, and for each of them its place in KEYS, its
# interval and its capacity. Answers for each request whether it is allowed, 1 or 0, and what then lies ahead in each of
# its buckets. Numbers are written in full: Lua itself would write 1e+15.
DECIDE: Final = """
if #KEYS == 0 then return {} end
local known, ends, changed = redis.call('MGET', unpack(KEYS)), {}, {}
for k = 1, #KEYS do
  ends[k] = now
  if known[k] then
    local till, seen = string.match(known[k], '^(%d+) (%d+)$')
    local back = math.max(0, tonumber(seen) - now)
    ends[k] = math.max(now, tonumber(till) - back)
    changed[k] = back > 0
  end
end

local answers, n = {}, 1
while n <= #ARGV do
  local last, allowed = n + 3 * tonumber(ARGV[n]), 1
  for i = n + 1, last, 3 do
    local ahead = ends[tonumber(ARGV[i])] - now + tonumber(ARGV[i + 1])
    if ahead > tonumber(ARGV[i + 2]) then allowed = 0 end
  end
  answers[#answers + 1] = allowed
  for i = n + 1, last, 3 do
    local k = tonumber(ARGV[i])
    if allowed == 1 then
      ends[k] = ends[k] + tonumber(ARGV[i + 1])
      changed[k] = true
    end
    answers[#answers + 1] = ends[k] - now
  end
  n = last + 1
end

for k = 1, #KEYS do
  if changed[k] then
    local left = string.format('%.0f', math.ceil((ends[k] - now) / 1000) + 1)
    redis.call('SET', KEYS[k], string.format('%.0f %.0f', ends[k], now), 'PX', left)
  end
end
return answers
"""


class Bucket(NamedTuple):
    """What requests are held against: `kind` says whose it is (user, tenant, route, address), `key` which one."""

    kind: str
    key: str
    rate: Rate


@lru_cache(4_096)
def bucket(kind: str, rate: Rate, *ids: str) -> Bucket:
    """A bucket by its ids. A digest of them: they may be long, hold anything, and be a phone number.

    The rate is part of the key, so one that was changed begins anew. All keys have one hash tag: a cluster runs a
    script on one of its nodes.
    """
    return Bucket(kind, f"{{limits}}:{kind}:{rate}:{sha256(ascii(ids).encode()).hexdigest()[:32]}", rate)


class Standing(NamedTuple):
    """How a bucket stands after a request; `ahead` is what lies ahead in it, in microseconds."""

    bucket: Bucket
    ahead: int

    @property
    def remaining(self) -> int:
        """How many requests more it would take at once."""
        rate = self.bucket.rate
        return max(0, (rate.capacity - self.ahead) // rate.interval)

    @property
    def full_after(self) -> int:
        """Seconds until it takes all it ever takes."""
        return ceil(self.ahead / 1_000_000)

    @property
    def wait(self) -> int:
        """Seconds until it takes one more; 0 is now."""
        rate = self.bucket.rate
        return max(0, ceil((self.ahead + rate.interval - rate.capacity) / 1_000_000))


class Decision(NamedTuple):
    """Whether a request is allowed; when it is not, nothing was charged."""

    allowed: bool
    standings: tuple[Standing, ...]

    @property
    def over(self) -> list[Standing]:
        """The limits that it is over."""
        return [] if self.allowed else [each for each in self.standings if each.wait]


def ask(requests: Sequence[Sequence[Bucket]]) -> tuple[list[str], list[int]]:
    """KEYS and ARGV for the script."""
    place: dict[str, int] = {}
    words: list[int] = []
    for buckets in requests:
        words.append(len(buckets))
        for each in buckets:
            words += (place.setdefault(each.key, len(place) + 1), each.rate.interval, each.rate.capacity)
    return list(place), words


def decisions(requests: Sequence[Sequence[Bucket]], answers: Iterable[int]) -> list[Decision]:
    """What the script answered."""
    rest = iter(answers)
    return [Decision(next(rest) == 1, tuple(Standing(each, next(rest)) for each in each_of)) for each_of in requests]


def now() -> int:
    """The time for a Table, in microseconds: a clock of this process, which nobody sets."""
    return time.monotonic_ns() // 1000


class Table:
    """The buckets of this process. Past `most` the one longest not charged is forgotten, and so is empty again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()  # by key: worked off at, last seen at

    def __len__(self) -> int:
        return len(self._known)

    def look(self, asked: Bucket, at: int) -> Standing:
        """How a bucket stands; charges nothing."""
        till, seen = self._known.get(asked.key, (at, at))
        if seen > at:
            till -= seen - at
            self._known[asked.key] = till, at
        return Standing(asked, max(0, till - at))

    def charge(self, buckets: Sequence[Bucket], at: int) -> Decision:
        """Take one request in if there is room for it in all of these; `at` is `now()`."""
        standings = [self.look(each, at) for each in buckets]
        if any(each.ahead + each.bucket.rate.interval > each.bucket.rate.capacity for each in standings):
            return Decision(allowed=False, standings=tuple(standings))
        charged = tuple(Standing(each.bucket, each.ahead + each.bucket.rate.interval) for each in standings)
        for each in charged:
            self.learn(each, at)
        return Decision(allowed=True, standings=charged)

    def learn(self, told: Standing, at: int) -> None:
        """Take over how a bucket stands."""
        self._known[told.bucket.key] = at + told.ahead, at
        self._known.move_to_end(told.bucket.key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
