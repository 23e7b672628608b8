"""The log: what an event is, which channels it goes to, and how the log is read. Appending is done in SQL, by
`append_events`, in the transaction of the fact itself.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from ottoai.db import Row, Session, queries

Severity = Literal["info", "warning", "critical"]
Json = msgspec.Raw

LATEST = 2**63 - 1


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about a tenant: a row of its log, or, without a `seq`, a transient one that is not kept."""

    tenant_id: str
    seq: int | None
    event: str
    ts: datetime
    severity: Severity
    trace_id: str
    lead_id: str | None = None
    user_id: str | None = None
    data: Json

    @property
    def channels(self) -> tuple[str, ...]:
        """Where it is heard: always on the tenant's channel, and on the lead's and user's it is about."""
        lead = (lead_channel(self.lead_id),) if self.lead_id else ()
        user = (user_channel(self.user_id),) if self.user_id else ()
        return (tenant_channel(self.tenant_id), *lead, *user)


class Appended(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one commit added to a tenant's log. `traceparent`: where it was published, if that is recorded."""

    tenant_id: str
    epoch: int
    events: tuple[Event, ...]
    traceparent: str = ""

    @classmethod
    def of(cls, tenant_id: str, row: Row) -> "Appended":
        """From the `epoch` and `events` columns of a statement that appended."""
        return cls(tenant_id, row["epoch"] or 0, _decode(row["events"]))


class Head(msgspec.Struct, frozen=True):
    """Where a tenant's log stands: it holds `oldest`…`seq` of `epoch` (oldest = seq + 1: nothing)."""

    epoch: int
    seq: int
    oldest: int


_decoder = msgspec.json.Decoder(tuple[Event, ...])


def _decode(text: str) -> tuple[Event, ...]:
    return _decoder.decode(text)


def tenant_channel(tenant_id: str) -> str:
    """Everything that happens at a tenant."""
    return f"tenant:{tenant_id}:events"


def lead_channel(lead_id: str) -> str:
    """What happens to one lead."""
    return f"lead:{lead_id}:timeline"


def user_channel(user_id: str) -> str:
    """What concerns one user."""
    return f"user:{user_id}:tasks"


_SHAPES = {("tenant", "events"), ("lead", "timeline"), ("user", "tasks")}

Channel = Annotated[tuple[str, str], "(kind, id), kind being tenant, lead or user"]


def parse_channel(name: str) -> Channel | None:
    """Kind and id of a channel name; None when no channel is named like that."""
    kind, _, rest = name.partition(":")
    subject, _, suffix = rest.rpartition(":")
    return (kind, subject) if subject and (kind, suffix) in _SHAPES else None


async def append(tx: Session, trace_id: str, drafts: Sequence[Row]) -> Appended:
    """Append `drafts` ({event, severity?, lead_id?, user_id?, data}). Raises NotFound when there is no such tenant."""
    drafts_json = msgspec.json.encode(drafts).decode()
    row = await queries().events.append(tx, trace_id=trace_id, drafts=drafts_json)
    return Appended.of(row["tenant_id"], row)


class Page(NamedTuple):
    """A stretch of the log, and the epoch and oldest number that the log had when it was read (0, 1: there is none)."""

    events: tuple[Event, ...]
    epoch: int
    oldest: int


async def since(
    tx: Session, after: int, until: int = LATEST, *, channel: Channel | None = None, limit: int = 500
) -> Page:
    """At most `limit` events with after < seq <= until, in order; only a lead's or user's if `channel` names one."""
    row = await queries().events.since(tx, after=after, until=until, limit=limit, **_about(channel))
    return Page(_decode(row["events"]), row["epoch"], row["oldest"]) if row else Page((), 0, 1)


async def count(tx: Session, after: int, until: int, channel: Channel | None) -> int:
    """How many events of a channel have after < seq <= until."""
    if channel is None or channel[0] == "tenant":
        return until - after  # the log has no gaps
    counted: int = await queries().events.count_since(tx, after=after, until=until, **_about(channel))
    return counted


def _about(channel: Channel | None) -> dict[str, str | None]:
    kind, subject = channel or ("tenant", "")
    return {"lead": subject if kind == "lead" else None, "user": subject if kind == "user" else None}


async def head(tx: Session) -> Head | None:
    """Where the tenant's log stands; None when there is no such tenant."""
    row = await queries().events.head(tx)
    return Head(**row) if row else None


async def heads(system: Session, tenants: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(epoch, seq) of each of these tenants."""
    return {
        row["tenant_id"]: (row["epoch"], row["seq"])
        async for row in queries().events.heads(system, tenants=list(tenants))
    }
