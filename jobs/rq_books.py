"""RQ's books of one worker: that it is alive, what it runs, what ended. Kept so that RQ's dashboard tells the truth.

Everything of many jobs goes in one round trip, where RQ makes some fifteen for each; its own code is used for what it
writes, not for when. A job whose entry is lost is none: what has to be done is in the outbox.
"""

import logging
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import redis
import rq
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker import SimpleWorker, WorkerStatus

from ottoai.queue import TAKEN_FOR

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Taken:
    """A job that was taken out of its queue. `failure`: what RQ is to keep of its end, "" for nothing."""

    job: Job
    queue: rq.Queue
    function: str = ""
    argument: str = ""
    failure: str = ""
    execution: Execution | None = None


class Books(SimpleWorker):
    """A worker in RQ's eyes."""

    def __init__(self, queues: Sequence[str], connection: redis.Redis, name: str) -> None:
        super().__init__(
            list(queues),
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            prepare_for_work=False,  # it would talk to Redis, which may be away
            log_job_description=False,
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        return connection  # RQ would raise its patience to 415 seconds

    def fetch(self, found: Sequence[tuple[str, str]]) -> list[Taken]:
        """What stands of jobs, by queue key and id; those that nothing stands of are left out."""
        queues = {each.key: each for each in self.queues}
        with self.connection.pipeline(transaction=False) as pipe:
            for _, job_id in found:
                pipe.hgetall(Job.key_for(job_id))
            kept = pipe.execute()
        return [
            self._restored(queues[key], job_id, fields)
            for (key, job_id), fields in zip(found, kept, strict=True)
            if fields
        ]

    def _restored(self, source: rq.Queue, job_id: str, fields: dict[bytes, bytes]) -> Taken:
        taken = Taken(Job(job_id, connection=self.connection, serializer=JSONSerializer), source)
        try:
            taken.job.restore(fields)
            taken.function, taken.argument = str(taken.job.func_name), str(taken.job.args[0])  # nothing is unpickled
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not ours
            taken.failure = f"not understood: {type(error).__qualname__}"
        return taken

    def enter(self, begun: Iterable[Taken]) -> None:
        """Write down that these run."""
        with self.connection.pipeline() as pipe:
            for taken in begun:
                lasts = self.get_heartbeat_ttl(taken.job)
                taken.execution = Execution.create(taken.job, lasts, pipe, self.name)
                taken.job.prepare_for_execution(self.name, pipe)
            self.set_state(WorkerStatus.BUSY, pipe)
            pipe.execute()

    def close(self, ended: Iterable[Taken], state: WorkerStatus) -> None:
        """Write down that these ended: nothing is left of them but counts, and the failures."""
        ended = list(ended)
        with self.connection.pipeline() as pipe:
            for taken in ended:
                if not taken.failure:
                    self._forget(taken, pipe)
            self.set_state(state, pipe)
            pipe.execute()
        for taken in ended:
            if taken.failure:
                self.fail(taken)

    def _forget(self, taken: Taken, pipe: Pipeline) -> None:
        job = taken.job
        self.increment_successful_job_count(pipe)
        if job.started_at and job.ended_at:
            self.increment_total_working_time(job.ended_at - job.started_at, pipe)
        self.cleanup_execution(job, pipe, taken.execution)
        pipe.delete(job.key, job.execution_registry.key)

    def fail(self, taken: Taken) -> None:
        """Put a job into RQ's list of failures: only a fault of ours or a job of somebody else's comes there."""
        taken.job.ended_at = taken.job.ended_at or now()
        self.handle_job_failure(taken.job, taken.queue, exc_string=taken.failure, execution=taken.execution)

    def register(self, state: WorkerStatus) -> None:
        """Enter RQ's list of workers, also if an earlier self still stands there: its name is ours alone."""
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(state)

    def be_heard(self, running: Iterable[Taken]) -> tuple[bool, bool]:
        """Write down that this worker lives and what it still runs. (Had Redis forgotten it? Are workers suspended?)"""
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.exists(WORKERS_SUSPENDED)
            self.heartbeat(pipeline=pipe)
            for taken in running:
                self._renew(taken, pipe)
            suspended, forgotten, *_ = pipe.execute()
        return bool(forgotten), bool(suspended)

    def _renew(self, taken: Taken, pipe: Pipeline) -> None:
        execution = taken.execution
        if execution and now() - execution.last_heartbeat > timedelta(seconds=TAKEN_FOR / 3):
            execution.heartbeat(taken.job.started_job_registry, self.get_heartbeat_ttl(taken.job), pipe)
