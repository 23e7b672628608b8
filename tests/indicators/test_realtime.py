"""Real time: clients that cannot get in, vanish, stall or are not there at all, and events that are late."""

import asyncio
import json
import socket as sockets
import time
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from ottoai.realtime.wheel import HEARTBEAT, STALE
from ottoai.web import keys
from tests.background import eventually, locked
from tests.conftest import of_tenant
from tests.helpers import until

CHANNEL = "tenant:demo:events"
drives = pytest.mark.drives
configured = pytest.mark.configured


@asynccontextmanager
async def connected(watch, token, *, reads=True):
    """A client that listens to its tenant's events; one that does not read answers no ping either."""
    headers = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(socket_factory=None if reads else narrow)
    async with (
        aiohttp.ClientSession(headers=headers, connector=connector) as session,
        # Who has stalled says no goodbye.
        session.ws_connect(f"{watch.base}/ws", timeout=aiohttp.ClientWSTimeout(ws_close=0.1)) as socket,
    ):
        await socket.receive()
        await socket.send_str(json.dumps({"type": "subscribe", "channel": CHANNEL}))
        await socket.receive()
        reading = asyncio.create_task(read(socket)) if reads else None
        yield socket
        if reading:
            reading.cancel()


def narrow(address):
    """A socket whose kernel takes next to nothing on its reader's behalf."""
    made = sockets.socket(*address[:3])
    made.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    return made


async def read(socket):
    async for _ in socket:
        pass


def stall(socket):
    """The client's machine takes nothing more."""
    socket._conn.transport.pause_reading()


def append(url, count, size=0):
    """Events that nobody is told of, as when their process dies after the commit."""
    drafts = json.dumps([{"event": "test.silent", "data": {"n": n, "filler": "x" * size}} for n in range(count)])
    of_tenant(url, "select count(*) from append_events('demo', '', %s::jsonb)", drafts)


async def emit(watch, times=1, size=0, transient=False):
    url = f"{watch.base}/ws/test-emit?event=test.big&tenant_id=demo" + ("&transient=1" if transient else "")
    async with aiohttp.ClientSession(headers={"X-Dev-Key": "dev"}) as session:
        for _ in range(times):
            async with session.post(url, json={"filler": "x" * size}) as response:
                assert response.status == 200


def late(watch, seconds, times=1):
    """Events that reach their clients so late: the log cannot be read meanwhile."""

    async def cause():
        before = watch.counted("event_e2e_latency_seconds_count")
        append(watch.url, times)
        with locked(watch.url, "events"):
            await asyncio.sleep(seconds)
        await eventually(lambda: watch.counted("event_e2e_latency_seconds_count") >= before + times)

    return cause


@drives("event_p95", "warning", "critical")
async def test_late_events(watch, token):
    async with connected(watch, token):
        await emit(watch)
        await watch.settled("event_p95")
        await watch.passes("event_p95", "warning", late(watch, 1.2))
        await watch.passes("event_p95", "critical", late(watch, 2.4, times=30))


@drives("event_budget", "critical")
async def test_the_event_budget_burns(watch, token):
    async with connected(watch, token):
        await emit(watch, 20)
        await watch.settled("event_budget")
        await watch.passes("event_budget", "critical", late(watch, 1.3, times=100))


@drives("ws_connections", "critical")
async def test_everybody_is_gone(watch, token):
    await watch.look(60)
    assert watch.reading("ws_connections").note == "nobody was there these days"
    async with connected(watch, token):
        for _ in range(5):
            await watch.look(60)  # the watch keeps each minute
        assert watch.reading("ws_connections").verdict == "ok"
    await until(lambda: watch.counted("ws_connections") == 0)
    await watch.passes("ws_connections", "critical", step=60)
    await watch.look(64 * 3600)  # they went home on Friday, and on Monday nobody gets in
    assert watch.reading("ws_connections").verdict == "critical"


@drives("ws_auth_failures", "warning", "critical")
async def test_clients_with_wrong_tokens(watch, token):
    async def knock(times, given):
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {given}"}) as session:
            for _ in range(times):
                try:
                    async with session.ws_connect(f"{watch.base}/ws"):
                        pass
                except aiohttp.WSServerHandshakeError as refused:
                    assert refused.status == 401

    await knock(12, token)
    await watch.settled("ws_auth_failures")
    await watch.passes("ws_auth_failures", "warning", lambda: knock(8, "wrong"))
    await watch.passes("ws_auth_failures", "critical", lambda: knock(100, "wrong"))


@drives("ws_dropped", "info")
@drives("ws_drop_rate", "warning")
@drives("ws_slow", "warning", "critical")
@drives("ws_send_queue", "warning", "critical")
@configured(WS_CONNECTIONS_PER_USER="1000", ALERT_BOUNDS="ws_send_queue.warning=100000,ws_send_queue.critical=2000000")
async def test_clients_that_stall(watch, token):
    async with AsyncExitStack() as stack:
        open_ = [await stack.enter_async_context(connected(watch, token, reads=False)) for _ in range(22)]
        await emit(watch, 3)
        await watch.settled("ws_dropped", "ws_drop_rate", "ws_slow", "ws_send_queue")

        async def first_stall():
            for each in open_[:3]:
                stall(each)
            await emit(watch, 9, size=40_000)

        await watch.passes("ws_slow", "warning", first_stall)
        await watch.agree_on("ws_send_queue", "warning")
        await watch.passes("ws_dropped", "info", lambda: emit(watch, 20, transient=True))
        await watch.agree_on("ws_drop_rate", "warning")

        async def all_stall():
            for each in open_:
                stall(each)
            await emit(watch, 9, size=40_000)

        await watch.passes("ws_slow", "critical", all_stall)
        await watch.agree_on("ws_send_queue", "critical")


@drives("ws_heartbeats", "warning", "critical")
@drives("ws_lost", "warning")
@configured(WS_CONNECTIONS_PER_USER="1000")
async def test_clients_that_vanish(watch, token, monkeypatch):
    wheel = watch.app[keys.HUB].wheel
    tick = wheel.tick
    monkeypatch.setattr(wheel, "tick", lambda *_: None)  # else its own seconds would ask the clients as well

    def turn(monotonic):
        for _ in range(HEARTBEAT):
            tick(monotonic, time.time())

    async def vanish(answering, silent):
        """So many of each; those who answer are asked, then those who did not for 39 s are given up."""
        async with AsyncExitStack() as stack:
            for _ in range(silent):
                await stack.enter_async_context(connected(watch, token, reads=False))
            heard = time.monotonic()
            await asyncio.sleep(1)  # the others are heard of later
            for _ in range(answering):
                await stack.enter_async_context(connected(watch, token))
            before = watch.counted("ws_heartbeats_total")
            turn(time.monotonic())
            await eventually(lambda: watch.counted("ws_heartbeats_total") == before + answering)
            turn(heard + STALE - 0.5)
            assert watch.counted("ws_heartbeats_total") == before + answering + silent

    await vanish(30, 0)
    await watch.settled("ws_heartbeats", "ws_lost")
    await watch.passes("ws_heartbeats", "warning", lambda: vanish(20, 10))
    await watch.passes("ws_heartbeats", "critical", lambda: vanish(0, 60))
    await watch.agree_on("ws_lost", "warning")
