"""The shell scripts notice what they are there for: everything that they check is broken once, and they say so."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from ottoai.indicators import INDICATORS, shown
from tests.conftest import execute
from tests.e2e.conftest import ROOT, TOOLS, Product, eventually, off
from tests.e2e.proxy import Answer, Rewriting, proxied

pytestmark = pytest.mark.timeout(120)

METRICS_TOKEN = "a-metrics-token-of-the-tests"
# dash, where it is there, takes POSIX sh and nothing else.
SHELL = shutil.which("dash") or "sh"
FOUNDATIONS, REALTIME, SNAPSHOT, OPERATIONS = (
    f"scripts/{name}.sh" for name in ("smoke_foundations", "smoke_realtime", "metrics_snapshot", "operations")
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of these tests' own, which they break and mend again."""
    product = Product(tmp_path_factory.mktemp("scripts"), METRICS_TOKEN=METRICS_TOKEN, ALERT_BOUNDS=off())
    try:
        product.start()
        yield product
        product.stop()
    finally:
        product.kill()


async def script(product: Product, name: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script as in another terminal."""
    env = {**product.environ, "METRICS_TOKEN": METRICS_TOKEN, **environ}
    return await asyncio.to_thread(
        subprocess.run, [SHELL, name, *words], cwd=ROOT, env=env, text=True, capture_output=True, check=False,
        timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def failing(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The names of the checks that failed; each of them has advice."""
    found = re.findall(r"^FAIL  (.{34}) .*\n +-> \S", done.stdout, re.MULTILINE)
    assert len(found) == len(re.findall(r"^FAIL  ", done.stdout, re.MULTILINE)), done.stdout
    return [name.strip() for name in found]


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    """The last line, which has the seconds."""
    last = done.stdout.splitlines()[-1]
    assert re.search(r", \d+ s$", last), done.stdout + done.stderr
    return last.split()[0]


def on(path: str, change: Callable[[Answer], Any]) -> Callable[[str, Answer], None]:
    """A rewriting of the answers at one address."""
    return lambda asked, answer: change(answer) if asked == path else None


def without(*names: str) -> Callable[[str, Answer], None]:
    def strip(_path: str, answer: Answer) -> None:
        for name in [each for each in answer.headers if each.lower() in names]:
            del answer.headers[name]

    return strip


def in_body(before: str, after: str) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        answer.body = re.sub(before.encode(), after.encode(), answer.body)

    return change


def says(environment: str) -> Rewriting:
    """A service that says that it is another kind than it is."""
    return Rewriting(answer=on("/health", lambda answer: answer.json(environment=environment)))


@pytest.mark.parametrize(
    ("name", "sort"),
    [(FOUNDATIONS, "smoke"), (REALTIME, "smoke"), (SNAPSHOT, "words"), (OPERATIONS, "words"),
     ("scripts/verify_foundations.sh", "words")],
)  # fmt: skip
async def test_words_and_help(running, name, sort):
    wrong = await script(running, name, "sumary")
    assert (wrong.returncode, wrong.stdout) == (2, ""), sort
    assert wrong.stderr.startswith("Usage: ")
    told = await script(running, name, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Usage: ")


@pytest.mark.parametrize("name", [FOUNDATIONS, REALTIME, SNAPSHOT])
async def test_nothing_answers(running, name):
    done = await script(running, name, BASE="http://127.0.0.1:1", PORT="1")
    assert done.returncode == 1
    assert "Nothing answers at http://127.0.0.1:1" in done.stderr
    assert "->" in done.stderr


async def test_all_well(running):
    for name in (FOUNDATIONS, REALTIME):
        done = await script(running, name)
        assert (done.returncode, failing(done), verdict(done)) == (0, [], "ok"), done.stdout + done.stderr


def html(status: int) -> Callable[[Answer], None]:
    return lambda answer: answer.html(status)


def each(**changes: Callable[[Answer], Any]) -> Callable[[str, Answer], None]:
    """A rewriting of the answers at several addresses; `_` stands for a slash or a hyphen in their names."""
    return lambda path, answer: next(
        (change for name, change in changes.items() if name == re.sub(r"\W", "_", path)), lambda _: None
    )(answer)


def as_html(answer: Answer) -> None:
    answer.html(answer.status)


def several(*changes: Callable[[Answer], Any]) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        for one in changes:
            one(answer)

    return change


def and_without(change: Callable[[str, Answer], None], *names: str) -> Callable[[str, Answer], None]:
    def both(path: str, answer: Answer) -> None:
        without(*names)(path, answer)
        change(path, answer)

    return both


# What a proxy does, or the caller has wrong, and exactly which checks fail then.
BREAKINGS: list[tuple[Rewriting, dict[str, str], set[str]]] = [
    (
        Rewriting(
            added={"X-Request-Id": "of-the-proxy", "X-Dev-Key": "dev"},
            answer=and_without(
                each(
                    _nothing_here=as_html,
                    _ws=html(400),
                    _call_rail_pre_call=in_body("duplicate_ignored", "processed"),
                    _call_rail_call_complete=as_html,
                    _metrics=several(
                        in_body("outbox_open", "outbox"),
                        in_body(r"(beat_last_tick_timestamp_seconds\S*) .*", r"\1 1700000000"),
                        in_body(r'(indicator_verdict.*)"http_p95"', r'\1"of_old"'),
                        in_body(r"(process_threads\S*) .*", r"\1 -1"),
                    ),
                ),
                "ratelimit", "ratelimit-policy",
            ),
        ),
        {},
        {
            "X-Request-Id is given back", "unknown address", "/api/calls tells its limits",
            "GET /ws without an upgrade",
            "/ws/test-emit, wrong key", "unsigned webhook, again", "webhook that is not JSON", "webhook over 1 MiB",
            "/metrics, figures present", "/metrics, last tick of beat", "/metrics, indicators judged",
            "/metrics, values",
        },
    ),
    (
        Rewriting(
            answer=and_without(
                each(_health=lambda answer: answer.json(service="nginx"), _call_rail_pre_call=html(502)),
                "x-request-id",
            )
        ),
        {"DEV_KEY": "not-one-of-them", "METRICS_TOKEN": "not-it"},
        {
            "/health", "X-Request-Id is given back", "X-Request-Id is made up otherwise", "/ws/test-emit",
            "unsigned webhook, new", "unsigned webhook, again", "/metrics",
        },
    ),
    (says("production"), {}, {"/ws/test-emit", "unsigned webhook"}),
    (
        Rewriting(
            answer=each(
                _health=several(lambda answer: answer.json(status="draining"), lambda answer: status(answer, 503)),
                _ready=several(lambda answer: answer.json(ready=False), lambda answer: status(answer, 503)),
            )
        ),
        {},
        {"/health", "/ready"},
    ),
]  # fmt: skip


def status(answer: Answer, code: int) -> None:
    answer.status = code


@pytest.mark.parametrize(("rewriting", "environ", "names"), BREAKINGS, ids=["proxy", "keys", "production", "draining"])
async def test_each_check_of_the_foundations(running, rewriting, environ, names):
    async with proxied(running.base, rewriting) as base:
        done = await script(running, FOUNDATIONS, BASE=base, **environ)
    assert (done.returncode, verdict(done)) == (1, "FAIL"), done.stdout + done.stderr
    assert set(failing(done)) == names, done.stdout


async def test_a_proxy_that_lets_everybody_in(running):
    """One that sends somebody's token along, as a cache of logins may."""
    async with proxied(running.base, Rewriting(added={"Authorization": f"Bearer {running.token()}"})) as base:
        done = await script(running, FOUNDATIONS, BASE=base)
        assert {"/api/calls without a token", "/api/calls with a forged token"} <= set(failing(done))
        done = await script(running, REALTIME, BASE=base)
        assert "forged token" in failing(done)


async def test_a_token_of_another_secret(running):
    config = running.config
    env = running.environ | {"JWT_SECRET": "another-secret-that-is-long-enough-too", "ENVIRONMENT": "development"}
    stores = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url, "SECRET_KEYS": config.secret_keys[0]}
    token = running.ottoai("token", "--org", "demo", "--user", "ann", env=env | stores).stdout.strip()
    assert token
    done = await script(running, FOUNDATIONS, TOKEN=token)
    assert failing(done) == ["/api/calls of tenant demo", "/api/calls tells its limits"]
    done = await script(running, REALTIME, TOKEN=token)
    assert {"token in the header", "token as subprotocol", "token as first message", "ping",
            "subscribe to the own channel"} <= set(failing(done))  # fmt: skip


def muddled(frame: dict[str, Any]) -> dict[str, Any] | None:
    """No pong and no transient event; other tenants' channels are open; nothing is recovered."""
    if frame["type"] == "pong" or (frame["type"] == "event" and frame["seq"] is None):
        return None
    if frame["type"] == "subscribe_result":
        return frame | {"success": True, "recovered": False}
    return frame


EMITTED = {"test event arrives", "resume replays it", "transient event arrives"}
CONNECTED = {"token in the header", "token as subprotocol", "token as first message", "ping",
             "subscribe to the own channel", "subscribe to a foreign channel"}  # fmt: skip
LIVE: dict[str, tuple[Rewriting, dict[str, str], set[str]]] = {
    "no upgrade": (Rewriting(upgrades=False), {}, CONNECTED | EMITTED),
    "muddled": (
        Rewriting(protocol=False, frame=muddled), {},
        {"token as subprotocol", "ping", "subscribe to a foreign channel", "resume replays it",
         "transient event arrives"},
    ),
    "no channel": (
        Rewriting(frame=lambda frame: frame | {"success": False} if frame["type"] == "subscribe_result" else frame), {},
        EMITTED | {"subscribe to the own channel"},
    ),
    "no events": (Rewriting(frame=lambda frame: None if frame["type"] == "event" else frame), {}, EMITTED),
    "wrong key": (Rewriting(), {"DEV_KEY": "not-one-of-them"}, EMITTED),
    "production": (says("production"), {}, {"/ws/test-emit"}),
}  # fmt: skip


@pytest.mark.parametrize("breaking", LIVE)
async def test_each_check_of_real_time(running, breaking):
    rewriting, environ, names = LIVE[breaking]
    async with proxied(running.base, rewriting) as base:
        done = await script(running, REALTIME, BASE=base, **environ)
    assert (done.returncode, verdict(done)) == (1, "FAIL"), done.stdout + done.stderr
    assert set(failing(done)) == names, done.stdout


def test_every_check_is_broken_here():
    """A check that nobody has broken is not known to notice anything."""
    text = "".join((ROOT / name).read_text() for name in (FOUNDATIONS, "scripts/lib.sh"))
    names = set(re.findall(r"""\bfail ['"]([^'"]+)['"]""", text))
    elsewhere = {"/ready $component", "/ready", "/internal/worker/heartbeat", "/api/calls without a token",
                 "/api/calls with a forged token", "/api/calls of tenant $TENANT"}  # fmt: skip
    assert names - elsewhere == set().union(*(broken for _, _, broken in BREAKINGS)) - {"/ready"}
    probe = (ROOT / "scripts/ws_probe.py").read_text()
    names = set(re.findall(r'^    \("([^"]+)", \w+, ', probe, re.MULTILINE)) | {"/ws/test-emit"}
    assert names == set().union(*(broken for _, _, broken in LIVE.values())) | {"forged token"}


async def test_snapshot_for_machines(running):
    done = await script(running, SNAPSHOT, running.base, "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ready"], told["base"]) == (0, True, running.base), done.stdout
    found = {each["id"]: each for each in told["indicators"]}
    assert (found["database"]["value"], found["database"]["shown"], found["database"]["verdict"]) == (1, "yes", "ok")
    assert found["memory_api"]["shown"].endswith(" MB")


async def test_snapshot_says_values_as_the_service_does(running):
    """The formats of awk and of ottoai.indicators.shown, over values of all sizes and every unit."""
    values = [0, 0.0004, 0.05, 0.25, 0.99951, 1, 1.5, 9.9, 12, 99.95, 123.4, 999.9, 1234.5, 12345678.9, 5e9]
    for turn in range(4):  # there are at least four of every unit
        given = {each.id: values[(4 * number + turn) % len(values)] for number, each in enumerate(INDICATORS)}
        lines = [f'indicator_value{{proc="api-x",indicator="{name}"}} {value!r}' for name, value in given.items()]
        lines += [f'indicator_verdict{{proc="api-x",indicator="{name}"}} 1' for name in given]
        text = "\n".join(lines).encode()
        answer = on("/metrics", lambda answer, text=text: setattr(answer, "body", text))
        async with proxied(running.base, Rewriting(answer=answer)) as base:
            told = json.loads((await script(running, SNAPSHOT, base, "json")).stdout)
        wanted = {each.id: shown(each.unit, given[each.id]) for each in INDICATORS}
        assert {each["id"]: each["shown"] for each in told["indicators"]} == wanted


@pytest.mark.parametrize(
    ("rewriting", "environ", "said"),
    [
        (Rewriting(), {"METRICS_TOKEN": "not-it"}, "wants METRICS_TOKEN"),
        (Rewriting(answer=on("/metrics", html(502))), {}, "answers 502"),
        (Rewriting(answer=on("/metrics", html(200))), {}, "Nothing has been judged yet"),
        (Rewriting(answer=on("/ready", html(503))), {}, "critical: "),
        (Rewriting(answer=on("/metrics", in_body(r'(indicator_verdict\S*"files".) .*', r"\1 4"))), {}, "critical: "),
    ],
)
async def test_snapshot_fails(running, rewriting, environ, said):
    async with proxied(running.base, rewriting) as base:
        done = await script(running, SNAPSHOT, base, **environ)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout + done.stderr


async def test_snapshot_tells_what_to_do(running):
    change = in_body(r'(indicator_verdict\S*"files".) .*', r"\1 3")
    async with proxied(running.base, Rewriting(answer=on("/metrics", change))) as base:
        done = await script(running, SNAPSHOT, base)
    assert done.returncode == 0, done.stdout
    assert re.search(r"Open files.* warning\n +-> Each connection is one", done.stdout), done.stdout
    assert re.search(
        r"^warning: \d+ ok, \d+ info, [1-9] warning, 0 critical, \d+ not judged, \d+ s$", done.stdout, re.MULTILINE
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is under version control, with this one's environment."""
    copy = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        with suppress(FileNotFoundError):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    for lock in copy.glob("*.lock"):
        os.utime(lock, (0, 0))  # or make would install anew what is there
    return copy


def verified(checkout: Path, part: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**TOOLS, "PYTHONPATH": str(checkout), **environ}
    return subprocess.run(
        [SHELL, "scripts/verify_foundations.sh", part], cwd=checkout, env=env, text=True, capture_output=True,
        check=False, timeout=100,
    )  # fmt: skip


BROKEN_CHECKOUTS: dict[str, Callable[[Path], Any]] = {
    "lint": lambda root: (root / "ottoai" / "odd.py").write_text("import os\n"),
    "generated": lambda root: (root / "monitoring" / "indicators.tsv").write_text("of another release\n"),
    "tests": lambda root: (root / "tests" / "unit" / "test_planted.py").write_text("def test_it(): assert False\n"),
}


@pytest.mark.parametrize("part", BROKEN_CHECKOUTS)
def test_each_part_of_verify(checkout, part):
    BROKEN_CHECKOUTS[part](checkout)
    done = verified(checkout, part, ARGS="tests/unit/test_planted.py -p no:xdist -p no:cacheprovider")
    assert (done.returncode, verdict(done)) == (1, "FAIL"), done.stdout + done.stderr
    assert re.search(rf"^FAIL  {part} +\d+ s  -> ", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_verify_is_well(checkout):
    done = verified(checkout, "generated")
    assert (done.returncode, verdict(done)) == (0, "ok"), done.stdout + done.stderr


@contextmanager
def stopped(product: Product, name: str) -> Iterator[None]:
    """One process stands still, as one does that swaps or is debugged; it is not heard any more either."""
    process = psutil.Process(product.pid(name))
    family = [process, *process.children(recursive=True)] if name == "postgres" else [process]
    for each in family:
        each.suspend()
    try:
        if name in {"worker", "beat"}:
            with redis.Redis.from_url(product.config.redis_url) as client:
                for key in client.scan_iter(f"tally:process:{name}-*"):
                    client.delete(key)
        yield
    finally:
        for each in family:
            each.resume()


async def mended(product: Product) -> None:
    """Until all is well again."""
    await eventually(lambda: all(product.ready().get("components", {"none": False}).values()), 60, 0.2)


@pytest.mark.parametrize("name", ["worker", "beat"])
async def test_a_process_that_is_not_heard(running, name):
    with stopped(running, name):
        await eventually(lambda: running.ready().get("components", {}).get(name) is False, 30)
        done = await script(running, FOUNDATIONS)
        assert {f"/ready {name}", "/internal/worker/heartbeat"} <= set(failing(done)), done.stdout
        done = await script(running, OPERATIONS, "daily")
        assert (done.returncode, verdict(done)) == (1, "FAIL"), done.stdout
    await mended(running)


async def test_redis_stands_still(running):
    with stopped(running, "redis"):
        await eventually(lambda: not running.ready(), 20)
        done = await script(running, FOUNDATIONS)
        assert {"/ready redis", "/ready worker", "/metrics, figures present"} <= set(failing(done)), done.stdout
        done = await script(running, REALTIME)
        assert "/ready redis" in failing(done), done.stdout
        done = await script(running, SNAPSHOT)
        assert done.returncode == 1, done.stdout
        assert "/ready 503" in done.stdout
        assert re.search(r"Redis reachable +no +yes +critical\n +-> Is Redis up", done.stdout), done.stdout
        assert (verdict(done), re.search(r"critical: .* [1-9]\d* critical", done.stdout) is not None) == (
            "critical:",
            True,
        )
    await mended(running)


async def test_postgres_stands_still(running):
    with stopped(running, "postgres"):
        await eventually(lambda: not running.ready(), 20)
        done = await script(running, FOUNDATIONS, TOKEN=running.token())
        assert {"/ready database", "/api/calls of tenant demo"} <= set(failing(done)), done.stdout
    await mended(running)


async def test_a_migration_is_missing(running):
    url = running.config.database_url
    ((last,),) = execute(url, "select max(migration_id) from _yoyo_migration")
    execute(url, "update _yoyo_migration set migration_id = '9999_other' where migration_id = %s", last)
    try:
        await eventually(lambda: not running.ready())
        done = await script(running, FOUNDATIONS)
        assert "/ready migrations" in failing(done), done.stdout
    finally:
        execute(url, "update _yoyo_migration set migration_id = %s where migration_id = '9999_other'", last)
    await mended(running)
