"""What providers' reports of text messages become."""

import asyncio
import json
from itertools import permutations
from pathlib import Path

import msgspec
import pytest

from ottoai import samples
from ottoai.domain.catalogue import EVENTS
from tests.conftest import execute, of_tenant
from tests.helpers import deliver
from tests.twilio import call_back, give, new_id

BODIES = Path(__file__).parents[1] / "bodies"
MESSAGE = "direction, status, sender, provider_id, body"


def body_of(name: str) -> dict[str, object]:
    return json.loads((BODIES / f"{name}.json").read_text())


def log_of(url: str) -> list[str]:
    return [event for (event,) in of_tenant(url, "select event from events order by seq")]


async def test_a_text_that_came_in_becomes_a_message_and_a_lead(base, database_url):
    body = body_of("callrail_text_received")
    status, answer = await deliver(base, "text-message", body)
    assert (status, answer["status"], answer["kind"]) == (200, "processed", "text-message")
    assert (await deliver(base, "text-message", body))[1]["status"] == "duplicate_ignored"
    assert log_of(database_url) == ["lead.created", "telephony.sms.received"]
    assert of_tenant(database_url, f"select {MESSAGE}, sent_at from messages") == [
        ("inbound", "received", "callrail", body["id"], body["content"], None)
    ]
    [(created, contact, phone)] = of_tenant(
        database_url, "select m.created_at, l.last_contact_at, l.phone from messages m join leads l on l.id = m.lead_id"
    )
    assert created == contact
    assert (created.isoformat(), phone) == ("2026-11-23T14:58:31.120000+00:00", "+12125550143")


async def test_a_text_that_went_out_is_about_whom_it_went_to(base, database_url):
    await deliver(base, "text-message", body_of("callrail_text_received"))
    assert (await deliver(base, "text-message", {"text_message": body_of("callrail_text_sent")}))[1][
        "status"
    ] == "processed"
    assert log_of(database_url)[-2:] == ["lead.updated", "telephony.sms.sent"]
    assert of_tenant(database_url, "select direction, status from messages order by created_at") == [
        ("inbound", "received"),
        ("outbound", "sent"),
    ]
    assert of_tenant(database_url, "select phone from leads") == [("+12125550143",)]


async def test_an_outbound_call_opens_no_rescue_and_its_lead_is_the_customer(base, database_url):
    body = body_of("callrail_outbound_call")
    for told in (body, {**body, "direction": None, "id": 771204419}, {"call": {**body, "id": 771204420}}):
        assert (await deliver(base, "call-complete", told))[1]["status"] == "processed"
    assert of_tenant(database_url, "select distinct direction, missed, customer_phone from calls") == [
        ("outbound", False, "+12125550143")
    ]
    assert of_tenant(database_url, "select phone from leads") == [("+12125550143",)]
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(0,)]


async def test_a_message_is_written_down_once_whatever_else_is_said_of_it(base, database_url):
    body = body_of("callrail_text_received")
    others = [{**body, "content": f"version {number}"} for number in range(10)]
    answers = await asyncio.gather(*(deliver(base, "text-message", other) for other in others))
    assert {answer["status"] for _, answer in answers} == {"processed"}
    assert of_tenant(database_url, "select count(*) from messages") == [(1,)]
    assert log_of(database_url) == ["lead.created", "telephony.sms.received"]


async def test_a_text_of_a_short_code_is_kept_without_effect(base, database_url):
    body = {**body_of("callrail_text_received"), "source_number": "72975"}
    assert (await deliver(base, "text-message", body))[1]["status"] == "processed"
    assert (await deliver(base, "text-message", body))[1]["status"] == "duplicate_ignored"
    assert of_tenant(database_url, "select count(*) from payloads") == [(1,)]
    assert (of_tenant(database_url, "select count(*) from leads"), log_of(database_url)) == ([(0,)], [])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": "", "resource_id": None}, "id"),
        ({"content": 7}, "content"),
        ({"timestamp": "noon"}, "timestamp"),
        ({"direction": "sideways"}, "direction"),
    ],
)
async def test_an_unusable_text_is_quarantined(base, database_url, changed, told):
    body = {**body_of("callrail_text_received"), **changed}
    _, answer = await deliver(base, "text-message", body)
    assert (answer["status"], answer["detail"].split(":")[0]) == ("quarantined", told)
    assert of_tenant(database_url, "select count(*) from messages") == [(0,)]


async def test_the_texts_tenant_is_its_numbers(base, db, database_url):
    """A customer's number may be another tenant's: what counts is which of the two is the company's."""
    from tests.conftest import SIGNING_KEY, add_tenant

    await add_tenant(db, "other", company="77", number="+12125550143")
    sent = {**body_of("callrail_text_sent"), "company_resource_id": None}
    assert (await deliver(base, "text-message", sent))[1]["tenant_id"] == "demo"
    assert (await deliver(base, "text-message", sent, key=SIGNING_KEY.format("other")))[0] == 401


# What became of texts that went out


@pytest.fixture
async def sent(base, db, demo, database_url) -> str:
    """A text that went out through Twilio; its MessageSid."""
    await give(db)
    sid = f"SM{new_id():032x}"
    await deliver(base, "text-message", body_of("callrail_text_sent"))
    of_tenant(database_url, "update messages set sender = 'twilio', provider_id = %s", sid)
    return sid


def number_of(sid: str) -> int:
    return int(f"0x{sid[2:]}", 0)


def states(url: str) -> list[tuple[object, ...]]:
    return of_tenant(url, "select status, error_code from messages")


@pytest.mark.parametrize("end", ["delivered", "undelivered", "failed"])
async def test_statuses_never_go_backwards(base, database_url, sent, end):
    code = None if end == "delivered" else "30003"
    for order in permutations(["queued", "sent", end]):
        of_tenant(database_url, "update messages set status = 'sent', error_code = null")
        execute(database_url, "delete from idempotency_keys")
        for status in order:
            told = samples.twilio_text_status(status, number_of(sent))
            assert (await call_back(base, "sms", told))[1] == "processed"
        assert states(database_url) == [(end, code)], order
    assert log_of(database_url).count("telephony.sms.status") == 6
    [(data,)] = of_tenant(database_url, "select data::text from events order by seq desc limit 1")
    assert msgspec.json.decode(data, type=EVENTS["telephony.sms.status"]).status == end


async def test_simultaneous_statuses_end_with_the_furthest(base, database_url, sent):
    number = number_of(sent)
    kinds = ["queued", "sending", "sent", "delivered", "undelivered", "failed"] * 3
    answers = await asyncio.gather(
        *(call_back(base, "sms", samples.twilio_text_status(kind, number)) for kind in kinds)
    )
    assert sorted(told for _, told, _ in answers) == ["duplicate_ignored"] * 12 + ["processed"] * 6
    assert states(database_url) == [("delivered", None)]


async def test_a_status_of_an_unknown_message_changes_nothing(base, database_url, sent):
    before = log_of(database_url)
    told = samples.twilio_text_status("failed", new_id())
    assert (await call_back(base, "sms", told))[1] == "processed"
    assert (await call_back(base, "sms", told))[1] == "duplicate_ignored"
    assert (states(database_url), log_of(database_url)) == ([("sent", None)], before)


async def test_no_tenant_changes_anothers_message(base, db, database_url, sent):
    from tests.conftest import add_tenant
    from tests.twilio import TOKEN

    await add_tenant(db, "other", company="77", number="+12125550188")
    await give(db, "other", twilio_sid="AC-other", twilio_number="+12125550189")
    told = samples.twilio_text_status("failed", number_of(sent), AccountSid="AC-other", From="+12125550189")
    assert (await call_back(base, "sms", told, key=TOKEN.format("other")))[1] == "processed"
    assert states(database_url) == [("sent", None)]


async def test_a_message_that_came_in_has_no_fate(base, db, database_url):
    await give(db)
    number = new_id()
    await call_back(base, "sms", samples.twilio_text(number))
    assert (await call_back(base, "sms", samples.twilio_text_status("failed", number)))[1] == "processed"
    assert states(database_url) == [("received", None)]
