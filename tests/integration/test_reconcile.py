"""What CallRail's list of calls adds to what its webhooks told: each call once, whichever of them came first."""

import asyncio
import logging
from argparse import Namespace
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from jobs.run import perform_periodic
from ottoai import commands, samples
from ottoai.domain import calls, tenants
from ottoai.errors import InvalidInput, NotFound, ProviderFailed
from ottoai.metrics import Metrics
from ottoai.queue import Queues
from ottoai.vault import Vault
from ottoai.webhooks import callrail_api
from tests import callrail
from tests.background import context_of, counted, effects, redis_of, work, worker_of
from tests.callrail import listed, missed
from tests.conftest import SECRET_KEY, add_tenant, execute, make_config, of_tenant
from tests.helpers import deliver

VAULT = Vault((SECRET_KEY,))

COMPANY = samples.callrail("call-complete", 1)["company_resource_id"]
LOG = "select event from events order by seq"
CALLS = "select external_id, resource_id, status, missed, version from calls order by started_at"
NOBODY = "COM" + "9" * 32


@pytest.fixture
async def server(db, demo):
    """CallRail's API, which knows the tenant demo."""
    async with callrail.serving_callrail() as running:
        await register(db, running, "demo")
        yield running


async def register(db, running: callrail.CallRail, tenant: str) -> None:
    running.tokens[f"ACC{tenant}"] = callrail.TOKEN.format(tenant)
    running.calls[f"ACC{tenant}"] = []
    given = {"callrail_account": f"ACC{tenant}", "callrail_api_token": callrail.TOKEN.format(tenant)}
    await tenants.change(db.system(), VAULT, tenant, {}, given)


@pytest.fixture
def pointed(config, server):
    """The configuration of a worker that asks that server."""
    return make_config(config.database_url, config.redis_url, CALLRAIL_API_URL=server.url)


@pytest.fixture
def compare(pointed):
    """Run the periodic job once, whoever is due or not."""

    async def run(*, everybody: bool = True) -> Metrics:
        if everybody:
            due_now(pointed.database_url)
        async with context_of(pointed) as context:
            assert (await perform_periodic(context, "reconcile")).status == "success"
            return context.metrics

    return run


def due_now(url: str) -> None:
    for (tenant,) in execute(url, "select tenant_id from reconciliations"):
        of_tenant(url, "update reconciliations set due_at = now()", tenant=tenant)


def events(url: str, tenant: str = "demo") -> list[str]:
    return [event for (event,) in of_tenant(url, LOG, tenant=tenant)]


def standing(url: str, tenant: str = "demo"):
    """(settled_until, failures, error, seconds until due) of a tenant."""
    sql = "select settled_until, failures, error, extract(epoch from due_at - now())::float from reconciliations"
    [row] = of_tenant(url, sql, tenant=tenant)
    return row


def runs(metrics: Metrics, outcome: str) -> float:
    return counted(metrics, "reconcile_runs_total", outcome=outcome)


def found(metrics: Metrics, result: str) -> float:
    return counted(metrics, "reconcile_calls_total", result=result)


# One call, told twice


DUE = "select count(*) from outbox where state = 'open' and due_at <= now()"


async def test_a_call_whose_webhook_was_lost_is_rescued_once_by_the_real_worker(pointed, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(7001))]
    metrics = Metrics("test", "worker")
    async with worker_of(pointed, metrics) as made:
        with closing(redis_of(pointed)) as connection:
            for _ in range(2):
                Queues(connection).enqueue_periodic("reconcile")
                await work(made)
                while execute(database_url, DUE) != [(0,)]:  # the rescue that it staged, and that one's text
                    await work(made)
                due_now(database_url)
    assert events(database_url) == [
        "telephony.call.received",
        "lead.created",
        "telephony.call.completed",
        "telephony.call.missed",
        "missed_call.queued",
        "telephony.sms.status",
        "telephony.sms.sent",
        "missed_call.texted",
    ]
    assert effects(database_url)["texts"] == 1
    assert of_tenant(database_url, CALLS) == [(f"CAL{7001:032x}", f"CAL{7001:032x}", "completed", True, 1)]
    assert of_tenant(database_url, "select kind, outcome from idempotency_keys") == [("reconcile", "processed")]
    assert (runs(metrics, "success"), found(metrics, "recovered")) == (2, 1)
    assert counted(metrics, "worker_task_total", task="reconcile", status="success") == 2


async def test_a_webhook_that_comes_later_meets_the_same_call(base, compare, server, database_url):
    webhook = missed(7002)
    server.calls["ACCdemo"] = [listed(webhook)]
    await compare()
    before = events(database_url)
    assert (await deliver(base, "pre-call", webhook))[1]["status"] == "processed"
    assert (await deliver(base, "call-complete", webhook))[1]["status"] == "processed"
    # The one thing that the webhooks add is the call's number.
    assert events(database_url)[len(before) :] == ["telephony.call.status"]
    assert [row[:4] for row in of_tenant(database_url, CALLS)] == [("7002", f"CAL{7002:032x}", "completed", True)]
    assert of_tenant(database_url, "select count(*) from missed_calls") == [(1,)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(1,)]


async def test_what_the_webhooks_told_is_not_touched(base, compare, server, database_url):
    webhook = missed(7003)
    server.calls["ACCdemo"] = [listed(webhook)]
    await deliver(base, "call-complete", webhook)
    everything = [
        of_tenant(database_url, sql)
        for sql in (CALLS, LOG, "select version from leads", "select kind from idempotency_keys")
    ]
    for _ in range(2):
        metrics = await compare()
        assert (found(metrics, "recovered"), found(metrics, "corrected")) == (0, 0)
    assert everything == [
        of_tenant(database_url, sql)
        for sql in (CALLS, LOG, "select version from leads", "select kind from idempotency_keys")
    ]


async def test_the_same_list_twice_changes_nothing(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(number)) for number in range(7100, 7110)]
    await compare()
    everything = (of_tenant(database_url, CALLS), events(database_url), of_tenant(database_url, "select * from leads"))
    assert len(everything[0]) == 10
    await compare()
    assert everything == (
        of_tenant(database_url, CALLS),
        events(database_url),
        of_tenant(database_url, "select * from leads"),
    )


async def test_whoever_spoke_last_is_right(base, compare, server, database_url):
    """Modifications by webhook and by list in turn, one of them back to what was before."""
    webhook = missed(7004, customer_name="A")
    (call,) = server.calls["ACCdemo"] = [listed(webhook)]

    def name() -> object:
        return of_tenant(database_url, "select customer_name from calls")[0][0]

    await deliver(base, "call-complete", webhook)
    call["customer_name"] = "B"
    assert found(await compare(), "corrected") == 1
    assert name() == "B"
    await deliver(base, "call-modified", {**webhook, "customer_name": "C"})
    assert name() == "C"
    call["customer_name"] = "B"
    await compare()
    assert name() == "B", "the list, later than a modification"
    await deliver(base, "call-modified", {**webhook, "customer_name": "D"})
    assert name() == "D"
    call["customer_name"] = "B"
    await compare()
    assert name() == "B", "the same answer as before, to another question"
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]


async def test_a_final_report_that_comes_after_the_list_corrects_it(base, compare, server, database_url):
    webhook = missed(7005)
    server.calls["ACCdemo"] = [listed(webhook, customer_name="Too Early")]
    await compare()
    await deliver(base, "call-complete", {**webhook, "answered": True, "customer_name": "Right"})
    assert of_tenant(database_url, "select customer_name, answered, missed from calls") == [("Right", True, False)]


async def test_what_is_reported_while_the_list_is_on_its_way_is_newer(base, compare, server, database_url):
    webhook = missed(7006, customer_name="Old")
    server.calls["ACCdemo"] = [listed(webhook)]
    await deliver(base, "call-complete", {**webhook, "customer_name": "Older"})

    async def meanwhile(_request):
        await deliver(base, "call-modified", {**webhook, "customer_name": "New"})

    server.before = meanwhile
    metrics = await compare()
    assert of_tenant(database_url, "select customer_name from calls") == [("New",)]
    assert found(metrics, "corrected") == 0


async def test_reports_and_list_at_the_same_moment_make_one_call(base, compare, server, database_url):
    webhooks = [missed(number) for number in range(7200, 7260)]
    server.calls["ACCdemo"] = [listed(webhook) for webhook in webhooks]
    started = asyncio.Event()

    async def begun(_request):
        started.set()

    server.before = begun

    async def report_them() -> None:
        await started.wait()
        answers = await asyncio.gather(*(deliver(base, "call-complete", each) for each in webhooks))
        assert {status for status, _ in answers} == {200}

    await asyncio.gather(compare(), report_them())
    assert of_tenant(database_url, "select count(*), count(distinct resource_id) from calls") == [(60, 60)]
    once(database_url, 60)


async def test_many_pairs_in_the_very_same_moment(db, demo, database_url):
    """Both ids, the number alone and the API's alone, each pair at once, on ten connections."""
    now = datetime.now(UTC)

    async def record(number: int, external: str, resource: str | None, rank: int) -> None:
        facts = calls.Facts(
            direction="inbound", answered=False, duration_seconds=20, started_at=now - timedelta(minutes=number),
            customer_phone=samples.daytime_phone(now, number),
        )  # fmt: skip
        told = calls.Report(external_id=external, resource_id=resource, rank=rank, facts=facts)
        kind = {"kind": f"{external[:3]}-{rank}", "variant": "1", "headers": "{}", "body": b"{}"}
        await calls.record(
            db.one("demo"), told, now, now, provider="callrail", trace_id="", trace_context="", **kind
        )  # fmt: skip

    many = 150
    reports = []
    for number in range(many):
        api = f"CAL{number:032x}"
        both = record(number, str(10_000 + number), api, 3), record(number, api, api, calls.LATEST)
        reports += both if number % 2 else both[::-1]
        reports.append(record(number, str(10_000 + number), api, 1))
    await asyncio.gather(*reports)
    assert of_tenant(database_url, "select count(*), count(distinct external_id) from calls") == [(many, many)]
    assert of_tenant(database_url, "select bool_and(external_id ~ '^[0-9]+$' and resource_id ~ '^CAL') from calls") == [
        (True,)
    ]
    once(database_url, many)


def once(url: str, many: int) -> None:
    assert of_tenant(url, "select count(*), count(distinct call_id) from missed_calls") == [(many, many)]
    assert of_tenant(url, "select count(*) from outbox") == [(many,)]
    for event in ("telephony.call.received", "telephony.call.completed", "telephony.call.missed", "missed_call.queued"):
        assert events(url).count(event) == many, event
    assert of_tenant(url, "select count(*) = max(seq) from events") == [(True,)]


async def test_calls_of_before_are_found_by_caller_and_beginning(base, compare, server, database_url):
    webhook = missed(7007)
    await deliver(base, "call-complete", webhook)
    of_tenant(database_url, "update calls set resource_id = null")  # as the version before recorded it
    server.calls["ACCdemo"] = [listed(webhook, customer_name="Corrected"), listed(missed(7008))]
    await compare()
    assert of_tenant(database_url, "select external_id, resource_id, customer_name from calls order by 1") == [
        ("7007", f"CAL{7007:032x}", "Corrected"),
        (f"CAL{7008:032x}", f"CAL{7008:032x}", "Robin Sample"),
    ]


async def test_ids_that_contradict_each_other_are_no_error(base, compare, server, database_url):
    """A number that is known without the API's id, a call that only the API told of, and then both in one report."""
    await deliver(base, "call-complete", {**missed(7009), "resource_id": None, "start_time": None})
    webhook = missed(7009)
    server.calls["ACCdemo"] = [listed(webhook)]
    await compare()
    assert (await deliver(base, "call-modified", {**webhook, "customer_name": "Both"}))[0] == 200
    assert of_tenant(database_url, "select external_id, customer_name from calls order by 1") == [
        ("7009", "Both"),
        (f"CAL{7009:032x}", "Robin Sample"),
    ]


# Which calls


@pytest.mark.parametrize(
    "placeholders",
    [
        {"call_type": "in_progress", "answered": True, "duration": 90},
        {"answered": None, "duration": 30, "call_type": None},
        {"answered": False, "duration": 0},
        {"answered": True, "duration": None, "call_type": "answered"},
    ],
)
async def test_a_call_that_goes_on_is_waited_for(compare, server, database_url, placeholders):
    ringing = missed(7010, timedelta(minutes=5))
    (call,) = server.calls["ACCdemo"] = [listed(ringing, **placeholders)]
    await compare()
    assert of_tenant(database_url, CALLS) == []
    call.update(listed(ringing))
    await compare()
    assert [row[2:4] for row in of_tenant(database_url, CALLS)] == [("completed", True)]


async def test_a_long_call_holds_the_watermark_until_it_ends(compare, server, database_url):
    long = missed(7011, timedelta(hours=4), answered=True)
    (call,) = server.calls["ACCdemo"] = [listed(long, call_type="in_progress", answered=None, duration=None)]
    await compare()
    began = datetime.fromisoformat(long["start_time"])
    assert standing(database_url)[0] == began
    call.update(listed(long, duration=14_000))
    await compare()
    assert of_tenant(database_url, "select answered, duration_seconds from calls") == [(True, 14_000)]
    assert standing(database_url)[0] > began


async def test_a_call_that_goes_on_is_not_forgotten_by_the_next_step(compare, server, database_url):
    await compare()
    of_tenant(database_url, "update reconciliations set settled_until = now() - interval '15 hours'")
    going_on = missed(7033, timedelta(hours=5))  # in the first of two steps
    server.calls["ACCdemo"] = [listed(going_on, call_type="in_progress"), listed(missed(7034))]
    await compare()
    assert [query["page"] for _, query in server.requests[-2:]] == ["1", "1"]
    assert standing(database_url)[0] == datetime.fromisoformat(going_on["start_time"])


async def test_a_call_that_hangs_in_the_books_holds_nothing_for_ever(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(7012, timedelta(hours=40)), call_type="in_progress", answered=None)]
    await compare()
    assert standing(database_url)[0] > datetime.now(UTC) - timedelta(hours=3)


async def test_calls_of_other_companies_are_left_alone(db, base, compare, server, database_url):
    await add_tenant(db, "other", company=NOBODY, number="+14045550199")
    webhook = missed(7013)
    await deliver(base, "call-complete", webhook)
    strangers = [
        listed(missed(7014), company_id=NOBODY),  # another tenant's
        listed(missed(7015), company_id="COM" + "7" * 32, tracking_phone_number="+14045550177"),  # nobody's
        listed(missed(7016), company_id="COM" + "7" * 32, tracking_phone_number="+14045550199"),
    ]
    server.calls["ACCdemo"] = [listed(webhook), *strangers, listed(missed(7017))]
    await compare()
    server.calls["ACCdemo"] = strangers  # what was learnt is remembered
    await compare()
    assert [row[0] for row in of_tenant(database_url, "select external_id from calls order by 1")] == [
        "7013",
        f"CAL{7017:032x}",
    ]
    assert of_tenant(database_url, "select companies from reconciliations") == [([COMPANY],)]


async def test_of_an_account_with_several_companies_nothing_is_guessed(db, compare, server, database_url, caplog):
    theirs = {"tracking_phone_number": "+14045550177"}
    server.calls["ACCdemo"] = [listed(missed(7018), **theirs), listed(missed(7019), company_id=NOBODY, **theirs)]
    metrics = await compare()
    assert of_tenant(database_url, CALLS) == []
    assert runs(metrics, "ambiguous") == 1
    assert "--callrail-company COM" in standing(database_url)[2]
    await tenants.change(db.system(), VAULT, "demo", {}, {"callrail_company": COMPANY})
    await compare()
    assert [row[0] for row in of_tenant(database_url, CALLS)] == [f"CAL{7018:032x}"]
    assert server.requests[-1][1]["company_id"] == COMPANY


async def test_a_call_that_cannot_be_read_is_quarantined_once(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(7020), duration=-1), listed(missed(7021))]
    metrics = await compare()
    assert (found(metrics, "quarantined"), found(metrics, "recovered")) == (1, 1)
    await compare()
    assert events(database_url).count("system.webhook.quarantined") == 1
    assert of_tenant(database_url, "select error from payloads where error is not null") == [
        ("duration: out of range",)
    ]
    assert [row[0] for row in of_tenant(database_url, CALLS)] == [f"CAL{7021:032x}"]


async def test_a_list_of_nothing_readable_is_a_failure(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(number), direction="sideways") for number in range(7300, 7340)]
    assert runs(await compare(), "invalid") == 1
    assert "quarantine" in standing(database_url)[2]
    assert events(database_url).count("system.webhook.quarantined") == 40, "one page of them"


# Which time


async def test_the_first_look_is_48_hours_back_and_older_missed_calls_are_not_chased(compare, server, database_url):
    server.calls["ACCdemo"] = [
        listed(missed(7022, timedelta(hours=49))),
        listed(missed(7023, timedelta(hours=47))),
    ]
    await compare()
    assert of_tenant(database_url, "select status from missed_calls") == [("queued",)]
    # An outage: the watermark stayed behind, and what is found now is too late for a text.
    of_tenant(database_url, "update reconciliations set settled_until = now() - interval '5 days'")
    await compare()
    assert of_tenant(database_url, "select status from missed_calls order by called_at") == [("expired",), ("queued",)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(1,)]


async def test_days_are_caught_up_with_in_bounded_steps(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(7400 + day, timedelta(days=day))) for day in range(1, 6)]
    await compare()
    of_tenant(database_url, "update reconciliations set settled_until = now() - interval '6 days'")
    server.requests.clear()
    await compare()
    assert of_tenant(database_url, "select count(*) from calls") == [(5,)]
    lengths = [
        datetime.fromisoformat(query["end_date"]) - datetime.fromisoformat(query["start_date"])
        for _, query in server.requests
    ]
    assert len(lengths) in (12, 13)
    assert max(lengths) <= timedelta(hours=12, minutes=2)
    assert datetime.now(UTC) - standing(database_url)[0] < timedelta(hours=2, minutes=1)


async def test_windows_overlap(compare, server, database_url):
    await compare()
    server.calls["ACCdemo"] = [listed(missed(7024, timedelta(minutes=110)))]  # listed long after it began
    await compare()
    assert [row[0] for row in of_tenant(database_url, CALLS)] == [f"CAL{7024:032x}"]
    assert standing(database_url)[3] > 200, "due again only in some minutes"
    server.requests.clear()
    await compare(everybody=False)
    assert server.requests == []


async def test_every_page_is_read(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(number, timedelta(seconds=number))) for number in range(60, 660)]
    await compare()
    assert of_tenant(database_url, "select count(*) from calls") == [(600,)]
    assert [query["page"] for _, query in server.requests] == ["1", "1", "1", "1", "2", "3"]


async def test_the_watermark_moves_over_what_was_committed_only(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(n, timedelta(hours=3, seconds=n))) for n in range(400)]
    [first] = [call for call in server.calls["ACCdemo"] if call["id"] == f"CAL{150:032x}"]  # the last of page one

    async def second_page_fails(request):
        if request.query["page"] == "2":
            return web.Response(status=503)
        return web.json_response(server.page("ACCdemo", request.query))

    server.always["ACCdemo"] = second_page_fails
    assert runs(await compare(), "unavailable") == 1
    assert of_tenant(database_url, "select count(*) from calls") == [(250,)]
    assert standing(database_url)[0] == datetime.fromisoformat(first["start_time"])
    server.always.clear()
    await compare()
    assert of_tenant(database_url, "select count(*) from calls") == [(400,)]


async def test_a_list_in_another_order_settles_nothing_before_its_end(compare, server, database_url):
    server.calls["ACCdemo"] = [listed(missed(n, timedelta(hours=3, seconds=n))) for n in range(400)]
    await compare()  # knows them all; the watermark is to be seen alone
    of_tenant(database_url, "update reconciliations set settled_until = now() - interval '4 hours'")
    [(before,)] = of_tenant(database_url, "select settled_until from reconciliations")

    async def newest_first(request):
        page = server.page("ACCdemo", request.query)
        if request.query["page"] == "2":
            return web.Response(status=503)
        return web.json_response({**page, "calls": page["calls"][::-1]})

    server.always["ACCdemo"] = newest_first
    await compare()
    assert standing(database_url)[0] == before


async def test_another_account_is_begun_anew(db, compare, server, database_url):
    await compare()
    server.tokens["ACCnew"] = server.tokens["ACCdemo"]
    server.calls["ACCnew"] = [listed(missed(7025, timedelta(hours=40)))]
    await tenants.change(db.system(), VAULT, "demo", {}, {"callrail_account": "ACCnew"})
    await compare()
    assert [row[0] for row in of_tenant(database_url, CALLS)] == [f"CAL{7025:032x}"]


# What a server can do to us


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(callrail_api, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(callrail_api, "REQUEST_TIMEOUT", 0.5)


async def redirect(request):
    raise web.HTTPFound(request.url.with_path("/v3/a/ACCelsewhere/calls.json"))


async def huge(request):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"calls": [')
    while True:  # until the client goes away
        await response.write(b" " * 65536)


async def hang(request):
    await asyncio.sleep(30)  # ended by the client, or with the server
    raise AssertionError("nobody waited")


async def endless(request):
    number = int(request.query["page"])
    calls = [listed(missed(10_000 + 10 * number + n)) for n in range(10)]
    return web.json_response({"calls": calls, "total_pages": 10**9})


async def repeating(_request):
    return web.json_response({"calls": [listed(missed(7026))], "total_pages": 7})


async def cut_off(request):
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"calls"')
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (callrail.status(500), "unavailable"),
        (callrail.status(403), "unauthorized"),
        (callrail.status(404), "invalid"),
        (callrail.status(429), "rate_limited"),
        (callrail.body(b"<html>"), "invalid"),
        (callrail.body(b"[]"), "invalid"),
        (callrail.body(b'{"calls": 7}'), "invalid"),
        (callrail.body(b'{"calls": [], "total_pages": "many"}'), "invalid"),
        (callrail.body(b"[" * 100_000), "invalid"),
        (callrail.body(b'{"calls": [%s{}]}' % (b"{}," * 1000)), "invalid"),
        (callrail.body(b"\x1f\x8b", **{"Content-Encoding": "gzip"}), "invalid"),
        (redirect, "invalid"),
        (huge, "invalid"),
        (endless, "invalid"),
        (repeating, "invalid"),
        (cut_off, "unavailable"),
        (hang, "unavailable"),
    ],
)
async def test_one_tenants_server_lies_and_the_others_are_served(
    db, compare, server, database_url, hasty, monkeypatch, answer, outcome, caplog
):
    monkeypatch.setattr("ottoai.webhooks.reconcile.MAX_PAGES", 5)
    await add_tenant(db, "other", company=NOBODY, number="+14045550199")
    await register(db, server, "other")
    server.always["ACCdemo"] = answer
    server.calls["ACCother"] = [listed(missed(7027), company_id=NOBODY)]
    metrics = await compare()
    assert (runs(metrics, outcome), runs(metrics, "success")) == (1, 1)
    assert of_tenant(database_url, "select count(*) from calls", tenant="other") == [(1,)]
    settled, failures, error, due = standing(database_url)
    assert failures == 1
    assert settled is None or answer in (endless, repeating)  # their first page was one
    assert error
    assert "repeat" in error or answer is not repeating
    if outcome == "unavailable":
        assert [account for account, _ in server.requests].count("ACCdemo") == callrail_api.ATTEMPTS
    assert 230 < due < 900
    assert not [account for account, _ in server.requests if account == "ACCelsewhere"]
    said = "".join(record.getMessage() + str(record.__dict__) for record in caplog.records)
    assert "api-token-of" not in said
    assert "+1212" not in said


async def test_a_server_that_hangs_delays_nobody_else(db, pointed, server, database_url, hasty):
    for number in range(12):
        name = f"a-slow{number}"  # the first in turn
        await add_tenant(db, name, company=f"COM{number}", number=f"+1404555{2000 + number}")
        await register(db, server, name)
        server.always[f"ACC{name}"] = hang
    server.calls["ACCdemo"] = [listed(missed(7028))]
    async with context_of(pointed) as context:
        outcome = await perform_periodic(context, "reconcile")
        assert outcome.status == "success"
        assert (runs(context.metrics, "success"), runs(context.metrics, "unavailable")) == (1, 12)
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]


async def test_too_many_requests_are_answered_by_waiting(compare, server, database_url):
    server.next_answers.append(("", callrail.status(429, **{"Retry-After": "1234"})))
    assert runs(await compare(), "rate_limited") == 1
    assert standing(database_url)[3] == pytest.approx(1234, abs=30)
    assert len(server.requests) == 1, "not asked again in the same run"
    server.next_answers.append(("", callrail.status(429, **{"Retry-After": "99999999"})))
    await compare()
    assert standing(database_url)[3] == pytest.approx(3600, abs=30)


async def test_a_hiccup_is_outlasted(compare, server, database_url, hasty):
    server.calls["ACCdemo"] = [listed(missed(7029))]
    server.next_answers.extend([("", callrail.status(500)), ("", callrail.status(502))])
    assert runs(await compare(), "success") == 1
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]


async def test_failures_are_asked_ever_more_rarely_and_forgotten_with_a_success(compare, server, database_url, hasty):
    server.always["ACCdemo"] = callrail.status(503)
    waits = []
    for _ in range(4):
        await compare()
        waits.append(round(standing(database_url)[3] / 60))
    assert waits == [4, 8, 15, 15]
    server.always.clear()
    await compare()
    assert standing(database_url)[1:3] == (0, None)


async def test_a_refused_token_is_said_with_its_tenant(db, compare, server, database_url, caplog):
    await tenants.change(db.system(), VAULT, "demo", {}, {"callrail_api_token": "a-wrong-token"})
    caplog.set_level(logging.INFO)
    metrics = await compare()
    assert runs(metrics, "unauthorized") == 1
    [said] = [record for record in caplog.records if record.getMessage() == "Reconcile failed"]
    assert (said.levelname, said.reason) == ("ERROR", "unauthorized")
    assert "a-wrong-token" not in str(said.__dict__)
    assert standing(database_url)[2] == "CallRail refuses the API token (401)."


async def test_nobody_listening_there_is_a_failure_like_others(config, db, demo, database_url, hasty):
    given = {"callrail_account": "ACCdemo", "callrail_api_token": "x"}
    await tenants.change(db.system(), VAULT, "demo", {}, given)
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1", "https://no-such-host.invalid"):
        there = make_config(config.database_url, config.redis_url, CALLRAIL_API_URL=url)
        due_now(database_url)
        async with context_of(there) as context:
            assert (await perform_periodic(context, "reconcile")).status == "success"
            assert runs(context.metrics, "unavailable") == 1, url


async def test_a_run_that_is_cut_short_goes_on_where_it_was(pointed, server, database_url, monkeypatch):
    monkeypatch.setattr("jobs.reconcile.BUDGET", 0.05)
    server.calls["ACCdemo"] = [listed(missed(n, timedelta(hours=3, minutes=n))) for n in range(100)]

    async def slow(request):
        await asyncio.sleep(0.3)
        return web.json_response(server.page("ACCdemo", request.query))

    server.always["ACCdemo"] = slow
    ended = 0
    async with context_of(pointed) as context:
        with closing(redis_of(pointed)) as connection:
            while not runs(context.metrics, "success"):
                assert (await perform_periodic(context, "reconcile")).status == "success"
                ended += 1
                assert ended < 20
                if not runs(context.metrics, "success"):
                    assert any(name.startswith("reconcile-") for name in Queues(connection).waiting())
        assert runs(context.metrics, "unfinished") >= 1
    assert of_tenant(database_url, "select count(*) from calls") == [(100,)]


# By hand


async def test_an_operator_compares_a_range_and_sees_what_came_of_it(pointed, server, database_url, capsys):
    server.calls["ACCdemo"] = [listed(missed(7030, timedelta(hours=75))), listed(missed(7031))]
    asked = Namespace(id="demo", since="4d", until="2d")
    assert await asyncio.to_thread(commands.tenant_reconcile, pointed, asked) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "in all: 1 listed, 1 recovered"
    assert len(said) == 5
    assert of_tenant(database_url, "select status from missed_calls") == [("expired",)]
    assert of_tenant(database_url, "select count(*) from reconciliations") == [(0,)]
    asked = Namespace(id="demo", since=None, until=None)
    await asyncio.to_thread(commands.tenant_reconcile, pointed, asked)
    assert capsys.readouterr().out.splitlines()[-1] == "in all: 1 listed, 1 recovered"


@pytest.mark.parametrize(
    ("tenant", "since", "error"),
    [("nobody", None, NotFound), ("other", None, InvalidInput), ("demo", "yesterday", InvalidInput)],
)
async def test_what_an_operator_may_ask(db, pointed, tenant, since, error):
    await add_tenant(db, "other", company=NOBODY, number="+14045550199")
    with pytest.raises(error):
        await asyncio.to_thread(commands.tenant_reconcile, pointed, Namespace(id=tenant, since=since, until=None))


async def test_an_operator_is_told_what_is_wrong_with_the_token(db, pointed, server):
    await tenants.change(db.system(), VAULT, "demo", {}, {"callrail_api_token": "a-wrong-token"})
    with pytest.raises(ProviderFailed, match="401"):
        await asyncio.to_thread(commands.tenant_reconcile, pointed, Namespace(id="demo", since=None, until=None))
