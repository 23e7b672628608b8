"""The API as it is served: by the server's own runner, with one second of patience, to whoever speaks raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from ottoai.app import build_app
from ottoai.config import Config
from ottoai.server import listen, runner_of
from tests.conftest import make_config

Say = Callable[..., Awaitable[bytes]]


@pytest.fixture
def config(database_url: str, redis_url: str) -> Config:
    return make_config(database_url, redis_url, IDLE_SECONDS="1", PUBLIC_URL="https://api.example.com")


@pytest.fixture
async def runner(config: Config, demo: str) -> AsyncIterator[web.AppRunner]:
    runner = runner_of(build_app(config), config)
    await runner.setup()
    await listen(runner, config, 0)
    yield runner
    await runner.cleanup()


@pytest.fixture
def port(runner: web.AppRunner) -> int:
    return int(runner.addresses[0][1])


@pytest.fixture
def say(port: int) -> Say:
    """Send bytes, and give all that is answered until the server hangs up."""

    async def said(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        try:
            return await reader.read()
        except ConnectionError:
            return b"reset"
        finally:
            writer.close()

    return said


def request(line: str, *headers: str, body: bytes = b"", close: bool = True) -> bytes:
    """A request of its own making; it asks to hang up unless told not to."""
    given = ["Host: x", *headers, *(["Connection: close"] if close else [])]
    if body:
        given.append(f"Content-Length: {len(body)}")
    return f"{line} HTTP/1.1\r\n".encode() + "".join(f"{each}\r\n" for each in given).encode("latin-1") + b"\r\n" + body
