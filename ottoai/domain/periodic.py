"""How each periodic job's last run went, for operators."""

from datetime import datetime
from typing import Literal

import msgspec

from ottoai.db import Session, queries


class Run(msgspec.Struct, frozen=True):
    """One run. `error`, `traceback`: see outbox.Failure."""

    name: str
    started_at: datetime
    seconds: float
    outcome: Literal["success", "failure"]
    error: str | None = None
    traceback: str | None = None
    trace_id: str = ""


async def note(system: Session, run: Run) -> None:
    """Keep this run, unless a later one is known."""
    await queries().operations.note_periodic_run(system, **msgspec.structs.asdict(run))


async def last(system: Session) -> list[Run]:
    """The last run of each periodic job, those that failed first."""
    return [Run(**row) async for row in queries().operations.periodic_runs(system)]
