"""The fleet's figures: whatever processes come, go, restart or fall silent, only what happened is counted, once."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.indicators import Indicator
from ottoai.measures import Age, Fullness, Increase, Level, Quantile, Ratio, Select
from ottoai.metrics import Metrics
from ottoai.ops.fleet import FINE, Fleet
from ottoai.ops.history import History
from ottoai.tally import Snapshot

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAILED = Select("worker_task_total", {"status": "failure"})
ENDED = Select("worker_task_total", {"status": ("success", "failure")})
LASTS = Select("worker_task_duration_seconds")
COUNTED = (Increase(FAILED, 600), Ratio((FAILED,), (ENDED,), 600), Quantile(0.95, LASTS, 600))


class Process:
    """A worker, as it tells of itself."""

    def __init__(self, name: str, started: datetime) -> None:
        self.name = name
        self.started = started
        self.metrics = Metrics("1", "worker")
        self.metrics.worker_task_total.zero(task="send_text", queue="urgent")

    def ran(self, times: int, status: str = "success", seconds: float = 0.2) -> None:
        for _ in range(times):
            self.metrics.worker_task_total.inc(task="send_text", queue="urgent", status=status)
            self.metrics.worker_task_duration_seconds.observe(seconds, task="send_text", queue="urgent")

    def snapshot(self) -> Snapshot:
        return Snapshot(
            kind="worker", name=self.name, host="h", pid=1, version="1", started_at=self.started, at=self.started,
            metrics_text=self.metrics.render(),
        )  # fmt: skip


def make_fleet(*measures, at: datetime = START) -> Fleet:
    indicators = [
        Indicator(f"i{number}", "", "", "count", measure, (), "") for number, measure in enumerate(measures or COUNTED)
    ]
    return Fleet(indicators, History([each.id for each in indicators]), at.timestamp())


def look(fleet: Fleet, seconds: float, *processes: Process, dead: tuple[Process, ...] = ()) -> None:
    told = [each.snapshot() for each in (*processes, *dead)]
    fleet.take(told, {each.name for each in processes}, START.timestamp() + seconds)


def test_who_was_there_before_is_counted_from_now_on():
    old, fleet = Process("worker-a-1", START - timedelta(days=1)), make_fleet()
    old.ran(500, "failure")
    look(fleet, 5, old)
    assert fleet.increase(FAILED, 600) == 0
    old.ran(3, "failure")
    look(fleet, 10, old)
    assert fleet.increase(FAILED, 600) == 3


def test_who_starts_later_is_counted_from_its_beginning():
    fleet = make_fleet()
    look(fleet, 5)
    young = Process("worker-a-2", START + timedelta(seconds=7))
    young.ran(4, "failure")
    look(fleet, 10, young)
    assert fleet.increase(FAILED, 600) == 4


def test_killed_scaled_to_three_and_back_to_one_nothing_grows_by_itself():
    fleet = make_fleet()
    first = Process("worker-a-1", START - timedelta(hours=1))
    first.ran(1000)
    first.ran(100, "failure")
    look(fleet, 5, first)
    first.ran(10)
    look(fleet, 10, first)
    three = [Process(f"worker-b-{n}", START + timedelta(seconds=11)) for n in range(3)]
    for each in three:
        each.ran(10)
    look(fleet, 15, *three, dead=(first,))  # killed: its last words stay for a quarter of an hour
    look(fleet, 20, *three, dead=(first,))
    look(fleet, 25, three[0], dead=(first, *three[1:]))
    look(fleet, 30, three[0])  # and are forgotten
    look(fleet, 35, three[0], dead=(first,))  # should Redis tell of them once more
    assert fleet.increase(FAILED, 600) == 0
    assert fleet.increase(ENDED, 600) == 40


def test_started_again_under_its_own_name_it_counts_from_zero():
    fleet = make_fleet()
    before = Process("worker-container-1", START - timedelta(hours=1))
    before.ran(1000, "failure")
    look(fleet, 5, before)
    after = Process("worker-container-1", START + timedelta(seconds=6))
    after.ran(2, "failure")
    look(fleet, 10, after)
    assert fleet.increase(FAILED, 600) == 2


def test_silent_for_a_while_nothing_is_lost():
    fleet, worker = make_fleet(), Process("worker-a-1", START - timedelta(hours=1))
    look(fleet, 5, worker)
    worker.ran(7, "failure")
    for seconds in range(10, 600, 5):
        look(fleet, seconds)  # Redis is away
    look(fleet, 600, worker)
    assert fleet.increase(FAILED, 300) == 7


def test_a_window_forgets():
    fleet, worker = make_fleet(), Process("worker-a-1", START - timedelta(hours=1))
    look(fleet, 0, worker)
    for seconds in range(5, 1300, 5):
        if seconds == 100:
            worker.ran(5, "failure")
        look(fleet, seconds, worker)
        expected = 5 if 100 <= seconds < 700 else 0
        assert fleet.increase(FAILED, 600) == pytest.approx(expected), seconds


def test_what_nobody_tells_of_is_unknown_and_not_zero():
    fleet = make_fleet()
    look(fleet, 5)
    assert fleet.increase(FAILED, 600) is None
    assert fleet.buckets(LASTS, 600) is None
    assert Ratio((FAILED,), (ENDED,), 600).value(fleet) is None


def test_a_percentile_is_that_of_the_window_and_of_all_processes():
    fleet = make_fleet()
    one, two = (Process(f"worker-{name}-1", START - timedelta(hours=1)) for name in "ab")
    one.ran(10_000, seconds=0.001)
    look(fleet, 5, one, two)
    one.ran(50, seconds=0.3)
    two.ran(50, seconds=20)
    look(fleet, 10, one, two)
    # 50 of 100 in (0.2, 0.5], 50 in (10, 30]: the 95th is nine tenths into the last.
    assert Quantile(0.95, LASTS, 600).value(fleet) == pytest.approx(28)
    assert Quantile(0.25, LASTS, 600).value(fleet) == pytest.approx(0.35)


def test_gauges_are_those_of_the_living():
    fleet = make_fleet()
    one, two = (Process(f"worker-{name}-1", START) for name in "ab")
    for each in (one, two):
        each.metrics._kind = None
        each.metrics.ws_connections.set(5)
        each.metrics.beat_last_tick_timestamp_seconds.set(START.timestamp())
        each.metrics.db_pool_connections.set(4, pool="ottoai_app", state="used")
        each.metrics.db_pool_max_connections.set(10, pool="ottoai_app")
        each.metrics.db_pool_connections.set(1, pool="ottoai_system", state="used")
        each.metrics.db_pool_max_connections.set(2, pool="ottoai_system")
    look(fleet, 40, one, dead=(two,))
    assert Level(Select("ws_connections"), "sum").value(fleet) == 5
    assert Age(Select("beat_last_tick_timestamp_seconds")).value(fleet) == 40
    used, most = Select("db_pool_connections", {"state": "used"}), Select("db_pool_max_connections")
    assert Fullness(used, most, by=("pool",)).value(fleet) == 0.5
    look(fleet, 45, one, two)
    assert Level(Select("ws_connections"), "sum").value(fleet) == 10


def test_what_was_counted_before_a_restart_is_still_in_the_window():
    before = make_fleet()
    worker = Process("worker-a-1", START - timedelta(hours=1))
    look(before, 0, worker)
    worker.ran(6, "failure", seconds=0.3)
    look(before, 60, worker)
    look(before, 120, worker)
    begin = START.timestamp()
    minutes = [
        (START + timedelta(minutes=n), before.grown_between(begin + 60 * n, begin + 60 * n + 60)) for n in range(2)
    ]
    after = make_fleet(at=START + timedelta(seconds=130))
    after.restore(minutes)
    look(after, 135, worker)
    assert after.increase(FAILED, 600) == 6
    assert Quantile(0.5, LASTS, 600).value(after) == pytest.approx(0.35)
    worker.ran(1, "failure")
    look(after, 140, worker)
    assert after.increase(FAILED, 600) == 7


@given(st.data())
def test_all_that_happened_is_counted_once_whatever_comes_and_goes(data):
    fleet, alive, counted, names = make_fleet(), [], 0, iter(range(1000))
    seconds = 0.0
    look(fleet, seconds)
    for _ in range(data.draw(st.integers(1, 25))):
        seconds += 5
        begun = START + timedelta(seconds=seconds - 1)
        alive += [Process(f"worker-x-{next(names)}", begun) for _ in range(data.draw(st.integers(0, 2)))]
        for each in alive:
            times = data.draw(st.integers(0, 3))
            each.ran(times, "failure")
            counted += times
        gone = [each for each in alive if data.draw(st.booleans())] if data.draw(st.booleans()) else []
        heard = [each for each in alive if each in gone or data.draw(st.booleans())]  # the last words are always heard
        alive = [each for each in alive if each not in gone]
        look(fleet, seconds, *(each for each in heard if each not in gone), dead=tuple(gone))
    look(fleet, seconds + 5, *alive)
    assert (fleet.increase(FAILED, 10_000) or 0) == counted


def test_who_counts_the_whole_and_none_of_a_part_says_that_there_is_none():
    """A share of failures is 0, not unknown, while nothing has failed; even if failures have no series yet."""
    part, whole = Select("http_requests_total", {"status": ("500", "503")}), Select("http_requests_total")
    fleet, metrics = make_fleet(Ratio((part,), (whole,), 300)), Metrics("1", "api")
    for seconds in (0, 5):
        metrics.http_requests_total.inc(method="GET", route="/api/calls", status="200")
        told = Snapshot(
            kind="api", name="api-h-1", host="h", pid=1, version="1", started_at=START, at=START,
            metrics_text=metrics.render(),
        )  # fmt: skip
        fleet.take([told], {"api-h-1"}, START.timestamp() + seconds)
    assert Ratio((part,), (whole,), 300).value(fleet) == 0


def test_who_is_heard_again_after_a_long_outage_of_redis_is_not_counted_twice():
    fleet = make_fleet()
    look(fleet, 5)
    worker = Process("worker-a-1", START + timedelta(seconds=7))
    worker.ran(400, "failure")
    look(fleet, 10, worker)
    for minute in range(1, 90):
        look(fleet, 10 + 60 * minute)
    worker.ran(3, "failure")
    look(fleet, 10 + 60 * 90, worker)
    assert fleet.increase(FAILED, 600) == 0
    worker.ran(2, "failure")
    look(fleet, 15 + 60 * 90, worker)
    assert fleet.increase(FAILED, 600) == 2


def test_a_clock_that_is_set_back_moves_nothing_in_or_out_of_a_window():
    worker, fleet = Process("worker-a-1", START - timedelta(days=1)), make_fleet()
    look(fleet, 5, worker)
    worker.ran(50, "failure")
    for second in range(10, 1300, 10):
        look(fleet, second, worker)
    worker.ran(7, "failure")
    back = -2 * 3600
    look(fleet, 1300 + back, worker)
    look(fleet, 1305 + back, worker)
    assert fleet.increase(FAILED, 600) == 7
    for second in range(1310, 2000, 10):
        look(fleet, second + back, worker)
    assert fleet.increase(FAILED, 600) == 0
    young = Process("worker-a-2", START + timedelta(seconds=2000 + back))
    young.ran(4, "failure")
    look(fleet, 2005 + back, worker, young)
    assert fleet.increase(FAILED, 600) == 4


@given(st.lists(st.floats(0.5, 30), min_size=80, max_size=150))
def test_of_old_looks_one_a_minute_is_kept(pauses: list[float]):
    """However fast looks came: an open /ops has them come at once."""
    fleet, at = make_fleet(), 0.0
    for pause in pauses:
        at += pause
        look(fleet, at)
    minutes = [each.at // 60 for each in fleet._looks if each.at <= fleet.now - FINE][1:]  # the first is the beginning
    assert len(minutes) == len(set(minutes))
