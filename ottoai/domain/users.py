"""Who works at a tenant: members and their roles, and what is known of the persons. What happened last counts, in
whatever order it is told; `stamp` says when (see Stamp).
"""

from typing import Annotated

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.events import Appended
from ottoai.domain.roles import Role

# Orders facts: the time in milliseconds, then what breaks a tie, then the delivery. Compares as text; "" is before all.
Stamp = Annotated[str, "e.g. 00001764019264123-2-msg_2Lh9…"]


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user, whatever tenants that user belongs to. `gone`: there is no such user any more."""

    user_id: str
    name: str | None
    gone: bool = False
    stamp: Stamp


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """That a user works at a tenant, or (`member` false) does not any more."""

    tenant_id: str
    user_id: str
    role: Role
    member: bool = True
    stamp: Stamp


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery that tells: its idempotency key within a tenant."""

    provider: str
    kind: str
    external_id: str
    variant: str = ""
    trace_id: str = ""


class Merged(msgspec.Struct, frozen=True):
    """What became of it. `fresh` false: this delivery was taken before, and nothing was done."""

    fresh: bool
    appended: Appended


async def hear(system: Session, person: Person) -> Person:
    """Remember what is told of a user; what counts now, which was told before if that is later."""
    return Person(**await queries().users.hear(system, **msgspec.structs.asdict(person)))


async def heard(system: Session, user_id: str) -> Person | None:
    """What was last told of a user within the last days."""
    row = await queries().users.heard(system, user_id=user_id)
    return Person(**row) if row else None


async def tenants_of(system: Session, user_id: str) -> tuple[str, ...]:
    """The tenants that know a user."""
    return tuple([row["tenant_id"] async for row in queries().users.tenants_of(system, user_id=user_id)])


async def merge(
    tx: Session, tenant_id: str, source: Source, membership: Membership | None, person: Person | None
) -> Merged:
    """Bring what is told of a user into a tenant, once for each source, and append what others can see of it. Without
    a membership only a user who is known there is changed. Raises NotFound when there is no such tenant.
    """
    told = membership or person
    assert told is not None
    row = await queries().users.merge(
        tx,
        user_id=told.user_id,
        role=membership.role.value if membership else None,
        member=membership.member if membership else None,
        membership_stamp=membership.stamp if membership else "",
        name=person.name if person else None,
        gone=person.gone if person else None,
        person_stamp=person.stamp if person else "",
        **msgspec.structs.asdict(source),
    )
    return Merged(row["fresh"], Appended.of(tenant_id, row))


async def claim(tx: Session, source: Source) -> bool:
    """Take the idempotency key of a delivery that tells nothing of users; whether it was free."""
    return await queries().users.claim(tx, **msgspec.structs.asdict(source)) is not None
