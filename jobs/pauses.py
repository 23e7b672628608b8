"""What a worker knows of the queues that operators stopped: asked from its thread, looked up on the loop."""

import asyncio
import logging
import time
from concurrent.futures import Future
from typing import Final

from jobs.outage import Outage
from ottoai.db import Database
from ottoai.domain.paused import paused
from ottoai.errors import StoreUnavailable

log = logging.getLogger(__name__)

EVERY: Final = 2.0  # seconds between looks; meanwhile the outbox itself gives out no job of a stopped queue


class Pauses:
    """Which queues are stopped. With the database away the last that was known counts; before the first look, nothing
    may be taken: without the database no job could be done anyway.
    """

    def __init__(self, db: Database) -> None:
        self.queues: frozenset[str] | None = None  # None: not known yet
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._looking: Future[None] | None = None
        self._next = 0.0
        self._outage = Outage("Paused queues")

    def refresh(self) -> None:
        """Have them looked up, if it is time. Never waits; for another thread than the loop's."""
        if time.monotonic() < self._next or (self._looking and not self._looking.done()):
            return
        self._next = time.monotonic() + EVERY
        self._looking = asyncio.run_coroutine_threadsafe(self.run_once(), self._loop)

    async def run_once(self) -> None:
        """One look."""
        try:
            found = frozenset([each.queue for each in await paused(self._db.system())])
        except StoreUnavailable as error:
            self._outage.lost(error)
            return
        self._outage.over()
        if found != (self.queues or frozenset()):
            log.info("Queues paused" if found else "No queue is paused any more", extra={"queues": sorted(found)})
        self.queues = found

    def open(self, name: str) -> bool:
        """Whether jobs may be taken from a queue."""
        return self.queues is not None and name not in self.queues
