"""What runs during a soak: a deployment as in production, with the settings of one, behind one address."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

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
from tests.canary import watch
from tests.chaos.cluster import ROOT, TOOLS, faults
from tests.chaos.links import HOST, Proxy
from tests.conftest import SECRET, SECRET_KEY, SIGNING_KEY
from tests.operators import USERS
from tests.twilio import TOKEN

PLACES = {"api-1": "ottoai api", "api-2": "ottoai api", "worker": "jobs worker", "beat": "jobs beat"}
READY_WITHIN = 60.0
STOPPED_WITHIN = 40.0


class Stand:
    """The processes and their stores. `bases`: where each api process answers; `address` leads to one of them."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names
        self.address = Proxy(self._choose)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self._turn = 0
        self._stack = ExitStack()

    async def start(self, **settings: str) -> None:
        enter = self._stack.enter_context
        self.database = await asyncio.to_thread(enter, embedded.postgres(self.folder))
        self.redis = await asyncio.to_thread(enter, embedded.redis(self.folder))
        await asyncio.to_thread(migrate, self.database.url)
        await self.address.open()
        self.environ = TOOLS | {
            "ENVIRONMENT": "production",
            "DATABASE_URL": self.database.url,
            "REDIS_URL": self.redis.url,
            "JWT_SECRET": SECRET,
            "SECRET_KEYS": SECRET_KEY,
            "OPS_USERS": USERS,
            "PUBLIC_URL": f"http://{HOST}:{self.address.port}",
            "SPOOL_DIR": str(self.folder / "spool"),
            "REQUEST_LOG_RATIO": "0.02",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        self.config = Config.load(self.environ)
        async with open_pool(self.config, Metrics("soak")) as db:
            for number, name in enumerate(self.names):
                vault = Vault((SECRET_KEY,))
                await tenants.add(db.system(), vault, name, name, "America/New_York", "always", given(number, name))
        for name, words in PLACES.items():
            self._begin(name, words)
        await self._ready()

    def _begin(self, name: str, words: str) -> None:
        self.ports[name] = any_port()
        output = self.folder / f"{name}.log"
        watch.file(output)
        with output.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *words.split()], cwd=ROOT, env=self.environ | {"PORT": str(self.ports[name])},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    async def _ready(self) -> None:
        """Until each api process sees all the others."""
        deadline = time.monotonic() + READY_WITHIN
        async with aiohttp.ClientSession() as session:
            for base in self.bases:
                while True:
                    try:
                        async with session.get(f"{base}/ready") as response:
                            if response.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    assert time.monotonic() < deadline, f"{base} is not ready"
                    await asyncio.sleep(0.1)

    @property
    def bases(self) -> list[str]:
        return [f"http://{HOST}:{port}" for name, port in self.ports.items() if name.startswith("api")]

    def _choose(self) -> list[int]:
        self._turn += 1
        ports = [port for name, port in self.ports.items() if name.startswith("api")]
        return [ports[(self._turn + n) % len(ports)] for n in range(len(ports))]

    @property
    def watched(self) -> dict[str, psutil.Process]:
        """The processes whose memory, files and threads are looked at."""
        return {name: psutil.Process(one.pid) for name, one in self.processes.items()}

    def ended(self) -> list[str]:
        """Processes that should be running and are not."""
        return [f"{name} ended with {one.poll()}" for name, one in self.processes.items() if one.poll() is not None]

    def errors(self) -> list[str]:
        """What no process should have to log while nothing is wrong; alerts are looked at by themselves."""
        found = []
        for name in self.processes:
            with (self.folder / f"{name}.log").open(errors="replace") as lines:
                found += [f"{name}: {line.strip()[:2000]}" for line in faults(lines)]
        return found

    async def stop(self) -> list[str]:
        """End everything; what did not end as it should."""
        wrong = []
        for one in self.processes.values():
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for name, one in self.processes.items():
            try:
                code = await asyncio.to_thread(one.wait, STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                one.kill()
                code = await asyncio.to_thread(one.wait)
            if code:
                wrong.append(f"{name} ended with {code}")
        await self.address.close()
        await asyncio.to_thread(self._stack.close)
        return wrong


def given(number: int, name: str) -> dict[str, str]:
    """What a tenant has at its providers."""
    return {
        "callrail_company": str(1000 + number),
        "callrail_key": SIGNING_KEY.format(name),
        "twilio_sid": f"AC{number:032x}",
        "twilio_token": TOKEN.format(name),
        "twilio_number": f"+1404555{number + 100:04}",
    }
