"""How far a tenant's calls have been compared with its provider's list of them: the watermark, and whose turn it is."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from ottoai.db import Session, queries


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tenant's comparison stands. `settled_until`: whatever began before is final and in our log; None: nothing
    was read. `companies`: those of the account that are known to be the tenant's. `at`: the database's time.
    """

    settled_until: datetime | None
    companies: Sequence[str]
    failures: int
    at: datetime


async def due(system: Session, limit: int) -> Sequence[str]:
    """Tenants to compare now, longest waiting first."""
    return [row["id"] async for row in queries().reconciliations.due(system, limit=limit)]


async def begin(tx: Session, account: str, lease: timedelta) -> Standing:
    """Take a tenant, so that nobody else begins it for so long."""
    return Standing(**await queries().reconciliations.begin(tx, account=account, lease=lease))


async def stand(tx: Session, account: str) -> Standing:
    """Where it stands, taking nothing."""
    return Standing(**await queries().reconciliations.stand(tx, account=account))


async def advance(tx: Session, settled_until: datetime, companies: Iterable[str]) -> None:
    """Move the watermark, forward only, over what has been committed; remember companies that proved to be its own."""
    await queries().reconciliations.advance(tx, settled_until=settled_until, companies=list(companies))


async def succeed(tx: Session, wait: timedelta) -> None:
    """Note that everything was compared, to be compared again after `wait`."""
    await queries().reconciliations.succeed(tx, wait=wait)


async def put_off(tx: Session, wait: timedelta, error: str | None = None) -> None:
    """Go on after `wait`: something went wrong (`error`), or there is more to do."""
    await queries().reconciliations.put_off(tx, wait=wait, error=error)
