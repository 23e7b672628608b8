"""/ops in a real browser: whole without JavaScript; with it up to date, and whoever reads or types is not disturbed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from ottoai.domain import paused
from ottoai.web import keys
from tests.browser.conftest import Chromium
from tests.conftest import execute

OPERATOR = {"username": "operator", "password": "secret"}
WITHIN = 10_000  # ms: a patience, no measure
PHONE = {"viewport": {"width": 390, "height": 844}}
DESK = {"viewport": {"width": 1280, "height": 900}}


class Reader:
    """A page, and what its browser complained of."""

    def __init__(self, raw: Any, do: Callable[..., Awaitable[Any]]) -> None:
        self.raw = raw
        self.do = do
        self.said: list[str] = []

    async def open(self, address: str) -> None:
        """Open it. To be done by Chromium's own thread, as all that speaks to it."""
        self.raw.set_default_timeout(WITHIN)
        self.raw.on("console", lambda message: self.said.append(message.text))
        self.raw.on("pageerror", lambda error: self.said.append(error.message))
        await self.raw.goto(address)

    async def js(self, expression: str) -> Any:
        return await self.do(self.raw.evaluate(expression))

    async def see(self, selector: str) -> str:
        """Wait for what a selector finds; its text."""
        await self.do(self.raw.wait_for_selector(selector))
        return str(await self.do(self.raw.locator(selector).first.inner_text()))


@pytest.fixture
def read(chromium: Chromium, base: str) -> Callable[..., Any]:
    """Open a page as an operator."""

    @asynccontextmanager
    async def opened(path: str = "/ops", **options: Any) -> AsyncIterator[Reader]:
        context = await chromium.do(chromium.browser.new_context(http_credentials=OPERATOR, **options))
        reader = Reader(await chromium.do(context.new_page()), chromium.do)
        await chromium.do(reader.open(base + path))
        yield reader
        assert reader.said == [], "nothing against the policy, no fault"
        await chromium.do(context.close())

    return opened


@pytest.fixture
def broken(database_url: str, api: TestServer) -> None:
    """A job that was given up, and a periodic job that failed."""
    execute(
        database_url,
        """insert into outbox (tenant_id, job, queue, subject_id, state, attempts, due_at, enqueue_at, error, traceback,
               finished_at)
           values ('demo', 'send_text', 'urgent', gen_random_uuid(), 'dead', 5, now(), now(), 'CarrierDown: 503',
               'in send', now())""",
    )
    execute(
        database_url,
        """insert into periodic_runs (name, started_at, seconds, outcome, error, traceback)
           values ('recap', now(), 1.5, 'failure', 'KeyError', 'in recap')""",
    )


async def test_without_javascript_all_of_it_is_there(read, broken, app, db):
    await app[keys.MONITOR].run_once()
    async with read(java_script_enabled=False) as reader:
        for selector in (
            "#alerts", "#indicators tbody tr", "#processes tbody tr", "#schedule tbody tr", "#queues tbody tr",
            "#jobs tbody tr", "#quarantine", "#connections details", "#history", "#audit",
        ):  # fmt: skip
            await reader.see(selector)
        assert not await reader.do(reader.raw.is_visible("#hold")), "there is nothing to hold"
        # A button works, and leads back with what came of it.
        async with asyncio.timeout(10):
            await reader.do(reader.raw.click("#queues button[aria-label='Pause: bulk']"))
            assert "pause bulk: paused" in await reader.see(".notice.info")
        assert [each.queue for each in await paused.paused(db.system())] == ["bulk"]
        await paused.resume(db.system(), "bulk")
        # The page is loaded again by itself.
        await reader.do(reader.raw.wait_for_selector("#queues button[aria-label='Pause: bulk']", timeout=30_000))


async def test_from_an_alert_to_the_traceback_in_two_clicks(read, broken, app, monkeypatch):
    monitor = app[keys.MONITOR]
    await monitor.run_once()
    monkeypatch.setattr(monitor, "run_once", asyncio.Event().wait)  # what is put there now stays
    failing = [
        replace(each, value=0.5, shown="50 %", verdict="critical") if each.id == "tasks_failed" else each
        for each in monitor.report.readings
    ]
    monitor.report = replace(monitor.report, readings=failing)
    await app[keys.WATCH].alerting.look()
    async with read(java_script_enabled=False) as reader:
        await reader.do(reader.raw.click("#alerts a[href='#jobs']"))
        await reader.do(reader.raw.click("#jobs a[aria-label^='Traceback']"))
        assert "in send" in await reader.see("pre")


async def test_what_changes_appears_and_nobody_is_disturbed(read, broken, app, database_url):
    async with read(**DESK) as reader:
        await reader.see("#hold")
        await reader.do(reader.raw.click("#run-recap summary"))
        await reader.do(reader.raw.focus("#queues button[aria-label='Pause: default']"))
        await reader.js("""() => {
            window.scrollTo(0, 300);
            window.before = [document.activeElement, document.querySelector("#run-recap"), scrollY];
        }""")
        execute(database_url, "insert into paused_queues (queue, paused_by) values ('bulk', 'ann')")
        execute(database_url, "update outbox set error = 'Another cause'")
        assert "by ann" in await reader.see("#queues button[aria-label='Resume: bulk'] >> xpath=ancestor::tr")
        assert "Another cause" in await reader.see("#jobs tbody tr")
        assert await reader.js("""() => {
            const [focused, details, scrolled] = window.before;
            return focused === document.activeElement && focused.isConnected && details.isConnected && details.open
                && document.querySelector("#run-recap") === details && scrollY === scrolled;
        }""")
        # What is gone goes, what is new comes, and the rest stays.
        execute(database_url, "delete from outbox")
        await reader.do(reader.raw.wait_for_selector("#jobs tbody", state="detached"))
        assert "None is dead" in await reader.see("#jobs")
        assert await reader.js("window.before[1].open && window.before[1].isConnected")


async def test_it_holds_still_when_told_to(read, app, database_url):
    async with read() as reader:
        await reader.do(reader.raw.click("#hold"))
        asked = await reader.js("performance.getEntriesByType('resource').length")
        execute(database_url, "insert into paused_queues (queue, paused_by) values ('bulk', 'ann')")
        await asyncio.sleep(4.0)  # twice as long as between two questions of a page that is not held
        assert await reader.js("performance.getEntriesByType('resource').length") == asked
        await reader.do(reader.raw.click("#hold"))
        await reader.see("#queues button[aria-label='Resume: bulk']")


async def test_a_server_that_is_not_reached_is_told(read, app):
    async with read() as reader:
        await reader.do(reader.raw.context.set_offline(True))
        assert "Not reached since" in await reader.see("#reach:not([hidden])")
        await reader.do(reader.raw.context.set_offline(False))
        await reader.do(reader.raw.wait_for_selector("#reach", state="hidden"))
        reader.said.clear()  # the browser tells of each request that failed


@pytest.mark.parametrize("path", ["/ops", "/ops/alerts"])
@pytest.mark.parametrize(
    "form", [DESK, {**DESK, "color_scheme": "dark"}, PHONE, {**PHONE, "color_scheme": "dark"}], ids=str
)
async def test_everybody_can_read_it(read, broken, app: web.Application, path, form):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    await app[keys.MONITOR].run_once()
    async with read(path, **form) as reader:
        await reader.js(axe.AXE_FILE_PATH.read_text())
        found = await reader.js("axe.run()")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
        assert await reader.js("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
