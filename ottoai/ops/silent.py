"""Tenants whose webhooks fell silent: a provider that has switched them off says nothing, and neither does a missing
call. Every API process asks for itself, so that each can show who it is.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.tenants import PROBE
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.ops.monitor import Clock
from ottoai.webhooks.callrail import LISTED

log = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=5)
USUAL: Final = 5  # deliveries in the same hours of each of two weeks: with fewer, none is no news
WITHIN: Final = timedelta(days=8)  # the week of their last habit
PATIENCE: Final = 3.0  # seconds; the watch waits meanwhile, and asks again in five minutes
LOOKING_BACK: Final = 2.0  # seconds more, for since when: a week of all tenants' keys is read for it
LIMIT: Final = 1000  # tenants named; the provider's outage silences them all


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant of which nothing comes, and when the last delivery did. `last_at`: None when that is not known."""

    tenant_id: str
    last_at: datetime | None


class Silence:
    """Who is silent. `tenants`: None when it is not known."""

    def __init__(self, system: Session, metrics: Metrics, clock: Clock) -> None:
        self.tenants: list[Silent] | None = None
        self._system = system
        self._metrics = metrics
        self._clock = clock
        self._next: datetime | None = None

    async def look(self) -> None:
        """Ask, if it is time to. To be called after each look of the watch."""
        now = self._clock()
        if self._next is not None and timedelta(0) < self._next - now <= EVERY:
            return
        self._next = now + EVERY
        try:
            async with asyncio.timeout(PATIENCE):
                today = await self._ask(now)
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("Silent tenants not known", extra={"error": error})
            self.tenants = None
            self._metrics.webhook_silent_tenants.replace(())
            return
        known = {each.tenant_id: each.last_at for each in self.tenants or ()}  # it is silent: that changes no more
        last = {tenant: last_at or known.get(tenant) for tenant, last_at in today.items()}
        if unknown := [tenant for tenant, last_at in last.items() if last_at is None]:
            last |= await self._look_back(unknown, now)
        self.tenants = [Silent(tenant_id=tenant, last_at=last_at) for tenant, last_at in last.items()]
        self._metrics.webhook_silent_tenants.set(len(self.tenants))

    async def _ask(self, now: datetime) -> dict[str, datetime | None]:
        """Who is silent, and when today's last delivery came."""
        rows = queries().ops.silent_tenants(self._system, now=now, listed=LISTED, probe=PROBE, usual=USUAL, limit=LIMIT)
        return {row["tenant_id"]: row["last_at"] async for row in rows}

    async def _look_back(self, tenants: list[str], now: datetime) -> dict[str, datetime]:
        """When the last delivery of each came; nothing when that takes too long: who is silent is known without."""
        try:
            async with asyncio.timeout(LOOKING_BACK):
                rows = queries().ops.last_deliveries(
                    self._system, tenants=tenants, since=now - WITHIN, until=now, listed=LISTED
                )
                return {row["tenant_id"]: row["last_at"] async for row in rows}
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("Since when tenants are silent is not known", extra={"error": error})
            return {}
