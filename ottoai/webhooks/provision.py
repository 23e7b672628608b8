"""The story of one event of Clerk's, from its bytes to its commits. Reads top to bottom; knows no HTTP.

    check its signature → understand it → make or rename the tenant → revoke → tell the tenants of their users

An event may come in any order, and twice. Each step can be done again without harm, and an event that fails in between
is sent again: so there need not be one transaction over several tenants, and each tenant has the event's idempotency
key, its users and its log in one of its own.
"""

from typing import Final

import msgspec

from ottoai import trace
from ottoai.db import Session, queries
from ottoai.domain import revocations, tenants, users
from ottoai.domain.users import Membership, Person, Source
from ottoai.errors import StoreUnavailable
from ottoai.webhooks import clerk
from ottoai.webhooks.clerk import Event
from ottoai.webhooks.clerk_events import Facts
from ottoai.webhooks.delivery import Raw
from ottoai.webhooks.receive import UNCLAIMED_BOUND, Ingest, Receipt, Status

CATCHING_UP: Final = "person"  # variant of the key under which a membership's user is brought up to date


async def provision(ingest: Ingest, raw: Raw) -> Receipt:
    """Take one event in. Raises BadSignature, InvalidInput, StoreUnavailable; when it returns, all is committed."""
    clerk.verify(raw, ingest.config.clerk_webhook_secrets)
    return await heed(ingest, raw)


async def heed(ingest: Ingest, raw: Raw) -> Receipt:
    """The same for an event whose signature was checked when it came."""
    event, system = clerk.parse(raw), ingest.db.system()
    facts, tenant_id = event.facts, event.facts.tenant_id
    if facts == Facts():
        return _receipt(raw, event, "ignored")
    if facts.organisation is not None:
        named = facts.organisation
        await tenants.provision(system, named.id, named.name, ingest.config.tenant_timezone, named.stamp)
    elif tenant_id is not None and not await tenants.exists(system, tenant_id):
        return await _keep(ingest, raw, event, tenant_id)
    if facts.ending is not None:
        await revocations.revoke(system, facts.ending.tenant_id, facts.ending.user_id, facts.ending.at)
    fresh = await _tell(ingest, event, _source(raw, event))
    if facts.organisation is not None:
        await replay(ingest, facts.organisation.id)
    return _receipt(raw, event, "processed" if fresh else "duplicate_ignored")


async def _tell(ingest: Ingest, event: Event, source: Source) -> bool:
    """Tell each tenant that it concerns; whether this is told for the first time."""
    facts, system = event.facts, ingest.db.system()
    person = await users.hear(system, facts.person) if facts.person else None
    if facts.membership is not None:
        return await _tell_membership(ingest, source, facts.membership, person)
    if person is not None:
        homes = await users.tenants_of(system, person.user_id)
        fresh = [await _merge(ingest, home, source, None, person) for home in homes]
        return any(fresh) or not homes  # of a user who belongs nowhere yet it is remembered
    assert facts.tenant_id is not None
    return await users.claim(ingest.db.one(facts.tenant_id), source)


async def _tell_membership(ingest: Ingest, source: Source, membership: Membership, person: Person | None) -> bool:
    system = ingest.db.system()
    person = person or await users.heard(system, membership.user_id)
    fresh = await _merge(ingest, membership.tenant_id, source, membership, person)
    # Whoever told of the person meanwhile may not have seen this membership. Now that it is committed, one of the two
    # sees the other.
    latest = await users.heard(system, membership.user_id)
    if latest is not None and (person is None or latest.stamp > person.stamp):
        catching_up = msgspec.structs.replace(source, variant=CATCHING_UP)
        await _merge(ingest, membership.tenant_id, catching_up, None, latest)
    return fresh


async def _merge(
    ingest: Ingest, tenant_id: str, source: Source, membership: Membership | None, person: Person | None
) -> bool:
    merged = await users.merge(ingest.db.one(tenant_id), tenant_id, source, membership, person)
    ingest.bus.publish(merged.appended)
    return merged.fresh


async def _keep(ingest: Ingest, raw: Raw, event: Event, tenant_id: str) -> Receipt:
    """Keep what is told of an organisation that is no tenant yet, until it is one."""
    kept = await queries().deliveries.keep_unclaimed(
        ingest.db.system(),
        provider=clerk.NAME,
        kind="",
        identities=[_identity(tenant_id)],
        headers=msgspec.json.encode({name: raw.headers[name] for name in (clerk.ID, clerk.TIMESTAMP)}).decode(),
        url="",
        body=clerk.kept(raw),
        received_at=raw.received_at,
        bound=UNCLAIMED_BOUND,
    )
    if kept is None:
        raise StoreUnavailable("No tenant has this organisation's id, and too many such events are waiting.")
    if await tenants.exists(ingest.db.system(), tenant_id):  # since a moment ago: its own replay may have missed this
        await replay(ingest, tenant_id)
    return _receipt(raw, event, "unclaimed", "No tenant has this organisation's id yet; the event is kept.")


async def replay(ingest: Ingest, tenant_id: str) -> int:
    """Take in what was told of an organisation before it was a tenant; how many events that were."""
    system: Session = ingest.db.system()
    found = queries().deliveries.unclaimed_at(system, provider=clerk.NAME, identity=_identity(tenant_id))
    rows = [row async for row in found]
    for row in rows:
        raw = Raw(
            provider=clerk.NAME,
            kind="",
            hook="",
            headers=row["headers"],
            body=bytes(row["body"]),
            received_at=row["received_at"],
        )
        await heed(ingest, raw)
        await queries().deliveries.release_unclaimed(system, id=row["id"])
    return len(rows)


def _identity(tenant_id: str) -> str:
    return f"organization:{tenant_id}"


def _source(raw: Raw, event: Event) -> Source:
    return Source(provider=clerk.NAME, kind=event.kind, external_id=raw.headers[clerk.ID], trace_id=trace.trace_id())


def _receipt(raw: Raw, event: Event, status: Status, detail: str | None = None) -> Receipt:
    return Receipt(status, clerk.NAME, event.kind, raw.headers[clerk.ID], event.facts.tenant_id, detail)
