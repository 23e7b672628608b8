"""The kinds of figures: counter, gauge, histogram. A thin facade and the only importer of aioprometheus.

It adds what that library lacks: escaping, a lock, series that exist at 0 before the first event, a bound on their
number, and errors for undeclared labels. Values gather in plain dicts and are handed over when the text is rendered:
aioprometheus serialises the labels at every increment, which costs more than the counting (3.1 µs against 1).
Which figures there are is declared in `metrics`; how those of several processes meet is the matter of `tally`.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import product
from typing import ClassVar, Final

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter
from aioprometheus.histogram import Histogram as Buckets

MAX_SERIES: Final = 1000  # of one metric; what comes later is counted as "other", lest a client's words fill memory
OTHER: Final = "other"

_Key = tuple[str, ...]


class Instrument:
    """What all kinds share: a name, its labels, and values under the labels' values."""

    collector: ClassVar[type[Collector]]

    def __init__(self, lock: threading.Lock, name: str, meaning: str, labels: Mapping[str, tuple[str, ...]]) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = tuple(labels)
        self.known = labels
        self._lock = lock

    def _key(self, labels: dict[str, str]) -> _Key:
        if len(labels) == len(self.labels):
            try:
                return tuple([labels[label] for label in self.labels])
            except KeyError:
                pass
        raise TypeError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")

    def _combinations(self, fixed: Mapping[str, str]) -> Iterable[_Key]:
        """The keys of all declared label values; `fixed` narrows a label to one value."""
        if not fixed.keys() <= self.known.keys():
            raise TypeError(f"{self.name} has the labels {self.labels}, not {tuple(fixed)}")
        choices = [(fixed[label],) if label in fixed else self.known[label] for label in self.labels]
        if not all(choices):
            raise TypeError(f"{self.name}: values are declared for {[k for k, v in self.known.items() if v]} only")
        return product(*choices)

    def fill(self, collector: Collector) -> None:
        """Hand the present values to aioprometheus."""
        raise NotImplementedError


class _Number(Instrument):
    def __init__(self, lock: threading.Lock, name: str, meaning: str, labels: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(lock, name, meaning, labels)
        self._values: dict[_Key, float] = {}

    def _add(self, key: _Key, amount: float) -> None:
        with self._lock:
            try:
                self._values[key] += amount
            except KeyError:
                key = _bounded(key, self._values)
                self._values[key] = self._values.get(key, 0) + amount

    def _put(self, key: _Key, value: float) -> None:
        with self._lock:
            self._values[_bounded(key, self._values)] = value

    def fill(self, collector: Collector) -> None:
        """Hand the present values to aioprometheus."""
        with self._lock:
            values = dict(self._values)
        for key, value in values.items():
            collector.set_value(_escaped(self.labels, key), value)


class CounterMetric(_Number):
    """A number that only grows while its process lives."""

    collector = Counter

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Add `amount` (0 or more). TypeError for other labels than the declared, ValueError for a bad amount."""
        if not amount >= 0:
            raise ValueError(f"{self.name} cannot grow by {amount}")
        self._add(self._key(labels), amount)

    def follow(self, total: float, /, **labels: str) -> None:
        """Take over a total that is counted elsewhere, by the kernel for instance."""
        self._put(self._key(labels), total)

    def zero(self, **fixed: str) -> None:
        """Let series exist at 0: every combination of declared label values, with `fixed` ones where given."""
        for key in self._combinations(fixed):
            self._add(key, 0)


class GaugeMetric(_Number):
    """A number as it is now. A series that nobody has set is not shown: unknown is not 0."""

    collector = Gauge

    def set(self, value: float, /, **labels: str) -> None:
        """Set one series. TypeError for other labels than the declared."""
        self._put(self._key(labels), value)

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Add `amount`; a series that nobody has set starts at 0."""
        self._add(self._key(labels), amount)

    def dec(self, amount: float = 1, /, **labels: str) -> None:
        """Take `amount` away."""
        self._add(self._key(labels), -amount)

    def replace(self, rows: Iterable[tuple[Mapping[str, str], float]]) -> None:
        """Set all series at once; those not among `rows` are gone (a queue or a worker that is no more)."""
        values = {self._key(dict(labels)): value for labels, value in rows}
        with self._lock:
            self._values = values


class HistogramMetric(Instrument):
    """How observations spread over buckets, with their sum and number. `bounds` are inclusive upper bounds."""

    collector = Histogram

    def __init__(
        self,
        lock: threading.Lock,
        name: str,
        meaning: str,
        labels: Mapping[str, tuple[str, ...]],
        bounds: tuple[float, ...],
    ) -> None:
        super().__init__(lock, name, meaning, labels)
        self.bounds = bounds
        self._series: dict[_Key, list[float]] = {}  # a count for each bucket and for +Inf, then the sum

    def observe(self, value: float, /, **labels: str) -> None:
        """Count one observation, in seconds. TypeError for other labels than the declared."""
        key = self._key(labels)
        bucket = bisect_left(self.bounds, value)
        with self._lock:
            series = self._series.get(key) or self._new(key)
            series[bucket] += 1
            series[-1] += value

    def zero(self, **fixed: str) -> None:
        """Let series exist at 0: every combination of declared label values, with `fixed` ones where given."""
        with self._lock:
            for key in self._combinations(fixed):
                self._new(key)

    def fill(self, collector: Collector) -> None:
        """Hand the present values to aioprometheus, which wants cumulative counts."""
        with self._lock:
            copies = {key: list(series) for key, series in self._series.items()}
        for key, series in copies.items():
            buckets = Buckets(*self.bounds)
            for bound, count in zip(buckets.buckets, series[:-1], strict=True):
                buckets.observations += int(count)
                buckets.buckets[bound] = buckets.observations
            buckets.sum = series[-1]
            collector.set_value(_escaped(self.labels, key), buckets)

    def _new(self, key: _Key) -> list[float]:
        return self._series.setdefault(_bounded(key, self._series), [0] * (len(self.bounds) + 2))


def _bounded(key: _Key, series: Mapping[_Key, object]) -> _Key:
    return key if key in series or len(series) < MAX_SERIES else (OTHER,) * len(key)


def escape(value: object) -> str:
    """A label value as the text format wants it: backslash, quote and line feed escaped, always valid UTF-8."""
    text = str(value).encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped(names: _Key, values: _Key) -> dict[str, str]:
    return {name: escape(value) for name, value in zip(names, values, strict=True)}


def exposition(instruments: Iterable[Instrument]) -> str:
    """The instruments in the Prometheus text format 0.0.4."""
    registry = Registry()
    for each in instruments:
        meaning = each.meaning.replace("\\", "\\\\").replace("\n", "\\n")
        each.fill(each.collector(each.name, meaning, registry=registry))
    return TextFormatter().marshall(registry).decode()
