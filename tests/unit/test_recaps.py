"""Which day of a tenant's is over."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.domain.recaps import last_day

ZONES = ("America/New_York", "America/Denver", "Pacific/Honolulu", "Pacific/Kiritimati", "Pacific/Pago_Pago",
         "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana", "UTC")  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "now", "day", "hours"),
    [
        ("America/New_York", "2026-11-24T22:59:59Z", date(2026, 11, 23), 24),
        ("America/New_York", "2026-11-24T23:00:00Z", date(2026, 11, 24), 24),
        ("America/New_York", "2026-03-08T22:00:00Z", date(2026, 3, 8), 23),
        ("America/New_York", "2026-11-01T22:59:59Z", date(2026, 10, 31), 24),
        ("America/New_York", "2026-11-01T23:00:00Z", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", "2026-04-05T08:00:00Z", date(2026, 4, 5), 24.5),
        ("Pacific/Kiritimati", "2026-11-24T04:00:00Z", date(2026, 11, 24), 24),  # where it is 18:00 first
        ("Pacific/Pago_Pago", "2026-11-24T04:00:00Z", date(2026, 11, 22), 24),  # and, 25 hours later, last
        ("Pacific/Apia", "2011-12-31T03:59:59Z", date(2011, 12, 29), 24),
        ("Pacific/Apia", "2011-12-31T04:00:00Z", date(2011, 12, 31), 24),  # there was no 30th
    ],
)
def test_the_day_that_is_over(zone, now, day, hours):
    found = last_day(datetime.fromisoformat(now), ZoneInfo(zone))
    assert found.day == day
    assert found.until - found.since == timedelta(hours=hours)


@given(st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)), st.sampled_from(ZONES))
def test_days_follow_one_another_from_evening_to_evening(now, name):
    zone = ZoneInfo(name)
    found = last_day(now, zone)
    assert found.since < found.until <= now < found.until + timedelta(hours=26)
    for moment, day in ((found.until, found.day), (found.since, found.day - timedelta(days=1))):
        assert (moment.astimezone(zone).date(), moment.astimezone(zone).time()) == (day, time(18))
    assert last_day(found.until, zone) == found
    before = last_day(found.until - timedelta(microseconds=1), zone)
    assert (before.until, before.day) == (found.since, found.day - timedelta(days=1))
