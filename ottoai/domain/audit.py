"""What operators did. Targets and outcomes hold ids and our own words: nothing of a tenant's is kept here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import msgspec

from ottoai.db import Session, queries
from ottoai.errors import OttoError, StoreUnavailable

MOST = 200  # characters of a target; ids and names are shorter


class Entry(msgspec.Struct, frozen=True):
    """One thing that was done. `outcome`: empty while it is being done, or if its process died over it."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str
    outcome: str


class Act(msgspec.Struct):
    """What is being done. `outcome`: what came of it, in a few words of our own."""

    outcome: str = "done"


@asynccontextmanager
async def act(system: Session, actor: str, action: str, target: str) -> AsyncIterator[Act]:
    """Write down what is done before it is done, and after it what came of it. Raises StoreUnavailable instead of
    doing what cannot be written down.
    """
    entry, doing = await note(system, actor, action, target), Act()
    try:
        yield doing
    except BaseException as error:
        doing.outcome = failed(error)
        raise
    finally:
        with suppress(StoreUnavailable):  # that it was begun stays
            await settle(system, entry, doing.outcome)


def failed(error: BaseException) -> str:
    """The outcome of what raised this. An error's details are left out: they may quote what it was about."""
    return f"failed: {error.title.lower() if isinstance(error, OttoError) else type(error).__name__}"


async def note(system: Session, actor: str, action: str, target: str, outcome: str = "") -> int:
    """Write down what is being done, or was; the entry's id."""
    found = await queries().operations.audit_note(
        system, actor=actor, action=action, target=target[:MOST], outcome=outcome
    )
    return int(found)


async def settle(system: Session, entry: int, outcome: str) -> None:
    """Write down what came of it."""
    await queries().operations.audit_settle(system, id=entry, outcome=outcome)


async def is_alert(system: Session, alert_id: int) -> bool:
    """Whether a target is an alert, open or over."""
    return bool(await queries().operations.alert_known(system, id=alert_id))


async def recent(system: Session, limit: int, before: int | None = None) -> list[Entry]:
    """The latest entries, or those before one."""
    rows = queries().operations.audit_entries(system, before=before, limit=limit)
    return [Entry(**row) async for row in rows]


async def find(system: Session, entry: int) -> Entry | None:
    """One entry."""
    row = await queries().operations.audit_entry(system, id=entry)
    return Entry(**row) if row else None
