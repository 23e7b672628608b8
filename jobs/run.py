"""Runs one job: takes its lease, finds its handler, settles what became of it. The list of all jobs stands here.

Measuring is left to the worker, which calls these functions and counts what they return.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Literal
from uuid import uuid4

import msgspec
from redis.exceptions import RedisError

from jobs.context import Context, Periodic, Retry, Staged
from jobs.failures import described, failure, traced
from jobs.follow_up import FOLLOW_UP
from jobs.leases import LeaseLostError
from jobs.probe import PROBE
from jobs.recap import recap
from jobs.reconcile import reconcile
from jobs.retention import retention
from jobs.send_text import SEND_TEXT
from ottoai import trace
from ottoai.background import running
from ottoai.domain import outbox, periodic
from ottoai.domain.outbox import Failure, Leased
from ottoai.domain.periodic import Run
from ottoai.errors import StoreUnavailable
from ottoai.log import bind

log = logging.getLogger(__name__)

Status = Literal["success", "failure", "retry", "stopped"]

JOBS: dict[str, Staged] = {"follow_up": FOLLOW_UP, "probe": PROBE, "send_text": SEND_TEXT}
PERIODIC: dict[str, Periodic] = {"recap": recap, "reconcile": reconcile, "retention": retention}

# A periodic job's lock: kept by who has it, also through a flush, and taken away by nobody else.
_KEEP = """
if (redis.call('get', KEYS[1]) or ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class Outcome(msgspec.Struct, frozen=True):
    """What became of a job. `waited`: seconds from due to begun; for a periodic job RQ knows it, so None.
    `abandoned`: the attempt before this one died with its worker, uncounted till now.
    """

    task: str
    status: Status
    seconds: float
    waited: float | None = None
    abandoned: bool = False


async def perform(context: Context, job_id: str) -> Outcome | None:
    """Run a staged job. None when there is nothing to do: it is done, or another worker's, or became so meanwhile.

    Raises StoreUnavailable when the outbox cannot be asked; a failure of the job itself is an outcome, no exception.
    """
    job = await context.leases.take(job_id)
    if job is None:
        return None
    started = time.perf_counter()
    with _traced(job.job, job.trace_context), bind(job_id=job.id, tenant_id=job.tenant_id):
        # What it stages goes on from here.
        status = await _attempt(context, msgspec.structs.replace(job, trace_context=trace.traceparent()))
    if status is None:
        return None
    return Outcome(job.job, status, time.perf_counter() - started, job.waited_seconds, job.abandoned)


async def perform_periodic(context: Context, name: str) -> Outcome | None:
    """Run a periodic job. None when it is running already, or no longer exists. Nothing is lost with a missed run."""
    if name not in PERIODIC:
        log.warning("Unknown periodic job", extra={"task": name})
        return None
    began, started = context.clock(), time.perf_counter()
    status: Literal["success", "failure"] = "success"
    failed: Exception | None = None
    with _traced(name, ""):
        try:
            async with asyncio.timeout(context.deadline) as limit, _alone(context, name, limit) as alone:
                if not alone:
                    return None
                more = await PERIODIC[name](context)
            if more:
                await asyncio.to_thread(context.queues.enqueue_periodic, name)
        except Exception as error:  # the edge of a job: whatever is wrong with one, the worker goes on to the next
            log.exception("Periodic job failed", extra={"task": name})
            status, failed = "failure", error
        seconds = time.perf_counter() - started
        await _note(context, Run(name, began, seconds, status, trace_id=trace.trace_id()), failed)
    return Outcome(name, status, seconds)


async def _note(context: Context, run: Run, error: Exception | None) -> None:
    """Leave word for operators of how a periodic job's run went."""
    if error:
        run = msgspec.structs.replace(run, error=described(error), traceback=traced(error))
    try:
        await periodic.note(context.db.system(), run)
    except StoreUnavailable as away:
        log.warning("A periodic job's run is not noted", extra={"task": run.name, "error": away})


async def _attempt(context: Context, job: Leased) -> Status | None:
    declared = JOBS.get(job.job)
    if declared is None:
        return await _give_up(context, job, Failure(f"there is no job named {job.job}"))
    if job.attempts > declared.retry.attempts:
        return await _give_up(context, job, Failure("every attempt ended with its worker"))
    try:
        async with context.leases.held(job, declared.timeout):
            await declared.handler(context, job)
    except LeaseLostError:  # whoever has it now counts it
        log.warning("Job stopped: its lease is lost", extra={"task": job.job, "attempt": job.attempts})
        return None
    except Exception as error:  # noqa: BLE001 - the edge of a job: the worker goes on to the next one
        return await _failed(context, job, declared.retry, error)
    return "success"


async def _failed(context: Context, job: Leased, retry: Retry, error: Exception) -> Status:
    if job.attempts >= retry.attempts:
        return await _give_up(context, job, failure(error), error)
    backoff = retry.backoff(job.attempts)
    extra = {"task": job.job, "attempt": job.attempts, "retry_in": round(backoff.total_seconds(), 1)}
    log.warning("Job failed, will be retried", extra=extra, exc_info=error)
    try:
        await outbox.put_off(context.db.one(job.tenant_id), job, failure(error), backoff)
    except StoreUnavailable as away:
        log.warning("Job not put off; it falls due when its lease ends", extra={"error": away})
    return "retry"


async def _give_up(context: Context, job: Leased, why: Failure, error: Exception | None = None) -> Status:
    extra = {"task": job.job, "attempt": job.attempts, "reason": why.error}
    log.error("Job failed for good", extra=extra, exc_info=error)
    try:
        declared = JOBS.get(job.job)
        if declared and declared.bury:
            context.bus.publish(await declared.bury(context, job, why))
        else:
            context.bus.publish(await outbox.bury(context.db.one(job.tenant_id), job, why, trace.trace_id()))
    except StoreUnavailable as away:
        log.warning("Job not buried; it falls due when its lease ends", extra={"error": away})
    return "failure"


@contextmanager
def _traced(task: str, traceparent: str) -> Iterator[None]:
    """The job's span, a part of the trace that caused it, and its id on every log line."""
    with (
        trace.span(f"job {task}", traceparent=traceparent or None, kind=trace.SpanKind.CONSUMER),
        bind(trace_id=trace.trace_id()),
    ):
        yield


@asynccontextmanager
async def _alone(context: Context, name: str, limit: asyncio.Timeout) -> AsyncIterator[bool]:
    """Whether no other worker runs this periodic job now; should one all the same, ours ends. The lock of a killed
    worker ends by itself.
    """
    key, token = f"running:{name}", uuid4().hex
    lasts = int(context.leases.seconds * 1000)
    if not await context.redis.set(key, token, nx=True, px=lasts):
        yield False
        return

    async def keep() -> None:
        while True:
            await asyncio.sleep(lasts / 3000)
            with suppress(RedisError, OSError):  # asked again before it ends
                if not await context.redis.eval(_KEEP, 1, key, token, lasts):
                    limit.reschedule(asyncio.get_running_loop().time())
                    return

    try:
        async with running(keep):
            yield True
    finally:
        with suppress(RedisError, OSError):  # then the lock ends by itself
            await context.redis.eval(_RELEASE, 1, key, token)
