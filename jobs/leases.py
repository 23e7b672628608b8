"""The leases of a worker: held for as long as a job runs, however long that is, and given up when another has it.

What is asked for at the same time is taken in one statement, since commits are what a job costs. All are renewed in
one, every third of their time: two renewals may fail before a lease ends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from ottoai.db import Database
from ottoai.domain import outbox
from ottoai.domain.outbox import Leased
from ottoai.errors import StoreUnavailable
from ottoai.exchange import Exchange

log = logging.getLogger(__name__)

TOGETHER = 500  # jobs leased in one statement; a worker runs far fewer at a time


class LeaseLostError(Exception):
    """Another worker has the job, or it is gone: whatever this attempt would do now is no longer its business."""


class Held:
    """A job that runs here, and how it is stopped. `until`: when its lease ends, by the loop's clock."""

    def __init__(self, job: Leased, limit: asyncio.Timeout, until: float) -> None:
        self.job = job
        self.limit = limit
        self.until = until
        self.lost = False

    def lose(self) -> None:
        """Stop the job."""
        self.lost = True
        self.limit.reschedule(asyncio.get_running_loop().time())


class Leases:
    """What this process holds. `keep` runs beside the jobs."""

    def __init__(self, db: Database, seconds: float) -> None:
        self.seconds = seconds
        self._db = db
        self._held: dict[tuple[str, int], Held] = {}
        self._taking: Exchange[str, Leased | None] = Exchange(self._take, TOGETHER)

    async def take(self, job_id: str) -> Leased | None:
        """Lease a job; None when there is nothing to do. Raises StoreUnavailable."""
        return await self._taking.ask(str(UUID(job_id)))

    async def _take(self, ids: Sequence[str]) -> list[Leased | None]:
        leased = {job.id: job for job in await outbox.lease(self._db.system(), ids, self.seconds)}
        return [leased.pop(job_id, None) for job_id in ids]  # of two who ask for the same job, one has it

    @asynccontextmanager
    async def held(self, job: Leased, timeout: float) -> AsyncIterator[None]:
        """Hold a job that was just taken while the block runs, `timeout` seconds at most.

        Raises TimeoutError past that, LeaseLostError as soon as the job is another's.
        """
        key = (job.id, job.attempts)
        limit = asyncio.timeout(timeout)
        held = self._held[key] = Held(job, limit, asyncio.get_running_loop().time() + self.seconds)
        try:
            async with limit:
                yield
        except Exception as error:
            if held.lost:
                raise LeaseLostError from error
            raise
        finally:
            del self._held[key]

    async def keep(self) -> None:
        """Renew what is held, for ever."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            if self._held:
                await self.renew()

    async def renew(self) -> None:
        """Renew what is held, and stop what is another's by now."""
        held = dict(self._held)
        now = asyncio.get_running_loop().time()
        try:
            kept = await outbox.renew(self._db.system(), [each.job for each in held.values()], self.seconds)
        except StoreUnavailable as error:
            log.warning("Leases not renewed", extra={"count": len(held), "error": error})
            kept = {key for key, each in held.items() if each.until > now + self.seconds / 3}
        else:
            for key in kept:
                held[key].until = now + self.seconds
        for key in held.keys() - kept:
            if key in self._held:
                self._held[key].lose()

    @property
    def jobs(self) -> list[Leased]:
        """What is held now."""
        return [each.job for each in self._held.values()]
