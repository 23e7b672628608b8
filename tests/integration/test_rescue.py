"""Rescues from the call to their end, in a real database with the clock in hand."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from jobs.run import perform
from ottoai.db import sql_folder
from ottoai.domain import missed_calls, outbox, rescue, tenants
from ottoai.domain.rescue import MOVES, STATES
from ottoai.errors import Conflict
from ottoai.vault import Vault
from tests.conftest import SECRET_KEY, add_tenant, execute, of_tenant
from tests.stories import NOON, PHONE, telling

OTHER = "+12125550143"
HOUR = timedelta(hours=1)


@pytest.fixture
async def story(config, demo):
    async with telling(config) as told:
        yield told


async def test_a_rescue_that_nobody_answers(story, database_url):
    await story.call()
    await story.until(49 * HOUR)
    assert story.texts() == [(1, "sent"), (2, "sent"), (3, "sent"), (4, "sent")]
    assert story.rescues() == [("expired", "time")]
    assert story.tasks() == [("call_back", "open")]
    assert story.log("missed_call.%") == [
        "missed_call.queued", "missed_call.texted", "missed_call.escalated", "missed_call.texted",
        "missed_call.texted", "missed_call.texted", "missed_call.expired",
    ]  # fmt: skip
    at = of_tenant(database_url, "select sent_at from messages order by step")
    # +10 h is 22:00 in New York: at 8 the next morning. Then 24 h after the call.
    assert [moment - NOON for (moment,) in at] == [0 * HOUR, 2 * HOUR, 20 * HOUR, 24 * HOUR]
    assert execute(database_url, "select count(*) from outbox where state = 'open'") == [(0,)]
    assert {outcome.status for outcome in story.outcomes} == {"success"}
    [(first, escalated, ended)] = of_tenant(
        database_url, "select first_text_at, escalated_at, ended_at from missed_calls"
    )
    assert (first - NOON, escalated - NOON, ended - NOON) == (0 * HOUR, 2 * HOUR, 48 * HOUR)


@pytest.mark.parametrize(
    ("cause", "act", "tasks"),
    [
        ("reply", lambda story: story.text("Yes, please call me back"), "open"),
        ("reply", lambda story: story.text("yes"), "open"),
        ("answered_call", lambda story: story.call(answered=True), "done"),
        ("outbound_call", lambda story: story.call(direction="outbound", answered=None, rank=1), "done"),
        ("outbound_text", lambda story: story.text("We are on our way", ours=True), "done"),
        ("stop", lambda story: story.text("Stop."), "open"),
    ],
)
async def test_what_ends_a_rescue_ends_its_texts(story, cause, act, tasks):
    await story.call()
    await story.until(3 * HOUR)
    assert story.rescues() == [("escalated", None)]
    await act(story)
    ended = [move.after for move in MOVES if move.cause == cause]
    assert story.rescues() == [(ended[0], cause)]
    assert story.tasks() == [("call_back", tasks)]
    await story.until(60 * HOUR)
    assert story.texts() == [(1, "sent"), (2, "sent")] + ([(None, "sent")] if cause == "outbound_text" else [])
    assert story.log("missed_call.%")[-1] == f"missed_call.{ended[0]}"


async def test_help_and_a_voicemail_that_was_left_end_nothing(story):
    await story.call()
    await story.until(HOUR)
    await story.text("HELP")
    await story.call(answered=True, voicemail=True, phone=PHONE)
    assert [status for status, _ in story.rescues()] == ["texted", "queued"]


async def test_a_call_that_turns_out_to_have_been_answered_needs_no_rescue(story):
    await story.call(external_id="c1")
    await story.call(external_id="c1", answered=True, rank=4)
    await story.until(60 * HOUR)
    assert story.rescues() == [("recovered", "answered_call")]
    assert story.texts() == []


async def test_whoever_said_stop_is_not_texted_again_and_start_lifts_it(story, database_url):
    await story.text("STOP")
    await story.call()
    await story.until(HOUR)
    assert story.rescues() == [("opted_out", "stop")]
    assert story.tasks() == [("call_back", "open")]
    await story.text("START")
    assert of_tenant(database_url, "select count(*) from opt_outs") == [(0,)]
    await story.call()
    await story.until(HOUR)
    assert story.texts() == [(1, "sent")]


async def test_yes_of_who_had_opted_out_opts_in_and_is_no_reply(story):
    await story.call()
    await story.until(HOUR)
    await story.text("STOP")
    await story.text("Yes")
    await story.until(HOUR)
    await story.call()
    await story.until(HOUR)
    assert [status for status, _ in story.rescues()] == ["opted_out", "texted"]


async def test_a_stop_between_the_decision_and_the_carrier_is_in_time(story, database_url):
    """The text was written down and staged; it is not sent."""
    (job,) = (await story.call()).jobs
    await perform(story.context, job.id)
    assert story.texts() == [(1, "queued")]
    await story.text("STOP")
    await story.until(timedelta(minutes=5))
    assert story.texts() == [(1, "cancelled")]
    assert "telephony.sms.sent" not in story.log()
    assert of_tenant(database_url, "select count(*) from development_texts") == [(0,)]


async def test_texts_that_are_switched_off_between_the_decision_and_the_carrier_are_not_sent(story, database_url):
    """As for a text that waits over a night for the hours for texts."""
    (job,) = (await story.call()).jobs
    await perform(story.context, job.id)
    execute(database_url, "update tenants set texts_enabled = false")
    await story.until(timedelta(minutes=5))
    assert (story.texts(), story.rescues()) == ([(1, "cancelled")], [("queued", None)])
    assert of_tenant(database_url, "select text_due_at from missed_calls") == [(None,)]


async def test_replies_are_matched_inside_the_tenant_only(story, db, database_url):
    await add_tenant(db, "other", company="2", number="+14045550177")
    await story.call()
    await story.call(tenant="other")
    await story.until(HOUR)
    await story.text("Hello", tenant="other")
    await story.text("STOP", tenant="other", phone=PHONE)
    assert story.rescues() == [("texted", None)]
    story.tenant = "other"
    assert story.rescues() == [("recovered", "reply")]
    assert of_tenant(database_url, "select count(*) from opt_outs", tenant="demo") == [(0,)]


async def test_two_missed_calls_of_one_caller_are_one_conversation(story):
    await story.call()
    await story.until(timedelta(minutes=10))
    await story.call()
    await story.until(timedelta(minutes=10))
    assert story.texts() == [(1, "sent")]
    await story.until(72 * HOUR)
    assert len(story.texts()) == 4
    assert len(story.tasks()) == 1
    await story.call()
    await story.until(timedelta(minutes=1))
    assert len(story.texts()) == 5


async def test_a_reply_ends_all_open_rescues_of_the_caller_but_not_later_ones(story):
    await story.call()
    await story.until(HOUR)
    await story.call()
    await story.until(HOUR)
    await story.text("Hi")
    assert story.rescues() == [("recovered", "reply")] * 2
    await story.until(HOUR)
    await story.call()
    assert [status for status, _ in story.rescues()] == ["recovered", "recovered", "queued"]


async def test_calls_that_are_reported_too_late_are_expired_from_the_start(story):
    await story.call(started_at=story.clock.now - 49 * HOUR)
    await story.until(HOUR)
    assert (story.rescues(), story.texts(), story.tasks()) == ([("expired", None)], [], [])


async def test_a_tenants_own_words_hours_holidays_and_limits(story, database_url):
    execute(
        database_url,
        "update tenants set hours = 'Mon-Fri 09:00-17:00', holidays = '{2026-11-26}', sla_minutes = 30,"
        " first_text = 'Own {company}', follow_up_text = 'Again {company}'",
    )
    story.clock.now = datetime(2026, 11, 25, 21, 50, tzinfo=UTC)  # ten to five on the eve of the holiday
    await story.call()
    await story.until(datetime(2026, 11, 27, 14, 1, tzinfo=UTC))
    assert of_tenant(database_url, "select body, sent_at from messages order by step") == [
        ("Own Demo Reply STOP to opt out.", datetime(2026, 11, 25, 21, 50, tzinfo=UTC)),
        ("Again Demo", datetime(2026, 11, 27, 14, 0, tzinfo=UTC)),
    ]
    assert story.rescues() == [("texted", None)]
    await story.until(timedelta(minutes=20))  # ten open minutes then, twenty now
    assert story.rescues() == [("escalated", None)]


async def test_what_was_decided_at_closing_goes_out_after_it(story, database_url):
    execute(database_url, "update tenants set hours = 'Mon-Fri 09:00-17:00'")
    story.clock.now = datetime(2026, 11, 24, 21, 59, tzinfo=UTC)  # a minute to five
    (job,) = (await story.call()).jobs
    await perform(story.context, job.id)
    await story.until(timedelta(minutes=2))
    assert story.texts() == [(1, "sent")]


async def test_a_text_that_was_held_up_till_night_waits_for_the_morning(story, database_url):
    story.clock.now = datetime(2026, 11, 25, 1, 59, tzinfo=UTC)  # a minute to nine in the evening, open at all hours
    (job,) = (await story.call()).jobs
    await perform(story.context, job.id)
    story.clock.now += timedelta(minutes=2)
    ((text,),) = execute(database_url, "select id::text from outbox where job = 'send_text'")
    await perform(story.context, text)
    assert story.texts() == [(1, "queued")]


async def test_new_hours_count_for_rescues_that_wait(story, db, database_url):
    execute(database_url, "update tenants set hours = 'Sat 10:00-12:00'")
    await story.call()
    await story.until(HOUR)
    assert story.texts() == []
    await tenants.change(db.system(), Vault((SECRET_KEY,)), "demo", {"hours": "always"}, {})
    ((due_now,),) = execute(database_url, "select due_at <= now() from outbox where state = 'open'")
    assert due_now
    execute(database_url, "update outbox set due_at = %s where state = 'open'", story.clock.now)  # the story's now
    await story.until(timedelta(minutes=1))
    assert story.texts() == [(1, "sent")]


async def test_without_texts_staff_is_asked(story, database_url):
    execute(database_url, "update tenants set texts_enabled = false")
    await story.call()
    await story.until(3 * HOUR)
    assert (story.texts(), story.rescues(), story.tasks()) == ([], [("escalated", None)], [("call_back", "open")])


# The causes that a decision finds, and when it does.
FOLLOWED = {"text": timedelta(0), "sla": 2 * HOUR, "time": 48 * HOUR}


async def act(story, cause: str) -> None:
    """Bring a cause about."""
    match cause:
        case "reply":
            await story.text("Hello")
        case "answered_call":
            await story.call(answered=True)
        case "outbound_call":
            await story.call(direction="outbound", answered=True)
        case "outbound_text":
            await story.text("Hello", ours=True)
        case "stop":
            await story.text("STOP")
        case "task_done":
            of_tenant(story.url, "select end_rescues('demo', (select id from leads), %s, 'task_done')", story.clock.now)
        case _:
            await story.until(FOLLOWED[cause])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("cause", sorted({move.cause for move in MOVES}))
async def test_the_database_moves_as_the_table_says(story, database_url, state, cause):
    """Every state and every cause: as in MOVES, and where that says nothing, not at all."""
    await story.call()
    execute(database_url, "update outbox set state = 'done', finished_at = now()")
    of_tenant(
        database_url,
        "update missed_calls set status = %s, step = %s, escalated_at = case when %s then now() end",
        state, 0 if cause == "text" else len(rescue.STEPS), state == "escalated",
    )  # fmt: skip
    if cause in FOLLOWED:
        of_tenant(
            database_url,
            "insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)"
            " select 'demo', 'follow_up', 'urgent', id, %s, now() from missed_calls",
            story.clock.now + FOLLOWED[cause],
        )
    await act(story, cause)
    wanted = next((move.after for move in MOVES if state in move.before and move.cause == cause), state)
    assert story.rescues()[0][0] == wanted


async def test_of_many_who_end_a_rescue_at_once_one_does(story):
    await story.call()
    await story.until(HOUR)
    await asyncio.gather(*(story.text(f"Hello {n}") for n in range(10)))
    assert story.log("missed_call.recovered") == ["missed_call.recovered"]


async def test_of_many_who_follow_a_rescue_up_at_once_one_does(story):
    (job,) = (await story.call()).jobs
    await asyncio.gather(*(perform(story.context, job.id) for _ in range(8)))
    await story.until(timedelta(minutes=1))
    assert story.texts() == [(1, "sent")]
    assert story.log("telephony.sms.%") == ["telephony.sms.status", "telephony.sms.sent"]


async def test_versions_and_log_tell_the_same_story(story, database_url):
    """Each event of a rescue carries the next version: nothing that is shown changes unheard."""
    await story.call()
    await story.until(10 * HOUR)
    await story.text("Hello")
    for kind in ("missed_call", "telephony.sms", "task", "lead"):
        sql = "select data->>'id', (data->>'version')::int from events where event like %s order by seq"
        seen: dict[object, int] = {}
        for row_id, version in of_tenant(database_url, sql, f"{kind}.%"):
            assert version == seen.get(row_id, 0) + 1, kind
            seen[row_id] = version


@pytest.fixture
async def called_at_night(story, database_url):
    """Four missed calls of one caller, after closing."""
    execute(database_url, "update tenants set hours = 'Mon-Fri 09:00-17:00'")
    story.clock.now = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)  # ten in the evening
    for _ in range(4):
        await story.call()
        await story.until(timedelta(minutes=5))
    return story


async def follow_up_at_once(story, monkeypatch) -> None:
    """All that wait are decided about before the first decision is carried out."""
    found, read, everybody = missed_calls.find, 0, asyncio.Event()

    async def find(*args):
        nonlocal read
        known = await found(*args)
        read += 1
        if read == 4:
            everybody.set()
        await everybody.wait()
        return known

    with monkeypatch.context() as patched:
        patched.setattr(missed_calls, "find", find)
        due = execute(story.url, "select id::text from outbox where state = 'open' and job = 'follow_up'")
        outcomes = await asyncio.gather(*(perform(story.context, str(job_id)) for (job_id,) in due))
    assert [outcome and outcome.status for outcome in outcomes] == ["success"] * 4


async def test_rescues_of_one_caller_that_fall_due_together_are_one_text(called_at_night, monkeypatch):
    story = called_at_night
    story.clock.now = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)
    await follow_up_at_once(story, monkeypatch)
    await story.until(timedelta(minutes=1))
    assert story.texts() == [(1, "sent")]


async def test_rescues_of_one_caller_that_escalate_together_are_one_task(called_at_night, monkeypatch):
    story = called_at_night
    await story.until(datetime(2026, 11, 25, 15, 59, tzinfo=UTC))
    story.clock.now = datetime(2026, 11, 25, 16, 0, tzinfo=UTC)
    await follow_up_at_once(story, monkeypatch)
    assert story.rescues() == [("escalated", None)] * 4
    assert story.tasks() == [("call_back", "open")]


async def test_a_worker_that_lost_its_lease_neither_decides_nor_stages(story, database_url):
    """Else a rescue would be followed by two from then on, each staging its own next decision."""
    await story.call()
    await story.until(timedelta(minutes=1))
    [(job_id,)] = execute(database_url, "select id::text from outbox where state = 'open'")
    (stale,) = await outbox.lease(story.context.db.system(), [str(job_id)], 0)
    (leased,) = await outbox.lease(story.context.db.system(), [str(job_id)], 60)
    tenant = story.context.db.one("demo")
    with pytest.raises(Conflict):
        await missed_calls.follow_up(tenant, stale, story.clock.now, "1" * 32)
    assert await missed_calls.follow_up(tenant, leased, story.clock.now, "1" * 32)
    with pytest.raises(Conflict):
        await missed_calls.follow_up(tenant, leased, story.clock.now, "1" * 32)
    assert execute(database_url, "select count(*) from outbox where state = 'open'") == [(1,)]


@pytest.mark.parametrize(
    ("cause", "act"),
    [
        ("answered_call", lambda story: story.call(answered=True)),
        ("outbound_call", lambda story: story.call(direction="outbound", answered=None, rank=1)),
        ("outbound_text", lambda story: story.text("We are on our way", ours=True)),
    ],
)
async def test_who_was_reached_before_the_missed_call_was_reported_is_not_chased(story, cause, act):
    """Reports come in any order: what was lost on its way is found in the provider's books later."""
    missed_at = story.clock.now
    await story.until(timedelta(minutes=5))
    await act(story)
    await story.until(timedelta(minutes=5))
    await story.call(started_at=missed_at)
    await story.until(60 * HOUR)
    assert story.rescues() == [("recovered", cause)]
    assert [step for step, _ in story.texts() if step] == []
    assert story.tasks() == []


async def test_who_was_reached_before_they_called_again_is_chased(story):
    await story.call(answered=True)
    await story.text("We are on our way", ours=True)
    await story.until(HOUR)
    await story.call()
    await story.until(timedelta(minutes=1))
    assert story.rescues() == [("texted", None)]


async def test_rescues_of_before_the_chase_are_followed_to_their_end(story, database_url):
    """As the version before left them: texted once, and no job any more."""
    await story.call()
    await story.until(timedelta(minutes=1))
    execute(database_url, "delete from outbox")
    of_tenant(database_url, "update missed_calls set step = 0")
    migration = (sql_folder() / "migrations" / "0016_followed.sql").read_text()
    for _ in range(2):  # once is enough
        execute(database_url, migration)
    assert execute(database_url, "select job from outbox") == [("follow_up",)]
    assert of_tenant(database_url, "select step from missed_calls") == [(1,)]
    execute(database_url, "update outbox set due_at = %s", story.clock.now)
    await story.until(49 * HOUR)
    assert story.rescues() == [("expired", "time")]
    assert story.texts() == [(1, "sent"), (2, "sent"), (3, "sent"), (4, "sent")]
