"""What the watch remembers of the indicators: a day by the minute, a month by the hour, and no more."""

from datetime import UTC, datetime, timedelta

from ottoai.ops.history import HOURS, History

BEGUN = datetime(2026, 3, 2, tzinfo=UTC)


def test_a_peak_beyond_a_day_is_found_at_the_ends_of_hours():
    history = History(["ws_connections"])
    history.add_hour(BEGUN, {"ws_connections": 7.0})
    for hour in range(1, 60):
        history.add_hour(BEGUN + timedelta(hours=hour), {"ws_connections": 0.0})
    history.add_minute(BEGUN + timedelta(hours=60), {"ws_connections": (2.0, "ok")})
    assert history.peak("ws_connections", BEGUN.timestamp()) == 7
    assert history.peak("ws_connections", BEGUN.timestamp() + 1) == 2


def test_hours_are_kept_for_a_month_and_then_forgotten():
    history = History(["http_p95"])
    for hour in range(2 * HOURS):
        history.add_hour(BEGUN + timedelta(hours=hour), {"http_p95": float(hour)})
    remembered = [
        history.around("http_p95", (BEGUN + timedelta(hours=hour, minutes=30)).timestamp()) for hour in range(2 * HOURS)
    ]
    assert remembered[HOURS:] == list(range(HOURS, 2 * HOURS))
    assert remembered[: HOURS - 24] == [None] * (HOURS - 24), "a day is forgotten at a time"
