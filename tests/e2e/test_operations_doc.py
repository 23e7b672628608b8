"""Every command of docs/OPERATIONS.md, run as it stands there against the product as `make run` starts it, with a
METRICS_TOKEN as in production.

Nothing is left out in silence: a command that is not known here fails, and those that cannot be run say why.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ottoai.app import build_app
from ottoai.embedded.folder import any_port
from tests.callrail import serving_callrail
from tests.conftest import execute, make_config
from tests.e2e import flyctl
from tests.e2e.commands_of_docs import DOC, blocks, commands
from tests.e2e.conftest import ROOT, SIGNING_KEY, TOOLS, Product, eventually, off
from tests.helpers import deliver, get, report

pytestmark = pytest.mark.timeout(400)

# What each command must show, by its first line: every pattern, somewhere.
SEEN: dict[str, tuple[str, ...]] = {
    '. "${DATA_DIR:-.data}/env"': (),  # every other command stands on it
    "python -m ottoai config | grep -E 'ALERT|BUSINESS_HOURS|HEARTBEAT'": (
        r"BUSINESS_HOURS=Mon-Fri", r"acknowledged_by", r"\(\d+ rows?\)",
    ),
    "metrics | grep -E '^db_(slow_queries_total|pool_connections|pool_max_connections)'": (
        r"db_pool_max_connections\{", r"wait_event_type", r"idx_scan", r"used_memory:", r"connected_clients:",
        r"redis_ping_seconds\{",
    ),
    "curl -sI $BASE/ws": (r"(?m)^HTTP/1.1 426", r"(?i)upgrade: websocket"),
    "curl -sI $BASE/ws\n": (r"HTTP/1.1 426", r"valid: tenant demo, user oncall", r"(?m)^true$", r'reason="origin"'),
    "timeout 3 redis-cli -u $REDIS_URL monitor | grep -i publish &": (
        r'(?i)"publish" "hint:demo"', r'"success":true', r"test\.debug",
    ),
    'psql $DATABASE_URL -c "SELECT provider, COUNT(*) FROM idempotency_keys GROUP BY provider;"': (
        r"provider +\| count", r"webhook_requests_total\{", r'"status":"(processed|duplicate_ignored)"',
    ),
    'fly logs --app your-app | grep -E "WebSocket|realtime|event"': (
        r"WebSocket connection established", r"Webhook processed successfully", r'(?m)^  "message":',
    ),
    "python -m ottoai config | grep -E 'OTEL|TRACE_URL'": (
        r"OTEL_TRACES_SAMPLER_ARG=", r"(?i)x-request-id: test-123", r"(?m)^[0-9a-f]{32}$",
    ),
    "metrics | grep -E '^probe_(failures_total|event_seconds_count|job_seconds_count)'": (
        r'probe_failures_total\{[^}]*part="event"', r"probe_event_seconds_count\{",
    ),
    "python -m ottoai queues list": (r"bulk", r"actor +\| action"),
    "python -m ottoai jobs show $JOB": (r"the carrier is away",),
    "python -m ottoai jobs discard $JOB": (r"1 ",),
    "python -m ottoai queues pause bulk": ("paused",),
    "python -m ottoai queues resume bulk": ("goes on",),
    'python -c "import secrets; print(secrets.token_urlsafe(48))"': (
        r"(?m)^[\w-]{64}$", r"(?m)^[\w-]{43}=$", "callrail",
    ),
    "fly scale count api=3 --app your-app": (),
    "python -m ottoai tenant add acme --name 'Acme Plumbing' --timezone America/Chicago "
    "--hours 'Mon-Fri 08:00-18:00' --callrail-company 123456789 --tracking-number +13125550123 --callrail-key -": (
        "added tenant acme", r"acme\tAcme Plumbing", "always", "2026-12-25", r"valid: tenant demo",
    ),
    "python -m ottoai quarantine list --tenant demo --since 2026-01-31T14:00": (
        "call-complete", r"before: quarantined.*after: processed", "0 would be tried|1 would be tried|dry|quarantined",
    ),
    "metrics | grep rate_limit": (
        r"rate_limit_checks_total\{", r"RATE_LIMIT_USER=", "PONG", r'"message": ?"Rate limit hit: route"',
        "RATE_LIMIT_TENANT",
    ),
    "python -m ottoai tenant set acme --callrail-account ACC0a1b2c --callrail-company COM0a1b2c "
    "--callrail-api-token -": (r"in all: 0 listed", r"settled_until"),
    "python -m ottoai jobs list": (r"the carrier is away",),
    "python -m ottoai jobs list\n": (r"the carrier is away", "1 opened again", "0 opened again"),
    "psql $DATABASE_URL -c \"select job, state, attempts, error from outbox where state <> 'done'\"": (
        r"attempts", r"seq +\|", "PONG", "# Keyspace",
    ),
    "psql $DATABASE_URL -c \"set role ottoai_app\" -c \"set app.tenant_id = 'demo'\" "
    "-c \"select status, count(*) from calls group by 1\"": (r"status +\| count", r"(ringing|completed) +\|"),
    "make metrics:snapshot BASE=$BASE": (r"PostgreSQL reachable +yes +yes +ok", r"0 critical"),
    'curl -s -u "$OPS" $BASE/ops.txt': (r"(?i)postgresql", r"(?i)worker"),
    "curl -s $BASE/health": (r'"status":"healthy"',),
    "curl -s $BASE/ready": (r'"ready":true',),
    "curl -s $BASE/ready | jq '.components.redis'": (r"^true\n$",),
    "curl -s $BASE/internal/worker/heartbeat": (r'"healthy":true', r'"beat_last_tick":"'),
    "metrics": (r"# TYPE http_requests_total counter", r"worker_task_total\{"),
    'curl -s -H "X-Dev-Key: $DEV_KEY" "$BASE/ws/test-emit?event=test.health&tenant_id=$TENANT"': (
        r'"event":"test.health","seq":\d+',
    ),
    "make smoke:realtime BASE=$BASE": (r"(?m)^ok http.* 0 failed, 0 skipped, \d+ s$",),
    "make smoke:foundations BASE=$BASE": (r"(?m)^ok http.* 0 failed, 0 skipped, \d+ s$",),
    "scripts/metrics_snapshot.sh $BASE full": (r"(?m)^http_requests_total\{", r"(?m)^(ok|info|warning): \d+ ok"),
    "scripts/metrics_snapshot.sh $BASE json": (r'"indicators":\[\{"id":"database"',),
    "redis-cli -u $REDIS_URL ping": ("PONG",),
    'psql $DATABASE_URL -c "select 1"': (r"\(1 row\)",),
    "python -m ottoai migrate": (),
    "metrics | grep ws_messages_dropped_total": (r'reason="transient"', r'reason="unrepairable"'),
    "make smoke:realtime": (r"(?m)^ok http.* 0 failed",),
    "curl -s -H 'X-Request-Id: test-123' $BASE/health": (r'"healthy"',),
    "python -m ottoai jobs retry --all": (r"\d+ opened again",),
    "python -m ottoai quarantine replay --all": (),
    "make ops:daily BASE=$BASE": (r"(?m)^ok http.*3 ok, 0 failed", "By hand:"),
    "make metrics:snapshot": (r"0 critical",),
    "make ops:daily": (r"(?m)^ok http.*3 ok, 0 failed",),
    "make smoke:foundations": (r"(?m)^ok http.* 0 failed",),
    "make ops:monthly": (r"events +\| 20\d\d-", r"ops_audit +\|.*395 days", r"(?m)^ok http.*1 ok, 0 failed"),
    "python -m ottoai rekey": (r"\d",),
    "python -m ottoai tenant rotate-key acme --callrail-key -": (),
    "python -m ottoai tenant retire-key acme callrail-key": (),
    "python -m ottoai tenant keys acme": (r"callrail\tsigning_key\tset 20",),
    "psql $DATABASE_URL -c \"select value from tenant_routes where kind = 'hook' and tenant_id = 'org_…'\"": (
        r"\(0 rows\)",
    ),
    "python -m ottoai tenant revoke acme --user alice": (r"alice",),
    "python -m ottoai tenant revoke acme": (r"acme",),
    "python -m ottoai tenant export acme": (r"acme-export.jsonl|\d+ rows",),
    "python -m ottoai tenant erase acme --phone +12125550142": (),
    "python -m ottoai tenant erase acme": (),
    "python -m ottoai jobs list --state open --tenant acme": (),
}  # fmt: skip

# Those that go on until they are ended, and what they say when they are up.
UNTIL = {"python -m jobs worker --queues urgent": "Worker", "python -m jobs dashboard": "dashboard"}

# Those that are not run here, and why.
ELSEWHERE = {
    "make run": "it is what the product under all of these was started as",
    "make verify:foundations": "it runs this test; tests/e2e/test_scripts.py runs its parts",
    "make ops:weekly": "both smoke tests, which run here, and verify:foundations",
    "make bench": "minutes, and a quiet machine",
    'pg_dump --format=custom --file=ottoai.dump "$ADMIN_URL"\n': "test_a_backup_is_restored",
    "python -m ottoai migrate\n": "test_a_backup_is_restored",
}
REFUSED = ("fly scale memory api=1gb",)  # flyctl does not take it, and the document says so
MENTION = re.compile(r"python -m ottoai (\w+) ([\w-]+)((?: (?:--)?[\w-]+…?| …| -)*)")
FIRST = blocks(DOC.read_text())[0]
FUNCTIONS = "\n".join(re.findall(r"^\w+\(\) \{.*\}$", FIRST, re.MULTILINE))  # the rest of it is in `environ`
METRICS_TOKEN = "a-metrics-token"
FLY_LOG = "2026-11-25T21:00:00Z app[0e286d] ord [info] {}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of these tests' own: they pause, erase and rotate."""
    limit = "GET /api/missed-calls=1/hour"
    settings = {"RATE_LIMIT_ROUTES": limit, "ALERT_BOUNDS": off(), "METRICS_TOKEN": METRICS_TOKEN}
    product = Product(tmp_path_factory.mktemp("operations"), **settings)
    try:
        product.start()
        yield product
        product.stop()
    finally:
        product.kill()


@pytest.fixture(scope="module")
def environ(running: Product) -> dict[str, str]:
    """What the document's first block sets in a terminal."""
    base = {**running.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = running.run("bash", "-c", f"set -eu\n{FIRST}\nenv -0", env=base)
    assert done.returncode == 0, done.stderr
    return dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)


@pytest.fixture(autouse=True)
def tools() -> None:
    if missing := [tool for tool in ("bash", "curl", "jq") if not shutil.which(tool)]:
        pytest.skip(f"NOT TESTED: the commands need {' and '.join(missing)}; install them")


def expected(command: str) -> tuple[str, ...] | None:
    """What a command must show: a block is known by its first line and a line feed, or by the line alone."""
    first, more, _ = command.partition("\n")
    return SEEN.get(first + more, SEEN.get(first))


def is_block(command: str) -> bool:
    return "\n" in command


def test_what_is_said_here_stands_in_the_document():
    firsts = {command.partition("\n")[0] + end for command in commands() for end in ("", "\n")}
    known = {*SEEN, *UNTIL, *ELSEWHERE, *REFUSED}
    assert known - firsts == set()


async def run(product: Product, environ: dict[str, str], script: str, folder: Path, typed: str = "") -> str:
    """Run a script as in a terminal; all that it wrote. Any line that fails, fails it."""
    async with serving_callrail() as callrail:
        callrail.tokens["ACC0a1b2c"] = "a-secret"
        env = {**environ, "PYTHONPATH": str(ROOT), "CALLRAIL_API_URL": callrail.url}
        whole = f"set -eo pipefail\n{FUNCTIONS}\n{script}"
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", whole], cwd=folder, env=env, input=typed, text=True, capture_output=True,
            check=False, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{product.tail()}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("command", commands())
async def test_command(command, running, environ, tmp_path):
    first, more, _ = command.partition("\n")
    if first in UNTIL:
        return await until(command, running, environ, tmp_path)
    if (reason := ELSEWHERE.get(first + more)) is not None:
        assert reason
        return check_elsewhere(command, environ)
    if command in REFUSED:
        assert flyctl.problem(command)
        return None
    wanted = expected(command)
    if wanted is None:
        return mentioned(command, running, environ) if not command.startswith("fly ") else fly(command)
    await prepare(command, running)
    script = "\n".join(runnable(line, environ, running, tmp_path) for line in command.splitlines())
    for program in ("Makefile", "scripts"):
        (tmp_path / program).symlink_to(ROOT / program)
    where = ROOT if re.search(r"\bmake\b|scripts/", command) else tmp_path
    if "$JOB" in command and "JOB=" not in command:
        script = f"JOB=$(python -m ottoai jobs list | head -1 | cut -f1)\n{script}"
    shown = await run(running, environ, script, where, typed=answers(command))
    for pattern in wanted:
        assert re.search(pattern, shown), f"{pattern} is not in\n{shown}"
    return None


def fly(line: str) -> None:
    assert flyctl.problem(line) == ""


def runnable(line: str, environ: dict[str, str], product: Product, folder: Path) -> str:
    """A line as it can run here: of one of flyctl, what stands behind the pipe, fed with what it would say."""
    if not line.startswith("fly "):
        return line
    asked, pipe, rest = line.partition(" | ")
    fly(asked)
    if not pipe:
        return ":"
    told = folder / "told"
    logs = "\n".join(FLY_LOG.format(text) for service, text in product.raw_lines() if service != "dashboard")
    told.write_text(logs if " logs " in asked else "NAME\tDIGEST\nRATE_LIMIT_TENANT\t0f1e2d\n")
    copy = folder / f"told-{abs(hash(line))}"
    told.rename(copy)
    # `head` ends before all is read, as it does with flyctl.
    return f"( set +o pipefail; cat {copy} | {rest} )"


def answers(command: str) -> str:
    """What is typed where a command asks: the tenant's id before it is erased or shut out, and secrets."""
    return {"erase": "acme\n", "revoke": "acme\n"}.get(
        command.split()[4] if len(command.split()) > 4 else "", "a-secret\n"
    ) + ("another-secret\n" * 5)


async def prepare(command: str, product: Product) -> None:
    """What must be there before: the tenant, or that it is not; something quarantined; a dead job; a limit passed."""
    if "acme" in command:
        there = "acme" in product.ottoai("tenant", "list").stdout
        if "tenant add acme" in command:
            if there:
                assert product.ottoai("tenant", "erase", "acme", "--yes").returncode == 0
        elif not there:
            words = ("--hours", "always", "--callrail-key", "-", "--callrail-company", "123456789")
            added = product.ottoai("tenant", "add", "acme", "--name", "Acme", *words, input="a-key\n")
            assert added.returncode == 0, added.stderr
    if "retire-key" in command:
        product.ottoai("tenant", "rotate-key", "acme", "--callrail-key", "-", input="a-third-key\n")
    if "quarantine" in command or "idempotency" in command:
        body = report("call-complete") | {"duration": {"not": "a number"}}
        assert (await deliver(product.base, "call-complete", body, key=SIGNING_KEY))[1]["status"] == "quarantined"
        mended = json.dumps(body | {"duration": "0"}).encode()
        execute(product.config.database_url, "update payloads set body = %s where error like 'duration%%'", mended)
    if re.search(r"jobs (list|retry|show|discard)", command):
        assert (await deliver(product.base, "call-complete", report("call-complete"), key=SIGNING_KEY))[0] == 200
        await eventually(lambda: kill_a_job(product))
    if "Rate limit" in command or "| jq '.'" in command:
        for _ in range(2):
            await get(product.base, "/api/missed-calls", product.token(user="busy"))
        await eventually(lambda: product.log("api", message="Rate limit hit: route"))
    if "WebSocket" in command:
        assert product.run("scripts/smoke_realtime.sh").returncode == 0
        product.ottoai("send-webhook", "call-complete")
        await eventually(lambda: product.log("api", message="Webhook processed successfully"))


def kill_a_job(product: Product) -> bool:
    """One job that was given up, whatever it was: what `jobs retry` is for."""
    dead = execute(
        product.config.database_url,
        "update outbox set state = 'dead', finished_at = now(), error = 'the carrier is away' where id = "
        "(select id from outbox where state = 'done' and job = 'follow_up' limit 1) returning id",
    )
    return bool(dead)


async def until(command: str, product: Product, environ: dict[str, str], folder: Path) -> None:
    """A process that goes on: it comes up, and ends well when it is told to."""
    port = any_port()
    process = await asyncio.create_subprocess_exec(
        *command.split(), cwd=ROOT, env={**environ, "DASHBOARD_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            while UNTIL[command] not in (line := (await process.stdout.readline()).decode()):
                assert line, "it ended"
            process.send_signal(signal.SIGTERM)
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0


def check_elsewhere(command: str, environ: dict[str, str]) -> None:
    """At least its target is there."""
    if command.startswith("make "):
        words = command.split()
        done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def mentioned(command: str, product: Product, environ: dict[str, str]) -> None:
    """A command that is only named, without what it needs: it is there, with the options that are named."""
    found = MENTION.fullmatch(command)
    assert found, f"an unknown command, say in SEEN what it must show: {command}"
    shown = product.ottoai(found[1], found[2], "--help")
    assert shown.returncode == 0, shown.stderr
    for option in re.findall(r"--[\w-]+", found[3]):
        assert option in shown.stdout


@pytest.mark.parametrize(("wanted", "sent", "refused"), [("", "", False), ("t", "t", False), ("t", "", True)])
async def test_metrics_says_when_it_is_refused(database_url, redis_url, demo, aiohttp_server, wanted, sent, refused):
    """Else an empty answer would look as if nothing had failed. Without a token on the service none is needed."""
    server = await aiohttp_server(build_app(make_config(database_url, redis_url, METRICS_TOKEN=wanted)))
    environ = {**TOOLS, "BASE": str(server.make_url("")).rstrip("/"), **({"METRICS_TOKEN": sent} if sent else {})}
    asked = f"set -u\n{FUNCTIONS}\nmetrics | grep ws_connections"
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", asked], env=environ, text=True, capture_output=True, check=False
    )
    assert (done.stdout == "", "401" in done.stderr) == (refused, refused)


def test_flyctl_is_known_well_enough_to_refuse():
    for wrong in ("fly scale memory api=1gb", "fly scale memory 512 1024", "fly scale count api", "fly logs --tail",
                  "fly frobnicate", "fly secrets set", "fly scale memory 512 --group"):  # fmt: skip
        assert flyctl.problem(wrong), wrong


def test_numbers_of_json_for_machines(running, environ):
    """What the document calls for machines is JSON, and says the same as the figures do."""
    done = running.run("scripts/metrics_snapshot.sh", running.base, "json", env=environ)
    told = json.loads(done.stdout)
    assert (done.returncode, told["ready"]) == (0, True)
    assert {each["verdict"] for each in told["indicators"]} <= {"none", "ok", "info", "warning"}
