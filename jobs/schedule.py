"""What runs periodically, and when. In UTC. What is due to a tenant at a moment is not here: the outbox is.

rq-scheduler keeps the times in Redis; the table below is the truth, put there again whenever Redis says otherwise.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from crontab import CronTab
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

from ottoai.queue import DEFAULT, PERIODIC, Queues, translated

DECLARE_EVERY = 30.0  # seconds between comparisons of every entry; that one is gone is noticed at each tick
# How long the lock outlives a beat that was killed, and so how long a standby waits. Renewed at every tick, so that
# three ticks that each take the stores' full timeouts do not lose it.
LOCK_SECONDS = 10

# The holder renews it, whoever finds it free takes it.
_ACQUIRE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('expire', KEYS[1], ARGV[2]) end
return redis.call('set', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) and 1 or 0
"""
_REMOVE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


@dataclass(frozen=True, slots=True)
class Entry:
    """A periodic job of run.PERIODIC: by `cron` (UTC) or `every` so often, counted from when beat first knew of it."""

    name: str
    cron: str = ""
    every: timedelta | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """What rq-scheduler keeps of it."""
        if self.every:
            return {"interval": int(self.every.total_seconds())}
        return {"cron_string": self.cron, "use_local_timezone": False}

    def next(self, now: datetime) -> datetime:
        """When it is due after `now`."""
        if self.every:
            return now + self.every
        # rq-scheduler's own reckoning reads a cron line in local time, and warns of it.
        due: datetime = CronTab(self.cron).next(now=now, return_datetime=True)
        return due

    def first(self, now: datetime) -> datetime:
        """When it is due for the first time."""
        return now if self.every else self.next(now)


ENTRIES = (
    Entry("retention", cron="17 * * * *"),  # off the full hour, at which everybody else's hourly jobs start
    Entry("reconcile", cron="3-59/5 * * * *"),  # likewise off the minutes at which the whole world asks CallRail
    Entry("recap", cron="* * * * *"),  # it is 18:00 somewhere at every quarter of an hour, and a run finds who is late
)


class JsonJob(Job):
    """An RQ job in JSON: rq-scheduler cannot be told a serializer."""

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: Any = None) -> None:  # noqa: A002
        super().__init__(id, connection, serializer or JSONSerializer)


class Schedule(Scheduler):  # type: ignore[misc]
    """rq-scheduler, one tick at a time. Its entries are patterns: each time, a fresh job is made of one, because an
    entry that went through the queue itself would be lost with the first job that is still at it when the next is due.
    """

    def __init__(self, connection: redis.Redis, queues: Queues, entries: Sequence[Entry] = ENTRIES) -> None:
        super().__init__(queue_name=DEFAULT, interval=1, connection=connection, job_class=JsonJob)
        self._queues = queues
        self._entries = {f"schedule-{entry.name}": entry for entry in entries}
        self._declare_at = 0.0
        self.paused: frozenset[str] = frozenset()  # queues that get no runs now

    def run_once(self) -> bool:
        """Enqueue what is due, if this is the beat that does so now; return whether it is. Raises StoreUnavailable."""
        with translated():
            if not self.acquire_lock():
                return False
            known = {name.decode() for name in self.connection.zrange(self.scheduled_jobs_key, 0, -1)}
            if known != self._entries.keys() or time.monotonic() >= self._declare_at:
                self._declare(known)
                self._declare_at = time.monotonic() + DECLARE_EVERY
            self.enqueue_jobs()
            return True

    def acquire_lock(self) -> bool:
        """Take or keep the lock; unlike rq-scheduler's own it is held from tick to tick, so that there is one beat."""
        arguments = (self.scheduler_lock_key, self.name, LOCK_SECONDS)
        self._lock_acquired = bool(self.connection.eval(_ACQUIRE, 1, *arguments))
        return self._lock_acquired

    def remove_lock(self) -> None:
        """Let a standby take over at once. Only ours is removed, whoever has it by now."""
        with translated():
            self.connection.eval(_REMOVE, 1, self.scheduler_lock_key, self.name)

    def enqueue_job(self, job: Job) -> None:
        """Enqueue a fresh run of an entry that is due and note when the next one is: both or none. For a queue that is
        stopped there is none, else they would pile up; nothing is lost with a missed run.
        """
        entry = self._entries.get(job.id)
        if entry is None:  # an older version's, gone with the next comparison
            return
        with self.connection.pipeline() as pipe:
            pipe.zadd(self.scheduled_jobs_key, {job.id: int(entry.next(datetime.now(UTC)).timestamp())})
            if DEFAULT not in self.paused:
                self._queues.enqueue_periodic(entry.name, pipe)
            pipe.execute()

    def _declare(self, known: set[str]) -> None:
        for stranger in known - self._entries.keys():
            self.cancel(stranger)
        for job_id, entry in self._entries.items():
            if job_id not in known or self._kept(job_id) != entry.meta:
                self._put(job_id, entry)

    def _kept(self, job_id: str) -> dict[str, Any]:
        try:
            return dict(self.job_class.fetch(job_id, connection=self.connection).meta)
        except NoSuchJobError:
            return {}

    def _put(self, job_id: str, entry: Entry) -> None:
        self.schedule(
            entry.first(datetime.now(UTC)),
            PERIODIC,
            id=job_id,
            args=(entry.name,),
            description=entry.name,
            meta=entry.meta,
            result_ttl=-1,  # kept until it is no longer declared
        )
