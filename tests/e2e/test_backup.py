"""docs/OPERATIONS.md, Backup and restore: its commands, on PostgreSQL servers of the test's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ottoai import embedded
from ottoai.migrate import migrate
from tests.conftest import SECRET, SECRET_KEY, execute, of_tenant
from tests.e2e.commands_of_docs import DOC, blocks, lines
from tests.e2e.conftest import ROOT, TOOLS
from tests.e2e.test_outage import add_demo

pytestmark = pytest.mark.timeout(180)
BACKUP = [lines(block) for block in blocks(DOC.read_text()) if "ottoai.dump" in block]


@contextmanager
def server(folder: Path) -> Iterator[tuple[embedded.PostgresServer, str]]:
    """A PostgreSQL with an administrator who may log in; (server, the administrator's URL)."""
    folder.mkdir()
    with embedded.postgres(folder, durable=False) as running:
        rules = folder / "postgres" / "pg_hba.conf"
        rules.write_text(f"host all postgres 127.0.0.1/32 trust\n{rules.read_text()}")
        os.kill(running.pid, signal.SIGHUP)
        parts = urlsplit(running.url)
        yield running, f"postgresql://postgres@127.0.0.1:{parts.port}{parts.path}"


def terminal(url: str, admin: str, redis_url: str, bin_dir: Path) -> dict[str, str]:
    """The environment of whoever restores."""
    path = os.pathsep.join([str(bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **TOOLS, "PATH": path, "DATABASE_URL": url, "ADMIN_URL": admin, "REDIS_URL": redis_url, "ENVIRONMENT": "test",
        "JWT_SECRET": SECRET, "SECRET_KEYS": SECRET_KEY, "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def run(commands: list[str], env: dict[str, str], folder: Path) -> str:
    script = "\n".join(["set -eo pipefail", *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, text=True, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def seen(url: str) -> list[tuple[object, ...]]:
    """What must come through: calls, the log, who may see what."""
    calls = of_tenant(url, "select external_id, status from calls order by 1")
    events = execute(url, "select tenant_id, seq, event from events order by 1, 2")
    policies = execute(url, "select tablename, policyname, roles::text, qual from pg_policies order by 1, 2")
    forced = execute(url, "select relname from pg_class where relforcerowsecurity order by 1")
    granted = execute(
        url, "select table_name, grantee, privilege_type from information_schema.role_table_grants "
        "where grantee like 'ottoai%%' order by 1, 2, 3",
    )  # fmt: skip
    return [tuple(calls), tuple(events), tuple(policies), tuple(forced), tuple(granted)]


def test_a_backup_is_restored(tmp_path, redis_url):
    backup, restore = BACKUP
    with server(tmp_path / "before") as (running, admin):
        migrate(running.url)
        env = terminal(running.url, admin, redis_url, running.bin_dir)
        add_demo(env)
        execute(
            running.url,
            "insert into events (tenant_id, seq, event, severity, trace_id, data) "
            "values ('demo', 1, 'test.kept', 'info', 't', '{}')",
        )
        execute(running.url, "update heads set seq = 1 where tenant_id = 'demo'")
        assert int(run(backup, env, tmp_path).splitlines()[-1]) > 10
        before, epoch = seen(running.url), execute(running.url, "select epoch from heads")
    with server(tmp_path / "after") as (running, admin):
        shown = run(restore, terminal(running.url, admin, redis_url, running.bin_dir), tmp_path)
        assert "UPDATE 1" in shown
        assert seen(running.url) == before
        assert execute(running.url, "select epoch from heads") > epoch


def test_the_services_own_login_gets_no_half_backup(tmp_path, redis_url):
    """Row-level security binds it: pg_dump says so, as the document does, and does not write what it may see."""
    with server(tmp_path / "only") as (running, _):
        migrate(running.url)
        env = terminal(running.url, running.url, redis_url, running.bin_dir)
        done = subprocess.run(
            ["bash", "-c", BACKUP[0][0]], cwd=tmp_path, env=env, text=True, capture_output=True, check=False, timeout=60
        )
    assert done.returncode != 0
    assert "row-level security" in done.stderr
