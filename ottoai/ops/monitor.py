"""The watch: every few seconds it reads what all processes say, judges every indicator, and has what follows done.

It runs in every API process, so that none can take its own alarm away with it. With Redis away it sees its own process
alone, and says that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from ottoai import tally
from ottoai.indicators import VERDICTS, Indicator, Verdict
from ottoai.metrics import Metrics
from ottoai.ops.fleet import Fleet
from ottoai.ops.history import History
from ottoai.ops.reading import Reading, Report, judged, reading, worst
from ottoai.tally import Snapshot

log = logging.getLogger(__name__)

EVERY: Final = 5.0  # seconds: as often as processes tell; an alert fires at most so much late
RESTING: Final = 3.0  # seconds that a stopping process waits for a look at the end of its patience with the stores
PAUSE: Final = 1.0  # seconds between two looks, whoever asks for one
LIMIT: Final = 1.0  # seconds that Redis may take

Clock = Callable[[], datetime]


def utc() -> datetime:
    """The time."""
    return datetime.now(UTC)


Step = Callable[[], Awaitable[None]]


class Monitor:
    """One process's watch. `refresh` brings this process's gauges up to date; `local` is what it says of itself."""

    def __init__(
        self,
        indicators: Sequence[Indicator],
        client: redis.asyncio.Redis,
        local: Callable[[], Snapshot],
        refresh: Step,
        metrics: Metrics,
        clock: Clock = utc,
    ) -> None:
        now = clock()
        self.indicators = indicators
        self.history = History([each.id for each in indicators])
        self.fleet = Fleet(indicators, self.history, now.timestamp())
        self.report = Report(at=now, verdict="none", readings=[])
        self.snapshots: list[Snapshot] = []
        self.alone = False  # whether others could not be heard, because Redis is away
        self.follow: list[Step] = []  # what is done after each look, in this order; each is on its own
        self.clock = clock
        self._redis = client
        self._local = local
        self._refresh = refresh
        self._metrics = metrics
        self._since: dict[str, tuple[Verdict, datetime]] = {}
        self._looking = asyncio.Lock()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self._wanted.clear()
            begun = asyncio.get_running_loop().time()
            await self.run_once()
            await asyncio.sleep(PAUSE)
            with suppress(TimeoutError):
                left = EVERY - (asyncio.get_running_loop().time() - begun)
                await asyncio.wait_for(self._wanted.wait(), max(0.0, left))

    async def rest(self) -> None:
        """Begin no further look, and let the one at hand come to its end: before the stores are closed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._looking.acquire(), RESTING)

    def soon(self) -> None:
        """Look as soon as may be: somebody watches."""
        self._wanted.set()

    async def run_once(self) -> None:
        """One look, and what follows from it. Raises nothing: the watch must go on."""
        async with self._looking:
            for step in (self._refresh, self._look, *self.follow):
                try:
                    await step()
                except Exception:  # the edge of the watch: one broken part must not stop the others
                    log.exception("Watch stumbled")

    async def _look(self) -> None:
        now = self.clock()
        own = await asyncio.to_thread(self._local)
        others = [each for each in await self._others() if each.name != own.name]
        self.snapshots = [own, *others]
        self.report = await asyncio.to_thread(self._judge, self.snapshots, now)
        readings = self.report.readings
        values = [({"indicator": each.id}, each.value) for each in readings if each.value is not None]
        verdicts = [({"indicator": each.id}, VERDICTS.index(each.verdict)) for each in readings]
        self._metrics.indicator_value.replace(values)
        self._metrics.indicator_verdict.replace(verdicts)

    def _judge(self, snapshots: Sequence[Snapshot], now: datetime) -> Report:
        # Whether a process lives is a matter of the real time in which it told; `now` may be a test's.
        heard = datetime.now(UTC)
        self.fleet.take(snapshots, {each.name for each in snapshots if tally.alive(each, heard)}, now.timestamp())
        readings = [self._read(indicator, now) for indicator in self.indicators]
        return Report(at=now, verdict=worst(readings), readings=readings)

    def _read(self, indicator: Indicator, now: datetime) -> Reading:
        found = judged(indicator, self.fleet)
        verdict = found[1]
        before = self._since.get(indicator.id)
        if before is None:
            before = (verdict, self.history.since(indicator.id, verdict) or now)
        if before[0] != verdict:
            before = (verdict, now)
        self._since[indicator.id] = before
        return reading(indicator, found, before[1])

    async def _others(self) -> list[Snapshot]:
        try:
            async with asyncio.timeout(LIMIT):
                found = await tally.read(self._redis)
        except (RedisError, OSError, TimeoutError):
            self.alone = True
            return []
        self.alone = False
        return found
