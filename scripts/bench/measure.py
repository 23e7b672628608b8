"""What benchmarks report, and how they look at processes and at the machine."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
import psutil

from scripts.bench.cores import every_core

CLOSE = 0.10  # a bound that is missed by no more than this share of it is close


class Bound(msgspec.Struct, frozen=True):
    """One measured value and what it is held against. `least`: it should be that much, not that little."""

    name: str
    unit: str
    value: float
    goal: float
    least: bool = False
    guide: float | None = None
    peers: dict[str, float] = {}  # what others needed or reached in the same run
    slack: float = 0.0  # share of the goal by which it counts as met still

    @property
    def met(self) -> bool:
        """Whether it is within the bound."""
        return self._within(self.slack)

    @property
    def close(self) -> bool:
        """Whether it is within, or nearly."""
        return self._within(CLOSE)

    def _within(self, share: float) -> bool:
        return self.value >= self.goal * (1 - share) if self.least else self.value <= self.goal * (1 + share)


class Result(msgspec.Struct, frozen=True):
    """One line of the report: what was to be reached and what was, on this machine, then."""

    what: str
    goal: str
    measured: str
    bounds: tuple[Bound, ...] = ()  # none: nothing could be measured, or it stands there to compare
    faults: dict[str, int] = {}  # what may not happen even once, by its name
    guide: str = "–"
    peers: dict[str, str] = {}  # by name, in words; "not installed"
    details: dict[str, Any] = {}

    @property
    def verdict(self) -> str:
        """Met, close, missed; or that there is none."""
        if any(self.faults.values()) or not all(bound.close for bound in self.bounds):
            return "missed"
        if not self.bounds:
            return "no goal" if self.faults else "not measured"
        return "met" if all(bound.met for bound in self.bounds) else "close"


def shown(value: float) -> str:
    """A number with as many digits as say something."""
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def raise_file_limit() -> int:
    """As many open files as the system grants; inherited by all that is started."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time that a process has used."""
    used = process.cpu_times()
    return used.user + used.system


class Busy:
    """How many cores other people's processes keep busy: noise in whatever is measured meanwhile."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = self._others()

    def by_others(self) -> float:
        """On average since it was made. All that was started must have been waited for."""
        return max(0.0, self._others() - self._before) / (time.monotonic() - self._started)

    @staticmethod
    def _others() -> float:
        all_ = psutil.cpu_times()
        own = os.times()
        return all_.user + all_.system + getattr(all_, "nice", 0.0) - sum(own[:4])


async def figures(base: str) -> dict[str, float]:
    """All series of the API process, and under its bare name the sum of each metric's."""
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        lines = (await response.text()).splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare = name.split("{")[0]
            found[name] = float(value)
            if bare != name:
                found[bare] = found.get(bare, 0.0) + float(value)
    return found


def histogram_percentile(before: dict[str, float], after: dict[str, float], name: str, share: float) -> float:
    """The bound of the bucket below which this share of what a histogram counted between two looks lies."""
    keys = [key for key in after if key.startswith(f"{name}_bucket{{")]
    counts = {float(key.partition('le="')[2].rstrip('"}')): after[key] - before.get(key, 0.0) for key in keys}
    return min(bound for bound, count in counts.items() if count >= share * max(counts.values()))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values) if values else float("nan")


def machine() -> str:
    """What this ran on."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{len(every_core())} cores, {memory:.0f} GiB, {system}"
