"""The receiver of alerts, played by a small real HTTP server that can misbehave; and the processes that tell it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer

from ottoai.app import build_app
from ottoai.config import Config
from ottoai.ops import leader
from ottoai.ops.alerts import Alert
from ottoai.tally import Reporter
from ottoai.web import keys
from tests.conftest import execute

PATH = "/services/T0/B0/the-secret-of-the-webhook"

# Indicators whose alerts tell of a machine that others use as well: where real processes run, they are no fault.
BUSY = frozenset({
    "http_p95", "latency_budget", "loop_lag", "event_p95", "event_budget", "webhook_p95", "db_query", "db_wait",
    "db_slow", "redis_ping", "redis_up", "probe_event", "probe_job",
})  # fmt: skip

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Slack:
    """`messages`: what it took; `asked`: how often it was called; `answer`: what it does instead of taking them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.asked = 0
        self.beats = 0
        self.answer: Answer | None = None
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer is not None:
            return await self.answer(request)
        self.messages.append(msgspec.json.decode(await request.read()))
        return web.Response(text="ok")

    async def beat(self, request: web.Request) -> web.StreamResponse:
        self.beats += 1
        return web.Response(text="OK")

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        """Where it sends to, and nobody is to go."""
        return web.Response(text="ok")

    def of(self, title: str) -> list[str]:
        """The messages about an indicator, by their first word."""
        return [each["text"].partition(":")[0] for each in self.messages if title in each["text"]]


async def fails(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="no_text" * 100_000)


async def refuses(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="no_service")


async def sends_elsewhere(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def drops(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def babbles(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.write(b"\x00\xffnot HTTP at all\r\n\r\n")  # type: ignore[attr-defined]
    request.transport.close()
    return web.Response()


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def slack_of() -> AsyncIterator[Slack]:
    slack = Slack()
    app = web.Application()
    app.router.add_post(PATH, slack.take)
    app.router.add_get("/heartbeat", slack.beat)
    app.router.add_route("*", "/elsewhere", slack.elsewhere)
    server = TestServer(app)
    await server.start_server()
    slack.url = str(server.make_url(PATH))
    try:
        yield slack
    finally:
        await server.close()


class Clock:
    """The time of the processes' watches."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 12, 0, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Process:
    """An API process. It looks and tells when the test says so."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.clock = clock
        self.app = build_app(config, clock=clock)
        self._runner = web.AppRunner(self.app)

    async def start(self) -> None:
        await self._runner.setup()
        self.alerting.changed = lambda: None  # the loop that tells stays asleep
        await self.monitor.run_once()  # the loop's first look has been, and another comes never

    @property
    def monitor(self):
        return self.app[keys.MONITOR]

    @property
    def alerting(self):
        return self.app[keys.ALERTS]

    @property
    def watch(self):
        return self.app[keys.WATCH]

    async def look(self) -> None:
        await self.monitor.run_once()
        await self.tell()

    async def tell(self) -> None:
        if self.watch.notifier is not None:
            await self.watch.notifier.run_once()

    def alert(self, name: str) -> Alert | None:
        return next((each for each in self.alerting.active if each.name == name), None)

    def verdict(self, indicator: str) -> str:
        return next(each.verdict for each in self.monitor.report.readings if each.id == indicator)

    async def sees(self, indicator: str, *verdicts: str) -> None:
        """Look until it reads so; what it looks at is asked for once a second."""
        async with asyncio.timeout(20):
            await self.monitor.run_once()
            while self.verdict(indicator) not in verdicts:
                await asyncio.sleep(0.1)
                await self.monitor.run_once()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def kill(self) -> None:
        """End it as if it had been killed: its lease is not given up."""
        self.watch.leader.leading = False
        await self.stop()


async def later(clock: Clock, seconds: float, *processes: Process) -> None:
    """Let time pass, a look every five seconds by each."""
    for _ in range(int(seconds / 5)):
        clock.pass_by(5)
        for each in processes:
            await each.look()


async def over(clock: Clock, indicator: str, *processes: Process) -> None:
    """Let time pass until its alert is over for all. A store that comes back loses a few connections at first: what is
    looked at once a second may be ill once more.
    """
    async with asyncio.timeout(30):
        while any(each.alert(f"{indicator}.critical") for each in processes):
            for each in processes:
                await each.sees(indicator, "ok")
            await later(clock, 20, *processes)


@asynccontextmanager
async def worker_alive(config: Config) -> AsyncIterator[None]:
    """A worker that says that it lives, until the end."""
    reporter = Reporter(config.redis_url, "worker", version="test", figures=lambda: "", name="worker-played")
    with reporter:
        await asyncio.to_thread(reporter.run_once)
        yield
        await asyncio.to_thread(reporter.close)


def lease_ends(database_url: str, redis_url: str) -> None:
    """Fifteen seconds later."""
    execute(database_url, "update ops_leases set leased_until = now() - interval '1 second'")
    redis_lease_ends(redis_url)


def redis_lease_ends(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.delete(leader.KEY)
