"""A deployment under load: three processes behind HAProxy are replaced one by one, and one is killed: nobody notices.

What a client sees of its own socket is that it was told to come back, and came back to where it was.
"""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import aiohttp
import msgspec
import pytest

from ottoai import samples
from ottoai.client import connect
from ottoai.webhooks import callrail
from tests.conftest import GENEROUS, SECRET, SECRET_KEY, SIGNING_KEY, of_tenant
from tests.deploy.behind import PLACES, Balanced, balanced, needs_haproxy
from tests.e2e.conftest import Screen, eventually, watching
from tests.helpers import report

pytestmark = [needs_haproxy, pytest.mark.timeout(200)]

SCREENS = 12
WITHIN = 60.0  # seconds; a busy machine is no failure
PAUSE = 0.04  # seconds between two requests of a sender
DEV_KEY = "canary-secret-of-a-rolling-restart"


@dataclass
class Traffic:
    """What was asked through the balancer, and answered."""

    base: str
    token: str
    calls: list[int] = field(default_factory=list)  # webhooks answered 200, each once
    failed: list[str] = field(default_factory=list)
    answered: int = 0

    async def ask(self, session: aiohttp.ClientSession, method: str, path: str, **options: object) -> bool:
        """One request; whether it was answered 200. No client of ours tries again by itself."""
        try:
            async with session.request(method, self.base + path, **options) as response:  # type: ignore[arg-type]
                await response.read()
                if response.status == 200:
                    self.answered += 1
                    return True
                cause = str(response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause = repr(error)
        self.failed.append(f"{method} {path}: {cause}")
        return False

    async def webhooks(self, session: aiohttp.ClientSession) -> None:
        for call_id in itertools.count(samples.new_call_id()):
            body = msgspec.json.encode(report("call-complete", call_id))
            headers = {"Content-Type": "application/json", "Signature": callrail.sign(body, SIGNING_KEY.format("demo"))}
            path = "/call-rail/call-complete"
            if await self.ask(session, "POST", path, data=BytesIO(body), headers=headers):
                self.calls.append(call_id)
            await asyncio.sleep(PAUSE)

    async def reads(self, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        while True:
            await self.ask(session, "GET", "/api/calls?limit=5", headers=headers)
            await asyncio.sleep(PAUSE)

    async def writes(self, session: aiohttp.ClientSession) -> None:
        """What nobody may try again, since it may have been done."""
        headers = {"X-Dev-Key": DEV_KEY}
        while True:
            await self.ask(session, "POST", "/ws/test-emit?event=test.kept&tenant_id=demo", headers=headers)
            await asyncio.sleep(PAUSE)


@asynccontextmanager
async def under_load(base: str, token: str, *kinds: str) -> AsyncIterator[tuple[Traffic, list[Screen]]]:
    """Screens that watch, and two senders of each kind, until the block ends."""
    traffic = Traffic(base, token)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)))
        screens = [await stack.enter_async_context(watching(base, token)) for _ in range(SCREENS)]
        tasks = [asyncio.create_task(getattr(traffic, kind)(session)) for kind in kinds for _ in range(2)]
        try:
            yield traffic, screens
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def check(database_url: str, traffic: Traffic, screens: list[Screen]) -> None:
    """Each webhook that was answered had its effect once, and every screen saw every event, in order, once."""
    rows = of_tenant(database_url, "select external_id, count(*) from calls group by 1")
    kept = {str(row[0]): row[1] for row in rows}
    assert {str(call_id) for call_id in traffic.calls} <= kept.keys()
    assert set(kept.values()) == {1}
    ((head,),) = of_tenant(database_url, "select max(seq) from events")
    for screen in screens:
        await eventually(lambda screen=screen: screen.numbers and screen.numbers[-1] >= head, WITHIN)
        first = screen.results[0]["seq"] + 1
        assert screen.numbers == list(range(first, first + len(screen.numbers)))
        assert all(result["success"] for result in screen.results)
        assert all(result["recovered"] for result in screen.results[1:])


@pytest.fixture
async def running(tmp_path: Path, database_url: str, redis_url: str, demo: str) -> AsyncIterator[Balanced]:
    environ = {
        "ENVIRONMENT": "test", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "JWT_SECRET": SECRET,
        "SECRET_KEYS": SECRET_KEY, "DEV_KEYS": f"roll:{DEV_KEY}", "PROBE_SECONDS": "0", "LOG_LEVEL": "WARNING",
        **GENEROUS,
    }  # fmt: skip
    async with balanced(tmp_path, environ) as behind:
        yield behind


async def test_a_rolling_restart_fails_nobody_and_a_crash_loses_no_webhook(
    running: Balanced, database_url: str, make_token: Callable[..., str]
):
    token = make_token(seconds=3600)
    async with under_load(running.base, token, "webhooks", "reads", "writes") as (traffic, screens):
        for place in PLACES:
            await running.leave(place)
            for _ in range(3):
                async with connect(running.base, token):
                    pass  # the one that leaves has the fewest sockets now: who is sent to it, is sent on
            await running.ended(place)
            running.start(place)
            await running.up(place)
        assert traffic.failed == []
        assert len(traffic.calls) > 50
        await check(database_url, traffic, screens)
        assert all(len(screen.results) > 1 for screen in screens), "each was on a process that ended"
    async with under_load(running.base, token, "webhooks", "reads") as (traffic, screens):
        await eventually(lambda: len(traffic.calls) > 20, WITHIN)
        killed = running.processes["api-2"]
        killed.send_signal(signal.SIGSTOP)
        await eventually(lambda: running.stuck("api-2") == 4, WITHIN)  # every sender waits for it
        killed.kill()
        before = len(traffic.calls)
        await eventually(lambda: len(traffic.calls) > before + 20, WITHIN)
        await check(database_url, traffic, screens)
        assert traffic.failed == []
