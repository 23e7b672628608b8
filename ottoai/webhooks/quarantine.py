"""What was quarantined: finding it, and trying it again once its cause is mended."""

import logging
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain import tenants
from ottoai.errors import Conflict, InvalidInput, NotFound, OttoError
from ottoai.webhooks.receive import PROVIDERS, Ingest, as_raw, record

log = logging.getLogger(__name__)

PAGE = 100
MANY = 1000


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which quarantined deliveries; None: whichever."""

    tenant_id: str | None = None
    provider: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Quarantined(msgspec.Struct, frozen=True):
    """A quarantined delivery."""

    id: str
    tenant_id: str
    provider: str
    kind: str
    error: str
    received_at: datetime
    trace_id: str


class Replayed(msgspec.Struct, frozen=True):
    """What a replay did: how it stood before (the error), and after. `events`: what it appended, by name."""

    id: str
    before: str
    status: Literal["processed", "duplicate_ignored", "quarantined", "replayed_before", "payload_gone"]
    detail: str | None = None
    external_id: str | None = None
    events: tuple[str, ...] = ()


async def find(
    system: Session, which: Filter, limit: int = PAGE, after: tuple[datetime, str] | None = None
) -> list[Quarantined]:
    """A page of what is quarantined and still kept, oldest first; behind a place (`received_at`, `id`) where given.
    Raises StoreUnavailable.
    """
    after_at, after_id = after or (None, None)
    rows = queries().deliveries.quarantined(
        system,
        tenant=which.tenant_id,
        provider=which.provider,
        kind=which.kind,
        since=which.since,
        until=which.until,
        after_at=after_at,
        after_id=after_id,
        page_size=limit,
    )
    return [_quarantined(row) async for row in rows]


async def count(system: Session) -> int:
    """How many are quarantined and still kept; MANY stands for more. Raises StoreUnavailable."""
    counted: int = await queries().deliveries.count_quarantined(system, bound=MANY)
    return counted


async def every(system: Session, which: Filter) -> AsyncIterator[Quarantined]:
    """All that is quarantined and still kept, oldest first. Raises StoreUnavailable."""
    after = None
    while page := await find(system, which, after=after):
        for each in page:
            yield each
        after = page[-1].received_at, page[-1].id


async def get(system: Session, key_id: str) -> tuple[Quarantined, Row]:
    """One that is or was quarantined, and its payload (headers, body). Raises NotFound."""
    row = await queries().deliveries.one_quarantined(system, id=key_id)
    if row is None:
        raise NotFound(f"No quarantined delivery has the id {key_id}.")
    return _quarantined(row), row


async def replay(ingest: Ingest, key_id: str) -> Replayed:
    """Try a quarantined delivery again: its effect and the end of its quarantine commit together, once however often
    this is asked. Raises NotFound, StoreUnavailable.
    """
    found, _ = await get(ingest.db.system(), key_id)
    tenant = await tenants.by_id(ingest.db.system(), ingest.vault, found.tenant_id, found.provider)
    if tenant is None:
        raise NotFound(f"There is no tenant {found.tenant_id}.")
    try:
        async with ingest.db.transaction(tenant.id) as tx:
            row = await queries().deliveries.hold_quarantined(tx, id=key_id)
            if row is None:
                return Replayed(key_id, found.error, "replayed_before")
            if row["body"] is None:
                return Replayed(key_id, found.error, "payload_gone", "Payloads are kept PAYLOAD_RETENTION_DAYS.")
            raw = as_raw(row)
            delivery = PROVIDERS[raw.provider].parse(raw)
            await queries().deliveries.end_quarantine(tx, id=key_id)
            recorded = await record(tx, tenant, raw, delivery)
    except (InvalidInput, Conflict) as error:
        return await _stays(ingest, found, error.detail)
    except OttoError:
        raise
    except Exception as error:  # it must not keep others from being tried
        log.exception("Webhook could not be processed", extra={"provider": found.provider, "kind": found.kind})
        return await _stays(ingest, found, f"internal error: {type(error).__name__}")
    ingest.bus.publish(recorded.appended)
    ingest.waker.wake(recorded.jobs)
    names = tuple(event.event for event in recorded.appended.events)
    status: Literal["processed", "duplicate_ignored"] = "processed" if recorded.fresh else "duplicate_ignored"
    return Replayed(key_id, found.error, status, None, delivery.external_id, names)


async def _stays(ingest: Ingest, found: Quarantined, error: str) -> Replayed:
    await queries().deliveries.keep_error(ingest.db.one(found.tenant_id), id=found.id, error=error)
    return Replayed(found.id, found.error, "quarantined", error)


def _quarantined(row: Row) -> Quarantined:
    return Quarantined(
        str(row["id"]),
        row["tenant_id"],
        row["provider"],
        row["kind"],
        row["error"] or "",
        row["received_at"],
        row["trace_id"],
    )
