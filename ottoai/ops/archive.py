"""The watch's memory in PostgreSQL: what it saw, by the minute for a day and by the hour for a month.

Every process keeps the same in its own memory (`history`, `fleet`) and begins with what is in PostgreSQL; the one that
leads writes. A minute that could not be written is written when PostgreSQL is back, by whoever saw it.
"""

import asyncio
import logging
from collections import deque
from datetime import datetime, timedelta
from typing import Any, Final, cast

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.errors import StoreUnavailable
from ottoai.indicators import VERDICTS, Verdict
from ottoai.ops.history import HOURS, MINUTES, Entry
from ottoai.ops.leader import Leader
from ottoai.ops.monitor import Monitor

log = logging.getLogger(__name__)

MINUTE: Final = timedelta(minutes=1)
GROWTH: Final = timedelta(hours=6)  # the longest window of a measure
BACKLOG: Final = 360  # minutes that wait for PostgreSQL, some 4 KB each: older growth is in no window any more
GAP: Final = 60  # minutes without a look (a machine that was asleep) that are made up for
# Between two who lead nobody writes: the next one adds the minutes that may be missing.
BETWEEN: Final = 3
LIMIT: Final = 2.0  # seconds for writing at one look
BATCH: Final = 60  # minutes in one statement
RESTORING: Final = 5.0  # seconds for reading it all at the start, 3 MB; without it the watch starts all the same


class Archive:
    """One process's part in it. `look` is to be called after each look of the watch, and after the leader's."""

    def __init__(self, monitor: Monitor, system: Session, leader: Leader) -> None:
        self.restored = False
        self._monitor = monitor
        self._system = system
        self._leader = leader
        self._begun = monitor.clock()
        self._minute = _floor(self._begun)  # the one that is not yet over
        self._backlog: deque[dict[str, Any]] = deque(maxlen=BACKLOG)
        self._latest: deque[dict[str, Any]] = deque(maxlen=BETWEEN)
        self._led = False
        self._hour: datetime | None = None  # the one until which all are summed up

    async def restore(self) -> None:
        """Begin with what is in PostgreSQL. Raises StoreUnavailable."""
        since = {"since": self._begun - MINUTES * MINUTE, "until": self._minute, "grown_since": self._begun - GROWTH}
        try:
            async with asyncio.timeout(RESTORING):
                minutes = [row async for row in queries().ops.minutes_since(self._system, **since)]
                since = {"since": self._begun - timedelta(hours=HOURS), "until": self._minute}
                hours = [row async for row in queries().ops.hours_since(self._system, **since)]
        except TimeoutError:
            raise StoreUnavailable from None
        await asyncio.to_thread(self._grow, minutes)
        await self._recall(minutes, hours)
        self.restored = True

    async def look(self) -> None:
        """Keep the minutes that are over."""
        over = self._over()
        # Who did not know who leads, or could not have written, keeps what it saw for when it can.
        if self._leader.leading or not self._leader.stored:
            self._backlog.extend(over)
        if self._leader.leading and not self._led:
            self._backlog.extend(each for each in self._latest if each not in self._backlog)
        self._led = self._leader.leading
        if not self._leader.stored:
            return
        try:
            if not self.restored:
                await self.restore()
            async with asyncio.timeout(LIMIT):
                await self._write()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("History not written", extra={"error": error})

    def _over(self) -> list[dict[str, Any]]:
        """The minutes that are over since the last look, as rows; the last of them with what was found."""
        now = _floor(self._monitor.report.at)
        minute = max(self._minute, now - GAP * MINUTE)
        rows = []
        while minute < now:
            end = minute + MINUTE
            grown = self._monitor.fleet.grown_between(minute.timestamp(), end.timestamp())
            readings = self._remember(minute) if end == now else {}
            rows.append({"at": minute, "increases": grown, "readings": readings})
            minute = end
        self._minute = max(self._minute, now)
        self._latest.extend(rows)
        return rows

    def _remember(self, minute: datetime) -> dict[str, Entry]:
        readings: dict[str, Entry] = {each.id: (each.value, each.verdict) for each in self._monitor.report.readings}
        self._monitor.history.add_minute(minute, readings)
        if (minute + MINUTE).minute == 0:
            values = {name: value for name, (value, _) in readings.items()}
            self._monitor.history.add_hour(minute.replace(minute=0), values)
        return readings

    async def _write(self) -> None:
        while self._backlog:
            rows = list(self._backlog)[:BATCH]
            await queries().ops.add_minutes(self._system, minutes=msgspec.json.encode(rows).decode())
            for _ in rows:
                self._backlog.popleft()
        hour = self._minute.replace(minute=0)
        if self._leader.leading and hour != self._hour:
            await queries().ops.sum_up_hours(self._system, now=self._minute, verdicts=list(VERDICTS))
            self._hour = hour

    def _grow(self, minutes: list[Row]) -> None:
        decode = msgspec.json.Decoder(dict[str, float]).decode
        self._monitor.fleet.restore([(row["at"], decode(row["increases"])) for row in minutes if row["increases"]])

    async def _recall(self, minutes: list[Row], hours: list[Row]) -> None:
        """On the loop, where pages read it; with a pause every few milliseconds."""
        history = self._monitor.history
        for row in hours:
            found = msgspec.json.decode(row["readings"])
            history.add_hour(row["at"], {name: entry[0] for name, entry in found.items()})
        for place, row in enumerate(minutes):
            found = msgspec.json.decode(row["readings"])
            history.add_minute(row["at"], {name: _entry(entry) for name, entry in found.items()})
            if place % BATCH == 0:
                await asyncio.sleep(0)


def _entry(found: list[Any]) -> Entry:
    value, verdict = found
    return value, cast("Verdict", verdict if verdict in VERDICTS else "none")


def _floor(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)
