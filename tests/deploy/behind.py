"""Three api processes behind HAProxy with the file that is shipped, deploy/haproxy.cfg."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from ottoai.embedded.folder import any_port
from tests.canary import watch
from tests.e2e.conftest import ROOT, TOOLS
from tests.helpers import until

HAPROXY: Final = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="NOT TESTED: haproxy is not there; install it")
CONFIG: Final = ROOT / "deploy" / "haproxy.cfg"
PLACES: Final = ("api-1", "api-2", "api-3")
STARTS_WITHIN: Final = 60.0
ENDS_WITHIN: Final = 35.0
DRAIN: Final = 8  # seconds; HAProxy notices within 1.5, and a busy machine later
RUNTIME: Final = "global\n  stats socket {} mode 600 level admin\n"  # a second file: what only these tests ask


class Balanced:
    """The processes, by place, and what stands before them."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = {**environ, "HOST": "127.0.0.1", "TRUSTED_PROXIES": "127.0.0.0/8", "DRAIN_SECONDS": str(DRAIN)}
        port, *ports = (any_port() for _ in range(1 + len(PLACES)))
        self.base = f"http://127.0.0.1:{port}"
        self.ports = dict(zip(PLACES, ports, strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.runtime = folder / "haproxy"

    def addresses(self) -> dict[str, str]:
        """What deploy/haproxy.cfg asks of its environment about the processes."""
        return {name.upper().replace("-", "_"): f"127.0.0.1:{port}" for name, port in self.ports.items()}

    def start(self, place: str) -> None:
        """Start a process in its place."""
        output = self.folder / f"{place}.log"
        watch.file(output)
        with output.open("ab") as out:
            self.processes[place] = subprocess.Popen(
                [sys.executable, "-m", "ottoai", "api"], cwd=ROOT,
                env={**TOOLS, **self.environ, "PORT": str(self.ports[place])},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def row(self, place: str) -> dict[str, str]:
        """HAProxy's figures of a process, as one of those for short requests."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.runtime))
            client.sendall(b"show stat\n")
            rows = b"".join(iter(lambda: client.recv(65536), b"")).decode().splitlines()
        names = rows[0].removeprefix("# ").split(",")
        found = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:] if row]
        return next(row for row in found if (row["pxname"], row["svname"]) == ("api", place))

    def state(self, place: str) -> str:
        """What HAProxy thinks of a process: UP, DOWN, or on its way to either (`UP 1/2`)."""
        return self.row(place)["status"]

    async def up(self, *places: str) -> None:
        """Wait until HAProxy sends requests to these."""
        for place in places:
            await until(lambda place=place: self._is_up(place), STARTS_WITHIN)

    def _is_up(self, place: str) -> bool:
        process = self.processes[place]
        assert process.poll() is None, (self.folder / f"{place}.log").read_text()[-3000:]
        row = self.row(place)
        return row["status"] == "UP" and row["check_status"].endswith("L7OK")  # HAProxy begins by believing them all up

    async def leave(self, place: str) -> None:
        """Tell a process to stop, and wait until it says that it will."""
        self.processes[place].terminate()
        async with asyncio.timeout(ENDS_WITHIN), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://127.0.0.1:{self.ports[place]}/health") as response:
                    if response.status == 503:
                        return

    async def ended(self, place: str) -> None:
        """Wait for the end of a process that was told to stop. It must go on answering until HAProxy has noticed."""
        process = self.processes[place]
        await until(lambda: self.state(place) == "DOWN", ENDS_WITHIN)
        assert process.poll() is None, "it ended before anybody noticed"
        assert await asyncio.to_thread(process.wait, ENDS_WITHIN) == 0

    def stuck(self, place: str) -> int:
        """How many requests HAProxy has given to a process that have no answer yet."""
        return int(self.row(place)["scur"])

    def stop(self) -> None:
        """End those that still run."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def haproxy(folder: Path, environ: Mapping[str, str], *more: Path) -> Iterator[subprocess.Popen[bytes]]:
    """HAProxy with the shipped file, and perhaps others."""
    output = folder / "haproxy.log"
    watch.file(output)
    files = [word for path in (CONFIG, *more) for word in ("-f", str(path))]
    with output.open("ab") as out:
        process = subprocess.Popen(
            [str(HAPROXY), "-db", *files], env={**TOOLS, **environ}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()  # nobody's connection is worth waiting for
        process.wait()


@asynccontextmanager
async def balanced(folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Balanced]:
    """All three up, behind one address."""
    running = Balanced(folder, environ)
    more = folder / "runtime.cfg"
    more.write_text(RUNTIME.format(running.runtime))
    with ExitStack() as stack:
        stack.callback(running.stop)
        for place in PLACES:
            running.start(place)
        port = running.base.rpartition(":")[2]
        stack.enter_context(haproxy(folder, {**running.addresses(), "HTTP": f"127.0.0.1:{port}"}, more))
        await until(running.runtime.exists, STARTS_WITHIN)
        await running.up(*PLACES)
        yield running
