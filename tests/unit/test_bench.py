"""What the benchmarks say of their results: verdicts, table, charts, sizes, and that the docs claim nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from scripts import generate
from scripts.bench import __main__, catalogue, charts, kept, pages, sizing, table
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.kept import Kept, Measured
from scripts.bench.measure import Bound, Result

AT = datetime(2026, 11, 26, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def result(*bounds: Bound, faults: dict[str, int] | None = None, measured: str = "7 ms") -> Result:
    return Result("a thing", "≤ 10 ms", measured, bounds, faults or {}, "20 ms", {"nats-server": "not installed"})


def run(results: dict[str, Result], at: datetime = AT, growth: dict[str, Axis] | None = None) -> Kept:
    origin = Measured(at, "abc", "2 cores", 0.01)
    return Kept(results, growth or {}, dict.fromkeys([*results, *(growth or {})], origin))


def axis(steps: list[int], **series: list[float]) -> Axis:
    got = Collected()
    for n, step in enumerate(steps):
        got.step(step, {("lag", name, "ms"): values[n] for name, values in series.items()})
    return got.axis("things", "things, one after the other", "lag")


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (result(Bound("p99", "ms", 10.0, 10.0)), "met"),
        (result(Bound("p99", "ms", 10.9, 10.0)), "close"),
        (result(Bound("p99", "ms", 11.1, 10.0)), "missed"),
        (result(Bound("rate", "/s", 600.0, 600.0, least=True)), "met"),
        (result(Bound("rate", "/s", 590.0, 600.0, least=True, slack=0.02)), "met"),
        (result(Bound("rate", "/s", 590.0, 600.0, least=True)), "close"),
        (result(Bound("rate", "/s", 500.0, 600.0, least=True)), "missed"),
        (result(Bound("p99", "ms", 1.0, 10.0), Bound("rate", "/s", 500.0, 600.0, least=True)), "missed"),
        (result(Bound("p99", "ms", 1.0, 10.0), faults={"errors": 1}), "missed"),
        (result(faults={"errors": 0}), "no goal"),
        (result(), "not measured"),
    ],
)
def test_verdicts(given: Result, verdict: str) -> None:
    assert given.verdict == verdict


def test_the_table_has_every_result_in_its_order_and_sums_what_went_wrong() -> None:
    found = run({
        "ops": result(Bound("p99", "ms", 99.0, 10.0), faults={"errors": 2}, measured="99 ms"),
        "webhooks": result(Bound("p99", "ms", 7.0, 10.0), faults={"errors": 1, "events missing": 3}),
    })  # fmt: skip
    lines = table.markdown(found).splitlines()
    assert lines[2].startswith("| `webhooks`: a thing | 20 ms | ≤ 10 ms | 7 ms | **missed** | nats-server: not inst")
    assert lines[3].startswith("| `ops`: a thing | 20 ms | ≤ 10 ms | 99 ms | **missed** |")
    assert "| 0, 0, 0 | 3, 0, 0; 3 events missing | **missed** |" in lines[4]
    assert lines[6] == f"Not measured yet: {', '.join(name for name in table.ORDER if name not in found.results)}."
    shown = table.plain(found)
    assert shown.index("99 ms") > shown.index("7 ms")
    assert max(map(len, shown.splitlines())) <= sum(table.WIDTHS) + 8


def test_nothing_wrong_is_said_to_be_so() -> None:
    assert table.faults([result(faults={"errors": 0})])[3:] == ("0, 0, 0", "met")


def test_the_newest_of_each_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PUBLISHED", tmp_path / "results.json")
    old, new = tmp_path / "1.json", tmp_path / "2.json"
    kept.save(
        run({"ops": result(measured="old"), "run": result(measured="alone")}, growth={"a": axis([1], x=[2])}), old
    )
    kept.save(run({"ops": result(measured="new")}, AT + timedelta(hours=1)), new)
    for paths in ([new, old], [old], []):  # what is published stays, unless something is newer
        published = kept.publish(paths)
        assert {name: each.measured for name, each in published.results.items()} == {"ops": "new", "run": "alone"}
        assert list(published.growth) == ["a"]
    assert kept.load(tmp_path / "results.json") == published


def test_charts_are_well_formed_and_always_the_same() -> None:
    bound = Bound("p99", "ms", 26.7, 60.0, guide=150.0, peers={"nginx + nchan": 1509.0})
    drawn = charts.bars("broadcast 400/s", result(bound, Bound("heartbeats", "", 1, 1)))
    drawn |= charts.lines("growth-events", axis([10, 100, 1000], p50=[0.9, 2.0, 0.7], p99=[4.0, 7.0, 130.0]))
    drawn |= charts.lines("growth-flat", axis([10, 100], nothing=[0.0, 0.0]))
    assert list(drawn) == ["broadcast-400-s-p99.svg", "growth-events-lag.svg", "growth-flat-lag.svg"]
    for text in drawn.values():
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme:dark" in text
        assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    bars = drawn["broadcast-400-s-p99.svg"]
    for label in ("OttoAI: 26.7 ms", "goal (≤): 60.0 ms", "guide: 150 ms", "nginx + nchan: 1,509 ms"):
        assert label in bars
    assert charts.bars("broadcast 400/s", result(bound)) == {"broadcast-400-s-p99.svg": bars}


def test_names() -> None:
    assert catalogue.chosen([]) == list(catalogue.BENCHES)
    assert catalogue.chosen(["growth", "ops", "growth-calls"]) == [*catalogue.GROWTH, "ops"]
    assert tuple(catalogue.GROWTH) == pages.AXES
    assert {bench for _, _, bench in pages.LOADS} <= set(catalogue.BENCHES)
    assert {name for _, name, _ in pages.LOADS} <= set(table.ORDER)


def test_an_unknown_name_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["webhooks", "nosuch"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no benchmark nosuch" in told.err
    assert all(name in told.err for name in catalogue.EVERY)


def test_what_cannot_be_read_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--publish", str(tmp_path / "none.json")]) == 1
    assert "Nothing published" in capsys.readouterr().err


def test_the_docs_say_what_was_measured_and_nothing_else() -> None:
    for name in ("PERFORMANCE.md", "SCALING.md", "OPERATIONS.md"):
        page = (ROOT / "docs" / name).read_text()
        assert generate.current(page) == page, f"python -m scripts.generate: docs/{name} is stale"
    for path, wanted in pages.files():
        assert path.read_text() == wanted, f"python -m scripts.generate: {path.name} is stale"
    assert pages.left_over() == []
    assert set(pages.published().results) <= set(table.ORDER)
    page = (ROOT / "docs" / "PERFORMANCE.md").read_text()
    for figure in table.FIGURES:
        assert f"<!-- generated: figure-{figure} -->" in page
    row = next(line for line in page.splitlines() if line.startswith("| `"))
    assert generate.current(page.replace(row, row.replace("| met |", "| better |").replace("1", "9"))) == page


def test_sizes_follow_from_unit_costs() -> None:
    with pytest.raises(sizing.Missing):
        sizing.units(Kept())
    found = everything(1.0)
    one, many = (sizing.sized(found, tenants) for tenants in (1, 10_000))
    assert one["api processes"] == one["workers"] == 2
    assert many["sockets"] == 1_000_000
    assert many["api processes"] >= many["sockets"] / sizing.CROWDED
    assert many["webhooks/s"] == pytest.approx(10_000 * 100 * 3 * 8 / 86_400)
    assert many["hints that Redis hands out/s, all to all"] == many["webhooks/s"] * many["api processes"]
    assert many["WAL, MB/s"] == pytest.approx(many["webhooks/s"] / 1_000)
    dearer = sizing.sized(everything(100.0), 10_000)
    assert dearer["api processes"] > many["api processes"]
    assert sizing.table(found).count("\n") == 2 + len(one)


def everything(cost: float) -> Kept:
    """Results in which each unit costs so much."""
    names = {
        "growth-connections": ("processor per delivery", "memory per socket"),
        "growth-tenants": ("the look at all heads",),
        "growth-calls": ("table and indexes per call",),
        "growth-processes": (
            "api processes, per webhook and its deliveries", "Redis commands per webhook", "transactions per webhook",
            "WAL per webhook", "Redis commands a second while idle", "transactions a second while idle",
        ),
    }  # fmt: skip
    details = dict.fromkeys(("cpu_ms_each", "pgbench_per_second", "worker_cpu_ms_each", "empty_mib"), cost)
    bounds = tuple(Bound(name, "", cost, 1) for name in ("processor per delivery", "processor"))
    one = Result("", "", "", bounds, details=details)
    growth = {name: axis([1, 2], **{key: [cost, cost] for key in series}) for name, series in names.items()}
    return run(dict.fromkeys(("webhooks", "reads", "jobs", "idle", "broadcast 400/s"), one), growth=growth)
