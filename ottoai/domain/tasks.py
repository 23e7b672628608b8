"""Tasks of a tenant's staff, and what completing one brings about."""

import msgspec

from ottoai.db import Session, queries
from ottoai.domain.changes import Changed, Versions, arguments


async def change(
    tx: Session, tenant_id: str, task_id: str, patch: msgspec.Struct, versions: Versions, *, user_id: str, trace_id: str
) -> Changed:
    """Assign, complete or reopen a task, as `user_id`; who was called back is no longer chased. Raises NotFound,
    PreconditionFailed.
    """
    given = arguments(patch, versions, id=task_id, user_id=user_id, trace_id=trace_id)
    return Changed.of(tenant_id, await queries().tasks.change_task(tx, **given))
