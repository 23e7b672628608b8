"""Refused ids: whether one that was not found is another tenant's, asked when the caller has long had its answer.

To the caller a foreign id and a missing one are the same, in words and in time; so nothing here happens before the
answer, and the same is asked about both. Only the log and a counter learn the difference.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from aiohttp import web

from ottoai.db import Session, queries
from ottoai.domain import tenants
from ottoai.errors import OttoError
from ottoai.metrics import Metrics
from ottoai.web.inputs import is_uuid

logger = logging.getLogger(__name__)

PAUSE: Final = 0.1  # seconds from the first refusal to the look: the answers are out by then, and many share one look
BOUND: Final = 1_000  # refusals that wait; past that, somebody is trying ids, and has been counted many times over
BATCH: Final = 100  # looked up at once, so at most 1,000 a second: a few milliseconds each look

# What the ids of /api/NOUN/{id} name, in the words of the database's `exists_elsewhere`.
NOUNS: Final = {
    "calls": "call",
    "leads": "lead",
    "messages": "message",
    "missed-calls": "missed_call",
    "tasks": "task",
}
CHANNEL_ROUTES: Final = ("/ws", "/api/events", "/api/events/stream")


class Refused(NamedTuple):
    """One refusal: who asked, for what, and where; `context` binds its log line to the request."""

    tenant_id: str
    noun: str
    wanted: str
    route: str
    context: contextvars.Context


class Foreign:
    """Notes refusals, and looks them up in the background."""

    def __init__(self, system: Session, metrics: Metrics, routes: Iterable[str]) -> None:
        self._system = system
        self._metrics = metrics
        self._waiting: deque[Refused] = deque()
        self._wake = asyncio.Event()
        self._lost = 0
        for route in (*CHANNEL_ROUTES, *(route for route in routes if noun_of(route))):
            metrics.cross_tenant_access_attempts_total.inc(0, route=route)  # a counter born at 1 alerts nobody

    def note(self, tenant_id: str, noun: str, wanted: str, route: str) -> None:
        """Have a refused id looked up soon. Never waits, never raises."""
        if not (tenants.is_id(wanted) if noun == "tenant" else is_uuid(wanted)):
            return  # nothing is called that anywhere, and the whole batch would fail with it
        if len(self._waiting) >= BOUND:
            self._lost += 1
            return
        self._waiting.append(Refused(tenant_id, noun, wanted, route, contextvars.copy_context()))
        self._wake.set()

    def note_request(self, request: web.Request, tenant_id: str, route: str) -> None:
        """The same for a request that ended in a 404, if its address names a thing by its id."""
        noun = noun_of(route)
        if noun:
            self.note(tenant_id, noun, request.match_info["id"], route)

    async def run(self) -> None:
        """Look up for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(PAUSE)
            await self.run_once()
            if not self._waiting:
                self._wake.clear()

    async def run_once(self) -> None:
        """Look up one batch, and tell of those that are another tenant's. What cannot be looked up now is given up."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        lost, self._lost = self._lost, 0
        try:
            foreign = await self._elsewhere(batch)
        except OttoError:
            foreign, lost = [], lost + len(batch)
        for refused, is_foreign in zip(batch, foreign, strict=False):
            if is_foreign:
                refused.context.run(self._tell, refused)
        if lost:
            logger.warning("Refused ids were not looked up", extra={"count": lost})

    async def _elsewhere(self, batch: list[Refused]) -> list[bool]:
        rows = queries().privacy.elsewhere(
            self._system,
            askers=[refused.tenant_id for refused in batch],
            nouns=[refused.noun for refused in batch],
            wanted=[refused.wanted for refused in batch],
        )
        return [row["foreign_id"] async for row in rows]

    def _tell(self, refused: Refused) -> None:
        # Neither the id nor whose it is: the line is bound to the tenant that asked, and may be shown to it.
        logger.warning(
            "Unauthorized access: tenant_id mismatch",
            extra={
                "event_type": "cross_tenant_access",
                "tenant_id": refused.tenant_id,
                "route": refused.route,
                "noun": refused.noun,
            },
        )
        self._metrics.cross_tenant_access_attempts_total.inc(route=refused.route)


def noun_of(route: str) -> str | None:
    """What the `{id}` of a route names; None when it has none."""
    words = route.split("/")
    return NOUNS.get(words[2]) if words[:2] == ["", "api"] and words[3:4] == ["{id}"] else None
