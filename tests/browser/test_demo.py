"""GET /demo in a real browser, against the product as `make run` starts it."""

import os
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPMessage
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import psutil
import pytest

from ottoai import samples
from tests.browser.conftest import Chromium
from tests.conftest import execute
from tests.e2e.conftest import Product, eventually

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WITHIN = 15_000  # ms: a patience, no measure


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of its own: its api is killed here."""
    running = Product(tmp_path_factory.mktemp("demo"))
    try:
        running.start()
        yield running
        assert "eyJ" not in running.text(), "a token got into the logs"
        running.stop()
    finally:
        running.kill()


class Visit:
    """The page in a browser of its own, what it asked for, and what it complained of."""

    def __init__(self, chromium: Chromium) -> None:
        self.chromium = chromium
        self.page: Any = None
        self.said: list[str] = []
        self.asked: list[str] = []
        self.do = chromium.do

    async def open(self, address: str, options: dict[str, Any]) -> None:
        """Open it. To be done by Chromium's own thread, as all that speaks to it."""
        context = await self.chromium.browser.new_context(**options)
        page = self.page = await context.new_page()
        page.set_default_timeout(WITHIN)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(error.message))
        page.on("dialog", lambda dialog: self.said.append(dialog.message))
        await page.goto(address)

    async def see(self, selector: str, text: str | re.Pattern[str] = "") -> str:
        """Wait until there is something with this text; all of its text."""
        found = self.page.locator(selector, has_text=text).first
        await self.do(found.wait_for())
        return str(await self.do(found.inner_text()))

    async def click(self, selector: str) -> None:
        await self.do(self.page.click(selector))

    async def type(self, selector: str, text: str) -> None:
        await self.do(self.page.fill(selector, text))

    async def js(self, expression: str) -> Any:
        return await self.do(self.page.evaluate(expression))

    async def live(self) -> None:
        """Wait until it is connected and has loaded all there is."""
        await self.see('#connection[data-state="open"]', "live")
        await self.see('main[aria-busy="false"]')

    async def missed(self, button: str = "#missed") -> str:
        """Miss a call; the caller's name, who is then looked at."""
        before = await self.js("document.querySelector('#h-conversation').textContent")
        await self.click(button)
        await self.do(
            self.page.wait_for_function(
                "before => !['Conversation', before].includes(document.querySelector('#h-conversation').textContent)",
                arg=before,
            )
        )
        return str(await self.js("document.querySelector('#h-conversation').textContent")).partition(",")[0]


@asynccontextmanager
async def visiting(chromium: Chromium, product: Product, tenant: str = "", **options: Any) -> AsyncIterator[Visit]:
    """The page, opened."""
    visit = Visit(chromium)
    await visit.do(visit.open(f"{product.base}/demo" + (f"?tenant={tenant}" if tenant else ""), options))
    if options.get("java_script_enabled", True):
        await visit.live()
    yield visit
    await visit.do(visit.page.context.close())


@contextmanager
def resting(product: Product) -> Iterator[None]:
    """The worker does nothing for a while."""
    worker = psutil.Process(product.pid("worker"))
    family = [worker, *worker.children(recursive=True)]
    for each in family:
        each.suspend()
    try:
        yield
    finally:
        for each in family:
            each.resume()


def fetch(url: str, **headers: str) -> tuple[int, HTTPMessage, str]:
    """(status, headers, text) of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except HTTPError as error:
        return error.code, error.headers, error.read().decode()


# The story


async def test_a_missed_call_is_texted_and_the_reply_recovers_it(chromium, product):
    async with visiting(chromium, product) as visit:
        await visit.js("window.still = true")
        await visit.do(visit.page.focus("#missed"))
        await visit.do(visit.page.keyboard.press("Enter"))
        await visit.see("#told", "POST /call-rail/call-complete was processed")
        await visit.see('#rescues [data-kind="texted"]', "Next text due")
        await visit.see('#calls [data-kind="missed"]', "from +")
        await visit.see('#timeline [data-kind="outbound"]', "Sorry we missed your call!")
        await visit.see("#events li", "missed_call.texted")
        await visit.type("#words", "Yes please, tomorrow")
        await visit.do(visit.page.press("#words", "Enter"))
        await visit.see('#timeline [data-kind="inbound"]', "Yes please, tomorrow")
        await visit.see('#rescues [data-kind="recovered"]', "the caller wrote back")
        await visit.see("#heard", "recovered")
        numbers = await visit.js("[...document.querySelectorAll('#events .seq')].map(each => Number(each.textContent))")
        assert numbers == list(range(len(numbers), 0, -1)), "each event once, the newest first"
        assert await visit.js("window.still"), "it was loaded anew"
        assert visit.said == []


async def test_a_text_goes_from_queued_to_sent(chromium, product):
    text = '#timeline [data-kind="outbound"]:has-text("When may we come?")'
    async with visiting(chromium, product) as visit:
        await visit.missed()
        await visit.see('#timeline [data-kind="outbound"]', "sent · automatic")
        with resting(product):
            await visit.type("#text", "When may we come?")
            await visit.click("#compose button")
            await visit.see(text, "queued · demo-user")
            assert await visit.js("document.querySelector('#text').value") == ""
        await visit.see(text, "sent · demo-user")
        await visit.see('#rescues [data-kind="recovered"]', "staff wrote")
        assert visit.said == []


async def test_who_opted_out_is_not_texted(chromium, product):
    async with visiting(chromium, product) as visit:
        await visit.missed()
        await visit.see('#rescues [data-kind="texted"]')
        await visit.type("#words", "STOP")
        await visit.click("#reply button")
        await visit.see('#rescues [data-kind="opted_out"]', "wants no texts")
        await visit.type("#text", "Are you sure?")
        await visit.click("#compose button")
        assert "no more texts" in await visit.see("#composed", "asked for")
        assert await visit.js("document.querySelector('#text').value") == "Are you sure?", "what was written is kept"


async def test_a_task_is_completed_as_it_is_now(chromium, product):
    async with visiting(chromium, product) as visit:
        name = await visit.missed("#unnoticed")
        task = f'#tasks [data-kind="open"]:has-text("{name}")'
        await visit.see(task, "Call back")
        await visit.see('#rescues [data-kind="escalated"]', "Nobody had reached them")

        async def as_before(route: Any) -> None:
            await route.continue_(headers={**route.request.headers, "if-match": '"0"'})

        await visit.do(visit.page.route("**/api/tasks/*", as_before, times=1))
        await visit.click(f"{task} button")
        await visit.see("#tasked", "Somebody has changed this task meanwhile")
        await visit.see(task)
        await visit.click(f"{task} button")
        await visit.see('#tasks [data-kind="done"]', "done by demo-user")
        await visit.see('#rescues [data-kind="recovered"]', "staff completed the task")


async def test_the_stream_can_be_paused(chromium, product):
    async with visiting(chromium, product) as visit:
        await visit.click("#pause")
        count = await visit.js("document.querySelector('#events').children.length")
        name = await visit.missed()
        await visit.see("#pause", re.compile(r"Go on \(\d+ more\)"))
        assert await visit.js("document.querySelector('#events').children.length") == count
        await visit.click("#pause")
        await visit.see("#events li", f"{name} · completed")
        await visit.see("#pause", "Pause")


async def test_it_comes_back_and_loads_afresh_what_it_missed(chromium, product):
    async with visiting(chromium, product) as visit:
        await visit.missed()
        visit.asked.clear()
        execute(product.config.database_url, "update heads set epoch = epoch + 1 where tenant_id = 'demo'")
        os.kill(product.pid("api"), signal.SIGKILL)
        await visit.see("#connection", "reconnecting in")
        await visit.see("#stale", "may be out of date")
        await visit.live()
        await eventually(lambda: any("/api/leads?" in url for url in visit.asked))
        assert any("/demo/token?tenant=demo" in url for url in visit.asked), "each connection wants a token that is new"
        assert not await visit.do(visit.page.is_visible("#stale"))
        name = await visit.missed()
        await visit.see('#rescues [data-kind="texted"]', name)


# What comes from elsewhere


async def test_what_strangers_write_is_text(chromium, product):
    for name in ("reply", "missed"):
        assert fetch(f"{product.base}/demo/samples/{name}?tenant={quote(EVIL)}")[0] == 404
    async with visiting(chromium, product) as visit:
        call = samples.callrail("call-complete", samples.new_call_id(), customer_name=EVIL, source_name=EVIL)
        phone = call["customer_phone_number"]
        await product.deliver(call)
        await visit.see("#leads li", EVIL)
        await visit.click('#leads button:has-text("onerror")')
        text = samples.callrail_text(samples.new_call_id(), customer_phone_number=phone, content=EVIL)
        await product.deliver(text, "text-message")
        await visit.see('#timeline [data-kind="inbound"]', EVIL)
        await visit.see("#events li", EVIL)
        await visit.do(visit.page.reload())
        await visit.live()
        await visit.see("#leads li", EVIL)
        assert await visit.js("document.querySelectorAll('img, body script').length") == 0
        assert visit.said == []
    async with visiting(chromium, product, java_script_enabled=False) as visit:
        await visit.see("#leads li", EVIL)
        assert await visit.do(visit.page.locator("img, body script").count()) == 0


def test_an_unknown_tenant_is_none(product):
    for tenant in ("nobody", "%3Cscript%3Ealert(1)%3C/script%3E", "", "a%0D%0AX-Evil:1", "%F0%9F%98%80" * 300):
        status, headers, text = fetch(f"{product.base}/demo?tenant={tenant}")
        assert (status, headers.get_content_type()) == (404, "application/problem+json")
        assert '"There is no such tenant here."' in text
        assert "X-Evil" not in headers


async def test_it_reads_without_a_script(chromium, product):
    async with visiting(chromium, product) as visit:
        name = await visit.missed()
        await visit.see('#rescues [data-kind="texted"]', name)
    async with visiting(chromium, product, java_script_enabled=False) as visit:
        text = await visit.see("body")
        for part in (name, "texted", "Next text due", "missed", "missed_call.texted", "With JavaScript"):
            assert part in text
        for live in ("#try", "#conversation", "#connection", "#pause"):
            assert not await visit.do(visit.page.is_visible(live))


async def test_another_tenant_has_a_page_of_its_own(chromium, product):
    done = product.ottoai("tenant", "add", "other", "--name", "Other & Sons", "--timezone", "UTC", "--hours", "always")
    assert done.returncode == 0, done.stderr
    async with visiting(chromium, product, tenant="other") as visit:
        assert "Other & Sons" in await visit.see("h1")
        await visit.see("#leads ~ .empty", "Nobody has called yet.")
        assert await visit.do(visit.page.locator("#missed").count()) == 0
        assert visit.said == []


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (390, "light"), (820, "light"), (1280, "dark")])
async def test_it_fits(chromium, product, width, scheme):
    viewport = {"width": width, "height": 800}
    async with visiting(chromium, product, viewport=viewport, color_scheme=scheme) as visit:
        assert await visit.js("document.documentElement.scrollWidth") <= width, "it has to be pushed sideways"
        text, ground = await visit.js(
            "['color', 'backgroundColor'].map(name =>"
            " Math.max(...getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number)))"
        )
        assert (text > ground) is (scheme == "dark")
        await visit.do(visit.page.keyboard.press("Tab"))
        assert await visit.js("document.activeElement.textContent") == "Skip to the conversation"
        assert await visit.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert visit.said == []


# Who gets it


def test_it_is_kept_nowhere_and_runs_nothing_foreign(product):
    status, headers, text = fetch(f"{product.base}/demo")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search(r"<script(?! type=\"module\" src=\"/static/)|<style|<[a-z][^>]*\s(style|on[a-z]+)=", text)
    for path in ("/demo/token", "/demo/samples/missed", "/demo/samples/reply"):
        assert fetch(product.base + path)[1]["Cache-Control"] == "no-store"
    assert fetch(f"{product.base}/demo/token", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert fetch(f"{product.base}/demo/token", Origin="https://elsewhere.example")[0] == 403
