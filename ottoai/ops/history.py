"""What the indicators were: by the minute for a day and by the hour for a month, in memory, as sparklines need it.

PostgreSQL keeps the same (`ops.archive`), so that a restart forgets nothing. Nothing here does I/O.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isnan, nan
from typing import Final

from ottoai.indicators import VERDICTS, Verdict
from ottoai.measures import HOUR, MINUTE

MINUTES: Final = 24 * 60
HOURS: Final = 30 * 24
POINTS: Final = 96  # of a sparkline: one for each quarter of an hour

Entry = tuple[float | None, Verdict]  # an indicator's value and what it meant


class History:
    """Values and verdicts of all indicators, oldest first."""

    def __init__(self, indicators: Sequence[str]) -> None:
        self._minutes: list[float] = []  # Unix times of their beginnings, ascending
        self._values = {each: array("d") for each in indicators}
        self._verdicts = {each: bytearray() for each in indicators}
        self._hours: list[float] = []
        self._hourly = {each: array("d") for each in indicators}

    def add_minute(self, at: datetime, entries: Mapping[str, Entry]) -> None:
        """Keep a minute, unless it is there already. An earlier one than the last finds its place too."""
        moment = at.timestamp()
        place = bisect_left(self._minutes, moment)
        if moment in self._minutes[place : place + 1]:
            return
        self._minutes.insert(place, moment)
        for each, values in self._values.items():
            value, verdict = entries.get(each, (None, "none"))
            values.insert(place, nan if value is None else value)
            self._verdicts[each].insert(place, VERDICTS.index(verdict))
        if len(self._minutes) > MINUTES + 60:  # in blocks: taking from the front moves all the rest
            del self._minutes[:60]
            for each in self._values:
                del self._values[each][:60]
                del self._verdicts[each][:60]

    def add_hour(self, at: datetime, values: Mapping[str, float | None]) -> None:
        """Keep an hour's last values, as `add_minute` does."""
        moment = at.timestamp()
        place = bisect_left(self._hours, moment)
        if moment in self._hours[place : place + 1]:
            return
        self._hours.insert(place, moment)
        for each, kept in self._hourly.items():
            value = values.get(each)
            kept.insert(place, nan if value is None else value)
        if len(self._hours) > HOURS + 24:  # likewise in blocks
            del self._hours[:24]
            for kept in self._hourly.values():
                del kept[:24]

    @property
    def last_minute(self) -> datetime | None:
        """The latest minute that is kept."""
        return datetime.fromtimestamp(self._minutes[-1], UTC) if self._minutes else None

    def peak(self, indicator: str, since: float) -> float | None:
        """The most an indicator was from then on; beyond a day, at the ends of hours."""
        minutes = self._values[indicator][bisect_left(self._minutes, since) :]
        hours = self._hourly[indicator][bisect_left(self._hours, since) :]
        return max((value for value in (*minutes, *hours) if not isnan(value)), default=None)

    def around(self, indicator: str, moment: float) -> float | None:
        """What an indicator was at the end of the hour that a moment is in, or in that minute."""
        for times, values, span in (
            (self._minutes, self._values[indicator], MINUTE),
            (self._hours, self._hourly[indicator], HOUR),
        ):
            place = bisect_right(times, moment) - 1
            if place >= 0 and moment - times[place] < span and not isnan(values[place]):
                return values[place]
        return None

    def since(self, indicator: str, verdict: Verdict) -> datetime | None:
        """From which minute on, without a break until the last one, an indicator has this verdict."""
        code = VERDICTS.index(verdict)
        found = None
        for place in range(len(self._minutes) - 1, -1, -1):
            if self._verdicts[indicator][place] != code:
                break
            found = self._minutes[place]
        return None if found is None else datetime.fromtimestamp(found, UTC)

    def spark(self, indicator: str, now: float) -> list[float | None]:
        """The last 24 hours in POINTS points, each the most of its span; None where nothing is known."""
        span = MINUTES * MINUTE / POINTS
        first = now - MINUTES * MINUTE
        points: list[float | None] = [None] * POINTS
        values = self._values[indicator]
        for place in range(bisect_left(self._minutes, first), len(self._minutes)):
            value = values[place]
            point = min(POINTS - 1, int((self._minutes[place] - first) / span))
            if not isnan(value) and (points[point] is None or value > (points[point] or 0.0)):
                points[point] = value
        return points
