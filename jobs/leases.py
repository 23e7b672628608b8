"""The leases of a worker: held for as long as a job runs, however long that is, and given up when another has it.

What is asked for at the same time is taken in one statement, since commits are what a job costs. All are renewed in
one, every third of their time: two renewals may fail before a lease ends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from ottoai.db import Database
from ottoai.domain import outbox
from ottoai.domain.outbox import Leased
from ottoai.errors import StoreUnavailable

log = logging.getLogger(__name__)


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
        self._wanted: list[tuple[str, asyncio.Future[Leased | None]]] = []
        self._taking: asyncio.Task[None] | None = None

    async def take(self, job_id: str) -> Leased | None:
        """Lease a job; None when there is nothing to do. Raises StoreUnavailable."""
        asked: asyncio.Future[Leased | None] = asyncio.get_running_loop().create_future()
        self._wanted.append((str(UUID(job_id)), asked))
        if self._taking is None:
            self._taking = asyncio.create_task(self._take())
        return await asked

    async def _take(self) -> None:
        """Lease all that is asked for; what is asked for meanwhile is next."""
        while self._wanted:
            wanted, self._wanted = self._wanted, []
            try:
                leased = await outbox.lease(self._db.system(), [job_id for job_id, _ in wanted], self.seconds)
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                _answer(wanted, error)
            else:
                _answer(wanted, {job.id: job for job in leased})
        self._taking = None

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
            log.warning("Leases not renewed", extra={"count": len(held), "error": repr(error)})
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


def _answer(wanted: list[tuple[str, "asyncio.Future[Leased | None]"]], answer: "dict[str, Leased] | Exception") -> None:
    for job_id, asked in wanted:
        if asked.done():  # whoever asked was stopped
            continue
        if isinstance(answer, Exception):
            asked.set_exception(answer)
        else:
            asked.set_result(answer.pop(job_id, None))  # to one, of two that ask for the same
