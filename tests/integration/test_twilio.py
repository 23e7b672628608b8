"""Twilio's callbacks through the front door: genuine or not, in any order, once."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from itertools import count

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ottoai import samples
from ottoai.app import build_app
from ottoai.domain.catalogue import EVENTS
from ottoai.web import keys
from ottoai.webhooks import twilio
from tests.conftest import add_tenant, execute, make_config, of_tenant
from tests.helpers import get, report
from tests.twilio import TOKEN, call_back, give, new_id

TWIML = 'text/xml <?xml version="1.0" encoding="UTF-8"?><Response/>'


@pytest.fixture(autouse=True)
async def account(db, demo):
    """The tenant demo has a Twilio account."""
    await give(db)


async def log_of(url: str, tenant: str = "demo") -> list[str]:
    return [event for (event,) in of_tenant(url, "select event from events order by seq", tenant=tenant)]


async def test_a_call_that_nobody_answered_is_rescued(base, database_url):
    number, phone = new_id(), samples.daytime_phone(datetime.now(UTC))
    at = samples.twilio_call("initiated", number)["Timestamp"]  # a later one would touch the lead once more
    for status in ("initiated", "ringing", "no-answer"):
        body = samples.twilio_call(status, number, From=phone, Timestamp=at)
        assert await call_back(base, "call-status", body) == (200, "processed", TWIML)
    assert await log_of(database_url) == [
        "telephony.call.received",
        "lead.created",
        "telephony.call.completed",
        "telephony.call.missed",
        "missed_call.queued",
    ]
    columns = "provider, external_id, status, answered, missed, duration_seconds, tracking_phone"
    assert of_tenant(database_url, f"select {columns} from calls") == [
        ("twilio", f"CA{number:032x}", "completed", False, True, 0, samples.TWILIO_NUMBER)
    ]


async def test_an_answered_call_is_not(base, database_url):
    number = new_id()
    for status in ("completed", "ringing", "in-progress"):
        await call_back(base, "call-status", samples.twilio_call(status, number))
    assert of_tenant(database_url, "select status, answered, missed, duration_seconds from calls") == [
        ("completed", True, False, 21)
    ]
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(0,)]


async def test_an_outbound_call_is_never_missed(base, database_url):
    out = {"Direction": "outbound-api", "From": samples.TWILIO_NUMBER, "To": "+12125550199"}
    assert (await call_back(base, "call-status", samples.twilio_call("no-answer", new_id(), **out)))[1] == "processed"
    assert of_tenant(database_url, "select direction, missed, customer_phone from calls") == [
        ("outbound", False, "+12125550199")
    ]
    assert of_tenant(database_url, "select phone from leads") == [("+12125550199",)]
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(0,)]


async def test_a_leg_of_a_dial_is_kept_without_effect(base, database_url):
    leg = samples.twilio_call("no-answer", new_id(), Direction="outbound-dial", ParentCallSid="CA1", To="+14045550190")
    assert await call_back(base, "call-status", leg) == (200, "processed", TWIML)
    assert await call_back(base, "call-status", leg) == (200, "duplicate_ignored", TWIML)
    assert of_tenant(database_url, "select count(*) from payloads") == [(1,)]
    assert of_tenant(database_url, "select count(*) from calls") == [(0,)]
    assert await log_of(database_url) == []


FINAL = ("completed", "busy", "no-answer", "canceled", "failed")
_batches = count(1)


def callbacks(final: str, before: list[str], dial: str | None, machine: bool, at: datetime) -> list[dict[str, str]]:
    """What Twilio sends about one call, each with a time of its own."""
    told = [samples.twilio_call(status, 0, now=at, From="+12125550143") for status in [*before, final]]
    for late, body in enumerate(told):
        body["Timestamp"] = (at + timedelta(seconds=late)).strftime("%a, %d %b %Y %H:%M:%S +0000")
    if dial:
        parent = samples.twilio_call("in-progress", 0, now=at, From="+12125550143", DialCallStatus=dial)
        told.append({name: value for name, value in parent.items() if name not in {"SequenceNumber", "Timestamp"}})
    if machine:
        told.append({"CallSid": "", "AccountSid": samples.TWILIO_ACCOUNT, "AnsweredBy": "machine_start"})
    return told


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(FINAL),
    st.lists(st.sampled_from(["queued", "initiated", "ringing", "in-progress"]), unique=True),
    st.sampled_from([None, "completed", "no-answer", "busy"]),
    st.booleans(),
    st.sampled_from([-2, 2]),  # minutes by which Twilio's clock is off
    st.data(),
)
async def test_statuses_in_any_order_are_the_same_call(base, database_url, final, before, dial, machine, off, data):
    bodies = callbacks(final, before, dial, machine, datetime.now(UTC) + timedelta(minutes=off))
    orders = [bodies, data.draw(st.permutations(bodies)), data.draw(st.permutations(bodies))]
    sids = [f"CA{next(_batches):030}{order:02}" for order in range(len(orders))]
    for sid, order in zip(sids, orders, strict=True):
        for body in order:
            assert (await call_back(base, "call-status", {**body, "CallSid": sid}))[:2] == (200, "processed")
    same = (
        "direction, status, answered, voicemail, missed, duration_seconds, started_at, customer_phone, tracking_phone"
    )
    rows = of_tenant(database_url, f"select {same} from calls where external_id = any(%s)", sids)
    assert len(rows) == len(orders)
    assert len(set(rows)) == 1
    answered = dial == "completed" if dial else final == "completed"
    missed = machine or not answered
    assert rows[0][1:5] == ("completed", answered, machine or None, missed)
    if final == "completed" or not dial:  # Twilio dials for nobody whose call did not come through
        rescued = "select count(*) from missed_calls join calls on call_id = calls.id where external_id = any(%s)"
        assert of_tenant(database_url, rescued, sids) == [(len(orders) * missed,)]


async def test_a_duplicate_is_told_by_status_and_sequence(base, database_url):
    body = samples.twilio_call("in-progress", new_id())
    assert (await call_back(base, "call-status", body))[1] == "processed"
    assert (await call_back(base, "call-status", body))[1] == "duplicate_ignored"
    assert (await call_back(base, "call-status", {**body, "SequenceNumber": "9"}))[1] == "processed"
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]


async def test_simultaneous_copies_have_one_effect(base, database_url):
    call, text = samples.twilio_call("no-answer", new_id()), samples.twilio_text(new_id())
    answers = await asyncio.gather(
        *(call_back(base, "call-status", call) for _ in range(20)), *(call_back(base, "sms", text) for _ in range(20))
    )
    assert {status for status, _, _ in answers} == {200}
    assert sorted(told for _, told, _ in answers) == ["duplicate_ignored"] * 38 + ["processed"] * 2
    events = await log_of(database_url)
    assert events.count("missed_call.queued") == events.count("telephony.sms.received") == 1
    assert of_tenant(database_url, "select count(*) from messages") == [(1,)]


# Genuine or not


@pytest.mark.parametrize("kind", twilio.KINDS)
async def test_only_the_tenants_own_token_signs(base, db, database_url, kind):
    await add_tenant(db, "other", company="77", number="+12125550188")
    await give(db, "other", twilio_sid="AC-other", twilio_number="+12125550189")
    body = samples.twilio_call("ringing", new_id()) if kind == "call-status" else samples.twilio_text(new_id())
    others = {**body, "AccountSid": "AC-other", "To": "+12125550189"}
    for forged, how in (
        (body, {"key": TOKEN.format("other")}),
        (body, {"key": "guessed"}),
        (body, {"signature": "x"}),
        (others, {"key": TOKEN.format("demo")}),
        (others, {"key": ""}),
    ):
        status, _, told = await call_back(base, kind, forged, **how)
        assert (status, told.split()[0]) == (401, "application/problem+json"), how
    mixed = {**body, "AccountSid": "AC-other"}  # the account of one and the number of another
    for tenant in ("demo", "other"):
        assert (await call_back(base, kind, mixed, key=TOKEN.format(tenant)))[0] == 401
    assert of_tenant(database_url, "select count(*) from idempotency_keys") == [(0,)]


async def test_a_rotated_token_is_accepted_beside_the_new(app, base, db):
    await give(db, twilio_token="new-token")
    for key, status in (("new-token", 200), (TOKEN.format("demo"), 200), ("older", 401)):
        assert (await call_back(base, "sms", samples.twilio_text(new_id()), key=key))[0] == status
    await give(db, twilio_token="newest-token")
    app[keys.INGEST].directory._kept.clear()  # which it does by itself after some seconds
    assert (await call_back(base, "sms", samples.twilio_text(new_id()), key=TOKEN.format("demo")))[0] == 401


async def test_the_hook_path_serves_twilio_too(base, database_url):
    [(hook,)] = execute(database_url, "select value from tenant_routes where kind = 'hook'")
    bare = {"CallSid": "CA-bare", "CallStatus": "ringing"}
    assert (await call_back(base, "call-status", bare, hook=hook))[1] == "processed"
    assert (await call_back(base, "call-status", bare, hook="guessed"))[0] == 401
    # The signature is the address's: what was signed for one path is not genuine on another.
    assert (await call_back(base, "call-status", bare, hook=hook, signed_url=f"{base}/twilio/call-status"))[0] == 401


async def test_unusable_callbacks_are_quarantined_and_still_answered_with_twiml(base, database_url):
    odd = samples.twilio_call("ringing", new_id(), CallStatus="exploded")
    assert await call_back(base, "call-status", odd) == (200, "quarantined", TWIML)
    [(error,)] = of_tenant(database_url, "select error from payloads")
    assert error.startswith("CallStatus: ")
    assert await log_of(database_url) == ["system.webhook.quarantined"]


async def test_a_json_body_is_signed_by_its_digest(base, database_url):
    body = msgspec.json.encode(samples.twilio_text(new_id()))
    query = f"?bodySHA256={hashlib.sha256(body).hexdigest()}"
    json = {"Content-Type": "application/json"}
    assert (await call_back(base, "sms", body, query=query, **json))[1] == "processed"
    assert (await call_back(base, "sms", body.replace(b"gutters", b"cellars"), query=query, **json))[0] == 401
    assert (await call_back(base, "sms", body, **json))[0] == 401
    [(hook,)] = execute(database_url, "select value from tenant_routes where kind = 'hook'")
    broken = f"?bodySHA256={hashlib.sha256(b'{').hexdigest()}"
    assert (await call_back(base, "sms", b"{", query=broken, hook=hook, **json))[1] == "quarantined"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"CallSid=CA1&CallStatus=ringing&From=%ff", 400),
        (b"\xff\xfe", 400),
        (b"a=1&" * 1000, 400),
        (b"AccountSid=AC1%00&CallSid=CA1", 400),
        (f"AccountSid={'A' * 101}".encode(), 400),
        (f"AccountSid={samples.TWILIO_ACCOUNT}&AccountSid={samples.TWILIO_ACCOUNT}".encode(), 400),
        (b"nothing=of+use", 400),
        (b"", 400),
        (b"x" * (2 * 1024 * 1024), 413),
        (f"AccountSid={samples.TWILIO_ACCOUNT}&To=%00&CallSid=CA1".encode(), 401),
    ],
)
async def test_hostile_forms_get_their_documented_answer(base, database_url, body, status):
    got, _, told = await call_back(base, "call-status", body, signature="forged")
    assert (got, told.split()[0]) == (status, "application/problem+json")
    assert of_tenant(database_url, "select count(*) from idempotency_keys") == [(0,)]


async def test_a_nul_in_a_text_is_left_out(base, database_url):
    assert (await call_back(base, "sms", samples.twilio_text(new_id(), Body="a\x00b")))[1] == "processed"
    assert of_tenant(database_url, "select body from messages") == [("ab",)]


# Whose address was signed


async def served(aiohttp_server, database_url, redis_url, **settings: str) -> str:
    config = make_config(database_url, redis_url, **settings)
    server: TestServer = await aiohttp_server(build_app(config))
    return str(server.make_url("")).rstrip("/")


async def test_the_port_may_be_told_or_not(aiohttp_server, database_url, redis_url):
    base = await served(aiohttp_server, database_url, redis_url, PUBLIC_URL="https://otto.example")
    for signed, status in (
        ("https://otto.example/twilio/sms", 200),
        ("https://otto.example:443/twilio/sms", 200),
        ("https://otto.example:8443/twilio/sms", 401),
        ("http://otto.example/twilio/sms", 401),
        (f"{base}/twilio/sms", 401),
    ):
        assert (await call_back(base, "sms", samples.twilio_text(new_id()), signed_url=signed))[0] == status, signed


async def test_forwarding_headers_are_believed_of_trusted_proxies_alone(aiohttp_server, database_url, redis_url):
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "otto.example"}
    chain = {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "otto.example, inner"}
    signed = "https://otto.example/twilio/sms"
    base = await served(aiohttp_server, database_url, redis_url, TRUSTED_PROXIES="127.0.0.0/8")
    for headers in (forwarded, chain):
        assert (await call_back(base, "sms", samples.twilio_text(new_id()), signed_url=signed, **headers))[0] == 200
    assert (await call_back(base, "sms", samples.twilio_text(new_id())))[0] == 200
    base = await served(aiohttp_server, database_url, redis_url, TRUSTED_PROXIES="10.0.0.0/8")
    text = samples.twilio_text(new_id())
    assert (await call_back(base, "sms", text, signed_url=signed, **forwarded))[0] == 401
    assert (await call_back(base, "sms", text, **forwarded))[0] == 200


async def test_the_query_is_signed_as_it_was_sent(base):
    text = samples.twilio_text(new_id())
    assert (await call_back(base, "sms", text, query="?a=%2Fb+c&a=%C3%BC"))[1] == "processed"


# Nobody's


async def test_an_unknown_account_is_kept_with_its_address_and_replayed(base, db, config, database_url):
    from ottoai.commands import _replay

    text = samples.twilio_text(new_id(), AccountSid="AC-late", To="+12125550177")
    late = {"key": TOKEN.format("late")}
    assert await call_back(base, "sms", text, query="?shop=7", **late) == (202, "unclaimed", TWIML)
    assert (await call_back(base, "sms", {**text, "MessageSid": "SM2"}, key="forged"))[0] == 202
    assert (await call_back(base, "sms", text, key=""))[0] == 401
    await add_tenant(db, "late", company="42", number="+12125550176")
    await give(db, "late", twilio_sid="AC-late", twilio_number="+12125550177")
    assert await _replay(config, "late") == {"processed": 1, "bad-signature": 1}
    assert of_tenant(database_url, "select provider_id from messages", tenant="late") == [(text["MessageSid"],)]
    kept = execute(database_url, "select convert_from(body, 'UTF8') from unclaimed_deliveries")
    assert ["MessageSid=SM2" in str(body) for (body,) in kept] == [True]  # for a key that fits


async def test_unsigned_is_for_development_and_demo_only(base, db, aiohttp_server, database_url, redis_url):
    await add_tenant(db, "other", company="77", number="+12125550188")
    await give(db, "other", twilio_sid="AC-other", twilio_number="+12125550189")
    assert (await call_back(base, "call-status", {"CallSid": "CA1", "CallStatus": "ringing"}, key=""))[1] == "processed"
    assert (await call_back(base, "sms", samples.twilio_text(new_id()), key=""))[1] == "processed"
    other = samples.twilio_text(new_id(), AccountSid="AC-other", To="+12125550189")
    assert (await call_back(base, "sms", other, key=""))[0] == 401
    [(hook,)] = execute(database_url, "select value from tenant_routes where kind = 'hook' and tenant_id = 'demo'")
    assert (await call_back(base, "sms", b"Body=%ff", key="", hook=hook))[0] == 400  # nobody signed it: not kept
    staging = await served(aiohttp_server, database_url, redis_url, ENVIRONMENT="staging")
    assert (await call_back(staging, "sms", samples.twilio_text(new_id()), key=""))[0] == 401


async def test_every_event_has_the_data_the_catalogue_says(base, database_url):
    number, now = new_id(), datetime.now(UTC)
    caller, writer = (samples.daytime_phone(now, n) for n in (101, 102))  # one and the same would be replying
    await call_back(base, "call-status", samples.twilio_call("no-answer", number, From=caller))
    await call_back(base, "sms", samples.twilio_text(number, From=writer))
    rows = of_tenant(database_url, "select event, data::text from events")
    assert len(rows) == 7
    for event, data in rows:
        msgspec.json.decode(data, type=EVENTS[event])


async def test_phones_and_addresses_reach_no_log_line(base, caplog):
    caplog.set_level("DEBUG")
    text = samples.twilio_text(new_id())
    await call_back(base, "sms", text, query="?secret-of-the-query=1")
    await call_back(base, "sms", text, query="?secret-of-the-query=1", key="wrong")
    told = "".join(
        f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name != "aiohttp.access"
    )
    assert "Webhook rejected" in told
    for secret in ("secret-of-the-query", text["From"], samples.TWILIO_NUMBER, text["Body"], TOKEN.format("demo")):
        assert secret not in told


async def test_calls_of_both_providers_are_one_leads(base, make_token, database_url):
    from tests.helpers import deliver

    phone = samples.daytime_phone(datetime.now(UTC), 150)
    await deliver(base, "call-complete", report("call-complete", 8801, customer_phone_number=phone))
    await call_back(base, "call-status", samples.twilio_call("completed", new_id(), From=phone))
    _, _, page = await get(base, "/api/calls", make_token())
    assert len(page["items"]) == 2
    assert len({call["lead_id"] for call in page["items"]}) == 1
