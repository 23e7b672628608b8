"""The state machine of the rescue, without a database: what is due when."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.domain import hours, optout, rescue
from ottoai.domain.rescue import OPEN, STEPS, WINDOW, Rescue, decide

NEW_YORK = ZoneInfo("America/New_York")
PHONE = "+12125550100"
WORKDAYS = "Mon-Fri 09:00-17:00"


def at(text: str) -> datetime:
    """A time in New York."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def missed(called_at: datetime, *, open_at: str = WORKDAYS, holidays: tuple[date, ...] = (), **known: object) -> Rescue:
    opening = hours.parse(open_at, "America/New_York", holidays)
    fields = {"status": "queued", "step": 0, "phone": PHONE, "opening": opening, "sla": timedelta(hours=2)}
    return Rescue(called_at=called_at, **{**fields, **known})


def chase(first: Rescue) -> list[tuple[datetime, str]]:
    """What happens to a rescue that nobody answers, decided at each moment that was asked for."""
    told, known, now = [], first, first.called_at
    while True:
        decision = decide(known, now)
        if decision.text is not None:
            told.append((now, f"text {decision.text + 1}"))
        if decision.escalate:
            told.append((now, "escalated"))
        if decision.ends:
            told.append((now, "expired" if decision.ends == "time" else decision.ends))
            return told
        texted = decision.text is not None and known.status == "queued"
        status = "escalated" if decision.escalate else "texted" if texted else known.status
        known = msgspec.structs.replace(known, status=status, step=decision.step)
        assert decision.again_at is not None
        assert decision.again_at > now
        now = decision.again_at


def test_inside_opening_hours_each_step_is_at_its_minute():
    assert chase(missed(at("2026-11-24 10:10"))) == [
        (at("2026-11-24 10:10"), "text 1"),
        (at("2026-11-24 12:10"), "text 2"),
        (at("2026-11-24 12:10"), "escalated"),
        (at("2026-11-25 09:00"), "text 3"),  # +10 h is in the evening
        (at("2026-11-25 10:10"), "text 4"),
        (at("2026-11-26 10:10"), "expired"),
    ]


def test_steps_that_fall_into_one_night_are_one_text():
    assert chase(missed(at("2026-11-23 16:30"))) == [
        (at("2026-11-23 16:30"), "text 1"),
        (at("2026-11-24 09:00"), "text 2"),  # +10 h fell into the same night: passed over
        (at("2026-11-24 10:30"), "escalated"),  # half an hour yesterday, an hour and a half today
        (at("2026-11-24 16:30"), "text 4"),
        (at("2026-11-25 16:30"), "expired"),
    ]


def test_a_call_after_closing_is_texted_at_the_opening():
    assert chase(missed(at("2026-11-23 20:00")))[0] == (at("2026-11-24 09:00"), "text 1")


def test_holidays_are_closed():
    thanksgiving = (date(2026, 11, 26),)
    told = chase(missed(at("2026-11-25 16:00"), holidays=thanksgiving))
    assert told[:2] == [(at("2026-11-25 16:00"), "text 1"), (at("2026-11-27 09:00"), "text 2")]


def test_a_weekend_outlasts_the_chase_and_staff_is_asked_at_its_end():
    call = missed(at("2026-11-20 17:30"))  # a Friday
    assert chase(call) == [(at("2026-11-22 17:30"), "expired")]
    assert decide(call, at("2026-11-22 17:30")).call_back


def test_always_open_still_sleeps_where_the_phone_is():
    assert chase(missed(at("2026-11-23 22:00"), open_at="always"))[:2] == [
        (at("2026-11-24 00:00"), "escalated"),  # staff that is always there is asked at once
        (at("2026-11-24 08:00"), "text 1"),
    ]


def test_over_a_change_of_the_clocks_hours_are_hours_and_openings_are_on_the_wall():
    told = chase(missed(at("2026-10-31 22:00"), open_at="always"))  # clocks go back that night
    assert (at("2026-11-01 08:00"), "text 1") in told
    assert (at("2026-10-31 22:00") + timedelta(hours=24), "text 4") not in told  # 21:00 by then
    told = chase(missed(at("2026-10-31 12:00"), open_at="always"))
    assert (at("2026-11-01 11:00"), "text 4") in told  # 24 hours later, on the wall 23


@pytest.mark.parametrize(
    ("known", "ends", "call_back"),
    [
        ({"missed": False}, "answered_call", False),
        ({"opted_out": True}, "stop", True),
        ({"opted_out": True, "missed": False}, "answered_call", False),
    ],
)
def test_what_ends_a_rescue_before_anything_is_texted(known, ends, call_back):
    now = at("2026-11-24 10:00")
    decision = decide(missed(now, **known), now)
    assert (decision.ends, decision.call_back, decision.text, decision.again_at) == (ends, call_back, None, None)


def test_a_number_that_takes_no_texts_goes_to_staff_at_once():
    now = at("2026-11-24 10:00")
    decision = decide(missed(now, untextable=True), now)
    assert (decision.text, decision.escalate, decision.text_due_at) == (None, True, None)


def test_without_texts_staff_is_asked_in_time():
    call = missed(at("2026-11-24 10:00"), texts_enabled=False, sla=timedelta(minutes=30))
    assert chase(call) == [(at("2026-11-24 10:30"), "escalated"), (at("2026-11-26 10:00"), "expired")]


def test_a_caller_who_was_just_texted_about_another_call_is_not_texted_again():
    now = at("2026-11-24 10:00")
    decision = decide(missed(now, texted_elsewhere=True), now)
    assert (decision.text, decision.step, decision.text_due_at) == (None, 1, now + STEPS[1])


@pytest.mark.parametrize("state", sorted(set(rescue.STATES) - set(OPEN)))
def test_what_has_ended_is_left_alone(state):
    now = at("2026-11-24 10:00")
    decision = decide(missed(now, status=state), now + timedelta(days=9))
    assert (decision.text, decision.escalate, decision.ends, decision.again_at) == (None, False, None, None)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    st.sampled_from([WORKDAYS, "always", "Sat 10:00-12:00", "Mon-Sun 00:00-23:30", "Tue 03:00-04:00, Thu 20:00-23:00"]),
    st.sampled_from(["+12125550100", "+18085550100", "+16715550100", "+442079460100"]),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_whenever_a_worker_comes_late_no_rescue_texts_at_night_or_after_its_end(called, open_at, phone, delays):
    called_at = called.replace(tzinfo=UTC)
    known = missed(called_at, open_at=open_at, phone=phone)
    zones = hours.phone_zones(phone, NEW_YORK)
    now, late, texts = called_at, iter(delays), []
    for _ in range(20):
        decision = decide(known, now)
        if decision.text is not None:
            texts.append(decision.text)
            assert all(hours.NIGHT_ENDS <= now.astimezone(zone).time() < hours.NIGHT_BEGINS for zone in zones)
            assert now < called_at + WINDOW
        if decision.ends:
            assert now >= called_at + WINDOW
            break
        status = "escalated" if decision.escalate or known.status == "escalated" else "texted"
        known = missed(called_at, open_at=open_at, phone=phone, status=status, step=decision.step)
        now = decision.again_at + timedelta(minutes=next(late, 0))
    else:
        pytest.fail("it never ended")
    assert texts == sorted(set(texts))


def test_the_words_of_the_carriers():
    for body, word in {
        "STOP": "stop", " stop. ": "stop", "“Stop!!”": "stop", "Unsubscribe": "stop", "opt-out": "stop",
        "START": "start", "unstop": "start", "Yes": "yes", "HELP?": "help", "info": "help", "end of the day": None,
        "please stop by tomorrow": None, "Yes please": None, "": None, "🙂": None, "STOP " * 200: None,
    }.items():  # fmt: skip
        assert optout.word_of(body) == word, body


def test_texts_name_the_company_and_the_first_says_how_to_stop():
    assert rescue.text_of(0, "A {b} & Co", None, None).startswith("Hi, this is A {b} & Co. ")
    assert rescue.text_of(0, "A", None, None).endswith("Reply STOP to opt out.")
    assert rescue.text_of(0, "A", "We are {company}. STOP ends this.", None) == "We are A. STOP ends this."
    assert rescue.text_of(1, "A", "x", "Again {company}") == "Again A"
