"""A real Chromium, and in it a page of the API that has loaded otto.js from it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
from aiohttp import web

from ottoai.realtime.connection import Connection
from ottoai.web import keys

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip
SCRIPT = Path(__file__).with_name("page.js").read_text()
NOTES = "notes.map(({ who, what, detail }) => [who, what, what === 'event' ? detail.seq : detail])"
PATIENCE = 10.0  # seconds for what should come at once

T = TypeVar("T")


class Chromium:
    """A running Chromium. It is driven from a thread of its own, since it outlives the event loops of the tests: to
    start it takes longer than most of them.
    """

    def __init__(self) -> None:
        self.browser: Any = None
        self._playwright: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="chromium")

    def start(self) -> None:
        """Start it."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        from playwright.async_api import async_playwright

        self._playwright = await async_playwright().start()
        self.browser = await self._playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

    async def _stop(self) -> None:
        await self.browser.close()
        await self._playwright.stop()

    async def do(self, what: Coroutine[Any, Any, T]) -> T:
        """Have something done by Playwright."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, self._loop))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A running Chromium, or a reason why the tests of the browser are skipped."""
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    driver = pytest.importorskip("playwright._impl._driver", reason="the package playwright is not installed")
    if not all(Path(part).exists() for part in driver.compute_driver_executable()):
        pytest.skip("the package playwright came without its driver")
    chromium = Chromium()
    chromium.start()
    yield chromium
    chromium.stop()


class Page:
    """A page with one Otto. What its handlers were given is noted by name: of "otto" itself, and of subscriptions."""

    def __init__(self, chromium: Chromium, raw: Any, base: str, app: web.Application) -> None:
        self.raw = raw
        self.base = base
        self.app = app
        self.tokens: list[Callable[[], str | None]] = []  # what the token function gives next; the last one stays
        self.tokens_given = 0
        self.errors: list[str] = []  # what reached the page uncaught
        self.sockets: list[str] = []  # the addresses of those it opened
        self._do = chromium.do

    async def open(self) -> None:
        """Prepare it."""
        self.raw.on("pageerror", lambda error: self.errors.append(error.message))
        self.raw.on("websocket", lambda socket: self.sockets.append(socket.url))
        await self._do(self.raw.expose_function("nextToken", self.next_token))
        await self.load()

    def next_token(self) -> str | None:
        """The page's token function."""
        self.tokens_given += 1
        return (self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0])()

    async def offline(self, offline: bool) -> None:
        """Take the network away from the page, or give it back. What is open stays open."""
        await self._do(self.raw.context.set_offline(offline))

    async def own_time(self) -> None:
        """From now on the page has a clock that can be moved."""
        await self._do(self.raw.clock.install())

    async def time_stops(self) -> None:
        """No time passes for the page any more."""
        await self.own_time()
        await self._do(self.raw.clock.pause_at(await self.js("Date.now() + 5000")))

    async def later(self, ms: int) -> None:
        """So much time has passed for the page."""
        await self._do(self.raw.clock.fast_forward(ms))

    async def load(self, base: str = "") -> None:
        """Load the page from an address that leads to the API."""
        # A real page: one that Playwright answers for is none of this machine's network and may not connect to it.
        await self._do(self.raw.goto(f"{base or self.base}/docs/problems/not-found"))
        await self.js(
            """(textContent) => new Promise((loaded) => {
                window.loaded = loaded;
                document.head.append(Object.assign(document.createElement("script"), { type: "module", textContent }));
            })""",
            SCRIPT,
        )

    async def js(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression in the page, awaited."""
        async with asyncio.timeout(PATIENCE):
            return await self._do(self.raw.evaluate(expression, argument))

    async def start(self, **options: Any) -> None:
        """Make the Otto."""
        await self.js("(options) => start(options)", options)

    async def listen(self, who: str, channel: str, since: str | int | None = None) -> None:
        """Subscribe under a name."""
        await self.js("([who, channel, since]) => listen(who, channel, since)", [who, channel, since])

    async def heard(self, who: str, what: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many notes; all there are."""
        try:
            return await self.js("([who, what, count]) => heard(who, what, count)", [who, what, count])
        except TimeoutError:
            pytest.fail(f"{who} heard no {count} {what}: {await self.js(NOTES)}")

    async def told(self, who: str, what: str, **fields: Any) -> dict[str, Any]:
        """Wait for a note with these values among its details."""
        try:
            return await self.js("([who, what, fields]) => told(who, what, fields)", [who, what, fields])
        except TimeoutError:
            pytest.fail(f"{who} was not told {what} {fields}: {await self.js(NOTES)}")

    async def seqs(self, who: str, count: int) -> list[int | None]:
        """The numbers of the events that a subscription heard, once it has heard so many."""
        return [event["seq"] for event in await self.heard(who, "event", count)]

    async def joined(self, who: str, times: int = 1) -> dict[str, Any]:
        """Wait until a subscription has joined so often; the last time."""
        return (await self.heard(who, "joined", times))[-1]

    async def states(self) -> list[str]:
        return [change["state"] for change in await self.js("of('otto', 'state')")]

    @property
    def connection(self) -> Connection:
        """The server's side of the one connection there is."""
        [connection] = self.app[keys.HUB].connections.values()
        return connection

    def end(self, code: int) -> None:
        """Close the connection from the server's side."""
        self.app[keys.SOCKETS].close(self.connection, code, "test")

    async def gone(self, connection: Connection) -> None:
        """Wait until the server has forgotten a connection."""
        await until(lambda: connection.id not in self.app[keys.HUB].connections)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something of the server's that tells nobody."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
async def page(
    chromium: Chromium, app: web.Application, base: str, make_token: Callable[..., str]
) -> AsyncIterator[Page]:
    """A page that is loaded and has a token function, but no Otto yet."""
    # The test's script is no part of the page, whose policy lets none in.
    context = await chromium.do(chromium.browser.new_context(bypass_csp=True))
    page = Page(chromium, await chromium.do(context.new_page()), base, app)
    page.tokens = [make_token]
    await page.open()
    yield page
    await chromium.do(context.close())


class Proxy:
    """A link that can go silent without being closed, as one does whose cable is pulled."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cut = asyncio.Event()
        self.address = ""

    def go_silent(self) -> None:
        """Nothing passes any more on the connections there are; new ones work."""
        self._cut.set()
        self._cut = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._tasks.add(asyncio.current_task())
        cut = self._cut
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        with closing(writer), closing(far_writer), suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._pipe(reader, far_writer, cut), self._pipe(far_reader, writer, cut))

    async def stop(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            if not cut.is_set():
                writer.write(data)
                await writer.drain()
        if not cut.is_set():
            writer.close()


@pytest.fixture
async def proxy(api: Any) -> AsyncIterator[Proxy]:
    """A way to the API that can go silent."""
    proxy = Proxy(api.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield proxy
        await proxy.stop()
