"""A copy of the project in which a page of docs/howto was followed, and what runs in it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ottoai.embedded.folder import any_port
from tests.background import eventually
from tests.conftest import GENEROUS, SECRET, SECRET_KEY, of_tenant
from tests.e2e.conftest import process
from tests.howto.pages import PAGES, apply, commands, copied, edits

CHECKS = (("-m", "ruff", "check", "."), ("-m", "ruff", "format", "--check", "."), ("-m", "mypy"))


class Copy:
    """The copy. Its processes work on the test's own PostgreSQL and Redis."""

    def __init__(self, folder: Path, page: str, database_url: str, redis_url: str) -> None:
        self.root = folder / "copy"
        self.page = (PAGES / f"{page}.md").read_text()
        copied(self.root)
        self.edits = list(edits(self.page))
        for edit in self.edits:
            apply(edit, self.root)
        port = any_port()
        self.base = f"http://127.0.0.1:{port}"
        self._output = folder / "output"
        self._environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "ENVIRONMENT": "development", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "PORT": str(port),
            "JWT_SECRET": SECRET, "SECRET_KEYS": SECRET_KEY, "OPS_USERS": "olga:open-sesame:operator", **GENEROUS,
        }  # fmt: skip
        self.processes: list[subprocess.Popen[bytes]] = []
        self._running = ExitStack()

    async def start(self, *services: str) -> None:
        """Start processes, the api among them, and wait until it answers."""
        for name in services:
            words = ("ottoai" if name == "api" else "jobs", name)
            self.processes.append(self._running.enter_context(process(words, self._environ, self._output, self.root)))
        await eventually(self._answers, 60)

    def stop(self) -> None:
        """End them."""
        self._running.close()

    async def _answers(self) -> bool:
        assert all(each.poll() is None for each in self.processes), self._output.read_text()[-3000:]
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.base}/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def python(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """`python …` in the copy."""
        return subprocess.run(
            [sys.executable, *words], cwd=self.root, env=self._environ, input=typed, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip

    def finish(self) -> None:
        """What the page ends with, and what `make lint` would say. Nothing of it may fail."""
        changed = [edit.path for edit in self.edits if edit.path.endswith(".sql")]
        linted = [("-m", "sqlfluff", "lint", "--disable-progress-bar", *dict.fromkeys(changed))] if changed else []
        for words in (*(words[1:] for words in commands(self.page)), *CHECKS, *linted):
            done = self.python(*words)
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}"

    async def json(self, path: str, **headers: str) -> Any:
        """What the api answers."""
        async with aiohttp.ClientSession(headers=headers) as session, session.get(self.base + path) as response:
            assert response.status == 200
            return await response.json()


@pytest.fixture
def follow(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Callable[[str], Copy]]:
    """Follow a page."""
    with ExitStack() as stack:

        def made(page: str) -> Copy:
            copy = Copy(tmp_path, page, database_url, redis_url)
            stack.callback(copy.stop)
            return copy

        yield made


@pytest.fixture
def task(demo: str, database_url: str) -> str:
    """A task of staff's."""
    sql = "insert into tasks (tenant_id, kind, title) values (%s, 'call_back', 'Call back') returning id::text"
    return f"/api/tasks/{of_tenant(database_url, sql, demo)[0][0]}"
