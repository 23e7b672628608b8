"""When an alert begins, fires and ends, over any course of readings."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai import tally
from ottoai.indicators import INDICATORS, Bound, Indicator
from ottoai.measures import Level, Select
from ottoai.ops.alerts import BLANK, SETTLED, SETTLED_QUICK, Alert, Alerts, settled, threshold
from ottoai.ops.monitor import EVERY
from ottoai.ops.reading import Reading, reading

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
BAD, WORSE, GOOD, NONE, UNMET = 5.0, 20.0, 0.0, None, "unmet"


def indicator(*bounds: Bound) -> Indicator:
    return Indicator("queue", "Jobs", "Queue", "count", Level(Select("rq_queue_length")), bounds, "More workers.")


def read(of: Indicator, value: object, now: datetime) -> Reading:
    if value == UNMET:
        return reading(of, (WORSE, "none", "outside business hours"), now)
    number = value if isinstance(value, float) else None
    return reading(of, (number, of.verdict(number), "" if number is not None else "no data"), now)


class Course:
    """One process's alerts, look by look. `told`: (time, name, state) of what fired and resolved."""

    def __init__(self, of: Indicator) -> None:
        self.of = of
        self.now = START
        self.alerts = Alerts([of])
        self.told: list[tuple[datetime, str, str]] = []
        self._fired: set[str] = set()

    def look(self, value: object, after: float = 5.0) -> None:
        self.now += timedelta(seconds=after)
        over = self.alerts.look([read(self.of, value, self.now)], self.now)
        for alert in over:
            assert alert.state in {"pending", "resolved"}
            assert (alert.state == "resolved") == (alert.name in self._fired)
        for alert in [*self.alerts.active, *over]:
            if alert.fired_at == self.now:
                self.told.append((self.now, alert.name, "firing"))
                self._fired.add(alert.name)
            if alert.resolved_at == self.now:
                self.told.append((self.now, alert.name, "resolved"))
                self._fired.remove(alert.name)

    def restart(self) -> None:
        """Another process, which knows what is in the rows."""
        rows = msgspec.json.decode(msgspec.json.encode(self.alerts.active), type=list[Alert])
        self.alerts = Alerts([self.of])
        assert self.alerts.adopt([msgspec.structs.replace(row, id=n) for n, row in enumerate(rows)]) == []

    def firing(self) -> list[str]:
        return [each.name for each in self.alerts.active if each.state == "firing"]


bounds = st.builds(Bound, st.just("warning"), st.just(">"), st.just(1.0), st.sampled_from([0.0, 30.0, 60.0, 600.0]))
looks = st.lists(
    st.tuples(st.sampled_from([BAD, BAD, WORSE, GOOD, NONE, UNMET]), st.sampled_from([5.0, 5.0, 20.0, 100.0])),
    max_size=80,
)


@given(bounds, looks)
def test_it_fires_exactly_when_its_bound_was_passed_for_long_enough(bound, found):
    course = Course(indicator(bound))
    passed_since = None
    for value, after in found:
        fired_before = course.firing()
        course.look(value, after)
        if value not in {BAD, WORSE}:
            passed_since = None
        elif passed_since is None:
            passed_since = course.now
        due = passed_since is not None and (course.now - passed_since).total_seconds() >= bound.seconds
        if not fired_before:
            assert bool(course.firing()) == due
        else:
            assert course.firing() or course.told[-1][2] == "resolved"


@given(bounds, looks)
def test_each_that_fired_resolves_once_and_only_after_it_was_quiet(bound, found):
    course = Course(indicator(bound))
    latest_passed, data_until = START, START
    for value, after in [*found, *[(GOOD, 60.0)] * 7]:
        before = len(course.told)
        course.look(value, after)
        if value in {BAD, WORSE}:
            latest_passed = course.now
        if (course.now, "queue.warning", "resolved") in course.told[before:]:
            assert value not in {BAD, WORSE}
            assert course.now - latest_passed >= settled(bound) or course.now - data_until >= BLANK
        if value is not NONE:
            data_until = course.now
    assert course.alerts.active == []
    assert [state for _, _, state in course.told] == ["firing", "resolved"] * (len(course.told) // 2)


@given(bounds, st.floats(1, 59), st.integers(1, 40))
def test_flapping_is_told_once(bound, period, times):
    """Any swing that is shorter than the time in which an alert settles."""
    course = Course(indicator(bound))
    for _ in range(150):
        course.look(BAD, 5.0)
    for _ in range(times):
        course.look(GOOD, period / 2)
        course.look(NONE, period / 4)
        course.look(BAD, period / 4)
    assert [state for _, _, state in course.told] == ["firing"]


@given(bounds, looks, st.sets(st.integers(0, 80)))
def test_a_restart_in_between_changes_nothing(bound, found, restarts):
    steady, restarted = Course(indicator(bound)), Course(indicator(bound))
    for number, (value, after) in enumerate(found):
        steady.look(value, after)
        if number in restarts:
            restarted.restart()
        restarted.look(value, after)
    assert restarted.told == steady.told


@given(looks)
def test_its_worst_value_is_kept(found):
    for op, worst in ((">", max), ("<", min)):
        course = Course(indicator(Bound("warning", op, 1.0 if op == ">" else 30.0, 0)))
        seen: list[float] = []
        for value, after in found:
            before = course.firing()
            course.look(value, after)
            passed = isinstance(value, float) and (value > 1.0 or op == "<")
            if not before:
                seen = []
            if passed:
                seen.append(value)
            for alert in course.alerts.active:
                assert alert.value == worst(seen)


@pytest.mark.parametrize(
    ("seconds", "damping"), [(0, SETTLED_QUICK), (30, SETTLED_QUICK), (60, SETTLED), (600, SETTLED)]
)
def test_how_long_it_must_be_quiet(seconds, damping):
    course = Course(indicator(Bound("critical", ">", 1.0, seconds)))
    course.look(BAD)
    course.look(BAD, seconds)
    course.look(GOOD)
    course.look(GOOD, damping.total_seconds() - 1)
    assert course.firing() == ["queue.critical"]
    course.look(GOOD, 1)
    assert course.firing() == []


@pytest.mark.parametrize("process", ["worker", "beat"])
def test_a_process_that_died_is_told_of_within_a_minute(process):
    """Also where another api process looked just before: it says for a look and a snapshot more that all is well."""
    (bound,) = next(each.bounds for each in INDICATORS if each.id == process)
    said_by_others = EVERY + tally.EVERY_SECONDS
    assert tally.ALIVE_SECONDS + said_by_others + EVERY + bound.seconds <= 60


def test_an_alert_outlives_its_data_but_not_for_ever():
    course = Course(indicator(Bound("critical", ">", 1.0, 0)))
    course.look(BAD)
    course.look(NONE)
    course.look(NONE, BLANK.total_seconds() - 1)
    assert course.firing() == ["queue.critical"]
    course.look(NONE, 1)
    assert course.firing() == []


def test_no_data_fires_nothing():
    course = Course(indicator(Bound("critical", ">", 1.0, 60)))
    course.look(BAD)
    course.look(NONE, 59)
    course.look(BAD, 1)
    assert course.told == []
    assert [each.state for each in course.alerts.active] == ["pending"]


def test_what_is_not_to_be_judged_is_not_passed():
    """Outside business hours nobody is there, and an alert about that is over."""
    course = Course(indicator(Bound("critical", ">", 1.0, 0)))
    course.look(WORSE)
    course.look(UNMET)
    course.look(UNMET, 60)
    assert [state for _, _, state in course.told] == ["firing", "resolved"]


def test_a_worse_alert_of_the_same_indicator_inhibits():
    course = Course(indicator(Bound("warning", ">", 1.0, 0), Bound("critical", ">", 10.0, 0)))
    course.look(BAD)
    (warning,) = course.alerts.active
    assert not course.alerts.inhibited(warning)
    course.look(WORSE)
    critical, warning = course.alerts.active
    assert (critical.level, warning.level) == ("critical", "warning")
    assert course.alerts.inhibited(warning)
    assert not course.alerts.inhibited(critical)
    course.look(BAD)
    course.look(BAD, 60)
    (warning,) = course.alerts.active
    assert not course.alerts.inhibited(warning)


def test_a_bound_that_there_is_no_more_ends_its_alert():
    course = Course(indicator(Bound("critical", ">", 1.0, 0)))
    course.look(BAD)
    rows = [msgspec.structs.replace(each, id=1) for each in course.alerts.active]
    other = Alerts([indicator(Bound("warning", ">", 1.0, 0))])
    assert other.adopt(rows) == rows
    assert other.active == []


def test_what_another_process_ended_is_over_here_too():
    course = Course(indicator(Bound("critical", ">", 1.0, 0)))
    course.look(BAD)
    (alert,) = course.alerts.active
    course.alerts.adopt([])
    assert course.alerts.active == [alert]  # not written yet: nobody else can know
    course.alerts.put(msgspec.structs.replace(alert, id=7))
    course.alerts.adopt([])
    assert course.alerts.active == []


def test_threshold_in_words():
    of = indicator(Bound("warning", ">=", 100.0, 120))
    assert threshold(of, of.bounds[0]) == "≥ 100 for 2m"


def test_a_clock_that_is_set_back_keeps_no_alert_from_firing_or_ending():
    course = Course(indicator(Bound("critical", ">", 1.0, 600.0)))
    course.look(BAD)
    course.look(BAD, after=-3600)
    assert course.firing() == ["queue.critical"]
    course.look(GOOD)
    course.look(GOOD, after=-3600)
    assert course.firing() == []
