"""Texts through Twilio, played by a real HTTP server that misbehaves: one text a step, whatever it does."""

import asyncio
import socket
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import pytest

from jobs import send_text
from jobs.run import perform
from jobs.senders import NotSent
from jobs.twilio_http import open_http
from jobs.twilio_sender import TwilioSender
from ottoai import samples
from ottoai.domain import outbox, texts
from ottoai.domain.tenants import TextAccess
from ottoai.webhooks import twilio_errors
from tests.carrier import Twilio, serving_twilio
from tests.conftest import execute, make_config, of_tenant
from tests.helpers import until
from tests.stories import NOON, PHONE, telling
from tests.twilio import call_back, give, new_id

MESSAGE = "select status, error_code, provider_id is not null from messages where direction = 'outbound'"


@pytest.fixture
async def twilio():
    async with serving_twilio(Twilio()) as server:
        yield server


@pytest.fixture
async def story(config, db, demo, twilio):
    await give(db)
    pointed = make_config(
        config.database_url, config.redis_url, TWILIO_API_URL=twilio.url, PUBLIC_URL="https://api.example.com"
    )
    async with telling(pointed) as told:
        told.clock.now = datetime.now(UTC)  # Twilio's list has the time of day
        yield told


@pytest.fixture
def impatient(monkeypatch):
    """Twilio is waited for a little, and what it does not answer soon is unknown."""
    monkeypatch.setattr("jobs.twilio_sender.SEND_WITHIN", 0.2)


async def miss(story):
    """A call that was missed where it is day; the id of the job that is to text back."""
    (job,) = (await story.call(phone=samples.daytime_phone(story.clock.now, 142))).jobs
    await perform(story.context, job.id)
    ((text,),) = execute(story.url, "select id::text from outbox where job = 'send_text'")
    return text


async def attempts(story, job_id: str, most: int = 20) -> list[str]:
    """Run the job until it is over; how each attempt ended."""
    told = []
    while (outcome := await perform(story.context, job_id)) and len(told) < most:
        told.append(outcome.status)
    return told


async def test_a_text_goes_out_with_a_way_to_report_of_it(story, twilio, database_url):
    job = await miss(story)
    assert await attempts(story, job) == ["success"]
    (taken,) = twilio.taken
    ((message_id, provider_id, sender),) = of_tenant(database_url, "select id::text, provider_id, sender from messages")
    ((hook,),) = execute(database_url, "select value from tenant_routes where kind = 'hook'")
    assert (taken["from"], taken["sid"], sender) == (samples.TWILIO_NUMBER, provider_id, "twilio")
    assert taken["status_callback"] == f"https://api.example.com/twilio/sms/{hook}?message={message_id}"
    assert taken["account_sid"] == samples.TWILIO_ACCOUNT


@pytest.mark.parametrize("manner", ["hangs", "drops", "fails"])
async def test_a_text_of_unknown_fate_is_looked_up_and_not_sent_again(story, twilio, manner, impatient):
    twilio.manners.append(manner)
    job = await miss(story)
    assert await attempts(story, job) == ["retry", "success"]
    assert len(twilio.asked) == len(twilio.taken) == 1
    assert of_tenant(story.url, MESSAGE) == [("sent", None, True)]
    assert story.log("missed_call.%") == ["missed_call.queued", "missed_call.texted"]


async def test_a_text_that_stays_unknown_becomes_a_task_and_never_a_second_text(story, twilio, impatient):
    twilio.manners.append("drops")
    twilio.listing = False
    job = await miss(story)
    told = await attempts(story, job)
    assert told == ["retry"] * (send_text.RETRY.attempts - 1) + ["success"]
    assert len(twilio.asked) == 1
    assert of_tenant(story.url, MESSAGE) == [("unknown", None, False)]
    assert story.tasks() == [("check_text", "open")]
    assert story.rescues() == [("queued", None)]  # and goes on


async def test_a_callback_tells_what_became_of_it_after_all(story, twilio, base, impatient, monkeypatch):
    monkeypatch.setattr(send_text, "RETRY", send_text.Retry(attempts=1, first=0, longest=0))
    twilio.manners.append("drops")
    twilio.listing = False
    await attempts(story, await miss(story))
    ((message_id,),) = of_tenant(story.url, "select id::text from messages")
    (taken,) = twilio.taken
    told = samples.twilio_text_status(
        "delivered", new_id(), To=taken["to"], From=taken["from"], MessageSid=taken["sid"]
    )
    assert (await call_back(base, "sms", told, query=f"?message={message_id}"))[1] == "processed"
    assert of_tenant(story.url, MESSAGE) == [("delivered", None, True)]
    assert (story.rescues(), story.tasks()) == ([("texted", None)], [("check_text", "done")])


async def test_a_callback_that_is_faster_than_the_answer_counts(story, twilio, base):
    twilio.manners.append("hangs")
    job = await miss(story)
    running = asyncio.create_task(perform(story.context, job))
    await until(lambda: twilio.taken)
    ((message_id,),) = of_tenant(story.url, "select id::text from messages")
    (taken,) = twilio.taken
    told = samples.twilio_text_status(
        "delivered", new_id(), To=taken["to"], From=taken["from"], MessageSid=taken["sid"]
    )
    assert (await call_back(base, "sms", told, query=f"?message={message_id}"))[1] == "processed"
    twilio.let_go()
    assert (await running).status == "success"
    assert of_tenant(story.url, MESSAGE) == [("delivered", None, True)]
    assert story.log("telephony.sms.%") == ["telephony.sms.status", "telephony.sms.status", "telephony.sms.sent"]
    assert story.rescues() == [("texted", None)]


async def test_a_callback_that_is_faster_than_the_answer_shows_nothing_of_the_rescue_unheard(story, twilio, base):
    """What is shown of it changes with an event and a version, and those come with the answer."""
    twilio.manners.append("hangs")
    running = asyncio.create_task(perform(story.context, await miss(story)))
    await until(lambda: twilio.taken)
    before = of_tenant(story.url, "select (missed_call_json(m))::text from missed_calls as m")
    ((message_id,),) = of_tenant(story.url, "select id::text from messages")
    (taken,) = twilio.taken
    told = samples.twilio_text_status(
        "undelivered", new_id(), To=taken["to"], From=taken["from"], MessageSid=taken["sid"], ErrorCode="30006"
    )
    assert (await call_back(base, "sms", told, query=f"?message={message_id}"))[1] == "processed"
    assert of_tenant(story.url, "select (missed_call_json(m))::text from missed_calls as m") == before
    twilio.let_go()
    assert (await running).status == "success"
    assert story.log("missed_call.%") == ["missed_call.queued", "missed_call.texted"]
    await story.until(timedelta(seconds=5))
    assert story.rescues() == [("escalated", None)]


async def test_a_callback_about_somebody_elses_message_touches_nothing_of_ours(story, twilio, base, database_url):
    await attempts(story, await miss(story))
    ((message_id, before),) = of_tenant(story.url, "select id::text, provider_id from messages")
    told = samples.twilio_text_status("failed", new_id(), To=PHONE, From=samples.TWILIO_NUMBER)
    await call_back(base, "sms", told, query=f"?message={message_id}")
    assert of_tenant(story.url, "select status, provider_id from messages") == [("sent", before)]


async def test_what_twilio_has_certainly_not_taken_is_sent_again(story, twilio):
    twilio.manners.append("busy")
    job = await miss(story)
    assert await attempts(story, job) == ["retry", "success"]
    assert (len(twilio.asked), len(twilio.taken)) == (2, 1)


async def test_a_carrier_that_cannot_be_connected_to_has_certainly_not_taken_it(monkeypatch):
    """Packets to it are dropped: that is known, unlike an answer that does not come."""
    monkeypatch.setattr("jobs.twilio_http.CONNECT_WITHIN", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as deaf, ExitStack() as crowd:
        address = deaf.getsockname()
        for _ in range(4):  # more than it lets wait, so that it lets nobody in any more
            waiting = crowd.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        async with open_http() as http:
            access = TextAccess(samples.TWILIO_ACCOUNT, "token", samples.TWILIO_NUMBER, None)
            sender = TwilioSender(access, http, f"http://127.0.0.1:{address[1]}", None)
            with pytest.raises(NotSent):
                text = texts.Text(id="1", status="sending", recipient=PHONE, body="Hi", decided_at=NOON)
                await sender.send(text, "demo")


async def test_a_token_that_was_rotated_counts_at_the_next_attempt(story, twilio, db):
    twilio.tokens[samples.TWILIO_ACCOUNT] = "canary-secret-new-token"
    job = await miss(story)
    assert (await perform(story.context, job)).status == "retry"
    await give(db, twilio_token="canary-secret-new-token")
    assert (await perform(story.context, job)).status == "success"
    assert len(twilio.taken) == 1


async def test_what_is_never_taken_is_given_up_and_staff_reaches_the_caller(story, twilio):
    twilio.manners.extend(["busy"] * 50)
    job = await miss(story)
    assert (await attempts(story, job))[-1] == "success"  # the job has an end; its row says what became of it
    assert execute(story.url, "select state, error from outbox where job = 'send_text'") == [
        ("dead", "Twilio's error 20429")
    ]
    assert of_tenant(story.url, MESSAGE) == [("failed", None, False)]
    assert "worker.task.failed" in story.log()


@pytest.mark.parametrize(
    ("code", "rescued", "tasks", "opt_outs"),
    [
        (21610, ("opted_out", "stop"), [], 1),
        (21614, ("escalated", None), [("call_back", "open")], 0),
        (21606, ("queued", None), [], 0),
        (99999, ("queued", None), [], 0),
    ],
)
async def test_error_codes_are_sorted(story, twilio, code, rescued, tasks, opt_outs):
    twilio.errors.append(code)
    job = await miss(story)
    assert await attempts(story, job) == ["success"]
    await story.until(timedelta(seconds=5))
    assert of_tenant(story.url, MESSAGE) == [("failed", str(code), False)]
    assert (story.rescues(), story.tasks()) == ([rescued], tasks)
    ((next_at,),) = of_tenant(story.url, "select text_due_at from missed_calls")
    assert (next_at is not None and next_at > story.clock.now) == (rescued == ("queued", None))
    assert of_tenant(story.url, "select count(*) from opt_outs") == [(opt_outs,)]
    assert len(twilio.asked) == 1


async def test_a_text_that_was_not_delivered_to_a_landline_sends_staff(story, twilio, base):
    await attempts(story, await miss(story))
    (taken,) = twilio.taken
    told = samples.twilio_text_status(
        "undelivered", new_id(), To=taken["to"], From=taken["from"], MessageSid=taken["sid"], ErrorCode="30006"
    )
    await call_back(base, "sms", told)
    await story.until(timedelta(seconds=5))
    assert of_tenant(story.url, MESSAGE) == [("undelivered", "30006", True)]
    assert (story.rescues(), story.tasks()) == ([("escalated", None)], [("call_back", "open")])
    await story.until(timedelta(hours=30))
    assert len(twilio.asked) == 1


async def test_a_worker_that_comes_back_to_a_text_of_another_attempt_changes_nothing(story, twilio, database_url):
    """Stopped before it began the text, it wakes up when the text has long been sent."""
    job_id = await miss(story)
    (stale,) = await outbox.lease(story.context.db.system(), [job_id], 0)
    assert await attempts(story, job_id) == ["success"]
    await send_text.send_text(story.context, stale)
    await texts.give_up(story.context.db.one("demo"), stale, None, "cancelled", story.clock.now, "1" * 32)
    assert of_tenant(story.url, MESSAGE) == [("sent", None, True)]
    assert len(twilio.asked) == 1


async def test_a_tenant_that_leaves_twilio_leaves_no_text_in_doubt(story, twilio, database_url, impatient):
    twilio.manners.append("drops")
    job = await miss(story)
    assert (await perform(story.context, job)).status == "retry"
    execute(database_url, "delete from tenant_routes where provider = 'twilio'")
    story.context.carriers.forget("demo")
    assert (await attempts(story, job))[-1] == "success"
    assert of_tenant(story.url, MESSAGE) == [("unknown", None, False)]


def test_every_code_is_sorted_and_explained():
    assert all(code.isdecimal() and meaning for code, (_, meaning) in twilio_errors.CODES.items())
    assert twilio_errors.sort_of("12345") == twilio_errors.sort_of(None) == "give_up"
