"""The operations guide's command lines, typed as they stand there, against the product as `make run` starts it."""

import json
import re
import shutil
import subprocess

import pytest

from ottoai.client import connect
from tests.e2e.conftest import ROOT, Product

GUIDE = "https://your-app.fly.dev"
NEEDED = ("curl", "jq")
EVERYTHING_WELL = {"database": True, "redis": True, "worker": True, "beat": True, "migrations": True}


@pytest.fixture(autouse=True)
def tools() -> None:
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"NOT TESTED: the guide's lines need {' and '.join(missing)}; install them")


def typed(product: Product, line: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """What a person does in a second terminal: `. .data/env`, then the line with their own address, key and tenant."""
    for theirs, ours in {
        GUIDE: product.base,
        "your-key": "dev",
        "$DEV_KEY": "dev",
        "your-tenant": "demo",
        "your-jwt": product.token(),
    }.items():
        line = line.replace(theirs, ours)
    script = f'. "$DATA_DIR/env"\nset -eo pipefail\n{line}'
    return product.run("bash", "-c", script, timeout=timeout)


def answer(product: Product, line: str) -> dict[str, object]:
    done = typed(product, line)
    assert done.returncode == 0, done.stderr
    decoded: dict[str, object] = json.loads(done.stdout)
    return decoded


def test_basic_health(product):
    told = answer(product, "curl https://your-app.fly.dev/health")
    assert (told["status"], told["service"]) == ("healthy", "ottoai-api")


def test_comprehensive_readiness(product):
    told = answer(product, "curl https://your-app.fly.dev/ready")
    assert told["ready"] is told["database"] is told["redis"] is True
    assert told["components"] == EVERYTHING_WELL


def test_worker_heartbeat(product):
    told = json.dumps(answer(product, "curl https://your-app.fly.dev/internal/worker/heartbeat"))
    assert "urgent" in told
    assert "beat" in told


def test_metrics_snapshot(product):
    done = typed(product, "./scripts/metrics_snapshot.sh https://your-app.fly.dev")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/ready 200" in done.stdout
    for component in ("PostgreSQL reachable", "Redis reachable", "A worker is alive", "Beat is alive"):
        assert re.search(rf"^ *{component} +yes +yes +ok$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^(ok|info|warning): \d+ ok, .* 0 critical, .* \d+ s$", done.stdout, re.MULTILINE), done.stdout


def test_raw_metrics_of_every_process(product):
    done = typed(product, "curl https://your-app.fly.dev/metrics")
    assert done.returncode == 0, done.stderr
    assert "# TYPE http_requests_total counter" in done.stdout
    processes = set(re.findall(r'^build_info\{[^}]*proc="([a-z]+)', done.stdout, re.MULTILINE))
    assert {"worker", "beat"} <= processes
    assert re.search(r'^worker_task_total\{[^}]*status="success"[^}]*\}', done.stdout, re.MULTILINE)


def test_websocket_connectivity(product):
    done = typed(product, "BASE=https://your-app.fly.dev TOKEN=your-jwt make smoke:realtime")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert re.search(r" [1-9]\d* ok, 0 failed", done.stdout), done.stdout


async def test_event_emission_is_heard(product, token):
    line = """curl -H "X-Dev-Key: your-key" \\
  "https://your-app.fly.dev/ws/test-emit?event=test.health&tenant_id=your-tenant\""""
    async with connect(product.base, token) as socket:
        await socket.subscribe("tenant:demo:events")
        told = answer(product, line)
        event = await socket.event()
    assert told["success"] is True
    assert (event["event"], event["seq"], event["trace_id"]) == ("test.health", told["seq"], told["trace_id"])


def test_websocket_endpoint_wants_an_upgrade(product):
    done = typed(product, "curl -I https://your-app.fly.dev/ws")
    assert done.returncode == 0, done.stderr
    status, *headers = done.stdout.splitlines()
    assert status.split()[1] == "426"
    assert "upgrade: websocket" in [header.lower() for header in headers]


def test_redis_connectivity_through_jq(product):
    assert typed(product, "curl https://your-app.fly.dev/ready | jq '.components.redis'").stdout == "true\n"


def test_redis_cli(product):
    assert typed(product, "redis-cli -u $REDIS_URL ping").stdout == "PONG\n"
    memory = typed(product, "redis-cli -u $REDIS_URL info")
    assert "used_memory" in memory.stdout


def test_redis_monitor_shows_events_passing(product):
    emit = """curl -s -H "X-Dev-Key: $DEV_KEY" \\
  "https://your-app.fly.dev/ws/test-emit?event=test.debug&tenant_id=your-tenant\""""
    watch = "redis-cli -u $REDIS_URL monitor"
    done = typed(product, f"(timeout 3 {watch} || true) & sleep 1; {emit}; wait")
    assert re.search(r'(?i)"publish" "hint:demo".*test\.debug', done.stdout), done.stdout + done.stderr


def test_request_id_is_returned(product):
    done = typed(product, 'curl -sD - -H "X-Request-Id: test-123" https://your-app.fly.dev/health')
    assert "x-request-id: test-123" in done.stdout.lower().splitlines()


def test_webhook_by_hand_and_the_idempotency_table(product):
    line = """curl -X POST https://your-app.fly.dev/call-rail/pre-call \\
  -H "Content-Type: application/json" \\
  -d '{"call": {"id": "test-guide"}}'"""
    assert answer(product, line)["status"] == "processed"
    assert answer(product, line)["status"] == "duplicate_ignored"
    table = typed(product, 'psql $DATABASE_URL -c "SELECT provider, COUNT(*) FROM idempotency_keys GROUP BY provider;"')
    assert table.returncode == 0, table.stderr
    counted = re.search(r"^ callrail +\| +(\d+)$", table.stdout, re.MULTILINE)
    assert counted, table.stdout
    assert int(counted[1]) == product.sql("select count(*) from idempotency_keys where provider = 'callrail'")[0][0]


def test_guides_greps_find_log_lines(product):
    """The log lines that the guide greps for come out of its own pipe, too."""
    lines = "\n".join(line for _, line in product.raw_lines())
    for wanted in ("WebSocket|realtime|event", "idempotency|webhook"):
        done = subprocess.run(["grep", "-E", wanted], input=lines, text=True, capture_output=True, check=False)
        assert done.returncode == 0
    done = subprocess.run(["jq", "."], cwd=ROOT, input=lines, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
