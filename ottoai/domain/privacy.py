"""What is kept of a tenant, or of one phone of a tenant: to give it out, or to erase it.

Goes through every table that has tenants' rows, whichever those are, a stretch of blocks at a time: a table that is
added later is covered without a word here, and no statement takes long. All of it runs as `ottoai_privacy`.
"""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec
import phonenumbers

from ottoai.db import Session, queries
from ottoai.domain.hours import e164
from ottoai.errors import InvalidInput

BLOCKS: Final = 64  # read at once: half a megabyte, some ten milliseconds
EVENTS: Final = 500  # of the log in one statement, which holds back the tenant's commits for its time
MIN_DIGITS: Final = 7  # fewer would be found in numbers that are no phones

# What a phone's erasure leaves in place. The company's own rows are not about its callers. Idempotency keys hold ids
# and digests, by which a delivery that comes again is still known; opt-outs are digests, and go on counting.
KEPT: Final = frozenset({
    "credentials", "heads", "idempotency_keys", "opt_outs", "revocations", "tenant_routes", "tenants"
})  # fmt: skip
# What is made unrecognisable instead of being deleted: the log stays without a gap, and calls were made.
IN_PLACE: Final = frozenset({"calls", "events"})
# Gone with the tenant itself, in the last statement: until then no new row can come without them.
LAST: Final = frozenset({"heads", "revocations", "tenants"})
# Secrets are the service's to keep, not a person's data: an export names them and does not tell them.
SECRETS: Final = {"credentials": ("current", "previous"), "tenant_routes": ("value",)}


class Person(NamedTuple):
    """One phone: in E.164, its digits without the country's, and the ids of all that hangs on it."""

    phone: str
    digits: str
    ids: list[str]


class Erased(NamedTuple):
    """What one step did to how many rows of a table."""

    table: str
    rows: int


async def person(tx: Session, phone: str) -> Person:
    """Who a phone is at the tenant. Raises InvalidInput for what is no phone, or is the tenant's own."""
    number = e164(phone)
    if number is None:
        raise InvalidInput(f"phone: {phone!r} is no phone number such as +12125550123")
    digits = phonenumbers.national_significant_number(phonenumbers.parse(number))
    if len(digits) < MIN_DIGITS:
        raise InvalidInput("phone: has too few digits to be told from other numbers")
    if await queries().privacy.own_number(tx, phone=number):
        raise InvalidInput(f"phone: {number} is one of the tenant's own numbers")
    return Person(number, digits, await queries().privacy.ids_about(tx, phone=number))


async def exists(tx: Session) -> bool:
    """Whether there is such a tenant."""
    return bool(await queries().privacy.tenant_exists(tx))


async def export(tx: Session, about: Person | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(table, row) of all that is kept of the tenant, or of one phone."""
    async for table, first in _stretches(tx):
        if about and table in KEPT - {"idempotency_keys"}:
            continue
        async for row in queries().privacy.rows(tx, tab=table, first=first, count=BLOCKS, **_of(about)):
            yield table, _told(table, msgspec.json.decode(row["content"]))


async def erase_phone(tx: Session, about: Person) -> AsyncIterator[Erased]:
    """Erase one phone: each step commits by itself, and what was begun is ended by doing it again. The lead goes last,
    since by it the rest is found.
    """
    head: int = (await queries().events.head(tx) or {"seq": 0})["seq"]
    for after in range(0, head, EVENTS):
        until = min(after + EVENTS, head)
        changed = await queries().privacy.erase_events(tx, after=after, until=until, digits=about.digits, ids=about.ids)
        yield Erased("events", changed)
    async for table, first in _stretches(tx):
        if table not in KEPT | IN_PLACE | {"leads"}:
            yield Erased(table, await _erase(tx, table, first, about))
    yield Erased("calls", await queries().privacy.erase_calls(tx, phone=about.phone))
    async for table, first in _stretches(tx):
        if table == "leads":
            yield Erased(table, await _erase(tx, table, first, about))
    await queries().privacy.new_epoch(tx)  # what was cached of the tenant is not found any more


async def mentioned(tx: Session, about: Person) -> dict[str, int]:
    """The tables that still hold the phone's digits, and in how many rows: none, after it was erased."""
    found: dict[str, int] = {}
    bare = Person(about.phone, about.digits, [])
    async for table, first in _stretches(tx):
        async for _ in queries().privacy.rows(tx, tab=table, first=first, count=BLOCKS, **_of(bare)):
            found[table] = found.get(table, 0) + 1
    return found


async def erase_tenant(tx: Session) -> AsyncIterator[Erased]:
    """Erase a tenant, from the rows that refer to others to those that are referred to, and the tenant at last."""
    async for table, first in _stretches(tx):
        if table not in LAST:
            yield Erased(table, await _erase(tx, table, first, None))
    existed = await exists(tx)
    await queries().privacy.erase_tenant(tx)
    yield Erased("tenants", int(existed))


async def _erase(tx: Session, table: str, first: int, about: Person | None) -> int:
    gone: int = await queries().privacy.erase_rows(tx, tab=table, first=first, count=BLOCKS, **_of(about))
    return gone


async def _stretches(tx: Session) -> AsyncIterator[tuple[str, int]]:
    """(table, first block) of every stretch of every table."""
    for row in [row async for row in queries().privacy.tables(tx)]:
        for first in range(0, row["blocks"] + 1, BLOCKS):  # one more: it may have grown since
            yield row["name"], first


def _of(about: Person | None) -> dict[str, Any]:
    return {"digits": about.digits if about else None, "ids": about.ids if about else []}


def _told(table: str, row: dict[str, Any]) -> dict[str, Any]:
    hidden = SECRETS.get(table, ())
    if table == "tenant_routes" and row["kind"] != "hook":
        hidden = ()
    return {name: "[secret]" if name in hidden and value else value for name, value in row.items()}
