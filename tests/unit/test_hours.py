"""When a text may go out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai import samples
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


@given(moments)
def test_a_sample_is_always_texted_at_once(now):
    phone = samples.daytime_phone(now)
    assert hours.first_text_at(now + timedelta(minutes=30), ALWAYS, phone) == now + timedelta(minutes=30)


@pytest.mark.parametrize(
    "text", ["", "Mon", "Mon-Fri", "Mon-Fri 17:00-09:00", "Mon-Fri 09:00-25:00", "Noday 09:00-17:00"]
)
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
