"""GET /docs in a real browser: under its own policy, at every width, in dark and on paper, by keyboard alone."""

import re
from collections import Counter
from collections.abc import Mapping

import aiohttp
import pytest

from ottoai.web.operations import OPERATIONS
from tests.browser.conftest import Chromium

IDS = re.compile(r'\bid="([^"]+)"')
LINKS = re.compile(r'(?:href|src)="([^"]+)"')


async def fetch(base: str, path: str = "/docs", **headers: str) -> tuple[int, Mapping[str, str], str]:
    async with aiohttp.ClientSession() as session, session.get(base + path, headers=headers) as response:
        return response.status, response.headers, await response.text()


async def test_it_needs_nothing_from_elsewhere_and_says_so(base):
    status, headers, text = await fetch(base)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    outside = {link for link in LINKS.findall(text) if not link.startswith("#")}
    assert outside == {"/static/docs.css", "/openapi.json", "/asyncapi.json"}
    for path in outside:
        assert (await fetch(base, path))[0] == 200
    assert not re.search(r"<script|<style|\bstyle=|\bon[a-z]+=", text)
    assert (await fetch(base, **{"If-None-Match": headers["ETag"]}))[0] == 304


async def test_every_link_leads_somewhere_and_everything_is_there(base):
    _, _, text = await fetch(base)
    ids = Counter(IDS.findall(text))
    assert max(ids.values()) == 1
    assert {link[1:] for link in LINKS.findall(text) if link.startswith("#")} <= set(ids)
    plain = text.replace("\u200b", "")
    for method, path in OPERATIONS:
        assert re.search(rf">{method}</span>\s*<code>{re.escape(path)}</code>", plain), (method, path)
    assert text.count("curl ") >= len(OPERATIONS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_it_fits(chromium: Chromium, base, width, scheme):
    said: list[str] = []

    async def look() -> list[int]:
        context = await chromium.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=True
        )
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text))
        await page.goto(f"{base}/docs")
        found = await page.evaluate(
            "[document.documentElement.scrollWidth, ...['color', 'backgroundColor'].map(name =>"
            " Math.max(...getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number)))]"
        )
        await context.close()
        return list(found)

    across, text, ground = await chromium.do(look())
    assert across <= width, "it has to be pushed sideways"
    assert (text > ground) is (scheme == "dark")
    assert said == [], "the policy forbids something the page has"


async def test_it_is_read_by_keyboard_and_printed(chromium: Chromium, base):
    async def look() -> tuple[str, str, list[str]]:
        context = await chromium.browser.new_context()
        page = await context.new_page()
        await page.goto(f"{base}/docs")
        await page.keyboard.press("Tab")
        first = await page.evaluate("document.activeElement.textContent")
        await page.keyboard.press("Enter")
        there = await page.evaluate("location.hash")
        await page.emulate_media(media="print")
        shown = await page.evaluate(
            "['nav', 'main'].map(name => getComputedStyle(document.querySelector(name)).display)"
        )
        await context.close()
        return first, there, shown

    assert await chromium.do(look()) == ("Skip to the text", "#main", ["none", "block"])
