"""One delivery, one commit: what CallRail's reports become."""

import asyncio
import dataclasses
import ipaddress
import re
from itertools import permutations

import aiohttp
import msgspec
import pytest

from ottoai import samples
from ottoai.app import build_app
from ottoai.client import connect
from ottoai.domain.catalogue import EVENTS
from ottoai.webhooks import callrail
from tests.conftest import SIGNING_KEY, execute, of_tenant
from tests.helpers import deliver, get, report


def log_of(url: str, tenant: str = "demo") -> list[tuple[int, str]]:
    return of_tenant(url, "select seq, event from events order by seq", tenant=tenant)


def waiting(url: str) -> list[object]:
    """The ids of the calls of which a delivery is kept until its company is added."""
    rows = execute(url, "select convert_from(body, 'UTF8')::json ->> 'id' from unclaimed_deliveries order by id")
    return [call_id for (call_id,) in rows]


async def test_missed_call_becomes_call_lead_rescue_and_job(base, database_url):
    status, answer = await deliver(base, "call-complete", report("call-complete", 7001))
    assert (status, answer["status"]) == (200, "processed")
    assert log_of(database_url) == [
        (1, "telephony.call.received"),
        (2, "lead.created"),
        (3, "telephony.call.completed"),
        (4, "telephony.call.missed"),
        (5, "missed_call.queued"),
    ]
    assert of_tenant(database_url, "select job, state from outbox") == [("follow_up", "open")]
    assert of_tenant(database_url, "select count(*) from payloads where error is null") == [(1,)]


async def test_precall_is_never_missed(base, database_url):
    await deliver(base, "pre-call", report("pre-call", 7002))
    assert [event for _, event in log_of(database_url)] == ["telephony.call.received", "lead.created"]
    assert of_tenant(database_url, "select status, answered, missed from calls") == [("ringing", None, False)]


async def test_repeated_delivery_is_ignored(base, database_url):
    body = report("call-complete", 7003)
    await deliver(base, "call-complete", body)
    before = log_of(database_url)
    status, answer = await deliver(base, "call-complete", body)
    assert (status, answer["status"]) == (200, "duplicate_ignored")
    assert log_of(database_url) == before


async def test_fifty_simultaneous_copies_have_one_effect(base, database_url):
    body = report("call-complete", 7004)
    answers = await asyncio.gather(*(deliver(base, "call-complete", body) for _ in range(50)))
    assert [status for status, _ in answers] == [200] * 50
    assert sorted(answer["status"] for _, answer in answers) == ["duplicate_ignored"] * 49 + ["processed"]
    assert [seq for seq, _ in log_of(database_url)] == [1, 2, 3, 4, 5]
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(1,)]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
async def test_reports_merge_in_any_order(base, database_url, order):
    """Whatever comes last, the higher rank wins field by field, and nothing known is overwritten by nothing."""
    reports = [
        ("pre-call", report("pre-call", 7005, customer_name="From Pre", source_name="Pre")),
        ("routing-complete", report("routing-complete", 7005, customer_name="From Route", source_name="")),
        ("call-complete", report("call-complete", 7005, customer_name="", source_name="Ads", duration="33")),
        ("call-modified", report("call-modified", 7005, customer_name="Final", source_name=None, duration=None)),
    ]
    for kind, body in (reports[index] for index in order):
        assert (await deliver(base, kind, body))[1]["status"] == "processed"
    columns = "customer_name, source, duration_seconds, status, answered, missed"
    assert of_tenant(database_url, f"select {columns} from calls") == [("Final", "Ads", 33, "completed", False, True)]
    events = [event for _, event in log_of(database_url)]
    for once in ("telephony.call.received", "telephony.call.completed", "telephony.call.missed", "missed_call.queued"):
        assert events.count(once) == 1
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(1,)]


async def test_concurrent_reports_of_one_call_leave_no_gap(base, database_url):
    kinds = ("pre-call", "routing-complete", "call-complete", "call-modified")
    for call_id in range(7100, 7110):
        await asyncio.gather(*(deliver(base, kind, report(kind, call_id)) for kind in kinds))
    seqs = [seq for seq, _ in log_of(database_url)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert of_tenant(database_url, "select count(*), count(*) filter (where missed) from calls") == [(10, 10)]
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(10,)]


async def test_answered_and_outbound_calls_open_no_rescue(base, database_url):
    await deliver(base, "call-complete", report("call-complete", 7006, answered=True))
    await deliver(base, "call-complete", report("call-complete", 7007, direction="outbound"))
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(0,)]
    await deliver(base, "call-complete", report("call-complete", 7008, answered=True, voicemail=True))
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(1,)]


async def test_withheld_number_is_missed_without_rescue(base, database_url):
    await deliver(base, "call-complete", report("call-complete", 7009, customer_phone_number="anonymous"))
    assert [event for _, event in log_of(database_url)] == [
        "telephony.call.received",
        "telephony.call.completed",
        "telephony.call.missed",
    ]


async def test_old_missed_call_is_recorded_as_expired(base, database_url):
    started = "2026-01-05T10:00:00.000-05:00"
    await deliver(base, "call-complete", report("call-complete", 7010, start_time=started))
    assert of_tenant(database_url, "select status, text_due_at from missed_calls") == [("expired", None)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(0,)]
    assert log_of(database_url)[-1][1] == "missed_call.expired"


async def test_nested_and_string_shapes_are_read(base, database_url):
    body = {"call": {**report("call-complete", 7011), "id": "7011", "duration": 12}}
    assert (await deliver(base, "call-complete", body))[1]["external_id"] == "7011"
    assert of_tenant(database_url, "select duration_seconds from calls") == [(12,)]


async def test_every_event_has_the_data_the_catalogue_says(base, database_url):
    import msgspec

    for kind in ("pre-call", "routing-complete", "call-complete", "call-modified"):
        await deliver(base, kind, report(kind, 7012, customer_name=kind))
    rows = of_tenant(database_url, "select event, data::text from events")
    assert len(rows) > 5
    for event, data in rows:
        msgspec.json.decode(data, type=EVENTS[event])


@pytest.mark.parametrize(
    ("body", "key", "status", "told"),
    [
        (b"{broken", "", 400, "body"),
        (b"[1]", "", 400, "body"),
        (b"[" * 100_000, "", 400, "body"),
        (b"\xff\xfe{}", "", 400, "body"),
        (b"{}", "wrong", 400, "company_id"),
        (b'{"company_id": 155920786, "id": 1}', "wrong", 401, "signature"),
        (b"x" * (2 * 1024 * 1024), "", 413, "1 MiB"),
    ],
)
async def test_unusable_deliveries_get_their_documented_answer(base, body, key, status, told):
    got, answer = await deliver(base, "call-complete", body, key=key)
    assert got == status
    assert told in answer["detail"]
    assert set(answer) == {"type", "title", "status", "detail", "instance", "trace_id"}
    assert "Traceback" not in str(answer)


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"id": None, "resource_id": ""}, "id:"), ({"duration": "long"}, "duration:"),
     ({"answered": "perhaps"}, "answered:"), ({"direction": "sideways"}, "direction:"),
     ({"start_time": "yesterday"}, "start_time:")],
)  # fmt: skip
async def test_well_signed_but_unusable_is_quarantined_once(base, database_url, fields, told):
    body = report("call-complete", 7013, **fields)
    status, answer = await deliver(base, "call-complete", body)
    assert (status, answer["status"]) == (200, "quarantined")
    assert told in answer["detail"]
    assert (await deliver(base, "call-complete", body))[1]["status"] == "duplicate_ignored"
    assert of_tenant(database_url, "select count(*) from payloads where error is not null") == [(1,)]
    assert log_of(database_url) == [(1, "system.webhook.quarantined")]


async def test_unknown_company_is_kept_and_replayed_when_added(base, db, config, database_url):
    from ottoai.commands import ingesting
    from ottoai.webhooks.receive import replay_unclaimed
    from tests.conftest import add_tenant

    body = report("call-complete", 7014, company_id=42, company_resource_id=None, tracking_phone_number=None)
    assert await deliver(base, "call-complete", body, tenant="late") == (
        202,
        {
            "status": "unclaimed",
            "provider": "callrail",
            "kind": "call-complete",
            "detail": "Nobody has added this company yet; the delivery is kept.",
        },
    )
    assert (await deliver(base, "call-complete", {**body, "id": 7015}, key="forged"))[0] == 202
    await add_tenant(db, "late", company="42", number="+12125550177")
    async with ingesting(config) as ingest:
        tally = await replay_unclaimed(ingest, "late")
    assert tally == {"processed": 1, "bad-signature": 1}
    assert of_tenant(database_url, "select external_id from calls", tenant="late") == [("7014",)]
    assert waiting(database_url) == ["7015"]  # for a key that fits
    assert (await deliver(base, "call-complete", {**body, "id": 7016}, key="forged"))[0] == 401
    assert waiting(database_url) == ["7015"]


async def test_unknown_company_is_kept_until_it_has_its_key(base, command, database_url):
    """Added without a key, then with a mistyped one: nothing is lost, and each is taken in once."""
    for number in (7022, 7023):
        body = report("call-complete", number, company_id=42, company_resource_id=None, tracking_phone_number=None)
        assert (await deliver(base, "call-complete", body, key="the-right-one"))[0] == 202
    waits = "2 deliveries that came before still wait: none of the tenant's keys signed them\n"
    assert waits in (await command("tenant", "add", "late", "--name", "Late", "--callrail-company", "42"))[1]
    assert waits in (await command("tenant", "set", "late", "--callrail-key", "-", typed="the-rihgt-one\n"))[1]
    assert waiting(database_url) == ["7022", "7023"]
    rotate = ("tenant", "rotate-key", "late", "--callrail-key", "-")
    assert "2 deliveries that came before: processed" in (await command(*rotate, typed="the-right-one\n"))[1]
    assert waiting(database_url) == []
    assert "came before" not in (await command(*rotate, typed="another\n"))[1]
    calls = of_tenant(database_url, "select external_id from calls order by external_id", tenant="late")
    assert calls == [("7022",), ("7023",)]


async def test_no_tenant_speaks_for_another(base, db, database_url):
    from tests.conftest import SIGNING_KEY, add_tenant

    await add_tenant(db, "other", company="77", number="+12125550188")
    body = report("call-complete", 7016)
    assert (await deliver(base, "call-complete", body, tenant="other"))[0] == 401
    mixed = {**body, "company_id": 77}  # the company of one and the number of another
    for key in ("demo", "other"):
        assert (await deliver(base, "call-complete", mixed, key=SIGNING_KEY.format(key)))[0] == 401
    assert of_tenant(database_url, "select count(*) from calls") == [(0,)]


async def test_hook_path_is_the_tenants_own(base, database_url):
    [(hook,)] = execute(database_url, "select value from tenant_routes where kind = 'hook'")
    bare = {"id": 7017, "direction": "inbound"}
    assert (await deliver(base, "call-complete", bare, hook=hook))[1]["status"] == "processed"
    assert (await deliver(base, "call-complete", b"{broken", hook=hook))[1]["status"] == "quarantined"
    assert (await deliver(base, "call-complete", bare, hook="guessed"))[0] == 401


async def test_unsigned_is_for_development_and_demo_only(base, database_url, db):
    from tests.conftest import add_tenant

    assert (await deliver(base, "pre-call", {"call": {"id": "test-123"}}, key=""))[1]["tenant_id"] == "demo"
    assert (await deliver(base, "pre-call", report("pre-call", 7018), key=""))[0] == 200
    await add_tenant(db, "other", company="77", number="+12125550188")
    other = report("pre-call", 7019, company_id=77, tracking_phone_number="+12125550188")
    assert (await deliver(base, "pre-call", other, key=""))[0] == 401


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
async def test_trace_and_request_id_run_through(config, demo, make_token, aiohttp_server, trusted):
    """The trace is a trusted proxy's to choose; anybody else's request begins one."""
    proxies = tuple(ipaddress.ip_network(each) for each in [trusted] if each)
    server = await aiohttp_server(build_app(dataclasses.replace(config, trusted_proxies=proxies)))
    base = str(server.make_url("")).rstrip("/")
    async with connect(base, make_token()) as socket:
        await socket.subscribe("tenant:demo:events")
        body = msgspec.json.encode(report("pre-call", 7020))
        given = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {
            "Signature": callrail.sign(body, SIGNING_KEY.format("demo")),
            "traceparent": f"00-{given}-00f067aa0ba902b7-01",
            "X-Request-Id": "from-the-caller",
        }
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{base}/call-rail/pre-call", data=body, headers=headers)
            assert response.headers["X-Request-Id"] == "from-the-caller"
        heard = (await socket.event())["trace_id"]
        assert re.fullmatch("[0-9a-f]{32}", heard)
        assert (heard == given) is bool(trusted)


async def test_figures_count_outcomes(base):
    body = report("pre-call", 7021)
    await deliver(base, "pre-call", body)
    await deliver(base, "pre-call", body)
    await deliver(base, "pre-call", body, key="wrong")
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        text = await response.text()
    for outcome in ("processed", "duplicate", "rejected"):
        assert re.search(
            rf'webhook_requests_total{{[^}}]*outcome="{outcome}"[^}}]*provider="callrail"[^}}]*}} 1\n', text
        )
    assert samples.TRACKING_NUMBER not in text


async def test_calls_are_listed_page_by_page(base, make_token):
    for call_id in range(8000, 8005):
        await deliver(base, "pre-call", report("pre-call", call_id))
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        status, _, page = await get(base, f"/api/calls?limit=2{cursor}", make_token())
        assert status == 200
        seen += [call["external_id"] for call in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert sorted(seen) == [str(n) for n in range(8000, 8005)]


@pytest.mark.parametrize(
    ("path", "provider", "named", "kind"),
    [
        ("/call-rail/form-submission", "callrail", "callrail", "form-submission"),
        ("/call-rail/Wv3x0aSecretHook/call-complete", "callrail", "callrail", "other"),
        ("/twilio/voice-insights", "twilio", "twilio", "voice-insights"),
        ("/clerk/events", "clerk", "clerk", "events"),
        ("/telnyx/webhook/Wv3x0aSecretHook", "other", "telnyx", "webhook"),
        ("/ring-central/12125550143", "other", "ring-central", "other"),
    ],
)
async def test_webhooks_that_nobody_receives_are_counted_and_named(base, caplog, path, provider, named, kind):
    import aiohttp

    caplog.set_level("INFO")
    async with aiohttp.ClientSession() as session:
        async with session.post(base + path, data=b"{}") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")
        async with session.get(f"{base}/metrics?scope=local") as response:
            figures = await response.text()
    assert re.search(
        rf'webhook_requests_total{{[^}}]*outcome="unknown"[^}}]*provider="{provider}"[^}}]*}} 1\n', figures
    )
    said = "New webhook provider detected" if provider == "other" else "Webhook of an unknown kind refused"
    assert [(r.provider, r.kind) for r in caplog.records if r.message == said] == [(named, kind)]
    ours = [str(record.__dict__) for record in caplog.records if record.name.startswith("ottoai")]
    assert ours
    assert not any("SecretHook" in line or "5550143" in line for line in ours)


@pytest.mark.parametrize(
    "path", ["/", "/wp-login.php", "/api/nothing/x", "/ws/x", "/cgi-bin/a/b/c/d", "/A/b", "/ops/x"]
)
async def test_other_addresses_are_no_webhooks(base, caplog, path):
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(base + path, data=b"{}") as response:
        assert response.status in {401, 404}
    assert "detected" not in caplog.text
