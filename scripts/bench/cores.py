"""Which process runs on which core: the measured one has one to itself, everything else shares the others."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_WITHIN = 60.0
EVERY_CORE = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset({0})


def every_core() -> set[int]:
    """What this run may use."""
    return set(EVERY_CORE)


def api_cores() -> set[int]:
    """The core of the measured process."""
    return {min(EVERY_CORE)}


def load_cores() -> set[int]:
    """The cores of everything else; the same one when there is no other."""
    return set(EVERY_CORE) - api_cores() or api_cores()


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Move this process, all its threads and so all that it starts, to these cores."""
    _move(cores)
    try:
        yield
    finally:
        _move(every_core())


def _move(cores: set[int]) -> None:
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        os.sched_setaffinity(int(task.name), cores)


@contextmanager
def child(
    words: Sequence[str],
    *,
    cores: set[int],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    quiet: bool = False,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process on these cores, stopped at the end."""
    pin = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if shutil.which("taskset") else []
    process = subprocess.Popen([*pin, *words], env=env, cwd=cwd, stderr=subprocess.DEVNULL if quiet else None)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
