"""Tokens that no longer count: of a user, of a tenant, or of a user of a tenant, up to a moment."""

from datetime import datetime

import msgspec

from ottoai.db import Session, queries
from ottoai.errors import InvalidInput, NotFound


class Revocation(msgspec.Struct, frozen=True):
    """Tokens of these that were issued up to `valid_after` are refused. `tenant_id` None: in every tenant; `user_id`
    None: every user of the tenant.
    """

    tenant_id: str | None
    user_id: str | None
    valid_after: datetime
    revoked_at: datetime

    def covers(self, tenant_id: str, user_id: str, issued_at: float) -> bool:
        """Whether a token of this user, issued then (Unix time), is refused."""
        return (
            self.tenant_id in {None, tenant_id}
            and self.user_id in {None, user_id}
            and issued_at <= self.valid_after.timestamp()
        )


async def revoke(system: Session, tenant_id: str | None, user_id: str | None, at: datetime | None = None) -> datetime:
    """Refuse all tokens issued up to a moment (None: now); the moment that holds, which is later if a later one was
    given before. Raises InvalidInput (neither is named), NotFound (no tenant).
    """
    if not tenant_id and not user_id:
        raise InvalidInput("revoke: name a tenant, a user, or both")
    moment: datetime | None = await queries().revocations.revoke(system, tenant_id=tenant_id, user_id=user_id, at=at)
    if moment is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    return moment


async def changed(system: Session, after: datetime) -> tuple[Revocation, ...]:
    """What was revoked since; some of it may have been told before."""
    return tuple([Revocation(**row) async for row in queries().revocations.changed(system, after=after)])
