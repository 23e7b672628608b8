"""The texts of several processes become one that parses, with each sample's process beside it."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.metrics import Metrics
from ottoai.tally import ALIVE_SECONDS, Snapshot, alive, merge
from tests.unit.exposition import parse

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)


def snapshot(**changes: object) -> Snapshot:
    base = Snapshot(kind="worker", name="w", host="h", pid=1, version="1", started_at=NOW, at=NOW)
    return msgspec.structs.replace(base, **changes)


def test_families_stay_together_and_are_described_once():
    one = '# HELP a_total As.\n# TYPE a_total counter\na_total 1\n# HELP b Bs.\n# TYPE b gauge\nb{x="y"} 2\n'
    two = "# HELP a_total As.\n# TYPE a_total counter\na_total 5\n"
    assert merge({"p1": one, "p2": two}) == (
        "# HELP a_total As.\n# TYPE a_total counter\n"
        'a_total{proc="p1"} 1\na_total{proc="p2"} 5\n'
        '# HELP b Bs.\n# TYPE b gauge\nb{proc="p1",x="y"} 2\n'
    )


def test_real_processes_lose_no_sample():
    api, worker = Metrics(version="1"), Metrics(version="2")
    worker.worker_task_duration_seconds.observe(0.2, task="t", queue='q"{}\n\\')
    texts = {"api": api.render(), "worker": worker.render()}
    expected = {
        (name, labels | {("proc", process)}): value
        for process, text in texts.items()
        for (name, labels), value in parse(text).values.items()
    }
    merged = parse(merge(texts))
    assert merged.values == expected
    assert merged.types["worker_task_duration_seconds"] == "histogram"


@given(st.dictionaries(st.text(), st.lists(st.text(), max_size=3), max_size=3))
def test_any_name_and_any_label_value_survive(processes):
    texts = {}
    for process, values in processes.items():
        figures = Metrics(version="")
        for value in values:
            figures.cross_tenant_access_attempts_total.inc(route=value)
        texts[process] = figures.render()
    seen = {process.encode("utf-8", "replace").decode() for process in processes}
    if len(seen) == len(processes):
        parsed = parse(merge(texts))
        assert {value for _, labels in parsed.values for name, value in labels if name == "proc"} == seen


@given(st.text())
def test_no_text_whatever_spoils_the_others(text):
    good = parse(merge({"good": "# TYPE a gauge\na 1\n", "bad": text})).values
    assert good["a", frozenset({("proc", "good")})] == 1


@pytest.mark.parametrize("line", ['a{x="y} 1', "a{x=y} 1", "a one", "a", 'a{x="y"}1', "1a 1", 'a{"x"} 1'])
def test_a_line_that_prometheus_would_refuse_is_left_out(line):
    assert parse(merge({"p": f"# TYPE a gauge\n{line}\na 2\n"})).values == {("a", frozenset({("proc", "p")})): 2}


def test_of_two_types_the_first_is_kept():
    merged = merge({"p1": "# TYPE a gauge\na 1\n", "p2": "# TYPE a counter\na 2\n"})
    assert parse(merged).values == {("a", frozenset({("proc", "p1")})): 1}


def test_of_the_dead_only_counts_are_told_and_since_when():
    text = (
        "# TYPE a gauge\na 1\n# TYPE b_total counter\nb_total 2\n"
        '# TYPE c histogram\nc_bucket{le="+Inf"} 3\nc_sum 3\nc_count 3\n'
        "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 4\n"
    )
    told = parse(merge({"p": text, "q": text}, dead={"p"})).values
    names = {who: {name for name, labels in told if ("proc", who) in labels} for who in "pq"}
    assert names["q"] - names["p"] == {"a"}
    assert names["p"] == {"b_total", "c_bucket", "c_sum", "c_count", "process_start_time_seconds"}


def test_nothing_gives_nothing():
    assert merge({}) == ""
    assert merge({"p": ""}) == ""


def test_alive_is_heard_lately_and_not_stopped():
    assert alive(snapshot(), NOW + timedelta(seconds=ALIVE_SECONDS - 1))
    assert not alive(snapshot(), NOW + timedelta(seconds=ALIVE_SECONDS))
    assert not alive(snapshot(state="stopped"), NOW)


def test_a_snapshot_of_a_later_version_can_be_read():
    raw = msgspec.json.encode(msgspec.to_builtins(snapshot()) | {"mood": "good"})
    assert msgspec.json.decode(raw, type=Snapshot) == snapshot()
