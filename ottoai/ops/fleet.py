"""The figures of all processes as one: what `measures` compute from.

Each process's counters are compared with what that same process said before, and only their growth is added up, so that
a process that ends, or is started again, makes no difference. What is remembered is the sum of all growth at each look;
the growth in a window is the difference of two of them. Nothing here does I/O.
"""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Final, NamedTuple

from ottoai import tally
from ottoai.indicators import Indicator
from ottoai.measures import DAY, HOUR, Quantile, Select, Told
from ottoai.ops.history import History
from ottoai.tally import Snapshot

KEPT: Final = 6.2 * HOUR  # the longest window of a measure, and a little
FINE: Final = 660.0  # seconds for which every look is remembered; older ones are thinned out to one a minute
FORGOTTEN: Final = HOUR  # a process that was not heard for so long will not come back


class Look(NamedTuple):
    """The sum of all growth at one moment."""

    at: float
    totals: "array[float]"


class Known(NamedTuple):
    """What a process said last."""

    at: float
    values: "array[float]"


class Fleet:
    """Takes in what processes say of themselves, and answers as `measures.Figures`. One thread at a time."""

    def __init__(self, indicators: Iterable[Indicator], history: History, now: float) -> None:
        self.now = now
        self._since = now  # who started later is counted from 0
        self._thinned = now - FINE  # of older looks there is one a minute
        self._history = history
        self._slots: dict[str, int] = {}
        self._counters: dict[str, list[tuple[Select, int]]] = {}  # by the metric's full name
        self._edges: dict[str, dict[float, int]] = {}  # of a histogram's selection: slot by upper bound
        self._histograms: dict[str, list[Select]] = {}
        self._seen: set[str] = set()
        for indicator in indicators:
            for which in indicator.measure.inputs:
                self._declare(which, histogram=isinstance(indicator.measure, Quantile))
            for condition in indicator.conditions:
                for which in getattr(getattr(condition, "of", None), "inputs", ()):
                    self._declare(which, histogram=False)
        self._known: dict[tuple[str, datetime], Known] = {}
        self._gauges: dict[str, list[Told]] = {}
        self._looks: deque[Look] = deque([Look(now, array("d"))])

    def take(self, snapshots: Sequence[Snapshot], alive: Collection[str], at: float) -> None:
        """Look at what all processes say; `snapshots` holds each at most once. Of those that are not `alive`, what they
        counted still counts, but what they have is no more.
        """
        if at < self._looks[-1].at:
            self._set_back(self._looks[-1].at - at)
        self.now = at
        self._gauges = {}
        totals = array("d", self._looks[-1].totals)
        for snapshot in snapshots:
            values, seen = self._read(snapshot, alive=snapshot.name in alive)
            key = (snapshot.name, snapshot.started_at)
            known = self._known.get(key)
            # Who is unknown and started long ago may have been known, and not been heard for so long: it counts from
            # now on.
            if known is None and snapshot.started_at.timestamp() > max(self._since, at - FORGOTTEN):
                known = Known(at, array("d"))
            if known is not None:
                _add_growth(totals, known.values, values)
            self._known[key] = Known(at, values)
            self._seen |= seen
        self._known = {key: known for key, known in self._known.items() if at - known.at < FORGOTTEN}
        self._looks.append(Look(at, totals))
        self._thin_out()

    def restore(self, minutes: Sequence[tuple[datetime, Mapping[str, float]]]) -> None:
        """Begin with what was counted before this process started: the growth of each minute, oldest first, by names
        of `grown_between`. What this process has seen itself meanwhile comes after it.
        """
        if not minutes:
            return
        looks = [Look(minutes[0][0].timestamp(), array("d"))]
        for begun, growth in minutes:
            totals = array("d", looks[-1].totals)
            for name, amount in growth.items():
                self._seen.add(name.partition(" le=")[0])
                if (slot := self._slot(name)) is not None:
                    _enlarge(totals, slot + 1)
                    totals[slot] += amount
            looks.append(Look(begun.timestamp() + 60, totals))
        before = looks[-1]
        own = [each for each in self._looks if each.at > before.at]
        self._looks = deque([*looks, *(Look(each.at, _sum(before.totals, each.totals)) for each in own)])
        if not self._known:
            self._since = before.at

    def grown_between(self, begin: float, end: float) -> dict[str, float]:
        """By how much everything grew, by name. Of what is known and did not grow, 0: of a histogram, once."""
        before, after = self._at(begin), self._at(end)
        grown: dict[str, float] = {}
        for name, slot in self._slots.items():
            selection, _, edge = name.partition(" le=")
            amount = _value(after, slot) - _value(before, slot)
            if amount or (selection in self._seen and edge in {"", "inf"}):
                grown[name] = amount
        return grown

    # Figures

    def increase(self, which: Select, seconds: float) -> float | None:
        """See Figures."""
        name = which.promql()
        if name not in self._seen:
            return None
        return self._growth(self._slots[name], seconds)

    def buckets(self, which: Select, seconds: float) -> Mapping[float, float] | None:
        """See Figures."""
        name = which.promql()
        if name not in self._seen:
            return None
        return {edge: self._growth(slot, seconds) for edge, slot in self._edges[name].items()}

    def levels(self, which: Select) -> Sequence[Told]:
        """See Figures."""
        return [
            told
            for told in self._gauges.get(which.metric, ())
            if (which.kind is None or told.process.startswith(f"{which.kind}-")) and which.matches(told.labels)
        ]

    def peak(self, indicator: str, seconds: float) -> float | None:
        """See Figures."""
        return self._history.peak(indicator, self.now - seconds)

    def same_hour(self, indicator: str) -> Sequence[float]:
        """See Figures."""
        found = [self._history.around(indicator, self.now - day * DAY) for day in range(1, 8)]
        return [value for value in found if value is not None]

    # Inside

    def _declare(self, which: Select, *, histogram: bool) -> None:
        name = which.promql()
        if histogram:
            self._histograms.setdefault(f"{which.metric}_bucket", [])
            if which not in self._histograms[f"{which.metric}_bucket"]:
                self._histograms[f"{which.metric}_bucket"].append(which)
            self._edges.setdefault(name, {})
        elif name not in self._slots:
            slot = self._slots[name] = len(self._slots)
            self._counters.setdefault(which.metric, []).append((which, slot))

    def _slot(self, name: str) -> int | None:
        """The slot of a name of `grown_between`: a counter's, or a histogram's with its edge."""
        selection, _, edge = name.partition(" le=")
        if edge and selection in self._edges:
            return self._edge(selection, float(edge))
        return self._slots.get(name)

    def _edge(self, selection: str, edge: float) -> int:
        edges = self._edges[selection]
        if edge not in edges:
            edges[edge] = self._slots[f"{selection} le={edge!r}"] = len(self._slots)
        return edges[edge]

    def _read(self, snapshot: Snapshot, *, alive: bool) -> tuple["array[float]", set[str]]:
        values, seen = array("d", bytes(8 * len(self._slots))), set()
        for sample in tally.samples(snapshot.metrics_text):
            if sample.kind == "gauge":
                if alive:
                    self._gauges.setdefault(sample.name, []).append(Told(snapshot.name, sample.labels, sample.value))
                continue
            for which, slot in self._counters.get(sample.name, ()):
                if _of_kind(which, snapshot):
                    seen.add(which.promql())  # who tells the metric, and nothing of what is selected, tells 0 of that
                    if which.matches(sample.labels):
                        values[slot] += sample.value
            for which in self._histograms.get(sample.name, ()):
                if _of_kind(which, snapshot) and which.matches(sample.labels):
                    name = which.promql()
                    slot = self._edge(name, float(sample.labels["le"]))
                    _enlarge(values, slot + 1)
                    values[slot] += sample.value
                    seen.add(name)
        return values, seen

    def _growth(self, slot: int, seconds: float) -> float:
        return _value(self._looks[-1].totals, slot) - _value(self._at(self.now - seconds), slot)

    def _at(self, moment: float) -> "array[float]":
        """The sums at a moment: those of the last look until then, or of the first there is."""
        place = bisect_right(self._looks, moment, key=lambda look: look.at)
        return self._looks[max(0, place - 1)].totals

    def _set_back(self, seconds: float) -> None:
        """The clock was: what was seen is as long ago as before, or windows would hold too much or nothing."""
        self._since -= seconds
        self._thinned -= seconds
        self._looks = deque(Look(look.at - seconds, look.totals) for look in self._looks)
        self._known = {key: Known(known.at - seconds, known.values) for key, known in self._known.items()}

    def _thin_out(self) -> None:
        while len(self._looks) > 2 and self._looks[1].at < self.now - KEPT:
            self._looks.popleft()
        # Those that have become old since the last time: how many depends on how fast looks came then, and come now.
        place = bisect_right(self._looks, self.now - FINE, key=lambda look: look.at) - 1
        while place >= 2 and self._looks[place].at > self._thinned:
            if self._looks[place].at // 60 == self._looks[place - 1].at // 60:
                del self._looks[place - 1]
            place -= 1
        self._thinned = self.now - FINE


def _of_kind(which: Select, snapshot: Snapshot) -> bool:
    return which.kind is None or which.kind == snapshot.kind


def _add_growth(totals: "array[float]", before: "array[float]", now: "array[float]") -> None:
    _enlarge(totals, len(now))
    for slot, value in enumerate(now):
        grown = value - _value(before, slot)
        totals[slot] += grown if grown >= 0 else value  # less than before: it was started again under its name


def _sum(one: "array[float]", other: "array[float]") -> "array[float]":
    return array("d", map(sum, zip_longest(one, other, fillvalue=0.0)))


def _enlarge(values: "array[float]", size: int) -> None:
    if len(values) < size:
        values.frombytes(bytes(8 * (size - len(values))))


def _value(values: "array[float]", slot: int) -> float:
    return values[slot] if slot < len(values) else 0.0
