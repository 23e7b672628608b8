"""The watch for what must never be written down: phones, tokens, keys, in any output of the whole test run.

The tests' own secrets are recognisable; every log line, every process's output, every text of metrics, every span that
is exported and what is left in Redis after each test is searched for them, and the run fails at its end, saying where
each was. tests/conftest.py takes its hooks from here.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from ottoai.log import JsonLines
from ottoai.metrics import Metrics

RECORDING_KEY: Final = "canary-recording-key"  # of the recordings' URLs in every report that a test sends
SHOWN: Final = 200  # characters around a leak
MOST: Final = 50  # leaks that are told one by one
OURS: Final = ("ottoai", "jobs")

# Numbers reserved for fiction, as samples and tests use them; not inside of longer numbers or ids.
PHONES: Final = re.compile(
    r"(?<![0-9A-Za-z_.-])(?:\+|%2B)?(?:1?\(?(?:212|212|312|404|415|671|808)\)?[ -]?555[ -]?[01]\d{3}|442079460\d{3})"
    r"(?![0-9A-Za-z_-]|\.\d)"
)
SECRETS: Final = re.compile(
    r"eyJ[\w-]{10,}\.[\w-]{10,}"  # tokens
    rf"|{RECORDING_KEY}"
    r"|signing-key-of-\w+|demo-signing-key"
    r"|a-secret-of-the-tests-that-is-long-enough"
    r"|whsec_(?!\.)[A-Za-z0-9+/=]{12,}"
    r"|canary-secret-[\w-]+"  # for the tests' other secrets: name them so
)


class Watch:
    """All leaks of a run, each once."""

    def __init__(self) -> None:
        self.leaks: dict[tuple[str, str], str] = {}
        self.files: set[Path] = set()
        self._lock = threading.Lock()

    def saw(self, where: str, text: str | bytes, *, phones: bool = True) -> None:
        """Search an output."""
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for pattern in (SECRETS, PHONES) if phones else (SECRETS,):
            for match in pattern.finditer(shown):
                around = shown[max(0, match.start() - SHOWN) : match.end() + SHOWN]
                with self._lock:
                    self.leaks.setdefault((where, match[0]), f"{os.environ.get('PYTEST_CURRENT_TEST', '')}: {around}")

    def file(self, path: Path) -> None:
        """Have a process's output searched when the run ends."""
        self.files.add(path)

    def finish(self) -> dict[tuple[str, str], str]:
        """Search the files, and return all leaks."""
        for path in sorted(self.files):
            self.read(path)
        return self.leaks

    def read(self, path: Path) -> None:
        """Search a file now."""
        with suppress(OSError), path.open(errors="replace") as lines:
            for line in lines:
                self.saw(str(path), line)


watch: Final = Watch()


def of_redis(url: str) -> None:
    """Search what a test left in Redis. Phones may be there, in data that clients are given again; never in jobs."""
    with suppress(redis.RedisError, OSError), closing(redis.Redis.from_url(url, socket_timeout=5)) as client:
        for key in client.scan_iter(count=1000):
            for value in _values(client, key):
                watch.saw(f"Redis, {key!r}", key + b" " + value, phones=key.startswith(b"rq:"))


def _values(client: Any, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"string":
            yield client.get(key) or b""
        case b"hash":
            yield from (part for pair in client.hgetall(key).items() for part in pair)
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"stream":
            yield repr(client.xrange(key)).encode()


def pytest_configure(config: pytest.Config) -> None:
    """Look at every log record as production would write it, and at every rendering of metrics."""
    formatter = JsonLines("test")
    handle, render = logging.Logger.handle, Metrics.render

    def watched_handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if self.name.partition(".")[0] != "tests":
            watch.saw(f"log of {record.name}", formatter.format(record))
        handle(self, record)

    def watched_render(self: Metrics) -> str:
        text = render(self)
        watch.saw("metrics", text)
        return text

    logging.Logger.handle = watched_handle  # type: ignore[method-assign]
    Metrics.render = watched_render  # type: ignore[method-assign]
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A leak fails the run; of several processes that share it, each tells the first."""
    leaks = watch.finish()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = [(where, what, around) for (where, what), around in leaks.items()]
    elif leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What one of those processes told."""
    for where, what, around in getattr(node, "workeroutput", {}).get("leaks", ()):
        watch.leaks.setdefault((where, what), around)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what leaked, and where."""
    if not watch.leaks:
        return
    terminalreporter.section("what must never be written down was", red=True)
    for (where, what), around in list(watch.leaks.items())[:MOST]:
        terminalreporter.write_line(f"{what}  in {where}\n    {around}")
    terminalreporter.write_line(f"{len(watch.leaks)} leaks; see tests/canary.py")
