"""What users change: the row as its change left it, and what the log was told. Each change is one statement."""

from typing import Any

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain.events import Appended
from ottoai.errors import NotFound, PreconditionFailed

# The versions, one of which the row must have; None: whichever it has.
Versions = tuple[str, ...] | None


class Changed(msgspec.Struct, frozen=True):
    """A row as it is now. `shape` is the JSON that clients see; nothing was `appended` if it was so before."""

    shape: str
    version: int
    appended: Appended

    @classmethod
    def of(cls, tenant_id: str, row: Row | None) -> "Changed":
        """From what a statement that changes returns. Raises NotFound, PreconditionFailed."""
        if row is None:
            raise NotFound("There is nothing here by that id.")
        if not row["matches"]:
            raise PreconditionFailed(version=row["version"])
        return cls(row["shape"], row["version"], Appended.of(tenant_id, row))


def arguments(patch: msgspec.Struct, versions: Versions, **others: Any) -> dict[str, Any]:
    """What every statement that changes is given: of `patch` the fields that are set."""
    known = None if versions is None else list(versions)
    return {"patch": msgspec.json.encode(patch).decode(), "versions": known, **others}


async def change_lead(
    tx: Session, tenant_id: str, lead_id: str, patch: msgspec.Struct, versions: Versions, *, user_id: str, trace_id: str
) -> Changed:
    """Change a lead's name, as `user_id`. Raises NotFound, PreconditionFailed."""
    given = arguments(patch, versions, id=lead_id, user_id=user_id, trace_id=trace_id)
    return Changed.of(tenant_id, await queries().leads.change_lead(tx, **given))


async def change_settings(tx: Session, tenant_id: str, patch: msgspec.Struct, versions: Versions) -> Changed:
    """Change a tenant's settings; the log tells nothing of it. Raises NotFound, PreconditionFailed."""
    return Changed.of(tenant_id, await queries().settings.change_settings(tx, **arguments(patch, versions)))
