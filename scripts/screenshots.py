"""`make screenshots`: the pictures of README, docs/images/*.png, taken of the real thing in a headless Chromium.

It starts what `make run` starts, on ports and a folder of its own, has calls missed and answered there, and things go
wrong: a delivery that nobody understands, a job that nobody knows, and with those an alert that fires.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg2
from aiohttp import encode_basic_auth
from playwright.async_api import Browser, async_playwright

from ottoai import embedded
from ottoai.config import Config
from ottoai.embedded.folder import any_port

ROOT: Final = Path(__file__).resolve().parents[1]
IMAGES: Final = ROOT / "docs" / "images"
SIZE: Final = {"width": 1280, "height": 860}
FLAGS: Final = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
OPERATOR: Final = ("operator", "on-call")
SIGNED_IN: Final = {"Authorization": encode_basic_auth(*OPERATOR)}
PATIENCE: Final = 60.0  # seconds for what takes a few
PAUSE: Final = 0.7  # seconds between two calls, so that not all happens in one moment
ALERT: Final = "tasks_failing.warning"
UNKNOWN_JOB: Final = """
    insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)
    values ('demo', 'send_invoice', 'default', gen_random_uuid(), now(), now())
"""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Everything, running; the environment that finds it."""
    port, dashboard = any_port(), any_port()
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "DATA_DIR": str(folder), "PORT": str(port), "DASHBOARD_PORT": str(dashboard),
        "OPS_USERS": ":".join((*OPERATOR, "operator")),
    }  # fmt: skip
    with (folder / "output").open("wb") as output:
        words = (sys.executable, "-m", "ottoai", "dev")
        product = subprocess.Popen(words, cwd=ROOT, env=environ, stdout=output)  # noqa: ASYNC220 - outlives this loop
    try:
        yield environ
    finally:
        product.terminate()
        product.wait(40)


class Caller:
    """Who makes traffic."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def json(self, path: str) -> Any:
        """What is answered there."""
        async with self.session.get(self.base + path) as response:
            return await response.json()

    async def until(self, path: str, is_so: Any) -> None:
        """Wait until what is answered there is so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    if is_so(await self.json(path)):
                        return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.2)

    async def report(self, kind: str, body: dict[str, Any]) -> None:
        """A webhook, as CallRail sends it."""
        async with self.session.post(f"{self.base}/call-rail/{kind}", json=body) as response:
            response.raise_for_status()
        await asyncio.sleep(PAUSE)

    async def traffic(self) -> None:
        """Calls that are missed, unnoticed and answered, and a caller who writes back."""
        for name in ("missed", "unnoticed", "missed", "missed", "unnoticed"):
            await self.report("call-complete", await self.json(f"/demo/samples/{name}"))
        for seconds in (187, 62):
            answered = await self.json("/demo/samples/missed")
            told = {"answered": True, "call_type": "first_call", "voicemail": False, "duration": str(seconds)}
            await self.report("call-complete", answered | told)
        caller = await self.json("/demo/samples/missed")
        await self.report("call-complete", caller)
        reply = await self.json("/demo/samples/reply")
        words = {"content": "Yes please! The roof leaks above the kitchen.", "customer_name": caller["customer_name"]}
        await self.report("text-message", reply | words | {"source_number": caller["customer_phone_number"]})

    async def trouble(self, database_url: str) -> None:
        """A delivery that is genuine and not understood, a job of another version's, and the alert that follows."""
        garbled = await self.json("/demo/samples/missed")
        await self.report("call-complete", garbled | {"duration": {"minutes": 3}})
        with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(UNKNOWN_JOB)
        await self.until("/ops.json", fires)


def fires(status: Any) -> bool:
    """Whether the alert does."""
    return (ALERT, "firing") in {(each["name"], each["state"]) for each in status["alerts"]}


async def photograph(browser: Browser, base: str) -> None:
    """Both pages, light and dark."""
    for scheme, suffix in (("light", ""), ("dark", "-dark")):
        context = await browser.new_context(
            viewport=SIZE, color_scheme=scheme, http_credentials={"username": OPERATOR[0], "password": OPERATOR[1]}
        )
        page = await context.new_page()
        for name in ("ops", "demo"):
            await page.goto(f"{base}/{name}")
            await page.wait_for_timeout(1500)  # the demo's socket joins
            await page.screenshot(path=IMAGES / f"{name}{suffix}.png")
        await context.close()


async def main() -> int:
    """Take them; the exit code."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        print("Chromium is not installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder)) as environ, aiohttp.ClientSession(headers=SIGNED_IN) as session:
            caller = Caller(session, base := f"http://127.0.0.1:{environ['PORT']}")
            await caller.until("/ready", lambda ready: all(ready["components"].values()))
            await caller.traffic()
            await caller.trouble(Config.load(embedded.discover(environ)).database_url)
            async with async_playwright() as driver:
                browser = await driver.chromium.launch(executable_path=chromium, args=[*FLAGS])
                await photograph(browser, base)
                await browser.close()
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
