"""The story of one delivery, from its bytes to its commit. Reads top to bottom; knows no HTTP.

    route it → check its signature with that tenant's key → understand it → commit it → tell

Telling (the bus, the queue) follows the commit and may be lost without harm.
"""

import hashlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import msgspec

from ottoai import trace
from ottoai.config import Config
from ottoai.db import Database, Row, Session, queries
from ottoai.domain import reports, tenants
from ottoai.domain.calls import Recorded
from ottoai.domain.events import Appended
from ottoai.domain.tenants import Tenant
from ottoai.errors import (
    BadSignature,
    Conflict,
    InvalidInput,
    NoRoom,
    OttoError,
    OutcomeUnknown,
    StoreUnavailable,
    TooLarge,
)
from ottoai.log import bind
from ottoai.queue import Waker
from ottoai.realtime.bus import Bus
from ottoai.vault import Vault
from ottoai.webhooks import callrail, twilio
from ottoai.webhooks.delivery import Delivery, Provider, Raw
from ottoai.webhooks.spool import Spool

log = logging.getLogger(__name__)

_PROVIDERS: Final[tuple[Provider, ...]] = (callrail, twilio)
PROVIDERS: Final = {each.NAME: each for each in _PROVIDERS}
DEMO: Final = "demo"  # the one tenant that takes unsigned deliveries, in development

# Deliveries kept for companies that nobody has added: enough for a day's mistake, too few to fill a disk.
UNCLAIMED_BOUND: Final = 5_000
UNCLAIMED_BODY: Final = 64 * 1024  # bytes; real ones have some 3 KiB

# Seconds that a routing answer is reused, spread so that not all are asked again in one moment; a wrong signature asks
# again at once.
ROUTES_KEPT: Final = (3.0, 5.0)
ROUTES_BOUND: Final = 10_000

Status = Literal["processed", "duplicate_ignored", "ignored", "quarantined", "unclaimed", "spooled"]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a delivery."""

    status: Status
    provider: str
    kind: str
    external_id: str | None = None
    tenant_id: str | None = None
    detail: str | None = None


class Directory:
    """Whose delivery is it? Remembers the answers for a moment, since the same companies call all day."""

    def __init__(self, system: Session, vault: Vault) -> None:
        self._system = system
        self._vault = vault
        self._kept: dict[tuple[str, ...], tuple[float, tuple[Tenant, ...]]] = {}

    async def find(self, provider: str, identities: Sequence[str], *, fresh: bool = False) -> tuple[Tenant, ...]:
        """The tenants these identities belong to; unknown ones are asked for anew each time."""
        key = (provider, *identities)
        until, known = self._kept.get(key, (0.0, ()))
        if known and not fresh and time.monotonic() < until:
            return known
        found = await tenants.routed(self._system, self._vault, provider, identities)
        if found:  # strangers' ids are not kept: anybody can send those
            if len(self._kept) >= ROUTES_BOUND:
                self._kept.clear()
            self._kept[key] = (time.monotonic() + random.uniform(*ROUTES_KEPT), found)  # noqa: S311 - spreads load
        return found

    def remembered(self, provider: str, identities: Sequence[str]) -> tuple[Tenant, ...]:
        """The last answer, however old: for when the database does not give a new one."""
        return self._kept.get((provider, *identities), (0.0, ()))[1]


@dataclass(frozen=True, slots=True)
class Ingest:
    """What receiving needs."""

    config: Config
    db: Database
    bus: Bus
    waker: Waker
    vault: Vault
    directory: Directory


async def receive(ingest: Ingest, raw: Raw, spool: Spool | None) -> Receipt:
    """Take one delivery in, once; while the database is away, keep it in the spool. When this returns, the delivery is
    stored. Raises BadSignature, InvalidInput, TooLarge, StoreUnavailable (it could not be kept).
    """
    identities = _identities(raw)
    try:
        return await take_in(ingest, raw, identities)
    except StoreUnavailable:
        if spool is None or not identities:
            raise
        provider = PROVIDERS[raw.provider]
        known = ingest.directory.remembered(raw.provider, identities)
        if not _signed(raw) and not ingest.config.development:
            raise BadSignature("The delivery is not signed.") from None
        await spool.put(raw, verified=len(known) == 1 and provider.verify(raw, known[0].keys))
        return Receipt("spooled", raw.provider, raw.kind, detail="The delivery is kept until the database is back.")


async def take_in(ingest: Ingest, raw: Raw, identities: tuple[str, ...]) -> Receipt:
    """Take one delivery into the database. Raises what `receive` does."""
    tenant = await _claimed(ingest, raw, identities)
    if tenant is None:
        return await _keep_unclaimed(ingest.db.system(), raw, identities)
    try:
        delivery = PROVIDERS[raw.provider].parse(raw)
        return await _record(ingest, tenant, raw, delivery)
    except (InvalidInput, Conflict) as error:
        return await quarantine(ingest, tenant, raw, error.detail)
    except OttoError:
        raise
    except Exception as error:  # the edge of a delivery: its sender does not send it again, so it must be kept
        log.exception("Webhook could not be processed", extra={"provider": raw.provider, "kind": raw.kind})
        return await quarantine(ingest, tenant, raw, f"internal error: {type(error).__name__}")


def _identities(raw: Raw) -> tuple[str, ...]:
    hook = (f"hook:{raw.hook}",) if raw.hook else ()
    try:
        return (*hook, *PROVIDERS[raw.provider].identify(raw))
    except InvalidInput:
        # Its hook path still tells whose it is, so that it can be kept if it is genuine.
        if hook:
            return hook
        raise


def _signed(raw: Raw) -> bool:
    """Whether it carries a signature at all."""
    return bool(raw.headers.get(PROVIDERS[raw.provider].SIGNATURE))


async def _claimed(ingest: Ingest, raw: Raw, identities: tuple[str, ...]) -> Tenant | None:
    """The tenant whose key signed this; None when nobody has added its company. Raises BadSignature, InvalidInput."""
    provider = PROVIDERS[raw.provider]
    for fresh in (False, True):
        found = await ingest.directory.find(raw.provider, identities, fresh=fresh) if identities else ()
        if len(found) == 1 and provider.verify(raw, found[0].keys):
            return found[0]
        if not found:
            break  # that was no remembered answer: asking again would not change it
    demos = [tenant.id == DEMO for tenant in found] if identities else [True]
    if ingest.config.development and not _signed(raw) and demos and all(demos):
        provider.identify(raw)  # what nobody signed and nobody can read is not kept
        return await tenants.by_id(ingest.db.system(), ingest.vault, DEMO, raw.provider)
    if len(found) > 1:
        raise BadSignature("The delivery names more than one company.")
    if found:
        raise BadSignature
    if raw.hook:
        raise BadSignature("No company has this hook path.")
    if identities and not _signed(raw):
        raise BadSignature("The delivery is not signed.")
    if not identities:
        raise InvalidInput(f"{provider.OWNER}: is missing, and so is all else that tells whose delivery this is")
    return None


async def _record(ingest: Ingest, tenant: Tenant, raw: Raw, delivery: Delivery) -> Receipt:
    session = ingest.db.one(tenant.id)
    try:
        recorded, again = await record(session, tenant, raw, delivery), False
    except OutcomeUnknown:
        # Whether that was committed nobody knows. Doing it again does nothing if it was, and says who did it.
        recorded, again = await record(session, tenant, raw, delivery), True
    ingest.bus.publish(recorded.appended)
    ingest.waker.wake(recorded.jobs)
    ours = recorded.fresh or (again and await _claimed_by_us(session, raw, delivery))
    status: Status = "processed" if ours else "duplicate_ignored"
    return Receipt(status, raw.provider, raw.kind, delivery.external_id, tenant.id)


async def _claimed_by_us(session: Session, raw: Raw, delivery: Delivery) -> bool:
    claimed_by = await queries().deliveries.claimed_by(
        session,
        provider=raw.provider,
        kind=raw.kind,
        external_id=delivery.external_id,
        variant=delivery.variant,
    )
    return bool(claimed_by == trace.trace_id())


async def record(
    session: Session, tenant: Tenant, raw: Raw, delivery: Delivery, as_of: datetime | None = None
) -> Recorded:
    """Commit what a delivery says; to tell of it is up to the caller. `as_of`: see calls.record. Raises
    StoreUnavailable, InvalidInput, Conflict.
    """
    return await reports.record(
        session,
        delivery.report,
        tenant.hours,
        raw.received_at,
        as_of,
        variant=delivery.variant,
        **_as_columns(raw),
    )


async def from_spool(ingest: Ingest, raw: Raw) -> None:
    """Take in what waited for the database. Raises StoreUnavailable."""
    fields = {"provider": raw.provider, "kind": raw.kind}
    with trace.span("spooled webhook"), bind(trace_id=trace.trace_id()):
        try:
            receipt = await take_in(ingest, raw, _identities(raw))
            log.info("Spooled webhook taken in", extra={**fields, "status": receipt.status})
        except (BadSignature, InvalidInput, TooLarge, NoRoom) as error:
            log.warning("Spooled webhook rejected", extra={**fields, "detail": error.detail})


async def quarantine(ingest: Ingest, tenant: Tenant, raw: Raw, error: str) -> Receipt:
    """Keep what is genuine but unusable, with the reason, once."""
    digest = hashlib.sha256(raw.body).hexdigest()[:32]
    row = await queries().deliveries.quarantine(
        ingest.db.one(tenant.id), external_id="", variant=digest, error=error, **_as_columns(raw)
    )
    ingest.bus.publish(Appended.of(tenant.id, row))
    status: Status = "quarantined" if row["fresh"] else "duplicate_ignored"
    return Receipt(status, raw.provider, raw.kind, None, tenant.id, error)


async def _keep_unclaimed(system: Session, raw: Raw, identities: tuple[str, ...]) -> Receipt:
    if len(raw.body) > UNCLAIMED_BODY:
        raise TooLarge(f"A delivery of an unknown company may have {UNCLAIMED_BODY // 1024} KiB.")
    columns = _as_columns(raw)
    kept = await queries().deliveries.keep_unclaimed(
        system,
        provider=raw.provider,
        kind=raw.kind,
        identities=list(identities),
        headers=columns["headers"],
        url=raw.url,
        body=raw.body,
        received_at=raw.received_at,
        bound=UNCLAIMED_BOUND,
    )
    if kept is None:
        raise NoRoom("No company has been added for this delivery, and too many such are waiting.")
    return Receipt(
        "unclaimed", raw.provider, raw.kind, detail="Nobody has added this company yet; the delivery is kept."
    )


async def replay_unclaimed(ingest: Ingest, tenant_id: str) -> dict[str, int]:
    """Receive what came for a tenant before it was added, oldest first; returns how many ended how. One that none of
    the tenant's keys signed stays: the key may be missing yet, or mistyped, and CallRail does not send again.
    """
    tally: dict[str, int] = {}
    system = ingest.db.system()
    for row in [row async for row in queries().deliveries.unclaimed_of(system, tenant=tenant_id)]:
        try:
            raw = as_raw(row)
            status: str = (await take_in(ingest, raw, _identities(raw))).status
        except (BadSignature, InvalidInput) as error:
            status = error.type
        if status not in {"unclaimed", BadSignature.type}:
            await queries().deliveries.release_unclaimed(system, id=row["id"])
        tally[status] = tally.get(status, 0) + 1
    return tally


def _as_columns(raw: Raw) -> dict[str, object]:
    return {
        "provider": raw.provider,
        "kind": raw.kind,
        "headers": msgspec.json.encode(raw.headers).decode(),
        "body": raw.body,
        "trace_id": trace.trace_id(),
        "trace_context": trace.traceparent(),
    }


def as_raw(row: Row) -> Raw:
    """A delivery as it was kept."""
    return Raw(
        provider=row["provider"],
        kind=row["kind"],
        hook="",
        headers=row["headers"],
        url=row.get("url") or "",  # which is kept only as long as the signature is to be checked
        body=bytes(row["body"]),
        received_at=row["received_at"],
    )
