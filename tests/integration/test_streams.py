"""The log by event stream and by long poll: the same messages, rights and cursor as over the WebSocket."""

import asyncio
import socket as sockets
import time

import aiohttp
import pytest

from ottoai.client import connect
from ottoai.realtime import stream as streams
from ottoai.realtime import wheel
from ottoai.realtime.messages import CloseCode
from ottoai.web import keys
from tests.conftest import add_tenant, execute
from tests.helpers import get, until
from tests.integration.test_realtime import CHANNEL, append, emit
from tests.streams import open_stream

USER = "user:ann:tasks"


async def poll(base: str, token: str, **query: object) -> dict:
    given = "&".join(f"{name}={value}" for name, value in query.items())
    status, _, page = await get(base, f"/api/events?{given}", token)
    assert status == 200, page
    return page


def seqs(page: dict) -> list[int]:
    return [item["seq"] for item in page["items"]]


async def test_a_stream_tells_what_a_socket_tells(base, make_token):
    async with connect(base, make_token()) as socket, open_stream(base, make_token(), CHANNEL) as stream:
        await socket.subscribe(CHANNEL)
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert stream.response.headers["X-Request-Id"]
        welcome, joined = await stream.message(), await stream.message()
        assert set(welcome) == set(socket.welcome)
        assert (joined["type"], joined["channel"], joined["recovered"]) == ("subscribe_result", CHANNEL, None)
        for event in ("test.one", "test.two"):
            await emit(base, event)
            assert await stream.event() == await socket.event()
        assert stream.last_id == f"{welcome['epoch']}.2"
        await emit(base, transient="1")
        assert (await stream.event())["seq"] is None
        assert stream.last_id == f"{welcome['epoch']}.2", "what is not in the log is no place in it"


async def test_a_stream_resumes_its_channels_together_and_in_order(base, make_token, database_url):
    for n in range(6):
        await emit(base, user_id="ann" if n % 2 else "ben")
    async with open_stream(base, make_token(), CHANNEL, USER, since="2") as stream:
        messages = [await stream.message() for _ in range(7)]
        assert [m["type"] for m in messages] == ["welcome"] + ["subscribe_result"] * 2 + ["event"] * 4
        assert [(m["recovered"], m["replayed"]) for m in messages[1:3]] == [(True, 4), (True, 2)]
        assert [m["seq"] for m in messages[3:]] == [3, 4, 5, 6]
    async with open_stream(base, make_token(), USER, since="1") as stream:
        assert [(await stream.event())["seq"] for _ in range(3)] == [2, 4, 6]
    async with open_stream(base, make_token(), CHANNEL, since="99") as stream:
        assert [(await stream.message()).get("recovered") for _ in range(2)] == [None, False]


async def test_a_stream_ends_with_its_token(app, base, make_token):
    async with open_stream(base, make_token(seconds=30), CHANNEL) as stream:
        types = [(await stream.message())["type"] for _ in range(2)]
        for wall in (time.time(), time.time() + 30 + wheel.AUTH_GRACE):
            app[keys.HUB].wheel.tick(time.monotonic(), wall)
            types.append((await stream.message())["type"])
        assert types == ["welcome", "subscribe_result", "auth_expiring", "auth_expired"]
        assert await stream.message() is None
    assert not app[keys.HUB].connections


@pytest.mark.parametrize("query", ["", "?channel=tenant:demo:events&channel=user:ann:tasks"])
async def test_what_is_malformed_or_not_ones_own_is_refused_before_the_stream_begins(base, make_token, query):
    path = "/api/events/stream"
    assert (await get(base, path + query))[0] == 401
    status, _, problem = await get(base, path + query, make_token(), **{"Last-Event-ID": "nonsense"})
    assert (status, problem["detail"].split(":")[0]) == (400, "Last-Event-ID")
    many = "&".join(f"channel=lead:{n}:timeline" for n in range(101))
    assert (await get(base, f"{path}?{many}", make_token()))[0] == 400
    for channel in ("tenant:other:events", "user:ben:tasks", "lead:1:timeline", "nonsense"):
        for address in (path, "/api/events"):
            status, _, problem = await get(base, f"{address}?channel={channel}", make_token())
            assert (status, problem["detail"]) == (404, "no such channel")


async def test_a_stream_is_for_get_over_http_1_1(app, base, make_token):
    headers = {"Authorization": f"Bearer {make_token()}"}
    url = f"{base}/api/events/stream"
    async with aiohttp.ClientSession(headers=headers) as session, session.head(url) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")
    old = aiohttp.ClientSession(headers=headers, version=aiohttp.HttpVersion10)
    async with old as session, session.get(url) as response:
        assert response.status == 400
        assert "HTTP/1.1" in (await response.json(content_type=None))["detail"]
    assert not app[keys.HUB].connections


async def test_a_client_that_leaves_a_stream_is_forgotten_at_once(app, base, make_token):
    async with open_stream(base, make_token(), CHANNEL) as stream:
        await stream.message()
        assert len(app[keys.HUB].connections) == 1
    await until(lambda: not app[keys.HUB].connections)


async def test_a_quiet_stream_is_kept_open_by_comments(app, base, make_token):
    async with open_stream(base, make_token(), CHANNEL) as stream:
        for _ in range(2):
            await stream.message()
        for _ in range(2 * wheel.HEARTBEAT):  # whoever hears nothing for so long is stale, had it anything to say
            app[keys.HUB].wheel.tick(time.monotonic() + 100, time.time())
        await emit(base)
        assert (await stream.event())["seq"] == 1
        assert stream.comments == 2 + 1  # the first came with the answer's head


async def test_a_stalled_stream_catches_up_in_order(app, base, make_token, database_url):
    async with open_stream(base, make_token(), CHANNEL) as stream:
        await stream.message()
        await stream.message()
        transport = stream.response.connection.transport
        transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)
        transport.pause_reading()
        append(database_url, 100, size=8_000)
        await emit(base)
        [connection] = app[keys.HUB].connections.values()
        await until(lambda: connection.group is None)  # it has left the live stream
        assert connection.unsent < 512 * 1024
        append(database_url, 10)
        transport.resume_reading()
        assert [(await stream.event())["seq"] for _ in range(111)] == list(range(1, 112))


async def test_data_with_line_ends_stays_one_event(app, base, make_token):
    """JSON may hold line ends between its values, where an event stream cannot have them."""
    async with open_stream(base, make_token(), CHANNEL) as stream:
        for _ in range(2):
            await stream.message()
        [connection] = app[keys.HUB].connections.values()
        connection.write(connection.wire.event(b'{"type":"event",\r\n"seq":\n7}', "1.7"))
        assert (await stream.event())["seq"] == 7
        assert stream.last_id == "1.7"


# The long poll


async def test_a_poll_begins_where_the_log_stands_and_pages_on(base, make_token):
    for _ in range(5):
        await emit(base)
    start = await poll(base, make_token())
    assert (start["items"], start["seq"], start["recovered"]) == ([], 5, None)
    assert start["next_cursor"] == f"{start['epoch']}.5"
    page = await poll(base, make_token(), since=0, limit=2)
    assert (seqs(page), page["recovered"], page["seq"]) == ([1, 2], True, 5)
    page = await poll(base, make_token(), since=page["next_cursor"], limit=2)
    assert seqs(page) == [3, 4]
    page = await poll(base, make_token(), since=page["next_cursor"])
    assert seqs(page) == [5]
    page = await poll(base, make_token(), since=page["next_cursor"])
    assert (seqs(page), page["next_cursor"]) == ([], start["next_cursor"])


async def test_a_poll_filters_by_channel_and_moves_on_past_the_others(base, make_token):
    for n in range(7):
        await emit(base, **({"user_id": "ann"} if n in {2, 4} else {}))
    page = await poll(base, make_token(), channel=USER, since=0, limit=1)
    assert (seqs(page), page["next_cursor"].split(".")[1]) == ([3], "3")
    page = await poll(base, make_token(), channel=USER, since=page["next_cursor"])
    assert (seqs(page), page["next_cursor"].split(".")[1]) == ([5], "7")


async def test_a_poll_waits_for_the_first_event(base, make_token):
    cursor = (await poll(base, make_token()))["next_cursor"]
    waiting = asyncio.create_task(poll(base, make_token(), since=cursor, wait=25))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await emit(base)
    async with asyncio.timeout(20):
        assert seqs(await waiting) == [1]
    began = time.monotonic()
    empty = await poll(base, make_token(), since=cursor.split(".")[0] + ".1", wait=1)
    assert seqs(empty) == []
    assert 0.9 < time.monotonic() - began < 20


async def test_a_poll_says_when_the_log_cannot_tell(base, make_token, database_url):
    for _ in range(3):
        await emit(base)
    for since in ("7.1", "999"):
        page = await poll(base, make_token(), since=since, wait=25)
        assert (page["items"], page["recovered"], page["next_cursor"]) == ([], False, f"{page['epoch']}.3")


@pytest.mark.parametrize("query", ["wait=26", "wait=x", "wait=-1", "limit=0", "limit=999", "since=x", "since=1.2.3"])
async def test_a_bad_poll_names_the_field(base, make_token, query):
    status, _, problem = await get(base, f"/api/events?{query}", make_token())
    assert (status, problem["detail"].split(":")[0]) == (400, query.split("=")[0])


async def test_waiting_is_not_counted_as_answering(app, base, make_token):
    await poll(base, make_token(), since=0, wait=1)
    text = app[keys.METRICS].render()
    [line] = [x for x in text.splitlines() if "http_request_duration_seconds_sum" in x and '"/api/events"' in x]
    assert float(line.rpartition(" ")[2]) < 0.5


async def test_switching_between_the_three_loses_and_repeats_nothing(base, make_token, database_url):
    """One reader changes its transport all the time, while events come from both known and unheard writers."""
    token, seen, cursor = make_token(), [], "0"
    writing = asyncio.create_task(write(base, database_url))
    turn = 0
    while not writing.done() or len(seen) < 90:
        turn += 1
        if turn % 3 == 0:
            page = await poll(base, token, since=cursor, wait=1, limit=7)
            seen += seqs(page)
            cursor = page["next_cursor"]
            continue
        if turn % 3 == 1:
            async with connect(base, token) as socket:
                assert (await socket.subscribe(CHANNEL, cursor))["recovered"]
                seen += await some(socket)
        else:
            async with open_stream(base, token, CHANNEL, since=cursor) as stream:
                seen += await some(stream)
        cursor = str(seen[-1]) if seen else cursor
    assert seen == list(range(1, 91))


async def write(base: str, database_url: str) -> None:
    for _ in range(30):
        await emit(base)
        append(database_url, 2)


async def some(source) -> list[int]:
    """Up to five events."""
    found: list[int] = []
    try:
        while len(found) < 5:
            found.append((await source.event(0.3))["seq"])
    except TimeoutError:
        pass
    return found


async def test_streams_and_polls_count_against_the_quota(config, db, app, base, make_token, monkeypatch):
    await add_tenant(db, "other", company="77", number="+12125550188")
    streams = [open_stream(base, make_token(), CHANNEL) for _ in range(config.ws_connections_per_user)]
    opened = [await stream.__aenter__() for stream in streams]
    assert {stream.response.status for stream in opened} == {200}
    for path in ("/api/events/stream", "/api/events?since=0&wait=5"):
        status, headers, problem = await get(base, path, make_token())
        assert (status, problem["type"], headers["Retry-After"]) == (429, "/docs/problems/over-quota", "15")
    assert (await get(base, "/api/events?since=0", make_token()))[0] == 200, "who does not wait holds nothing"
    await streams.pop().__aexit__(None, None, None)
    await until(lambda: len(app[keys.HUB].connections) < config.ws_connections_per_user)
    async with open_stream(base, make_token(), CHANNEL) as stream:
        assert stream.response.status == 200
    for stream in streams:
        await stream.__aexit__(None, None, None)


async def test_a_stream_says_why_it_is_ended(app, base, make_token):
    async with open_stream(base, make_token(), CHANNEL) as stream:
        for _ in range(2):
            await stream.message()
        [connection] = app[keys.HUB].connections.values()
        app[keys.SOCKETS].close(connection, CloseCode.RESTARTING, "draining")
        assert await stream.message() == {"type": "end", "code": 1012, "reason": "draining"}
        assert await stream.message() is None


async def test_of_a_replaced_log_nothing_is_told_under_the_old_epoch(app, base, make_token, database_url, monkeypatch):
    """A process that has not noticed yet would tell 1 to 4, and the place after a 5 that nobody was told."""
    monkeypatch.setattr(streams, "RING_EVENTS", 2)  # the rest is read from the log
    monkeypatch.setattr(app[keys.HUB], "compare_heads", lambda: asyncio.sleep(0))
    for _ in range(5):
        await emit(base)
    start = await poll(base, make_token())
    execute(
        database_url,
        "set role ottoai_system; delete from events where seq > 4; update heads set epoch = epoch + 1, seq = 4",
    )
    status, _, problem = await get(base, f"/api/events?since={start['epoch']}.0", make_token())
    assert (status, problem["type"].rpartition("/")[2]) == (503, "unavailable")
    page = await poll(base, make_token(), since=f"{start['epoch']}.0")
    assert (page["items"], page["recovered"], page["next_cursor"]) == ([], False, f"{start['epoch'] + 1}.4")
