"""What an indicator measures: one object that both computes it from the figures of all processes and says it in PromQL.

So the status page, the alerts sent by this software and Prometheus's rules are about the same number. Every figure is
taken process by process before it is added up: a sum of counters shrinks when a process dies. `Figures` is what a
measure computes from; it is kept by `ops.fleet`. Which measures there are, and what is good or bad: `indicators`.

In PromQL a measure stands on what monitoring/recording.yml records first: each selection of counters, process by
process (`Select.told`, then `Select.counted`), and `parts` of its own. Several targets may tell of the same process: it
counts once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple, Protocol

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0
WATCHED: Final = "ottoai_proc:watched"  # recorded: processes whose new series begin at 0


@dataclass(frozen=True, slots=True)
class Not:
    """A label that has none of these values."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Select:
    """Series of one metric. `where`: a label's value, one of several, none of several. `kind`: of these processes."""

    metric: str
    where: Mapping[str, str | tuple[str, ...] | Not] = field(default_factory=dict)
    kind: Literal["api", "worker", "beat"] | None = None

    def __hash__(self) -> int:
        return hash(self.promql())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels is meant; of which process it is, is not asked here."""
        for name, wanted in self.where.items():
            value = labels.get(name, "")
            if isinstance(wanted, Not):
                if value in wanted.values:
                    return False
            elif value not in ((wanted,) if isinstance(wanted, str) else wanted):
                return False
        return True

    def promql(self, suffix: str = "") -> str:
        """The selector in PromQL; also its name in the history of minutes."""
        parts = [f'proc=~"{self.kind}-.+"'] if self.kind else []
        for name, wanted in self.where.items():
            if isinstance(wanted, Not):
                parts.append(f'{name}!~"{"|".join(wanted.values)}"')
            elif isinstance(wanted, str):
                parts.append(f'{name}="{wanted}"')
            else:
                parts.append(f'{name}=~"{"|".join(wanted)}"')
        labels = "{" + ",".join(parts) + "}" if parts else ""
        return f"{self.metric}{suffix}{labels}"

    @property
    def slug(self) -> str:
        """A name for it that Prometheus takes."""
        words = [self.metric, *([self.kind] if self.kind else [])]
        for name, wanted in self.where.items():
            if isinstance(wanted, Not):
                words.append(f"not_{name}")
            else:
                words.append("_".join((name, *((wanted,) if isinstance(wanted, str) else wanted))))
        return ":".join(re.sub(r"\W", "_", word) for word in words)

    @property
    def told(self) -> str:
        """What Prometheus records of these counters: as each process tells them."""
        return f"ottoai_proc:{self.slug}"

    @property
    def counted(self) -> str:
        """And of that, what was seen to grow: what is new counts from 0."""
        return f"{self.told}:counted"


class Told(NamedTuple):
    """A gauge as a process told it."""

    process: str
    labels: Mapping[str, str]
    value: float


class Figures(Protocol):
    """What all processes together counted. None: nothing is known, which is not 0."""

    @property
    def now(self) -> float:
        """Unix time."""

    def increase(self, which: Select, seconds: float) -> float | None:
        """By how much the selected counters grew in so many last seconds."""

    def buckets(self, which: Select, seconds: float) -> Mapping[float, float] | None:
        """How many observations of the selected histograms came in that time, by upper bound, cumulative."""

    def levels(self, which: Select) -> Sequence["Told"]:
        """The selected gauges of processes that are alive."""

    def peak(self, indicator: str, seconds: float) -> float | None:
        """The most that an indicator was in that time."""

    def same_hour(self, indicator: str) -> Sequence[float]:
        """What an indicator was at this time of the last seven days, as far as known."""


class Measure(Protocol):
    """One number. `inputs`: the counters and histograms whose growth it needs."""

    @property
    def inputs(self) -> Sequence[Select]:
        """See above."""

    def value(self, figures: Figures) -> float | None:
        """The number now; None when there is no data to tell."""

    def promql(self) -> str:
        """The same in PromQL: an instant vector of one element without labels, or empty."""

    def parts(self) -> Mapping[str, str]:
        """What Prometheus is to record before it: names and expressions. Most measures need nothing."""
        return {}


def promql_time(seconds: float) -> str:
    """A duration as Prometheus writes it."""
    for unit, length in (("d", DAY), ("h", HOUR), ("m", MINUTE)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def recorded(indicator: str) -> str:
    """The name under which Prometheus records an indicator."""
    return f"ottoai:{indicator}"


def counting(which: Select, *, histogram: bool = False) -> dict[str, str]:
    """What Prometheus is to record of a selection of counters, or of histograms: names and expressions, in order.

    A process that counts something tells 0 of what it has not seen yet. A series that appears while its process is
    watched, or with a young process, was born: its first value counts, which `increase` alone would miss. One that is
    there when the watch begins is old, and its value is no growth.
    """
    by, suffix = ("proc, le", "_bucket") if histogram else ("proc", "")
    told = f"max by ({by}) (sum by ({by}, instance, job) ({which.promql(suffix)}))"
    if which.where and not histogram:
        told += f" or max by (proc) (0 * {Select(which.metric, kind=which.kind).promql()})"
    known = f"{which.told} and last_over_time({which.counted}[5m])"
    return {
        which.told: told,
        which.counted: f"{known} or {which.told} unless on (proc) {WATCHED} or 0 * {which.told}",
    }


def total(selects: Sequence[Select], seconds: float) -> str:
    """PromQL for how much several selections grew together."""
    return " + ".join(f"sum(increase({each.counted}[{promql_time(seconds)}]))" for each in selects)


def growth(figures: Figures, selects: Sequence[Select], seconds: float) -> float | None:
    """How much several selections grew together; None when of one of them nothing is known."""
    found = [figures.increase(each, seconds) for each in selects]
    return None if None in found else sum(each or 0.0 for each in found)


@dataclass(frozen=True, slots=True)
class Increase(Measure):
    """How often something happened in the last `seconds`."""

    of: Select
    seconds: float

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return (self.of,)

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        return figures.increase(self.of, self.seconds)

    def promql(self) -> str:
        """See Measure."""
        return f"round({total([self.of], self.seconds)})"  # increase() extrapolates to the edges of its window


@dataclass(frozen=True, slots=True)
class Ratio(Measure):
    """The share of `part` (`rest`: of all but it) in `whole`, over the last `seconds`, from `least` of `whole` on."""

    part: tuple[Select, ...]
    whole: tuple[Select, ...]
    seconds: float
    least: float = 1
    rest: bool = False

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return (*self.part, *self.whole)

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        part, whole = (growth(figures, each, self.seconds) for each in (self.part, self.whole))
        if part is None or whole is None or whole < self.least:
            return None
        return 1 - part / whole if self.rest else part / whole

    def promql(self) -> str:
        """See Measure."""
        share = f"({total(self.part, self.seconds)}) / ({total(self.whole, self.seconds)} >= {self.least:g})"
        return f"1 - {share}" if self.rest else share


@dataclass(frozen=True, slots=True)
class Quantile(Measure):
    """A percentile of a histogram over the last `seconds`, interpolated as Prometheus does, from `least` observations
    on. Past the last edge it is that edge.
    """

    q: float
    of: Select
    seconds: float
    least: float = 1

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return (self.of,)

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        counted = figures.buckets(self.of, self.seconds)
        if not counted or counted[float("inf")] < max(self.least, 1e-9):
            return None
        wanted = self.q * counted[float("inf")]
        edges = sorted(counted.items())
        if wanted <= edges[0][1]:
            return edges[0][0] * wanted / edges[0][1]
        for (low, below), (high, upto) in pairwise(edges):
            if wanted <= upto:
                return low if high == float("inf") else low + (high - low) * (wanted - below) / (upto - below)
        return None

    def promql(self) -> str:
        """See Measure."""
        counted, window = self.of.counted, promql_time(self.seconds)
        quantile = f"histogram_quantile({self.q:g}, sum by (le) (increase({counted}[{window}])))"
        return f'{quantile} and sum(increase({counted}{{le="+Inf"}}[{window}])) >= {self.least:g}'


@dataclass(frozen=True, slots=True)
class Level(Measure):
    """A gauge as it is now: the most, the least or the sum over the processes. Where every API process tells the same
    of all, it is the most.
    """

    of: Select
    over: Literal["max", "min", "sum"] = "max"

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return ()

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        found = [told.value for told in figures.levels(self.of)]
        if not found:
            return None
        return sum(found) if self.over == "sum" else max(found) if self.over == "max" else min(found)

    def promql(self) -> str:
        """See Measure."""
        once = f"max without (instance, job) ({self.of.promql()})"
        return f"sum({once})" if self.over == "sum" else f"{self.over}({self.of.promql()})"


@dataclass(frozen=True, slots=True)
class Fullness(Measure):
    """How full something is, where it is fullest: `used` by `most`, process by process (and by another label, where
    given). Without a limit: no data.
    """

    used: Select
    most: Select
    by: tuple[str, ...] = ()

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return ()

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        limits = {self._whose(told): told.value for told in figures.levels(self.most)}
        used: dict[tuple[str, ...], float] = {}
        for told in figures.levels(self.used):
            used[self._whose(told)] = used.get(self._whose(told), 0.0) + told.value
        shares = [value / limits[whose] for whose, value in used.items() if limits.get(whose, 0) > 0]
        return max(shares, default=None)

    def _whose(self, told: Told) -> tuple[str, ...]:
        return told.process, *(told.labels[name] for name in self.by)

    def promql(self) -> str:
        """See Measure."""
        whose = ", ".join(("proc", *self.by))
        used = f"sum by ({whose}) (max without (instance, job) ({self.used.promql()}))"
        return f"max({used} / (max by ({whose}) ({self.most.promql()}) > 0))"


@dataclass(frozen=True, slots=True)
class Age(Measure):
    """Seconds since the latest of the moments that a gauge tells of."""

    of: Select

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return ()

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        found = [told.value for told in figures.levels(self.of)]
        return max(0.0, figures.now - max(found)) if found else None

    def promql(self) -> str:
        """See Measure."""
        return f"clamp_min(time() - max({self.of.promql()}), 0)"


@dataclass(frozen=True, slots=True)
class Burn(Measure):
    """How many times faster than allowed errors use up their budget: the share of `part` (`rest`: of all but it) in
    `whole`, by `budget`, in the last `short` and in the last `long` seconds, whichever is less. Two windows: it lasts,
    and it is not over.
    """

    part: tuple[Select, ...]
    whole: tuple[Select, ...]
    budget: float
    short: float
    long: float
    rest: bool = False
    least: float = 100  # of the long window

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return (*self.part, *self.whole)

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        shares = [each.value(figures) for each in self._ratios()]
        known = [each for each in shares if each is not None]
        return min(known) / self.budget if len(known) == len(shares) else None

    def promql(self) -> str:
        """See Measure."""
        short, long = self.parts()
        # The lesser of the two: there is no function for that between vectors.
        return f"({short} < {long} or {long}) / {self.budget:g} and {short}"

    def parts(self) -> Mapping[str, str]:
        """See Measure."""
        share = f"ottoai:{self.part[0].slug}:{'missed' if self.rest else 'share'}"
        return {f"{share}:{promql_time(each.seconds)}": each.promql() for each in self._ratios()}

    def _ratios(self) -> tuple[Ratio, Ratio]:
        return (
            Ratio(self.part, self.whole, self.short, 1, self.rest),
            Ratio(self.part, self.whole, self.long, self.least, self.rest),
        )


@dataclass(frozen=True, slots=True)
class Unusual(Measure):
    """An indicator by its median at the same time of the last seven days, from three days on."""

    indicator: str
    of: Measure

    @property
    def inputs(self) -> Sequence[Select]:
        """See Measure."""
        return self.of.inputs

    def value(self, figures: Figures) -> float | None:
        """See Measure."""
        present, past = self.of.value(figures), sorted(figures.same_hour(self.indicator))
        if present is None or len(past) < 3:
            return None
        middle = (past[(len(past) - 1) // 2] + past[len(past) // 2]) / 2
        return present / middle if middle else None

    def promql(self) -> str:
        """See Measure."""
        (days,) = self.parts()
        return f"{recorded(self.indicator)} / (quantile(0.5, {days}) > 0) and count({days}) >= 3"

    def parts(self) -> Mapping[str, str]:
        """See Measure."""
        past, day = recorded(self.indicator), 'label_replace({} offset {}d, "day", "{}", "", "")'
        return {f"{past}:days": " or ".join(day.format(past, number, number) for number in range(1, 8))}


@dataclass(frozen=True, slots=True)
class BusinessHours:
    """A condition: business hours are now."""

    unmet: str = "outside business hours"

    def met(self, figures: Figures) -> bool:
        """Whether a value counts now."""
        return any(told.value > 0 for told in figures.levels(Select("business_open")))

    def promql(self) -> str:
        """The condition as a vector that is there when it is met."""
        return "max(business_open) > 0"


@dataclass(frozen=True, slots=True)
class SeenBefore:
    """A condition: an indicator was above 0 at some time of the last `seconds`."""

    indicator: str
    seconds: float
    unmet: str = "nobody was there these days"

    def met(self, figures: Figures) -> bool:
        """Whether a value counts now."""
        return (figures.peak(self.indicator, self.seconds) or 0.0) > 0

    def promql(self) -> str:
        """The condition as a vector that is there when it is met."""
        return f"max_over_time({recorded(self.indicator)}[{promql_time(self.seconds)}]) > 0"


@dataclass(frozen=True, slots=True)
class Enough:
    """A condition: another measure has at least so much; a share of next to nothing says nothing."""

    of: Measure
    least: float
    unmet: str = "too little to judge"

    def met(self, figures: Figures) -> bool:
        """Whether a value counts now."""
        return (self.of.value(figures) or 0.0) >= self.least

    def promql(self) -> str:
        """The condition as a vector that is there when it is met."""
        return f"{self.of.promql()} >= {self.least:g}"


Condition = BusinessHours | SeenBefore | Enough
