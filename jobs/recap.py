"""Tells each tenant at its local 18:00 how its day was: `analytics.daily_recap.ready`. Periodic, every minute.

What is due is found anew each time, from what has been told: so a run that was killed, late or doubled does no harm.
After an outage the last day is told, and those before it are not.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Final

from jobs.context import Context
from ottoai import trace
from ottoai.domain import hours, recaps
from ottoai.domain.recaps import Day, Due
from ottoai.errors import InvalidInput, StoreUnavailable
from ottoai.log import bind

log = logging.getLogger(__name__)

BATCH: Final = 200  # tenants looked up at once
BUDGET: Final = 0.6  # of a run's deadline; what is left then is for the next run, which follows at once


async def recap(context: Context) -> bool:
    """Tell who is due; return whether somebody is left."""
    return await tell_all(context, datetime.now(UTC))


async def tell_all(context: Context, now: datetime) -> bool:
    """Tell all tenants whose day is over at `now`, until the time is up; return whether somebody is left."""
    until = time.monotonic() + context.deadline * BUDGET
    days = _days(await recaps.zones(context.db.system()), now)
    told, more, after = 0, False, ""
    while not more and (batch := await recaps.due(context.db.system(), days, after, BATCH)):
        for tenant in batch:
            if more := time.monotonic() > until:
                break
            told += await _tell(context, tenant, days[tenant.timezone])
        after = batch[-1].tenant_id
    if told:
        log.info("Daily recaps told", extra={"count": told})
    return more


def _days(zones: list[str], now: datetime) -> dict[str, Day]:
    days = {}
    for name in zones:
        try:
            days[name] = recaps.last_day(now, hours.parse_zone(name))
        except InvalidInput as unknown:  # this machine's zone database is older than the one that took it
            log.warning("No daily recaps in a time zone", extra={"detail": unknown.detail})
    return days


async def _tell(context: Context, tenant: Due, day: Day) -> bool:
    """Tell one tenant; whether it was. What is wrong with one is logged, and the others go on."""
    with bind(tenant_id=tenant.tenant_id):
        try:
            appended = await recaps.tell(context.db.one(tenant.tenant_id), tenant, day, trace.trace_id())
        except StoreUnavailable as away:
            log.warning("Daily recap not told; the next run tries again", extra={"detail": away.detail})
            return False
        except Exception:
            log.exception("Daily recap broke")
            return False
    context.bus.publish(appended)
    return bool(appended.events)
