"""Beat: every second it enqueues what is due, brings back what was lost, and says that it is alive.

Its parts are guarded from each other: with Redis or PostgreSQL away, the others go on. A second beat stands by
for the schedule; the outbox both repair, since two cannot find the same job due. What runs when: see schedule.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from jobs.outage import Outage
from jobs.schedule import Schedule
from ottoai import __version__
from ottoai.config import Config
from ottoai.db import Database, open_pool, refuse_privilege
from ottoai.domain import outbox, paused
from ottoai.errors import ConfigError, StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import BULK, URGENT, Queues, client
from ottoai.tally import Reporter

log = logging.getLogger(__name__)

TICK = 1.0  # seconds; a text message that falls due waits no longer, and a returned Redis is noticed as fast
FEW = 50  # jobs looked for in a tick while bulk is full: who floods may keep it so for as long as they do
MOST_BATCHES = 20  # of outbox.BATCH jobs in one tick, some five seconds, so that a flood does not silence the heartbeat


class Beat:
    """One beat process. `run_once` is one tick."""

    def __init__(self, db: Database, queues: Queues, schedule: Schedule, metrics: Metrics, reporter: Reporter) -> None:
        self._db = db
        self._queues = queues
        self._schedule = schedule
        self._metrics = metrics
        self._reporter = reporter
        self._allowed = False
        self._leading: bool | None = None
        parts = ("schedule", "pauses", "outbox repair", "outbox figures")
        self._outages = {part: Outage(f"Beat's {part}") for part in parts}

    async def run_once(self) -> None:
        """Tick. Raises ConfigError if the database would let us do more than we may, and nothing else."""
        await asyncio.gather(
            self._guarded("schedule", self.keep_schedule),
            self._guarded("pauses", self.heed_pauses),
            self._guarded("outbox repair", self.repair),
            self._guarded("outbox figures", self.measure),
        )
        self._metrics.beat_last_tick_timestamp_seconds.set(time.time())
        self._reporter.update(ticked_at=datetime.now(UTC), state="leading" if self._leading else "standby")

    async def run(self, stopping: asyncio.Event) -> None:
        """Tick every second until told to stop, then let a standby take over."""
        while not stopping.is_set():
            started = time.monotonic()
            await self.run_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), max(0.0, TICK - (time.monotonic() - started)))
        with suppress(StoreUnavailable):  # then the lock ends by itself
            await asyncio.to_thread(self._schedule.remove_lock)

    async def keep_schedule(self) -> None:
        """Enqueue the periodic jobs that are due, if this is the beat that leads."""
        leading = await asyncio.to_thread(self._schedule.run_once)
        if leading != self._leading:
            log.info("Beat leads" if leading else "Another beat leads; standing by")
        self._leading = leading

    async def heed_pauses(self) -> None:
        """Know, and tell, which queues operators stopped; with the database away, the last that was known counts."""
        found = await paused.paused(self._db.system())
        self._schedule.paused = frozenset([each.queue for each in found])
        # Told of, for nothing else tells of a queue in which nothing waits: periodic runs are left out without a trace.
        first = min((each.paused_at.timestamp() for each in found), default=None)
        self._metrics.queue_paused_seconds.set(0 if first is None else max(0.001, time.time() - first))

    async def repair(self) -> None:
        """Enqueue the staged jobs that are due: those of later, those that nobody enqueued, those whose worker died."""
        if not self._allowed:
            await refuse_privilege(self._db)
            self._allowed = True
        # Asked first: what cannot be enqueued must not be put off, and what still waits needs no second place.
        waiting = await asyncio.to_thread(self._queues.waiting)
        for _ in range(MOST_BATCHES):
            # All of it may be over its tenants' shares, and go to bulk. Each tenant's oldest come first, so that with
            # bulk full a few will do: those within their shares. What finds no room is looked for again a little later.
            rooms = await asyncio.to_thread(self._queues.rooms)
            limit = min(outbox.BATCH, rooms[BULK] or min(FEW, rooms[URGENT]))
            due = await outbox.due(self._db.system(), limit) if limit else []
            missing = [job for job in due if job.id not in waiting]
            if missing:
                await asyncio.to_thread(self._queues.enqueue, missing)
                log.info("Due jobs enqueued", extra={"count": len(missing)})
            if len(due) < limit or not rooms[BULK]:
                return

    async def measure(self) -> None:
        """Tell how much is staged."""
        count, oldest = await outbox.backlog(self._db.system())
        self._metrics.outbox_open.set(count)
        self._metrics.outbox_oldest_age_seconds.set(oldest)
        self._metrics.outbox_dead.set(await outbox.dead(self._db.system()))

    async def _guarded(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ConfigError:
            raise
        except StoreUnavailable as error:
            self._outages[part].lost(error)
        except Exception:  # the edge of the process: one broken part must not stop the others
            log.exception("Beat's %s failed", part)
        else:
            self._outages[part].over()


async def serve(config: Config, metrics: Metrics) -> None:
    """Be a beat process until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    connection = client(config)
    queues = Queues(connection)
    async with open_pool(config, metrics) as db:
        with Reporter(config.redis_url, "beat", version=__version__, figures=metrics.render) as reporter:
            beat = Beat(db, queues, Schedule(connection, queues), metrics, reporter)
            log.info("Beat started")
            await beat.run(stopping)
            log.info("Beat stopped")
    connection.close()
