"""Foreign and missing ids are the same to the caller, in words, work and time; only the log and a counter differ, and
only afterwards.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from ottoai import db as module
from ottoai.client import connect
from ottoai.errors import StoreUnavailable
from ottoai.web import foreign as foreign_ids
from ottoai.web import keys
from ottoai.web.foreign import NOUNS, noun_of
from tests.helpers import get, until
from tests.isolation.canaries import THING_IDS, A, B
from tests.isolation.drives import MISSING, listed
from tests.isolation.recording import recorded

ITEMS = [(method, path) for method, path in listed() if path.startswith("/api/") and "{id}" in path]
# What a request that changes something has to say to get as far as the look for its id.
BODIES: dict[tuple[str, str], Any] = {("POST", "/api/leads/{id}/messages"): {"body": "Hi"}}
MESSAGE = "Unauthorized access: tenant_id mismatch"
PAIRS = 60  # of requests, one for a foreign and one for a missing id, taking turns
SLACK = 0.003  # seconds: a look at another table or tenant that a caller could tell would have to cost more than noise


@asynccontextmanager
async def asking(base: str, token: str, method: str, path: str) -> AsyncIterator[Callable[..., Any]]:
    """A function that asks for one id on a route; (status, headers, decoded body)."""
    own = {"Authorization": f"Bearer {token}"} | ({"If-Match": "*"} if method == "PATCH" else {})
    async with aiohttp.ClientSession(headers=own) as session:

        async def ask(wanted: str, **headers: str) -> tuple[int, dict[str, str], Any]:
            body = None if method == "GET" else BODIES.get((method, path), {})
            url = URL(base + path.replace("{id}", wanted), encoded=True)
            async with session.request(method, url, json=body, headers=headers) as response:
                lowered = {name.lower(): value for name, value in response.headers.items()}
                return response.status, lowered, msgspec.json.decode(await response.read())

        yield ask


def foreign_of(path: str) -> str:
    return B.uuid(THING_IDS[noun_of(path) or ""])


def counted(app: Any, route: str) -> float:
    text = app[keys.METRICS].render()
    line = f'cross_tenant_access_attempts_total{{route="{route}"}} '
    return float(text.partition(line)[2].split("\n")[0])


async def looked_up(app: Any) -> None:
    """Wait until nothing waits to be looked up."""
    await until(lambda: not app[keys.FOREIGN]._waiting)
    await asyncio.sleep(0)


def test_every_id_in_a_path_is_looked_up():
    for _, path in ITEMS:
        assert noun_of(path), f"say in NOUNS of ottoai/web/foreign.py what the id of {path} names"
    assert set(NOUNS.values()) == THING_IDS.keys()


# The same to the caller


@pytest.mark.parametrize(("method", "path"), ITEMS)
async def test_the_same_words(two, base, token_a, method, path):
    answers = []
    async with asking(base, token_a, method, path) as ask:
        for wanted in (foreign_of(path), MISSING, foreign_of(path).upper(), "no-uuid", "%27%3B--"):
            status, headers, problem = await ask(wanted)
            told = {name: value for name, value in problem.items() if name not in {"instance", "trace_id"}}
            of_each = {"date", "x-request-id", "content-length"}  # the length is the instance's
            answers.append((status, told, {name: value for name, value in headers.items() if name not in of_each}))
    for answer in answers:
        assert answer == answers[0]
    assert answers[0][0] == 404


async def statements(monkeypatch, ask: Callable[[], Any]) -> list[tuple[str, str]]:
    """The queries that are run for tenants meanwhile: (name, tenant)."""
    ran: list[tuple[str, str]] = []
    real = module._execute

    async def noting(pool, connection, name, sql, parameters, *, before=""):
        if "tenant_id" in parameters:
            ran.append((name, parameters["tenant_id"]))
        return await real(pool, connection, name, sql, parameters, before=before)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_execute", noting)
        await ask()
    return ran


@pytest.mark.parametrize(("method", "path"), ITEMS)
async def test_the_same_work(two, base, token_a, monkeypatch, method, path):
    async with asking(base, token_a, method, path) as ask:
        for wanted in (foreign_of(path), MISSING):
            assert (await ask(wanted))[0] == 404
        by_foreign = await statements(monkeypatch, lambda: ask(foreign_of(path)))
        by_missing = await statements(monkeypatch, lambda: ask(MISSING))
    assert by_foreign == by_missing
    assert {tenant for _, tenant in by_foreign} == {A.id}


async def close_in_time(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    """Whether two things take about as long: medians of many, taking turns, by a bound that noise does not reach."""
    for each in (one, other) * 5:
        await each()
    took: dict[Any, list[float]] = {one: [], other: []}
    for _ in range(PAIRS):
        for each in (one, other):
            began = time.perf_counter()
            await each()
            took[each].append(time.perf_counter() - began)
    first, second = (statistics.median(times) for times in took.values())
    assert abs(first - second) < max(SLACK, min(first, second)), (first, second)


@pytest.mark.parametrize(("method", "path"), ITEMS)
async def test_the_same_time(two, base, token_a, method, path):
    async with asking(base, token_a, method, path) as ask:
        await close_in_time(lambda: ask(foreign_of(path)), lambda: ask(MISSING))


CHANNELS = [
    (f"tenant:{B.id}:events", "tenant:nobody:events"),
    (f"lead:{B.lead}:timeline", f"lead:{MISSING}:timeline"),
    (f"user:{B.user}:tasks", "user:nobody:tasks"),
]


@pytest.mark.parametrize(("foreign", "missing"), CHANNELS)
async def test_channels_are_refused_in_the_same_time_and_work(
    two, base, make_token, monkeypatch, foreign, missing, app
):
    """Over several connections, each within the number of messages a client may send."""
    asked = 0
    sockets: list[Any] = []

    async def ask(name: str) -> None:
        nonlocal asked
        asked += 1
        answer = await sockets[asked % len(sockets)].subscribe(name)
        assert (answer["success"], answer["error"]) == (False, "no such channel")

    async with (
        connect(base, make_token(A.id, "u1")) as one,
        connect(base, make_token(A.id, "u2")) as two_,
    ):
        sockets += [one, two_]
        by_foreign = await statements(monkeypatch, lambda: ask(foreign))
        by_missing = await statements(monkeypatch, lambda: ask(missing))
        assert by_foreign == by_missing
        await close_in_time(lambda: ask(foreign), lambda: ask(missing))


# Told behind the caller's back


@pytest.mark.parametrize(("method", "path"), ITEMS)
async def test_only_a_foreign_id_is_logged_and_counted(two, app, base, token_a, method, path):
    async with asking(base, token_a, method, path) as ask:
        with recorded() as lines:
            for wanted in (MISSING, A.uuid(99), "no-uuid", A.uuid(THING_IDS[noun_of(path) or ""])):
                await ask(wanted)
            await looked_up(app)
            assert counted(app, path) == 0
            assert [line for line in lines if line["message"] == MESSAGE] == []
            status, _, problem = await ask(foreign_of(path), **{"X-Request-Id": "asked-by-a"})
            assert status == 404
            await until(lambda: counted(app, path) == 1)
    [line] = [line for line in lines if line["message"] == MESSAGE]
    assert (line["level"], line["event_type"], line["route"]) == ("WARNING", "cross_tenant_access", path)
    assert (line["tenant_id"], line["user_id"], line["request_id"]) == (A.id, A.user, "asked-by-a")
    assert line["trace_id"] == problem["trace_id"]
    answered = next(i for i, each in enumerate(lines) if each["message"] == "Request answered" and each["status"] == 404
                    and each["request_id"] == "asked-by-a")  # fmt: skip
    assert lines.index(line) > answered, "told before the answer"


async def test_channels_of_other_tenants_are_logged_and_counted(two, app, base, token_a):
    """Those of nobody are not, and those of another user are refused within the tenant."""
    unknown = [missing for _, missing in CHANNELS] + [f"user:{B.user}:tasks", "nonsense", "tenant:a\x00b:events"]
    known = [f"tenant:{B.id}:events", f"lead:{B.lead}:timeline"]
    with recorded() as lines:
        async with connect(base, token_a) as socket:
            for name in (*unknown, *known):
                assert (await socket.subscribe(name))["success"] is False
            await until(lambda: counted(app, "/ws") == 2)
            connection = socket.welcome["connection_id"]
        for number, name in enumerate(known, 1):
            for route in ("/api/events", "/api/events/stream"):
                status, _, _ = await get(base, f"{route}?channel={name}", token_a)
                assert status == 404
                assert (await get(base, f"{route}?channel=tenant:nobody:events", token_a))[0] == 404
                await until(lambda route=route, number=number: counted(app, route) == number)
        await looked_up(app)
    told = [line for line in lines if line["message"] == MESSAGE]
    assert len(told) == 6
    assert [line["connection_id"] for line in told[:2]] == [connection] * 2
    assert len([line for line in lines if line["message"] == "Subscription refused"]) == len(unknown) + len(known) + 8


async def test_many_refusals_wait_for_nobody_and_are_bounded(two, app, base, token_a, monkeypatch):
    monkeypatch.setattr(foreign_ids, "BOUND", 5)
    foreign = app[keys.FOREIGN]
    with recorded() as lines:
        for _ in range(50):
            foreign.note(A.id, "lead", B.lead, "/api/leads/{id}")
        await until(lambda: counted(app, "/api/leads/{id}") == 5)
        await until(lambda: any(line["message"] == "Refused ids were not looked up" for line in lines))
    assert [line["count"] for line in lines if line["message"] == "Refused ids were not looked up"] == [45]


async def test_a_database_that_is_away_delays_and_breaks_nothing(two, app, base, token_a, monkeypatch):
    class Away:
        async def run(self, name, sql, parameters):
            raise StoreUnavailable

    foreign = app[keys.FOREIGN]
    monkeypatch.setattr(foreign, "_system", Away())
    with recorded() as lines:
        assert (await get(base, f"/api/leads/{B.lead}", token_a))[0] == 404
        await until(lambda: any(line["message"] == "Refused ids were not looked up" for line in lines))
    monkeypatch.undo()
    assert (await get(base, f"/api/leads/{B.lead}", token_a))[0] == 404
    await until(lambda: counted(app, "/api/leads/{id}") == 1)
