"""The watch with the clock in hand: real causes happen in real time, and what has to last is looked at in steps."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ottoai import tally
from ottoai.app import build_app
from ottoai.config import Config
from ottoai.indicators import INDICATORS, VERDICTS, Bound, Indicator
from ottoai.measures import Unusual
from ottoai.ops import monitor
from ottoai.ops.monitor import Monitor
from ottoai.ops.reading import Reading
from ottoai.web import keys
from tests import promtool
from tests.background import blocked, eventually, locked

STEP = 30.0  # seconds of the watch's clock between two looks: what a scrape of every half minute sees
AGAIN = 240.0  # after so long a cause is repeated: the shortest window is five minutes
AUTH = {"Authorization": aiohttp.encode_basic_auth("operator", "secret")}

Cause = Callable[[], Awaitable[Any]]


class Watch:
    """One API process, and what it sees. `said`: the figures after each look, with the seconds passed until then."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ahead = timedelta()
        self.said: list[tuple[float, str]] = []
        self.app: web.Application = build_app(config, clock=self.now)
        self.base = ""

    def now(self) -> datetime:
        """The watch's clock: the real one, and what was passed over."""
        return datetime.now(UTC) + self.ahead

    @property
    def url(self) -> str:
        """The database's."""
        return self.config.database_url

    @property
    def monitor(self) -> Any:
        """The watch itself."""
        return self.app[keys.MONITOR]

    def indicator(self, name: str) -> Indicator:
        """As it is in force here."""
        found: Indicator = next(each for each in self.monitor.indicators if each.id == name)
        return found

    def reading(self, name: str) -> Reading:
        """What the last look found."""
        found: Reading = next(each for each in self.monitor.report.readings if each.id == name)
        return found

    async def look(self, after: float = STEP) -> None:
        """Let time pass on the watch's clock, look, and note the figures as a scraper would."""
        self.ahead += timedelta(seconds=after)
        self.app[keys.GAUGES]._until = 0.0  # what was found a moment ago, in real time, is old by this clock
        self.app[keys.HEALTH]._until = 0.0
        await self.monitor.run_once()
        headers = {"Authorization": f"Bearer {self.config.metrics_token}"}
        async with aiohttp.ClientSession() as session, session.get(f"{self.base}/metrics", headers=headers) as response:
            self.said.append((self.ahead.total_seconds(), await response.text()))

    async def ask(self, path: str, times: int = 1, token: str = "", **headers: str) -> list[int]:
        """GET so many times at once; the statuses."""
        if token:
            headers["Authorization"] = f"Bearer {token}"

        async def once(session: aiohttp.ClientSession) -> int:
            async with session.get(self.base + path, headers=headers) as response:
                await response.read()
                return response.status

        connector = aiohttp.TCPConnector(limit=times)
        async with aiohttp.ClientSession(connector=connector) as session:
            return list(await asyncio.gather(*(once(session) for _ in range(times))))

    @asynccontextmanager
    async def held_up(self, table: str, path: str, times: int, token: str = "") -> AsyncIterator[None]:
        """Requests that wait for a table while the body runs."""
        with locked(self.url, table):
            asking = asyncio.create_task(self.ask(path, times, token))
            await eventually(lambda: len(blocked(self.url)) >= min(times, self.config.db_pool_size))
            yield
        await asking

    async def passes(self, name: str, level: str, cause: Cause | None = None, step: float = STEP) -> None:
        """The indicator passes its bound of this level, stays so for as long as an alert wants, and everybody says so.
        `cause` is repeated as time passes.
        """
        bound = next(each for each in self.indicator(name).bounds if each.level == level)
        began = repeated = self.ahead
        if cause:
            await cause()
        await self.look(step)
        self._is(name, level)
        while self.ahead - began <= timedelta(seconds=bound.seconds + step):
            if cause and self.ahead - repeated >= timedelta(seconds=AGAIN):
                await cause()
                repeated = self.ahead
            await self.look(step)
            self._is(name, level)
        await self.agree(name, bound, lasted=True)

    def _is(self, name: str, level: str) -> None:
        """A busy machine may make it worse than the cause alone does."""
        found = self.reading(name)
        assert VERDICTS.index(found.verdict) >= VERDICTS.index(level), found

    def counted(self, metric: str) -> float:
        """The sum of a counter's series in this process."""
        return sum(each.value for each in tally.samples(self.app[keys.METRICS].render()) if each.name == metric)

    async def agree(self, name: str, bound: Bound, *, lasted: bool) -> None:
        """Page, text, JSON and Prometheus say the same; and when it has `lasted`, alerts fire."""
        indicator, reading = self.indicator(name), self.reading(name)
        self.app[keys.BOARD]._until = 0.0
        async with aiohttp.ClientSession(headers=AUTH) as session:
            told = {}
            for path in ("/ops", "/ops.txt", "/ops.json"):
                async with session.get(self.base + path) as response:
                    assert response.status == 200
                    told[path] = await response.text()
        assert f'<tr id="indicator-{name}" class="{reading.verdict}">' in told["/ops"]
        assert f"{reading.verdict.upper()} {reading.title}: {reading.shown} " in told["/ops.txt"]
        status = msgspec.json.decode(told["/ops.json"])
        assert {"id": name, "verdict": reading.verdict}.items() <= next(
            each for each in status["indicators"] if each["id"] == name
        ).items()
        if lasted:
            firing = {each["name"] for each in status["alerts"] if each["state"] == "firing"}
            assert indicator.alert(bound) in firing
            assert f"FIRING {indicator.alert(bound)}: {indicator.title}" in told["/ops.txt"]
        if promtool.PROMTOOL and not isinstance(indicator.measure, Unusual):  # which wants days of figures
            await asyncio.to_thread(self._prometheus, indicator, bound, lasted)

    def _prometheus(self, indicator: Indicator, bound: Bound, lasted: bool) -> None:
        expressions = " ".join(each.promql() for each in (indicator.measure, *indicator.conditions))
        needed = {_family(word) for word in re.findall(r"[a-z0-9_]+", expressions)}
        said = [(at, "\n".join(_about(text, needed))) for at, text in self.said]
        value = f"ottoai:{indicator.id}"
        answers = promtool.evaluate(said, value, promtool.FIRING)
        (told,) = answers[value].values()
        assert bound.passed(told), (indicator.id, told, self.reading(indicator.id).value)
        if lasted and bound in next(each for each in INDICATORS if each.id == indicator.id).bounds:
            firing = {dict(labels)["alertname"] for labels in answers[promtool.FIRING]}
            assert indicator.prometheus_alert(bound) in firing

    async def agree_on(self, name: str, level: str) -> None:
        """The cause at hand has this indicator pass its bound of this level, too."""
        self._is(name, level)
        bound = next(each for each in self.indicator(name).bounds if each.level == level)
        await self.agree(name, bound, lasted=False)

    async def settled(self, *well: str) -> None:
        """Two looks, after which these indicators are well; or more, for what a busy machine did to be past."""
        await self.look()
        await self.look()
        for _ in range(12):  # minutes: no window that shows how fast this machine is has more than ten
            if all(self.reading(name).verdict in {"ok", "none"} for name in well):
                return
            await self.look(60)
        for name in well:
            assert self.reading(name).verdict in {"ok", "none"}, self.reading(name)


def _about(text: str, metrics: set[str]) -> Iterator[str]:
    """The lines of a Prometheus text that are about some metrics."""
    for line in text.split("\n"):
        name = re.split(r"[ {]", line.removeprefix("# TYPE ").removeprefix("# HELP "), maxsplit=1)[0]
        if name in metrics or _family(name) in metrics:
            yield line


def _family(metric: str) -> str:
    """A histogram's name by that of one of its series."""
    return re.sub("_(bucket|count|sum)$", "", metric)


@asynccontextmanager
async def watching(config: Config) -> AsyncIterator[Watch]:
    """A served API process with its watch."""
    watch = Watch(config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(monitor, "EVERY", 3600.0)
        patched.setattr(Monitor, "soon", lambda _: None)  # it looks when the test does, and at no other time
        async with TestServer(watch.app) as server:
            watch.base = str(server.make_url("")).rstrip("/")
            yield watch
