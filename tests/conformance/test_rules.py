"""Prometheus judges as the service does: its rules give the numbers that `ottoai.measures` gives, whatever processes
come and go, and it takes what /metrics tells, whatever the labels hold.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import yaml

from ottoai import tally
from ottoai.indicators import INDICATORS
from ottoai.instruments import CounterMetric, GaugeMetric, HistogramMetric
from ottoai.measures import recorded
from ottoai.metrics import Kind, Metrics
from ottoai.ops.fleet import Fleet
from ottoai.ops.history import History
from ottoai.tally import Snapshot
from ottoai.web import keys
from scripts import rule_tests
from scripts.rules import selections
from tests import promtool
from tests.promtool import EVERY, MONITORING, RULES, needs_promtool

pytestmark = [needs_promtool, pytest.mark.timeout(600)]  # hours of evaluations, on a busy machine

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ODD = {
    "route": ("/api/calls", "/api/leads", "/health"), "status": ("200", "404", "500", "503"), "method": ("GET",),
    "task": ("send_text", "recap"), "queue": ("urgent", "default", "bulk"), "query": ("calls", "leads"),
}  # fmt: skip

BY_ID = {each.id: each for each in INDICATORS}


class Process:
    """A process with all its figures; `busy` lets each of them move."""

    def __init__(self, kind: Kind, name: str, started: float, chance: random.Random) -> None:
        self.kind, self.name, self.started, self.chance = kind, f"{kind}-h-{name}", started, chance
        self.metrics = Metrics("1", kind)

    def busy(self, seconds: float) -> None:
        for each in self.metrics.instruments:
            labels = {name: self.chance.choice(known or ODD.get(name, ("x",))) for name, known in each.known.items()}
            if isinstance(each, CounterMetric):
                each.inc(self.chance.choice((0, 0, 1, 30)), **labels)
            elif isinstance(each, HistogramMetric):
                for _ in range(self.chance.choice((0, 1, 5))):
                    each.observe(self.chance.choice((0.003, 0.2, 0.7, 3.0, 40.0)), **labels)
            elif isinstance(each, GaugeMetric):
                stamp = each.name.endswith("_timestamp_seconds")
                each.set(
                    START.timestamp() + seconds
                    if stamp
                    else self.chance.choice((0, 1, 3) if each.name == "ready" else (1, 3)),
                    **labels,
                )

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
    # Next to all have a value; not what needs a week's past, and perhaps a share of what too little happened of.
    unknown = {name for name, (value, _) in found.items() if value is None}
    assert "unusual_traffic" in unknown
    assert len(unknown) <= 3


def close(prometheus: float | None, service: float | None) -> bool:
    """Whether two values are the same, but for the edge of a window, at which Prometheus extrapolates."""
    if prometheus is None or service is None:
        return prometheus is service
    return prometheus == pytest.approx(service, rel=0.06, abs=1e-9)


def loaded(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def rules(name: str) -> list[dict[str, Any]]:
    (group,) = loaded(name)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_the_rules_are_in_order():
    checked = promtool.run("check", "rules", *(MONITORING / name for name in RULES))
    assert checked.returncode == 0, checked
    names = [rule["record"] for rule in rules("recording.yml")]
    assert len(set(names)) == len(names)
    assert {recorded(each.id) for each in INDICATORS} <= set(names)
    selected = {(which.told, which.promql(), histogram) for which, histogram in selections()}
    assert len({name for name, _, _ in selected}) == len(selected)  # no name is taken twice
    assert [rule["alert"] for rule in rules("alerts.yml")[:-1]] == [
        each.prometheus_alert(bound) for each in INDICATORS for bound in each.bounds
    ]
    # An expression that nobody can read is one that nobody checks.
    assert max(len(rule["expr"]) for name in RULES for rule in rules(name)) < 600


@pytest.mark.parametrize("name", sorted(path.name for path in (MONITORING / "tests").glob("*.yml")))
def test_the_rules_pass_their_tests(name):
    tested = promtool.run("test", "rules", MONITORING / "tests" / name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_links_to_what_is_written_of_it():
    text = (MONITORING.parent / "docs" / "OPERATIONS.md").read_text()
    for rule in rules("alerts.yml"):
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert file == "docs/OPERATIONS.md"
        assert text.count(f'<a id="{anchor}"></a>') == 1, anchor


def test_every_alert_is_tested_firing_and_not_firing():
    wanted = set(itertools.product((rule["alert"] for rule in rules("alerts.yml")), (True, False)))
    tested = set()
    for path in (MONITORING / "tests").glob("*.yml"):
        for test in loaded(f"tests/{path.name}")["tests"]:
            for asked in test["promql_expr_test"]:
                for name in re.findall(r'alertname="(\w+)"', asked["expr"]):
                    tested.add((name, bool(asked["exp_samples"])))
    assert tested == wanted


def test_an_alert_says_what_is_the_matter():
    """One of each unit: the value as people write it, and the bound."""
    told = {
        ("redis.critical", 0): "Redis reachable: no",
        ("redis_ping.warning", 0.0617): "Redis, round trip: 61.7ms (warning > 50 ms)",
        ("db_pool.critical", 1): "Database connections in use: 100% (critical >= 100 %)",
        ("ws_send_queue.warning", 100 << 20): "Bytes that wait for sockets: 100MiB (warning > 64 MB)",
        ("queue_length.warning", 1234): "Longest queue: 1234 (warning >= 100)",
        ("http_budget_fast.critical", 20): "Error budget of requests (99.9 %), 1 h: 20.0× (critical > 14.4×)",
    }
    for (name, value), summary in told.items():
        indicator, level = BY_ID[name.partition(".")[0]], name.partition(".")[2]
        bound = next(each for each in indicator.bounds if each.level == level)
        (fires,) = promtool.alerts(rule_tests.series(indicator, value), indicator.prometheus_alert(bound), "20m")
        assert fires["summary"] == summary
        assert fires["description"] == indicator.action
        assert fires["runbook_url"] == f"docs/OPERATIONS.md#{indicator.id}"


HOSTILE = ('quote"', "line\nfeed", "back\\slash", '",x="', "}", "\udcff", "\x00\x1b\r", "\u2028", "ünï", "# TYPE a b")


async def test_prometheus_takes_what_metrics_tells_whatever_labels_hold(app, base, redis_url):
    figures = app[keys.METRICS]
    worker = Metrics("1", "worker")
    for value in HOSTILE:
        figures.http_requests_total.inc(method=value, route=value, status=value)
        figures.http_request_duration_seconds.observe(1, method=value, route=value)
        worker.worker_task_total.inc(task=value, queue=value, status="success")
    with tally.Reporter(redis_url, "worker", version="1", figures=worker.render, name='worker-"\n\\-1') as reporter:
        reporter.run_once()
        async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics") as response:
            text = await response.text()
    checked = promtool.run("check", "metrics", text=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    series = [each for each in tally.samples(text) if each.name == "worker_task_total" and each.value == 1]
    assert {each.labels["task"] for each in series} == {value.encode("utf-8", "replace").decode() for value in HOSTILE}
    assert {each.labels["proc"] for each in series} == {'worker-"\n\\-1'}


def test_what_prometheus_would_refuse_is_noticed():
    assert promtool.run("check", "metrics", text='a{b="c"d"} 1\n').returncode != 0
    assert (
        "counter metrics should have"
        in promtool.run("check", "metrics", text="# HELP a A.\n# TYPE a counter\na 1\n").stderr
    )
