"""The queues of background jobs: putting jobs in, and seeing how full they are. The only importer of RQ in ottoai.

A queue carries ids; what is to be done is a row of the outbox, and whether it still is, the outbox decides. A queue may
therefore lose a job, or hold it twice, without harm. Taking jobs out is the matter of `jobs.worker`.

One tenant's flood does not delay another's jobs: what it has beyond its share goes to `bulk`, which is served last, and
no queue grows without bound; what finds no room stays in the outbox, from where beat brings it, tenant by tenant.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Protocol

import msgspec
import redis
import rq
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from ottoai.background import end
from ottoai.config import Config
from ottoai.errors import StoreUnavailable
from ottoai.gcra import Table, bucket, now
from ottoai.rates import Rate

log = logging.getLogger(__name__)

URGENT, DEFAULT, BULK = QUEUES = ("urgent", "default", "bulk")  # in the order in which workers look
PERFORM = "jobs.run.perform"  # what RQ is told to call for a staged job; its one argument is the outbox id
PERIODIC = "jobs.run.perform_periodic"  # and for a periodic one; its one argument is the entry's name

# The asyncio client's limits, for the same reason: redis-py's own would hold a caller for a minute.
CONNECT_TIMEOUT = 0.5
SOCKET_TIMEOUT = 1.0
TAKEN_FOR = 60  # seconds after which RQ's books call a started job abandoned; ours is called so by its lease, earlier
KEEP_FAILURE = 86_400  # a day in RQ's own list of failures; what matters of a failure is in the outbox
WAKES = 10_000  # jobs waiting to be enqueued by one process; past that beat finds them in the outbox
BATCH = 500  # jobs in one round trip: some 50 ms of work, so that a stop never waits long
MOST = 2_000  # ids in a queue: a worker's next seconds, and bounded memory while no worker is there
# What a tenant may have enqueued into its jobs' own queues: sixty at once, then one a second. Each enqueuing process
# counts by itself: a count in Redis would be one more thing to wait for, and the sum is bounded all the same.
SHARE = Rate(60, "minute")
TENANTS = 10_000  # whose counts are remembered; the one longest not seen begins anew
# Between two rounds of enqueuing: who comes meanwhile goes with the next. A round costs a thread's waking and two round
# trips, however many jobs it has; without a pause that was a third of a webhook's processor time.
PACE = 0.02
DRAIN = 1.0  # seconds that a stopping process spends on enqueuing what is left

REGISTRIES: dict[str, type[BaseRegistry]] = {
    "started": StartedJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "deferred": DeferredJobRegistry,
    "failed": FailedJobRegistry,
    "finished": FinishedJobRegistry,
}


class Job(Protocol):
    """What is enqueued: an id, the queue it goes to, and whose it is."""

    @property
    def id(self) -> str:
        """The outbox id, which is RQ's id too."""

    @property
    def queue(self) -> str:
        """One of QUEUES."""

    @property
    def tenant_id(self) -> str:
        """Whose share it takes up."""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How full a queue is. `jobs`: how many RQ knows, by state."""

    queue: str
    length: int
    oldest_seconds: float
    jobs: dict[str, int]


def client(config: Config, *, patience: float = SOCKET_TIMEOUT) -> redis.Redis:
    """A Redis client for threads, as RQ wants it: waits that long for a reply, never retries, connects on first use."""
    return redis.Redis.from_url(
        config.redis_url,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=patience,
        retry=Retry(NoBackoff(), 0),
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turn what Redis raises when it is away into StoreUnavailable."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable("The job queue does not answer; try again shortly.") from error


class Queues:
    """All queues, for one thread at a time: every method waits for Redis. All raise StoreUnavailable."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._queues = {
            name: rq.Queue(name, connection=connection, serializer=JSONSerializer, default_timeout=TAKEN_FOR)
            for name in QUEUES
        }
        self._shares = Table(TENANTS)

    def enqueue(self, jobs: Iterable[Job]) -> None:
        """Put staged jobs into their queues, as far as there is room. Two round trips."""
        with translated():
            placed = sorted(self._place({job.id: job for job in jobs}.values()))
            with self._redis.pipeline() as pipe:
                for name, group in groupby(placed, key=itemgetter(0)):
                    data = [_data(PERFORM, job_id, f"{name} {job_id}", job_id) for _, job_id in group]
                    self._queues[name].enqueue_many(data, pipeline=pipe)
                pipe.execute()

    def _place(self, jobs: Iterable[Job]) -> Iterator[tuple[str, str]]:
        """(queue, id) of each that finds room: its own queue within its tenant's share, else `bulk`."""
        rooms, at = self.rooms(), now()
        for job in jobs:
            # A queue that no worker looks at would hide a job.
            name = job.queue if job.queue in QUEUES else DEFAULT
            if not self._shares.charge([bucket("jobs", SHARE, job.tenant_id)], at).allowed or not rooms[name]:
                name = BULK
            if rooms[name]:
                rooms[name] -= 1
                yield name, job.id

    def rooms(self) -> dict[str, int]:
        """How many more jobs each queue takes."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
            return {name: max(0, MOST - length) for name, length in zip(self._queues, pipe.execute(), strict=True)}

    def enqueue_periodic(self, entry: str, pipe: Pipeline | None = None) -> None:
        """Put a fresh run of a periodic job into its queue, as a part of `pipe` where given."""
        # Milliseconds, so that the run after this one is another job to RQ, which would lose one of two of one id.
        job_id = f"{entry}-{int(time.time() * 1000)}"
        with translated():
            self._queues[DEFAULT].enqueue_many([_data(PERIODIC, entry, entry, job_id)], pipeline=pipe)

    def waiting(self) -> set[str]:
        """Ids of all jobs in all queues."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            for queue in self._queues.values():
                pipe.lrange(queue.key, 0, -1)
            return {job_id.decode() for ids in pipe.execute() for job_id in ids}

    def depths(self) -> list[Depth]:
        """How full each queue is. Two round trips."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
                pipe.lindex(queue.key, 0)
                for registry in REGISTRIES.values():
                    pipe.zcard(registry(queue=queue).key)
            answers = iter(pipe.execute())
            counts = [list(islice(answers, 2 + len(REGISTRIES))) for _ in self._queues]
            for _, oldest, *_ in counts:
                pipe.hget(rq.job.Job.key_for((oldest or b"").decode()), "enqueued_at")
            since = pipe.execute()
        return [_depth(*each) for each in zip(self._queues, counts, since, strict=True)]


def _data(function: str, argument: str, description: str, job_id: str) -> "rq.queue.EnqueueData":
    # Descriptions are shown unescaped by the RQ dashboard and logged by RQ: nothing but names and ids goes there.
    return rq.Queue.prepare_data(
        function, (argument,), job_id=job_id, description=description, result_ttl=0, failure_ttl=KEEP_FAILURE
    )


def _depth(name: str, counts: Sequence[int], since: bytes | None) -> Depth:
    length, _, *registered = counts
    age = 0.0
    if since is not None:
        age = max(0.0, time.time() - datetime.fromisoformat(since.decode()).timestamp())
    jobs = {"queued": length, **dict(zip(REGISTRIES, registered, strict=True))}
    return Depth(queue=name, length=length, oldest_seconds=age, jobs=jobs)


class Waker:
    """Enqueues what this process has just committed, without its caller waiting. What is lost here, beat repairs."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._lost = False
        self._closing = False

    def wake(self, jobs: Iterable[Job]) -> None:
        """Have these enqueued soon. Never waits, never raises."""
        self._waiting.extend(islice(jobs, max(0, WAKES - len(self._waiting))))
        if self._waiting:
            self._wake.set()

    async def run_once(self) -> None:
        """Enqueue one batch of what is waiting. What Redis does not take now is left to beat."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            await asyncio.to_thread(self._queues.enqueue, batch)
        except Exception as error:  # noqa: BLE001 - the edge of a loop that must go on: beat repairs what it lost
            if not self._lost:
                log.warning("Jobs cannot be enqueued; beat will", extra={"count": len(batch), "error": error})
            self._lost = True
        else:
            if self._lost:
                log.info("Jobs are enqueued again")
            self._lost = False

    async def run(self) -> None:
        """Enqueue until closed, and then what is left."""
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self.run_once()
                if not self._closing:
                    await asyncio.sleep(PACE)

    def close(self) -> None:
        """Let `run` end."""
        self._closing = True
        self._wake.set()


@asynccontextmanager
async def open_waker(config: Config) -> AsyncIterator[Waker]:
    """A running waker."""
    connection = client(config)
    waker = Waker(Queues(connection))
    task = asyncio.create_task(waker.run(), name="waker")
    try:
        yield waker
    finally:
        waker.close()
        await asyncio.wait([task], timeout=DRAIN)
        await end([task])
        await asyncio.to_thread(connection.close)
