"""Asks CallRail for what its webhooks did not tell: it never sends one again. Periodic.

Tenants are compared side by side, a few at a time, and each on its own: what is wrong with one is noted with it, and it
alone is asked more rarely. A run ends within a worker's deadline; what is left then is for the next, which follows at
once. What a comparison does is told in ottoai/webhooks/reconcile.
"""

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from jobs.context import Context
from ottoai.domain import reconciliations, tenants
from ottoai.errors import ProviderFailed, StoreUnavailable
from ottoai.log import bind
from ottoai.vault import Vault
from ottoai.webhooks import callrail
from ottoai.webhooks.callrail_api import Api, open_api
from ottoai.webhooks.receive import Directory, Ingest
from ottoai.webhooks.reconcile import Comparison, Progress, spans

log = logging.getLogger(__name__)

AT_ONCE: Final = 8  # tenants; a few that hang leave room for the others
MOST: Final = 500  # tenants looked up for one run: more than a run gets done
BUDGET: Final = 0.5  # of a run's deadline: then nothing new is begun
LATEST: Final = 0.9  # of a run's deadline: then what is being waited for is left to the next run
LEASE: Final = timedelta(minutes=2)  # longer than any run; a tenant whose run was killed is looked at again after it
# After a comparison until the next one: less than the schedule's five minutes, or a run that begins a little early
# would find nobody due.
INTERVAL: Final = timedelta(minutes=4)
LONGEST: Final = timedelta(minutes=15)  # after failures; a call that was missed meanwhile can still be rung back


class Run:
    """One run: what it works with and until when."""

    def __init__(self, context: Context, ingest: Ingest, api: Api) -> None:
        self.context = context
        self.ingest = ingest
        self.api = api
        self.waiting: deque[str] = deque()
        self.unfinished = False
        now = asyncio.get_running_loop().time()
        self._soon = now + context.deadline * BUDGET
        self.end = now + context.deadline * LATEST

    @property
    def over(self) -> bool:
        """Whether nothing new is to be begun."""
        return asyncio.get_running_loop().time() >= self._soon

    async def work(self) -> None:
        """Compare one tenant after the other."""
        while self.waiting and not self.over:
            tenant_id = self.waiting.popleft()
            with bind(tenant_id=tenant_id):
                outcome = await self._one(tenant_id)
                self.context.metrics.reconcile_runs_total.inc(outcome=outcome)

    async def _one(self, tenant_id: str) -> str:
        """Compare one tenant, note with it what went wrong, and return the outcome. Raises nothing."""
        state = State()
        try:
            async with asyncio.timeout_at(self.end):
                return await self._compare(tenant_id, state)
        except ProviderFailed as failure:
            failed = failure
        except TimeoutError:
            failed = ProviderFailed("unavailable", "CallRail did not answer in time.")
        except StoreUnavailable as away:  # then it is due again when its lease ends
            failed = ProviderFailed("failed", away.detail)
        except Exception:  # one tenant's comparison ends here, whatever was wrong with it; the others go on
            log.exception("Reconcile broke")
            failed = ProviderFailed("failed", "A fault of ours: see the log.")
        try:
            return await self._note(tenant_id, failed, state)
        except StoreUnavailable as away:
            log.warning("Reconcile not put off; the tenant is due when its lease ends", extra={"detail": away.detail})
            return failed.reason

    async def _note(self, tenant_id: str, failed: ProviderFailed, state: "State") -> str:
        if failed.reason == "unavailable" and state.moved and self.over:
            return await self._more(tenant_id, state)  # our time was up, not the server's
        level = logging.ERROR if failed.reason in {"unauthorized", "ambiguous"} else logging.WARNING
        log.log(level, "Reconcile failed", extra={"reason": failed.reason, "detail": failed.detail})
        wait = timedelta(seconds=failed.retry_after) if failed.retry_after else backoff(state.failures)
        await reconciliations.put_off(self.context.db.one(tenant_id), wait, failed.detail)
        return failed.reason

    async def _compare(self, tenant_id: str, state: "State") -> str:
        db, vault = self.context.db, self.ingest.vault
        access = await tenants.access(db.system(), vault, tenant_id, callrail.NAME)
        tenant = await tenants.by_id(db.system(), vault, tenant_id, callrail.NAME)
        if access is None or tenant is None:  # taken away since it was found due
            return "success"
        standing = await reconciliations.begin(db.one(tenant_id), access.account, LEASE)
        state.failures = standing.failures
        comparison = Comparison(self.ingest, self.api, tenant, access, standing)
        for span in spans(comparison.since, standing.at):
            async with aclosing(comparison.read(span)) as pages:
                async for progress in pages:
                    await reconciliations.advance(db.one(tenant_id), progress.settled_until, comparison.companies)
                    state.moved |= progress.settled_until > comparison.since
                    self._count(progress)
                    if self.over and not (progress.last and span.until == standing.at):
                        return await self._more(tenant_id, state)
        await reconciliations.succeed(db.one(tenant_id), INTERVAL)
        return "success"

    async def _more(self, tenant_id: str, state: "State") -> str:
        """There is more to do: at once, unless this run came no further than the one before."""
        await reconciliations.put_off(self.context.db.one(tenant_id), timedelta(0) if state.moved else INTERVAL)
        self.unfinished |= state.moved
        return "unfinished"

    def _count(self, progress: Progress) -> None:
        found = {name: getattr(progress, name) for name in ("recovered", "corrected", "quarantined")}
        for result, number in found.items():
            self.context.metrics.reconcile_calls_total.inc(number, result=result)
        if any(found.values()):
            log.info("Calls taken in that no webhook told of", extra={"listed": progress.listed, **found})


class State:
    """What is known of a tenant's turn when it ends badly."""

    def __init__(self) -> None:
        self.failures = 0
        self.moved = False


def backoff(failures: int) -> timedelta:
    """The wait after so many failures before this one."""
    times: int = 2 ** min(failures, 10)
    return min(LONGEST, INTERVAL * times)


async def reconcile(context: Context) -> bool:
    """Compare the tenants that are due, until the time is up; return whether something is left."""
    due = await reconciliations.due(context.db.system(), MOST)
    if not due:
        return False
    async with open_api(context.config, AT_ONCE) as api:
        vault = Vault(context.config.secret_keys)
        directory = Directory(context.db.system(), vault)
        ingest = Ingest(context.config, context.db, context.bus, context.waker, vault, directory)
        run = Run(context, ingest, api)
        run.waiting.extend(due)
        await asyncio.gather(*(run.work() for _ in range(AT_ONCE)))
    return run.unfinished or bool(run.waiting)
