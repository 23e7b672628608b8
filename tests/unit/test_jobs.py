"""What of the background processes needs no store: backoff, what is kept of an error, entries, commands."""

import argparse
import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from jobs import __main__ as commands
from jobs import reconcile
from jobs.context import Retry
from jobs.failures import described, traced
from jobs.outage import LONGEST_WAIT, Outage
from jobs.run import JOBS, PERIODIC
from jobs.schedule import ENTRIES, Entry
from jobs.send_text import SEND_TEXT
from ottoai.errors import InvalidInput, StoreUnavailable
from ottoai.queue import QUEUES


def test_backoff_doubles_up_to_its_limit_and_is_spread():
    retry = Retry(attempts=9, first=2, longest=60)
    for attempt, longest in ((1, 2), (2, 4), (5, 32), (6, 60), (1000, 60)):
        waits = {retry.backoff(attempt).total_seconds() for _ in range(50)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_carriers_hiccup_is_outlasted_while_a_caller_still_waits():
    retry = SEND_TEXT.retry
    longest = sum(min(retry.longest, retry.first * 2**n) for n in range(retry.attempts - 1))
    assert 240 <= longest <= 480


def test_of_an_error_the_outbox_keeps_no_data_of_a_tenant():
    assert described(InvalidInput("in our own words")) == "InvalidInput: in our own words"
    with pytest.raises(ValueError, match="said no") as raised:
        raise ValueError("+12125550100 said no")
    assert described(raised.value).startswith("ValueError at test_jobs.py:")
    assert "+" not in described(raised.value)
    assert described(KeyError("+12125550100")) == "KeyError"


def refused(phone):
    raise ValueError(f"{phone} said no")


def deeper(phone, depth):
    if depth:
        return deeper(phone, depth - 1)
    return refused(phone)


def test_a_traceback_tells_where_and_in_our_own_words_only():
    phone = "+12125550100"
    with pytest.raises(StoreUnavailable) as raised:
        try:
            refused(phone)
        except ValueError as error:
            raise StoreUnavailable("in our own words") from error
    text = traced(raised.value)
    first, _, last = text.partition("\n\n")
    assert "  tests/unit/test_jobs.py:" in first
    assert ' in refused\n    raise ValueError(f"{phone} said no")\nValueError' in first
    assert last.endswith("\nStoreUnavailable: in our own words")
    assert phone not in text
    assert "/work" not in text, "no path of this machine"


def test_a_traceback_is_bounded_and_ends_where_it_happened():
    phone = "+12125550100"
    with pytest.raises(ExceptionGroup) as raised:
        try:
            deeper(phone, 300)
        except ValueError as inner:
            raise ExceptionGroup(phone, [inner, KeyError(phone)]) from inner
    raised.value.__cause__.__cause__ = raised.value  # a circle
    text = traced(raised.value)
    assert len(text) <= 8 * 1024
    assert text.endswith("\nExceptionGroup")
    assert "KeyError" in text
    assert phone not in text
    with pytest.raises(RecursionError) as raised:
        deeper(phone, 100_000)
    assert len(traced(raised.value)) <= 8 * 1024


def test_every_entry_of_the_schedule_is_a_job():
    assert {entry.name for entry in ENTRIES} <= PERIODIC.keys()
    assert not JOBS.keys() & PERIODIC.keys()


def test_calls_are_compared_every_five_minutes_and_a_tenant_is_due_each_time():
    (entry,) = (entry for entry in ENTRIES if entry.name == "reconcile")
    moment = datetime(2026, 7, 1, 23, 51, tzinfo=UTC)
    times = [moment := entry.next(moment) for _ in range(14)]
    assert {later - sooner for sooner, later in pairwise(times)} == {timedelta(minutes=5)}
    assert timedelta(minutes=5) > reconcile.INTERVAL


def test_recaps_are_looked_for_every_minute():
    (entry,) = (entry for entry in ENTRIES if entry.name == "recap")
    moment = datetime(2026, 7, 1, 23, 58, 30, tzinfo=UTC)
    times = [moment := entry.next(moment) for _ in range(4)]
    assert times[0] == datetime(2026, 7, 1, 23, 59, tzinfo=UTC)
    assert {later - sooner for sooner, later in pairwise(times)} == {timedelta(minutes=1)}


def test_entries_are_in_utc_wherever_the_machine_is(monkeypatch):
    now = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    assert Entry("a", cron="17 * * * *").next(now) == datetime(2026, 7, 2, 0, 17, tzinfo=UTC)
    assert Entry("a", cron="0 5 * * *").next(now) == datetime(2026, 7, 2, 5, 0, tzinfo=UTC)
    often = Entry("b", every=timedelta(seconds=15))
    assert (often.first(now), often.next(now)) == (now, now + timedelta(seconds=15))


def test_an_outage_is_waited_for_ever_more_patiently_but_never_long(caplog):
    caplog.set_level(logging.INFO)
    outage = Outage("Redis")
    outage.over()
    waits = [outage.lost(OSError("gone")) for _ in range(100)]
    assert waits[0] <= 0.2
    assert LONGEST_WAIT / 2 <= waits[-1] <= LONGEST_WAIT
    outage.over()
    outage.over()
    assert [record.getMessage() for record in caplog.records] == ["Redis lost", "Redis is back"]


def test_queues_are_named_in_the_order_of_their_urgency():
    parse = commands._parser().parse_args
    assert parse(["worker"]).queues == QUEUES
    assert parse(["worker", "--queues", "default, urgent"]).queues == ("default", "urgent")
    with pytest.raises(argparse.ArgumentTypeError):
        commands._queues("urgnt")


def test_a_bad_configuration_ends_with_its_message(monkeypatch, capsys, tmp_path):
    for name in ("ENVIRONMENT", "DATABASE_URL", "REDIS_URL", "JWT_SECRET", "SECRET_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert commands.main(["worker"]) == 2
    said = capsys.readouterr().err
    assert "ENVIRONMENT is not set" in said
    assert "DATABASE_URL is not set" in said
