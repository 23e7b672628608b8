"""When a text may go out."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ottoai import samples, weekly
from ottoai.domain import hours
from ottoai.errors import InvalidInput

OFFICE = hours.parse("Mon-Fri 09:00-17:00", "America/New_York")
ALWAYS = hours.parse("always", "America/New_York")
NEW_YORKER, HAWAIIAN = "+12125550100", "+18085550100"
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "phone", "expected"),
    [
        ("2026-11-23T10:00-05:00", NEW_YORKER, "2026-11-23T10:00-05:00"),  # a Monday, open
        ("2026-11-23T08:30-05:00", NEW_YORKER, "2026-11-23T09:00-05:00"),  # before opening
        ("2026-11-20T17:00-05:00", NEW_YORKER, "2026-11-23T09:00-05:00"),  # closed for the weekend
        ("2026-11-23T09:00-05:00", HAWAIIAN, "2026-11-23T13:00-05:00"),  # four in the morning there
        ("2026-03-06T18:00-05:00", NEW_YORKER, "2026-03-09T09:00-04:00"),  # over the change of clocks
    ],
)
def test_office_hours(now, phone, expected):
    assert hours.first_text_at(at(now), OFFICE, phone) == at(expected)


def test_always_open_still_sleeps_where_the_phone_is():
    assert hours.first_text_at(at("2026-11-23T23:00-05:00"), ALWAYS, NEW_YORKER) == at("2026-11-24T08:00-05:00")
    assert hours.first_text_at(at("2026-11-23T23:00-05:00"), ALWAYS, HAWAIIAN) == at("2026-11-23T23:00-05:00")


def test_hours_that_never_meet_the_day_give_way_to_it():
    night = hours.parse("Mon-Sun 02:00-05:00", "America/New_York")
    assert hours.first_text_at(at("2026-11-23T12:00-05:00"), night, NEW_YORKER) == at("2026-11-23T12:00-05:00")


# In Guam it is night while an office in New York is open: the two never meet, which is the test above.
meeting = st.tuples(st.sampled_from([NEW_YORKER, HAWAIIAN, "+442079460123"]), st.sampled_from([OFFICE, ALWAYS]))


@given(moments, meeting | st.just(("+16715550100", ALWAYS)))
def test_never_early_never_at_night_always_open(now, met):
    phone, opening = met
    due = hours.first_text_at(now, opening, phone)
    assert due >= now
    for zone in hours.phone_zones(phone, opening.zone):
        assert hours.NIGHT_ENDS <= due.astimezone(zone).time() < hours.NIGHT_BEGINS
    assert hours.next_opening(due, opening) == due
    assert hours.first_text_at(due, opening, phone) == due


CHRISTMAS = hours.parse("Mon-Fri 09:00-17:00", "America/New_York", [date(2026, 12, 25), date(2026, 12, 28)])


@pytest.mark.parametrize(
    ("now", "opening", "phone", "expected"),
    [
        ("2026-12-24T17:00-05:00", CHRISTMAS, NEW_YORKER, "2026-12-29T09:00-05:00"),  # Friday, weekend, Monday
        ("2026-12-25T10:00-05:00", CHRISTMAS, NEW_YORKER, "2026-12-29T09:00-05:00"),
        ("2026-12-25T10:00-05:00", hours.parse("always", "America/New_York", [date(2026, 12, 25)]), HAWAIIAN,
         "2026-12-26T00:00-05:00"),  # its date is the tenant's, not the phone's
        ("2026-12-25T10:00-05:00", hours.parse("always", "America/New_York", [date(2026, 12, 25)]), NEW_YORKER,
         "2026-12-26T08:00-05:00"),
    ],
)  # fmt: skip
def test_holidays_are_closed_all_day(now, opening, phone, expected):
    assert hours.first_text_at(at(now), opening, phone) == at(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("always", "2027-11-27T08:00-05:00"),
        ("Mon-Fri 09:00-17:00", "2027-11-29T09:00-05:00"),
        ("Thu 09:00-09:01", "2027-12-02T09:00-05:00"),
        ("Mon-Sun 02:00-05:00", "2027-11-27T08:00-05:00"),  # never meets the day
    ],
)
def test_however_long_the_holidays_are_nobody_is_texted_on_one(text, expected):
    year = [date(2026, 11, 26) + timedelta(days=n) for n in range(366)]
    opening = hours.parse(text, "America/New_York", year)
    assert hours.first_text_at(at("2026-11-26T10:00-05:00"), opening, NEW_YORKER) == at(expected)


def test_the_one_open_day_of_the_week_may_be_a_holiday_for_a_year():
    thursdays = [date(2026, 11, 26) + timedelta(weeks=n) for n in range(52)]
    opening = hours.parse("Thu 09:00-17:00", "America/New_York", thursdays)
    assert hours.first_text_at(at("2026-11-26T10:00-05:00"), opening, NEW_YORKER) == at("2027-11-25T09:00-05:00")


@pytest.mark.parametrize(
    ("text", "moment", "open_time", "expected"),
    [
        ("Mon-Fri 09:00-17:00", "2026-11-23T10:00-05:00", 120, "2026-11-23T12:00-05:00"),
        ("Mon-Fri 09:00-17:00", "2026-11-23T15:00-05:00", 120, "2026-11-23T17:00-05:00"),  # as it closes
        ("Mon-Fri 09:00-17:00", "2026-11-20T16:00-05:00", 120, "2026-11-23T10:00-05:00"),  # over a weekend
        ("Mon-Fri 09:00-17:00", "2026-11-23T03:00-05:00", 960, "2026-11-24T17:00-05:00"),
        ("Mon-Fri 09:00-12:00, Mon 11:00-13:00", "2026-11-23T10:00-05:00", 180, "2026-11-23T13:00-05:00"),  # overlap
        ("Sun 01:00-04:00", "2026-03-08T00:00-05:00", 90, "2026-03-08T03:30-04:00"),  # 02:00 to 03:00 is not there
        ("Sun 02:30-04:00", "2026-03-08T00:00-05:00", 1, "2026-03-08T03:01-04:00"),  # opens in the gap: after it
        ("Sun 01:00-03:00", "2026-11-01T00:00-04:00", 180, "2026-11-01T03:00-05:00"),  # 01:00 to 02:00 is there twice
        ("always", "2026-03-07T12:00-05:00", 1440, "2026-03-08T13:00-04:00"),
        ("Mon 20:00-24:00", "2026-11-23T22:00-05:00", 120, "2026-11-24T00:00-05:00"),  # closes at midnight
        ("Mon 20:00-24:00", "2026-11-23T22:00-05:00", 121, "2026-11-30T20:01-05:00"),
        ("Mon 20:00-24:00, Tue 00:00-02:00", "2026-11-23T22:00-05:00", 180, "2026-11-24T01:00-05:00"),  # over midnight
    ],
)
def test_open_time_passes(text, moment, open_time, expected):
    opening = hours.parse(text, "America/New_York")
    assert hours.after_open_time(at(moment), timedelta(minutes=open_time), opening) == at(expected)


def test_who_is_never_open_so_long_has_no_such_moment():
    assert (
        hours.after_open_time(at("2026-11-23T10:00Z"), timedelta(hours=3), hours.parse("Mon 09:00-10:00", "UTC"))
        is None
    )


# Zones with the dates at which their clocks are set: by an hour or half of one, at night or at midnight, or never.
CHANGES = {
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Denver": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Havana": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Santiago": (date(2026, 4, 4), date(2026, 9, 6)),
    "Pacific/Honolulu": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),
    "Pacific/Apia": (date(2011, 12, 29), date(2011, 12, 31)),  # the 30th was left out
}
DAYS_AROUND = 3


@st.composite
def schedules(draw):
    """A tenant's hours, often odd ones, and a minute shortly before its clocks are set."""
    name = draw(st.sampled_from(sorted(CHANGES)))
    change = draw(st.sampled_from(CHANGES[name]))
    spans = []
    for _ in range(draw(st.integers(0, 3))):
        first, last = draw(st.sampled_from(weekly.DAYS)), draw(st.sampled_from(weekly.DAYS))
        opens = draw(st.integers(0, 24 * 60 - 1) | st.integers(0, 4 * 60))  # the clocks are set early in the day
        closes = draw(st.integers(opens + 1, min(24 * 60, opens + 600)))
        spans.append(f"{first}-{last} {opens // 60:02}:{opens % 60:02}-{closes // 60:02}:{closes % 60:02}")
    days = [change + timedelta(days=n) for n in range(-1, DAYS_AROUND)]
    holidays = draw(st.lists(st.sampled_from(days), max_size=2))
    midnight = datetime.combine(change, datetime.min.time(), ZoneInfo(name)).astimezone(UTC)
    moment = midnight + timedelta(minutes=draw(st.integers(-1440, 360)))
    return hours.parse(", ".join(spans) or "always", name, holidays), moment


def is_open(moment, opening):
    """The same by looking at the clock on the wall, a minute at a time: the oracle."""
    wall = moment.astimezone(opening.zone)
    shown = timedelta(hours=wall.hour, minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)
    return wall.date() not in opening.holidays and (
        not opening.spans
        or any(wall.weekday() in days and opens <= shown < closes for days, opens, closes in opening.spans)
    )


def minutes_from(moment):
    return (moment + timedelta(minutes=n) for n in range(DAYS_AROUND * 1440))


@given(schedules())
def test_the_next_opening_is_that_of_the_clock_on_the_wall(given):
    opening, moment = given
    expected = next((minute for minute in minutes_from(moment) if is_open(minute, opening)), None)
    found = hours.next_opening(moment, opening)
    assert found == expected or (expected is None and (found is None or found >= moment + timedelta(days=DAYS_AROUND)))
    assert found is None or is_open(found, opening)


@given(schedules(), st.integers(1, 2880))
def test_open_time_is_that_of_the_clock_on_the_wall(given, minutes):
    opening, moment = given
    passed = [minute for minute in minutes_from(moment) if is_open(minute, opening)]
    found = hours.after_open_time(moment, timedelta(minutes=minutes), opening)
    if len(passed) >= minutes:
        assert found == passed[minutes - 1] + timedelta(minutes=1)
    else:
        assert found is None or found >= moment + timedelta(days=DAYS_AROUND)


@given(schedules(), st.sampled_from([NEW_YORKER, HAWAIIAN, "+61291234567"]))
def test_the_first_text_is_at_the_first_minute_that_is_open_and_no_night(given, phone):
    opening, moment = given
    zones = hours.phone_zones(phone, opening.zone)

    def allowed(minute):
        times = [minute.astimezone(zone).time() for zone in zones]
        return is_open(minute, opening) and all(hours.NIGHT_ENDS <= time < hours.NIGHT_BEGINS for time in times)

    expected = next((minute for minute in minutes_from(moment) if allowed(minute)), None)
    found = hours.first_text_at(moment, opening, phone)
    assert found == expected or expected is None
    assert found.astimezone(opening.zone).date() not in opening.holidays


spent = st.timedeltas(timedelta(microseconds=1), timedelta(days=2))


@given(schedules(), st.timedeltas(timedelta(0), timedelta(days=3)), spent, spent)
def test_open_time_adds_up(given, later, one, other):
    opening, moment = given
    moment += later
    together = hours.after_open_time(moment, one + other, opening)
    assume(together is not None)
    first = hours.after_open_time(moment, one, opening)
    second = hours.after_open_time(first, other, opening)
    assume(second is not None)  # past a holiday the horizon ends earlier
    assert second == together
    assert moment + one <= first < together
    assert is_open(first - timedelta(microseconds=1), opening)  # while it is open, or as it closes


@given(moments)
def test_a_sample_is_always_texted_at_once(now):
    phone = samples.daytime_phone(now)
    assert hours.first_text_at(now + timedelta(minutes=30), ALWAYS, phone) == now + timedelta(minutes=30)


@pytest.mark.parametrize(
    "text",
    ["", "Mon", "Mon-Fri", "Mon-Fri 17:00-09:00", "Mon-Fri 09:00-25:00", "Noday 09:00-17:00", "Mon 09:00-09:60",
     "Mon 09:00-24:01", "Mon 24:00-24:00", "Mon 24:00-09:00", "Mon 09:00-17:00,", "always, Mon 09:00-17:00"],
)  # fmt: skip
def test_bad_hours_are_refused(text):
    with pytest.raises(InvalidInput, match="hours"):
        hours.parse(text, "UTC")


def test_bad_zone_is_refused():
    for zone in ("Mars/Base", "", "../etc/passwd"):
        with pytest.raises(InvalidInput, match="timezone"):
            hours.parse("always", zone)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("214-555-0123", "+12145550123"),
        ("+44 20 7946 0123", "+442079460123"),
        ("anonymous", None),
        ("", None),
        ("7", None),
    ],
)
def test_phones_are_normalised(text, number):
    assert hours.e164(text) == number
