"""What stands in for Twilio: a token sent to it goes nowhere else, and no answer is endless."""

import gzip

import aiohttp
import pytest
from aiohttp import web

from jobs import twilio_http


@pytest.fixture
async def liar(aiohttp_server):
    """A server that sends elsewhere, answers without an end, or with little that would become much."""
    asked: list[tuple[str, bool]] = []

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append((request.path, "Authorization" in request.headers))
        return web.Response(text="{}")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # until the client goes away
            await response.write(bytes(65_536))

    async def bomb(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})

    app = web.Application()
    for handler in (redirect, elsewhere, endless, bomb):
        app.router.add_route("*", f"/{handler.__name__}", handler)
    return await aiohttp_server(app), asked


async def test_a_token_is_not_sent_to_where_twilio_points(liar):
    server, asked = liar
    async with twilio_http.open_http() as http:
        answer = await http.request("POST", str(server.make_url("/redirect")), data={"a": "b"}, auth=("AC1", "secret"))
    assert (answer.status_code, asked) == (307, [])


async def test_no_answer_is_endless(liar):
    server, _ = liar
    async with twilio_http.open_http() as http:
        with pytest.raises(aiohttp.ClientPayloadError, match="more than"):
            await http.request("GET", str(server.make_url("/endless")))
        answer = await http.request("GET", str(server.make_url("/bomb")))
        assert len(answer.text) < twilio_http.MAX_BODY
