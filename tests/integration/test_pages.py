"""What developers and machines open: /demo, /metrics, the heartbeat, and the explanation of a problem."""

import asyncio
import threading
from contextlib import closing

import aiohttp
import pytest
import redis
import redis.asyncio
from aiohttp import encode_basic_auth
from aiohttp.test_utils import TestServer

from ottoai import tally
from ottoai.app import build_app
from ottoai.errors import OttoError
from ottoai.metrics import Metrics
from ottoai.web import keys
from tests.conftest import make_config
from tests.helpers import get

CHECKS = "redis_checks_total"


async def fetch(url: str, auth: tuple[str, str] | None = None, **options):
    if auth:
        options["headers"] = {"Authorization": encode_basic_auth(*auth)}
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return response.status, response.headers, await response.text()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_demo_is_nowhere_but_in_development(database_url, redis_url, demo, aiohttp_server, method):
    async def ask(base: str, path: str) -> tuple[int, dict[str, str], dict[str, str]]:
        """What tells one answer from another, but for what differs in any two."""
        async with aiohttp.ClientSession() as session, session.request(method, base + path) as response:
            of_this_one = {"date", "x-request-id", "content-length"}
            told = {name: value for name, value in response.headers.items() if name.lower() not in of_this_one}
            problem = await response.json(content_type=None) if response.status == 404 and method != "HEAD" else {}
        return response.status, told, {**problem, "instance": "", "trace_id": ""}

    for environment in ("development", "staging", "production"):
        server = await aiohttp_server(build_app(make_config(database_url, redis_url, ENVIRONMENT=environment)))
        base = str(server.make_url("")).rstrip("/")
        for path in ("/demo", "/demo?tenant=demo", "/demo/token", "/demo/samples/missed", "/demo/samples/reply"):
            found = await ask(base, path)
            if environment == "development":
                assert found[0] == (200 if method in {"GET", "HEAD"} else 405)
            else:
                assert found == await ask(base, "/nothing"), "as any unknown address"


async def test_heartbeat_needs_worker_and_beat(base, redis_url):
    status, _, body = await get(base, "/internal/worker/heartbeat")
    assert (status, body["healthy"], body["workers"]) == (503, False, [])
    figures = Metrics("9").render
    with (
        tally.Reporter(redis_url, "worker", version="9", figures=figures, name="w") as worker,
        tally.Reporter(redis_url, "beat", version="9", figures=figures, name="b") as beat,
    ):
        worker.run_once()
        beat.run_once()
        status, _, body = await get(base, "/internal/worker/heartbeat")
        assert (status, body["healthy"]) == (200, True)
        assert [found["name"] for found in body["workers"] + body["beat"]] == ["w", "b"]


async def test_a_redis_that_answers_only_pings_is_not_well_and_the_log_says_why(app, base, redis_url, caplog):
    async with redis.asyncio.from_url(redis_url) as client:
        await client.set("tally:processes", "no sorted set")
    app[keys.HEALTH]._until = 0.0  # what was found a moment ago is shared
    status, _, ready = await get(base, "/ready")
    assert (status, ready["redis"]) == (503, False)
    [failed] = [each for each in caplog.records if each.msg == "Check failed"]
    assert failed.component == "redis"
    assert "WRONGTYPE" in str(failed.error)


async def test_a_process_shows_only_what_it_measures(base, redis_url):
    with tally.Reporter(redis_url, "worker", version="9", figures=Metrics("9", "worker").render, name="w") as worker:
        worker.run_once()
        _, _, text = await fetch(f"{base}/metrics")
    from_worker = {line.split("{")[0] for line in text.splitlines() if 'proc="w"' in line}
    assert "process_cpu_seconds_total" in from_worker
    assert not [name for name in from_worker if name.startswith(("http_", "ws_", "webhook_", "outbox_"))]
    assert "ws_connections{" in text


async def test_of_a_process_that_ended_metrics_tells_what_it_counted_and_not_what_it_had(base, redis_url):
    figures = Metrics("9", "worker")
    figures.worker_task_total.inc(task="t", queue="q", status="failure")
    with tally.Reporter(redis_url, "worker", version="9", figures=figures.render, name="w") as worker:
        worker.run_once()
        _, _, alive = await fetch(f"{base}/metrics")
    _, _, gone = await fetch(f"{base}/metrics")
    mine = [{line.partition(" ")[0] for line in text.splitlines() if 'proc="w"' in line} for text in (alive, gone)]
    counted = 'worker_task_total{proc="w",queue="q",status="failure",task="t"}'
    assert counted in mine[0] & mine[1]
    no_more = {name.partition("{")[0] for name in mine[0] - mine[1]}
    assert no_more == {
        "build_info", "process_max_fds", "process_memory_limit_bytes", "process_open_fds",
        "process_resident_memory_bytes", "process_threads",
    }  # fmt: skip


def figure(text: str, name: str, **labels: str) -> float | None:
    """A figure of the api process."""
    wanted = labels.items()
    found = [each.value for each in tally.samples(text) if each.name == name and wanted <= each.labels.items()]
    return found[0] if found else None


async def told_afresh(api: TestServer, base: str) -> str:
    """All figures, none of them of a moment ago."""
    api.app[keys.GAUGES]._until = 0.0
    return (await fetch(f"{base}/metrics"))[2]


async def test_threads_that_are_all_busy_are_no_fault_of_redis(api, base):
    before = await told_afresh(api, base)
    assert figure(before, "rq_queue_length", queue="urgent") == 0
    done = threading.Event()
    asyncio.get_running_loop().call_later(1.5, done.set)
    busy = [asyncio.create_task(asyncio.to_thread(done.wait, 10)) for _ in range(64)]
    await asyncio.sleep(0.05)
    late = await told_afresh(api, base)
    await asyncio.gather(*busy)
    assert figure(late, "rq_queue_length", queue="urgent") is None, "it was not known"
    assert figure(late, "redis_ping_seconds") < 0.5
    ok, timeout = ([figure(text, CHECKS, result=result) for text in (before, late)] for result in ("ok", "timeout"))
    assert ok[1] > ok[0]
    assert timeout == [0, 0]


async def test_a_redis_that_tells_nothing_of_itself_is_well(api, base, redis_url):
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
        try:
            text = await told_afresh(api, base)
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+info")
    assert figure(text, "redis_memory_used_bytes") is None
    assert figure(text, "redis_ping_seconds") < 0.5
    assert figure(text, CHECKS, result="error") == 0


async def test_metrics_token_is_asked_for(database_url, redis_url, demo, aiohttp_server):
    server = await aiohttp_server(build_app(make_config(database_url, redis_url, METRICS_TOKEN="t0ken")))
    base = str(server.make_url("")).rstrip("/")
    assert (await fetch(f"{base}/metrics"))[0] == 401
    assert (await fetch(f"{base}/metrics", headers={"Authorization": "Bearer t0ken"}))[0] == 200


async def test_every_problem_type_is_explained(base):
    kinds = [OttoError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    for kind in kinds:
        status, _, text = await fetch(f"{base}/docs/problems/{kind.type}")
        assert status == 200, kind
        assert str(kind.status) in text
    assert (await fetch(f"{base}/docs/problems/none"))[0] == 404


async def test_unknown_addresses_and_methods_are_problems(base):
    status, headers, problem = await get(base, "/nothing/here?token=secret")
    assert (status, headers["Content-Type"], problem["instance"]) == (404, "application/problem+json", "/nothing/here")
    async with aiohttp.ClientSession() as session, session.delete(f"{base}/health") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert response.headers["Server"] == "ottoai"


async def test_an_independent_client_speaks_the_protocol(base, make_token):
    import json

    import websockets

    address = base.replace("http", "ws") + "/ws"
    headers = {"Authorization": f"Bearer {make_token()}"}
    async with websockets.connect(address, subprotocols=["ottoai.v1"], additional_headers=headers) as socket:
        assert socket.subprotocol == "ottoai.v1"
        assert json.loads(await socket.recv())["type"] == "welcome"
        await socket.send(json.dumps({"type": "subscribe", "channel": "tenant:demo:events"}))
        assert json.loads(await socket.recv())["success"] is True
        await get(base, "/ws/test-emit?event=test.x&tenant_id=demo", **{"X-Dev-Key": "dev"})
        assert json.loads(await socket.recv())["event"] == "test.x"
        await (await socket.ping())


@pytest.mark.parametrize("path", ["/demo", "/demo/token", "/demo/samples/missed"])
async def test_the_demo_is_not_opened_by_a_name_that_leads_here(base, path):
    """A page at evil.example whose name leads to this machine is of the same origin, and would be given a token."""
    status, _, _ = await get(base, path, Host="evil.example:8080")
    assert status == 404
    for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"):
        async with aiohttp.ClientSession() as session, session.get(base + path, headers={"Host": host}) as response:
            assert response.status == 200, host
