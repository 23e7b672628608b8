"""What is flat, and what grows: a robust slope of each figure, held against what the figure may grow at most."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

Series = Sequence[tuple[float, float]]  # (seconds since the start, value)
Verdict = Literal["flat", "GROWS", "TOO MUCH"]

# Time in which pools, caches and maps fill, and vacuum finds its rhythm: a share of the run, five minutes at least, but
# never more than half of it.
WARM_UP_SHARE, WARM_UP_SECONDS = 0.15, 300.0
POINTS = 60  # medians of so many stretches of time are compared: one odd sample weighs nothing
HOUR = 3600.0


@dataclass(frozen=True)
class Bound:
    """What a figure may grow by over the time it is judged by: `an_hour` with time, and `noise` plus a `share` of its
    level in any time, since what comes and goes is seldom as much at the end as it was at the beginning. `most`: what
    it may never be above.
    """

    an_hour: float = 0.0
    noise: float = 0.0
    share: float = 0.0
    most: float | None = None

    def allowed(self, level: float, seconds: float) -> float:
        return self.an_hour * seconds / HOUR + self.noise + self.share * abs(level)


@dataclass(frozen=True)
class Judged:
    """A figure and what is to be said of it. `growth`: the slope over the whole time that it was judged by."""

    name: str
    unit: str
    start: float
    end: float
    highest: float
    growth: float
    an_hour: float
    allowed: float
    verdict: Verdict


def judge(name: str, unit: str, series: Series, bound: Bound) -> Judged:
    """Look at a figure after its warm-up. What is missing there was never seen: a series begins with the run."""
    begins = warm_up(series[-1][0])
    warm = [point for point in series if point[0] >= begins]
    points = list(thinned(warm))
    seconds = points[-1][0] - points[0][0]
    slope = theil_sen(points)
    third = max(1, len(points) // 3)
    start, end = (statistics.median(value for _, value in part) for part in (points[:third], points[-third:]))
    level = statistics.median(value for _, value in points)
    highest = max(value for _, value in series)
    growth, allowed = slope * seconds, bound.allowed(level, seconds)
    verdict: Verdict = "flat"
    if growth > allowed:
        verdict = "GROWS"
    elif bound.most is not None and highest > bound.most:
        verdict = "TOO MUCH"
    return Judged(name, unit, start, end, highest, growth, slope * HOUR, allowed, verdict)


def warm_up(seconds: float) -> float:
    """How long the warm-up of a run is."""
    return max(seconds * WARM_UP_SHARE, min(seconds / 2, WARM_UP_SECONDS))


def theil_sen(points: Series) -> float:
    """The median of the slopes between all pairs: nearly a third of the points may be anywhere."""
    slopes = [(b - a) / (late - early) for (early, a), (late, b) in combinations(points, 2) if late > early]
    return statistics.median(slopes) if slopes else 0.0


def thinned(series: Series) -> Iterator[tuple[float, float]]:
    """Medians of equally many points each."""
    size = -(-len(series) // POINTS)
    for at in range(0, len(series), size):
        part = series[at : at + size]
        yield statistics.median(when for when, _ in part), statistics.median(value for _, value in part)


SCALES = {"bytes": (1 / 1024**2, "MiB")}


def table(judged: Iterable[Judged]) -> str:
    """All of it, those that grow first."""
    rows = [("figure", "first third", "last third", "highest", "grew by", "allowed", "an hour", "verdict")]
    for one in sorted(judged, key=lambda one: (one.verdict == "flat", one.name)):
        scale, unit = SCALES.get(one.unit, (1.0, one.unit))
        told = [_shown(value * scale) for value in (one.start, one.end, one.highest, one.growth, one.allowed)]
        rows.append((one.name, *told, f"{_shown(one.an_hour * scale)} {unit}".strip(), one.verdict))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(_aligned(row, widths)) for row in rows)


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for n, (word, width) in enumerate(zip(row, widths, strict=True)):
        yield word.ljust(width) if n in {0, len(row) - 1} else word.rjust(width)
