"""The promise of the protocol, for any order of what can happen: two API processes on one PostgreSQL and one Redis,
clients that come, join, stall, vanish and resume on either, hints that are lost and repeated, a log that forgets and
one that is restored. A model of the log and of what each client asked for says what must have come, once and in order.

OTTO_HYPOTHESIS=long looks further, each time elsewhere.
"""

import asyncio
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any, NamedTuple

import aiohttp
import pytest
import redis
from aiohttp import TCPConnector, web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ottoai.app import build_app
from ottoai.config import Config
from ottoai.realtime import fanout, hub, stream
from ottoai.realtime.messages import CloseCode
from ottoai.web import keys, session
from ottoai.web.auth import issue
from tests.conftest import add_tenant, execute, make_config, of_tenant
from tests.helpers import until

LONG = os.environ.get("OTTO_HYPOTHESIS") == "long"
RECEIVE_BUFFER = 4_096
FILLERS = (0, 0, 6_000)  # a handful of large events is more than a client takes that does not read
MOST_CLIENTS = 5
NAME = "the-test"  # of this test's own connections to Redis
USERS = ("ann", "ben")
DROPPED = "system.buffer_dropped"


# What must be


class Log:
    """What a tenant's log holds, and held."""

    def __init__(self, tenant: str, leads: list[str], epoch: int) -> None:
        self.tenant = tenant
        self.leads = leads
        self.epoch = epoch
        self.head = 0
        self.oldest = 1
        self.events: dict[int, tuple[int, frozenset[str]]] = {}  # (what tells it from others, channels) by number
        self.transient: dict[int, frozenset[str]] = {}

    @property
    def channels(self) -> list[str]:
        return [
            f"tenant:{self.tenant}:events",
            *(f"lead:{lead}:timeline" for lead in self.leads),
            *(f"user:{user}:tasks" for user in USERS),
        ]

    def heard_on(self, lead: str | None, user: str | None) -> frozenset[str]:
        about = {f"lead:{lead}:timeline", f"user:{user}:tasks"} & set(self.channels)
        return frozenset({f"tenant:{self.tenant}:events"} | about)

    def add(self, seq: int, n: int, channels: frozenset[str]) -> None:
        assert seq not in self.events, f"{seq} was given twice"
        self.events[seq] = (n, channels)
        self.head = max(self.head, seq)

    def restore(self, lost: int) -> None:
        head = max(self.head - lost, self.oldest - 1)
        self.events = {seq: event for seq, event in self.events.items() if seq <= head}
        self.epoch += 1
        self.head = head


class Asked(NamedTuple):
    """A message of the client, and where the log stood."""

    kind: str
    channel: str
    since: str | int | None
    head: int
    oldest: int


class Client:
    """One connection: what it asked, what it was told, and whether that is right."""

    def __init__(self, log: Log, user: str) -> None:
        self.log = log
        self.user = user
        self.epoch: int | None = None
        self.told: list[dict[str, Any]] = []
        self.code: int | None = None  # with which the server closed it
        self.stalled = self.has_stalled = False
        self.doomed = False  # its epoch is over: it will be closed, and what it is told until then is nothing
        self.asked: deque[Asked] = deque()
        self.joined: dict[str, int] = {}  # each channel with the number after which its events are due
        self.last: dict[str, int] = {}  # the last number that came on a channel since it was joined
        self.place: dict[str, str] = {}  # where the client would resume
        self._seen = 0
        self._got: set[int] = set()
        self._again: set[int] = set()
        self._transient: set[int] = set()

    def wanted(self, seq: int) -> bool:
        _, channels = self.log.events[seq]
        return any(seq > self.joined.get(channel, seq) for channel in channels)

    @property
    def owed(self) -> list[int]:
        return sorted(seq for seq in self.log.events.keys() - self._got if self.wanted(seq))

    def look(self) -> None:
        """Judge what came since the last look."""
        for message in self.told[self._seen :]:
            if not self.doomed:
                getattr(self, f"_{message['type']}")(message)
        self._seen = len(self.told)
        assert self.code is None or self.doomed, f"closed with {self.code}"

    def _welcome(self, message: dict[str, Any]) -> None:
        assert (message["tenant_id"], message["user_id"]) == (self.log.tenant, self.user)
        if self.epoch is not None:
            assert self.asked.popleft().kind == "auth"
            assert message["epoch"] == self.epoch
        self.epoch = message["epoch"]
        self.doomed = self.epoch != self.log.epoch

    def _pong(self, message: dict[str, Any]) -> None:
        assert self.asked.popleft().kind == "ping"

    def _subscribe_result(self, message: dict[str, Any]) -> None:
        asked = self.asked.popleft()
        assert (asked.kind, asked.channel) == ("subscribe", message["channel"])
        may = not asked.channel.startswith("user:") or asked.channel == f"user:{self.user}:tasks"
        assert message["success"] is may, message
        if not may:
            return
        seq, recovered = message["seq"], message["recovered"]
        assert message["epoch"] == self.epoch
        after = self._recovered(asked, recovered)
        assert seq <= max(self.log.head, after or 0)
        start = seq if after is None else after
        on_channel = {s for s, (_, channels) in self.log.events.items() if asked.channel in channels}
        if after is None or asked.oldest == self.log.oldest:
            replayed = len([s for s in on_channel if start < s <= seq])
            assert message["replayed"] == replayed, f"{message}: {replayed} there are"
        self._leave(asked.channel)
        self._got -= {s for s in on_channel if s > start and not self.wanted(s)}
        self.joined[asked.channel] = self.last[asked.channel] = start
        self.place[asked.channel] = f"{self.epoch}.{start}"

    def _recovered(self, asked: Asked, recovered: bool | None) -> int | None:
        """The number after which everything was promised; None if nothing was."""
        if asked.since is None:
            assert recovered is None
            return None
        epoch, _, number = str(asked.since).rpartition(".")
        after = int(number)
        right_epoch = epoch in {"", str(self.epoch)}
        if right_epoch and self.log.oldest - 1 <= after <= asked.head:
            assert recovered is True, f"{asked}: the log goes from {self.log.oldest} to {self.log.head}"
        if not right_epoch or after > self.log.head:
            assert recovered is False, f"{asked}: the log goes from {self.log.oldest} to {self.log.head}"
        # Else the log is shorter than that, or was for a while; a process may remember more, and has to prove it.
        return after if recovered else None

    def _unsubscribe_result(self, message: dict[str, Any]) -> None:
        asked = self.asked.popleft()
        assert (asked.kind, asked.channel) == ("unsubscribe", message["channel"])
        assert message["success"] is (asked.channel in self.joined)
        self._leave(asked.channel)
        self.place.pop(asked.channel, None)

    def _leave(self, channel: str) -> None:
        # What it brought, another channel whose replay is under way may bring again.
        start = self.joined.pop(channel, self.log.head)
        self._again |= {s for s in self._got if s > start and channel in self.log.events[s][1]}

    def _event(self, message: dict[str, Any]) -> None:
        if message["event"] == DROPPED:
            lost = range(message["data"]["from_seq"], message["data"]["to_seq"] + 1)
            assert lost, message
            assert lost[-1] < self.log.oldest, f"{message}: the log begins at {self.log.oldest}"
            self._got.update(lost)
            return
        n, seq = message["data"]["n"], message["seq"]
        if seq is None:
            assert n not in self._transient, "a transient event came twice"
            self._transient.add(n)
            assert self.log.transient[n] & self.joined.keys(), "a transient event of no channel that was joined"
            return
        known, channels = self.log.events[seq]
        assert n == known, f"{seq} is another event"
        assert self.wanted(seq), f"{seq} is of {set(channels)}; joined are {self.joined}"
        assert seq not in self._got - self._again, f"{seq} came twice"
        self._got.add(seq)
        self._again.discard(seq)
        for channel in channels & self.joined.keys():
            if seq > self.joined[channel]:
                assert seq > self.last[channel], f"{seq} came after {self.last[channel]} on {channel}"
                self.last[channel] = seq
                self.place[channel] = f"{self.epoch}.{seq}"


# What there is


class Stores:
    """Two API processes, and the loop that they and their clients live on; it runs while something is waited for."""

    def __init__(self, runner: asyncio.Runner, config: Config) -> None:
        self.config = config
        self.run = runner.run
        self.redis = redis.Redis.from_url(config.redis_url, client_name=NAME)
        self.hints = self.redis.pubsub()
        self.hints.psubscribe("hint:*")
        self.apps: list[web.Application] = []
        self.servers: list[TestServer] = []
        self.tenants = 0

    async def start(self) -> None:
        self.session = aiohttp.ClientSession(
            connector=TCPConnector(limit=0, socket_factory=_small_socket), headers={"X-Dev-Key": "dev"}
        )
        for _ in range(2):
            self.apps.append(build_app(self.config))
            self.servers.append(TestServer(self.apps[-1]))
            await self.servers[-1].start_server()

    async def stop(self) -> None:
        await self.session.close()
        for server in self.servers:
            await server.close()

    def close(self) -> None:
        self.hints.close()
        self.redis.close()

    def url(self, api: int, path: str) -> str:
        return str(self.servers[api].make_url(path))

    async def tenant(self) -> Log:
        """A new tenant with two leads."""
        self.tenants += 1
        name = f"t{self.tenants}"
        await add_tenant(self.apps[0][keys.DB], name, company=name, number=f"+1212555{self.tenants:04}")
        url = self.config.database_url
        insert = """insert into leads (tenant_id, phone, last_contact_at)
                    select current_tenant(), n::text, now() from generate_series(1, 2) as n returning id::text"""
        leads = [str(lead) for (lead,) in of_tenant(url, insert, tenant=name)]
        [(epoch,)] = of_tenant(url, "select epoch from heads", tenant=name)
        return Log(name, leads, int(str(epoch)))


def _small_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    made.setblocking(False)
    return made


@pytest.fixture
def stores(database_url, redis_url, monkeypatch) -> Iterator[Stores]:
    # So small that a few events pass every limit.
    monkeypatch.setattr(stream, "RING_EVENTS", 6)
    monkeypatch.setattr(hub, "REPAIR_PAGE", 3)
    monkeypatch.setattr(fanout, "READ_PAGE", 3)
    monkeypatch.setattr(fanout, "CHUNK", 2_000)
    for module in (fanout, session):
        monkeypatch.setattr(module, "HIGH", 4_000)
    monkeypatch.setattr(fanout, "LOW", 1_000)
    monkeypatch.setattr(session, "SEND_BUFFER", 4_096)
    if hasattr(hub, "REACH_PAGE"):
        monkeypatch.setattr(hub, "REACH_PAGE", 2)
    many = {"WS_MESSAGES_PER_MINUTE": "100000", "WS_CONNECTIONS_PER_USER": "1000"}
    with asyncio.Runner() as runner, closing(Stores(runner, make_config(database_url, redis_url, **many))) as stores:
        runner.run(stores.start())
        try:
            yield stores
        finally:
            runner.run(stores.stop())


class Link:
    """A client and the socket that it has."""

    def __init__(self, client: Client, raw: aiohttp.ClientWebSocketResponse) -> None:
        self.client = client
        self.raw = raw
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.raw:
            self.client.told.append(json.loads(message.data))
        self.client.code = self.raw.close_code

    @property
    def transport(self) -> Any:
        return self.raw._conn.transport if self.raw._conn else None

    def stall(self, stalled: bool) -> None:
        if self.client.stalled is not stalled and self.transport is not None:
            (self.transport.pause_reading if stalled else self.transport.resume_reading)()
        self.client.stalled = stalled
        self.client.has_stalled |= stalled

    async def ask(self, kind: str, channel: str = "", since: str | int | None = None, **more: Any) -> None:
        log = self.client.log
        self.client.asked.append(Asked(kind, channel, since, log.head, log.oldest))
        fields = {"type": kind, **({"channel": channel} if channel else {}), **more}
        if since is not None:
            fields["since"] = since
        try:
            await self.raw.send_json(fields)
        except ConnectionError:
            assert self.client.doomed

    async def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.reader.cancel()
        await asyncio.wait([self.reader])
        await self.raw.close()


# What can happen

clients = st.integers(0, MOST_CLIENTS - 1)
apis = st.integers(0, 1)
# Of the log's channels: the tenant's most often, since on it meets what belongs to the others too.
channels = st.lists(st.sampled_from([0, 0, 1, 2, 3, 4]), min_size=1, max_size=3, unique=True)
abouts = st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from([None, *USERS]), st.sampled_from(FILLERS))
batches = st.one_of(
    st.lists(abouts, min_size=1, max_size=8),
    st.builds(lambda about, number: [about] * number, abouts, st.integers(2, 12)),
)
sinces = st.one_of(
    st.none(),
    st.tuples(st.just("back"), st.integers(0, 12)),
    st.tuples(st.sampled_from(["oldest", "ahead", "other epoch"]), st.integers(0, 2)),
)


class Live(RuleBasedStateMachine):
    stores: Stores  # given by the test
    log: Log
    within = 10.0  # seconds for all that must come

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.hints: list[dict[str, Any]] = []  # those about durable events that were published for the tenant
        self.emitted = 0

    @initialize(joined=st.lists(channels, min_size=1, max_size=3), about=st.lists(abouts, max_size=12))
    def begin(self, joined: list[list[int]], about: list[tuple[int | None, str | None, int]]) -> None:
        self.log = self.run(self.stores.tenant())
        self.append([self.draft(*each) for each in about])
        for n, names in enumerate(joined):
            self.connect(n % 2, USERS[n // 2], names, None)

    def run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.stores.run(doing)

    def link(self, index: int) -> Link:
        # Which connections there are depends on time, what is drawn must not: so no preconditions.
        if not self.links:
            self.links.append(self.run(self._connect(index % 2, USERS[0])))
        return self.links[index % len(self.links)]

    @invariant()
    def nothing_wrong_has_come(self) -> None:
        for link in self.links:
            link.client.look()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.settle()
        finally:
            for link in self.links:
                self.run(link.drop())

    # Clients

    @rule(api=apis, user=st.sampled_from(USERS), joined=channels, since=sinces)
    def connect(self, api: int, user: str, joined: list[int], since: tuple[str, int] | None) -> None:
        if len(self.links) == MOST_CLIENTS:
            self.run(self.links.pop(0).drop())
        self.links.append(self.run(self._connect(api, user)))
        self.subscribe(-1, joined, since, bare=False, wait=True)

    async def _connect(self, api: int, user: str) -> Link:
        client = Client(self.log, user)
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        link = Link(client, await self.stores.session.ws_connect(self.stores.url(api, "/ws"), headers=headers))
        await until(lambda: client.told or client.code)
        client.look()
        return link

    def token(self, user: str) -> str:
        return issue(self.stores.config, self.log.tenant, user, "member", timedelta(hours=1))

    @rule(client=clients, joined=channels, since=sinces, bare=st.booleans(), wait=st.booleans())
    def subscribe(
        self, client: int, joined: list[int], since: tuple[str, int] | None, *, bare: bool, wait: bool
    ) -> None:
        place = None if since is None else self.place(*since, bare=bare)
        self.run(self._ask(self.link(client), [("subscribe", self.log.channels[n], place) for n in joined], wait=wait))

    def place(self, kind: str, number: int, *, bare: bool) -> str | int:
        log = self.log
        if kind == "other epoch":
            return f"{log.epoch - 1 + 2 * (number % 2)}.{log.head}"
        seq = max(0, {"back": log.head - number, "oldest": log.oldest - number, "ahead": log.head + 1 + number}[kind])
        return seq if bare else f"{log.epoch}.{seq}"

    @rule(client=clients, left=channels, wait=st.booleans())
    def unsubscribe(self, client: int, left: list[int], *, wait: bool) -> None:
        self.run(self._ask(self.link(client), [("unsubscribe", self.log.channels[n]) for n in left], wait=wait))

    @rule(client=clients, new_token=st.booleans())
    def talk(self, client: int, *, new_token: bool) -> None:
        link = self.link(client)
        token = self.token(link.client.user)
        self.run(link.ask("auth", token=token) if new_token else self._ask(link, [("ping",)], wait=True))

    async def _ask(self, link: Link, messages: list[tuple[Any, ...]], *, wait: bool) -> None:
        for message in messages:
            await link.ask(*message)
        if wait and not link.client.stalled:
            await until(lambda: _answered(link.client))

    @rule(client=clients, stalled=st.booleans())
    def stall(self, client: int, *, stalled: bool) -> None:
        self.link(client).stall(stalled)

    @rule(client=clients, api=apis)
    def drop_and_resume(self, client: int, api: int) -> None:
        link = self.link(client)
        self.links.remove(link)
        self.run(link.drop())
        link.client.look()
        again = self.run(self._connect(api, link.client.user))
        self.links.append(again)
        places = link.client.place.items()
        self.run(self._ask(again, [("subscribe", channel, place) for channel, place in places], wait=True))

    # Events

    @rule(
        how=st.sampled_from(["one by one", "one by one", "at the same time", "transient", "without a word"]),
        about=st.lists(abouts, min_size=1, max_size=8)
        | st.builds(lambda one, n: [one] * n, abouts, st.integers(2, 12)),
        api=apis,
    )
    def emit(self, how: str, about: list[tuple[int | None, str | None, int]], api: int) -> None:
        drafts = [self.draft(*each) for each in about]
        if how == "without a word":
            self.append(drafts)
        elif how == "at the same time":
            self.run(_together(self._emit(n % 2, draft) for n, draft in enumerate(drafts)))
        else:
            for draft in drafts:
                self.run(self._emit(api, draft, transient=how == "transient"))

    def draft(self, lead: int | None, user: str | None, filler: int) -> dict[str, Any]:
        self.emitted += 1
        about = {"lead_id": None if lead is None else self.log.leads[lead], "user_id": user}
        return {"event": "test.x", "data": {"n": self.emitted, "filler": "x" * filler}, **about}

    async def _emit(self, api: int, draft: dict[str, Any], *, transient: bool = False) -> None:
        channels = self.log.heard_on(draft["lead_id"], draft["user_id"])
        query = {name: draft[name] for name in ("event", "lead_id", "user_id") if draft[name]}
        query |= {"tenant_id": self.log.tenant, "transient": str(int(transient))}
        if transient:
            self.log.transient[draft["data"]["n"]] = channels
        url = self.stores.url(api, "/ws/test-emit")
        async with self.stores.session.post(url, params=query, json=draft["data"]) as answer:
            body = await answer.json()
        assert answer.status == 200, body
        if not transient:
            self.log.add(body["seq"], draft["data"]["n"], channels)

    def append(self, drafts: list[dict[str, Any]]) -> None:
        """As a process does that dies before it tells anybody."""
        tenant = self.log.tenant
        statement = "select seq from append_events(%s, '', %s::jsonb) order by seq"
        rows = of_tenant(self.stores.config.database_url, statement, tenant, json.dumps(drafts), tenant=tenant)
        for (seq,), draft in zip(rows, drafts, strict=True):
            assert isinstance(seq, int)
            self.log.add(seq, draft["data"]["n"], self.log.heard_on(draft["lead_id"], draft["user_id"]))

    # Stores

    @rule(what=st.sampled_from(["emptied", "cut off", "an old hint again"]), number=st.integers(0, 20))
    def redis(self, what: str, number: int) -> None:
        client = self.stores.redis
        if what == "emptied":
            client.flushall()
        elif what == "cut off":
            for each in client.client_list(_type="pubsub"):
                if each["name"] != NAME:
                    client.client_kill(each["addr"])
        elif hints := self._durable_hints():
            hint = {**hints[number % len(hints)], "origin": "another process"}
            client.publish(f"hint:{self.log.tenant}", json.dumps(hint))

    def _durable_hints(self) -> list[dict[str, Any]]:
        while (message := self.stores.hints.get_message(ignore_subscribe_messages=True)) is not None:
            hint = json.loads(message["data"])
            if hint["appended"]["tenant_id"] == self.log.tenant and hint["appended"]["events"][0]["seq"] is not None:
                self.hints.append(hint)
        return self.hints

    @rule(part=st.floats(0, 1))
    def forget(self, part: float) -> None:
        log = self.log
        gone = round((log.head - log.oldest + 1) * part)
        if (
            log.oldest + gone > log.head >= log.oldest
        ):  # no process that did not hear of an event could tell that there was one
            self.settle()
        log.oldest += gone
        self._system("delete from events where tenant_id = %s and seq < %s", log.tenant, log.oldest)

    @rule(lost=st.integers(0, 3))
    def restore(self, lost: int) -> None:
        """A backup that has not the latest events."""
        self.nothing_wrong_has_come()
        for link in self.links:
            link.client.doomed = True
        self.log.restore(lost)
        log = self.log
        self._system("delete from events where tenant_id = %s and seq > %s", log.tenant, log.head)
        self._system("update heads set seq = %s, epoch = %s where tenant_id = %s", log.head, log.epoch, log.tenant)

    def _system(self, statement: str, *values: object) -> None:
        execute(self.stores.config.database_url, f"set role ottoai_system; {statement}", *values)

    # Time

    @rule(turns=st.integers(1, 20))
    def go_on(self, turns: int) -> None:
        self.run(_turns(turns))

    @rule()
    def settle(self) -> None:
        for link in self.links:
            link.stall(False)
        self.run(self._settle())
        self.links = [link for link in self.links if not link.client.doomed]

    async def _settle(self) -> None:
        hubs = [app[keys.HUB] for app in self.stores.apps]
        for each in hubs:
            await each.compare_heads()
        streams = [each.streams[self.log.tenant] for each in hubs if self.log.tenant in each.streams]
        try:
            await until(lambda: all(stream.head == self.log.head for stream in streams), self.within)
            await until(lambda: all(_settled(link.client) for link in self.links), self.within)
        except TimeoutError:
            owed = {n: (c.owed, c.asked, c.code) for n, c in enumerate(link.client for link in self.links)}
            raise AssertionError(f"did not come: {owed}") from None


def _answered(client: Client) -> bool:
    client.look()
    return client.doomed or not client.asked


def _settled(client: Client) -> bool:
    client.look()
    if not client.doomed:
        return not client.asked and not client.owed
    # Who does not answer a close is cut off after a while.
    assert client.code in {None, CloseCode.RESTARTING} or client.has_stalled
    return client.code is not None


async def _together(doing: Iterable[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*doing)


async def _turns(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def of(stores: Stores) -> type[Live]:
    return type("Live", (Live,), {"stores": stores})


@pytest.mark.timeout(7_200 if LONG else 300)
def test_whatever_happens_each_event_comes_once_and_in_order(stores):
    run_state_machine_as_test(
        of(stores),
        settings=settings(
            max_examples=400 if LONG else 25,
            stateful_step_count=60 if LONG else 30,
            derandomize=not LONG,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# What it has found


@pytest.mark.parametrize("joined", [0, 1, 3])
def test_what_was_forgotten_before_a_slow_client_came_to_it_is_said_on_every_channel(stores, joined):
    live = of(stores)()
    live.within = 2.0
    try:
        live.begin(about=[], joined=[[joined]])
        live.stall(client=0, stalled=True)
        live.emit("one by one", [(0, "ann", 6_000)] * 20, 0)
        live.forget(0.8)
        live.settle()
        said = [message["data"] for message in live.links[0].client.told if message.get("event") == DROPPED]
        assert len(said) == 1
        assert said[0]["to_seq"] == live.log.oldest - 1
    finally:
        live.teardown()


def test_a_log_that_forgot_all_before_a_process_heard_of_it_still_stands_where_it_stands(stores):
    live = of(stores)()
    live.within = 2.0
    try:
        live.begin(about=[], joined=[[0]])
        live.append([live.draft(None, None, 0)])
        live.log.oldest = 2
        live._system("delete from events where tenant_id = %s", live.log.tenant)
        live.subscribe(0, [0], ("back", 0), bare=False, wait=True)
        live.settle()
    finally:
        live.teardown()
