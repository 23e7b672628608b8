"""One harm after the other is done to a deployment that is well: the alert that belongs to it is told, once, although
the process that speaks dies, is suspended or loses its stores while it tells, or the receiver fails; its end is told
once; and nothing is told that no harm explains.

The short form has one harm and is part of all tests; `make chaos` has them all. CHAOS_SEED repeats the plan.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
from aiohttp import web

from ottoai import samples
from ottoai.ops.monitor import EVERY
from ottoai.webhooks import callrail
from tests.chaos.fleet import Fleet, Place
from tests.chaos.links import HOST
from tests.conftest import GENEROUS, SIGNING_KEY, execute
from tests.slack import BUSY, Slack, lease_ends, slack_of

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED") or (random.randrange(10**6) if LONG else 1))
WELL_WITHIN = 60.0
TOLD_WITHIN = 240.0 if LONG else 60.0
OVER_WITHIN = 420.0
WRITTEN_WITHIN = 30.0
SUSPENDED = 20.0  # seconds: longer than the lease of who speaks
TENANT = "chaos-0"


@dataclass(frozen=True)
class Harm:
    """Something that is done, the alert that tells of it, and what else may follow from it. `undo` None: it is over at
    once, but its alert has a window of an hour.
    """

    alert: str
    others: frozenset[str]
    do: Callable[["Fleet"], Awaitable[None]]
    undo: Callable[["Fleet"], Awaitable[None]] | None


async def poison(fleet: Fleet) -> None:
    """A genuine delivery that nobody can read."""
    body = samples.callrail("call-complete", samples.new_call_id(), company_id=1000, company_resource_id=None,
                            tracking_phone_number=None, duration="long")  # fmt: skip
    data = msgspec.json.encode(body)
    headers = {"Content-Type": "application/json", "Signature": callrail.sign(data, SIGNING_KEY.format(TENANT))}
    url = f"http://{HOST}:{fleet.address.port}/call-rail/call-complete"
    async with aiohttp.ClientSession() as session, session.post(url, data=BytesIO(data), headers=headers) as response:
        assert (await response.json())["status"] == "quarantined"


async def pause(fleet: Fleet) -> None:
    sql = "insert into paused_queues (queue, paused_by) values ('bulk', 'chaos')"
    await asyncio.to_thread(execute, fleet.database.url, sql)


async def go_on(fleet: Fleet) -> None:
    await asyncio.to_thread(execute, fleet.database.url, "delete from paused_queues")


LATE = frozenset({"probe_failed.warning", "probe_failed.critical"})
IDLE = LATE | {"queue_age.warning", "outbox_age.warning", "queue_length.warning"}
UNTICKED = frozenset({"beat_tick.warning", "beat_tick.critical"})
# While a store is away nobody hears from workers and beat, what asks it waits, and what was asked fails.
STORELESS = IDLE | UNTICKED | {
    "ready.critical", "worker.critical", "beat.critical", "http_errors.warning",
    "http_errors.critical", "http_budget_fast.critical", "db_pool.warning", "redis_errors.warning", "redis_up.warning",
    "redis_up.critical", "webhook_spool.warning", "tasks_failing.warning", "tasks_failed.critical",
    "task_budget.critical", "task_p95.warning",
}  # fmt: skip

HARMS = (
    Harm("webhook_quarantined.warning", frozenset(), poison, None),
    Harm("queue_paused.info", frozenset(), pause, go_on),
    Harm("worker.critical", IDLE, lambda fleet: fleet.remove("worker"), lambda fleet: fleet.put_back("worker")),
    Harm("beat.critical", UNTICKED, lambda fleet: fleet.remove("beat"), lambda fleet: fleet.put_back("beat")),
    Harm("database.critical", STORELESS, Fleet.stop_database, Fleet.start_database),
    Harm("redis.critical", STORELESS, Fleet.stop_redis, Fleet.start_redis),
)  # fmt: skip


STORES = ("database.critical", "redis.critical")


@dataclass
class Trouble:
    """What befalls whoever tells of an alert for the first time; the message is not taken then."""

    fleet: Fleet
    slack: Slack
    kinds: tuple[str, ...]
    left: dict[str, int] = field(default_factory=dict)  # alerts that are yet to be disturbed, and how often
    done: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def note(self, what: str) -> None:
        self.said.append(f"{time.monotonic() - self.began:6.1f} s  {what}")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        message = msgspec.json.decode(await request.read())
        name = message["attachments"][0]["title"]
        assert request.transport
        port = request.transport.get_extra_info("peername")[1]
        by = next((each for each in self.fleet.places if _speaks_from(each, port)), None)
        who = by.name if by else "somebody"
        if self.left.get(name, 0) > 0 and not message["text"].startswith("Resolved"):
            self.left[name] -= 1
            # With both stores away each speaks for itself, and is allowed to: one harm to a store is enough.
            kind = self.fleet.rng.choice([each for each in self.kinds if name not in STORES or "lose" not in each])
            self.done[kind] += 1
            self.note(f"{who}: {message['text']} [{kind}: {await getattr(self, kind)(by)}]")
            request.transport.abort()
            return web.Response()
        self.note(f"{who}: {message['text']}")
        self.slack.messages.append(message)
        return web.Response(text="ok")

    async def kill(self, place: Place | None) -> str:
        what = await self.fleet.replace(signal.SIGKILL, place)
        if not LONG:  # else it takes the fifteen seconds that it takes
            await asyncio.to_thread(lease_ends, self.fleet.database.url, self.fleet.redis.url)
        return what

    async def terminate(self, place: Place | None) -> str:
        return await self.fleet.replace(signal.SIGTERM, place)

    async def suspend(self, place: Place | None) -> str:
        return await self.fleet.suspend(place, SUSPENDED)

    async def fail(self, _: Place | None) -> str:
        """Nothing but that the receiver does not take it."""
        return ""

    async def lose_redis(self, _: Place | None) -> str:
        return await self.fleet.kill_redis()

    async def lose_database(self, _: Place | None) -> str:
        return await self.fleet.kill_database()


def _speaks_from(place: Place, port: int) -> bool:
    """Whether a process's connection begins at this port."""
    try:
        found = psutil.Process(place.process.pid).net_connections("tcp") if place.process else []
    except psutil.Error:
        return False
    return any(each.laddr and each.laddr.port == port for each in found)


async def until(what: str, within: float, reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + within
    while not reached():
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        await asyncio.sleep(0.2)


def told(slack: Slack, *, over: bool) -> Counter[str]:
    """How often each alert, or its end, was told."""
    return Counter(
        message["attachments"][0]["title"]
        for message in slack.messages
        if message["text"].startswith("Resolved") is over
    )


async def well(fleet: Fleet) -> None:
    """Until somebody speaks, and each api process says that all is there."""
    deadline = time.monotonic() + WELL_WITHIN
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(3)) as session:
        for place in (each for each in fleet.places if each.name.startswith("api")):
            while True:
                try:
                    async with session.get(f"http://{HOST}:{place.port}/ready") as response:
                        components = (await response.json())["components"]
                        if response.status == 200 and all(components.values()):
                            break
                except (aiohttp.ClientError, TimeoutError):
                    components = {}
                assert time.monotonic() < deadline, f"{place.name} says {components}"
                await asyncio.sleep(0.2)
    sql = "select 1 from ops_leases where leased_until > now()"
    await until("nobody speaks", WELL_WITHIN, lambda: execute(fleet.database.url, sql))


async def written(fleet: Fleet, slack: Slack) -> None:
    """Until what was told is in its rows, and whoever speaks next has read that there. Who tells of one harm and loses
    both stores before it can leave word tells again, and is allowed to: each harm here is one by itself.
    """
    deadline = time.monotonic() + WRITTEN_WITHIN
    while any(heard != known for _, heard, known in compared(fleet, slack)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    await asyncio.sleep(2 * EVERY if LONG else 0)


def compared(fleet: Fleet, slack: Slack) -> Iterator[tuple[str, int, int]]:
    """(alert or its end, how often it was told, how often its rows say so)."""
    rows = execute(fleet.database.url, "select name, fired_notified_at, resolved_notified_at from alerts")
    for over in (False, True):
        known = Counter(str(row[0]) for row in rows if row[1 + over])
        heard = told(slack, over=over)
        for name in known.keys() | heard.keys():
            yield f"{'the end of ' * over}{name}", heard[name], known[name]


def check(fleet: Fleet, slack: Slack, done: list[Harm]) -> Iterator[str]:
    """What is not as it was promised."""
    explained = {name for harm in done for name in (harm.alert, *harm.others)}
    rows = execute(fleet.database.url, "select name, count(*) from alerts where fired_at is not null group by name")
    fired = Counter({str(name): int(str(count)) for name, count in rows})
    for name in fired.keys() - explained:
        if name.partition(".")[0] not in BUSY:
            yield f"{name} fired, and nothing explains it"
    # A process that begins while PostgreSQL is away cannot know what others were told of before; it may say it again.
    # An end that was told while its row could not be written is known by its mark in Redis.
    yield from (
        f"{what} was told {heard} times, {known} are written"
        for what, heard, known in compared(fleet, slack)
        if heard < known or (not LONG and heard != known)
    )
    for harm in done:
        times = fired[harm.alert], told(slack, over=False)[harm.alert], told(slack, over=True)[harm.alert]
        # What an hour's window is about goes with the process that counted it, and may come back.
        if times != (1, 1, 1) and (harm.undo or times[0] != times[1]):
            yield f"{harm.alert} fired, was told and ended {times} times"


@pytest.mark.timeout(3600 if LONG else 180)
async def test_each_harm_is_told_once_and_nothing_else_is(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    harms = list(HARMS) if LONG else [HARMS[0]]
    rng.shuffle(harms)
    async with slack_of() as slack:
        fleet = Fleet(tmp_path, random.Random(SEED + 1), [TENANT], ALERT_WEBHOOK_URL=slack.url, **GENEROUS)
        fleet.victims = ("api",)
        kinds = ("kill", "terminate", "suspend", "fail", "lose_redis", "lose_database") if LONG else ("kill",)
        trouble = Trouble(fleet, slack, kinds)
        slack.answer = trouble.answer
        began, done = time.monotonic(), list[Harm]()
        try:
            await fleet.start()
            await well(fleet)
            for harm in harms:
                trouble.left[harm.alert] = rng.choice((1, 1, 2)) if LONG else 1
                done.append(harm)
                trouble.note(f"--- {harm.alert}")
                await harm.do(fleet)
                await until(harm.alert, TOLD_WITHIN, lambda name=harm.alert: told(slack, over=False)[name])
                if harm.undo and harm.undo is not Fleet.start_database:  # else it can be written only after that
                    await written(fleet, slack)
                if harm.undo:
                    await harm.undo(fleet)
                await fleet.quiet()
                print(f"{time.monotonic() - began:6.0f} s  {harm.alert}, disturbed: {dict(trouble.done)}", flush=True)
                await well(fleet)
                await written(fleet, slack)
            if LONG:
                deadline = time.monotonic() + OVER_WITHIN
                while left := {harm.alert for harm in done if harm.undo} - told(slack, over=True).keys():
                    said = "\n".join(trouble.said)
                    assert time.monotonic() < deadline, f"CHAOS_SEED={SEED}: no end of {left}. Told was:\n{said}"
                    await asyncio.sleep(0.2)
                await written(fleet, slack)
            wrong = await asyncio.to_thread(lambda: list(check(fleet, slack, done)))
            print(f"CHAOS_SEED={SEED}: {len(harms)} harms, told {dict(told(slack, over=False))}, over "
                  f"{dict(told(slack, over=True))}; while told: {dict(trouble.done)}", flush=True)  # fmt: skip
            assert not wrong, "\n".join([f"CHAOS_SEED={SEED}", *wrong, "What was told:", *trouble.said])
            assert trouble.done.total() >= len(harms)
        finally:
            await fleet.stop()
