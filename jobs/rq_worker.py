"""RQ's worker without a fork: takes jobs out of the queues, has them run, counts what became of them.

RQ's bookkeeping is kept, so that its dashboard tells the truth; its forking, its signals and its way of quitting when
Redis is away are not (docs/adr/0003-worker-without-fork.md). What a job does is the matter of `run`, which process this
is part of that of `worker`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import redis
import rq
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import SimpleWorker, WorkerStatus

from jobs.outage import Outage
from jobs.run import Outcome
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import PERFORM, PERIODIC
from ottoai.tally import Reporter

log = logging.getLogger(__name__)

POLL = 1  # seconds that one look into empty queues lasts: a stop is noticed after it
CHORES = 1.0  # seconds between heartbeats in RQ's books and looks at what maintenance is due


class Worker(SimpleWorker):
    """Serves in a thread of its own. `call` runs a function of ours by name and waits for what comes of it."""

    def __init__(
        self,
        queues: Sequence[str],
        connection: redis.Redis,
        call: Callable[[str, str], Outcome | None],
        metrics: Metrics,
        reporter: Reporter,
    ) -> None:
        super().__init__(
            list(queues),
            name=reporter.name,
            connection=connection,
            serializer=JSONSerializer,
            prepare_for_work=False,  # it would talk to Redis, which may be away
            log_job_description=False,
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.stopping = threading.Event()
        self._call = call
        self._metrics = metrics
        self._reporter = reporter
        self._redis_outage = Outage("Redis")
        self._database_outage = Outage("Database")
        self._chores_at = 0.0

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        return connection  # RQ would raise its patience to 415 seconds

    def serve(self) -> None:
        """Work until `stopping` is set. An absent Redis is waited for."""
        while not self.stopping.is_set():
            try:
                self._register()
                self._redis_outage.over()
                while not self.stopping.is_set():
                    self.run_once()
            except (redis.RedisError, OSError) as error:
                self.stopping.wait(self._redis_outage.lost(error))
            except Exception:  # the edge of the process: what RQ trips over must not end it
                log.exception("Worker stumbled")
                self.stopping.wait(POLL)
        with suppress(redis.RedisError, OSError):  # then its entry ends by itself
            self.register_death()  # type: ignore[no-untyped-call]
        self.connection.close()

    def run_once(self) -> None:
        """Do at most one job; without one, return after POLL seconds."""
        if time.monotonic() >= self._chores_at:
            self._chores()
        if is_suspended(self.connection, self):
            self.stopping.wait(POLL)
            return
        with suppress(rq.exceptions.DequeueTimeout):
            found = self.queue_class.dequeue_any(
                self.queues, POLL, connection=self.connection, job_class=self.job_class, serializer=self.serializer
            )
            if found:
                self.execute_job(*found)

    def execute_job(self, job: Job, queue: rq.Queue) -> None:
        """Run one job and count it. Whatever happens in there, the worker goes on."""
        execution = self.prepare_execution(job)
        if failure := _not_ours(job):
            log.error("Job not understood", extra={"job_id": job.id, "reason": failure})
        else:
            self.prepare_job_execution(job, remove_from_intermediate_queue=len(self.queues) == 1)
            self._reporter.update(state="busy", current_job=job.description)
            failure = self._run(job)
        job.ended_at = now()
        if failure:
            self.handle_job_failure(job, queue, exc_string=failure, execution=execution)
            self.set_state(WorkerStatus.IDLE)
        else:
            self._close(job, execution)
        self._reporter.update(state="idle", current_job=None)

    def _run(self, job: Job) -> str:
        """Run the job to its end; return what RQ should keep as its failure, "" for none."""
        waited = (now() - job.enqueued_at).total_seconds() if job.enqueued_at else 0.0
        while True:
            try:
                outcome = self._call(str(job.func_name), *job.args)
            except StoreUnavailable as error:
                # Nothing else could be done either. Should we have to stop, the outbox brings the job back.
                if self.stopping.wait(self._database_outage.lost(error)):
                    return ""
                continue
            except Exception as error:  # the edge of the process: a fault in our own code ends this job only
                log.exception("Job broke", extra={"job_id": job.id})
                return type(error).__qualname__
            self._database_outage.over()
            if outcome:
                self._count(outcome, max(0.0, waited if outcome.waited is None else outcome.waited))
            return ""

    def _count(self, outcome: Outcome, waited: float) -> None:
        labels = {"task": outcome.task, "queue": outcome.queue}
        self._metrics.worker_task_total.inc(**labels, status=outcome.status)
        self._metrics.worker_task_duration_seconds.observe(outcome.seconds, **labels)
        self._metrics.worker_task_wait_seconds.observe(waited, queue=outcome.queue)
        if outcome.abandoned:
            self._metrics.worker_task_total.inc(**labels, status="stopped")

    def _close(self, job: Job, execution: "rq.executions.Execution") -> None:
        """Take a job that ended out of RQ's books: in one round trip, where RQ's own way looks for dependents first."""
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipe)
            if job.started_at and job.ended_at:
                self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            job.delete(pipeline=pipe, remove_from_queue=False)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            self.set_state(WorkerStatus.IDLE, pipe)
            pipe.execute()

    def _register(self) -> None:
        """Enter RQ's list of workers, also if an earlier self still stands there: its name is ours alone."""
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.IDLE)
        self._chores_at = 0.0

    def _chores(self) -> None:
        """What is due every second: be heard, notice that Redis has forgotten us, tidy up RQ's registries."""
        with self.connection.pipeline(transaction=False) as pipe:
            self.heartbeat(pipeline=pipe)
            forgotten, *_ = pipe.execute()
        if forgotten:
            self._register()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        self._chores_at = time.monotonic() + CHORES


def _not_ours(job: Job) -> str:
    """Why this job cannot be run: only our functions are, and nothing is ever unpickled. "" when it can."""
    try:
        return "" if job.func_name in (PERFORM, PERIODIC) else "unknown function"
    except rq.exceptions.DeserializationError:
        return "not in JSON"
