"""/ops, /ops.txt, /ops.json and /ops/alerts as whoever is on call sees them: what is wrong first, with stores away,
with ten thousand of everything, and with names that somebody made up to do harm.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import aiohttp
import msgspec
import pytest
import redis
from aiohttp import encode_basic_auth
from aiohttp.test_utils import TestServer

from ottoai import tally
from ottoai.app import build_app
from ottoai.client import connect
from ottoai.ops import silent, snapshot
from ottoai.ops.status import Status
from ottoai.web import keys
from tests.background import locked
from tests.conftest import execute, make_config
from tests.helpers import deliver, report

PATHS = ("/ops", "/ops.txt", "/ops.json", "/ops/alerts")
USERS = "operator:secret:operator,viewer:looks:viewer"
OPERATOR, VIEWER = ("operator", "secret"), ("viewer", "looks")
EVIL = "<img src=x onerror=alert(1)>\"'`{{7*7}}\x1b[2J"
VOID = {"meta", "link", "input", "br", "img", "path"}

Serve = Callable[..., Awaitable[TestServer]]


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch looks when the test has it look, and at no other time: what the test put in place stays there."""
    monkeypatch.setattr("ottoai.ops.monitor.Monitor.run", asyncio.Event().wait)


@pytest.fixture
async def serve(database_url: str, redis_url: str, demo: str, aiohttp_server: Any) -> Serve:
    """An api process with these settings."""

    async def start(**settings: str) -> TestServer:
        config = make_config(database_url, redis_url, **{"OPS_USERS": USERS, **settings})
        server: TestServer = await aiohttp_server(build_app(config))
        return server

    return start


@pytest.fixture
async def served(serve: Serve) -> TestServer:
    """An api process that has looked at everything once."""
    server = await serve()
    await server.app[keys.MONITOR].run_once()
    return server


async def fetch(server: TestServer, path: str, auth: tuple[str, str] | None = OPERATOR) -> tuple[int, Any, str]:
    """(status, headers, body)"""
    headers = {"Authorization": encode_basic_auth(*auth)} if auth else {}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(server.make_url(path)) as response:
        return response.status, response.headers, await response.text()


def base_of(server: TestServer) -> str:
    return str(server.make_url("")).rstrip("/")


async def seen(server: TestServer, path: str = "/ops", auth: tuple[str, str] = OPERATOR) -> str:
    """What is told now, not what was gathered for whoever asked before."""
    server.app[keys.BOARD]._until = server.app[keys.HEALTH]._until = 0.0
    status, _, body = await fetch(server, path, auth)
    assert status == 200, body
    return body


async def status_of(server: TestServer) -> Status:
    return msgspec.json.decode(await seen(server, "/ops.json"), type=Status)


def fail_jobs(url: str, count: int, state: str = "dead", **columns: str | None) -> None:
    """Plant jobs that failed, the first of them the latest."""
    given = {
        "job": "send_text",
        "error": "CarrierDown: 503",
        "traceback": "Traceback:\n  in send\nCarrierDown",
        **columns,
    }
    execute(
        url,
        """insert into outbox (tenant_id, job, queue, subject_id, state, attempts, due_at, enqueue_at, error, traceback,
               finished_at, trace_context)
           select 'demo', %s, 'urgent', gen_random_uuid(), %s, 5, now() + interval '1 hour', now() + interval '1 hour',
               %s, %s, case %s when 'dead' then now() - n * interval '1 minute' end,
               '00-' || md5(n::text) || '-0123456789abcdef-01'
           from generate_series(1, %s) as n""",
        given["job"], state, given["error"], given["traceback"], state, count,
    )  # fmt: skip


def leave(redis_url: str, **fields: Any) -> None:
    """Leave in Redis what a process says of itself."""
    now = datetime.now(UTC)
    base: dict[str, Any] = {"kind": "worker", "host": "h", "pid": 1, "version": "1", "started_at": now, "at": now}
    said = tally.Snapshot(**{**base, **fields})
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"tally:process:{said.name}", msgspec.json.encode(said), ex=900)
        client.zadd("tally:processes", {said.name: said.at.timestamp()})


# Who may look


@pytest.mark.parametrize("auth", [None, ("operator", "wrong"), ("nobody", "secret"), ("", "")])
@pytest.mark.parametrize("path", PATHS)
async def test_strangers_learn_nothing(serve, path, auth):
    status, headers, body = await fetch(await serve(), path, auth)
    assert (status, headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
    assert headers["Content-Type"].startswith("application/problem+json")
    assert msgspec.json.decode(body)["type"] == "/docs/problems/not-signed-in"
    assert "X-Verdict" not in headers


@pytest.mark.parametrize("path", PATHS)
async def test_without_users_they_are_there_in_development_only(serve, path):
    for environment, expected in (("development", 200), ("staging", 404), ("production", 404)):
        server = await serve(ENVIRONMENT=environment, OPS_USERS="")
        assert (await fetch(server, path, None))[0] == expected


async def test_addresses_that_keep_guessing_are_refused(serve):
    server = await serve(RATE_LIMIT_FAILURES="5/minute")
    found = [(await fetch(server, "/ops", ("operator", "guess")))[0] for _ in range(8)]
    assert found[0] == 401
    assert found[-1] == 429


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_browser_may_do_with_it(served, path):
    _, headers, _ = await fetch(served, path)
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["Cache-Control"] == "no-store"


async def test_viewers_look_and_have_nothing_to_press(served, database_url):
    fail_jobs(database_url, 1)
    viewed, operated = await seen(served, auth=VIEWER), await seen(served)
    assert "send_text" in viewed
    assert "<form" not in viewed
    assert msgspec.json.decode(await seen(served, "/ops.json", VIEWER))["csrf"] is None
    assert 'action="/ops/jobs/retry"' in operated
    token = (await status_of(served)).csrf
    forms = re.findall(r"<form[^>]*>(.*?)</form>", operated, re.DOTALL)
    assert len(forms) >= 4
    assert all(f'name="csrf" value="{token}"' in form and 'name="back" value="/ops"' in form for form in forms)


# The verdict


async def test_what_is_wrong_comes_first_and_all_three_agree(served, redis_url):
    leave(redis_url, name="beat-1", kind="beat")  # and no worker
    await served.app[keys.MONITOR].run_once()
    status = await status_of(served)
    page, text = await seen(served), await seen(served, "/ops.txt")
    worker = next(each for each in status.indicators if each.id == "worker")
    assert (status.verdict, worker.verdict) == ("critical", "critical")
    assert re.fullmatch(r"\d+ critical(, \d+ warning)?(, \d+ info)?", status.words)
    assert f'<h1 aria-live="polite">{status.words}</h1>' in page
    assert text.startswith(status.words.upper())
    assert (await fetch(served, "/ops.txt"))[1]["X-Verdict"] == "critical"
    assert page.index(worker.title) < page.index("<h3>Components</h3>"), "what fails should come first"
    first = page[page.index('id="indicator-worker"') :]
    for told in ('<td data-label="Value" class="value">no</td>', ">critical</span>", "fly scale count worker=2"):
        assert told in first[: first.index("</tr>")]
    assert text.index(f"CRITICAL {worker.title}: no (healthy: yes)") < text.index("QUEUE") < text.index("WELL")
    assert "not well: worker" in page


async def test_nothing_wrong_is_said_so(served):
    monitor = served.app[keys.MONITOR]
    well = [msgspec.structs.replace(each, verdict="ok") for each in monitor.report.readings if each.value is not None]
    monitor.report = msgspec.structs.replace(monitor.report, verdict="ok", readings=well)
    assert '<header class="top ok">' in (page := await seen(served))
    assert '<h1 aria-live="polite">All well</h1>' in page
    assert (await seen(served, "/ops.txt")).startswith("ALL WELL")


async def test_no_data_is_not_well(serve):
    server = await serve()
    page = await seen(server)
    assert '<h1 aria-live="polite">Not known: no data yet</h1>' in page
    assert '<header class="top none">' in page
    assert "Not known yet" in page
    await server.app[keys.MONITOR].run_once()
    requests = next(each for each in (await status_of(server)).indicators if each.id == "http_p95")
    assert (requests.value, requests.verdict, requests.note) == (None, "none", "no data")
    assert '<span class="word none">no data</span>' in await seen(server)


async def test_a_watch_that_stopped_is_told(served):
    monitor = served.app[keys.MONITOR]
    monitor.report = msgspec.structs.replace(monitor.report, at=monitor.report.at - timedelta(minutes=2))
    assert (await status_of(served)).words.startswith("Not known: nothing was looked at since")


# Stores away


async def test_without_redis(served, database_url, redis_server):
    fail_jobs(database_url, 1)
    redis_server.stop()
    try:
        await served.app[keys.MONITOR].run_once()
        page, text, status = await seen(served), await seen(served, "/ops.txt"), await status_of(served)
    finally:
        redis_server.start()
    assert page.index("Redis does not answer: only this process is seen") < page.index("<h1")
    assert text.splitlines()[1].startswith("! Redis does not answer")
    assert [process.kind for process in status.processes] == ["api"]
    assert (status.redis, status.database) == (False, True)
    assert all((queue.length, queue.oldest_seconds) == (None, None) for queue in status.queues)
    assert {queue.name: queue.dead for queue in status.queues} == {"urgent": 1, "default": 0, "bulk": 0}
    assert "send_text" in page
    assert "send_text" in text


async def test_without_postgres(served, postgres_server):
    served.app[keys.WATCH].silence._next = None  # it is time to ask again
    postgres_server.stop()
    try:
        await served.app[keys.MONITOR].run_once()
        page, text, status = await seen(served), await seen(served, "/ops.txt"), await status_of(served)
    finally:
        postgres_server.start()
    assert page.index("PostgreSQL does not answer: failed jobs") < page.index("<h1")
    for part in ("FAILED JOBS", "schedule", "quarantine", "silent tenants"):
        assert f"\n{part} not known: PostgreSQL does not answer\n" in text
    assert (status.redis, status.database) == (True, False)
    assert (status.jobs, status.schedule, status.quarantine, status.history, status.audit) == (None,) * 5
    assert {queue.length for queue in status.queues} == {0}
    assert {queue.dead for queue in status.queues} == {None}
    assert re.search(r"not well: [a-z, ]*database", page)


async def test_postgres_is_not_blamed_for_what_took_too_long(serve, database_url, monkeypatch):
    monkeypatch.setattr(silent, "PATIENCE", 0.1)
    server = await serve()
    with locked(database_url, "idempotency_keys"):
        await server.app[keys.MONITOR].run_once()
    page, text, status = await seen(server), await seen(server, "/ops.txt"), await status_of(server)
    assert (status.database, status.silent) == (True, None)
    assert [line for line in text.splitlines() if "not known" in line] == ["silent tenants not known yet"]
    assert "Not known yet." in page


async def test_with_both_away(served, postgres_server, redis_server):
    postgres_server.stop()
    redis_server.stop()
    try:
        await served.app[keys.MONITOR].run_once()
        page, text = await seen(served), await seen(served, "/ops.txt")
    finally:
        redis_server.start()
        postgres_server.start()
    for told in (page, text):
        assert "Redis does not answer" in told
        assert "PostgreSQL does not answer" in told


# The parts


async def test_processes_that_fell_silent_and_versions_that_differ(served, redis_url):
    now = datetime.now(UTC)
    at_work = {
        "state": "busy",
        "queues": ["urgent"],
        "current_job": "send_text 17",
        "started_at": now - timedelta(hours=26),
    }
    leave(
        redis_url,
        name="worker-new",
        version="2.0.0",
        metrics_text="process_resident_memory_bytes 104857600\n",
        **at_work,
    )
    leave(redis_url, name="worker-dead", at=now - timedelta(minutes=3))
    leave(redis_url, name="worker-left", at=now - timedelta(minutes=4), state="stopped")
    status = await status_of(served)
    names = [process.name for process in status.processes]
    assert names[0] == "worker-dead", "what fell silent comes first"
    assert names[-1] == "worker-left"
    assert max(status.versions) == "2.0.0"
    page, text = await seen(served), await seen(served, "/ops.txt")
    row = page[page.index(">worker-new<") :].partition("</tr>")[0]
    for told in ("busy", "urgent", "send_text 17", "2.0.0", "1 d 2 h", "100 MB"):
        assert told in row
    assert "fell silent" in page[page.index(">worker-dead<") :].partition("</tr>")[0]
    assert "versions differ" in page
    assert "versions differ" in text
    assert re.search(r"worker-dead +SILENT", text)


async def test_a_crash_loop_does_not_fill_the_page(served, redis_url):
    for number in range(50):
        leave(redis_url, name=f"worker-{number}", at=datetime.now(UTC) - timedelta(minutes=3))
    assert len((await status_of(served)).processes) == snapshot.GONE + 1


async def test_from_a_failing_job_to_its_traceback(served, database_url):
    fail_jobs(database_url, 3)
    fail_jobs(database_url, 2, state="open", error="Timeout")
    page, text, status = await seen(served), await seen(served, "/ops.txt"), await status_of(served)
    assert (status.jobs.dead, status.jobs.failing) == (3, 2)
    latest = status.jobs.latest[0]
    assert f'href="/ops/jobs/{latest.id}"' in page
    assert [job.state for job in status.jobs.latest] == ["dead"] * 3 + ["open"] * 2
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if latest.id in line)
    screen = "\n".join(lines[place : place + 40])
    for told in ("CarrierDown: 503", "  in send", f"/ops/jobs/{latest.id}"):
        assert told in screen


async def test_what_only_waits_for_a_better_hour_has_not_failed(served, database_url):
    fail_jobs(database_url, 2, state="open")
    fail_jobs(database_url, 3, state="open", error="outside the hours for texts", traceback=None)
    text, status = await seen(served, "/ops.txt"), await status_of(served)
    assert (status.queues[0].name, status.queues[0].open, status.queues[0].failing) == ("urgent", 5, 2)
    assert status.jobs.failing == 2
    assert re.search(r"^urgent .* 5 +0 +2 +0 +0$", text, re.MULTILINE)


async def test_traces_are_links_where_there_is_an_address(serve, database_url):
    fail_jobs(database_url, 1)
    [(trace,)] = execute(database_url, "select split_part(trace_context, '-', 2) from outbox")
    assert "https://traces" not in await seen(await serve())
    linked = await seen(await serve(TRACE_URL="https://traces.example.com/{trace_id}?from=otto"))
    assert f'href="https://traces.example.com/{trace}?from=otto"' in linked


async def test_ten_thousand_failed_jobs_make_a_short_page(served, database_url):
    fail_jobs(database_url, 10_000)
    page, text, status = await seen(served), await seen(served, "/ops.txt"), await status_of(served)
    assert status.jobs.dead == 10_000
    assert len(status.jobs.latest) == snapshot.SHOWN
    assert "10,000 dead" in page
    assert 'href="/ops/jobs"' in page
    assert len(page) < 200_000
    assert len(text.splitlines()) < 150
    assert max(map(len, text.splitlines())) <= 140


async def test_quarantine_schedule_pauses_and_audit_are_shown(served, database_url):
    status, _ = await deliver(base_of(served), "call-complete", report("call-complete", duration="x"))
    assert status == 200
    execute(database_url, "insert into paused_queues (queue, paused_by) values ('bulk', 'ann')")
    execute(
        database_url, "insert into ops_audit (actor, action, target, outcome) values ('ann', 'pause', 'bulk', 'ok')"
    )
    execute(
        database_url,
        "insert into periodic_runs (name, started_at, seconds, outcome, error) "
        "values ('recap', now(), 1.5, 'failure', 'KeyError')",
    )
    page, text, told = await seen(served), await seen(served, "/ops.txt"), await status_of(served)
    assert told.quarantine.count == 1
    assert f'id="delivery-{told.quarantine.oldest[0].id}"' in page
    assert told.queues[2].paused.paused_by == "ann"
    assert '<span class="word warning">paused</span> by ann' in page
    assert '<span class="word failure">failure</span>' in page
    assert "recap: failure" in text
    assert [(entry.actor, entry.action) for entry in told.audit] == [("ann", "pause")]


async def test_alerts_and_their_history(served, database_url):
    execute(
        database_url,
        """insert into alerts (name, level, state, pending_at, fired_at, resolved_at, value)
           select 'http_p95.critical', 'critical', 'resolved', now() - n * interval '1 hour',
               now() - n * interval '1 hour' + interval '5 minutes',
               now() - n * interval '1 hour' + interval '20 minutes', n
           from generate_series(1, 130) as n""",
    )
    page = await seen(served)
    assert page.count("http_p95.critical") == snapshot.SHOWN
    _, _, first = await fetch(served, "/ops/alerts", VIEWER)
    assert first.count("<code>http_p95.critical</code>") == 100
    further = re.search(r'href="(/ops/alerts\?before=\d+)"', first)[1]
    _, _, second = await fetch(served, further)
    assert second.count("<code>http_p95.critical</code>") == 30
    assert "after 15 min" in second
    assert "Older ones" not in second
    for wrong in ("x", "-1", "1" * 30, "%C2%B2"):
        assert (await fetch(served, f"/ops/alerts?before={wrong}"))[0] == 400


async def test_a_firing_alert_says_what_to_do_and_leads_to_the_cause(served):
    monitor = served.app[keys.MONITOR]
    failing = [
        msgspec.structs.replace(each, value=0.5, shown="50 %", verdict="critical")
        if each.id == "tasks_failed"
        else each
        for each in monitor.report.readings
    ]
    monitor.report = msgspec.structs.replace(monitor.report, readings=failing)
    watch = served.app[keys.WATCH]
    await watch.alerting.look()
    status = await status_of(served)
    alert = next(each for each in status.alerts if each.indicator == "tasks_failed")
    page = await seen(served)
    row = page[page.index(f'id="alert-{alert.name}"') :].partition("</tr>")[0]
    for told in ("50 %", alert.threshold.replace(">", "&gt;"), 'href="#jobs"', alert.state):
        assert told in row
    assert f"{alert.state.upper()} {alert.name}" in await seen(served, "/ops.txt")


async def test_the_last_day_is_drawn(served):
    monitor = served.app[keys.MONITOR]
    now = monitor.clock()
    for minute in range(600, 0, -1):
        value = 0.1 if minute > 30 else None
        monitor.history.add_minute(now - timedelta(minutes=minute), {"http_p95": (value, "ok")})
    await monitor.run_once()
    status, page = await status_of(served), await seen(served)
    spark = status.sparks["http_p95"]
    assert (spark.least, spark.most, len(spark.points)) == (0.1, 0.1, 96)
    row = page[page.index('id="indicator-http_p95"') :].partition("</tr>")[0]
    assert 'aria-label="Last 24 hours: least 100 ms, most 100 ms, now no data"' in row
    assert re.search(r'<path d="M\d+ 12h', row)
    assert " style=" not in page


async def test_connections_of_all_processes(served, make_token, redis_url):
    far = tally.Client("far-away", "acme", "eve", 7200.0, 300_000)
    leave(redis_url, name="api-2", kind="api", clients=tally.Clients(10_000, [far], []))
    async with AsyncExitStack() as stack:
        for number in range(25):
            await stack.enter_async_context(connect(base_of(served), make_token(user=f"user-{number}")))
        served.app[keys.GAUGES]._until = 0.0
        await served.app[keys.MONITOR].run_once()
        page, status = await seen(served), await status_of(served)
    own, other = sorted(status.connections, key=lambda each: each.open)
    assert (own.open, other.open) == (25, 10_000)
    assert [client.user_id for client in own.newest] == [f"user-{number}" for number in range(24, 4, -1)]
    assert own.slowest == []
    assert '<span class="count">10,025 open</span>' in page
    assert "25 open, 0 behind" in page
    row = page[page.index(">far-away<") :].partition("</tr>")[0]
    for told in ("acme", "eve", "2 h", "293 kB", 'name="id" value="far-away"'):
        assert told in row


async def test_who_does_not_take_its_messages_is_named(served, make_token):
    async with connect(base_of(served), make_token(user="slow")) as slow, connect(base_of(served), make_token()):
        await slow.subscribe("tenant:demo:events")
        transport = slow.raw._conn.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        transport.pause_reading()
        url = f"{base_of(served)}/ws/test-emit?event=test.big&tenant_id=demo"
        async with aiohttp.ClientSession(headers={"X-Dev-Key": "dev"}) as session:
            while not any(each.unsent for each in served.app[keys.HUB].connections.values()):
                async with session.post(url, json={"filler": "x" * 8_000}) as response:
                    assert response.status == 200
        served.app[keys.GAUGES]._until = 0.0
        await served.app[keys.MONITOR].run_once()
        [connections] = (await status_of(served)).connections
        [client] = connections.slowest
        assert (client.user_id, client.unsent > 0) == ("slow", True)
        assert "2 open, 1 behind" in await seen(served)


async def test_what_is_gathered_serves_all_who_ask(served, monkeypatch):
    monkeypatch.setattr(snapshot, "SHARED", 60.0)
    served.app[keys.BOARD]._until = 0.0
    answers = await asyncio.gather(*(fetch(served, "/ops.json") for _ in range(20)))
    assert len({msgspec.json.decode(body)["at"] for _, _, body in answers}) == 1


# Harm


class Outline(HTMLParser):
    """What a browser makes of a page: every element, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_names_that_mean_harm_are_only_shown(served, database_url, redis_url):
    clients = tally.Clients(1, *[[tally.Client(EVIL, EVIL, EVIL, 1.0, 1)]] * 2)
    leave(redis_url, name=EVIL, kind="api", version=EVIL, state=EVIL, queues=[EVIL], current_job=EVIL, clients=clients,
          host=EVIL, metrics_text=f'process_resident_memory_bytes{{x="{EVIL}"}} {EVIL}\n')  # fmt: skip
    fail_jobs(database_url, 1, job=EVIL, error=EVIL, traceback=EVIL)
    fail_jobs(database_url, 1, state="open", job=EVIL, error=EVIL, traceback=EVIL)
    execute(database_url, "update outbox set trace_context = '00-' || %s || '-1-1'", EVIL)
    execute(database_url, "insert into paused_queues (queue, paused_by) values ('bulk', %s)", EVIL)
    execute(database_url, "insert into ops_audit (actor, action, target, outcome) values (%s, %s, %s, %s)", *[EVIL] * 4)
    execute(
        database_url,
        """insert into periodic_runs (name, started_at, seconds, outcome, error, traceback, trace_id)
           values (%s, now(), 1, 'failure', %s, %s, %s)""",
        *[EVIL] * 4,
    )
    execute(
        database_url,
        """insert into alerts (name, level, state, pending_at, fired_at, resolved_at, acknowledged_by)
           values (%s, 'critical', 'resolved', now(), now(), now(), %s)""",
        *[EVIL] * 2,
    )
    execute(
        database_url,
        """with key as (
               insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
               values ('demo', %s, %s, '1', '', 'quarantined', %s) returning id
           )
           insert into payloads (idempotency_key_id, tenant_id, headers, body, error)
           select id, 'demo', '{}', '', %s from key""",
        *[EVIL] * 4,
    )
    served.app[keys.WATCH].silence.tenants = []
    page, history = await seen(served), await seen(served, "/ops/alerts")
    for body in (page, history):
        outline = Outline()
        outline.feed(body)
        assert outline.open == []
        assert not [found for found in outline.elements if found[0] == "img" or "onerror" in found[1]]
        assert not [name for _, found in outline.elements for name in found if name.startswith(("on", "style"))]
        scripts = [found for tag, found in outline.elements if tag == "script"]
        assert scripts in ([], [{"src": "/static/ops.js", "defer": None}])
    assert page.count("&lt;img") >= 25, "it is shown, wherever it was"
    text = await seen(served, "/ops.txt")
    assert "\x1b" not in text
    assert "<img src=x" in text
