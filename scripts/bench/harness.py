"""What benchmarks stand on: stores of their own in a temporary folder, and API processes."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import psutil

from ottoai import embedded
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import events, tenants
from ottoai.embedded.folder import any_port
from ottoai.metrics import Metrics
from ottoai.migrate import migrate
from ottoai.vault import Vault
from ottoai.web.auth import issue
from scripts.bench.cores import api_cores, child, every_core, load_cores, on_cores

KEY = "bench-signing-key"
SECRET_KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
READY_WITHIN = 20.0
# The load of a benchmark comes from a few users only. The limits are still counted, and cost what they cost.
UNLIMITED = {f"RATE_LIMIT_{whose}": "1000000/minute" for whose in ("USER", "TENANT", "LIVE_USER", "LIVE_TENANT")}


class Api(msgspec.Struct, frozen=True):
    """An API process: where it answers, and what it costs."""

    base: str
    process: psutil.Process


class Stage(msgspec.Struct, frozen=True):
    """A running product. Its tenants are bench-0 … of companies 1000 …"""

    config: Config
    apis: tuple[Api, ...]
    environ: dict[str, str]  # for further processes

    @property
    def base(self) -> str:
        """Where the first API process answers."""
        return self.apis[0].base

    @property
    def api(self) -> psutil.Process:
        """The first API process."""
        return self.apis[0].process

    def tickets(self, tenant: int, users: int) -> list[tuple[str, str]]:
        """(token, channel) for so many users of a tenant."""
        ttl, org = timedelta(hours=1), f"bench-{tenant}"
        channel = events.tenant_channel(org)
        return [(issue(self.config, org, f"user-{n}", "member", ttl), channel) for n in range(users)]


@asynccontextmanager
async def stage(
    count: int = 1, *, apis: int = 1, pinned: bool = False, env: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """PostgreSQL, Redis and API processes, with `count` tenants. `pinned`: the API has one core to itself, everything
    else shares the others. `env` overrides settings of the API.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(on_cores(load_cores() if pinned else every_core()))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ottoai-bench-"))
        servers = stack.enter_context(embedded.servers(Path(folder)))
        settings = {
            "ENVIRONMENT": "staging",
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "SECRET_KEYS": SECRET_KEY,
            "JWT_SECRET": "only-for-this-benchmark-" + "x" * 32,
            "DEV_KEYS": "bench:bench",
            "LOG_LEVEL": "ERROR",
            "ALERT_BOUNDS": "worker.critical=off,beat.critical=off",  # that they are missing is known
            **UNLIMITED,
            **(env or {}),
        }
        config = Config.load(settings)
        migrate(config.database_url)
        await add_tenants(config, range(count))
        environ = {**os.environ, **settings}
        started = []
        for _ in range(apis):
            cores = api_cores() if pinned else every_core()
            started.append(await stack.enter_async_context(api_process(environ, cores)))
        yield Stage(config, tuple(started), environ)


@asynccontextmanager
async def api_process(environ: Mapping[str, str], cores: set[int]) -> AsyncIterator[Api]:
    """A further API process, ready."""
    port = any_port()
    with child([sys.executable, "-m", "ottoai", "api"], cores=cores, env={**environ, "PORT": str(port)}) as process:
        base = f"http://127.0.0.1:{port}"
        await ready(base)
        yield Api(base, psutil.Process(process.pid))


async def add_tenants(config: Config, numbers: Iterable[int]) -> None:
    """Tenants bench-n of companies 1000 + n, for these n."""
    async with open_pool(config, Metrics("bench")) as db:
        for n in numbers:
            given = {"callrail_company": str(1000 + n), "callrail_key": KEY}
            await tenants.add(
                db.system(), Vault(config.secret_keys), f"bench-{n}", f"Bench {n}", "America/New_York", "always", given
            )


async def heads(config: Config, count: int) -> dict[str, int]:
    """The last number of each tenant's log, by channel."""
    names = [f"bench-{n}" for n in range(count)]
    async with open_pool(config, Metrics("bench")) as db:
        found = await events.heads(db.system(), names)
    return {events.tenant_channel(name): seq for name, (_, seq) in found.items()}


async def ready(base: str) -> None:
    """Wait until it is."""
    await reached(f"{base}/ready", READY_WITHIN)


async def reached(url: str, seconds: float = READY_WITHIN) -> None:
    """Wait until this answers that all is well."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} did not answer 200 within {seconds:.0f} s.")
