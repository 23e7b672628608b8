"""Which answers have a line in the log."""

import dataclasses

import pytest

from ottoai.app import build_app
from ottoai.web import middlewares
from tests.helpers import get
from tests.isolation.recording import recorded


@pytest.fixture
def serve(config, demo, aiohttp_server):
    async def start(ratio: float) -> str:
        server = await aiohttp_server(build_app(dataclasses.replace(config, request_log_ratio=ratio)))
        return str(server.make_url("")).rstrip("/")

    return start


async def statuses(base: str, paths: list[str], token: str) -> list[int]:
    """What the lines say that asking for these paths left."""
    with recorded() as lines:
        for path in paths:
            await get(base, path, token)
    return [line["status"] for line in lines if line["message"] == "Request answered"]


async def test_failures_are_logged_and_of_the_rest_a_share_of_traces(serve, make_token):
    paths = ["/api/calls", "/api/calls/none", "/api/leads"]
    assert await statuses(await serve(1), paths, make_token()) == [200, 404, 200]
    assert await statuses(await serve(0), paths, make_token()) == [404]
    half = await statuses(await serve(0.5), ["/api/calls"] * 60, make_token())
    assert 5 < len(half) < 55


async def test_what_was_slow_is_logged(serve, make_token, monkeypatch):
    monkeypatch.setattr(middlewares, "SLOW", 0.0)
    assert await statuses(await serve(0), ["/api/calls"], make_token()) == [200]
