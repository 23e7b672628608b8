"""The daily recap: each tenant is told at its 18:00 what happened since the 18:00 before, once a day, however late."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.events import Appended
from ottoai.domain.tenants import PROBE

AT: Final = time(18)
# A rescue is over two days after its call, or when what ends it could be done again after an outage. What took longer
# than this is counted in no recap.
REACH: Final = timedelta(weeks=2)


class Day(msgspec.Struct, frozen=True):
    """A day of a tenant's: from one evening to the next, by whose date it is called."""

    day: date
    since: datetime
    until: datetime


class Due(msgspec.Struct, frozen=True):
    """A tenant that is to be told of the last day that is over in its zone."""

    tenant_id: str
    timezone: str


def last_day(now: datetime, zone: ZoneInfo) -> Day:
    """The last day that is over in a zone: of 23 or 25 hours when clocks were changed."""
    today = now.astimezone(zone).date()
    # By their moments: where a date was left out, its evening is the next one's, and counts once.
    evenings = {_evening(day, zone): day for day in (today - timedelta(days=n) for n in range(3, -1, -1))}
    since, until = [evening for evening in evenings if evening <= now][-2:]
    return Day(evenings[until], since, until)


def _evening(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, AT, zone).astimezone(UTC)


async def zones(system: Session) -> list[str]:
    """The names of all tenants' time zones."""
    return [row["timezone"] async for row in queries().recaps.zones(system)]


async def due(system: Session, days: Mapping[str, Day], after: str, limit: int) -> Sequence[Due]:
    """Tenants in these zones that have not been told of the day there, the first `limit` with an id after `after`."""
    found = queries().recaps.due(
        system,
        timezones=list(days),
        days=[each.day for each in days.values()],
        untils=[each.until for each in days.values()],
        after=after,
        probe=PROBE,
        limit=limit,
    )
    return [Due(**row) async for row in found]


async def tell(tx: Session, tenant: Due, day: Day, trace_id: str) -> Appended:
    """Count a tenant's day and append the recap, once; nothing when it has been told, or is in another zone by now."""
    row = await queries().recaps.tell(
        tx, timezone=tenant.timezone, reach=REACH, trace_id=trace_id, **msgspec.structs.asdict(day)
    )
    return Appended.of(tenant.tenant_id, row)
