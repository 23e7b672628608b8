"""The product as `make run` starts it, and what the tests of the whole say often."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from ottoai import embedded, samples
from ottoai.client import Follower
from ottoai.config import Config
from ottoai.embedded.folder import any_port
from ottoai.indicators import INDICATORS
from tests.canary import watch
from tests.conftest import GENEROUS, of_tenant
from tests.helpers import deliver, report

ROOT = Path(__file__).parents[2]
SERVICES = ("api", "worker", "beat", "dashboard")
SIGNING_KEY = "demo-signing-key"  # of the tenant demo
READY_WITHIN = 60.0
STOPPED_WITHIN = 30.0
TOOLS = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

FIRST_EVENTS = [
    "telephony.call.received",
    "lead.created",
    "telephony.call.completed",
    "telephony.call.missed",
    "missed_call.queued",
]
TEXT_EVENTS = ["telephony.sms.status", "telephony.sms.sent", "missed_call.texted"]


def off(*kept: str) -> str:
    """ALERT_BOUNDS for a busy machine: what is measured decides about nothing but the alerts `kept`; components do."""
    return ",".join(
        f"{each.alert(bound)}=off"
        for each in INDICATORS
        for bound in each.bounds
        if (each.group != "Components" or each.id.startswith("probe_")) and each.alert(bound) not in kept
    )


class Product:
    """`python -m ottoai dev` on a data folder of its own; `stop` and `start` keep folder and ports."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.data_dir = folder / "data"
        self.output = folder / "output"
        watch.file(self.output)
        port, dashboard_port = any_port(), any_port()
        self.base = f"http://127.0.0.1:{port}"
        self.environ = {**TOOLS, "DATA_DIR": str(self.data_dir)}  # all that another terminal has to know
        self.settings = {"PORT": str(port), "DASHBOARD_PORT": str(dashboard_port), **GENEROUS, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    @property
    def config(self) -> Config:
        return Config.load(embedded.discover(self.environ))

    def start(self) -> float:
        """Start, and wait until /ready says so and all is in place; how long it took."""
        started = time.monotonic()
        with self.output.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ottoai", "dev"],
                cwd=ROOT, env={**self.environ, **self.settings}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.until_ready()
        return time.monotonic() - started

    def until_ready(self) -> None:
        """Wait for 200 and all components."""
        deadline = time.monotonic() + READY_WITHIN
        while not (answer := self.ready()).get("ready") or not all(answer["components"].values()):
            assert self.process.poll() is None, f"it ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not ready, {answer}:\n{self.tail()}"
            time.sleep(0.1)

    def ready(self) -> dict[str, Any]:
        """What /ready says; {} when nothing, or 503, is answered."""
        with suppress(OSError), urllib.request.urlopen(f"{self.base}/ready", timeout=3) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
        return {}

    def stop(self, sig: signal.Signals = signal.SIGINT) -> float:
        """Stop as Ctrl-C does; how long it took."""
        started = time.monotonic()
        family = self.family()
        self.process.send_signal(sig)
        self.ended(family)
        return time.monotonic() - started

    def ended(self, family: Sequence[psutil.Process]) -> None:
        """Wait for its end: exit code 0, and nothing of its family is left."""
        try:
            code = self.process.wait(STOPPED_WITHIN)
        finally:
            left = [process for process in family if is_alive(process)]
            self.kill()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        assert code == 0, self.tail()
        assert left == []

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def family(self) -> list[psutil.Process]:
        """All its descendants."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def pids(self) -> dict[str, int]:
        """Process ids by name: the services of the Procfile, postgres (the postmaster) and redis."""
        return {name: process.pid for process in self.family() if (name := role_of(process))}

    def pid(self, name: str) -> int:
        return self.pids()[name]

    def text(self) -> str:
        """All output so far, in whole lines."""
        text = self.output.read_text()
        return text[: text.rfind("\n") + 1]

    def tail(self) -> str:
        return "\n".join(self.text().splitlines()[-30:])

    def raw_lines(self) -> list[tuple[str, str]]:
        """(service, line) of all that the services wrote."""
        pattern = re.compile(rf"({'|'.join(SERVICES)}) +\| (.*)")
        return [(match[1], match[2]) for line in self.text().splitlines() if (match := pattern.fullmatch(line))]

    def log(self, service: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The log lines with these values."""
        parsed = [json.loads(line) for name, line in self.raw_lines() if not service or name == service]
        return [line for line in parsed if all(line.get(name) == value for name, value in fields.items())]

    async def line(self, service: str, **fields: Any) -> dict[str, Any]:
        """The one log line with these values; it may have to be waited for, and must stay the only one."""
        found = await eventually(lambda: self.log(service, **fields))
        assert len(found) == 1, found
        return dict(found[0])

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command in another terminal."""
        options.setdefault("env", self.environ)
        options.setdefault("timeout", 30)
        return subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False, **options)

    def ottoai(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`python -m ottoai …` in another terminal."""
        return self.run(sys.executable, "-m", "ottoai", *words, **options)

    def token(self, org: str = "demo", user: str = "ann") -> str:
        done = self.ottoai("token", "--org", org, "--user", user)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def deliver(self, body: dict[str, Any], kind: str = "call-complete") -> tuple[int, dict[str, Any]]:
        """Send a webhook signed by the tenant demo's key."""
        return await deliver(self.base, kind, body, key=SIGNING_KEY)

    def sql(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the application does for the tenant demo."""
        return of_tenant(self.config.database_url, sql, *values)

    def head(self) -> int:
        return int(self.sql("select seq from heads")[0][0])


def role_of(process: psutil.Process) -> str:
    """Which of our processes this is, by its command line; "" for the children of those."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    for name in SERVICES:
        if words[1:] in (["-m", "ottoai", name], ["-m", "jobs", name]):
            return name
    program = Path(words[0].split(" ")[0]).name if words else ""
    if program == "postgres" and "-D" in words:
        return "postgres"
    return "redis" if program in {"redis-server", "valkey-server"} else ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def process(
    words: Sequence[str], environ: Mapping[str, str], output: Path, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m …`, running inside the `with` block, its output in a file."""
    watch.file(output)
    with output.open("ab") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=cwd, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(STOPPED_WITHIN)
        finally:
            started.kill()
            started.wait()


class Screen:
    """What one open screen saw, in order, and when (by the monotonic clock)."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.arrived: list[float] = []

    @property
    def numbers(self) -> list[int]:
        return [event["seq"] for event in self.events]

    def saw(self, call_id: int) -> list[str]:
        """The events of one call, by name."""
        return [event["event"] for event in self.events if event["data"].get("external_id") == str(call_id)]

    def first_saw(self, call_id: int) -> float:
        """When the first event of a call arrived."""
        return next(
            at
            for at, event in zip(self.arrived, self.events, strict=True)
            if event["data"].get("external_id") == str(call_id)
        )


@asynccontextmanager
async def watching(base: str, token: str, since: int | str | None = None) -> AsyncIterator[Screen]:
    """A screen that follows the channel of the tenant demo, reconnecting as often as it must."""
    screen = Screen()

    async def follow() -> None:
        async for message in Follower(base, token, "tenant:demo:events", since).events():
            if message["type"] == "event":
                screen.events.append(message)
                screen.arrived.append(time.monotonic())
            else:
                screen.results.append(message)

    task = asyncio.create_task(follow())
    try:
        await eventually(lambda: screen.results or task.done())
        yield screen
        assert not task.done(), "the screen was refused"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def eventually(check: Callable[[], Any], seconds: float = 10.0, every: float = 0.05) -> Any:
    """Wait until `check` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(every)
    return result


async def post(base: str, body: dict[str, Any], *, timeout: float = 10.0) -> tuple[int, str] | None:
    """Send the signed report of a call; (HTTP status, what became of it), or None when no answer came."""
    try:
        async with asyncio.timeout(timeout):
            status, answer = await deliver(base, "call-complete", body, key=SIGNING_KEY)
            return status, str(answer["status"])
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


async def post_missed_call(base: str, call_id: int) -> int | None:
    """Report a missed call that began just now; the HTTP status, or None when no answer came."""
    answer = await post(base, report("call-complete", call_id))
    return answer[0] if answer else None


TEXTS = """
select c.external_id, t.message_id::text
from calls as c
join missed_calls as m on m.tenant_id = c.tenant_id and m.call_id = c.id
join messages as s on s.tenant_id = m.tenant_id and s.missed_call_id = m.id
join development_texts as t on t.message_id = s.id
where c.external_id = any(%s) and s.status = 'sent' and m.status = 'texted'
"""


def texts(database_url: str, call_ids: Sequence[int]) -> list[str]:
    """Ids of the texts that went out for these calls. One each, or this fails."""
    rows = of_tenant(database_url, TEXTS, [str(call_id) for call_id in call_ids])
    assert len({row[0] for row in rows}) == len(rows), "more than one text for a call"
    return [str(row[1]) for row in rows]


def check_log_of_events(database_url: str, call_ids: Sequence[int], since: int) -> None:
    """In the log after `since`: no number is missing, and each call and each of its steps is there once."""
    rows = of_tenant(database_url, "select seq, event, data from events where seq > %s order by seq", since)
    assert [row[0] for row in rows] == list(range(since + 1, since + 1 + len(rows)))
    steps = [(row[2].get("external_id"), row[1]) for row in rows if row[2].get("external_id")]
    names = [name for name in FIRST_EVENTS if name.startswith("telephony")]
    assert sorted(steps) == sorted((str(call_id), name) for call_id in call_ids for name in names)
    for name in ("missed_call.queued", *TEXT_EVENTS):
        assert sum(row[1] == name for row in rows) == len(call_ids), name
    ((calls,),) = of_tenant(
        database_url, "select count(*) from calls where external_id = any(%s)", [str(one) for one in call_ids]
    )
    assert calls == len(call_ids)


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One running product for all tests that leave it well."""
    running = Product(tmp_path_factory.mktemp("product"), ALERT_BOUNDS=off("webhook_quarantined.warning"))
    try:
        running.start()
        yield running
        running.stop()
    finally:
        running.kill()


@pytest.fixture
def call_id() -> int:
    return samples.new_call_id()


@pytest.fixture(scope="session")
def token(product: Product) -> str:
    return product.token()
