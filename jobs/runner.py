"""Runs jobs on the event loop, as many side by side as it is given, and counts what becomes of them.

What takes them out of the queues is the worker, in a thread of its own: see rq_worker. What a job does: see run.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final

from jobs.context import Context
from jobs.outage import Outage
from jobs.run import Outcome, perform, perform_periodic
from ottoai import queue
from ottoai.background import end
from ottoai.domain import outbox
from ottoai.domain.outbox import Due
from ottoai.errors import StoreUnavailable

log = logging.getLogger(__name__)

FUNCTIONS: Final[dict[str, Callable[[Context, str], Coroutine[Any, Any, Outcome | None]]]] = {
    queue.PERFORM: perform,
    queue.PERIODIC: perform_periodic,
}


class Runner:
    """The jobs of one worker. `stopping`: nothing new is begun. Its methods are for another thread."""

    def __init__(self, context: Context) -> None:
        self.stopping = threading.Event()
        self.left: list[Due] = []
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outage = Outage("Database")

    def start(self, function: str, argument: str, name: str, waited: float) -> "Future[str]":
        """Run a function of ours for a job that waited so many seconds in the queue `name`. The future tells what RQ
        should keep as its failure, "" for none.
        """
        return asyncio.run_coroutine_threadsafe(self._run(function, argument, name, waited), self._loop)

    def give_back(self) -> "Future[None]":
        """End what still runs, and let go of it: `left` is what another worker may begin now."""
        return asyncio.run_coroutine_threadsafe(self._give_back(), self._loop)

    async def _run(self, function: str, argument: str, name: str, waited: float) -> str:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            outcome = await self._outlast(function, argument)
        except asyncio.CancelledError:
            return ""
        except Exception as error:  # the edge of the process: a fault in our own code ends this job only
            log.exception("Job broke", extra={"job_id": argument})
            return type(error).__qualname__
        finally:
            self._tasks.discard(task)
        if outcome:
            self._count(outcome, name, max(0.0, waited if outcome.waited is None else outcome.waited))
        return ""

    async def _outlast(self, function: str, argument: str) -> Outcome | None:
        """Run it, when the database is there. Nothing else could be done either."""
        while True:
            try:
                outcome = await FUNCTIONS[function](self._context, argument)
            except StoreUnavailable as error:
                if self.stopping.is_set():  # the outbox brings the job back
                    return None
                await asyncio.sleep(self._outage.lost(error))
            else:
                self._outage.over()
                return outcome

    def _count(self, outcome: Outcome, name: str, waited: float) -> None:
        metrics = self._context.metrics
        labels = {"task": outcome.task, "queue": name}
        metrics.worker_task_total.inc(**labels, status=outcome.status)
        metrics.worker_task_duration_seconds.observe(outcome.seconds, **labels)
        metrics.worker_task_wait_seconds.observe(waited, queue=name)
        if outcome.abandoned:
            metrics.worker_task_total.inc(**labels, status="stopped")

    async def _give_back(self) -> None:
        held = {job.id: job for job in self._context.leases.jobs}
        await end(self._tasks)
        if not held:
            return
        try:
            self.left = await outbox.give_back(self._context.db.system(), list(held.values()))
        except StoreUnavailable as error:
            log.warning("Jobs not given back; they fall due when their leases end", extra={"error": error})
        for due in self.left:
            labels = {"task": held[due.id].job, "queue": due.queue}
            self._context.metrics.worker_task_total.inc(**labels, status="stopped")
        log.warning("Jobs given back", extra={"count": len(self.left)})
