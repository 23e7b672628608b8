"""What benchmarks stand on: stores of their own in a temporary folder, an API process, and a fair way to report."""

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from ottoai import embedded
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import tenants
from ottoai.embedded.folder import port_is_free
from ottoai.metrics import Metrics
from ottoai.migrate import migrate

KEY = "bench-signing-key"
READY_WITHIN = 20.0


class Result(msgspec.Struct, frozen=True):
    """One line of the report. `met` is the verdict on this machine, now."""

    what: str
    goal: str
    measured: str
    met: bool
    details: dict[str, Any] = {}


class Stage(msgspec.Struct, frozen=True):
    """A running product: where it answers, and the processes whose cost is of interest."""

    config: Config
    base: str
    api: psutil.Process


@asynccontextmanager
async def stage(count: int = 1) -> AsyncIterator[Stage]:
    """PostgreSQL, Redis and one API process, with tenants bench-0 … of companies 1000 …"""
    with tempfile.TemporaryDirectory(prefix="ottoai-bench-") as folder, embedded.servers(Path(folder)) as servers:
        environ = {
            "ENVIRONMENT": "staging",
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "JWT_SECRET": "only-for-this-benchmark-" + "x" * 32,
            "DEV_KEYS": "bench:bench",
            "PORT": str(_free_port()),
            "LOG_LEVEL": "WARNING",
        }
        config = Config.load(environ)
        migrate(config.database_url)
        await _add_tenants(config, count)
        with _process(environ, "ottoai", "api") as api:
            base = f"http://127.0.0.1:{config.port}"
            await _ready(base)
            yield Stage(config, base, psutil.Process(api.pid))


async def _add_tenants(config: Config, count: int) -> None:
    async with open_pool(config, Metrics("bench")) as db:
        for n in range(count):
            given = {"callrail_company": str(1000 + n), "callrail_key": KEY}
            await tenants.add(db.system(), f"bench-{n}", f"Bench {n}", "America/New_York", "always", given)


@contextmanager
def _process(environ: dict[str, str], module: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", module, *words], env={**os.environ, **environ})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=40)


async def _ready(base: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{base}/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"The API was not ready within {READY_WITHIN:.0f} s.")


def _free_port() -> int:
    return next(port for port in range(19_000, 19_999) if port_is_free(port))


async def figures(base: str) -> dict[str, float]:
    """All series of the API process, by name and labels without `proc`."""
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        lines = (await response.text()).splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare = name.split("{")[0]
            found[bare] = found.get(bare, 0.0) + float(value)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values) if values else float("nan")


def machine() -> str:
    """What this ran on."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {system}"
