"""One embedded server as a child process: started, waited for, stopped, and never left behind.

What each server needs on its command line is in postgres.py and redis.py.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from ottoai.errors import OttoError

START_SECONDS = 60.0  # a crashed database replays its log first; a start without that takes 0.1 s
STOP_SECONDS = 15.0  # a shutdown checkpoint on a slow disk; then it is killed, and recovers at the next start
ORPHAN_SECONDS = 10.0  # a server whose parent was killed is already on its way out
POLL_SECONDS = 0.01
LOG_LIMIT_BYTES = 5_000_000  # past this the log starts anew with the next start
TAIL_LINES = 20
# All a server is told of our environment: a PGOPTIONS or LC_ALL of the user's would change how it behaves.
ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedServerError(OttoError):
    """An embedded server did not start."""


@cache
def dies_with_parent(sig: signal.Signals) -> tuple[str, ...]:
    """Words in front of a command that let the kernel signal it when its parent dies, even by kill -9.

    `setpriv` (util-linux) rather than prctl in a preexec_fn: the wish must be made after the change of user, which
    forgets it. "Parent" means the starting *thread*: see `_starter`.
    """
    prefix = ("setpriv", "--pdeathsig", sig.name.removeprefix("SIG"))
    return prefix if works([*prefix, "true"]) else ()


@cache
def _starter() -> ThreadPoolExecutor:
    """The one thread that starts servers. It lives as long as this process, which a caller's thread may not."""
    return ThreadPoolExecutor(1, "embedded-servers")


def works(argv: Sequence[str]) -> bool:
    """Whether a command exists, is allowed and succeeds."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=10, check=False, cwd="/", env=ENVIRON)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError:
        return "(no log)"


def outlast(pid: int, folder: Path, sig: signal.Signals) -> None:
    """Wait until a server that an earlier, killed parent left behind is gone from `folder`, its working directory.

    A process id alone proves nothing: by now it may be another program's.
    """
    deadline = time.monotonic() + ORPHAN_SECONDS
    while _works_in(pid, folder):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"A server from an earlier run (pid {pid}) does not leave {folder}.")
        with suppress(ProcessLookupError):
            os.kill(pid, sig)
        time.sleep(0.1)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


class Process:
    """A server process that can be stopped and started again. Its output goes to the end of `log`."""

    def __init__(self, name: str, log: Path, *, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises when it is not running."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} is not running.")
        return self._process.pid

    def start(self, argv: Sequence[str], *, cwd: Path, ready: Callable[[], bool]) -> None:
        """Start and wait until it is ready. Its session is its own, so that Ctrl-C in a terminal passes it by."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.unlink()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            starting = _starter().submit(
                subprocess.Popen[bytes],
                argv,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                env=ENVIRON,
            )
            self._process = starting.result()
        finally:
            os.close(descriptor)
        try:
            self._wait_for(ready)
        except BaseException:
            self.stop()
            raise

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended at once" if ended else f"was not ready within {START_SECONDS:.0f} s"
                raise EmbeddedServerError(f"{self.name} {what}. The end of {self.log}:\n{tail(self.log)}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop in an orderly way, or else by force. Does nothing when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self._stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
