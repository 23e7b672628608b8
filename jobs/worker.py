"""The worker process: an event loop on which the jobs run, over pools that stay open, and beside it, in a thread, the
worker that takes them out of the queues (see rq_worker).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from jobs.context import Context, open_context
from jobs.outage import Outage
from jobs.rq_worker import Worker
from jobs.run import JOBS, PERIODIC, Outcome, perform, perform_periodic
from ottoai import __version__, queue
from ottoai.config import Config
from ottoai.db import Database, refuse_privilege
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import QUEUES
from ottoai.tally import Reporter

log = logging.getLogger(__name__)

# Seconds without a reply after which Redis counts as away: longer than a look into empty queues, which is no silence.
PATIENCE = 5.0

FUNCTIONS: dict[str, Callable[[Context, str], Coroutine[Any, Any, Outcome | None]]] = {
    queue.PERFORM: perform,
    queue.PERIODIC: perform_periodic,
}


async def until_allowed(db: Database, stopping: asyncio.Event) -> None:
    """Wait for the database and raise ConfigError if we could do more in it than we may."""
    outage = Outage("Database")
    while not stopping.is_set():
        try:
            await refuse_privilege(db)
        except StoreUnavailable as error:
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), outage.lost(error))
        else:
            outage.over()
            return


def make(context: Context, queues: Sequence[str], metrics: Metrics, reporter: Reporter) -> Worker:
    """A worker whose jobs run on the running event loop; `serve` it in a thread."""
    loop = asyncio.get_running_loop()

    def call(function: str, argument: str) -> Outcome | None:
        return asyncio.run_coroutine_threadsafe(FUNCTIONS[function](context, argument), loop).result()

    return Worker(queues, queue.client(context.config, patience=PATIENCE), call, metrics, reporter)


async def serve(config: Config, queues: Sequence[str], metrics: Metrics) -> None:
    """Be a worker process until SIGTERM or SIGINT; the job at hand is finished first."""
    stopping = asyncio.Event()
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # it tells of every routine
    _zero(metrics)
    async with open_context(config, metrics) as context:
        with Reporter(config.redis_url, "worker", version=__version__, figures=metrics.render) as reporter:
            worker = make(context, queues, metrics, reporter)

            def stop() -> None:
                stopping.set()
                worker.stopping.set()

            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop)
            reporter.update(state="starting", queues=list(queues))
            await until_allowed(context.db, stopping)
            reporter.update(state="idle")
            log.info("Worker started", extra={"queues": list(queues)})
            await asyncio.to_thread(worker.serve)
            log.info("Worker stopped")


def _zero(metrics: Metrics) -> None:
    """Let every series exist before its first job: a counter that is born at 1 never seems to have grown."""
    for name, queues in {**dict.fromkeys(JOBS, QUEUES), **dict.fromkeys(PERIODIC, QUEUES[-1:])}.items():
        for each in queues:
            metrics.worker_task_total.zero(task=name, queue=each)
