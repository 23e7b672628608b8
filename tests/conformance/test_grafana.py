"""The Grafana dashboard: every panel has its place and its number, asks for what Prometheus knows, and has the bounds
of the table.
"""

import json
from itertools import combinations
from typing import Any

import pytest

from ottoai.indicators import GROUPS, INDICATORS
from ottoai.metrics import Metrics
from ottoai.tally import merge
from scripts.dashboard import TRAFFIC
from tests import promtool
from tests.promtool import MONITORING, needs_promtool

DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = [each for each in PANELS if each["type"] != "row"]
COLOURS = {"info": "blue", "warning": "orange", "critical": "red"}


def test_every_panel_has_a_number_and_a_place_of_its_own():
    assert DASHBOARD["schemaVersion"] >= 36  # what Grafana 9 wrote, and 10 reads
    numbers = [each["id"] for each in PANELS]
    assert len(set(numbers)) == len(numbers)
    assert [each["title"] for each in PANELS if each["type"] == "row"] == ["Traffic", *GROUPS]
    for one, other in combinations([each["gridPos"] for each in PANELS], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(each["gridPos"]["x"] + each["gridPos"]["w"] <= 24 for each in PANELS)


def test_every_query_goes_to_the_data_source_that_is_chosen():
    assert [(each["name"], each["query"]) for each in DASHBOARD["templating"]["list"]] == [("datasource", "prometheus")]
    sources = [part["datasource"]["uid"] for each in CHARTS for part in (each, *each["targets"])]
    assert set(sources) == {"${datasource}"}


@pytest.mark.parametrize("indicator", INDICATORS, ids=lambda each: each.id)
def test_an_indicator_has_a_panel_with_its_bounds(indicator):
    (panel,) = (each for each in CHARTS if each["targets"][0]["expr"] == f"ottoai:{indicator.id}")
    assert (panel["title"], panel["description"]) == (indicator.title, indicator.action)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    values = [step["value"] for step in steps[1:]]
    assert values == sorted(each.at for each in indicator.bounds)

    def colour(value: float) -> str:
        return next(step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"])

    for bound in indicator.bounds:
        up = bound.op[0] == ">"
        assert colour(bound.at + (1e-9 if up else -1e-9)) == COLOURS[bound.level]
    if indicator.bounds:
        assert colour(-1 if indicator.bounds[0].op[0] == ">" else max(values)) == "green"


def test_alerts_link_to_their_indicators_panels():
    by_number = {each["id"]: each["targets"][0]["expr"] for each in CHARTS}
    text = (MONITORING / "alerts.yml").read_text()
    for each in INDICATORS:
        if each.bounds:
            number = next(number for number, query in by_number.items() if query == f"ottoai:{each.id}")
            assert f"viewPanel={number}\n      page_url: /ops#indicator-{each.id}\n" in text


@needs_promtool
@pytest.mark.timeout(600)
def test_the_traffic_is_reckoned():
    """A minute of 60 requests, 120 messages, 30 jobs of 0.2 s; the worker is told of by two targets."""
    api, worker, said = Metrics("1", "api"), Metrics("1", "worker"), []
    for step in range(41):
        text = merge({"api-h-1": api.render(), "worker-h-1": worker.render()})
        said.append((step * 15.0, text))
        for _ in range(15):
            api.http_requests_total.inc(method="GET", route="/api/calls", status="200")
        api.ws_messages_sent_total.inc(30)
        for _ in range(15 if step % 2 else 0):
            worker.worker_task_duration_seconds.observe(0.2, task="t", queue="q")
    other = [(at, "\n".join(line for line in text.splitlines() if "api-h-1" not in line)) for at, text in said]
    queries = [query for _, _, query, _ in TRAFFIC]
    assert queries == [each["targets"][0]["expr"] for each in CHARTS[: len(TRAFFIC)]]
    answers = promtool.evaluate({"a": said, "b": other}, *queries)
    requests, messages, jobs, mean, processors, memory = (list(answers[query].values()) for query in queries)
    assert requests == [pytest.approx(1)]
    assert messages == [pytest.approx(2)]
    assert jobs == [pytest.approx(30, rel=0.1)]
    assert mean == [pytest.approx(0.2)]
    assert (len(processors), len(memory)) == (2, 2)
