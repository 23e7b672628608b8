"""How everything stands at one moment: what /ops, /ops.txt and /ops.json tell. Gathered by `snapshot`.

A part that is null could not be read, because its store does not answer; nothing here stands for "unknown" otherwise.
`silent`, asked for every five minutes, is null until it is known.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from ottoai.domain.audit import Entry
from ottoai.domain.failed_jobs import Failed
from ottoai.domain.paused import Paused
from ottoai.domain.periodic import Run
from ottoai.indicators import VERDICTS, Verdict
from ottoai.ops.alerts import Alert
from ottoai.ops.reading import Reading
from ottoai.ops.silent import Silent
from ottoai.ops.sparks import Spark
from ottoai.tally import Client
from ottoai.webhooks.quarantine import Quarantined

STALE: Final = timedelta(seconds=30)  # a look that is older says nothing of now


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was heard in the last quarter of an hour. `alive`: lately, and it did not say goodbye.
    `connections`: live ones of an api process.
    """

    kind: str
    name: str
    host: str
    version: str
    state: str
    alive: bool
    started_at: datetime
    heard_at: datetime
    queues: list[str]
    current_job: str | None
    memory_bytes: float | None
    connections: int | None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue. `length`, `oldest_seconds`: of what waits in Redis (null: it does not answer). The rest is counted in
    PostgreSQL (likewise): open jobs; those running, failing (tried again), overdue (nobody has them), dead.
    """

    name: str
    length: int | None
    oldest_seconds: float | None
    open: int | None
    running: int | None
    failing: int | None
    overdue: int | None
    dead: int | None
    paused: Paused | None


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that failed: how many are dead, how many are tried again, the latest (dead ones first), and the end of the
    first one's traceback.
    """

    dead: int
    failing: int
    latest: list[Failed]
    traceback_end: str | None


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that could not be used and are still kept: how many (1000 stands for more), and the oldest."""

    count: int
    oldest: list[Quarantined]


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """Live connections of an api process: how many, those that are most behind, the newest."""

    process: str
    open: int
    slowest: list[Client]
    newest: list[Client]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. `verdict`: the worst of the indicators'; `words`: it in words. `notices`: what could not be seen.
    `looked_at`: when the indicators were. `ready`: the components of /ready. `csrf`: for operators, what their POSTs
    must carry.
    """

    at: datetime
    environment: str
    version: str
    verdict: Verdict
    words: str
    notices: list[str]
    redis: bool
    database: bool
    looked_at: datetime
    ready: dict[str, bool]
    alerts: list[Alert]
    indicators: list[Reading]
    sparks: dict[str, Spark]
    processes: list[Process]
    schedule: list[Run] | None
    queues: list[Queue]
    jobs: Jobs | None
    quarantine: Quarantine | None
    connections: list[Connections]
    silent: list[Silent] | None
    history: list[Alert] | None
    audit: list[Entry] | None
    csrf: str | None = None

    @property
    def versions(self) -> dict[str, list[str]]:
        """The processes that live, by their version."""
        found: dict[str, list[str]] = {}
        for process in self.processes:
            if process.alive:
                found.setdefault(process.version, []).append(process.name)
        return found

    @property
    def ailing(self) -> list[Reading]:
        """What is not well, the worst first; of the same verdict, the latest first."""
        found = [each for each in self.indicators if each.verdict not in {"ok", "none"}]
        return sorted(found, key=lambda each: (-VERDICTS.index(each.verdict), -each.since.timestamp()))


def words(readings: Sequence[Reading], looked_at: datetime, now: datetime, *, alone: bool) -> str:
    """The whole in a few words: what is wrong, or why that cannot be told, or that nothing is."""
    if now - looked_at > STALE:
        return f"Not known: nothing was looked at since {looked_at:%H:%M:%S}"
    counted = Counter(each.verdict for each in readings)
    if wrong := [f"{counted[level]} {level}" for level in ("critical", "warning", "info") if counted[level]]:
        return ", ".join(wrong)
    if alone:
        return "Not known: only this process is seen"
    return "All well" if counted["ok"] else "Not known: no data yet"
