"""The product behind one address: stores, three api processes on them, and between all of these links that can fail."""

import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from ottoai import embedded
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import tenants
from ottoai.embedded.folder import any_port
from ottoai.metrics import Metrics
from ottoai.migrate import migrate
from ottoai.vault import Vault
from ottoai.web.auth import issue
from tests.canary import watch
from tests.chaos.links import HOST, Proxy
from tests.conftest import GENEROUS, SECRET, SECRET_KEY, SIGNING_KEY, of_tenant

ROOT = Path(__file__).parents[2]
APIS = 3
READY_WITHIN = 60.0
STOPPED_WITHIN = 40.0
NOTICED_WITHIN = 0.3  # seconds until the address sends nobody to a process any more that is about to stop
TOOLS = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
DEV_KEY = "chaos"
REPAIRED = re.compile(r"^\w*events_repaired_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Api:
    """One api process, from its start to its end."""

    def __init__(self, name: str, port: int, environ: dict[str, str], folder: Path) -> None:
        self.name = name
        self.port = port
        self.output = folder / f"{name}.log"
        watch.file(self.output)
        self.repaired = 0.0  # events that it had to read from the log, when it was last asked
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ottoai", "api"], cwd=ROOT, env=environ | {"PORT": str(port)},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.port}"

    def lines(self) -> list[str]:
        return self.output.read_text(errors="replace").splitlines()


class Slot:
    """A place for an api process, with its own links to the stores; a drained one and its successor share it."""

    def __init__(self, number: int, redis_port: int, database_port: int) -> None:
        self.number = number
        self.redis = Proxy(lambda: [redis_port])
        self.database = Proxy(lambda: [database_port])
        self.api: Api | None = None
        self.starts = 0
        self.busy = False  # a fault is at work here


class Cluster:
    """Everything that runs."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.slots: list[Slot] = []
        self.all: list[Api] = []
        self.address = Proxy(self._choose)
        self._open: list[Api] = []  # to whom clients are sent
        self._turn = 0
        self._stack = ExitStack()

    def _choose(self) -> Iterator[int]:
        """One after the other gets a client; who does not answer is passed over."""
        self._turn += 1
        count = len(self._open)
        return iter([self._open[(self._turn + n) % count].port for n in range(count)])

    async def start(self, names: list[str]) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        enter = self._stack.enter_context
        self.database = await asyncio.to_thread(enter, embedded.postgres(self.folder, durable=False))
        self.redis = await asyncio.to_thread(enter, embedded.redis(self.folder))
        self.config = Config.load(self._environ(self.database.url, self.redis.url))
        await asyncio.to_thread(migrate, self.database.url)
        async with open_pool(self.config, Metrics("chaos")) as db:
            for number, name in enumerate(names):
                given = {"callrail_company": str(1000 + number), "callrail_key": SIGNING_KEY.format(name)}
                await tenants.add(
                    db.system(), Vault((SECRET_KEY,)), name, name.title(), "America/New_York", "always", given
                )
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(3), connector=aiohttp.TCPConnector(force_close=True)
        )
        await self.address.open()
        for number in range(APIS):
            slot = Slot(number, self.redis.port, self.database.port)
            self.slots.append(slot)
            await slot.redis.open()
            await slot.database.open()
        await asyncio.gather(*(self.run(slot) for slot in self.slots))

    def _environ(self, database_url: str, redis_url: str) -> dict[str, str]:
        return TOOLS | {
            "ENVIRONMENT": "test",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "JWT_SECRET": SECRET,
            "SECRET_KEYS": SECRET_KEY,
            "DEV_KEYS": f"chaos:{DEV_KEY}",
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            **GENEROUS,
        }

    def token(self, tenant: str, user: str) -> str:
        return issue(self.config, tenant, user, "member", timedelta(hours=3))

    def add_leads(self, tenant: str, count: int) -> list[str]:
        sql = """
            insert into leads (tenant_id, phone, last_contact_at)
            select %s, '+1212555' || to_char(n, 'FM0000'), now() from generate_series(0, %s - 1) as n returning id::text
        """
        return [str(row[0]) for row in of_tenant(self.database.url, sql, tenant, count, tenant=tenant)]

    # Processes

    async def run(self, slot: Slot) -> Api:
        """Start a process in a slot; the address sends clients there once it is healthy."""
        slot.starts += 1
        environ = self._environ(_through(slot.database, self.database.url), _through(slot.redis, self.redis.url))
        api = slot.api = Api(f"api-{slot.number}-{slot.starts}", any_port(), environ, self.folder)
        self.all.append(api)
        deadline = time.monotonic() + READY_WITHIN
        while not await self._healthy(api):
            if api.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{api.name} did not start:\n{self.tail(api)}")
            await asyncio.sleep(0.1)
        self._open.append(api)
        return api

    async def _healthy(self, api: Api) -> bool:
        try:
            async with self._http.get(f"{api.base}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def kill(self, api: Api) -> None:
        api.process.kill()
        await asyncio.to_thread(api.process.wait, STOPPED_WITHIN)
        self._leave(api)

    async def drain(self, api: Api) -> None:
        """SIGTERM, and wait for its end."""
        began = time.monotonic()
        api.process.terminate()
        await asyncio.sleep(NOTICED_WITHIN)
        self._leave(api)
        try:
            code = await asyncio.to_thread(api.process.wait, STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{api.name} did not stop in {STOPPED_WITHIN} s:\n{self.tail(api)}") from None
        if code != 0:
            raise AssertionError(
                f"{api.name} ended with {code} after {time.monotonic() - began:.1f} s:\n{self.tail(api)}"
            )

    def _leave(self, api: Api) -> None:
        if api in self._open:
            self._open.remove(api)

    async def count_repaired(self) -> float:
        """Events that had to be read from the log: of all processes, as far as they could be asked."""
        for api in self.all:
            if api.process.poll() is None:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with self._http.get(f"{api.base}/metrics?scope=local") as response:
                        api.repaired = sum(map(float, REPAIRED.findall(await response.text())), 0.0)
        return sum(api.repaired for api in self.all)

    # Stores

    def database_processes(self) -> list[psutil.Process]:
        """The postmaster, then its children."""
        found = psutil.Process(self.database.pid)
        return [found, *found.children(recursive=True)]

    async def crash_redis(self) -> None:
        os.kill(self.redis.pid, signal.SIGKILL)
        await asyncio.to_thread(self.redis.stop)

    # The end

    def tail(self, api: Api, count: int = 15) -> str:
        return "\n".join(line[:3000] for line in api.lines()[-count:])

    def tails(self) -> str:
        """The last words of the processes that ran last."""
        return "\n".join(f"--- {api.name} ({api.process.poll()})\n{self.tail(api)}" for api in self.all[-2 * APIS :])

    def errors(self) -> list[str]:
        """What no process should ever have to log."""
        return [f"{api.name}: {line[:3000]}" for api in self.all for line in faults(api.lines())]

    async def stop(self) -> None:
        """End all that was started here."""
        for api in self.all:
            if api.process.poll() is None:
                api.process.send_signal(signal.SIGCONT)
                api.process.kill()
            await asyncio.to_thread(api.process.wait, STOPPED_WITHIN)
        for proxy in (self.address, *(proxy for slot in self.slots for proxy in (slot.redis, slot.database))):
            await proxy.close()
        if hasattr(self, "_http"):
            await self._http.close()
        await asyncio.to_thread(self._stack.close)


def faults(lines: Iterable[str]) -> Iterator[str]:
    """Log lines of errors, and what is no log line. That an alert fires is no error: it tells of one."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"level": "CRITICAL"}
        if entry.get("level") in {"ERROR", "CRITICAL"} and entry.get("message") != "Alert firing":
            yield line


def _through(proxy: Proxy, url: str) -> str:
    """The URL of a store, by way of a proxy."""
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}@{HOST}:{proxy.port}").geturl()
