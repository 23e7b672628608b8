"""What the watch remembers of the indicators: a day by the minute, a month by the hour, and no more."""

from datetime import UTC, datetime, timedelta

from ottoai.ops.history import HOURS, History

BEGUN = datetime(2026, 3, 2, tzinfo=UTC)


def test_hours_are_kept_for_a_month_and_then_forgotten():
    history = History(["http_p95"])
    for hour in range(2 * HOURS):
        history.add_hour(BEGUN + timedelta(hours=hour), {"http_p95": float(hour)})
    remembered = [
        history.around("http_p95", (BEGUN + timedelta(hours=hour, minutes=30)).timestamp()) for hour in range(2 * HOURS)
    ]
    assert remembered[HOURS:] == list(range(HOURS, 2 * HOURS))
    assert remembered[: HOURS - 24] == [None] * (HOURS - 24), "a day is forgotten at a time"
