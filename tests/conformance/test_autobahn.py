"""RFC 6455 by Autobahn's fuzzing client, the reference for WebSocket implementations: hundreds of hand-made frames,
fragments and closes, right and wrong, against a server that is opened with our options and writes with our writer.

The client needs Python 2.7, so it lives in an environment of its own under pytest's cache. `make autobahn` prepares
that and runs every case; other runs take the quick ones if it is there, and say so if it is not.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from ottoai.client import connect
from ottoai.realtime.messages import MAX_MESSAGE, PROTOCOL, frame
from ottoai.web import ws
from ottoai.web.session import LiveSocket

SUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv<20.22"  # later ones cannot make an environment for Python 2.7
ALL = os.environ.get("OTTO_AUTOBAHN") == "all"

# What the product opens a socket with, but for the size: section 9 sends messages of 16 MiB, and aiohttp refuses one
# that is as large as its limit.
OPTIONS = {"autoping": False, "heartbeat": None, "compress": False}
LARGE = 16 * 1024 * 1024 + 1

SECTIONS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]  # 12 and 13 are about compression
LIMITS = ["9.*"]  # up to 16 MiB, in up to 262,144 fragments
SLEEPING = ["5.19", "5.20", "6.4.*"]
QUICK_LIMITS = ["9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.2.2", "9.2.3"]
FINE = {"OK", "NON-STRICT", "INFORMATIONAL"}
# aiohttp takes a close with 1006, which no peer may send (RFC 6455 7.4.1), for a valid one, and answers it.
KNOWN = {"7.9.5"}


class Echo:
    """What ottoai/web/session.py does around a message, with the message itself as the answer."""

    def __init__(self, socket: LiveSocket, transport: asyncio.Transport) -> None:
        self.socket = socket
        self.transport = transport

    async def run(self) -> None:
        async for message in self.socket:
            if message.type is WSMsgType.TEXT:
                self.transport.write(frame(message.data.encode()))
            elif message.type is WSMsgType.BINARY:
                self.transport.write(frame(message.data, 2))
            elif message.type is WSMsgType.PING:
                self.transport.write(frame(message.data, 10))
            elif message.type is WSMsgType.ERROR:
                return


async def echo(request: web.Request) -> LiveSocket:
    socket = LiveSocket(protocols=(PROTOCOL,), max_msg_size=LARGE, **OPTIONS)
    await socket.prepare(request)
    socket.session = Echo(socket, request.transport)
    return socket


async def test_the_product_opens_its_sockets_with_the_same_options(base, make_token, monkeypatch):
    opened = []

    class Recorder(LiveSocket):
        def __init__(self, **options) -> None:
            opened.append(options)
            super().__init__(**options)

    monkeypatch.setattr(ws, "LiveSocket", Recorder)
    async with connect(base, make_token()):
        pass
    assert opened == [{**OPTIONS, "max_msg_size": MAX_MESSAGE, "protocols": (PROTOCOL,)}]


@pytest.mark.timeout(900)
async def test_autobahn(wstest: Path, aiohttp_server, tmp_path):
    app = web.Application()
    app.router.add_get("/ws", echo)
    server = await aiohttp_server(app)
    spec = {
        "outdir": str(tmp_path),
        "servers": [{"agent": "ottoai", "url": str(server.make_url("/ws").with_scheme("ws"))}],
        "cases": SECTIONS + (LIMITS if ALL else QUICK_LIMITS),
        "exclude-cases": [] if ALL else SLEEPING,
        "exclude-agent-cases": {},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    output = (tmp_path / "output").open("wb")
    with output:
        client = await asyncio.create_subprocess_exec(
            wstest, "-m", "fuzzingclient", "-s", tmp_path / "spec.json", stdout=output, stderr=output, cwd=tmp_path
        )
        try:
            assert await client.wait() == 0, (tmp_path / "output").read_text()[-2_000:]
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
    results = json.loads((tmp_path / "index.json").read_text()).get("ottoai", {})
    print(f"{len(results)} cases:", dict(Counter(result["behavior"] for result in results.values())))
    assert len(results) == (301 if ALL else 247)
    failed = {
        case: {**result, **_expected(tmp_path / result["reportfile"])}
        for case, result in results.items()
        if not {result["behavior"], result["behaviorClose"]} <= FINE
    }
    assert set(failed) == KNOWN, json.dumps({case: failed[case] for case in set(failed) - KNOWN}, indent=2)


def _expected(report: Path) -> dict[str, str]:
    detail = json.loads(report.read_text())
    return {name: detail[name] for name in ("description", "expectation", "result", "resultClose")}


# The client


class CannotPrepareError(Exception):
    """Why there is no fuzzing client here."""


@pytest.fixture(scope="session")
def wstest(request: pytest.FixtureRequest) -> Path:
    """Autobahn's command."""
    folder = request.config.cache.mkdir("autobahn")
    command, ready = folder / "python27" / "bin" / "wstest", folder / "ready"
    if not ready.exists() or ready.read_text() != SUITE:
        if not ALL:
            pytest.skip("AUTOBAHN DID NOT RUN: its client is not prepared here; `make autobahn` does so, once")
        try:
            prepare(folder)
        except CannotPrepareError as error:
            pytest.skip(f"AUTOBAHN DID NOT RUN: {error}")
        ready.write_text(SUITE)
    return command


def prepare(folder: Path) -> None:
    """Make an environment of Python 2.7 with the suite. Raises CannotPrepareError."""
    python27 = next(filter(runs, candidates()), None)
    if python27 is None:
        raise CannotPrepareError("no Python 2.7 was found (on PATH, under ~/.pyenv, or named by PYTHON27)")
    shutil.rmtree(folder)
    folder.mkdir()
    tools, target = folder / "tools", folder / "python27"
    run(sys.executable, "-m", "venv", tools)
    run(tools / "bin" / "python", "-m", "pip", "install", "--quiet", VIRTUALENV)
    run(tools / "bin" / "virtualenv", "--quiet", "--python", python27, target)
    run(target / "bin" / "python", "-m", "pip", "install", "--quiet", SUITE)
    run(target / "bin" / "wstest", "--autobahnversion")


def candidates() -> Iterator[Path]:
    """Where a Python 2.7 might be, best first."""
    if named := os.environ.get("PYTHON27"):
        yield Path(named)
    yield from (Path(found) for name in ("python2.7", "python2", "pypy2", "pypy") if (found := shutil.which(name)))
    yield from sorted(Path("~/.pyenv/versions").expanduser().glob("2.7*/bin/python2.7"))


def runs(python: Path) -> bool:
    """Whether it really is one: a name on PATH may be a stand-in for versions that are not chosen."""
    try:
        run(python, "-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))")
    except CannotPrepareError:
        return False
    return True


def run(*command: str | Path) -> None:
    """Run a step. Raises CannotPrepareError with the last it said."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotPrepareError(str(error)) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        raise CannotPrepareError(f"{Path(command[0]).name}: {said[-1] if said else error}") from error
