"""What is true: each tenant's log as it stands in the database, epoch by epoch, and what was put into it."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg2

STATEMENT_WITHIN = 10_000  # ms; the database is stopped for a second now and then

ROWS = """
select seq, event, coalesce(data ->> 'n', ''), coalesce(data ->> 'external_id', ''), lead_id::text, user_id
from events where tenant_id = %s and seq > %s order by seq
"""


class Row(NamedTuple):
    """An event of the log, as far as it is compared."""

    identity: str
    lead: str | None
    user: str | None


def identity_of(event: str, n: str, external_id: str) -> str:
    """What tells an event from all others of its tenant, wherever it is met."""
    return f"{event}:{n or external_id}"


@dataclass
class Log:
    """A tenant's log. `seen` holds what any client was sent in the present epoch: all must have been sent the same."""

    tenant: str
    epoch: int = 0
    head: int = 0
    deleted_to: int = 0  # numbers that the log no longer has
    epochs: dict[int, dict[int, Row]] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)  # of each identity, over all epochs
    seen: dict[int, str] = field(default_factory=dict)
    changed_at: float = 0.0  # when the epoch did
    changing: bool = False
    leads: list[str] = field(default_factory=list)
    # Identity -> the number that the writer was told (0: none), for what was accepted; and what is not known.
    accepted: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    written: int = 0  # writers at work
    frozen: bool = False

    @asynccontextmanager
    async def writing(self):
        while self.frozen:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.written += 1
        try:
            yield
        finally:
            self.written -= 1

    @asynccontextmanager
    async def freezing(self, within: float = 15.0):
        """Nobody writes inside the block, but for those whose answer did not come."""
        self.frozen = True
        try:
            async with asyncio.timeout(within):
                while self.written:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield
        finally:
            self.frozen = False

    def rows(self, epoch: int, after: int, until: int, wanted) -> set[int]:
        """The numbers in after < seq <= until of the rows that are wanted."""
        rows = self.epochs.get(epoch, {})
        return {seq for seq in range(after + 1, until + 1) if seq in rows and wanted(rows[seq])}

    def harvest(self, cursor) -> None:
        """Read what was added. Raises AssertionError when the log itself has a gap."""
        cursor.execute("select epoch, seq from heads where tenant_id = %s for update", (self.tenant,))
        ((self.epoch, head),) = cursor.fetchall()
        known = self.epochs.setdefault(self.epoch, {})
        after = self.head
        cursor.execute(ROWS, (self.tenant, after))
        for seq, event, n, external_id, lead, user in cursor.fetchall():
            assert seq == after + 1, f"the log of {self.tenant} goes from {after} to {seq}"
            after = seq
            identity = identity_of(event, n, external_id)
            known[seq] = Row(identity, lead, user)
            if n or external_id:
                self.places.setdefault(identity, []).append(seq)
        assert after == head, f"the head of {self.tenant} is {head}, its last row {after}"
        self.head = head

    def check_written(self) -> Iterator[str]:
        """What is wrong with what was written: each accepted once, where the answer said; others at most once."""
        for identity, seq in self.accepted.items():
            places = self.places.get(identity, [])
            if len(places) != 1 or seq not in {0, places[0]}:
                yield f"{self.tenant}: {identity} was accepted as {seq or 'something'} and is at {places}"
        for identity in self.unknown:
            if len(self.places.get(identity, [])) > 1:
                yield f"{self.tenant}: {identity} was sent once and is at {self.places[identity]}"

    def check_seen(self) -> Iterator[str]:
        """What was sent and is not what the log has."""
        known = self.epochs[self.epoch]
        for seq, identity in self.seen.items():
            if seq in known and known[seq].identity != identity:
                yield f"{self.tenant}: {self.epoch}.{seq} was sent as {identity} and is {known[seq].identity}"


class Logs:
    """The logs of all tenants."""

    def __init__(self, url: str, tenants: list[str]) -> None:
        self.url = url
        self.of = {tenant: Log(tenant) for tenant in tenants}

    @property
    def events(self) -> int:
        return sum(len(rows) for log in self.of.values() for rows in log.epochs.values())

    def outcomes(self) -> Counter[str]:
        return Counter(
            accepted=sum(len(log.accepted) for log in self.of.values()),
            unknown=sum(len(log.unknown) for log in self.of.values()),
        )

    @contextmanager
    def _transaction(self):
        options = f"-c role=ottoai_system -c statement_timeout={STATEMENT_WITHIN}"
        with (
            closing(psycopg2.connect(self.url, options=options)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def read(self) -> None:
        """Learn what was added to all of them."""
        with self._transaction() as cursor:
            for log in self.of.values():
                log.harvest(cursor)

    def change(self, log: Log, back: int) -> None:
        """A new epoch; the log's last events are gone, as after a restored backup."""
        with self._transaction() as cursor:
            log.harvest(cursor)
            to = log.head - back
            cursor.execute("delete from events where tenant_id = %s and seq > %s", (log.tenant, to))
            cursor.execute("update heads set epoch = epoch + 1, seq = %s where tenant_id = %s", (to, log.tenant))
        log.epoch, log.head, log.seen = log.epoch + 1, to, {}
        log.epochs[log.epoch] = {}
        log.deleted_to = min(log.deleted_to, to)

    def delete(self, log: Log, kept: int) -> None:
        """The oldest events are gone, as when their time is over; so many of the latest stay."""
        with self._transaction() as cursor:
            log.harvest(cursor)
            # Said before it is so: who asks in between is told either.
            log.deleted_to = max(log.deleted_to, log.head - kept)
            cursor.execute("delete from events where tenant_id = %s and seq <= %s", (log.tenant, log.deleted_to))
