"""Everybody who looks: screens that stay, that come and go, and whose links stall; readers and writers of the API;
operators and Prometheus; and those who have no business here.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
from aiohttp import encode_basic_auth

from ottoai.web.auth import issue
from tests.chaos.clients import Client, Crowd, EventStream, Poll, WebSocket, World
from tests.chaos.links import HOST, State
from tests.chaos.truth import Log
from tests.soak.callers import ANSWER_WITHIN
from tests.soak.stand import Stand

SCREENS = 4  # of each tenant, that stay all the time
GUESTS = 10  # other users of each tenant, who come and go
STAY = (2.0, 25.0)
CONNECTIONS = 30  # that are kept, and used again
OVERSIZED = 1_100_000
BUSY = 0.01  # share of the requests that may find a store away
STALL = 20  # requests that may, however few there are: one stall of some seconds makes so many
OPERATORS = ("/ops", "/ops.json", "/ops.txt", "/ops/jobs", "/ops/alerts", "/ops/quarantine", "/ops/audit")


class Visitors:
    """Their tasks. What is not answered as it should be goes into `wrong`."""

    def __init__(self, stand: Stand, logs: list[Log], rng: random.Random, hours: float) -> None:
        self.stand = stand
        self.logs = logs
        self.rng = rng
        self.ttl = timedelta(hours=hours + 1)
        self.world = World(port=stand.address.port, rng=random.Random(rng.random()))
        self.crowd = Crowd(self.world)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.busy = 0  # answered that a store is away
        self._tokens: dict[tuple[str, str], str] = {}
        self._stale = issue(stand.config, logs[0].tenant, "late", "member", timedelta(seconds=-60))

    def token(self, log: Log, user: str) -> str:
        """A user's, always the same."""
        key = log.tenant, user
        if key not in self._tokens:
            self._tokens[key] = issue(self.stand.config, log.tenant, user, "member", self.ttl)
        return self._tokens[key]

    def invite(self) -> None:
        """The screens that stay, of all kinds."""
        for log in self.logs:
            lead = f"lead:{self.rng.choice(log.leads)}:timeline"
            tenant = f"tenant:{log.tenant}:events"
            kinds: list[tuple[list[str], list[type]]] = [
                ([tenant], [WebSocket]), ([tenant], [EventStream]), ([tenant], [WebSocket, EventStream, Poll]),
                ([tenant, lead, "user:screen-3:tasks"], [WebSocket]),
            ]  # fmt: skip
            for n in range(SCREENS):
                user = f"screen-{n}"
                self.crowd.clients.append(Client(self.world, log, user, self.token(log, user), *kinds[n]))

    async def run(self) -> None:
        jar = aiohttp.DummyCookieJar()
        timeout = aiohttp.ClientTimeout(ANSWER_WITHIN)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, cookie_jar=jar, connector=aiohttp.TCPConnector(limit=CONNECTIONS)
            ) as self.http,
            asyncio.TaskGroup() as group,
        ):
            for every, work in (
                (1.0, self._stalls), (3.0, self._leaves), (1.0, self._guest), (0.25, self._reads), (1.0, self._renames),
                (5.0, self._texts), (0.7, self._intrudes), (5.0, self._operates), (5.0, self._scrapes),
            ):  # fmt: skip
                group.create_task(self._often(every, work))

    async def _often(self, every: float, work: Callable[[], Awaitable[None]]) -> None:
        """Again and again, each beside those before it."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self.rng.expovariate(1 / every))
                group.create_task(self._once(work))

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.wrong.append(f"{work.__name__}: {error!r}")

    # Screens

    async def _stalls(self) -> None:
        """A link is reset, or stops for a while: nothing is read, or all of it and nothing passed on."""
        links = self.stand.address.working
        if not links:
            return
        link, what = self.rng.choice(links), self.rng.random()
        self.stand.address.reap(60.0)
        if what < 0.4:
            link.reset()
        elif what < 0.6:
            link.darken(State.SWALLOWED)  # for ever: either end has to notice
        else:
            link.darken(State.HELD)
            await asyncio.sleep(self.rng.uniform(0.5, 6.0))
            if link.state is State.HELD:
                link.release()

    async def _leaves(self) -> None:
        """A screen is closed as screens are, and comes back."""
        client = self.rng.choice(self.crowd.clients)
        if client.wire is not None:
            client.wire.drop("left")

    async def _guest(self) -> None:
        log = self.rng.choice(self.logs)
        user = f"guest-{self.rng.randrange(GUESTS)}"
        kinds = self.rng.choice(([WebSocket], [EventStream], [Poll]))
        client = Client(self.world, log, user, self.token(log, user), [f"tenant:{log.tenant}:events"], kinds)
        self.crowd.clients.append(client)
        client.connect()
        await asyncio.sleep(self.rng.uniform(*STAY))
        self.crowd.clients.remove(client)
        await client.stop()

    # The API

    async def _reads(self) -> None:
        """A list from its beginning, page by page, then one of its rows."""
        log = self.rng.choice(self.logs)
        noun = self.rng.choice(("calls", "leads", "missed-calls", "tasks"))
        page: dict[str, Any] = {}
        path = f"/api/{noun}?limit={self.rng.choice((5, 20, 100))}"
        for _ in range(3):
            cursor = f"&cursor={page['next_cursor']}" if page else ""
            page = await self._ask(log, "GET", path + cursor)
            if not page.get("next_cursor"):
                break
        if page.get("items"):
            row = self.rng.choice(page["items"])["id"]
            await self._ask(log, "GET", f"/api/{noun}/{row}")
            if noun == "leads":
                await self._ask(log, "GET", f"/api/leads/{row}/{self.rng.choice(('timeline', 'messages'))}")
        elif self.rng.random() < 0.2:
            await self._ask(log, "GET", "/api/settings")

    async def _renames(self) -> None:
        log = self.rng.choice(self.logs)
        path = f"/api/leads/{self.rng.choice(log.leads)}"
        await self._ask(log, "PATCH", path, {"name": f"Robin {self.rng.randrange(1000)}"}, {"If-Match": "*"})

    async def _texts(self) -> None:
        """Staff writes to a regular, and presses the button twice."""
        log = self.rng.choice(self.logs)
        path = f"/api/leads/{self.rng.choice(log.leads)}/messages"
        key = {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}
        first, second = [
            await self._ask(log, "POST", path, {"body": "We are on our way."}, key, user="screen-1", wanted=202)
            for _ in range(2)
        ]
        if "id" in first and "id" in second and first["id"] != second["id"]:
            self.wrong.append(f"{path}: one text became two, {first} and {second}")

    async def _ask(
        self,
        log: Log,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        user: str = "",
        wanted: int = 200,
    ) -> dict[str, Any]:
        user = user or f"screen-{self.rng.randrange(SCREENS)}"
        headers = {"Authorization": f"Bearer {self.token(log, user)}", **(headers or {})}
        async with self.http.request(method, self._base() + path, json=body, headers=headers) as response:
            answer = await response.read()
        self._expect(f"{method} {path.partition('?')[0]}", response.status, wanted, answer)
        return msgspec.json.decode(answer)

    def away(self) -> Iterator[str]:
        """Whether stores were away more often than a busy machine explains."""
        asked = self.busy + self.answers.total()
        if self.busy > max(STALL, BUSY * asked):
            yield f"{self.busy} of {asked} requests were answered 503"

    # Those who have no business here

    async def _intrudes(self) -> None:
        forged = {"Signature": "Zm9yZ2Vk", "Content-Type": "application/json"}
        late = {"Authorization": f"Bearer {self._stale}"}
        user = {"Authorization": f"Bearer {self.token(self.logs[0], 'screen-0')}"}
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
        wanted, method, path, headers, data = self.rng.choice((
            (401, "POST", "/call-rail/call-complete", forged, b'{"id": 1, "company_id": 1000}'),
            (400, "POST", "/call-rail/call-complete", forged, b'{"id": 1, "company_id'),
            (413, "POST", "/call-rail/call-complete", forged, b"x" * OVERSIZED),
            (404, "GET", "/wp-login.php", {}, b""),
            (401, "GET", "/api/calls", late, b""),
            (401, "GET", "/ws", late | upgrade, b""),
            (401, "GET", "/ops", {}, b""),
            (400, "GET", "/api/calls?limit=many", user, b""),
            (404, "GET", f"/api/leads/{self.logs[1].leads[0]}", user, b""),
        ))  # fmt: skip
        if self.rng.random() < 0.1:
            await self._hangs_up()
            return
        async with self.http.request(method, self._base() + path, headers=headers, data=BytesIO(data)) as response:
            answer = await response.read()
        self._expect(f"bad {method} {path}", response.status, wanted, answer)

    async def _hangs_up(self) -> None:
        """Half a request, and nothing more."""
        port = int(self._base().rpartition(":")[2])
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /call-rail/call-complete HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        try:
            await asyncio.sleep(self.rng.uniform(0.0, 3.0))
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        self.answers["half a request"] += 1

    # Operators

    async def _operates(self) -> None:
        headers = {"Authorization": encode_basic_auth("olga", "open-sesame")}
        path = self.rng.choice(OPERATORS)
        async with self.http.get(self._base() + path, headers=headers) as response:
            await response.read()
        self._expect(path, response.status, 200, b"")

    async def _scrapes(self) -> None:
        for base in self.stand.bases:
            for scope in ("", "?scope=local"):
                async with self.http.get(f"{base}/metrics{scope}") as response:
                    await response.read()
                self._expect("/metrics", response.status, 200, b"")

    def _expect(self, what: str, status: int, wanted: int, answer: bytes) -> None:
        if status == 503 or b'"spooled"' in answer:  # the machine was too busy; how often that may be: `check`
            self.busy += 1
            return
        self.answers[f"{what.partition('?')[0].split('/')[1] if '/' in what else what} {status}"] += 1
        if status != wanted:
            self.wrong.append(f"{what} was answered {status}, not {wanted}: {answer[:300]!r}")

    def _base(self) -> str:
        return self.rng.choice(self.stand.bases)
