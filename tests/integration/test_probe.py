"""The self-probe: through real stores, the hub, a socket and a worker; and what it says when one of them is away."""

import asyncio
import dataclasses
import re
import time

import pytest

from jobs.retention import retention
from ottoai.app import build_app
from ottoai.db import GONE
from ottoai.domain import probes
from ottoai.domain.tenants import PROBE
from ottoai.metrics import Metrics
from ottoai.ops import probes as prober_module
from ottoai.web import keys
from tests.background import context_of, counted, eventually, serving
from tests.conftest import execute, of_tenant
from tests.helpers import get
from tests.isolation.recording import recorded

pytestmark = pytest.mark.usefixtures("demo")


@pytest.fixture
async def worker(config):
    metrics = Metrics("test", "worker")
    async with serving(config, metrics):
        yield metrics


@pytest.fixture
def brief(monkeypatch):
    """What does not come is not waited for."""
    monkeypatch.setattr(prober_module, "JOB_WITHIN", 1.0)


def figures(app) -> dict[str, float]:
    metrics = app[keys.METRICS]
    text = metrics.render()
    found = {
        f"{part}s": float(line.rsplit(" ", 1)[1])
        for part in ("event", "job")
        for line in text.splitlines()
        if line.startswith(f"probe_{part}_seconds_count")
    }
    failed = {part: counted(metrics, "probe_failures_total", part=part) for part in ("stage", "event", "job")}
    return {**found, **{part: count for part, count in failed.items() if count}}


async def came_through(app) -> bool:
    """Whether a whole probe comes through now."""
    before = figures(app)
    await app[keys.PROBER].run_once()
    after = figures(app)
    return after["events"] > before["events"] and after["jobs"] > before["jobs"]


def slowest(app, name: str) -> float:
    """The least bound that all observations are under."""
    lines = [line for line in app[keys.METRICS].render().splitlines() if line.startswith(f"{name}_bucket")]
    counts = [(float(re.search('le="([^"]+)"', line)[1]), float(line.rsplit(" ", 1)[1])) for line in lines]
    return min(edge for edge, count in counts if count == max(counts)[1])


def causes(lines) -> dict[str, str]:
    return {line["part"]: line["cause"] for line in lines if line["message"] == "Self-probe failed"}


def over(lines) -> set[str]:
    return {line["part"] for line in lines if line["message"] == "Self-probe comes through again"}


async def test_an_event_and_a_job_go_through_everything(app, api, base, worker, config):
    with recorded() as lines:
        await app[keys.PROBER].run_once()
        await app[keys.PROBER].run_once()
    assert figures(app) == {"events": 2, "jobs": 2}
    assert causes(lines) == {}
    rows = of_tenant(config.database_url, "select seq, event, data->>'probe' from events order by seq", tenant=PROBE)
    assert [(seq, event) for seq, event, _ in rows] == list(enumerate([probes.SENT, probes.DONE] * 2, 1))
    assert rows[0][2] == rows[1][2] != rows[2][2] == rows[3][2]
    states = of_tenant(config.database_url, "select job, queue, state from outbox", tenant=PROBE)
    assert states == [("probe", "urgent", "done")] * 2
    traces = execute(config.database_url, "select count(distinct trace_id) from events where tenant_id = %s", PROBE)
    assert traces == [(2,)], "one trace for the event and its job"


async def test_it_is_in_no_figure_but_its_own(app, api, base, worker, make_token):
    await app[keys.PROBER].run_once()
    assert app[keys.HUB].connections == {}
    metrics = app[keys.METRICS].render()
    for name in ("ws_connections", "ws_messages_sent_total", "event_e2e_latency_seconds_count"):
        (line,) = [line for line in metrics.splitlines() if line.startswith((f"{name} ", f"{name}{{}} "))]
        assert float(line.rsplit(" ", 1)[1]) == 0, name
    monitor = app[keys.MONITOR]
    await monitor.run_once()
    readings = {each.id: each for each in monitor.report.readings}
    assert readings["tasks_failed"].value is None or readings["tasks_failed"].value == 0
    assert (await get(base, "/api/calls", make_token()))[0] == 200


async def test_nobody_gets_at_its_tenant(app, api, base, worker, command, config, db):
    await app[keys.PROBER].run_once()
    code, told = await command("token", "--org", PROBE, "--user", "eve")
    assert (code, PROBE in told) == (1, True)
    import jwt

    claims = {"sub": "eve", "org_id": PROBE, "iat": 1, "exp": 9_999_999_999}
    forged = jwt.encode(claims, config.jwt_secret, "HS256")
    assert (await get(base, "/api/calls", forged))[0] == 401
    emit = f"/ws/test-emit?event=test.x&tenant_id={PROBE}"
    assert (await get(base, emit, **{"X-Dev-Key": "dev"}))[0] == 404
    for words in (("add", PROBE, "--name", "x"), ("set", PROBE, "--twilio-number", "+12125550123")):
        assert (await command("tenant", *words))[0] == 1
    code, told = await command("tenant", "list")
    assert (code, "demo" in told, PROBE in told) == (0, True, False)


async def test_without_a_worker_the_job_fails_and_then_nothing_is_left_to_do(app, api, brief, config, monkeypatch):
    prober = app[keys.PROBER]
    with recorded() as lines:
        await prober.run_once()
        await prober.run_once()
    assert figures(app) == {"events": 2, "jobs": 0, "job": 2}
    assert causes(lines) == {"job": "no worker has begun it"}
    assert sum(line["message"] == "Self-probe failed" for line in lines) == 1, "once until it is over"
    monkeypatch.setattr(probes, "GIVEN_UP_AFTER", probes.timedelta(0))
    monkeypatch.setattr(prober_module, "JOB_WITHIN", 30.0)
    with recorded() as lines:
        async with serving(config, Metrics("test", "worker")):
            await prober.run_once()
    assert over(lines) == {"job"}
    assert figures(app) == {"events": 3, "jobs": 1, "job": 2}
    events = of_tenant(config.database_url, "select event from events", tenant=PROBE)
    assert events.count((probes.DONE,)) == 1, "what was given up was not run"


async def test_without_redis_the_event_comes_and_the_job_does_not(app, api, worker, redis_server, monkeypatch):
    prober = app[keys.PROBER]
    await prober.run_once()
    monkeypatch.setattr(prober_module, "JOB_WITHIN", 1.0)
    redis_server.stop()
    try:
        with recorded() as lines:
            started = time.monotonic()
            await prober.run_once()
            assert time.monotonic() - started < 5
        assert figures(app) == {"events": 2, "jobs": 1, "job": 1}
        assert causes(lines).keys() == {"job"}
        assert slowest(app, "probe_event_seconds") <= 2
    finally:
        redis_server.start()
    with recorded() as lines:
        await eventually(lambda: came_through(app), 30)
    assert over(lines) == {"job"}


async def test_without_postgres_nothing_can_be_sent(app, api, worker, postgres_server):
    prober = app[keys.PROBER]
    await prober.run_once()
    postgres_server.stop()
    try:
        with recorded() as lines:
            await prober.run_once()
        assert figures(app) == {"events": 1, "jobs": 1, "stage": 1}
        assert causes(lines) == {"stage": GONE}
    finally:
        postgres_server.start()
    with recorded() as lines:
        await eventually(lambda: came_through(app), 30)
    assert over(lines) >= {"stage"}


async def test_what_the_hub_does_not_write_is_an_event_that_failed(app, api, worker, monkeypatch):
    prober = app[keys.PROBER]
    await prober.run_once()
    with monkeypatch.context() as broken:
        broken.setattr(prober_module, "EVENT_WITHIN", 0.2)
        broken.setattr(prober_module, "JOB_WITHIN", 0.4)
        broken.setattr(app[keys.HUB].fanout, "flush", lambda: asyncio.sleep(0))
        with recorded() as lines:
            await prober.run_once()
    assert causes(lines)["event"] == "not heard within 0.2 s"
    await prober.run_once()
    assert figures(app) == {"events": 2, "jobs": 2, "event": 1, "job": 1}


async def test_two_processes_each_hear_their_own(app, api, worker, config, aiohttp_server):
    other = build_app(config)
    await aiohttp_server(other)
    await asyncio.gather(*(each[keys.PROBER].run_once() for each in (app, other) for _ in range(2)))
    assert figures(app) == figures(other) == {"events": 2, "jobs": 2}


async def test_it_begins_again_when_its_tenant_is_erased_or_restored(app, api, worker, config):
    prober = app[keys.PROBER]
    await prober.run_once()
    execute(config.database_url, "update heads set epoch = epoch + 1 where tenant_id = %s", PROBE)
    await eventually(lambda: not prober.listening)
    await prober.run_once()
    assert figures(app) == {"events": 2, "jobs": 2}


async def test_it_probes_by_itself_in_its_rhythm(config, demo, aiohttp_server, worker):
    app = build_app(dataclasses.replace(config, probe_seconds=1))
    await aiohttp_server(app)
    await eventually(lambda: figures(app)["jobs"] >= 2, 10)
    assert figures(app).keys() == {"events", "jobs"}


def aged(url: str) -> None:
    """Make what the probe left a day older; the operator's login may."""
    for role, sql in (
        ("ottoai_privacy", "update events set ts = ts - interval '25 hours'"),
        ("ottoai_app", "update outbox set finished_at = finished_at - interval '25 hours'"),
    ):
        of_tenant(url, f"set role {role}; {sql}", tenant=PROBE)


async def test_probes_are_forgotten_after_a_day(app, api, worker, config):
    prober = app[keys.PROBER]
    await prober.run_once()
    aged(config.database_url)
    await prober.run_once()
    async with context_of(config) as context:
        assert await retention(context) is False
    left = of_tenant(config.database_url, "select seq from events order by seq", tenant=PROBE)
    assert left == [(3,), (4,)]
    assert of_tenant(config.database_url, "select count(*) from outbox", tenant=PROBE) == [(1,)]
    await prober.run_once()
    assert figures(app) == {"events": 3, "jobs": 3}
