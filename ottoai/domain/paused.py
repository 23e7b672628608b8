"""Queues that an operator stopped: nothing of theirs is begun until they are let go on; what runs then goes on.

They are kept in PostgreSQL, so an emptied Redis lets none of them go on.
"""

from datetime import datetime

import msgspec

from ottoai.db import Session, queries


class Paused(msgspec.Struct, frozen=True):
    """A queue that is stopped."""

    queue: str
    paused_by: str
    paused_at: datetime


async def paused(system: Session) -> list[Paused]:
    """Those that are stopped now."""
    return [Paused(**row) async for row in queries().operations.queues_paused(system)]


async def pause(system: Session, queue: str, actor: str) -> bool:
    """Stop a queue; False when it was stopped already."""
    return bool(await queries().operations.pause_queue(system, queue=queue, paused_by=actor))


async def resume(system: Session, queue: str) -> bool:
    """Let a queue go on; False when it was not stopped."""
    return bool(await queries().operations.resume_queue(system, queue=queue))
