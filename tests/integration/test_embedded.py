"""The embedded PostgreSQL and Redis: real ones, started, killed and left behind on purpose."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ottoai import embedded
from ottoai.embedded import privileges

ROOT = Path(__file__).resolve().parents[2]
# A program that starts both servers, says where, and waits to be killed.
HOLDER = """
import sys, time
from pathlib import Path
from ottoai import embedded
with embedded.postgres(Path(sys.argv[1])) as database, embedded.redis(Path(sys.argv[1])) as store:
    print(database.pid, store.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder deeper than a socket's path may be long, with a blank and a quote on the way."""
    return tmp_path_factory.mktemp("embedded").joinpath("it's a deep one", *["deeper" * 4] * 4, "data")


@pytest.fixture(scope="module")
def database(data_dir: Path) -> Iterator[embedded.PostgresServer]:
    with embedded.postgres(data_dir, durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def store(data_dir: Path) -> Iterator[embedded.RedisServer]:
    with embedded.redis(data_dir) as server:
        yield server


def psql(server: embedded.PostgresServer, sql: str) -> str:
    argv = [str(server.bin_dir / "psql"), server.url, "-XqAtc", sql]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_login_owns_its_database_and_is_no_superuser(database: embedded.PostgresServer) -> None:
    sql = (
        "select rolsuper, rolcreaterole, pg_get_userbyid(datdba), current_setting('timezone')"
        " from pg_roles, pg_database where rolname = current_user and datname = 'ottoai'"
    )
    assert psql(database, sql) == "f|t|ottoai|UTC"


def test_a_wrong_password_is_refused(database: embedded.PostgresServer) -> None:
    for url in (database.url.replace("ottoai:", "ottoai:x"), f"postgresql://postgres@127.0.0.1:{database.port}/ottoai"):
        argv = [str(database.bin_dir / "psql"), "-w", url, "-c", "select 1"]
        assert subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode != 0


def test_rows_survive_a_restart_on_the_same_port(database: embedded.PostgresServer) -> None:
    psql(database, "create table kept (n int); insert into kept values (1)")
    url = database.url
    database.stop()
    database.start()
    assert database.url == url
    assert psql(database, "select n from kept") == "1"


def test_keys_survive_a_restart_on_the_same_port(store: embedded.RedisServer) -> None:
    with redis.Redis.from_url(store.url) as client:
        client.set("kept", "1")
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
        store.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        store.start()
        assert client.get("kept") == b"1"


def test_redis_wants_its_password(store: embedded.RedisServer) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=store.port, retry=once) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.fixture(params=["the real one where there is one", "the stand-in"])
def redis_cli(request: pytest.FixtureRequest, store: embedded.RedisServer, tmp_path: Path) -> str:
    if "stand-in" not in request.param:
        return str(store.bin_dir / "redis-cli")
    import_module("ottoai.embedded.redis")._write_stand_in(tmp_path)  # the package offers a function of that name
    return str(tmp_path / "bin" / "redis-cli")


def test_redis_cli_works_as_the_guide_says(redis_cli: str, store: embedded.RedisServer) -> None:
    done = subprocess.run([redis_cli, "-u", store.url, "ping"], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "PONG\n")
    done = subprocess.run([redis_cli, "-u", store.url, "info"], capture_output=True, text=True, timeout=20, check=False)
    assert "maxmemory_policy:volatile-lru" in done.stdout


def test_redis_cli_monitors(redis_cli: str, store: embedded.RedisServer) -> None:
    argv = [redis_cli, "-u", store.url, "monitor"]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watching,
        redis.Redis.from_url(store.url) as client,
    ):
        assert watching.stdout is not None
        assert watching.stdout.readline() == "OK\n"
        client.publish("tenant:demo", "hello")
        assert any("tenant:demo" in line for line in watching.stdout)
        watching.kill()


@pytest.mark.usefixtures("database", "store")
def test_a_folder_has_one_user(data_dir: Path) -> None:
    for second in (embedded.postgres(data_dir), embedded.redis(data_dir)):
        with pytest.raises(embedded.FolderInUse, match=f"pid {os.getpid()}"), second:
            pass


@pytest.mark.usefixtures("database", "store")
def test_secrets_are_the_owners_alone(data_dir: Path) -> None:
    for path in [*(data_dir / "secrets").iterdir(), data_dir / "redis.conf"]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert (data_dir / "secrets").stat().st_mode & 0o077 == 0


def test_nothing_outlives_a_killed_parent_and_the_next_start_recovers(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environ
    ) as holder:
        assert holder.stdout is not None
        pids = [int(word) for word in holder.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        holder.kill()
    with embedded.servers(tmp_path, durable=False) as servers:  # at once: it waits for what is still leaving
        assert "127.0.0.1" in servers.database_url
        assert not any(is_alive(pid) for pid in pids)


def test_a_stale_pid_file_naming_another_program_is_no_obstacle(tmp_path: Path) -> None:
    with embedded.postgres(tmp_path, durable=False) as server:
        pid_file = next(tmp_path.rglob("postmaster.pid"))
        text = pid_file.read_text()
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        _, _, rest = text.partition("\n")
        pid_file.write_text(f"{os.getpid()}\n{rest}")
        deadline = time.monotonic() + 20
        while True:  # its own children take a moment to notice that the postmaster is gone
            try:
                server.start()
                break
            except embedded.EmbeddedServerError:
                assert time.monotonic() < deadline
        assert psql(server, "select 1") == "1"


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with embedded.redis(tmp_path) as server:
        server.stop()
        (tmp_path / "redis" / "appendonly.aof").write_text("this is no log of commands\n")
        shutil.rmtree(tmp_path / "redis" / "appendonlydir", ignore_errors=True)
        with pytest.raises(embedded.EmbeddedServerError, match=r"redis\.log"):
            server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become someone else")
@pytest.mark.parametrize("closed", [False, True], ids=["reachable", "closed to others"])
def test_root_without_user_namespaces(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that refuses `unshare`: PostgreSQL runs as nobody, elsewhere if it must, and says so."""
    base = Path("/tmp") / f"ottoai-test-{os.getpid()}-{closed}"  # pytest's own folders are closed to others
    resort = base.with_name(base.name + "-resort")
    base.mkdir(mode=0o700 if closed else 0o755)
    resort.mkdir(mode=0o755)
    monkeypatch.setattr(privileges, "RENAMED", ("false",))
    monkeypatch.setattr(privileges, "LAST_RESORT", resort)
    try:
        with embedded.postgres(base / "data", durable=False) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == privileges.NOBODY
            if closed:  # otherwise it depends on whether nobody reaches the wheel's programs
                assert str(resort) in server.notes[0]
            assert psql(server, "select 1") == "1"
    finally:
        shutil.rmtree(base)
        shutil.rmtree(resort)


def test_discover_completes_the_environment(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(
        "# comment\nexport DATABASE_URL='postgresql://file'\nexport REDIS_URL='redis://file'\nexport PORT=9\n"
        "export PATH='/x y':\"$PATH\"\n"
    )
    given = {"DATA_DIR": str(tmp_path), "REDIS_URL": "redis://mine", "PATH": "/bin", "PORT": ""}
    assert embedded.discover(given) == {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": "postgresql://file",
        "REDIS_URL": "redis://mine",
        "PORT": "9",
        "PATH": "/bin",
    }
    both = given | {"DATABASE_URL": "postgresql://mine"}
    assert embedded.discover(both) == both
    assert embedded.discover({"DATA_DIR": str(tmp_path / "none")}) == {"DATA_DIR": str(tmp_path / "none")}
