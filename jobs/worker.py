"""The worker process: an event loop on which the jobs run, over pools that stay open, and beside it, in a thread, the
worker that takes them out of the queues (see rq_worker).
"""

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import suppress

from jobs.context import Context, open_context
from jobs.outage import Outage
from jobs.pauses import Pauses
from jobs.rq_worker import Worker
from jobs.run import JOBS, PERIODIC
from jobs.runner import Runner
from ottoai import __version__, queue
from ottoai.config import Config
from ottoai.db import Database, refuse_privilege
from ottoai.domain.outbox import Due
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import DEFAULT, Queues
from ottoai.tally import Reporter

log = logging.getLogger(__name__)

# Seconds without a reply after which Redis counts as away: longer than a look into empty queues, which is no silence.
PATIENCE = 5.0


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


def make(context: Context, queues: Sequence[str], reporter: Reporter) -> Worker:
    """A worker whose jobs run on the running event loop; `serve` it in a thread."""
    config = context.config
    return Worker(
        queues,
        queue.client(config, patience=PATIENCE),
        Runner(context),
        reporter,
        Pauses(context.db),
        most=config.worker_concurrency,
        memory=config.worker_memory_mb << 20,
    )


async def serve(config: Config, queues: Sequence[str], metrics: Metrics) -> None:
    """Be a worker process until SIGTERM or SIGINT, or until it has grown too large.

    What it runs then has rq_worker.GRACE seconds to end; the rest is given back, for another worker to begin at once.
    """
    stopping = asyncio.Event()
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # it tells of every routine
    _zero(metrics, queues)
    async with open_context(config, metrics) as context:
        with Reporter(config.redis_url, "worker", version=__version__, figures=metrics.render) as reporter:
            worker = make(context, queues, reporter)

            def stop() -> None:
                stopping.set()
                worker.stopping.set()

            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop)
            reporter.update(state="starting", queues=list(queues))
            await until_allowed(context.db, stopping)
            reporter.update(state="idle")
            log.info("Worker started", extra={"queues": list(queues), "concurrency": config.worker_concurrency})
            await asyncio.to_thread(worker.serve)
            await hand_over(context.queues, worker.runner.left)
            log.info("Worker stopped")


async def hand_over(queues: Queues, left: Sequence[Due]) -> None:
    """Enqueue what was given back."""
    with suppress(StoreUnavailable):  # then beat does
        await asyncio.to_thread(queues.enqueue, left)


def _zero(metrics: Metrics, queues: Sequence[str]) -> None:
    """Let every series exist before its first job: a counter that is born at 1 never seems to have grown."""
    for name in JOBS:
        for each in queues:
            metrics.worker_task_total.zero(task=name, queue=each)
            metrics.worker_task_duration_seconds.zero(task=name, queue=each)
    for name in PERIODIC:
        metrics.worker_task_total.zero(task=name, queue=DEFAULT)
        metrics.worker_task_duration_seconds.zero(task=name, queue=DEFAULT)
    for each in queues:
        metrics.worker_task_wait_seconds.zero(queue=each)
