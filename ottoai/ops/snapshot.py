"""Gathers what the status page shows, each part within a second; shared by all who ask."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from ottoai import __version__, tally
from ottoai.background import end
from ottoai.db import Session, queries
from ottoai.domain import audit, failed_jobs, paused, periodic
from ottoai.errors import StoreUnavailable
from ottoai.ops.monitor import Monitor
from ottoai.ops.sparks import Spark, sparks
from ottoai.ops.status import Connections, Jobs, Process, Quarantine, Queue, Status, words
from ottoai.ops.watch import Watch
from ottoai.queue import QUEUES, Depth
from ottoai.webhooks import quarantine

LIMIT: Final = 1.0  # seconds for each part
SHARED: Final = 1.0  # seconds that what was gathered serves others too
SHOWN: Final = 20  # lines of a list; there is a page with all
GONE: Final = 10  # processes that ended: one that crashes every second leaves hundreds
MOST: Final = 100  # processes that live
LATE: Final = timedelta(seconds=30)  # a job that nobody has by then is overdue: beat would have enqueued it again
TRACEBACK: Final = 6  # lines, from the end

_MEMORY: Final = re.compile(r"^process_resident_memory_bytes(?:\{[^}\n]*\})? (\S+)$", re.MULTILINE)

T = TypeVar("T")
Readiness = Callable[[], Awaitable[Mapping[str, bool]]]
Depths = Callable[[], Awaitable[list[Depth] | None]]


class Board:
    """What an API process knows of the whole. `readiness`: of the components; `depths`: of the queues."""

    def __init__(
        self,
        environment: str,
        monitor: Monitor,
        watch: Watch,
        system: Session,
        client: redis.asyncio.Redis,
        readiness: Readiness,
        depths: Depths,
    ) -> None:
        self._environment = environment
        self._monitor = monitor
        self._watch = watch
        self._system = system
        self._redis = client
        self._readiness = readiness
        self._depths = depths
        self._sparks: dict[str, Spark] = {}
        self._drawn: datetime | None = None
        self._gathering: asyncio.Task[Status] | None = None
        self._until = 0.0
        monitor.follow.append(self.draw)

    async def status(self) -> Status:
        """How everything stands; at most a second old, and gathered once however many ask. Raises nothing. Who asks
        again in a few seconds finds indicators that were looked at meanwhile.
        """
        self._monitor.soon()
        if self._gathering is None or (self._gathering.done() and time.monotonic() > self._until):
            self._gathering = asyncio.create_task(self._gather(), name="gather-status")
        return await asyncio.shield(self._gathering)

    async def close(self) -> None:
        """Gather no more."""
        if self._gathering is not None:
            await end([self._gathering])

    async def draw(self) -> None:
        """Draw the sparklines anew when another minute is known. A step of the watch: nothing else has the history."""
        latest = self._monitor.history.last_minute
        if latest is not None and latest != self._drawn:
            names = [each.id for each in self._monitor.indicators]
            now = self._monitor.clock()
            self._sparks = await asyncio.to_thread(sparks, self._monitor.history, names, now)
            self._drawn = latest

    async def _gather(self) -> Status:
        system = self._system
        (ready, snapshots, depths), of_database = await asyncio.gather(
            asyncio.gather(_part(self._readiness()), _part(tally.read(self._redis)), _part(self._depths())),
            _in_turn(
                lambda: _counts(system),
                lambda: _jobs(system),
                lambda: periodic.last(system),
                lambda: paused.paused(system),
                lambda: _quarantine(system),
                lambda: self._watch.alerting.past(system, SHOWN),
                lambda: audit.recent(system, SHOWN),
            ),
        )
        counts, jobs, schedule, stopped, quarantined, history, done = of_database
        heard = snapshots is not None and depths is not None
        answered = any(part is not None for part in of_database)
        now, report = datetime.now(UTC), self._monitor.report
        own = self._monitor.snapshots[:1]
        known = own + [each for each in snapshots or () if each.name not in {mine.name for mine in own}]
        self._until = time.monotonic() + SHARED
        return Status(
            at=now,
            environment=self._environment,
            version=__version__,
            verdict=report.verdict,
            words=words(report.readings, report.at, self._monitor.clock(), alone=self._monitor.alone),
            notices=_notices(redis=heard, database=answered),
            redis=heard,
            database=answered,
            looked_at=report.at,
            ready=dict(ready or {}),
            alerts=list(self._watch.alerting.active),
            indicators=report.readings,
            sparks=self._sparks,
            processes=_processes(known, now),
            schedule=schedule,
            queues=_queues(depths, counts, stopped),
            jobs=jobs,
            quarantine=quarantined,
            connections=_connections(known, now),
            silent=self._watch.silence.tenants,
            history=history,
            audit=done,
        )


async def _part(reading: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(LIMIT):
            return await reading
    except (StoreUnavailable, RedisError, OSError, TimeoutError):
        return None


async def _in_turn(*asked: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What PostgreSQL tells, one after the other: at once they would fill the small pool that heads and routing share.
    After one that is not answered, the rest is not asked.
    """
    found: list[Any] = []
    for ask in asked:
        found.append(None if None in found else await _part(ask()))
    return found


async def _counts(system: Session) -> dict[str, dict[str, Any]]:
    rows = queries().status.jobs_by_queue(system, late=LATE, most=failed_jobs.COUNTED)
    return {row["queue"]: row async for row in rows}


async def _jobs(system: Session) -> Jobs:
    counted = await failed_jobs.counts(system)
    latest = [
        found
        for state in ("dead", "open")
        for found in await failed_jobs.page(system, state, tenant=None, job=None, before=None, limit=SHOWN)
    ]
    whole = await failed_jobs.find(system, latest[0].id) if latest else None
    end = ((whole and whole.traceback) or "").rstrip().splitlines()[-TRACEBACK:]
    return Jobs(
        dead=sum(each.number for each in counted if each.state == "dead"),
        failing=sum(each.number for each in counted if each.state == "open"),
        latest=latest[:SHOWN],
        traceback_end="\n".join(end) or None,
    )


async def _quarantine(system: Session) -> Quarantine:
    count = await quarantine.count(system)
    return Quarantine(count=count, oldest=await quarantine.find(system, quarantine.Filter(), SHOWN) if count else [])


def _notices(*, redis: bool, database: bool) -> list[str]:
    notices = []
    if not redis:
        notices.append("Redis does not answer: only this process is seen, and no queue.")
    if not database:
        notices.append("PostgreSQL does not answer: failed jobs, quarantine, alerts' history and audit are not seen.")
    return notices


def _processes(snapshots: Sequence[tally.Snapshot], now: datetime) -> list[Process]:
    """Those that fell silent first, then those that live, then those that said goodbye."""
    kinds = ("api", "worker", "beat")
    found = sorted((_process(each, now) for each in snapshots), key=lambda each: (kinds.index(each.kind), each.name))
    lost = [each for each in found if not each.alive and each.state != "stopped"]
    stopped = [each for each in found if not each.alive and each.state == "stopped"]
    return lost[:GONE] + [each for each in found if each.alive][:MOST] + stopped[:GONE]


def _process(snapshot: tally.Snapshot, now: datetime) -> Process:
    memory = _MEMORY.search(snapshot.metrics_text)
    return Process(
        kind=snapshot.kind,
        name=snapshot.name,
        host=snapshot.host,
        version=snapshot.version,
        state=snapshot.state,
        alive=tally.alive(snapshot, now),
        started_at=snapshot.started_at,
        heard_at=snapshot.at,
        queues=snapshot.queues,
        current_job=snapshot.current_job,
        memory_bytes=float(memory[1]) if memory else None,
        connections=snapshot.clients.open if snapshot.clients else None,
    )


def _connections(snapshots: Sequence[tally.Snapshot], now: datetime) -> list[Connections]:
    found = [(each.name, each.clients) for each in snapshots if each.clients is not None and tally.alive(each, now)]
    return [
        Connections(process=name, open=clients.open, slowest=clients.slowest, newest=clients.newest)
        for name, clients in sorted(found, key=lambda each: each[0])[:MOST]
    ]


def _queues(
    depths: Sequence[Depth] | None,
    counts: Mapping[str, Mapping[str, Any]] | None,
    stopped: Sequence[paused.Paused] | None,
) -> list[Queue]:
    by_name = {each.queue: each for each in depths or ()}
    of = {each.queue: each for each in stopped or ()}
    found = []
    for name in QUEUES:
        depth = by_name.get(name)
        counted = None if counts is None else counts.get(name, {})
        staged = {
            state: None if counted is None else int(counted.get(state, 0))
            for state in ("open", "running", "failing", "overdue", "dead")
        }
        found.append(
            Queue(
                name=name,
                length=depth.length if depth else None,
                oldest_seconds=depth.oldest_seconds if depth else None,
                paused=of.get(name),
                **staged,
            )
        )
    return found
