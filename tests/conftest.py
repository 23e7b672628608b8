"""What the tests stand on: a real PostgreSQL and a real Redis, started once, and a fresh database for each test."""

import asyncio
import io
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import settings

from ottoai import embedded, samples
from ottoai.__main__ import main
from ottoai.app import build_app
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import tenants
from ottoai.domain.roles import Role
from ottoai.metrics import Metrics
from ottoai.migrate import migrate
from ottoai.vault import Vault
from ottoai.web.auth import issue
from tests import canary
from tests.canary import pytest_configure, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown

# Hooks: see canary.
__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary", "pytest_testnodedown"]

# The product serves without an access log, which would have whole addresses (ottoai/server.py); so do its tests.
logging.getLogger("aiohttp.access").disabled = True

# A busy machine is no failure: no example is judged by its time.
# In CI the same examples each time, elsewhere new ones.
settings.register_profile("untimed", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")

SECRET = "a-secret-of-the-tests-that-is-long-enough"
SECRET_KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
# Tests ask more often than people do; those of the limits set their own.
GENEROUS = {
    f"RATE_LIMIT_{whose}": "1000000/minute" for whose in ("USER", "TENANT", "LIVE_USER", "LIVE_TENANT", "FAILURES")
}
SIGNING_KEY = "signing-key-of-{}"

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 2 * 1024**3  # some hundred MiB for each test process's server


def pytest_sessionstart() -> None:
    """Refuse a .venv that is older than the locks: a test's `make` would rebuild it under all the others."""
    ours = Path(sys.prefix).resolve() == ROOT / ".venv"
    if ours and subprocess.run(["make", "--question", ".venv/installed-dev"], cwd=ROOT, check=False).returncode:
        pytest.exit(".venv is older than the locks: a test's make would rebuild it. Run make test.", 1)


def on_database(url: str, name: str) -> str:
    """The same server's URL, for another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def execute(url: str, sql: str, *values: object) -> list[tuple[object, ...]]:
    """Run a statement as the operator's login: it sees what ottoai_system sees."""
    return _run(url, None, sql, values)


def of_tenant(url: str, sql: str, *values: object, tenant: str = "demo") -> list[tuple[object, ...]]:
    """Run a statement as the application does for one tenant: it sees that tenant's rows and no others."""
    return _run(url, f"-c role=ottoai_app -c app.tenant_id={tenant}", sql, values)


def _run(url: str, options: str | None, sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url, options=options)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is enough of it: a fresh database there is made five times as fast."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED:
        with tempfile.TemporaryDirectory(prefix="ottoai-tests-", dir=MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="session")
def postgres_server(quick_folder: Path) -> Iterator[embedded.PostgresServer]:
    with embedded.postgres(quick_folder, durable=False) as server:
        yield server
    canary.watch.read(quick_folder / "postgres.log")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.RedisServer]:
    with embedded.redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def template_url(postgres_server: embedded.PostgresServer) -> str:
    """A migrated database that tests get clones of."""
    execute(postgres_server.url, "create database template_for_tests")
    url = on_database(postgres_server.url, "template_for_tests")
    migrate(url)
    return url


_numbers = itertools.count(1)


@pytest.fixture
def database_url(postgres_server: embedded.PostgresServer, template_url: str) -> Iterator[str]:
    """A fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    execute(postgres_server.url, f"create database {name} template template_for_tests strategy file_copy")
    yield on_database(postgres_server.url, name)
    execute(postgres_server.url, f"drop database {name} with (force)")


@pytest.fixture
def redis_url(redis_server: embedded.RedisServer) -> Iterator[str]:
    """An empty Redis; what the test leaves in it is searched for secrets."""
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
    yield redis_server.url
    canary.of_redis(redis_server.url)


@pytest.fixture
def config(database_url: str, redis_url: str) -> Config:
    return make_config(database_url, redis_url)


def make_config(database_url: str, redis_url: str, **settings: str) -> Config:
    """A configuration; `settings` are environment variables."""
    required = {
        "ENVIRONMENT": "development",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "JWT_SECRET": SECRET,
        "SECRET_KEYS": SECRET_KEY,
        "OPS_USERS": "operator:secret:operator",
        "PROBE_SECONDS": "0",  # a tenant and events that a test would have to know of
        "DB_POOL_SIZE": "3",  # each connection costs a start of its own, and most tests need but one
        "WORKER_MEMORY_MB": "0",  # workers of a test's own process would count all of its memory
        **GENEROUS,
    }
    return Config.load({**required, **settings})


@pytest.fixture
async def db(config: Config) -> AsyncIterator[Database]:
    async with open_pool(config, Metrics("test")) as database:
        yield database


@pytest.fixture
async def demo(db: Database) -> str:
    """The tenant demo, open at all hours; its company is the one of the samples."""
    return await add_tenant(db, "demo", company=samples.COMPANY, number=samples.TRACKING_NUMBER)


async def add_tenant(db: Database, name: str, *, company: str, number: str, hours: str = "always") -> str:
    """A tenant with a CallRail company and a signing key of its own (SIGNING_KEY)."""
    given = {"callrail_company": company, "callrail_key": SIGNING_KEY.format(name), "tracking_number": number}
    await tenants.add(db.system(), Vault((SECRET_KEY,)), name, name.title(), "America/New_York", hours, given)
    return name


@pytest.fixture
async def app(config: Config, demo: str) -> web.Application:
    return build_app(config)


@pytest.fixture
async def api(app: web.Application, aiohttp_server: Callable[..., "TestServer"]) -> TestServer:
    """The API process's application, served for real on a free port; no worker and no beat."""
    server: TestServer = await aiohttp_server(app)
    return server


@pytest.fixture
def base(api: TestServer) -> str:
    """The API's address."""
    return str(api.make_url("")).rstrip("/")


@pytest.fixture
def make_token(config: Config) -> Callable[..., str]:
    def make(org: str = "demo", user: str = "ann", seconds: float = 600, role: Role = Role.MEMBER) -> str:
        return issue(config, org, user, role, timedelta(seconds=seconds))

    return make


@pytest.fixture
def command(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Awaitable[tuple[int, str]]]:
    """Run a command of `python -m ottoai`; (exit code, all its output)."""

    async def run(*words: str, typed: str = "", keys: str = SECRET_KEY) -> tuple[int, str]:
        names = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url, "JWT_SECRET": config.jwt_secret,
                 "SECRET_KEYS": keys, "ENVIRONMENT": "staging"}  # fmt: skip
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = await asyncio.to_thread(main, list(words))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return ROOT
