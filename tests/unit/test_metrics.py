"""What the facade promises: declared names and labels only, nothing lost, a text that always parses."""

import re
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai import errors, metrics
from ottoai.instruments import MAX_SERIES, Instrument
from ottoai.metrics import Metrics
from ottoai.web import session
from ottoai.webhooks import clerk
from ottoai.webhooks.receive import PROVIDERS
from tests import canary
from tests.unit.exposition import parse


@pytest.fixture
def figures() -> Metrics:
    return Metrics(version="1.2.3")


def test_every_metric_is_an_attribute_of_its_own_name(figures):
    declared = {name: value for name, value in vars(figures).items() if isinstance(value, Instrument)}
    assert len(declared) > 40
    assert all(name == value.name for name, value in declared.items())
    assert all(f"| `{name}` |" in metrics.table() for name in declared)


def test_no_label_names_a_tenant_or_is_one_that_aioprometheus_refuses(figures):
    labels = {label for value in vars(figures).values() if isinstance(value, Instrument) for label in value.labels}
    assert not labels & {"tenant", "tenant_id", "user_id", "job", "le", "proc"}


@pytest.mark.parametrize(
    "labels", [{}, {"method": "GET"}, {"method": "GET", "path": "/"}, {"method": "", "route": "", "x": ""}]
)
def test_undeclared_labels_are_refused(figures, labels):
    with pytest.raises(TypeError):
        figures.http_request_duration_seconds.observe(1, **labels)
    with pytest.raises(TypeError):
        figures.ws_messages_sent_total.inc(reason="x")
    with pytest.raises(TypeError):
        figures.ws_connections.set(1, **{**labels, "more": "x"})


@pytest.mark.parametrize("amount", [-1, float("nan")])
def test_a_counter_only_grows(figures, amount):
    with pytest.raises(ValueError, match="cannot grow"):
        figures.ws_messages_sent_total.inc(amount)


def test_series_that_can_be_known_are_there_from_the_start(figures):
    values = parse(figures.render()).values
    assert values["ws_messages_sent_total", frozenset()] == 0
    assert values["ws_connections", frozenset()] == 0
    assert values["webhook_requests_total", frozenset({("provider", "callrail"), ("outcome", "failed")})] == 0
    assert values["event_e2e_latency_seconds_count", frozenset()] == 0
    assert not [name for name, _ in values if name in ("outbox_open", "worker_task_total")]

    figures.worker_task_total.zero(task="follow_up", queue="default")
    values = parse(figures.render()).values
    labels = {("task", "follow_up"), ("queue", "default"), ("status", "failure")}
    assert values["worker_task_total", frozenset(labels)] == 0
    with pytest.raises(TypeError):
        figures.worker_task_total.zero(task="follow_up")
    with pytest.raises(TypeError):
        figures.worker_task_total.zero(job="follow_up")


def test_buckets_are_cumulative_and_their_bounds_inclusive(figures):
    for value in (0.025, 0.026, 3.0, 99.0):
        figures.event_e2e_latency_seconds.observe(value)
    values = parse(figures.render()).values

    def bucket(bound: str) -> float:
        return values["event_e2e_latency_seconds_bucket", frozenset({("le", bound)})]

    assert [bucket(b) for b in ("0.01", "0.025", "0.05", "2.0", "5.0", "+Inf")] == [0, 1, 2, 2, 3, 4]
    assert values["event_e2e_latency_seconds_sum", frozenset()] == pytest.approx(102.051)


def test_the_promised_edges_are_edges():
    assert {0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0} <= set(metrics.EVENT_BOUNDS)


def test_a_gauge_forgets_what_is_gone(figures):
    figures.rq_queue_length.set(3, queue="old")
    figures.rq_queue_length.replace([({"queue": "default"}, 7)])
    queues = {
        labels: value for (name, labels), value in parse(figures.render()).values.items() if name == "rq_queue_length"
    }
    assert queues == {frozenset({("queue", "default")}): 7}


def test_the_process_describes_itself(figures):
    values = parse(figures.render()).values
    assert values["process_resident_memory_bytes", frozenset()] > 1e6
    assert values["process_cpu_seconds_total", frozenset()] > 0
    assert values["process_open_fds", frozenset()] > 2
    (build,) = [dict(labels) for name, labels in values if name == "build_info"]
    assert build["version"] == "1.2.3"
    assert re.fullmatch(r"3\.\d+\.\d+", build["python"])


def _private(text: str) -> bool:
    """Whether the canary would take it for a secret: hypothesis tries strings that it finds in the tests, too."""
    return bool(canary.SECRETS.search(text) or canary.PHONES.search(text))


@given(st.lists(st.text().filter(lambda text: not _private(text)), min_size=1, max_size=5))
def test_any_label_value_comes_back(values):
    figures = Metrics(version="")
    for value in values:
        figures.cross_tenant_access_attempts_total.inc(route=value)
        figures.worker_task_wait_seconds.observe(0.1, queue=value)
    parsed = parse(figures.render()).values
    for value in values:
        seen = value.encode("utf-8", "replace").decode()
        assert parsed["cross_tenant_access_attempts_total", frozenset({("route", seen)})] >= 1
        assert parsed["worker_task_wait_seconds_count", frozenset({("queue", seen)})] >= 1


def test_a_clients_words_cannot_fill_the_memory(figures):
    for number in range(MAX_SERIES + 50):
        figures.cross_tenant_access_attempts_total.inc(route=f"/{number}")
    values = {labels: v for (name, labels), v in parse(figures.render()).values.items() if name.startswith("cross_")}
    assert len(values) == MAX_SERIES + 1
    assert values[frozenset({("route", "other")})] == 51  # one of the series is there from the start


def test_threads_lose_no_count(figures):
    def count() -> None:
        for _ in range(5000):
            figures.ws_messages_sent_total.inc()
            figures.event_e2e_latency_seconds.observe(0.1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    figures.render()
    for thread in threads:
        thread.join()
    values = parse(figures.render()).values
    assert values["ws_messages_sent_total", frozenset()] == 20_000
    assert values["event_e2e_latency_seconds_count", frozenset()] == 20_000


def test_every_provider_can_be_counted():
    assert {*PROVIDERS, clerk.NAME} == set(metrics.PROVIDERS)


def test_every_reason_is_declared_and_can_come_up(figures):
    """One that is counted and not declared is not there before the first; one that is declared alone never comes."""
    source = "".join(path.read_text() for path in Path(metrics.__file__).parent.rglob("*.py"))

    def said(pattern: str) -> set[str]:
        return set(re.findall(pattern, source))

    ended = said(r'close\(.*CloseCode\.\w+, "(\w+)"\)') | said(r'ws_disconnects_total\.inc\(reason="(\w+)"\)')
    ended |= {"client", "too_large", errors.StoreUnavailable.type, errors.Draining.type}  # of the client; of an error
    refused = said(r'ws_auth_failures_total\.inc\(reason="(\w+)"\)') | {*session.REFUSED.values(), "invalid"}
    dropped = said(r'ws_messages_dropped_total\.inc\(.*reason="(\w+)"\)')
    assert ended == set(figures.ws_disconnects_total.known["reason"])
    assert refused == set(figures.ws_auth_failures_total.known["reason"])
    assert dropped == set(figures.ws_messages_dropped_total.known["reason"])


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"memory.max": "300"}, 300),  # a container, version 2
        ("0::/system.slice/api.service", {"system.slice/api.service/memory.max": "512"}, 512),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "400", "memory.max": "max"}, 400),
        ("0::/a/b", {"a/b/memory.max": "600", "a/memory.max": "500"}, 500),
        ("3:cpu:/\n2:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "200"}, 200),  # a container, version 1
        ("2:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "100", "memory/memory.limit_in_bytes": "9" * 19}, 100),
        ("0::/../x", {"memory.max": "max"}, psutil.virtual_memory().total),
        ("1:cpu:/", {"memory.max": "7"}, psutil.virtual_memory().total),
        ("", {}, psutil.virtual_memory().total),
    ],
)
def test_memory_has_the_least_limit_of_the_groups_around(tmp_path, own, files, limit):
    (tmp_path / "own").write_text(f"{own}\n" if own else "")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert metrics.memory_limit(tmp_path / "groups", tmp_path / "own") == limit
    assert metrics.memory_limit(tmp_path / "groups", tmp_path / "nothing") == psutil.virtual_memory().total
