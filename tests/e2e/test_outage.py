"""Redis forgets everything, stalls, stops and comes back, under a steady trickle of webhooks. Nobody must notice."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from datetime import timedelta

import aiohttp
import psutil
import pytest
import redis

from ottoai import embedded, samples
from ottoai.config import Config
from ottoai.embedded.folder import any_port
from ottoai.web.auth import issue
from tests.conftest import SECRET, SECRET_KEY, of_tenant
from tests.e2e.conftest import (
    ROOT,
    SIGNING_KEY,
    TOOLS,
    check_log_of_events,
    eventually,
    post_missed_call,
    process,
    texts,
    watching,
)

EVERY = 0.2  # seconds between webhooks
PROMISED = 2.0  # seconds in which an event arrives with Redis away
SLACK = 3.0  # for a busy machine; what nobody repairs is late by the whole outage, six seconds and more
REPAIRED = 30.0  # seconds in which what Redis lost is done


class Trickle:
    """Webhooks at a steady pace: which calls, when they were sent and how answered."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.call_ids: list[int] = []
        self.statuses: list[int | None] = []
        self.sent: list[float] = []

    async def run(self) -> None:
        first = samples.new_call_id()
        while True:
            self.call_ids.append(first + len(self.call_ids))
            self.sent.append(time.monotonic())
            self.statuses.append(await post_missed_call(self._base, self.call_ids[-1]))
            await asyncio.sleep(EVERY)


@asynccontextmanager
async def trickling(base: str) -> AsyncIterator[Trickle]:
    trickle = Trickle(base)
    task = asyncio.create_task(trickle.run())
    yield trickle
    # It ends between two webhooks: an interrupted one would be neither answered nor not.
    count = len(trickle.statuses)
    await eventually(lambda: len(trickle.statuses) > count)
    task.cancel()
    del trickle.call_ids[len(trickle.statuses) :], trickle.sent[len(trickle.statuses) :]


async def check(trickle, screens, database_url, head):
    """Every webhook was taken, every screen saw everything once, in order and in time, every caller got one text."""
    assert trickle.statuses == [200] * len(trickle.call_ids)
    await eventually(lambda: len(texts(database_url, trickle.call_ids)) == len(trickle.call_ids), REPAIRED)
    check_log_of_events(database_url, trickle.call_ids, head)
    ((last,),) = of_tenant(database_url, "select seq from heads")
    for screen in screens:
        await eventually(lambda screen=screen: screen.numbers[-1] == last)
        assert screen.numbers == list(range(head + 1, last + 1))
        late = [screen.first_saw(call_id) - sent for call_id, sent in zip(trickle.call_ids, trickle.sent, strict=True)]
        assert max(late) < PROMISED + SLACK


@pytest.mark.timeout(120)
async def test_redis_flushed_and_stalled_under_traffic(product, token):
    database_url, head = product.config.database_url, product.head()
    redis_process = psutil.Process(product.pid("redis"))
    async with (
        another_api(product.environ, product.data_dir) as elsewhere,
        watching(product.base, token, head) as near,
        watching(elsewhere, token, head) as far,
    ):
        async with trickling(product.base) as trickle:
            await asyncio.sleep(1)
            flush(product.config.redis_url)
            await asyncio.sleep(0.5)
            redis_process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(6)  # longer than the silence after which a link counts as lost
                assert redis_process.status() == psutil.STATUS_STOPPED
                assert (await answer(product.base, "/ready"))[0] == 503
                assert (await answer(product.base, "/health"))[0] == 200
            finally:
                redis_process.send_signal(signal.SIGCONT)
            await asyncio.sleep(2)
        await check(trickle, [near, far], database_url, head)
    messages = [line["message_id"] for line in product.log("worker", message="Text message recorded")]
    assert len(messages) == len(set(messages))
    product.until_ready()


@pytest.mark.timeout(150)
async def test_redis_flushed_stopped_and_started_under_traffic(database_url, tmp_path):
    with ExitStack() as stack:
        store = stack.enter_context(embedded.redis(tmp_path))
        settings = {
            "ENVIRONMENT": "test",
            "DATABASE_URL": database_url,
            "REDIS_URL": store.url,
            "JWT_SECRET": SECRET,
            "SECRET_KEYS": SECRET_KEY,
        }
        environ = TOOLS | settings | {"PYTHONUNBUFFERED": "1"}
        add_demo(environ)
        output = tmp_path / "output"
        for words in (["jobs", "worker"], ["jobs", "beat"]):
            stack.enter_context(process(words, environ, output))
        config = Config.load(environ)
        token = issue(config, "demo", "ann", "member", timedelta(minutes=10))
        async with (
            another_api(environ, tmp_path) as here,
            another_api(environ, tmp_path) as elsewhere,
            watching(here, token) as near,
            watching(elsewhere, token) as far,
        ):
            async with trickling(here) as trickle:
                await asyncio.sleep(1)
                flush(store.url)
                store.stop()
                await asyncio.sleep(10)
                assert (await answer(here, "/ready"))[0] == 503
                assert (await answer(here, "/health"))[0] == 200
                store.start()
                await asyncio.sleep(2)
            await check(trickle, [near, far], database_url, 0)
            async with asyncio.timeout(REPAIRED):  # worker and beat say every five seconds that they are there
                while (await answer(here, "/ready"))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(EVERY)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        recorded = [line["message_id"] for line in lines if line["message"] == "Text message recorded"]
        assert sorted(recorded) == sorted(texts(database_url, trickle.call_ids))


def add_demo(environ):
    words = ["tenant", "add", "demo", "--name", "Demo", "--hours", "always", "--callrail-company", samples.COMPANY]
    done = subprocess.run(
        [sys.executable, "-m", "ottoai", *words, "--callrail-key", SIGNING_KEY],
        cwd=ROOT, env=environ, check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def flush(url):
    with closing(redis.Redis.from_url(url)) as store:
        store.flushall()


async def answer(base, path):
    """(status, body); never waits for ever."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session,
        session.get(base + path) as response,
    ):
        return response.status, await response.read()


@asynccontextmanager
async def another_api(environ, folder):
    """One more API process on the same stores: what it shows has come through them."""
    port = any_port()
    base = f"http://127.0.0.1:{port}"

    async def ready():
        try:
            return (await answer(base, "/ready"))[0] == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    with process(["ottoai", "api"], environ | {"PORT": str(port)}, folder / f"api-{port}"):
        deadline = time.monotonic() + 20
        while not await ready():
            assert time.monotonic() < deadline, (folder / f"api-{port}").read_text()
            await asyncio.sleep(0.1)
        yield base
