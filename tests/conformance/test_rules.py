"""Prometheus judges as the service does: its rules give the numbers that `ottoai.measures` gives, whatever processes
come and go, and it takes what /metrics tells, whatever the labels hold.
"""

import random
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from ottoai import tally
from ottoai.indicators import BY_ID, INDICATORS
from ottoai.instruments import CounterMetric, GaugeMetric, HistogramMetric
from ottoai.measures import recorded
from ottoai.metrics import Kind, Metrics
from ottoai.ops.fleet import Fleet
from ottoai.ops.history import History
from ottoai.tally import Snapshot
from tests import promtool
from tests.promtool import EVERY, needs_promtool

pytestmark = needs_promtool

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ODD = {
    "route": ("/api/calls", "/api/leads", "/health"), "status": ("200", "404", "500", "503"), "method": ("GET",),
    "task": ("send_text", "recap"), "queue": ("urgent", "default", "bulk"), "query": ("calls", "leads"),
}  # fmt: skip


class Process:
    """A process with all its figures; `busy` lets each of them move."""

    def __init__(self, kind: Kind, name: str, started: float, chance: random.Random) -> None:
        self.kind, self.name, self.started, self.chance = kind, f"{kind}-h-{name}", started, chance
        self.metrics = Metrics("1", kind)

    def busy(self, seconds: float) -> None:
        for each in self.metrics._instruments:
            labels = {name: self.chance.choice(known or ODD.get(name, ("x",))) for name, known in each.known.items()}
            if isinstance(each, CounterMetric):
                each.inc(self.chance.choice((0, 0, 1, 30)), **labels)
            elif isinstance(each, HistogramMetric):
                for _ in range(self.chance.choice((0, 1, 5))):
                    each.observe(self.chance.choice((0.003, 0.2, 0.7, 3.0, 40.0)), **labels)
            elif isinstance(each, GaugeMetric):
                stamp = each.name.endswith("_timestamp_seconds")
                each.set(START.timestamp() + seconds if stamp else self.chance.choice((0, 1, 3)), **labels)

    def text(self) -> str:
        started = START.timestamp() + self.started
        return re.sub(
            r"(?m)^process_start_time_seconds .*", f"process_start_time_seconds {started}", self.metrics.render()
        )

    def snapshot(self) -> Snapshot:
        started = START + timedelta(seconds=self.started)
        return Snapshot(
            kind=self.kind, name=self.name, host="h", pid=1, version="1", started_at=started, at=started,
            metrics_text=self.text(),
        )  # fmt: skip


class Story:
    """A fleet as time passes: seen by the service, and scraped from two api processes."""

    def __init__(self) -> None:
        self.fleet = Fleet(INDICATORS, History([each.id for each in INDICATORS]), START.timestamp())
        self.said: dict[str, list[tuple[float, str]]] = {"a": [], "b": []}
        self.seconds = 0.0

    def look(self, apis: Sequence[Process | None], others: Sequence[Process], dead: Sequence[Process] = ()) -> None:
        alive = [each for each in (*apis, *others) if each]
        told = {each.name: each.snapshot() for each in (*alive, *dead)}
        self.fleet.take(list(told.values()), {each.name for each in alive}, START.timestamp() + self.seconds)
        for target, api in zip("ab", apis, strict=True):
            seen = [told[each.name] for each in ([api] if api else []) + [*others, *dead]]
            text = tally.merge({each.name: each.metrics_text for each in seen}, {each.name for each in dead})
            self.said[target].append((self.seconds, text if api else ""))
        self.seconds += EVERY

    def by_prometheus(self, *names: str) -> Iterator[tuple[str, float | None]]:
        last = self.seconds - EVERY
        answers = promtool.evaluate(self.said, *(recorded(name) for name in names), at=last, began=START.timestamp())
        for name, answer in zip(names, answers.values(), strict=True):
            assert len(answer) <= 1
            assert all(not labels for labels in answer)
            yield name, next(iter(answer.values()), None)

    def by_service(self, name: str) -> float | None:
        return BY_ID[name].measure.value(self.fleet)


@pytest.mark.parametrize("seed", range(3))
def test_prometheus_reckons_as_the_service_does(seed):
    chance, story = random.Random(seed), Story()
    a, b = (Process("api", name, -86_400, chance) for name in "ab")
    beat, worker = (Process(kind, "1", -86_400, chance) for kind in ("beat", "worker"))
    for each in (a, b, beat, worker):
        for _ in range(200):
            each.busy(0)
    workers, dead = [worker], []
    for step in range(70):
        if step in {10, 11}:  # scaled to three
            workers.append(Process("worker", f"{step}", story.seconds - 3, chance))
        if step == 30:  # and one of them, who had work to show for, is killed
            dead.append(workers.pop(0))
        if step == 40:  # an api process is started again under its own name
            a = Process("api", "a", story.seconds - 3, chance)
        for each in (a, b, beat, *workers):
            if step < 68:  # what is just born is counted at the next evaluation
                each.busy(story.seconds)
        story.look([a, None if step in {50, 51} else b], [beat, *workers], dead)  # a gap in one target's scrapes
    found = {name: (value, story.by_service(name)) for name, value in story.by_prometheus(*BY_ID)}
    apart = {name: both for name, both in found.items() if not close(*both)}
    assert not apart
    # Those that there is no value for: what needs a week's past.
    assert {name for name, (value, _) in found.items() if value is None} == {"unusual_traffic"}


def close(prometheus: float | None, service: float | None) -> bool:
    """Whether two values are the same, but for the edge of a window, at which Prometheus extrapolates."""
    if prometheus is None or service is None:
        return prometheus is service
    return prometheus == pytest.approx(service, rel=0.06, abs=1e-9)
